"""The bytes around a dataset: what kind of file it is, and the File Meta Information of PS3.10 section 7."""

import struct

from medd.errors import InputError
from medd.records import MediaType, Reason

#: Ours, derived from a UUID (PS3.5 section B.2).
IMPLEMENTATION_CLASS_UID = "2.25.325975610903567414087916588139821427387"
IMPLEMENTATION_VERSION_NAME = "MEDD_0_1"

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
#: Syntaxes whose whole dataset is deflated (PS3.5 section A.5): with it JPIP Referenced Deflate, of both kinds.
DEFLATED = frozenset(("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"))

#: How much of a file is looked at at once to find its header.
HEAD_BYTES = 1 << 20

#: The first bytes of a file → what it is.
_MAGIC = (
    (b"\xff\xd8\xff", MediaType.JPEG),
    (b"\x89PNG\r\n\x1a\n", MediaType.PNG),
    (b"II*\0", MediaType.TIFF),
    (b"MM\0*", MediaType.TIFF),
)

#: Group, element, VR and a length of 16 bits; a length of 32 bits (PS3.5 section 7.1).
ELEMENT = struct.Struct("<HH2sH")
LENGTH = struct.Struct("<I")
#: PS3.5 section 7.1.2: these VRs have two reserved bytes and a length of 32 bits; the others one of 16.
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())


def media_type_of(beginning: bytes) -> MediaType:
    """What a file is, by its first bytes; what nobody knows is tried as DICOM."""
    if beginning[128:132] == b"DICM":
        return MediaType.DICOM  # whose preamble may be that of a TIFF (PS3.10 section 7.1)
    return next((kind for magic, kind in _MAGIC if beginning.startswith(magic)), MediaType.DICOM)


def clean(text: str) -> str:
    """Without padding, and without characters that databases and terminals choke on."""
    text = text.strip(" \0\t\r\n")
    return text if text.isprintable() else "".join(c for c in text if c.isprintable())


def split_file(data: bytes | bytearray) -> tuple[int, str]:
    """Find the dataset in a file that holds a DICOM object.

    Args:
        data: The beginning of the file.

    Returns:
        The offset of the dataset, and its transfer syntax UID. A file without preamble and meta group (PS3.10 allows
        neither, but they exist) starts at 0; its syntax is told from its first element.

    Raises:
        InputError: It does not begin as a DICOM object.
    """
    has_preamble = bytes(data[128:132]) == b"DICM"
    position, end, syntax = 132 if has_preamble else 0, len(data), ""
    # The meta group is always Explicit VR Little Endian (PS3.10 section 7.1). Strangers' lengths of it are often wrong,
    # so it ends with the last element of group 0002; but behind one that we wrote, a dataset may begin with anything.
    behind, is_ours = 0, False
    while position + 12 <= end and not (is_ours and position == behind):
        group, element, vr, length = ELEMENT.unpack_from(data, position)
        if group != 0x0002:
            break
        start = position + 8
        if vr in LONG_VRS:
            length, start = LENGTH.unpack_from(data, position + 8)[0], position + 12
        elif vr not in SHORT_VRS:
            raise InputError(Reason.UNREADABLE, "damaged file meta group")
        if element == 0x0000 and vr == b"UL":
            behind = start + length + LENGTH.unpack_from(data, start)[0]
        elif element == 0x0012:
            is_ours = bytes(data[start : start + length]).rstrip(b"\0") == IMPLEMENTATION_CLASS_UID.encode()
        elif element == 0x0010:
            syntax = clean(bytes(data[start : start + length]).decode("ascii", "replace"))[:64]
        position = start + length
    if position + 12 > end and (syntax or has_preamble):
        raise InputError(Reason.UNREADABLE, f"no dataset behind the file meta group. Received: {end} bytes")
    if not syntax:
        group, _, vr, _ = ELEMENT.unpack_from(data, position) if position + 8 <= end else (0, 0, b"", 0)
        if group != 0x0008:
            message = f"neither a DICOM object nor a JPEG, PNG or TIFF. Received: {bytes(data[:4])!r}, {end} bytes"
            raise InputError(Reason.UNREADABLE, message)
        explicit = vr in SHORT_VRS or vr in LONG_VRS
        syntax = EXPLICIT_VR_LITTLE_ENDIAN if explicit else IMPLICIT_VR_LITTLE_ENDIAN
    return position, syntax


def encode_file_meta(
    sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae: str = ""
) -> bytes:
    """Preamble and File Meta Information for a bare dataset (PS3.10 section 7.1)."""
    elements = [
        b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01",
        _meta(0x0002, b"UI", sop_class_uid),
        _meta(0x0003, b"UI", sop_instance_uid),
        _meta(0x0010, b"UI", transfer_syntax_uid),
        _meta(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
        _meta(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
    ]
    if calling_ae:
        elements.append(_meta(0x0016, b"AE", calling_ae))
    group = b"".join(elements)
    return b"\0" * 128 + b"DICM\x02\x00\x00\x00UL\x04\x00" + LENGTH.pack(len(group)) + group


def _meta(element: int, vr: bytes, value: str) -> bytes:
    data = value.encode("ascii", "replace")
    data += (b"\0" if vr == b"UI" else b" ") * (len(data) % 2)
    return ELEMENT.pack(0x0002, element, vr, len(data)) + data
