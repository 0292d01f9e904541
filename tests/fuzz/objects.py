"""Odd objects, made by pydicom and DCMTK: beside the maker of each stands what medd is to make of it."""

import struct
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from pydicom import Dataset, config, uid

from medd.dicom.samples import SAMPLES, encode
from medd.records import Reason
from tests.fuzz.craft import (
    COLUMNS,
    REFUSED,
    ROWS,
    SCORED,
    UNREADABLE,
    codestream,
    coloured,
    encapsulated,
    extended_offsets,
    file,
    film,
    floats,
    insert,
    j2k,
    lut,
    nested,
    of_bits,
    one_bit,
    paletted,
    picture,
    ramp,
    raw,
    rle,
    with_offsets,
    ybr_422,
)
from tests.fuzz.dcmtk import by_dcmtk

#: Attributes whose absence is tried.
REQUIRED = (
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"),
    *("PhotometricInterpretation", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "Modality"),
)


def _with(**attributes: Any) -> Callable[[], bytes]:
    return lambda: file(film(**attributes))


_Makers = dict[str, tuple[str, Callable[[], bytes]]]


def _syntaxes() -> _Makers:
    names = {syntax: uid.UID(syntax).name for syntax in SAMPLES}
    made: _Makers = {f"syntax {name}": (SCORED, lambda s=syntax: encode(s)) for syntax, name in names.items()}
    made |= {
        "MPEG2 stated": (UNREADABLE, lambda: file(encapsulated([b"\0\0\1\xb3" * 9]), uid.MPEG2MPML)),
        "unknown syntax": (UNREADABLE, lambda: file(film(), stated="1.2.3.4")),
        "no syntax": (SCORED, lambda: _without_meta(file(film()))),
    }
    return made


def _without_meta(data: bytes) -> bytes:
    return data[144 + int.from_bytes(data[140:144], "little") :]


def _photometrics() -> _Makers:
    grey, colour = (1, -1, -1), (1, 0.5, 0.2)
    return {
        "MONOCHROME1": (SCORED, _with(PhotometricInterpretation="MONOCHROME1")),
        "monochrome in small letters": (UNREADABLE, _with(PhotometricInterpretation="monochrome2")),
        "MONOCHROME3": (UNREADABLE, _with(PhotometricInterpretation="MONOCHROME3")),
        "photometric empty": (UNREADABLE, _with(PhotometricInterpretation="")),
        "photometric of two values": (UNREADABLE, _with(PhotometricInterpretation=["MONOCHROME2", "RGB"])),
        "palette of 16 bits": (SCORED, lambda: file(paletted())),
        "palette of 8 bits": (SCORED, lambda: file(paletted(bits=8))),
        "palette in colour": (str(Reason.COLOUR_IMAGE), lambda: file(paletted(blue=4))),
        "palette of too few entries": (UNREADABLE, lambda: file(paletted(entries=1000))),
        "palette of no bits": (UNREADABLE, lambda: file(paletted(RedPaletteColorLookupTableDescriptor=[256, 0, 0]))),
        "palette without blue": (UNREADABLE, lambda: file(paletted(BluePaletteColorLookupTableData=None))),
        "palette without descriptor": (UNREADABLE, lambda: file(paletted(RedPaletteColorLookupTableDescriptor=None))),
        "RGB in grey": (SCORED, lambda: file(coloured("RGB"))),
        "RGB in grey by planes": (SCORED, lambda: file(coloured("RGB", planar=1))),
        "RGB in colour": (str(Reason.COLOUR_IMAGE), lambda: file(coloured("RGB", colour))),
        "RGB of one sample": (UNREADABLE, _with(PhotometricInterpretation="RGB")),
        "RGB of planar configuration 7": (UNREADABLE, lambda: file(coloured("RGB", PlanarConfiguration=7))),
        "RGB of no planar configuration": (UNREADABLE, lambda: file(coloured("RGB", PlanarConfiguration=None))),
        "MONOCHROME2 of three samples": (UNREADABLE, lambda: file(coloured("MONOCHROME2"))),
        "YBR_FULL in grey": (SCORED, lambda: file(coloured("YBR_FULL", grey))),
        "YBR_FULL in colour": (str(Reason.COLOUR_IMAGE), lambda: file(coloured("YBR_FULL", (1, 0.2, 0.9)))),
        "YBR_FULL_422": (SCORED, lambda: file(ybr_422())),
        "YBR_FULL_422 of the wrong length": (UNREADABLE, lambda: file(coloured("YBR_FULL_422", grey))),
        **{
            f"{kind} of native pixels": (UNREADABLE, lambda k=kind: file(coloured(k, grey)))
            for kind in ("YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "HSV", "ARGB", "CMYK")
        },
    }


def _depths() -> _Makers:
    return {
        "1 bit": (SCORED, lambda: file(one_bit())),
        "8 bits": (SCORED, lambda: file(of_bits(8, 8, "u1"))),
        "8 bits, signed": (SCORED, lambda: file(of_bits(8, 8, "i1", signed=True))),
        "8 bits as OB": (SCORED, lambda: file(_as(of_bits(8, 8, "u1"), "OB"))),
        "6 of 8 bits": (SCORED, lambda: file(of_bits(8, 6, "u1"))),
        "10 of 16 bits": (SCORED, lambda: file(of_bits(16, 10, "<u2"))),
        "12 of 16 bits, signed": (SCORED, lambda: file(of_bits(16, 12, "<i2", signed=True))),
        "14 of 16 bits": (SCORED, lambda: file(of_bits(16, 14, "<u2"))),
        "16 bits": (SCORED, lambda: file(of_bits(16, 16, "<u2"))),
        "16 bits, signed": (SCORED, lambda: file(of_bits(16, 16, "<i2", signed=True))),
        "16 bits in big endian": (SCORED, lambda: file(of_bits(16, 16, ">u2"), uid.ExplicitVRBigEndian)),
        "32 bits": (SCORED, lambda: file(of_bits(32, 32, "<u4"))),
        "32 bits, signed": (SCORED, lambda: file(of_bits(32, 32, "<i4", signed=True))),
        "64 bits": (SCORED, lambda: file(of_bits(64, 64, "<u8"))),
        "12 of 12 bits, packed": (UNREADABLE, lambda: file(of_bits(12, 12, "<u2"))),
        "no bits allocated": (UNREADABLE, _with(BitsAllocated=0)),
        "no bits stored": (UNREADABLE, _with(BitsStored=0)),
        "more bits stored than allocated": (UNREADABLE, _with(BitsStored=17, HighBit=16)),
        "8 bits allocated for 12": (UNREADABLE, _with(BitsAllocated=8)),
        "high bit in the air": (UNREADABLE, _with(HighBit=15)),
        "pixel representation 7": (UNREADABLE, _with(PixelRepresentation=7)),
    }


def _as(dataset: Dataset, vr: str) -> Dataset:
    dataset["PixelData"].VR = vr
    return dataset


def _lengths() -> _Makers:
    name = ("PatientComments", b"A" * 65_534)
    return {
        "nested 10 deep": (SCORED, lambda: insert(file(film()), nested(10))),
        "nested 40 deep": (SCORED, lambda: insert(file(film()), nested(40))),
        "nested 40 deep, of defined length": (SCORED, lambda: insert(file(film()), nested(40, defined=True))),
        "nested 5,000 deep": (REFUSED, lambda: insert(file(film()), nested(5000))),
        "an item of a defined length in a sequence of none": (SCORED, lambda: insert(file(film()), _mixed())),
        "a sequence that does not end": (REFUSED, lambda: insert(file(film()), nested(1)[:-8])),
        "a text of 4 GB": (REFUSED, lambda: insert(file(film()), raw(8, 0x51, "UT", b"A" * 8, 0xFFFFFFFE))),
        "a text of undefined length": (
            REFUSED,
            lambda: insert(file(film()), raw(8, 0x51, "UT", b"A" * 8, 0xFFFFFFFF)),
        ),
        "2 MiB before the pixels": (
            SCORED,
            lambda: insert(file(film()), raw(0x29, 0x1010, "OB", bytes(2 << 20)), (0x28, 2)),
        ),
        "a text of 64 KB": (SCORED, lambda: file(film(**{name[0]: ("LT", name[1])}))),
        "a patient's id of 10 KB": (REFUSED, lambda: file(film(PatientID=("LO", b"7" * 10_000)))),
        "a UID of 200 characters": (REFUSED, lambda: file(film(StudyInstanceUID=("UI", b"1." * 100)))),
        "texts of odd length": (SCORED, lambda: insert(file(film()), raw(8, 0x50, "SH", b"ABC"))),
        "pixels of odd length": (SCORED, lambda: file(film(picture().tobytes() + b"\0"))),
        "a row too little": (UNREADABLE, lambda: file(film(picture().tobytes()[: -2 * COLUMNS]))),
        "a row too much": (SCORED, lambda: file(film(picture().tobytes() + bytes(2 * COLUMNS)))),
        "three rows too much": (UNREADABLE, lambda: file(film(picture().tobytes() + bytes(6 * COLUMNS)))),
        "pixels that break off": (REFUSED, lambda: file(film())[:-100]),
        "pixels of length 0": (UNREADABLE, lambda: file(film(b""))),
        "native pixels of undefined length": (UNREADABLE, lambda: _undefined(file(film()))),
        "padding behind the pixels": (SCORED, lambda: file(film()) + raw(0xFFFC, 0xFFFC, "OB", bytes(1000))),
        "noise behind the pixels": (SCORED, lambda: file(film()) + b"\x37\x11" * 50),
        "elements in wrong order": (
            SCORED,
            lambda: insert(file(film()), raw(0x0010, 0x0040, "CS", b"F "), (0x0008, 0x0016)),
        ),
        "an element twice": (
            SCORED,
            lambda: insert(file(film()), raw(0x0028, 0x0010, "US", b"\x48\0"), (0x0028, 0x0010)),
        ),
    }


def _mixed() -> bytes:
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 10) + raw(8, 0x50, "SH", b"AB")
    return raw(8, 0x1140, "SQ", item + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0), 0xFFFFFFFF)


def _undefined(data: bytes) -> bytes:
    at = data.index(b"\xe0\x7f\x10\x00") + 8
    return data[:at] + b"\xff" * 4 + data[at + 4 :]


def _contradictions() -> _Makers:
    native = uid.ExplicitVRLittleEndian
    made: _Makers = {
        f"without {keyword}": (_WITHOUT.get(keyword, UNREADABLE), _with(**{keyword: None})) for keyword in REQUIRED
    }
    return made | {
        "implicit, said to be explicit": (SCORED, lambda: file(film(), uid.ImplicitVRLittleEndian, stated=native)),
        "explicit, said to be implicit": (REFUSED, lambda: file(film(), native, stated=uid.ImplicitVRLittleEndian)),
        "little, said to be big": (REFUSED, lambda: file(film(), native, stated=uid.ExplicitVRBigEndian)),
        "plain, said to be deflated": (REFUSED, lambda: file(film(), stated=uid.DeflatedExplicitVRLittleEndian)),
        "native, said to be JPEG": (UNREADABLE, lambda: file(film(), native, stated=uid.JPEGBaseline8Bit)),
        "native, said to be RLE": (UNREADABLE, lambda: file(film(), native, stated=uid.RLELossless)),
        "JPEG 2000, said to be native": (UNREADABLE, lambda: j2k(lambda c: [c], stated=native)),
        "JPEG 2000, said to be JPEG-LS": (UNREADABLE, lambda: j2k(lambda c: [c], stated=uid.JPEGLSLossless)),
        "Rows 0": (str(Reason.NOT_AN_IMAGE), _with(Rows=0)),
        "Rows as a text": (UNREADABLE, lambda: file(film(Rows=("CS", b"SEVENTY ")))),
        "Rows of two values": (UNREADABLE, lambda: file(film(Rows=[ROWS, ROWS]))),
        "Rows and Columns swapped": (SCORED, _with(Rows=COLUMNS, Columns=ROWS)),
        "Rows 65535": (UNREADABLE, _with(Rows=65535, Columns=100)),
        "Rows and Columns 65535": (str(Reason.TOO_LARGE), _with(Rows=65535, Columns=65535)),
        "64 by 1": (str(Reason.TOO_SMALL), lambda: file(film(bytes(128), Rows=64, Columns=1))),
        "no frames": (SCORED, _with(NumberOfFrames="0")),
        "minus one frame": (UNREADABLE, lambda: file(film(NumberOfFrames=("IS", b"-1")))),
        "frames in words": (UNREADABLE, lambda: file(film(NumberOfFrames=("IS", b"two ")))),
        "three frames": (str(Reason.MULTI_FRAME), lambda: file(film(picture().tobytes() * 3, NumberOfFrames=3))),
        "three frames, of which one is there": (str(Reason.MULTI_FRAME), _with(NumberOfFrames=3)),
        "no pixels": (str(Reason.NOT_AN_IMAGE), _with(PixelData=None)),
        "a name in broken characters": (SCORED, lambda: file(film(PatientID=("LO", b"\xff\xfe\x1b$B\x80")))),
        "an unknown character set": (
            SCORED,
            lambda: file(film(SpecificCharacterSet=("CS", b"KLINGON "), PatientID=("LO", b"\xe4\xf6"))),
        ),
        "an age in words": (SCORED, lambda: file(film(PatientAge=("AS", b"five")))),
    }


_WITHOUT = {
    "SOPClassUID": REFUSED,
    "SOPInstanceUID": REFUSED,
    "StudyInstanceUID": SCORED,
    "HighBit": SCORED,
    "Modality": str(Reason.NOT_A_RADIOGRAPH),
}
_WITHOUT |= {"Rows": str(Reason.NOT_AN_IMAGE), "Columns": str(Reason.NOT_AN_IMAGE)}


def _windows() -> _Makers:
    def voi(**attributes: Any) -> Callable[[], bytes]:
        return lambda: file(film(**attributes))

    def text(keyword: str, value: bytes) -> Callable[[], bytes]:
        return lambda: file(film(**{keyword: ("DS", value)}))

    def table(keyword: str, *items: Callable[[], Dataset]) -> Callable[[], bytes]:
        return lambda: file(film(**{keyword: [item() for item in items]}))

    return {
        "window width 0": (SCORED, voi(WindowWidth="0")),
        "window width -1": (SCORED, voi(WindowWidth="-1")),
        "window width 1": (SCORED, voi(WindowWidth="1")),
        "window width of words": (UNREADABLE, text("WindowWidth", b"wide")),
        "window width nan": (UNREADABLE, text("WindowWidth", b"nan ")),
        "window width without end": (UNREADABLE, text("WindowWidth", b"1e999 ")),
        "window center in binary": (UNREADABLE, text("WindowCenter", b"\0\xff\x80\x01")),
        "window center with a comma": (UNREADABLE, text("WindowCenter", b"2048,5")),
        "windows of several values": (SCORED, voi(WindowCenter=["2048", "100"], WindowWidth=["4096", "50"])),
        "windows, the first empty": (SCORED, text("WindowCenter", b"\\2048 ")),
        "more centers than widths": (SCORED, voi(WindowCenter=["2048", "100", "7"])),
        "center without width": (SCORED, voi(WindowWidth=None)),
        "a window beside the values": (str(Reason.BLANK_IMAGE), voi(WindowCenter="90000", WindowWidth="10")),
        "VOI function unknown": (UNREADABLE, voi(VOILUTFunction="CUBIC")),
        "VOI function of two values": (UNREADABLE, voi(VOILUTFunction=["SIGMOID", "LINEAR"])),
        "SIGMOID": (SCORED, voi(VOILUTFunction="SIGMOID")),
        "slope 0": (str(Reason.BLANK_IMAGE), voi(RescaleSlope="0", RescaleIntercept="0")),
        "slope of words": (UNREADABLE, lambda: file(film(RescaleSlope=("DS", b"steep "), RescaleIntercept="0"))),
        "slope without intercept": (SCORED, voi(RescaleSlope="2")),
        "intercept of two values": (UNREADABLE, voi(RescaleSlope="1", RescaleIntercept=["0", "1"])),
        "shape of the presentation unknown": (SCORED, voi(PresentationLUTShape="ROUND")),
        "padding over everything": (
            str(Reason.BLANK_IMAGE),
            voi(WindowCenter=None, PixelPaddingValue=0, PixelPaddingRangeLimit=65535),
        ),
        "padding of words": (UNREADABLE, lambda: file(film(WindowCenter=None, PixelPaddingValue=("LO", b"nothing ")))),
        "VOI LUT": (SCORED, table("VOILUTSequence", lambda: lut(4096, 0, 16, ramp()))),
        "VOI LUT of 8 bits": (SCORED, table("VOILUTSequence", lambda: lut(4096, 0, 8, ramp(top=255)))),
        "VOI LUT that is too short": (UNREADABLE, table("VOILUTSequence", lambda: lut(4096, 0, 16, ramp(100)))),
        "VOI LUT of odd length": (SCORED, table("VOILUTSequence", lambda: lut(4096, 0, 16, ramp() + b"\0"))),
        "VOI LUT of no bits": (UNREADABLE, table("VOILUTSequence", lambda: lut(4096, 0, 0, ramp()))),
        "VOI LUT of 17 bits": (UNREADABLE, table("VOILUTSequence", lambda: lut(4096, 0, 17, ramp()))),
        "VOI LUT beyond the values": (
            str(Reason.BLANK_IMAGE),
            table("VOILUTSequence", lambda: lut(4096, 60000, 16, ramp())),
        ),
        "VOI LUT of a descriptor of two": (UNREADABLE, table("VOILUTSequence", _short_descriptor)),
        "VOI LUT without data": (UNREADABLE, table("VOILUTSequence", _no_data)),
        "VOI LUT of an empty item": (UNREADABLE, table("VOILUTSequence", Dataset)),
        "VOI LUT of no items": (SCORED, table("VOILUTSequence")),
        "Modality LUT": (SCORED, table("ModalityLUTSequence", lambda: lut(4096, 0, 16, ramp(top=4095)))),
        "Modality LUT that is too short": (UNREADABLE, table("ModalityLUTSequence", lambda: lut(4096, 0, 16, b"\0\0"))),
        "Modality LUT of an empty item": (UNREADABLE, table("ModalityLUTSequence", Dataset)),
    }


def _short_descriptor() -> Dataset:
    item = lut(4096, 0, 16, ramp())
    item.LUTDescriptor = [4096, 0]
    return item


def _no_data() -> Dataset:
    item = lut(4096, 0, 16, ramp())
    del item.LUTData
    return item


def _frames() -> _Makers:
    def halves(stream: bytes) -> list[bytes]:
        middle = len(stream) // 4 * 2
        return [stream[:middle], stream[middle:]]

    return {
        "float pixels": (SCORED, lambda: file(floats("FloatPixelData", "<f4", "OF"))),
        "double pixels": (SCORED, lambda: file(floats("DoubleFloatPixelData", "<f8", "OD"))),
        "float pixels and others": (UNREADABLE, lambda: file(floats("FloatPixelData", "<f4", "OF", both=True))),
        "JPEG 2000 without offset table": (SCORED, lambda: j2k(lambda c: [c], has_bot=False)),
        "JPEG 2000 with offset table": (SCORED, lambda: j2k(lambda c: [c], has_bot=True)),
        "JPEG 2000 with a wrong offset table": (
            UNREADABLE,
            lambda: with_offsets(j2k(lambda c: [c]), struct.pack("<I", 4711)),
        ),
        "JPEG 2000 with an offset table of 3 bytes": (UNREADABLE, lambda: with_offsets(j2k(lambda c: [c]), b"\0\0\0")),
        "JPEG 2000 with an extended offset table": (SCORED, extended_offsets),
        "JPEG 2000 in two fragments": (SCORED, lambda: _fragmented(halves(codestream()))),
        "JPEG 2000 in fragments of nothing": (SCORED, lambda: _fragmented([b"", codestream(), b""])),
        "JPEG 2000 without fragments": (UNREADABLE, lambda: _fragmented([])),
        "JPEG 2000, cut": (UNREADABLE, lambda: j2k(lambda c: [c[: len(c) // 2]])),
        "JPEG 2000 of another size": (UNREADABLE, lambda: _j2k_stated(Rows=ROWS + 1)),
        "JPEG 2000 of another depth": (SCORED, lambda: _j2k_stated(BitsStored=16, HighBit=15)),
        "JPEG 2000 of another sign": (SCORED, lambda: _j2k_stated(PixelRepresentation=1)),
        "a fragment longer than the file": (SCORED, lambda: _long_fragment()),
        "RLE of no segments": (UNREADABLE, lambda: file(encapsulated([bytes(64)]), uid.RLELossless)),
        "RLE of 255 segments": (UNREADABLE, lambda: file(encapsulated([b"\xff" * 64]), uid.RLELossless)),
        "RLE of a row too much": (UNREADABLE, lambda: file(encapsulated([rle(ROWS + 1)]), uid.RLELossless)),
        "RLE of 4 bytes": (UNREADABLE, lambda: file(encapsulated([b"\1\0\0\0"]), uid.RLELossless)),
    }


def _fragmented(fragments: list[bytes]) -> bytes:
    made = film()
    items = [struct.pack("<HHI", 0xFFFE, 0xE000, len(one)) + one for one in (b"", *fragments)]
    made.PixelData = b"".join(items) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    return file(made, uid.JPEG2000Lossless)


def _j2k_stated(**attributes: Any) -> bytes:
    made = encapsulated([codestream()])
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return file(made, uid.JPEG2000Lossless)


def _long_fragment() -> bytes:
    data = j2k(lambda c: [c])
    at = data.index(b"\xff\x4f\xff\x51") - 4
    return data[:at] + b"\xf0\xff\xff\x7f" + data[at + 4 :]


def odd_objects() -> Iterator[tuple[str, str, bytes]]:
    """Name, what is expected, and the file, of each; those of DCMTK only where it is installed."""
    mode, config.settings.writing_validation_mode = config.settings.writing_validation_mode, config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that no standard allows, meant so
            for group in (_syntaxes, _photometrics, _depths, _lengths, _contradictions, _windows, _frames):
                for name, (expected, make) in group().items():
                    yield name, expected, make()
            yield from by_dcmtk()
    finally:
        config.settings.writing_validation_mode = mode
