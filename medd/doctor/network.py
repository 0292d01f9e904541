"""Who can be reached, and who reaches us: listener, TLS, peers, DICOMweb servers."""

import errno
import fcntl
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pynetdicom import build_context, evt
from pynetdicom.sop_class import Verification

from medd.dicom import network, tls
from medd.dicom.peers import known_peers, tls_context
from medd.doctor.finding import Finding, State
from medd.errors import MeddError, PeerRefused, SettingsError, TransientError
from medd.settings import DicomWebSettings, PeerSettings, Settings, TlsSettings

#: Peers that are silent must not hold the doctor up for long, seconds.
TIMEOUT_S = 10.0
_AT_ONCE = 8
WARN_DAYS_LEFT = 30
#: A-ASSOCIATE-RJ (PS3.8 table 9-21): "rejected-permanent" and "rejected-transient".
_PERMANENT, _TRANSIENT = 0x01, 0x02
_LOOPBACK = ("127.", "::1", "localhost")


def check_ae_title(settings: Settings) -> Iterator[Finding]:
    """Whether every peer will understand our AE title."""
    title = settings.listener.ae_title
    twins = [name for name, peer in _everybody(settings) if peer.ae_title.casefold() == title.casefold()]
    if twins:
        advice = "give each application entity a title of its own"
        yield Finding(State.WARN, "ae title", f"{title} is also that of {', '.join(twins)}", advice)
    elif not re.fullmatch(r"[A-Z0-9][A-Z0-9_-]*", title):
        advice = "capital letters, digits, _ and - are safe; other peers compare with case, or cut at a blank"
        yield Finding(State.WARN, "ae title", repr(title), advice)
    else:
        yield Finding(State.OK, "ae title", title)


def check_listener(settings: Settings) -> Iterator[Finding]:
    """Whether the port is free, or it is we who serve it."""
    wanted = settings.listener
    allowed = _allowed_hosts(settings)
    where = f"{wanted.host} port {wanted.port}"
    runs, taken = stage_runs(settings, "receive"), try_to_bind(wanted.host, wanted.port)
    near = "; only this machine can send" if wanted.host.startswith(_LOOPBACK) else ""
    if wanted.port == 0:
        yield Finding(State.OK, "listener", f"{wanted.host}, any free port{near}")
    elif taken == errno.EADDRINUSE and runs:
        yield _ask_ourselves(settings, allowed, f"{where} is served by medd", near)
    elif runs is None and taken in (0, errno.EADDRINUSE):
        state = "taken" if taken == errno.EADDRINUSE else "free"
        found = f"{where} is {state}; whether a medd of this home runs cannot be told: its lock cannot be read"
        yield Finding(State.WARN, "listener", found, "run the doctor as the user that runs medd")
    elif taken == errno.EADDRINUSE:
        advice = "set listener.port, or stop that program"
        yield Finding(State.FAIL, "listener", f"{where} is taken, and not by a medd of this home", advice)
    elif taken == errno.EACCES:
        advice = "ports below 1024 need the capability CAP_NET_BIND_SERVICE; or set listener.port"
        yield Finding(State.FAIL, "listener", f"{where}: {os.strerror(taken)}", advice)
    elif taken:
        yield Finding(
            State.FAIL, "listener", f"{where}: {os.strerror(taken)}", "set listener.host to an address of ours"
        )
    elif runs:
        advice = "it may be starting, or have been started with other settings"
        yield Finding(State.WARN, "listener", f"medd runs in this home, but {where} is free", advice)
    else:
        yield Finding(State.OK, "listener", f"{where} is free; medd does not run{near}")


def _allowed_hosts(settings: Settings) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    try:
        return [ipaddress.ip_network(host, strict=False) for host in settings.listener.allowed_hosts]
    except ValueError as error:
        raise SettingsError(f"listener.allowed_hosts: {error}") from error


def _ask_ourselves(
    settings: Settings, allowed: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network], found: str, near: str
) -> Finding:
    wanted = settings.listener
    if wanted.tls.certificate and wanted.tls.ca:
        found += ", with TLS; not asked, as callers need a certificate that listener.tls.ca has signed"
        return Finding(State.OK, "listener", f"{found}{near}")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(wanted.host, wanted.host)
    caller = _called_from(host, wanted.port)
    if allowed and not any(caller in network for network in allowed):
        return Finding(State.OK, "listener", f"{found}; not asked, as listener.allowed_hosts leaves out {caller}{near}")
    me = PeerSettings(name="listener", host=host, port=wanted.port, ae_title=wanted.ae_title, timeout_s=TIMEOUT_S)
    rejected: list[int] = []

    def note(event: evt.Event) -> None:
        if (result := getattr(event.primitive, "result", None)) in (_PERMANENT, _TRANSIENT):
            rejected.append(result)

    advice = "look at its log; start it again"
    try:
        with network.associate(
            me, wanted.ae_title, [build_context(Verification)],
            tls=_trusting_anybody() if wanted.tls.certificate else None, handlers=[(evt.EVT_ACSE_RECV, note)],
        ) as association:  # fmt: skip
            answer = association.send_c_echo().get("Status")
    except (TransientError, PeerRefused, RuntimeError) as error:  # the last is pynetdicom's, of an association gone
        if _PERMANENT in rejected:  # our own title, where only some may call: it answers
            return Finding(State.OK, "listener", f"{found}; {error}{near}")
        if _TRANSIENT in rejected:
            return Finding(State.WARN, "listener", f"{found}; {error}", "look again; raise listener.max_associations")
        return Finding(State.FAIL, "listener", f"{found}, but: {error}", advice)
    if answer != 0x0000:
        told = "not answered" if answer is None else f"answered with {answer:#06x}"
        return Finding(State.FAIL, "listener", f"{found}, but: C-ECHO is {told}", advice)
    return Finding(State.OK, "listener", f"{found} and answers C-ECHO{near}")


def _called_from(host: str, port: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Our address as the listener at `host` sees it; nothing is sent."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        return ipaddress.ip_address(str(probe.getsockname()[0]).removeprefix("::ffff:").split("%")[0])


def _trusting_anybody() -> ssl.SSLContext:
    # It is we who serve it; and its certificate need not name the address that we call.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def stage_runs(settings: Settings, stage: str) -> bool | None:
    """Whether a stage of this home holds its lock, as `medd.supervisor` takes it; None where it cannot be told."""
    try:
        file = os.open(settings.home / "run" / f"{stage}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def try_to_bind(host: str, port: int) -> int:
    """Bind and let go; 0, or the error's number."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror:
        return errno.EADDRNOTAVAIL
    except OSError as error:
        return error.errno or errno.EIO
    return 0


# -- TLS -----------------------------------------------------------------------------------------------------------


def check_tls(settings: Settings) -> Iterator[Finding]:
    """Whether certificates can be used, and for how long."""
    tables = [(f"{name}: tls", peer.tls) for name, peer in _everybody(settings) if peer.tls is not None]
    ours = settings.listener.tls
    if any(ours.model_dump().values()):
        yield from check_table(settings, "listener.tls", ours, is_listener=True)
    for where, table in tables:
        yield from check_table(settings, where, table, is_listener=False)
    if not tables and not any(ours.model_dump().values()):
        yield Finding(State.OK, "tls", "not used")


def check_table(settings: Settings, where: str, table: TlsSettings, *, is_listener: bool) -> Iterator[Finding]:
    """Whether what a table names can be used, and for how long."""
    try:
        make: Any = tls.server_context if is_listener else tls.client_context
        make(table, settings.home, where)
        if table.certificate:
            yield _of_days(f"tls {where}.certificate", tls.certificate_days_left(table, settings.home, where))
        if table.ca:
            yield _of_authorities(f"tls {where}.ca", tls.authority_days_left(table, settings.home, where))
        if not table.certificate and not table.ca:
            yield Finding(State.OK, f"tls {where}", "the system's authorities are trusted")
    except MeddError as error:
        yield Finding(State.FAIL, f"tls {where}", str(error))


def _of_days(name: str, days: float) -> Finding:
    if days < 0:
        return Finding(State.FAIL, name, f"ran out {-days:.0f} days ago", "renew it: TLS peers refuse it")
    if days < WARN_DAYS_LEFT:
        return Finding(State.WARN, name, f"runs out in {days:.0f} days", "renew it")
    return Finding(State.OK, name, f"good for {days:.0f} days")


def _of_authorities(name: str, days: Sequence[float]) -> Finding:
    """At worst a warning: who is vouched for by another one of them is still trusted."""
    if late := sum(one < 0 for one in days):
        found = f"of {len(days)} certificates that are trusted, {late} ran out, the first {-min(days):.0f} days ago"
        return Finding(State.WARN, name, found, "replace them: peers that nobody else vouches for are refused")
    return _of_days(name, min(days))


# -- peers ---------------------------------------------------------------------------------------------------------


def check_peers(settings: Settings) -> Sequence[Finding]:
    """Whether every peer, and every destination of type "pacs", answers C-ECHO."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(lambda one: _call(settings, *one), _everybody(settings)))


def _everybody(settings: Settings) -> list[tuple[str, PeerSettings]]:
    """Every ``[[peer]]`` and every ``[[destination]]`` of type "pacs", with what a finding calls it.

    A destination is sent to at its own address and by its own TLS, also where a peer has the same name.
    """
    peers = known_peers(settings.model_copy(update={"destination": ()}))
    destinations = known_peers(settings.model_copy(update={"peer": ()}))
    named = [(f"peer {name}", peer) for name, peer in peers.items()]
    return named + [(f"destination {name}", peer) for name, peer in destinations.items()]


def _call(settings: Settings, name: str, peer: PeerSettings) -> Finding:
    address = f"{peer.ae_title}@{peer.host}:{peer.port}"
    hurried = peer.model_copy(update={"timeout_s": min(peer.timeout_s, TIMEOUT_S)})
    try:
        network.echo(hurried, settings.listener.ae_title, tls_context(peer, settings.home))
    except TransientError as error:
        return Finding(State.FAIL, name, str(error), "is it running, and does a firewall let us through?")
    except PeerRefused as error:
        return Finding(State.FAIL, name, str(error), "have our AE title and address entered there")
    except MeddError as error:
        return Finding(State.FAIL, name, str(error))
    return Finding(State.OK, name, f"{address} answers C-ECHO")


def check_dicomweb(settings: Settings) -> Sequence[Finding]:
    """Whether every DICOMweb server answers a search."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(lambda server: _search(settings, server), settings.dicomweb))


def _search(settings: Settings, server: DicomWebSettings) -> Finding:
    from medd.ingest.dicomweb import DicomWebServer
    from medd.ingest.query import Query

    name = f"dicomweb {server.name}"
    hurried = server.model_copy(update={"timeout_s": min(server.timeout_s, TIMEOUT_S)})
    nowhere: Any = None  # nothing is fetched
    try:
        # A study that nobody has: the question is a whole one, and no patient is in the answer.
        DicomWebServer(hurried, settings.home, nowhere, 0).find(Query(study_instance_uid="2.25.0", modalities=("CR",)))
    except TransientError as error:
        return Finding(State.FAIL, name, str(error), "is it running, and does a firewall let us through?")
    except MeddError as error:
        return Finding(State.FAIL, name, str(error))
    return Finding(State.OK, name, f"{server.url} answers QIDO-RS")
