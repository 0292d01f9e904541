import contextlib
import struct
import time
import warnings
import zlib
from dataclasses import replace
from io import BytesIO
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue

from medd.dicom import headers, part10
from medd.dicom.headers import inspect_file, read_header
from medd.dicom.part10 import split_file
from medd.errors import InputError
from medd.records import InstanceHeader, MediaType, Reason
from medd.testing import dicom_radiograph, jpeg_radiograph
from tests.fuzz.objects import odd_objects

IMPLICIT, EXPLICIT = str(uid.ImplicitVRLittleEndian), str(uid.ExplicitVRLittleEndian)
BIG, DEFLATED = str(uid.ExplicitVRBigEndian), str(uid.DeflatedExplicitVRLittleEndian)
PLAIN = pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT], ids=["implicit", "explicit"])


def small_film(**attributes: object) -> Dataset:
    return dicom_radiograph(3, size=32, **attributes)  # type: ignore[arg-type]


def encode(ds: Dataset, syntax: str) -> bytes:
    """The dataset alone, as C-STORE carries it."""
    file = pydicom.filebase.DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = syntax != BIG, syntax == IMPLICIT
    write_dataset(file, ds)
    data = file.getvalue()
    if syntax == DEFLATED:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflater.compress(data) + deflater.flush()
    return data


def element(group: int, number: int, vr: bytes, value: bytes, *, length: int | None = None) -> bytes:
    """One element in Explicit VR Little Endian."""
    declared = len(value) if length is None else length
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"UR", b"OF", b"OD", b"OL", b"OV", b"SV", b"UV"):
        return struct.pack("<HH2sHI", group, number, vr, 0, declared) + value
    return struct.pack("<HH2sH", group, number, vr, declared) + value


#: The least there is: two UIDs. Elements of a test go behind them.
LEAST = element(8, 0x16, b"UI", b"1.2.840.10008.5.1.4.1.1.1\0") + element(8, 0x18, b"UI", b"1.2.3.4\0")
PIXELS = element(0x7FE0, 0x10, b"OW", b"\1\2\3\4")
SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
UNDEFINED = 0xFFFFFFFF


def item(content: bytes, *, undefined: bool = True) -> bytes:
    if undefined:
        return struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED) + content + ITEM_END
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def by_pydicom(data: bytes, syntax: str) -> InstanceHeader:
    """The header as it is made of the values that pydicom reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = BytesIO(part10.encode_file_meta("", "", syntax) + data)
        dataset = pydicom.dcmread(file, force=True, specific_tags=[*headers._WANTED, *headers._PIXEL_DATA])
        values = {int(element.tag): raw(element) for element in dataset.values()}
    return headers._header(values, not headers._PIXEL_DATA.isdisjoint(values), syntax)


def raw(element: Any) -> bytes:
    value = element.value
    if not isinstance(value, bytes):
        values = value if isinstance(value, (list, tuple, MultiValue)) else [value]
        return "\\".join(map(str, values)).encode()
    if element.tag in headers._NUMBERS and not getattr(element, "is_little_endian", True):
        return value[1::-1]
    return value


def both_roads(data: bytes, syntax: str) -> InstanceHeader:
    """The header, which is what pydicom reads too; also of a file of which only the first bytes are in memory."""
    header = read_header(data, syntax, len(data))
    assert header == by_pydicom(data, syntax)
    for known in (0, 8, 100):
        assert in_pieces(data, syntax, known) == header
    return header


def in_pieces(data: bytes, syntax: str, known: int = 0) -> InstanceHeader:
    return read_header(data[:known], syntax, len(data), lambda at, length: data[at : at + length])


# What is read is what pydicom reads


@PLAIN
def test_film_is_read_as_pydicom_reads_it(syntax):
    ds = small_film(modality="CR")
    header = both_roads(encode(ds, syntax), syntax)
    assert header == InstanceHeader(
        media_type=MediaType.DICOM,
        sop_class_uid=str(uid.ComputedRadiographyImageStorage),
        sop_instance_uid=ds.SOPInstanceUID,
        series_instance_uid=ds.SeriesInstanceUID,
        study_instance_uid=ds.StudyInstanceUID,
        transfer_syntax_uid=syntax,
        patient_id="SYN-0003",
        accession_number="SYN000003",
        modality="CR",
        body_part_examined="CHEST",
        view_position="AP",
        patient_orientation="L",
        image_type=("ORIGINAL", "PRIMARY", ""),
        photometric_interpretation="MONOCHROME2",
        samples_per_pixel=1,
        rows=32,
        columns=32,
        number_of_frames=None,
        has_pixel_data=True,
        study_description="CHEST",
        series_description="CHEST AP",
        protocol_name="CHEST AP",
        patient_sex=ds.PatientSex,
        patient_age=ds.PatientAge,
        manufacturer="medd",
        station_name="SYNTHETIC",
        study_date=ds.StudyDate,
    )


@PLAIN
def test_nested_sequences_are_stepped_over(syntax):
    inner = Dataset()
    inner.PatientID, inner.StudyDescription = "NOT THIS ONE", "NOR THIS"
    inner.Modality = "CT"
    middle = Dataset()
    middle.ReferencedSeriesSequence = [inner, Dataset()]
    for undefined in (True, False):
        ds = small_film(RequestAttributesSequence=[middle, inner], ReferencedStudySequence=[])
        for sequence in (ds["RequestAttributesSequence"], middle["ReferencedSeriesSequence"]):
            sequence.is_undefined_length = undefined
        for one in (middle, inner):
            one.is_undefined_length_sequence_item = undefined
        header = both_roads(encode(ds, syntax), syntax)
        assert (header.patient_id, header.modality, header.study_description) == ("SYN-0003", "DX", "CHEST")


def test_sequences_of_defined_and_undefined_length_mix():
    leaf = element(0x10, 0x20, b"LO", b"INNER ")
    for outer in (True, False):
        for inside in (True, False):
            nested = item(leaf, undefined=inside)
            length = UNDEFINED if outer else len(nested)
            deep = element(0x8, 0x1115, b"SQ", nested + (SEQUENCE_END if outer else b""), length=length)
            sequence = element(0x8, 0x1140, b"SQ", item(deep) + SEQUENCE_END, length=UNDEFINED)
            header = both_roads(LEAST + sequence + element(0x10, 0x20, b"LO", b"OUTER ") + PIXELS, EXPLICIT)
            assert header.patient_id == "OUTER"


@PLAIN
def test_private_elements_are_stepped_over(syntax):
    ds = small_film()
    block = ds.private_block(0x0009, "ACME", create=True)
    block.add_new(0x01, "OB", b"\1\2\3\4" * 50)
    block.add_new(0x02, "SQ", [Dataset()])
    block.add_new(0x03, "LO", "private")
    assert both_roads(encode(ds, syntax), syntax).patient_id == "SYN-0003"


def test_unknown_sequence_of_undefined_length_is_implicit_inside():
    # PS3.5 section 6.2.2: UN of undefined length is encoded in Implicit VR Little Endian.
    inside = struct.pack("<HHI", 0x0008, 0x0060, 2) + b"CT"
    unknown = element(0x0009, 0x1001, b"UN", item(inside) + SEQUENCE_END, length=UNDEFINED)
    data = LEAST + element(8, 0x60, b"CS", b"CR") + element(9, 0x10, b"LO", b"ACME") + unknown
    header = both_roads(data + element(0x10, 0x20, b"LO", b"P1") + PIXELS, EXPLICIT)
    assert (header.modality, header.patient_id) == ("CR", "P1")


def test_long_value_representations_are_stepped_over():
    long = b"".join(
        element(0x0009, 0x1000 + number, vr, b"x" * 70000)
        for number, vr in enumerate(
            (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
        )
    )
    data = LEAST + element(9, 0x10, b"LO", b"ACME") + long + element(0x10, 0x20, b"LO", b"P1") + PIXELS
    assert both_roads(data, EXPLICIT).patient_id == "P1"


@PLAIN
@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("", "MUELLER"),
        ("ISO_IR 100", "MÜLLER-Ž".replace("Ž", "é")),
        ("ISO_IR 144", "Люкceмбypг"),
        ("ISO_IR 126", "Διονυσιος"),
        ("ISO_IR 192", "王小東 Łódź"),
        ("GB18030", "王小东"),
        (["", "ISO 2022 IR 87"], "山田"),
        (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ山田"),
        (["", "ISO 2022 IR 149"], "김희중"),
    ],
    ids=str,
)
def test_text_is_decoded_by_its_own_character_set(syntax, charset, text):
    ds = small_film()
    ds.SpecificCharacterSet = charset
    ds.PatientID = ds.StudyDescription = ds.StationName = text
    header = both_roads(encode(ds, syntax), syntax)
    assert (header.patient_id, header.study_description, header.station_name) == (text, text, text)


def test_unknown_character_set_loses_nothing():
    data = LEAST[:0] + element(8, 5, b"CS", b"ISO_IR 999") + LEAST + element(0x10, 0x20, b"LO", b"M\xfcller")
    header = read_header(data + PIXELS, EXPLICIT, len(data + PIXELS))
    assert header.patient_id == "Müller"


def test_padding_and_control_characters_are_taken_off():
    data = LEAST + element(0x10, 0x20, b"LO", b" P\x001\x1b[31m\r\n\0 ") + element(0x18, 0x15, b"CS", b"chest \0")
    header = read_header(data + PIXELS, EXPLICIT, len(data + PIXELS))
    assert header.patient_id.isprintable()
    assert header.patient_id.startswith("P1")
    assert header.body_part_examined == "CHEST"


@PLAIN
def test_object_without_pixels_has_none(syntax):
    assert both_roads(encode(small_film(PixelData=None), syntax), syntax).has_pixel_data is False


@pytest.mark.parametrize("name", ["FloatPixelData", "DoubleFloatPixelData"])
def test_float_pixels_are_pixels(name):
    ds = small_film(PixelData=None)
    setattr(ds, name, b"\0" * 64)
    assert both_roads(encode(ds, EXPLICIT), EXPLICIT).has_pixel_data is True


def test_encapsulated_pixels_are_not_walked():
    pixels = element(0x7FE0, 0x10, b"OB", b"anything at all", length=UNDEFINED)
    header = read_header(LEAST + pixels, str(uid.JPEGBaseline8Bit), len(LEAST + pixels))
    assert header.has_pixel_data is True
    assert header.transfer_syntax_uid == uid.JPEGBaseline8Bit


@pytest.mark.parametrize(("value", "frames"), [("3", 3), ("", None), ("two", None), ("9" * 12, None), ("²", None)])
def test_number_of_frames_is_a_number_or_unknown(value, frames):
    data = LEAST + element(0x28, 8, b"IS", value.encode("latin-1"))
    assert read_header(data, EXPLICIT, len(data)).number_of_frames == frames


# Other encodings


@pytest.mark.parametrize("syntax", [BIG, DEFLATED], ids=["big endian", "deflated"])
def test_unusual_encodings_are_read_all_the_same(syntax, tmp_path):
    inner = Dataset()
    inner.PatientID, inner.ReferencedStudySequence = "NOT THIS ONE", [Dataset()]
    ds = small_film(RequestAttributesSequence=[inner, inner], ReferencedStudySequence=[], NumberOfFrames="1")
    ds["RequestAttributesSequence"].is_undefined_length = inner.is_undefined_length_sequence_item = True
    data = encode(ds, syntax)
    header = read_header(data, syntax, len(data))
    usual = both_roads(encode(ds, EXPLICIT), EXPLICIT)
    assert header == replace(usual, transfer_syntax_uid=syntax)
    if syntax == BIG:
        assert both_roads(data, syntax) == header
    path = tmp_path / "file"
    path.write_bytes(part10.encode_file_meta(ds.SOPClassUID, ds.SOPInstanceUID, syntax) + data)
    assert inspect_file(path) == header


def test_vr_that_nobody_knows_and_one_that_is_missing_are_stepped_over():
    for odd in (element(9, 0x1001, b"QQ", b"1234"), struct.pack("<HHI", 9, 0x1001, 4) + b"1234"):
        inside = element(8, 0x1140, b"SQ", item(LEAST + odd) + SEQUENCE_END, length=UNDEFINED)
        data = LEAST + element(9, 0x10, b"LO", b"ACME") + odd + inside + element(0x10, 0x20, b"LO", b"P1") + PIXELS
        assert both_roads(data, EXPLICIT).patient_id == "P1"


def test_damaged_deflated_dataset_is_unreadable():
    data = encode(small_film(), DEFLATED)
    for damaged in (data[: len(data) // 2], b"\xff" * 200, data[:5]):
        with pytest.raises(InputError):
            read_header(damaged, DEFLATED, len(damaged))


def test_deflated_bomb_is_not_inflated_to_its_end():
    bomb = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    data = bomb.compress(LEAST + element(9, 0x1000, b"OB", b"", length=2**31))
    data += b"".join(bomb.compress(bytes(1 << 20)) for _ in range(200)) + bomb.flush()
    begun = time.monotonic()
    with pytest.raises(InputError):
        read_header(data, DEFLATED, len(data))
    assert time.monotonic() - begun < 2


# Cut short


@PLAIN
def test_prefix_that_is_shorter_than_the_header_is_not_enough(syntax):
    data = encode(small_film(), syntax)
    full = read_header(data, syntax, len(data))
    pixels = len(data) - 32 * 32 * 2
    for cut in (0, 7, 9, 100, 300):
        with pytest.raises(InputError, match=f"no header within the first {cut} bytes"):
            read_header(data[:cut], syntax, len(data))
        assert in_pieces(data, syntax, cut) == full
    assert read_header(data[:pixels], syntax, len(data)) == full


@PLAIN
def test_truncated_dataset_is_refused(syntax):
    data = encode(small_film(), syntax)
    assert read_header(data, syntax, len(data)) is not None
    for cut in (len(data) - 1, len(data) - 500, len(data) - 32 * 32 * 2 - 20, 100, 9):
        with pytest.raises(InputError) as refusal:
            read_header(data[:cut], syntax, cut)
        assert refusal.value.reason == Reason.UNREADABLE


def test_dataset_that_ends_inside_a_sequence_is_refused():
    data = LEAST + element(8, 0x1140, b"SQ", item(b"")[:8], length=UNDEFINED)
    with pytest.raises(InputError, match="truncated"):
        read_header(data, EXPLICIT, len(data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (element(8, 0x16, b"UI", b"1.2\0") + PIXELS, "sop_instance_uid is missing"),
        (element(8, 0x18, b"UI", b"1.2\0") + PIXELS, "sop_class_uid is missing"),
        (element(8, 0x16, b"UI", b"1" * 66) + element(8, 0x18, b"UI", b"1.2\0"), "longer than 64"),
        (b"", "is missing"),
    ],
    ids=["no instance", "no class", "long uid", "empty"],
)
def test_what_is_no_object_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        read_header(data, EXPLICIT, len(data))


# What takes long is given up, and counted by what is read


class Read:
    """A dataset that is not in memory, and how often it is read."""

    def __init__(self, *parts: bytes) -> None:
        self.data, self.times = b"".join(parts), 0

    def __call__(self, at: int, length: int) -> bytes:
        self.times += 1
        return self.data[at : at + length]

    def header(self) -> InstanceHeader:
        return read_header(self.data[:100], EXPLICIT, len(self.data), self)


EMPTY_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)


@pytest.mark.parametrize("start", [element(8, 0x1140, b"SQ", b"", length=UNDEFINED), b""], ids=["items", "elements"])
def test_header_without_end_is_given_up(start, monkeypatch):
    monkeypatch.setattr(headers, "_MAX_WINDOWS", 20)
    many = start + (EMPTY_ITEM if start else element(8, 0x5, b"CS", b"")) * (1 << 17)
    read = Read(LEAST, many, SEQUENCE_END if start else b"", element(0x28, 0x10, b"US", b"\2\0"), PIXELS)
    with pytest.raises(InputError, match="no header within the first 3276"):
        read.header()
    assert read.times == 20


def test_frames_described_one_by_one_are_not_walked_to_their_end(monkeypatch):
    frames = element(0x5200, 0x9230, b"SQ", item(item(b"")[:0] + LEAST) * 5000 + SEQUENCE_END, length=UNDEFINED)
    image = element(0x28, 8, b"IS", b"5000") + element(0x28, 0x10, b"US", b"\2\0")
    whole = Read(LEAST, image, frames, PIXELS)
    header = whole.header()
    assert (header.number_of_frames, header.rows, header.has_pixel_data) == (5000, 2, True)
    monkeypatch.setattr(headers, "_MAX_WINDOWS", 5)
    part = Read(LEAST, image, frames, PIXELS)
    assert part.header() == header
    assert part.times == 5 < whole.times


def test_what_is_large_is_not_read():
    large = element(9, 0x1000, b"OB", bytes(1 << 22)) + element(8, 0x1140, b"SQ", item(bytes(1 << 22), undefined=False))
    overlay = element(0x6000, 0x3000, b"OW", bytes(1 << 21))
    read = Read(LEAST, large, element(0x10, 0x20, b"LO", b"P1"), overlay, PIXELS)
    assert read.header() == by_pydicom(read.data, EXPLICIT)
    assert read.times < 6


def test_sequences_are_nested_within_reason():
    for depth in (40, headers._MAX_DEPTH, headers._MAX_DEPTH + 1, 5000):
        deep = b""
        for _ in range(depth):
            deep = element(8, 0x1140, b"SQ", item(deep) + SEQUENCE_END, length=UNDEFINED)
        data = LEAST + deep + element(0x10, 0x20, b"LO", b"P1")
        if depth <= headers._MAX_DEPTH:
            assert read_header(data, EXPLICIT, len(data)).patient_id == "P1"
        else:
            with pytest.raises(InputError, match="nested"):
                read_header(data, EXPLICIT, len(data))


@pytest.mark.parametrize("wrong", [b"text", ITEM_END, element(0x10, 0x20, b"LO", b"P1"), item(b"") + ITEM_END])
def test_sequence_of_something_else_than_items_is_refused(wrong):
    data = LEAST + element(8, 0x1140, b"SQ", wrong + bytes(20), length=UNDEFINED)
    with pytest.raises(InputError, match=r"\(0008,1140\) is no sequence"):
        read_header(data, EXPLICIT, len(data))


def test_odd_objects_are_read_without_pydicom(monkeypatch, tmp_path):
    objects = {name: data for name, _, data in odd_objects()}
    monkeypatch.setattr(pydicom, "dcmread", None)
    monkeypatch.setattr(pydicom.filereader, "data_element_generator", None)
    path = tmp_path / "odd"
    for data in objects.values():
        path.write_bytes(data)
        with contextlib.suppress(InputError):
            inspect_file(path)


# Files


def test_file_with_preamble_is_split_behind_its_meta_group(tmp_path):
    ds = small_film()
    path = tmp_path / "film.dcm"
    ds.save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    offset, syntax = split_file(data)
    assert syntax == EXPLICIT
    assert data[offset:] == encode(ds, EXPLICIT)
    assert inspect_file(path).sop_instance_uid == ds.SOPInstanceUID


@PLAIN
def test_bare_dataset_is_recognised_by_its_first_element(syntax, tmp_path):
    data = encode(small_film(), syntax)
    assert split_file(data) == (0, syntax)
    path = tmp_path / "bare"
    path.write_bytes(data)
    assert inspect_file(path).patient_id == "SYN-0003"


def test_meta_group_without_preamble_is_understood(tmp_path):
    path = tmp_path / "film.dcm"
    small_film().save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    offset, syntax = split_file(data)
    assert split_file(data[132:]) == (offset - 132, syntax)


@pytest.mark.parametrize("data", [b"", b"hello, world", b"%PDF-1.7\n" * 30, b"\0" * 500, bytes(128) + b"DICM"])
def test_what_is_no_file_of_ours_is_refused(data):
    with pytest.raises(InputError) as refusal:
        split_file(data)
    assert refusal.value.reason == Reason.UNREADABLE


def test_file_that_ends_within_its_meta_group_is_refused():
    data = part10.encode_file_meta("1.2", "1.2.3", EXPLICIT)
    for cut in (len(data), len(data) - 5, 200):
        with pytest.raises(InputError):
            split_file(data[:cut])


@pytest.mark.parametrize(
    ("beginning", "kind"),
    [
        (b"\xff\xd8\xff\xe0....", MediaType.JPEG),
        (b"\x89PNG\r\n\x1a\n....", MediaType.PNG),
        (b"II*\0....", MediaType.TIFF),
        (b"MM\0*....", MediaType.TIFF),
        (bytes(128) + b"DICM", MediaType.DICOM),
        (b"anything", MediaType.DICOM),
    ],
)
def test_file_is_told_by_its_first_bytes(beginning, kind):
    assert part10.media_type_of(beginning) is kind


def test_picture_has_a_header_with_nothing_but_its_kind(tmp_path):
    path = tmp_path / "named.dcm"
    path.write_bytes(jpeg_radiograph(1, size=64))
    assert inspect_file(path) == InstanceHeader(MediaType.JPEG)


def test_meta_group_of_ours_ends_where_it_says_and_a_strangers_behind_its_last_element(tmp_path):
    ds = small_film()
    data = part10.encode_file_meta(ds.SOPClassUID, ds.SOPInstanceUID, EXPLICIT) + encode(ds, EXPLICIT)
    offset, _ = split_file(data)
    more = element(2, 0x10, b"UI", uid.JPEG2000.encode() + b"\0" * (len(uid.JPEG2000) % 2))
    longer = data[:offset] + more + data[offset:]
    assert split_file(longer) == (offset, EXPLICIT)
    other = longer.replace(part10.IMPLEMENTATION_CLASS_UID.encode(), b"1" * len(part10.IMPLEMENTATION_CLASS_UID))
    assert split_file(other) == (offset + len(more), uid.JPEG2000)


def test_dataset_with_file_meta_elements_is_refused():
    for data in (element(2, 0x10, b"UI", b"1.2\0") + LEAST + PIXELS, LEAST + element(2, 0x16, b"AE", b"CR") + PIXELS):
        with pytest.raises(InputError, match="file meta elements"):
            read_header(data, EXPLICIT, len(data))


def test_header_longer_than_the_prefix_is_read_from_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(part10, "HEAD_BYTES", 512)
    path = tmp_path / "film.dcm"
    small_film().save_as(path, enforce_file_format=True)
    assert inspect_file(path).rows == 32


@pytest.mark.parametrize("calling", ["", "CR1"])
def test_file_meta_that_is_written_is_read_by_pydicom(calling):
    ds = small_film()
    data = part10.encode_file_meta(ds.SOPClassUID, ds.SOPInstanceUID, EXPLICIT, calling) + encode(ds, EXPLICIT)
    read = pydicom.dcmread(BytesIO(data))  # not forced: the preamble has to be right
    assert read.file_meta.MediaStorageSOPClassUID == ds.SOPClassUID
    assert read.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert read.file_meta.TransferSyntaxUID == EXPLICIT
    assert read.file_meta.get("SourceApplicationEntityTitle", "") == calling
    assert read.file_meta.ImplementationClassUID.is_valid
    assert read == ds
    # Its length element covers the group to the last byte.
    assert split_file(data)[0] == 144 + read.file_meta.FileMetaInformationGroupLength


# Anything at all

FILM = {syntax: encode(small_film(modality="CR"), syntax) for syntax in (IMPLICIT, EXPLICIT, BIG, DEFLATED)}
SYNTAXES = st.sampled_from(sorted(FILM))
FUZZ = settings(max_examples=150, deadline=2000, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def read_anything(data: bytes, syntax: str) -> None:
    for size, known in ((len(data), len(data)), (len(data) + 1000, len(data)), (len(data), 20)):
        for read in (None, lambda at, length: data[at : at + length]):
            with contextlib.suppress(InputError):
                assert isinstance(read_header(data[:known], syntax, size, read), InstanceHeader)
    try:
        offset, found = split_file(data)
    except InputError:
        pass
    else:
        assert 0 <= offset <= len(data)
        assert found


@FUZZ
@given(data=st.binary(max_size=600), syntax=SYNTAXES)
def test_random_bytes_raise_nothing_unexpected(data, syntax):
    read_anything(data, syntax)
    read_anything(LEAST + data, syntax)


@FUZZ
@given(
    syntax=SYNTAXES,
    changes=st.lists(st.tuples(st.integers(0, 2400), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 3000),
)
def test_damaged_headers_raise_nothing_unexpected(syntax, changes, cut):
    data = bytearray(FILM[syntax])
    for place, value in changes:
        data[place % len(data)] = value
    read_anything(bytes(data[: max(1, len(data) - cut)]), syntax)


@FUZZ
@given(
    charset=st.sampled_from(
        [b"ISO_IR 192", b"ISO 2022 IR 87", b"\\ISO 2022 IR 87", b"GB18030", b"ISO_IR 13", b"\xff\\"]
    ),
    text=st.binary(max_size=64),
)
def test_text_of_any_bytes_becomes_printable(charset, text):
    charset += b" " * (len(charset) % 2)
    data = element(8, 5, b"CS", charset) + LEAST + element(0x10, 0x20, b"LO", text)
    header = read_header(data, EXPLICIT, len(data))
    assert header.patient_id == "" or header.patient_id.isprintable()
    header.patient_id.encode("utf-8")
