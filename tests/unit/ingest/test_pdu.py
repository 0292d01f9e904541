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


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def associate_rq(user_information: bytes) -> pdu.AssociateRequest:
    body = struct.pack(">HH16s16s32x", 1, 0, b"MEDD".ljust(16), b"ROOM1".ljust(16))
    return pdu.decode_associate_rq(body + item(0x50, user_information))


def role(uid: bytes, scu: int, scp: int) -> bytes:
    return item(0x54, struct.pack(">H", len(uid)) + uid + bytes((scu, scp)))


def test_proposed_roles_and_the_peers_longest_pdu_are_read() -> None:
    request = associate_rq(
        item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2") + role(b"1.2.3", 0, 1) + role(b"1.2.4", 1, 1)
    )
    assert request.max_length == 16384
    assert request.roles == {"1.2.3": (0, 1), "1.2.4": (1, 1)}


@pytest.mark.parametrize(
    "user_information",
    [
        b"",
        b"\x51",
        b"\x51\0\0\x04\0\0",
        item(0x51, b"\1"),
        item(0x54, b"\xff\xff1.2"),
        item(0x54, b""),
        b"\x54\0\xff\xff",
    ],
)
def test_user_information_that_is_malformed_keeps_nobody_out(user_information: bytes) -> None:
    request = associate_rq(user_information)
    assert (request.calling_ae, request.max_length, request.roles) == ("ROOM1", 0, {})


def test_accepted_roles_are_told_back() -> None:
    request_body = struct.pack(">HH16s16s32x", 1, 0, b"MEDD".ljust(16), b"ROOM1".ljust(16))
    answer = pdu.encode_associate_ac(request_body, [], "1.2", "MEDD", {"1.2.3": (0, 1)})
    assert role(b"1.2.3", 0, 1) in answer
    assert b"\x54" not in pdu.encode_associate_ac(request_body, [], "1.2", "MEDD")


def test_action_request_is_read_by_the_names_its_elements_have() -> None:
    action = {"x0003": b"1.2\0", "x0100": b"\x30\x01", "x0110": b"\x07\0", "x0800": b"\x01\x01", "x1001": b"1.2.3\0"}
    assert pdu.decode_command(command_set(**action, x1008=b"\1\0")) == pdu.Command(0x0130, 7, "1.2", "1.2.3", False, 1)


def test_response_names_the_message_it_responds_to() -> None:
    response = {"x0100": b"\x00\x81", "x0120": b"\x09\0", "x0800": b"\x01\x01", "x0900": b"\x10\x01"}
    assert pdu.decode_command(command_set(**response)) == pdu.Command(0x8100, 9, "", "", False, status=0x0110)
    del response["x0120"]
    with pytest.raises(pdu.ProtocolError, match="0120"):
        pdu.decode_command(command_set(**response))


def test_cancel_names_the_message_it_cancels() -> None:
    cancel = {"x0100": b"\xff\x0f", "x0120": b"\x09\0", "x0800": b"\x01\x01"}
    assert pdu.decode_command(command_set(**cancel)).message_id == 9


@pytest.mark.parametrize("max_length", [0, 8, 50, 106, 107, 16384])
@pytest.mark.parametrize("size", [1, 100, 101, 1000])
def test_request_is_cut_into_pdus_that_the_peer_takes(max_length: int, size: int) -> None:
    dataset = bytes(range(250)) * 4
    request = pdu.Command(pdu.EVENT_REPORT_RQ, 3, "1.2", "1.2.3", True, 2)
    stream = b"".join(pdu.encode_request(5, request, dataset[:size], max_length))
    command, fragments, controls, position = b"", b"", [], 0
    while position < len(stream):
        kind, length, value_length, context_id, control = struct.unpack_from(">BxIIBB", stream, position)
        assert (kind, context_id, value_length) == (pdu.DATA_TF, 5, length - 4)
        fragment = stream[position + 12 : position + 6 + length]
        assert not max_length or length <= max_length
        assert control & 2 or len(fragment) % 2 == 0, "PS3.8 Annex E"
        controls.append(control)
        if control & 1:
            command += fragment
        else:
            fragments += fragment
        position += 6 + length
    assert pdu.decode_command(command) == request
    assert fragments == dataset[:size]
    assert controls == [1] * controls.index(3) + [3] + [0] * (controls.index(2) - controls.index(3) - 1) + [2]
