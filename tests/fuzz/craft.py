"""What odd objects are made of: a film whose attributes are anything, files that lie about themselves."""

import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset, uid
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.tag import Tag

from medd.records import Reason

#: It is scored.
SCORED = ""
#: C-STORE answers 0xC000, STOW-RS tells of a failure; a file becomes a row that says unreadable.
REFUSED = "refused"
#: It is taken in, and then not assessed for this or another `Reason`.
UNREADABLE = str(Reason.UNREADABLE)
ROWS, COLUMNS = 72, 80
_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.1"  # CR


def picture(bits: int = 12, dtype: str = "<u2") -> NDArray[Any]:
    """A smooth picture over the whole range of `bits`: (ROWS, COLUMNS)."""
    y, x = np.mgrid[:ROWS, :COLUMNS] / COLUMNS
    shade = 0.5 + 0.25 * np.sin(7 * x + 1) + 0.25 * np.cos(5 * y * (1 + x))
    return np.rint(shade * ((1 << bits) - 1)).clip(0, (1 << bits) - 1).astype(dtype)


def film(pixels: bytes | None = None, **attributes: Any) -> Dataset:
    """A CR image of 12 bits; attributes by keyword, None takes one away, `(VR, bytes)` is written as it is."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = _SOP_CLASS, "2.25.7"
    made.StudyInstanceUID, made.SeriesInstanceUID = "2.25.71", "2.25.72"
    made.Modality, made.BodyPartExamined, made.ViewPosition = "CR", "CHEST", "PA"
    made.PatientID, made.PatientName, made.PatientAge = "SYN-7", "SYN^SEVEN", "005Y"
    made.Rows, made.Columns, made.SamplesPerPixel = ROWS, COLUMNS, 1
    made.PhotometricInterpretation, made.PixelRepresentation = "MONOCHROME2", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
    made.WindowCenter, made.WindowWidth = "2048", "4096"
    made.PixelData = picture().tobytes() if pixels is None else pixels
    made["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        if value is None:
            made.pop(keyword, None)
        elif isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], bytes):
            tag = Tag(keyword)  # as it is: pydicom would look at the value
            made[tag] = RawDataElement(tag, value[0], len(value[1]), value[1], 0, False, True)
        else:
            setattr(made, keyword, value)
    return made


def file(dataset: Dataset, syntax: str = uid.ExplicitVRLittleEndian, *, stated: str = "") -> bytes:
    """A Part 10 file.

    Args:
        dataset: The object.
        syntax: How it is written.
        stated: (0002,0010) Transfer Syntax UID where that says something else.
    """
    kind = uid.UID(syntax)
    if stated:
        dataset.AccessionNumber = stated[-16:]  # else it were the same instance as without the lie
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = _SOP_CLASS
    dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.7"
    dataset.file_meta.TransferSyntaxUID = kind
    stream = BytesIO()
    pydicom.dcmwrite(
        stream,
        dataset,
        implicit_vr=kind.is_implicit_VR,
        little_endian=kind.is_little_endian,
        enforce_file_format=True,
    )
    return restate(stream.getvalue(), stated) if stated else stream.getvalue()


def restate(data: bytes, syntax: str) -> bytes:
    """A file that says of itself to be in another transfer syntax."""
    at = data.index(b"\x02\x00\x10\x00UI")
    (size,) = struct.unpack_from("<H", data, at + 6)
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = int.from_bytes(data[140:144], "little") + len(value) - size
    changed = data[: at + 6] + struct.pack("<H", len(value)) + value + data[at + 8 + size :]
    return changed[:140] + struct.pack("<I", meta) + changed[144:]


def raw(group: int, element: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    """An element in Explicit VR Little Endian whose length may be a lie."""
    size = len(value) if length is None else length
    long = vr in ("OB", "OW", "OF", "OD", "SQ", "UN", "UT", "UC", "UR")
    head = struct.pack("<HH2s", group, element, vr.encode())
    return head + (struct.pack("<HI", 0, size) if long else struct.pack("<H", size & 0xFFFF)) + value


def insert(data: bytes, element: bytes, before: tuple[int, int] = (0x0008, 0x0060)) -> bytes:
    """`data` with bytes put before an element of its own."""
    at = data.index(struct.pack("<HH", *before), 144 + int.from_bytes(data[140:144], "little"))
    return data[:at] + element + data[at:]


def nested(depth: int, *, defined: bool = False) -> bytes:
    """(0008,1140) *Referenced Image Sequence*, so deep."""
    inner = b""
    for _ in range(depth):
        if defined:
            inner = raw(8, 0x1140, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner)
        else:
            item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
            inner = raw(8, 0x1140, "SQ", item + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0), 0xFFFFFFFF)
    return inner


def lut(entries: int, first: int, bits: int, data: bytes, vr: str = "OW") -> Dataset:
    """An item of a LUT sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [entries, first, bits])
    item.add_new("LUTData", vr, data)
    return item


def ramp(entries: int = 4096, top: int = 65535) -> bytes:
    return np.linspace(0, top, entries).astype("<u2").tobytes()


def paletted(entries: int = 256, bits: int = 16, blue: int = 1, **more: Any) -> Dataset:
    made = film(picture(8, "u1").tobytes(), BitsAllocated=8, BitsStored=8, HighBit=7, WindowCenter=None)
    made.PhotometricInterpretation = "PALETTE COLOR"
    table = np.linspace(0, (1 << bits) - 1, 256)
    for colour, factor in (("Red", 1), ("Green", 1), ("Blue", blue)):
        made.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [entries, 0, bits])
        values = (table / factor).astype("<u2" if bits > 8 else "u1").tobytes()
        made.add_new(f"{colour}PaletteColorLookupTableData", "OW", values)
    for keyword, value in more.items():
        if value is None:
            del made[keyword]
        else:
            setattr(made, keyword, value)
    return made


def coloured(kind: str, factors: tuple[float, float, float] = (1, 1, 1), planar: int = 0, **more: Any) -> Dataset:
    grey = picture(8, "u1")
    bands = [grey * factor if factor >= 0 else np.full(grey.shape, 128.0) for factor in factors]
    cells = np.stack(bands, 0 if planar else 2).astype("u1").tobytes()
    return film(
        cells,
        **{
            "SamplesPerPixel": 3,
            "PlanarConfiguration": planar,
            "PhotometricInterpretation": kind,
            "BitsAllocated": 8,
            "BitsStored": 8,
            "HighBit": 7,
            "WindowCenter": None,
            "WindowWidth": None,
            **more,
        },
    )


def ybr_422() -> Dataset:
    grey = picture(8, "u1").reshape(-1, 2)
    neutral = np.full((len(grey), 2), 128, "u1")
    return coloured("YBR_FULL_422", PixelData=np.hstack((grey, neutral)).tobytes())


def of_bits(allocated: int, stored: int, dtype: str, *, signed: bool = False, high: int | None = None) -> Dataset:
    cells = picture(min(stored, 16), "<i8")
    if signed:
        cells = cells - (1 << (min(stored, 16) - 1))
    made = film(cells.astype(dtype).tobytes(), BitsAllocated=allocated, BitsStored=stored)
    made.HighBit, made.PixelRepresentation = stored - 1 if high is None else high, int(signed)
    del made.WindowCenter
    return made


def one_bit() -> Dataset:
    cells = np.packbits(picture(1, "u1").ravel(), bitorder="little").tobytes()
    return film(cells, BitsAllocated=1, BitsStored=1, HighBit=0, WindowCenter=None)


def floats(keyword: str, dtype: str, vr: str, *, both: bool = False) -> Dataset:
    made = film(BitsAllocated=32 if dtype == "<f4" else 64, WindowCenter=None)
    pixels = made.PixelData
    del made.PixelData
    made.add_new(keyword, vr, picture().astype(dtype).tobytes())
    if both:
        made.PixelData = pixels
    return made


def encapsulated(fragments: list[bytes], **more: Any) -> Dataset:
    made = film(BitsAllocated=16, BitsStored=12)
    made.PixelData = encapsulate(fragments, **more)
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    return made


def rle(rows: int) -> bytes:
    """A frame of 16 bits in two segments, each of so many rows of one value (PS3.5 Annex G)."""
    segment = bytes((257 - COLUMNS, 7)) * rows
    return struct.pack("<16I", 2, 64, 64 + len(segment), *([0] * 13)) + segment * 2


def codestream() -> bytes:
    made = film()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    made.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    return bytes(next(pydicom.encaps.generate_frames(made.PixelData, number_of_frames=1)))


def extended_offsets() -> bytes:
    made = film()
    made.PixelData, offsets, lengths = encapsulate_extended([codestream()])
    made["PixelData"].VR = "OB"
    made.ExtendedOffsetTable, made.ExtendedOffsetTableLengths = offsets, lengths
    return file(made, uid.JPEG2000Lossless)


def j2k(fragments: Callable[[bytes], list[bytes]], *, stated: str = "", **more: Any) -> bytes:
    return file(encapsulated(fragments(codestream()), **more), uid.JPEG2000Lossless, stated=stated)


def with_offsets(data: bytes, table: bytes) -> bytes:
    """The Basic Offset Table, the first item of the pixel data, replaced."""
    at = data.index(b"\xe0\x7f\x10\x00") + 12
    (size,) = struct.unpack_from("<I", data, at + 4)
    return data[: at + 4] + struct.pack("<I", len(table)) + table + data[at + 8 + size :]
