"""``medd echo``."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medd.cli.common import Config, Format, Home, write_rows
from medd.errors import MeddError, SettingsError

if TYPE_CHECKING:
    from medd.settings import PeerSettings, Settings

_COLUMNS = ("name", "address", "answers", "ms", "error")
#: Peers called at one time.
_AT_ONCE = 8


def echo(
    peers: Annotated[list[str] | None, typer.Argument(help="By name, or HOST:PORT.  [default: all]")] = None,
    ae_title: Annotated[str, typer.Option(help="The AE title of a HOST:PORT.")] = "ANY-SCP",
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Call peers by C-ECHO: those of the settings, and destinations of type "pacs". Exit code 1 when one fails."""
    from medd import settings
    from medd.dicom.peers import known_peers

    loaded = settings.load(home, config)
    called = [_find(loaded, name, ae_title) for name in peers] if peers else list(known_peers(loaded).values())
    if not called:
        raise SettingsError('the settings name no [[peer]], and no [[destination]] of type "pacs"')
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        rows = list(threads.map(lambda peer: _call(loaded, peer), called))
    write_rows(rows, _COLUMNS, style, _COLUMNS)
    raise typer.Exit(0 if all(row["answers"] for row in rows) else 1)


def _find(settings: "Settings", name: str, ae_title: str) -> "PeerSettings":
    from pydantic import ValidationError

    from medd.dicom.peers import find_peer, known_peers
    from medd.settings import PeerSettings

    host, colon, port = name.rpartition(":")
    if not colon or name in known_peers(settings):
        return find_peer(settings, name)
    try:
        host = host.removeprefix("[").removesuffix("]")
        return PeerSettings(name=name[:64], host=host, port=port, ae_title=ae_title, timeout_s=10)
    except ValidationError as error:
        problem = error.errors()[0]
        raise SettingsError(f"{problem['loc'][0]}: {problem['msg']}. Received: {problem['input']!r}") from error


def _call(settings: "Settings", peer: "PeerSettings") -> dict[str, Any]:
    from medd.dicom.network import echo as send_echo
    from medd.dicom.peers import tls_context

    row = {"name": peer.name, "address": f"{peer.ae_title}@{peer.host}:{peer.port}", "answers": True, "error": None}
    started = time.perf_counter()
    try:
        send_echo(peer, settings.listener.ae_title, tls_context(peer, settings.home))
    except MeddError as error:
        row |= {"answers": False, "error": str(error)}
    return row | {"ms": round((time.perf_counter() - started) * 1000)}
