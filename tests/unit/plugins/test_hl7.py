"""HL7 v2 over MLLP, against a real socket and an independent parser."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import hl7
import pytest

from medd import DISCLAIMER, settings
from medd.errors import PeerRefused, TransientError
from medd_hl7.destination import Hl7Destination
from medd_hl7.message import build, escape, read_acknowledgement
from tests.rows import prediction_of
from tests.support import free_port
from tests.unit.deliver.conftest import report  # noqa: F401


class Nameless:
    """The objects of a report of image files."""

    def make(self, kind: str) -> tuple[()]:
        return ()

    def patient_name(self) -> str:
        return ""


SIDES = {"sending": ("MEDD", "ward"), "receiving": ("RIS", "hospital")}


class Receiver:
    """Takes one message a connection and answers as it is told."""

    def __init__(self, answer: Callable[[str], bytes]) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.received: list[str] = []
        self._answer = answer
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                data = b""
                while not data.endswith(b"\x1c\r") and (more := connection.recv(4096)):
                    data += more
                self.received.append(data[1:-2].decode())
                connection.sendall(self._answer(self.received[-1]))

    def close(self) -> None:
        self._socket.close()


def acknowledge(code: str, text: str = "") -> Callable[[str], bytes]:
    def answer(message: str) -> bytes:
        control = str(hl7.parse(message).segment("MSH")[10])
        return f"\x0bMSH|^~\\&|RIS||MEDD||20260102||ACK|1|P|2.5.1\rMSA|{code}|{control}|{text}\r\x1c\r".encode()

    return answer


@pytest.fixture
def receiver(request: pytest.FixtureRequest) -> Iterator[Receiver]:
    made = Receiver(request.param)
    yield made
    made.close()


def send(tmp_path, port: int, report, **keys: object) -> list:  # noqa: F811
    own = Hl7Destination.Settings(host="127.0.0.1", port=port, timeout_s=2, **keys)
    return list(Hl7Destination("ris", own, settings.load(tmp_path)).send(report, Nameless(), ()))


def test_an_independent_parser_reads_what_was_meant(report):  # noqa: F811
    message = hl7.parse(build(report, **SIDES, patient_name="Иванов^Иван=IVANOV^IVAN"))
    msh, pid, obr = (message.segment(name) for name in ("MSH", "PID", "OBR"))
    assert (str(msh[3]), str(msh[5]), str(msh[9]), str(msh[12]), str(msh[18])) == (
        "MEDD",
        "RIS",
        "ORU^R01^ORU_R01",
        "2.5.1",
        "UNICODE UTF-8",
    )
    assert len(str(msh[10])) <= 20
    assert message.unescape(str(pid[3])) == "P|1^2&3~4\\5\r6", "no patient id breaks out of its field"
    assert str(pid[5]) == "Иванов^Иван"
    assert (str(obr[3]), str(obr[25])) == ("=A1", "P")
    observations = {(str(one[4]), str(one[3]).split("^")[0]): str(one[5]) for one in message.segments("OBX")}
    values = list(observations.values())
    assert "1.2.1" in values
    assert "87.5" in values
    assert "not assessed: lateral_view" in values
    assert {str(one[11]) for one in message.segments("OBX")} == {"P"}, "nobody has verified it"
    assert str(message.segment("NTE")[3]) == DISCLAIMER


def test_the_same_report_is_the_same_message(report):  # noqa: F811
    assert build(report, **SIDES) == build(report, **SIDES)


def observed(report, **prediction: object) -> list[tuple[str, str]]:  # noqa: F811
    """The observations of the report's first image, had it this prediction."""
    first = replace(report.images[0], prediction=prediction_of(1, **prediction))
    segments = hl7.parse(build(replace(report, images=(first,)), **SIDES)).segments("OBX")
    return [(str(one[3]).split("^")[0], str(one[5])) for one in segments][2:]


def test_what_is_below_the_threshold_is_said_to_be_just_that_and_reads_like_it(report):  # noqa: F811
    assert observed(report, probability=0.49996, flags=("age_outside_training",)) == [
        ("MEDD-FINDING", "PNEUMONIA"),
        ("MEDD-PROBABILITY", "49.996"),
        ("MEDD-THRESHOLD", "50.000"),
        ("MEDD-COMPARISON", "BELOW threshold"),
        ("MEDD-MODEL", "stub/1"),
        ("MEDD-FLAG", "age_outside_training"),
    ]


def test_of_several_findings_the_threshold_is_for_their_sum(report):  # noqa: F811
    said = {"NORMAL": 0.4, "VIRAL": 0.2, "BACTERIAL": 0.4}
    told = observed(report, probability=0.6, probabilities=said, findings=("VIRAL", "BACTERIAL"))
    assert told[:5] == [
        ("MEDD-FINDING", "BACTERIAL"),
        ("MEDD-PROBABILITY", "40.0"),
        ("MEDD-TOTAL", "60.0"),
        ("MEDD-THRESHOLD", "50.0"),
        ("MEDD-COMPARISON", "at or above threshold"),
    ]


def test_control_characters_end_no_segment():
    assert escape("a\rOBX|1\x0b\x1c") == "a\\X0D\\OBX\\F\\1"


@pytest.mark.parametrize("receiver", [acknowledge("AA")], indirect=True)
def test_a_message_is_sent_and_acknowledged(tmp_path, receiver, report):  # noqa: F811
    [taken] = send(tmp_path, receiver.port, report)
    assert (taken.object, taken.answer) == (report.sop_instance_uid, "AA")
    assert len(receiver.received) == 1


@pytest.mark.parametrize("receiver", [acknowledge("AR", "patient DOE^JOHN unknown")], indirect=True)
def test_a_rejection_is_final_and_what_it_says_of_the_patient_is_not_repeated(tmp_path, receiver, report):  # noqa: F811
    with pytest.raises(PeerRefused, match=r"answered with AR$"):
        send(tmp_path, receiver.port, report)


@pytest.mark.parametrize("receiver", [lambda message: acknowledge("AA")(message) + b"\r\n"], indirect=True)
def test_a_line_end_behind_the_acknowledgement_does_no_harm(tmp_path, receiver, report):  # noqa: F811
    assert len(send(tmp_path, receiver.port, report)) == 1


def test_a_receiver_that_trickles_is_given_up_in_time(tmp_path, report):  # noqa: F811
    listening = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def trickle() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            while not stop.wait(0.2):
                connection.sendall(b"M")

    thread = threading.Thread(target=trickle)
    thread.start()
    began = time.monotonic()
    try:
        with pytest.raises(TransientError, match=r"takes too long|timed out"):
            send(tmp_path, listening.getsockname()[1], report)
    finally:
        stop.set()
        thread.join()
        listening.close()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("dicom", "written"),
    [
        ("Adams^John^Robert^Rev.^Jr.", "Adams^John^Robert^Jr.^Rev."),
        ("Adams^John^Robert^Rev.", "Adams^John^Robert^^Rev."),
        ("Adams^John", "Adams^John"),
        ("", ""),
    ],
)
def test_prefix_and_suffix_change_places(report, dicom, written):  # noqa: F811
    message = hl7.parse(build(report, **SIDES, patient_name=dicom))
    assert str(message.segment("PID")[5]) == written


@pytest.mark.parametrize(
    "receiver",
    [lambda _message: b"", lambda _message: b"\x0bMSH|^~\\&|\r\x1c\r", lambda _message: b"\x0bMSA|AA|other\r\x1c\r"],
    indirect=True,
)
def test_what_acknowledges_nothing_is_tried_again(tmp_path, receiver, report):  # noqa: F811
    with pytest.raises(TransientError, match="no acknowledgement"):
        send(tmp_path, receiver.port, report)


def test_a_receiver_that_is_away_is_waited_for(tmp_path, report):  # noqa: F811
    with pytest.raises(TransientError, match="no acknowledgement"):
        send(tmp_path, free_port(), report)


def test_a_receiver_whose_certificate_has_expired_is_waited_for(tmp_path, report, monkeypatch):  # noqa: F811
    def expired(*_args: object) -> str:
        raise ssl.SSLCertVerificationError

    monkeypatch.setattr(Hl7Destination, "_exchange", expired)
    monkeypatch.setattr(ssl.SSLCertVerificationError, "verify_message", "certificate has expired", raising=False)
    with pytest.raises(TransientError, match="certificate has expired"):
        send(tmp_path, 1, report)


def test_an_acknowledgement_of_another_message_is_none():
    with pytest.raises(ValueError, match="another"):
        read_acknowledgement("MSH|x\rMSA|AA|1\r", "2")
