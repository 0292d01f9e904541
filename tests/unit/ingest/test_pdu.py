"""The bytes of the upper layer, as a stranger may send them."""

import struct

import pytest

from medd.ingest import pdu


def command_set(**elements: bytes) -> bytes:
    group = b"".join(
        struct.pack("<HHI", 0, int(name[1:], 16), len(value)) + value for name, value in sorted(elements.items())
    )
    return struct.pack("<HHII", 0, 0, 4, len(group)) + group


SOUND = {"x0100": b"\x01\x00", "x0110": b"\x07\x00", "x0800": b"\x00\x00", "x0002": b"1.2\0", "x1000": b"1.2.3\0"}


def test_command_is_read() -> None:
    assert pdu.decode_command(command_set(**SOUND)) == pdu.Command(1, 7, "1.2", "1.2.3", True)


@pytest.mark.parametrize("name", ["x0100", "x0110", "x0800"])
def test_number_that_is_too_long_or_missing_is_a_protocol_error(name: str) -> None:
    with pytest.raises(pdu.ProtocolError):
        pdu.decode_command(command_set(**SOUND | {name: b"\x01\x00\x00\x00"}))
    with pytest.raises(pdu.ProtocolError):
        pdu.decode_command(command_set(**{key: value for key, value in SOUND.items() if key != name}))


@pytest.mark.parametrize(
    ("field", "title"),
    [(b"STORESCU        ", "STORESCU"), (b"CR1\0garbage\0\0\0\0\0", "CR1"), (b"CR\x1b[31m1        ", "CR[31m1")],
)
def test_ae_title_is_free_of_padding_and_of_what_a_terminal_would_obey(field: bytes, title: str) -> None:
    body = struct.pack(">HH16s16s32x", 1, 0, b"MEDD".ljust(16), field)
    request = pdu.decode_associate_rq(body)
    assert (request.called_ae, request.calling_ae) == ("MEDD", title)
