"""Where the images go, and the guard before it: a load generator that hits a PACS at work does harm.

Anything but this machine's loopback interface has to be named a second time. So has what belongs to a home whose
results go on to a destination: the receiver or an inbox of a daemon at work is no less live for being here.
"""

import ipaddress
import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from medd.dicom.peers import known_peers, tls_context
from medd.errors import SettingsError, TransientError
from medd.settings import Settings, is_loopback

_ADDRESS = re.compile(r"(?P<ae>[^@]{1,16})@(?P<host>[^@\s]+):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class Scp:
    """A Storage SCP."""

    #: The address that was checked, not the name: a second look-up could say something else.
    address: tuple[str, int]
    ae_title: str
    calling: str
    timeout_s: float
    tls: tuple[ssl.SSLContext, str] | None = None

    def __str__(self) -> str:
        return f"{self.ae_title}@{self.address[0]}:{self.address[1]}"


def find_target(settings: Settings, text: str, named: str, timeout_s: float) -> Scp | Path:
    """What a target's name means: "AE@host:port", the name of a peer, or a folder.

    Args:
        settings: Whose peers are meant.
        text: The name.
        named: The host or folder that may be sent to though it is not only this machine's.
        timeout_s: To connect, and without an answer.

    Raises:
        SettingsError: It is none of them, or may not be sent to.
        TransientError: The host is not known.
    """
    match = _ADDRESS.fullmatch(text)
    peers = known_peers(settings)
    if not match and text not in peers:
        return _folder(settings, text, named)
    calling, tls, ae_title = settings.listener.ae_title, None, ""
    if match:
        host, port, ae_title = match["host"].removeprefix("[").removesuffix("]"), int(match["port"]), match["ae"]
        calling = "MEDD_LOAD"
    else:
        peer = peers[text]
        host, port, ae_title, calling = peer.host, peer.port, peer.ae_title, peer.calling_ae_title or calling
        context = tls_context(peer, settings.home)
        tls = (context, host) if context is not None else None
    if not 1 <= port <= 65535:
        raise SettingsError(f"a port is 1 to 65535. Received: {port}")
    address = _resolve(host, port)
    if not is_loopback(address):
        _require(named, host, f"{host} is not this machine")
    elif port == settings.listener.port:
        _require_if_live(settings, named, host)
    return Scp((address, port), ae_title, calling, timeout_s, tls)


def _folder(settings: Settings, text: str, named: str) -> Path:
    folder = Path(text)
    if not folder.is_dir():
        raise SettingsError(f"neither AE@host:port, nor a peer of the settings, nor a folder. Received: {text!r}")
    if any(settings.under_home(inbox.path).resolve() == folder.resolve() for inbox in settings.inbox):
        _require_if_live(settings, named, text)
    return folder


def _resolve(host: str, port: int) -> str:
    try:
        found = [str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        raise TransientError(f"{host}: no such host") from error
    # A name that leads here and elsewhere is elsewhere; of several addresses here, IPv4 is where receivers listen.
    elsewhere = [address for address in found if not is_loopback(address)]
    return (elsewhere or sorted(found, key=lambda address: ipaddress.ip_address(address).version))[0]


def _require_if_live(settings: Settings, named: str, name: str) -> None:
    if settings.destination:
        others = ", ".join(table.label for table in settings.destination)
        _require(named, name, f"it belongs to this home, whose results go to {others}")


def _require(named: str, name: str, why: str) -> None:
    if named.lower() != name.lower():
        raise SettingsError(f"{why}: synthetic images go there only with --yes-send-to {name}")
