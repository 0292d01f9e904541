"""``medd load``."""

import json
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medd.cli.common import Config, Home
from medd.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds between two lines that tell how far it is, where there is no terminal.
_LINE_S = 10.0


class Syntax(StrEnum):
    """What people call the transfer syntaxes."""

    IMPLICIT = "implicit"
    EXPLICIT = "explicit"
    BIG_ENDIAN = "big-endian"
    DEFLATED = "deflated"
    RLE = "rle"
    JPEG = "jpeg"
    JPEG_LOSSLESS = "jpeg-lossless"
    JPEG_LS = "jpeg-ls"
    J2K = "j2k"


class Form(StrEnum):
    """How the report is written."""

    TABLE = "table"
    JSON = "json"


def load(
    target: Annotated[str, typer.Argument(help="AE@host:port, the name of a [[peer]], or a folder.")],
    count: Annotated[int, typer.Option(min=0, help="Images; 0: until Ctrl-C.")] = 100,
    rate: Annotated[
        float, typer.Option(min=0, help="Images a second, answered or not; 0: each sender waits for its answer.")
    ] = 0.0,
    senders: Annotated[int, typer.Option(min=1, max=256, help="Associations at one time.")] = 1,
    size: Annotated[int, typer.Option(min=16, max=8192, help="Side of the square film, pixels.")] = 256,
    transfer_syntax: Annotated[Syntax, typer.Option(help="How they are encoded.")] = Syntax.EXPLICIT,
    images_per_study: Annotated[int, typer.Option(min=1, help="Images that follow one another in one study.")] = 1,
    per_association: Annotated[int, typer.Option(min=0, help="Images of one association; 0: all of a sender's.")] = 0,
    bad: Annotated[
        float, typer.Option(min=0, max=1, help="Share of broken ones, and of sound ones that are no chest film.")
    ] = 0.0,
    retry_s: Annotated[
        float, typer.Option(min=0, help="Send again, for so many seconds, what is not answered or refused with 0xA7xx.")
    ] = 0.0,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Seconds to connect, and without an answer.")] = 30.0,
    seed: Annotated[int, typer.Option(min=-1, help="The same seed gives the same images; -1: a new one.")] = -1,
    journal: Annotated[Path | None, typer.Option(metavar="FILE", help="Add a line of JSON for each answer.")] = None,
    yes_send_to: Annotated[
        str, typer.Option(metavar="HOST", help="Names the host once more, where it is not this machine's loopback.")
    ] = "",
    style: Annotated[Form, typer.Option("--format", help="The form of the report.")] = Form.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Send synthetic images to a Storage SCP, or into a folder, and tell how they were answered and how fast.

    Latencies count from the moment at which an image was due, whenever it was really sent. Exit code 1: not all images
    were answered.
    """
    from medd import settings
    from medd.load.aim import find_target
    from medd.load.images import Images, Mix
    from medd.load.run import Pace, Run, watch
    from medd.load.tally import Tally

    where = find_target(settings.load(home, config), target, yes_send_to, timeout_s)
    seed = secrets.randbelow(10**9) if seed < 0 else seed
    images = Images(Mix(size, transfer_syntax, images_per_study, bad, seed))
    try:
        tally = Tally(journal)
    except OSError as error:
        raise SettingsError(f"--journal: {journal} cannot be written. Received: {error.strerror}") from error
    pace = Pace(count, rate, senders, per_association, retry_s)
    with tally, _progress(count) as (told, every_s):
        watch(Run(where, images, pace, tally), tally, told, every_s)
    report = {"target": str(where), "seed": seed} | tally.report()
    print(json.dumps(report, indent=2) if style is Form.JSON else _table(report))
    raise typer.Exit(1 if report["unanswered"] else 0)


@contextmanager
def _progress(count: int) -> "Iterator[tuple[Callable[[int], None], float]]":
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task("sending", total=count or None)
            yield (lambda done: progress.update(bar, completed=done)), 0.1
        return
    began = time.monotonic()

    def tell(done: int) -> None:
        print(f"{time.monotonic() - began:6.0f} s: {done} images", file=sys.stderr, flush=True)

    yield tell, _LINE_S


def _table(report: dict[str, Any]) -> str:
    lines = [(name, report[name]) for name in ("target", "seed", "images", "answered", "success")]
    for kind in ("warning", "refused", "unanswered"):
        lines += [(f"{kind}: {word}", number) for word, number in report[kind].items()]
    lines += [("sent again", report["sent_again"])] if report["sent_again"] else []
    lines += [
        ("seconds", report["seconds"]),
        ("images a second", report["rate"]),
        ("MiB a second", report["mib_per_s"]),
    ]
    for name, figures in (("latency", report["latency_ms"]), ("service", report["service_ms"])):
        lines += [(f"{name}, ms", "  ".join(f"{at} {value:g}" for at, value in figures.items()))] if figures else []
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{width}}  {value}" for name, value in lines)
