"""Every encoding gives the same picture; what is no picture, or no grey one, gives a refusal that names its reason."""

import base64
import re
import struct
import subprocess
import threading
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medd.errors import InputError, MeddError, NotAssessable, TransientError
from medd.imaging import pixels
from medd.imaging.pixels import load
from medd.records import MediaType, Reason
from medd.testing.lossless import encode_lossless

REAL_FILM = Path(__file__).parents[3] / "../shared/data/dicom/cxr_pa_jpeg_baseline.dcm"

#: x * 500 + y * 400, 64 × 64 of 16 bits: reversible HTJ2K, progression RPCL. No encoder comes with pydicom.
HTJ2K_FILM = (
    r"|4;u>04YEK0000$0000$00000000000000$0000$0000000000009pH0sl|{2mk^A000XAQUDA90ssL31q1{@0smY86Cj9?kdTm&"
    r"kdTm&kdTmwh=~7W02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00001U;qLClfVEg0RMk$8zXU&zyU#&0Kfnh5C8>0YzN!%1cGz`"
    r"BDqNZ0RvP3zyKAH00m&OLw3jx+3~7$0(Ah6+>ssGk-&3-?6v^F02ZVG0cwEI0Ugi*9nb+C&;cFi%6fWpf_MNx4rCw$8OT5eGLZe4"
    r"z<c&%0qnW}zyKFV003P$$Up`%kbw+jAOji5Kn609fed6I0~z`M3VM2adU|?u0(}4mH`ri<4K~<dgAF#=V1o@d*kFVIcwtHhzhx*M"
    r"{gj}4_ELfDvjM;WF6saQdN}6In>TOXym|BH&6_uG-n@D9=FOWoZ{ECl^XAQ)H*em&dGr3i{0e${dU|?#dU|?#dU|?#asqY%9((lY"
    r"(W6I?9zA;W=+UD`j~+dG^ytx}M~@yodi3bgqeqV(|9{&72nWApARhgYfP3~r0q@xe2ft(>9{rGjd-g&B?6U&@*#"
)


@pytest.fixture(autouse=True)
def _nothing_on_stderr_and_nothing_logged(capfd, caplog):
    yield
    assert capfd.readouterr().err == ""
    assert not caplog.records


def film(dtype=np.uint16, bits: int = 12, rows: int = 80, columns: int = 96) -> np.ndarray:
    """A smooth picture over the whole range of `bits`, with its orientation to be seen: no symmetry."""
    y, x = np.mgrid[:rows, :columns] / max(rows, columns)
    picture = 0.5 + 0.25 * np.sin(7 * x + 1) + 0.25 * np.cos(5 * y * (1 + x))
    return (picture * ((1 << bits) - 1)).clip(0, (1 << bits) - 1).astype(dtype)


def grey8() -> np.ndarray:
    return film(np.uint8, 8)


def encode(extension: str, picture: np.ndarray, *options: int) -> bytes:
    done, data = cv2.imencode(extension, picture, options)
    assert done
    return data.tobytes()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def refused(path: Path, media_type: MediaType | None = None) -> Reason:
    """Load, which must fail with one line that names the file; return the reason."""
    with pytest.raises(InputError) as caught:
        load(path, media_type)
    assert re.fullmatch(rf"{re.escape(path.name)}: [^\n]+ Received: [^\n]+", str(caught.value))
    assert type(caught.value) is (InputError if caught.value.reason == Reason.UNREADABLE else NotAssessable)
    return Reason(caught.value.reason)


def write_jpeg_dicom(write_film, data: bytes, picture: np.ndarray, syntax: str, **attributes) -> Path:
    """A DICOM object around a compressed frame."""
    path = write_film(picture, **attributes)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([data])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    return path


# -- transfer syntaxes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
    ids=lambda uid: uid.name,
)
@pytest.mark.parametrize(
    ("stored", "bits"),
    [
        (film(np.uint8, 8), 8),
        (film(np.uint16, 12), 12),
        (film(np.uint16, 16), 16),
        ((film(np.int32, 12) - 2048).astype(np.int16), 12),
        ((film(np.int32, 16) - 32768).astype(np.int16), 16),
    ],
    ids=["8", "12", "16", "12 signed", "16 signed"],
)
def test_lossless_syntaxes_give_the_same_picture(write_film, syntax, stored, bits):
    native = syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
    path = write_film(stored, syntax if native else ExplicitVRLittleEndian, BitsStored=bits)
    if syntax.is_compressed and not native:
        dataset = pydicom.dcmread(path)
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    low, high = float(stored.min()), float(stored.max())
    assert_allclose(load(path), (stored - low) / (high - low), atol=1e-6)


@pytest.mark.parametrize("syntax", [JPEGLSNearLossless, pydicom.uid.JPEG2000], ids=lambda uid: uid.name)
def test_lossy_syntaxes_come_close(write_film, syntax):
    stored = film()
    path = write_film(stored, BitsStored=12, WindowCenter=2048, WindowWidth=4096)
    dataset = pydicom.dcmread(path)
    options = {"jls_error": 3} if syntax == JPEGLSNearLossless else {"j2k_cr": [4]}
    dataset.compress(syntax, generate_instance_uid=False, **options)
    dataset.save_as(path)
    assert_allclose(load(path), stored / 4095, atol=5 / 4095)


def test_jpeg_baseline_is_the_same_in_a_dicom_object_and_in_a_file(write_film, tmp_path):
    data = encode(".jpg", grey8(), cv2.IMWRITE_JPEG_QUALITY, 95)
    wrapped = write_jpeg_dicom(
        write_film, data, grey8(), JPEGBaseline8Bit, WindowCenter=128, WindowWidth=256, VOILUTFunction="LINEAR"
    )
    from_dicom, from_file = load(wrapped), load(write(tmp_path / "film.jpg", data))
    assert_allclose(from_dicom, from_file, atol=1e-6)
    assert_allclose(from_file, grey8() / 255, atol=6 / 255)


def test_jpeg_baseline_differs_from_pydicoms_decoder_by_one_grey_value_at_most(write_film):
    data = encode(".jpg", grey8(), cv2.IMWRITE_JPEG_QUALITY, 90)
    path = write_jpeg_dicom(write_film, data, grey8(), JPEGBaseline8Bit, WindowCenter=128, WindowWidth=256)
    theirs = pydicom.pixels.pixel_array(path, decoding_plugin="pylibjpeg")
    assert np.abs(load(path) * 255 - theirs).max() <= 1.01


def test_8_bit_jpeg_in_16_bit_cells(write_film):
    data = encode(".jpg", grey8(), cv2.IMWRITE_JPEG_QUALITY, 95)
    path = write_jpeg_dicom(write_film, data, film(np.uint16, 8), JPEGBaseline8Bit, BitsStored=8)
    shown = load(path)
    assert shown.min() == 0.0
    assert shown.max() == 1.0


@pytest.mark.peers
@pytest.mark.parametrize(
    ("options", "syntax"),
    [
        (["+el"], JPEGLossless),
        (["+el", "+sv", "6"], JPEGLossless),
        (["+e1"], JPEGLosslessSV1),
        (["+ee", "+q", "99"], JPEGExtended12Bit),
    ],
    ids=["lossless", "lossless predictor 6", "lossless SV1", "extended 12 bit"],
)
def test_jpeg_processes_that_dcmtk_encodes(write_film, tmp_path, dcmtk, options, syntax):
    stored = film()
    path = write_film(stored, BitsStored=12, WindowCenter=2048, WindowWidth=4096)
    packed = tmp_path / "packed.dcm"
    subprocess.run([dcmtk("dcmcjpeg"), *options, path, packed], check=True, capture_output=True)
    assert pydicom.dcmread(packed).file_meta.TransferSyntaxUID == syntax
    tolerance = 12 / 4095 if syntax == JPEGExtended12Bit else 1e-6
    assert_allclose(load(packed), load(path), atol=tolerance)


@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2KLosslessRPCL, pydicom.uid.HTJ2K], ids=lambda uid: uid.name)
def test_htj2k(write_film, syntax):
    y, x = np.mgrid[:64, :64]
    stored = (x * 500 + y * 400).astype(np.uint16)
    path = write_jpeg_dicom(write_film, base64.b85decode(HTJ2K_FILM), stored, syntax)
    assert_allclose(load(path), stored / stored.max(), atol=1e-6)


def test_a_frame_in_several_fragments(write_film):
    path = write_film(film(), BitsStored=12)
    dataset = pydicom.dcmread(path)
    expected = load(path)
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame], fragments_per_frame=4)
    dataset.save_as(path)
    assert_array_equal(load(path), expected)


def test_a_dataset_without_preamble_and_meta_group(write_film, tmp_path):
    path = write_film(film(), ImplicitVRLittleEndian, BitsStored=12)
    data = path.read_bytes()
    bare = data[144 + struct.unpack_from("<I", data, 140)[0] :]
    assert_array_equal(load(write(tmp_path / "bare", bare)), load(path))


def test_a_dicom_preamble_may_look_like_a_tiff(write_film):
    path = write_film(film(), BitsStored=12)
    expected = load(path)
    path.write_bytes(b"II*\0" + path.read_bytes()[4:])
    assert_array_equal(load(path), expected)


def test_a_few_bytes_of_padding_behind_the_pixels_are_borne(write_film):
    path = write_film(film(), BitsStored=12)
    expected = load(path)
    dataset = pydicom.dcmread(path)
    dataset.PixelData += b"\0" * 32
    dataset.save_as(path)
    assert_array_equal(load(path), expected)


@pytest.mark.data
@pytest.mark.skipif(not REAL_FILM.exists(), reason="the development data set is not here")
def test_a_real_film():
    image = load(REAL_FILM)
    dataset = pydicom.dcmread(REAL_FILM, stop_before_pixels=True)
    assert image.shape == (dataset.Rows, dataset.Columns)
    assert 0.2 < image.mean() < 0.8
    assert image.min() >= 0.0
    assert image.max() <= 1.0


# -- JPEG, PNG, TIFF -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extension", "picture"),
    [
        (".png", film(np.uint8, 8)),
        (".png", film(np.uint16, 16)),
        (".tiff", film(np.uint8, 8)),
        (".tiff", film(np.uint16, 16)),
    ],
    ids=["png 8", "png 16", "tiff 8", "tiff 16"],
)
def test_png_and_tiff_keep_their_depth(tmp_path, extension, picture):
    path = write(tmp_path / "film", encode(extension, picture))
    expected = picture / np.iinfo(picture.dtype).max
    assert_allclose(load(path), expected, atol=1e-7)
    assert len(np.unique(load(path))) == len(np.unique(picture))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_stored_as_colour_is_grey_and_transparency_is_ignored(tmp_path, dtype):
    grey = film(dtype, 8 * np.dtype(dtype).itemsize)
    expected = load(write(tmp_path / "grey.png", encode(".png", grey)))
    as_rgb = np.dstack([grey] * 3)
    as_rgba = np.dstack([grey, grey, grey, grey // 2])
    assert_array_equal(load(write(tmp_path / "rgb.png", encode(".png", as_rgb))), expected)
    assert_array_equal(load(write(tmp_path / "rgba.png", encode(".png", as_rgba))), expected)


def test_grey_jpeg_stored_as_colour_is_grey(tmp_path):
    path = write(tmp_path / "film.jpg", encode(".jpg", np.dstack([grey8()] * 3), cv2.IMWRITE_JPEG_QUALITY, 95))
    assert_allclose(load(path), grey8() / 255, atol=6 / 255)


def exif(orientation: int) -> bytes:
    """A TIFF header with one entry, Orientation (274)."""
    return b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">HH", orientation, 0) + b"\0" * 4


def test_jpeg_and_png_are_turned_as_their_orientation_says(tmp_path):
    turned = np.rot90(grey8(), -1)  # 6: turn by 90° clockwise
    jpeg = encode(".jpg", grey8(), cv2.IMWRITE_JPEG_QUALITY, 95)
    segment = b"Exif\0\0" + exif(6)
    jpeg = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]
    assert_allclose(load(write(tmp_path / "film.jpg", jpeg)), turned / 255, atol=6 / 255)
    png = encode(".png", grey8())
    png = png[:33] + chunk(b"eXIf", exif(6)) + png[33:]
    assert_allclose(load(write(tmp_path / "film.png", png)), turned / 255, atol=1e-6)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_colour_profile_that_libpng_dislikes_is_not_remarked_on(tmp_path):
    png = encode(".png", grey8())
    png = png[:33] + chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile")) + png[33:]
    assert_allclose(load(write(tmp_path / "film.png", png)), grey8() / 255, atol=1e-6)


def tiff(picture: np.ndarray, *extra: tuple[int, int, int, int], photometric: int = 1, following: int = 0) -> bytes:
    """An uncompressed TIFF of one strip."""
    rows, columns = picture.shape
    data = picture.tobytes()
    tags = [(256, 3, 1, columns), (257, 3, 1, rows), (258, 3, 1, 8 * picture.itemsize), (259, 3, 1, 1)]
    tags += [(262, 3, 1, photometric), (273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, rows), (279, 4, 1, len(data))]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted([*tags, *extra]))
    directory = struct.pack("<H", len(tags) + len(extra)) + entries + struct.pack("<I", following)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_whose_zero_is_white(tmp_path, dtype):
    picture = film(dtype, 8 * np.dtype(dtype).itemsize)
    path = write(tmp_path / "film.tiff", tiff(picture, photometric=0))
    assert_allclose(load(path), 1 - picture / np.iinfo(dtype).max, atol=1e-6)


def test_a_private_tag_in_a_tiff_is_not_remarked_on(tmp_path):
    path = write(tmp_path / "film.tiff", tiff(grey8(), (50000, 3, 1, 3)))
    assert_allclose(load(path), grey8() / 255, atol=1e-6)


# -- refused: sound, but not for the model -------------------------------------------------------------------------


def coloured() -> np.ndarray:
    """A blue-green picture: channels apart by a quarter of the range."""
    return np.dstack([grey8(), grey8() // 2 + 64, 255 - grey8() // 2])


@pytest.mark.parametrize("extension", [".jpg", ".png", ".tiff"])
def test_a_colour_picture_is_refused(tmp_path, extension):
    assert refused(write(tmp_path / "photo", encode(extension, coloured()))) == Reason.COLOUR_IMAGE


def test_a_small_coloured_marker_does_not_make_a_film_coloured(tmp_path):
    picture = np.dstack([grey8()] * 3)
    picture[2:8, 2:8] = 0, 0, 255
    assert load(write(tmp_path / "film.png", encode(".png", picture))).shape == grey8().shape


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless], ids=lambda uid: uid.name)
def test_dicom_colour_is_refused_and_grey_stored_as_colour_is_grey(write_film, syntax):
    def compressed(picture: np.ndarray) -> Path:
        path = write_film(picture)
        if syntax.is_compressed:
            dataset = pydicom.dcmread(path)
            dataset.compress(syntax, generate_instance_uid=False)
            dataset.save_as(path)
        return path

    assert_allclose(load(compressed(np.dstack([grey8()] * 3))), grey8() / 255, atol=1e-6)
    assert refused(compressed(coloured())) == Reason.COLOUR_IMAGE


@pytest.mark.parametrize("kind", ["YBR_FULL", "YBR_FULL_422"])
def test_dicom_ybr_is_grey_where_its_chroma_is_neutral(write_film, kind):
    luma, neutral = grey8(), np.full_like(grey8(), 128)
    path = write_film(np.dstack([luma, neutral, neutral]), PhotometricInterpretation="YBR_FULL")
    if kind == "YBR_FULL_422":
        dataset = pydicom.dcmread(path)
        dataset.PhotometricInterpretation = kind
        pairs = luma.reshape(-1, 2)
        neutral_pairs = np.full_like(pairs, 128)
        dataset.PixelData = np.hstack([pairs, neutral_pairs]).tobytes()
        dataset.save_as(path)
    assert_allclose(load(path), luma / 255, atol=1.01 / 255)


@pytest.mark.parametrize(("blue", "expected"), [(1, None), (3, Reason.COLOUR_IMAGE)], ids=["grey", "coloured"])
def test_dicom_palette_colour(write_film, blue, expected):
    grey = np.arange(0, 65536, 256)
    palette = {
        f"{name}PaletteColorLookupTableData": (grey // share).astype("<u2").tobytes()
        for name, share in (("Red", 1), ("Green", 1), ("Blue", blue))
    }
    palette |= {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in ("Red", "Green", "Blue")}
    path = write_film(grey8(), PhotometricInterpretation="PALETTE COLOR", **palette)
    if expected is None:
        assert_allclose(load(path), grey[grey8()] / 65535, atol=1e-6)
    else:
        assert refused(path) == expected


@pytest.mark.parametrize("value", [0, 77, 255])
def test_a_single_grey_value_is_refused(write_film, tmp_path, value):
    blank = np.full((80, 80), value, np.uint8)
    assert refused(write_film(blank)) == Reason.BLANK_IMAGE
    assert refused(write_film(blank, WindowCenter=128, WindowWidth=256)) == Reason.BLANK_IMAGE
    assert refused(write(tmp_path / "blank.png", encode(".png", blank))) == Reason.BLANK_IMAGE


def test_a_window_that_shows_nothing_is_refused(write_film):
    assert refused(write_film(film(), BitsStored=12, WindowCenter=9000, WindowWidth=100)) == Reason.BLANK_IMAGE


def test_several_frames_are_refused(write_film, tmp_path):
    assert refused(write_film(film(), NumberOfFrames=2)) == Reason.MULTI_FRAME
    pages = cv2.imencodemulti(".tiff", [grey8(), grey8()])[1].tobytes()
    assert refused(write(tmp_path / "pages.tiff", pages)) == Reason.MULTI_FRAME


@pytest.mark.parametrize("shape", [(63, 200), (200, 63)])
def test_an_icon_is_refused(write_film, tmp_path, shape):
    icon = film(np.uint8, 8, *shape)
    assert refused(write_film(icon)) == Reason.TOO_SMALL
    for extension in (".jpg", ".png", ".tiff"):
        assert refused(write(tmp_path / "icon", encode(extension, icon))) == Reason.TOO_SMALL


def test_a_size_beyond_the_limit_is_refused_before_decoding(write_film, tmp_path):
    assert refused(write_film(film(), Rows=20000, Columns=20000)) == Reason.TOO_LARGE
    jpeg = bytearray(encode(".jpg", grey8()))
    start_of_frame = jpeg.index(b"\xff\xc0")
    jpeg[start_of_frame + 5 : start_of_frame + 9] = struct.pack(">HH", 60000, 60000)
    assert refused(write(tmp_path / "film.jpg", jpeg)) == Reason.TOO_LARGE
    png = encode(".png", grey8())
    png = png[:8] + chunk(b"IHDR", struct.pack(">II", 60000, 60000) + png[24:29]) + png[33:]
    assert refused(write(tmp_path / "film.png", png)) == Reason.TOO_LARGE
    big = tiff(grey8()).replace(struct.pack("<HHII", 256, 3, 1, 96), struct.pack("<HHII", 256, 4, 1, 60_000_000))
    assert refused(write(tmp_path / "film.tiff", big)) == Reason.TOO_LARGE


def test_a_file_beyond_the_limit_is_refused_unread(write_film, monkeypatch):
    monkeypatch.setattr(pixels, "MAX_BYTES", 4096)
    assert refused(write_film(film())) == Reason.TOO_LARGE


def test_a_deflated_object_that_grows_beyond_the_limit_is_refused(write_film, monkeypatch):
    path = write_film(np.zeros((2000, 2000), np.uint16), DeflatedExplicitVRLittleEndian)
    monkeypatch.setattr(pixels, "MAX_BYTES", 1 << 20)
    assert path.stat().st_size < 1 << 20
    assert refused(path) == Reason.TOO_LARGE


def test_an_object_without_pixels_is_refused(tmp_path):
    report = Dataset()
    report.file_meta = pydicom.dataset.FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report.SOPClassUID = pydicom.uid.BasicTextSRStorage
    report.SOPInstanceUID = "2.25.7"
    path = tmp_path / "report.dcm"
    report.save_as(path, enforce_file_format=True)
    assert refused(path) == Reason.NOT_AN_IMAGE


def test_an_image_object_without_pixels_is_refused(write_film):
    assert refused(write_film(film(), PixelData=None)) == Reason.NOT_AN_IMAGE


# -- refused: damaged ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"\0", b"some notes, no image\n" * 20, b"\xff\xd8\xff", b"\x89PNG", b"II*\0"])
@pytest.mark.parametrize("media_type", [None, *MediaType])
def test_what_is_no_image_is_unreadable(tmp_path, content, media_type):
    assert refused(write(tmp_path / "notes.dcm", content), media_type) == Reason.UNREADABLE


def test_noise_behind_a_dicom_prefix_is_unreadable(tmp_path):
    noise = np.random.default_rng(3).bytes(2000)
    assert refused(write(tmp_path / "noise.dcm", b"\0" * 128 + b"DICM" + noise)) == Reason.UNREADABLE


@pytest.mark.parametrize("extension", [".jpg", ".png", ".tiff"])
@pytest.mark.parametrize("part", [0.3, 0.5, 0.9])
def test_a_picture_that_is_cut_off_is_unreadable_and_never_half_grey(tmp_path, extension, part):
    data = encode(extension, grey8())
    assert refused(write(tmp_path / "cut", data[: int(part * len(data))])) == Reason.UNREADABLE


def test_a_progressive_jpeg_that_is_cut_between_two_scans_is_unreadable(tmp_path):
    data = encode(".jpg", grey8(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert refused(write(tmp_path / "cut.jpg", data[: data.rindex(b"\xff\xda")])) == Reason.UNREADABLE
    assert load(write(tmp_path / "whole.jpg", data)).shape == grey8().shape


def test_a_flipped_bit_in_a_png_is_unreadable(tmp_path):
    data = bytearray(encode(".png", grey8()))
    data[len(data) // 2] ^= 1
    assert refused(write(tmp_path / "film.png", data)) == Reason.UNREADABLE


@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.99])
def test_a_dicom_file_that_is_cut_off_is_unreadable(write_film, part):
    path = write_film(film(), BitsStored=12)
    data = path.read_bytes()
    assert refused(write(path, data[: int(part * len(data))])) == Reason.UNREADABLE


@pytest.mark.parametrize(
    "syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGBaseline8Bit], ids=lambda uid: uid.name
)
def test_a_compressed_frame_that_is_cut_off_is_unreadable(write_film, syntax):
    path = write_film(grey8())
    dataset = pydicom.dcmread(path)
    if syntax == JPEGBaseline8Bit:
        frame = encode(".jpg", grey8())
    else:
        dataset.compress(syntax, generate_instance_uid=False)
        frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    assert refused(write_jpeg_dicom(write_film, frame[: len(frame) // 2], grey8(), syntax)) == Reason.UNREADABLE


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless], ids=lambda uid: uid.name)
def test_a_compressed_frame_of_another_size_than_stated_is_unreadable(write_film, syntax):
    dataset = pydicom.dcmread(write_film(grey8()))
    dataset.compress(syntax, generate_instance_uid=False)
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    path = write_jpeg_dicom(write_film, frame, grey8(), syntax, Rows=79)
    assert refused(path) == Reason.UNREADABLE


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1], ids=lambda uid: uid.name)
def test_a_compressed_frame_of_more_bits_than_stated_is_unreadable_where_it_uses_them(write_film, syntax):
    def write_16_in_12(stored: np.ndarray) -> Path:
        path = write_film(stored, WindowCenter=2048 if stored.min() >= 0 else 0, WindowWidth=4096)
        dataset = pydicom.dcmread(path)
        if syntax == JPEGLosslessSV1:
            dataset.PixelData = encapsulate([encode_lossless(stored.view(np.uint16), 16)])
            dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
            dataset.file_meta.TransferSyntaxUID = syntax
        else:
            dataset.compress(syntax, generate_instance_uid=False)
        dataset.BitsStored, dataset.HighBit = 12, 11
        dataset.save_as(path)
        return path

    for stored, beyond in ((film(np.uint16, 12), 4096), ((film(np.int32, 12) - 2048).astype(np.int16), -2049)):
        assert_allclose(load(write_16_in_12(stored)), (stored + 2048.0 * (beyond < 0)) / 4095, atol=1e-3)
        stored[7, 5] = beyond
        with pytest.raises(InputError, match=rf"Bits Stored .* 12, and values from .*{beyond}.* of 16 bits"):
            load(write_16_in_12(stored))


@pytest.mark.parametrize(
    "stated",
    [{"Rows": 81}, {"Rows": 70}, {"Columns": 94}, {"Rows": 0}, {"Rows": None}, {"BitsAllocated": 16}],
    ids=str,
)
def test_a_stated_size_that_does_not_fit_the_pixels_is_unreadable(write_film, stated):
    assert refused(write_film(grey8(), **stated)) == Reason.UNREADABLE


def test_a_grey_film_of_three_samples_is_unreadable(write_film):
    colour = np.dstack([grey8()] * 3)
    assert refused(write_film(colour, PhotometricInterpretation="MONOCHROME2")) == Reason.UNREADABLE


@pytest.mark.parametrize(
    "stated",
    [
        {"BitsStored": 12},
        {"BitsStored": 0},
        {"PixelRepresentation": 7},
        {"SamplesPerPixel": 2},
        {"PhotometricInterpretation": "CMYK"},
        {"PhotometricInterpretation": "RGB"},
        {"PhotometricInterpretation": None},
    ],
    ids=str,
)
def test_an_image_pixel_module_that_contradicts_itself_is_unreadable(write_film, stated):
    assert refused(write_film(grey8(), **stated)) == Reason.UNREADABLE


@pytest.mark.parametrize("syntax", [pydicom.uid.MPEG2MPML, "1.2.3.4", JPEGLossless])
def test_an_encoding_that_nobody_decodes_is_unreadable(write_film, syntax):
    path = write_jpeg_dicom(write_film, b"\0\1\2\3" * 50, grey8(), str(ExplicitVRLittleEndian))
    data = path.read_bytes()
    dataset = pydicom.dcmread(BytesIO(data))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, implicit_vr=False, little_endian=True)
    assert refused(path) == Reason.UNREADABLE


@pytest.mark.parametrize("encoding", ["dicom", "png"])
def test_damage_brings_out_no_other_error_and_no_value_beyond_0_and_1(write_film, tmp_path, encoding):
    rng = np.random.default_rng(7)
    whole = write_film(grey8()).read_bytes() if encoding == "dicom" else encode(".png", grey8())
    path = tmp_path / "damaged"
    for _ in range(150):
        data = bytearray(whole)
        for position in rng.integers(0, 520, 3):
            data[position] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            image = load(path)
        except MeddError:
            continue
        assert image.min() >= 0.0
        assert image.max() <= 1.0


# -- the surroundings ----------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_may_come_back(tmp_path):
    with pytest.raises(TransientError, match=r"gone\.dcm: .* Received: "):
        load(tmp_path / "gone.dcm")
    with pytest.raises(TransientError):
        load(tmp_path)


def test_too_little_memory_may_pass(write_film, monkeypatch):
    def exhausted(*_):
        raise MemoryError

    monkeypatch.setattr(pixels, "display", exhausted)
    with pytest.raises(TransientError, match="memory"):
        load(write_film(film()))


def test_several_threads_get_the_same_picture(write_film):
    path = write_film(film(), BitsStored=12)
    expected, found = load(path), []
    threads = [threading.Thread(target=lambda: found.append(load(path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(np.array_equal(image, expected) for image in found)


def test_samples_per_pixel_of_many_values_costs_no_memory(write_film):
    path = write_film(np.zeros((64, 64), np.uint16), SamplesPerPixel=[1] * 4000)
    assert refused(path) == Reason.UNREADABLE
