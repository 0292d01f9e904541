"""The application entities that the settings name: who is asked for images, and whom `medd echo` calls."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medd.errors import SettingsError
from medd.settings import DestinationSettings, PeerSettings, Settings


def known_peers(settings: Settings) -> dict[str, PeerSettings]:
    """Every ``[[peer]]``, and every ``[[destination]]`` of type "pacs", by name.

    One archive is often both: where the names are the same, the ``[[peer]]`` says how to reach it.

    Raises:
        SettingsError: Two peers have one name, or a destination's keys are no address.
    """
    peers: dict[str, PeerSettings] = {}
    for peer in settings.peer:
        if peer.name in peers:
            raise SettingsError(f"peer.name: two have the same. Received: {peer.name!r}")
        peers[peer.name] = peer
    for destination in settings.destination:
        if destination.type == "pacs" and destination.label not in peers:
            peers[destination.label] = _as_peer(destination)
    return peers


def find_peer(settings: Settings, name: str) -> PeerSettings:
    """The peer, or the destination of type "pacs", of this name.

    Raises:
        SettingsError: There is none.
    """
    peers = known_peers(settings)
    if name not in peers:
        raise SettingsError(f"no peer of this name; known are: {', '.join(peers) or 'none'}. Received: {name!r}")
    return peers[name]


def tls_context(peer: PeerSettings, home: Path) -> Any:
    """An `ssl.SSLContext` where the peer's settings have the table ``tls``; else None.

    Raises:
        SettingsError: A certificate or key cannot be used.
    """
    if peer.tls is None:
        return None
    from medd.dicom.tls import client_context  # TLS is a stranger to most commands

    return client_context(peer.tls, home, f"peer {peer.name!r}: tls")


def _as_peer(destination: DestinationSettings) -> PeerSettings:
    # What else a destination takes ("send", …) is nothing to us.
    own = {key: value for key, value in (destination.model_extra or {}).items() if key in PeerSettings.model_fields}
    try:
        return PeerSettings(**(own | {"name": destination.label}))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise SettingsError(f"destination {destination.label!r}: {key}: {problem['msg']}") from error
