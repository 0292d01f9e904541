"""Damage to DICOM objects that keeps them objects: elements changed, added, doubled, nested, with lengths that lie."""

import random
import struct
from dataclasses import dataclass, replace

from medd.dicom.part10 import ELEMENT, LENGTH, LONG_VRS, SHORT_VRS, encode_file_meta
from tests.fuzz.craft import nested
from tests.fuzz.mutate import INTEGERS, damage, integer, words_of

_UNDEFINED = 0xFFFFFFFF
#: What parsers of DICOM, and of what it carries, look for: items, elements, markers of JPEG and JPEG 2000, texts.
WORDS = words_of(
    r"""
    \xfe\xff\x00\xe0\xff\xff\xff\xff \xfe\xff\x0d\xe0\0\0\0\0 \xfe\xff\xdd\xe0\0\0\0\0
    \xe0\x7f\x10\0OW\0\0\xff\xff\xff\xff \x08\0\x05\0CS\x0a\0ISO_IR\x20192
    \x28\0\x10\0US\x02\0\xff\xff \x28\0\x11\0US\x02\0\0\0 \x28\0\0\x01US\x02\0\x20\0
    \xff\xd8\xff\xf7 \xff\xd8\xff\xc0 \xff\xd8 \xff\xd9 \xff\xda \xff\xc0 \xff\xc3 \xff\xf8 \xff\xc4 \xff\xdb
    \xff\xdd\0\x04\0\x01 \xff\xfe\0\x02 \xff\x4f\xff\x51 \xff\x52 \xff\x5c \xff\x90\0\x0a \xff\x93 \xff\x64
    \xff\x53 \xff\x55 \xff\x58 \xff\x5f \xff\x76
    DICM 1.2.840.10008.1.2.1.99 1.2.840.10008.1.2.2\0 1.2.840.10008.1.2.4.90 1.2.840.10008.1.2.5\0
    \\ \0 \xff\xff\xff\xff \x1b$B nan 1e999 -1 PALETTE\x20COLOR YBR_FULL_422 RGB\x20
    """
)
_VRS = sorted(SHORT_VRS | LONG_VRS)
_SYNTAXES = [f"1.2.840.10008.1.2{tail}" for tail in ("", ".1", ".2", ".1.99", ".5")]
_SYNTAXES += [f"1.2.840.10008.1.2.4.{tail}" for tail in (50, 51, 57, 70, 80, 81, 90, 91, 100, 201, 202, 203, 95, 205)]
_US = (0x00280002, 0x00280006, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00280120)
_DS = (0x00281050, 0x00281051, 0x00281052, 0x00281053)
_CS = (0x00080005, 0x00080008, 0x00080060, 0x00100040, 0x00180015, 0x00185101, 0x00280004, 0x00281056, 0x20500020)
_UI = (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)
_LO = (0x00080050, 0x00080070, 0x00081010, 0x00081030, 0x00100020, 0x00181030)
_NUMBERS = (
    b"",
    *words_of(r"0 -1 1 0.5 nan inf 1e999 -1e308 2048\\100 \\1 1,5 0x10 1_0 \x2012\x20 \0 \xff\xfe"),
    b"9" * 300,
)
_CODES = words_of(
    r"""
    MONOCHROME1 MONOCHROME2 PALETTE\x20COLOR RGB YBR_FULL YBR_FULL_422 YBR_ICT YBR_RCT CR DX SR PA LL HAND A\\F
    DERIVED\\SECONDARY SIGMOID LINEAR_EXACT INVERSE ISO_IR\x20192 ISO\x202022\x20IR\x2087 \\ISO\x202022\x20IR\x20149
    GB18030
    """
)
_CODES += (b"", b"\xff" * 20, b"A" * 70, b"\\" * 40)
_TEXTS = (b"", *words_of(r"\0 \x1b$B \x1b(J\xff \xe4\xf6\xfc \xe6\x82\xa3 \xc3 \xed\xa0\x80 \r\n\t"), b"7" * 2000)


@dataclass(frozen=True, slots=True)
class Element:
    """An element as it is written, whatever it says of itself."""

    tag: int
    vr: bytes
    value: bytes
    #: What its length field says, where that is not the length of its value.
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file in explicit VR, little endian, at its top level."""

    head: bytes
    elements: tuple[Element, ...]


def parse(data: bytes) -> Parsed | None:
    """The elements of a Part 10 file in explicit VR; of an undefined length, all that follows is its value."""
    if data[128:132] != b"DICM" or len(data) < 144:
        return None
    position = 144 + int.from_bytes(data[140:144], "little")
    head, elements = data[:position], []
    while position + 8 <= len(data):
        group, number, vr, length = ELEMENT.unpack_from(data, position)
        if vr in SHORT_VRS:
            start = position + 8
        elif vr in LONG_VRS and position + 12 <= len(data):
            start, length = position + 12, LENGTH.unpack_from(data, position + 8)[0]
        else:
            return None
        end = len(data) if length == _UNDEFINED else start + length
        stated = length if end > len(data) or length == _UNDEFINED else None
        elements.append(Element(group << 16 | number, vr, data[start:end], stated))
        position = end
    return Parsed(head, tuple(elements)) if elements else None


def write(parsed: Parsed, *, implicit: bool = False) -> bytes:
    """The file again, as its elements say."""
    return parsed.head + b"".join(_encode(element, implicit) for element in parsed.elements)


def _encode(one: Element, implicit: bool) -> bytes:
    tag = struct.pack("<HH", one.tag >> 16, one.tag & 0xFFFF)
    length = len(one.value) if one.length is None else one.length
    if implicit:
        return tag + LENGTH.pack(length & _UNDEFINED) + one.value
    if one.vr in LONG_VRS:
        return tag + one.vr + b"\0\0" + LENGTH.pack(length & _UNDEFINED) + one.value
    return tag + one.vr + struct.pack("<H", length & 0xFFFF) + one.value


def vary(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """An object after a few changes to its elements; what is no object in explicit VR is damaged as bytes."""
    parsed = parse(data) if rng.random() < 0.75 else None
    if parsed is None:
        return damage(rng, data, other, WORDS)
    elements = list(parsed.elements)
    for _ in range(1 + min(int(rng.expovariate(0.5)), 9)):
        _change(rng, elements, other)
    head, implicit = parsed.head, False
    if rng.random() < 0.1:
        head, implicit = encode_file_meta("1.2", "2.25.7", rng.choice(_SYNTAXES)), rng.random() < 0.2
    changed = write(Parsed(head, tuple(elements)), implicit=implicit)
    return damage(rng, changed, other, WORDS) if rng.random() < 0.1 else changed


def _change(rng: random.Random, elements: list[Element], other: bytes) -> None:
    at = rng.randrange(len(elements)) if elements else 0
    what = rng.randrange(12)
    if what <= 3 or not elements:  # an attribute that is looked at, with an odd value
        added = odd(rng)
        places = [place for place, one in enumerate(elements) if one.tag == added.tag]
        if places and rng.random() < 0.9:
            elements[places[0]] = added
        else:
            behind = [place for place, one in enumerate(elements) if one.tag > added.tag]
            elements.insert(behind[0] if behind and rng.random() < 0.9 else at, added)
    elif what == 4:
        del elements[at]
    elif what == 5:
        elements.insert(rng.randrange(len(elements)), elements[at])
    elif what == 6:
        elements[at] = replace(elements[at], vr=rng.choice(_VRS))
    elif what == 7:
        near = len(elements[at].value) + rng.choice((-2, -1, 1, 2))
        elements[at] = replace(elements[at], length=rng.choice((*INTEGERS, near, near, near)))
    elif what == 8:
        depth = rng.choice((1, 2, 10, 33, 70, 400))
        deep = nested(depth, defined=rng.random() < 0.5)
        if rng.random() < 0.3:
            deep = damage(rng, deep, other, WORDS)
        elements.insert(
            at, Element(0x00081140, b"UN", b"") if not deep else Element(0x00081140, b"SQ", deep[12:], _UNDEFINED)
        )
    elif what == 9:
        elements[at] = Element(rng.choice((elements[at].tag, rng.getrandbits(32))), elements[at].vr, elements[at].value)
    else:  # what it holds; every second time the pixels
        at = len(elements) - 1 if rng.random() < 0.5 else at
        value = damage(rng, elements[at].value or b"\0", other, WORDS)
        elements[at] = replace(elements[at], value=value)


def odd(rng: random.Random) -> Element:
    """An attribute that medd looks at, with a value that it may not have."""
    kind = rng.randrange(8)
    if kind == 0:
        value = (
            integer(rng, 2)
            if rng.random() < 0.5
            else struct.pack("<H", rng.choice((0, 1, 3, 8, 12, 16, 32, 64, 72, 80)))
        )
        return Element(
            rng.choice(_US), rng.choice((b"US", b"US", b"US", b"SS", b"LO")), value * rng.choice((1, 1, 1, 2, 0))
        )
    if kind == 1:
        return Element(rng.choice(_DS), b"DS", _even(rng.choice(_NUMBERS)))
    if kind == 2:
        return Element(rng.choice(_CS), b"CS", _even(rng.choice(_CODES)))
    if kind == 3:
        uid = rng.choice(
            (b"", b"1.2.3", b"1." * 40, b"\xff" * 8, b"../../etc", b"1.2\\3.4", rng.randbytes(16).hex().encode())
        )
        return Element(rng.choice(_UI), b"UI", uid + b"\0" * (len(uid) % 2))
    if kind == 4:
        return Element(rng.choice(_LO), b"LO", _even(rng.choice(_TEXTS)))
    if kind == 5:
        return Element(0x00280008, b"IS", _even(rng.choice(_NUMBERS)))
    if kind == 6:
        return _odd_lut(rng)
    tag = rng.choice((0x7FE00001, 0x7FE00008, 0x7FE00009, 0x7FE00010))
    return Element(tag, rng.choice((b"OW", b"OB", b"OF", b"OV", b"UN")), rng.randbytes(rng.choice((0, 1, 64, 11520))))


def _odd_lut(rng: random.Random) -> Element:
    entries = rng.choice((0, 1, 16, 256, 4096, 65535))
    descriptor = struct.pack("<3H", entries, rng.choice((0, 1, 0x8000, 65535)), rng.choice((0, 7, 8, 12, 16, 17, 255)))
    data = rng.randbytes(rng.choice((0, 1, 2 * entries, 2 * entries + 1, entries)))
    item = _encode(Element(0x00283002, rng.choice((b"US", b"SS")), descriptor[: rng.choice((6, 6, 6, 4, 0))]), False)
    item += _encode(Element(0x00283006, rng.choice((b"OW", b"US", b"UN")), data[:60_000]), False)
    items = struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
    return Element(rng.choice((0x00283000, 0x00283010)), b"SQ", items * rng.choice((1, 1, 1, 2, 0)))


def _even(value: bytes) -> bytes:
    return value + b" " * (len(value) % 2)
