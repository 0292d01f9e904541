"""The DICOM port under TLS, with real peers: who gets in, who does not, and that nobody keeps others out."""

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from medd.dicom.network import echo
from medd.dicom.tls import client_context, server_context
from medd.errors import TransientError
from medd.ingest import places
from medd.settings import ListenerSettings, PeerSettings, TlsSettings
from medd.testing import cheap_series
from tests.certificates import Authority
from tests.integration.test_listener import Receiver, dcmtk, films, rejection, split_spooled
from tests.support import (
    IMPLICIT,
    VERIFICATION,
    RawSender,
    associate_rq,
    free_port,
    require,
    uid_in,
    wait_until,
)

pytestmark = pytest.mark.peers

#: A new peer is served within this time, whatever others do, seconds.
PROMPT_S = 3.0


@pytest.fixture(scope="module", params=["rsa:2048", "ec"])
def authority(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("tls"), key=request.param)
    for name in ("own", "room1"):
        made.issue(name)
    made.issue("expired", days=-1)
    made.issue("elsewhere", names="subjectAltName=DNS:pacs.elsewhere.example\n")
    Authority(made.folder, "stranger", request.param).issue("intruder")
    return made


def own(authority: Authority, *, mutual: bool = False, name: str = "own") -> TlsSettings:
    files = {"certificate": str(authority.folder / f"{name}.pem"), "key": str(authority.folder / f"{name}.key")}
    return TlsSettings(**files, ca=str(authority.certificate) if mutual else "")


@pytest.fixture
def receive(tmp_path: Path, authority: Authority) -> Iterator[Callable[..., Receiver]]:
    """Starts a receiver that speaks TLS, with settings of the listener as keywords."""
    started: list[Receiver] = []

    def start(*, mutual: bool = False, name: str = "own", **settings: object) -> Receiver:
        values = {"port": 0, "tls": own(authority, mutual=mutual, name=name), **settings}
        started.append(Receiver(tmp_path, ListenerSettings.model_validate(values)))
        return started[-1]

    yield start
    for receiver in started:
        receiver.stop()


class TlsSender(RawSender):
    """A Storage SCU on a bare TLS socket."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__(port)
        self.socket = context.wrap_socket(self.socket, server_hostname="localhost")


@pytest.fixture
def trusting(authority: Authority) -> ssl.SSLContext:
    return client_context(TlsSettings(ca=str(authority.certificate)), authority.folder)


def answers_echo(port: int, context: ssl.SSLContext) -> bool:
    with TlsSender(port, context) as sender:
        sender.associate()
        status = sender.echo()
        sender.release()
    return status == 0


def openssl_client(port: int, *options: str) -> subprocess.CompletedProcess[str]:
    [program] = require("openssl")
    command = [program, "s_client", "-connect", f"127.0.0.1:{port}", *options]
    return subprocess.run(command, capture_output=True, text=True, input="", timeout=30, check=False)


def log_of(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if getattr(record, "event", "") == event]


# What gets in ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1021, 1 << 20], ids=lambda size: f"written in {size} bytes")
def test_images_come_through_byte_for_byte(
    receive: Callable[..., Receiver], trusting: ssl.SSLContext, size: int
) -> None:
    receiver = receive()
    sent = films(3, side=32 if size == 1 else 1024)
    with TlsSender(receiver.port, trusting) as sender:
        sender.associate()
        for film in sent:
            command, dataset = sender.store_message(film, uid_in(film))
            stream = b"".join((_pdata(command, 3), _pdata(dataset, 2)))
            for at in range(0, len(stream), size):
                sender.send(stream[at : at + size])
            assert sender.receive_status() == (0x0000, "")
        sender.release()
    for film in sent:
        assert split_spooled(receiver.stored(uid_in(film)))[1] == film


def _pdata(data: bytes, control: int) -> bytes:
    return (
        b"\x04\0" + (len(data) + 6).to_bytes(4, "big") + (len(data) + 2).to_bytes(4, "big") + bytes((1, control)) + data
    )


def test_dcmtk_stores_with_and_without_a_certificate_of_its_own(
    receive: Callable[..., Receiver], authority: Authority, tmp_path: Path
) -> None:
    receiver = receive()
    folder = tmp_path / "films"
    folder.mkdir()
    for number, film in enumerate(cheap_series(10, rows=64, columns=64)):
        (folder / f"{number}.dcm").write_bytes(film)
    trust = ("+cf", authority.certificate)
    identity = ("+tls", authority.folder / "room1.key", authority.folder / "room1.pem")
    for who, profile in (("+tla", "+py"), ("+tla", "+px"), (identity, "+py"), (identity, "+pz")):
        options = [who] if isinstance(who, str) else list(who)
        done = dcmtk("storescu", "-v", *options, *trust, profile, "+sd", "localhost", receiver.port, folder)
        assert done.returncode == 0, f"{options} {profile}: {done.stderr}"
        assert done.stderr.count("Received Store Response (Success)") == 10
    assert receiver.count() == 10


def test_with_a_ca_only_a_peer_gets_in_whose_certificate_it_has_signed(
    receive: Callable[..., Receiver], authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = receive(mutual=True)
    trust = ("+cf", authority.certificate)

    def echoes(*options: object) -> bool:
        return dcmtk("echoscu", *options, *trust, "localhost", receiver.port).returncode == 0

    def with_certificate(name: str) -> tuple[object, ...]:
        return ("+tls", authority.folder / f"{name}.key", authority.folder / f"{name}.pem")

    assert echoes(*with_certificate("room1"))
    assert not log_of(caplog, "tls.refused")
    for options, why in (
        (("+tla",), "shows no certificate"),
        (with_certificate("intruder"), "is not accepted: unable to get local issuer certificate"),
        (with_certificate("expired"), "is not accepted: certificate has expired"),
    ):
        caplog.clear()
        assert not echoes(*options)
        [line] = wait_until(lambda: log_of(caplog, "tls.refused"))
        assert why in line
    assert echoes(*with_certificate("room1"))
    assert receiver.count() == 0


def test_a_pynetdicom_peer_gets_in(receive: Callable[..., Receiver], trusting: ssl.SSLContext) -> None:
    scu = AE()
    scu.add_requested_context(Verification)
    association = scu.associate("127.0.0.1", receive().port, tls_args=(trusting, "localhost"))
    assert association.is_established
    assert association.send_c_echo().Status == 0x0000
    association.release()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"], "no TLS 1.2 or newer"),
        (["-tls1", "-cipher", "DEFAULT:@SECLEVEL=0"], "no TLS 1.2 or newer"),
        (["-tls1_2", "-cipher", "AES128-SHA:ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES128-SHA"], "no cipher suite"),
    ],
    ids=["TLS 1.1", "TLS 1.0", "a weak cipher suite"],
)
def test_what_bcp_195_forbids_is_refused_with_a_line_that_says_so(
    receive: Callable[..., Receiver], caplog: pytest.LogCaptureFixture, options: list[str], why: str
) -> None:
    receiver = receive()
    assert openssl_client(receiver.port, *options).returncode != 0
    [line] = wait_until(lambda: log_of(caplog, "tls.refused"))
    assert why in line


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_tls_1_2_and_1_3_are_spoken(receive: Callable[..., Receiver], version: str) -> None:
    done = openssl_client(receive().port, version)
    assert done.returncode == 0, done.stderr
    assert "Cipher is TLS_AES" in done.stdout or "Cipher is ECDHE" in done.stdout


def test_the_end_of_an_association_is_told_by_close_notify(
    receive: Callable[..., Receiver], trusting: ssl.SSLContext
) -> None:
    with TlsSender(receive().port, trusting) as sender:
        sender.associate()
        sender.send(b"\x05\0\0\0\0\x04\0\0\0\0")
        assert sender.receive_pdu()[0] == 6
        assert isinstance(sender.socket, ssl.SSLSocket)
        sender.socket.suppress_ragged_eofs = False  # an end without close_notify is an error now
        assert sender.socket.recv(1) == b""


# Who speaks another language ------------------------------------------------------------------------------------------


def test_a_peer_without_tls_costs_one_line(receive: Callable[..., Receiver], caplog: pytest.LogCaptureFixture) -> None:
    receiver = receive()
    assert dcmtk("echoscu", "localhost", receiver.port).returncode != 0
    [line] = wait_until(lambda: log_of(caplog, "tls.refused"))
    assert "speaks no TLS" in line
    with RawSender(receiver.port) as web:
        web.send(b"GET / HTTP/1.1\r\nHost: medd\r\n\r\n")
        assert web.is_closed_by_peer()
    wait_until(lambda: len(log_of(caplog, "tls.refused")) == 2)
    assert len(caplog.records) == 2


def test_a_peer_with_tls_on_a_port_in_the_clear_costs_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = Receiver(tmp_path, ListenerSettings(port=0))
    try:
        assert dcmtk("echoscu", "+tla", "-ic", "localhost", receiver.port).returncode != 0
        [line] = wait_until(lambda: log_of(caplog, "association.aborted"))
        assert "speaks TLS" in line
        assert "listener.tls" in line
        assert len(caplog.records) == 1
    finally:
        receiver.stop()


# Silence --------------------------------------------------------------------------------------------------------------


def connect(port: int, n: int, stack: ExitStack, first_bytes: bytes = b"") -> list[socket.socket]:
    connections = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(n)]
    for connection in connections:
        connection.sendall(first_bytes)
    return connections


@pytest.mark.parametrize("first_bytes", [b"", b"\x16\x03\x01\x02\x00\x01\x00"], ids=["silent", "half a hello"])
def test_forty_peers_that_stall_the_handshake_keep_nobody_out(
    receive: Callable[..., Receiver], trusting: ssl.SSLContext, first_bytes: bytes
) -> None:
    receiver = receive(max_associations=2)
    with ExitStack() as stack:
        connect(receiver.port, 40, stack, first_bytes)
        began = time.monotonic()
        assert answers_echo(receiver.port, trusting)
        assert time.monotonic() - began < PROMPT_S


def test_more_silent_peers_than_there_are_threads_keep_nobody_out(
    receive: Callable[..., Receiver], trusting: ssl.SSLContext
) -> None:
    receiver = receive(max_associations=2)
    with ExitStack() as stack:
        connect(receiver.port, 3 * places.MAX_UNASSOCIATED, stack)
        for _ in range(3):
            began = time.monotonic()
            assert answers_echo(receiver.port, trusting)
            assert time.monotonic() - began < PROMPT_S


def test_an_association_that_is_there_is_served_on_while_silent_peers_come(
    receive: Callable[..., Receiver], trusting: ssl.SSLContext
) -> None:
    receiver = receive(max_associations=2)
    with ExitStack() as stack, TlsSender(receiver.port, trusting) as sender:
        sender.associate()
        connect(receiver.port, 2 * places.MAX_UNASSOCIATED, stack)
        assert sender.echo() == 0


def test_a_peer_that_stalls_is_gone_after_the_time_out_however_far_it_came(
    receive: Callable[..., Receiver], trusting: ssl.SSLContext
) -> None:
    receiver = receive(association_timeout_s=1.0)
    with ExitStack() as stack:
        began = time.monotonic()
        [silent] = connect(receiver.port, 1, stack)
        [half] = connect(receiver.port, 1, stack, b"\x16\x03\x01\x02\x00\x01\x00")
        shaken = stack.enter_context(TlsSender(receiver.port, trusting))
        begun = stack.enter_context(TlsSender(receiver.port, trusting))
        begun.send(b"\x01\0\0")
        for connection in (silent, half, shaken.socket, begun.socket):
            connection.settimeout(5)
            while connection.recv(4096):
                pass
        assert 0.5 < time.monotonic() - began < PROMPT_S


def test_a_peer_that_trickles_is_gone_after_the_time_out(
    receive: Callable[..., Receiver], trusting: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = receive(association_timeout_s=1.0)
    began = time.monotonic()
    proposal = associate_rq({1: (VERIFICATION, (IMPLICIT,))})
    with TlsSender(receiver.port, trusting) as sender, suppress(OSError):  # reset, or broken pipe
        for at in range(100):
            sender.send(proposal[at : at + 1])
            time.sleep(0.1)
        pytest.fail("was listened to for ten seconds")
    assert time.monotonic() - began < PROMPT_S
    assert log_of(caplog, "association.lost") == ["association lost: no association proposed in time"]


def test_an_association_that_falls_silent_is_ended(receive: Callable[..., Receiver], trusting: ssl.SSLContext) -> None:
    receiver = receive(network_timeout_s=0.5)
    with TlsSender(receiver.port, trusting) as sender:
        sender.associate()
        began = time.monotonic()
        assert sender.is_closed_by_peer()
        assert 0.3 < time.monotonic() - began < PROMPT_S


def test_stop_lets_the_image_that_is_coming_in_end_and_aborts_the_others(
    receive: Callable[..., Receiver], trusting: ssl.SSLContext
) -> None:
    receiver = receive()
    [film] = films(1, side=1024)
    with ExitStack() as stack:
        busy = stack.enter_context(TlsSender(receiver.port, trusting))
        idle = stack.enter_context(TlsSender(receiver.port, trusting))
        connect(receiver.port, 3, stack)
        busy.associate()
        idle.associate()
        command, dataset = busy.store_message(film, uid_in(film))
        half = len(dataset) // 2
        busy.send(_pdata(command, 3) + _pdata(dataset[:half], 0))
        wait_until(receiver.parts, what="the image on its way into the spool")
        stopping = threading.Thread(target=receiver.stop)
        stopping.start()
        assert idle.receive_pdu()[0] == 7  # under TLS still: in the clear it could not be read
        busy.send(_pdata(dataset[half:], 2))
        assert busy.receive_status() == (0x0000, "")
        stopping.join(5)
        assert not stopping.is_alive()
    assert receiver.count() == 1


# Towards peers --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pacs(authority: Authority) -> Iterator[Callable[[str], int]]:
    """Starts a C-ECHO provider of pynetdicom that shows a certificate and asks for one."""
    servers = []

    def start(name: str) -> int:
        entity = AE("PACS")
        entity.add_supported_context(Verification)
        context = server_context(own(authority, mutual=True, name=name), authority.folder)
        port = free_port()
        handlers = [(evt.EVT_C_ECHO, lambda _event: 0x0000)]
        where = ("127.0.0.1", port)
        servers.append(entity.start_server(where, block=False, evt_handlers=handlers, ssl_context=context))
        return port

    yield start
    for server in servers:
        server.shutdown()


def test_a_peer_is_asked_under_tls_with_our_certificate(authority: Authority, pacs: Callable[[str], int]) -> None:
    tls = own(authority, mutual=True)
    peer = PeerSettings(name="pacs", host="localhost", port=pacs("own"), ae_title="PACS", tls=tls, timeout_s=5)
    echo(peer, "MEDD", client_context(tls, authority.folder))


@pytest.mark.parametrize(("shown", "trusted"), [("expired", "ca"), ("elsewhere", "ca"), ("own", "stranger")], ids=str)
def test_a_peer_whose_certificate_has_expired_is_for_another_host_or_by_a_stranger_is_told_nothing(
    authority: Authority, pacs: Callable[[str], int], shown: str, trusted: str
) -> None:
    tls = own(authority).model_copy(update={"ca": str(authority.folder / f"{trusted}.pem")})
    peer = PeerSettings(name="pacs", host="localhost", port=pacs(shown), ae_title="PACS", tls=tls, timeout_s=5)
    with pytest.raises(TransientError):
        echo(peer, "MEDD", client_context(tls, authority.folder))


def test_the_limit_by_address_leaves_places_for_others(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path, ListenerSettings(port=0, host="::", max_associations=4, max_associations_per_host=2))
    try:
        with RawSender(receiver.port) as first, RawSender(receiver.port) as second:
            first.associate()
            second.associate()
            assert rejection(receiver.port) == (2, 3, 1)  # from 127.0.0.1
            with socket.create_connection(("::1", receiver.port)) as other, RawSender(receiver.port) as third:
                third.socket.close()
                third.socket = other
                assert third.associate()
            first.release()
            wait_until(lambda: rejection(receiver.port) is None)
    finally:
        receiver.stop()
