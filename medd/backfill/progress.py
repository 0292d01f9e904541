"""How far a backfill is, and how it is shown: a bar on a terminal, lines elsewhere."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from medd.backfill.door import State, Taken
from medd.records import Status

#: Seconds between two lines where there is no terminal, and between two looks at the figures where there is one.
_LINE_S, _LOOK_S = 10.0, 0.5


@dataclass(slots=True)
class Progress:
    """The figures of one run; written by its threads, read by whoever shows them."""

    #: Files of the archive; None while they are being counted.
    total: int | None = None
    counts: Counter[State] = field(default_factory=Counter)
    #: Images that are taken in and not yet judged.
    left: int = 0
    #: Where it is, where the archive's films are not counted.
    place: str = ""
    #: Why it waits, in a sentence.
    waits: str = ""
    began: float = field(default_factory=time.monotonic)
    #: The first files that failed, with their reasons.
    failures: list[str] = field(default_factory=list)

    def add(self, taken: Taken) -> None:
        """Count a file that was handed in."""
        self.counts[taken.state] += 1
        if taken.state is State.FAILED and len(self.failures) < 20:
            self.failures.append(taken.detail)

    def skip(self, status: Status) -> None:
        """Count a file that was not read, as its image is here."""
        self.counts[State.QUEUED if status is Status.PENDING else State.KNOWN] += 1

    @property
    def done(self) -> int:
        """Files of which nothing is left to do."""
        return max(0, self.counts.total() - self.left)

    @property
    def failed(self) -> int:
        """Files that could not be read."""
        return self.counts[State.FAILED]

    @property
    def rate(self) -> float:
        """Images judged in this run, a second."""
        fresh = max(0, self.done - self.counts[State.KNOWN])
        return fresh / max(time.monotonic() - self.began, 1e-9)

    def line(self) -> str:
        """The figures in a line."""
        of = f" ({self.place})" if self.place else f" of {'…' if self.total is None else self.total}"
        told = f"{self.done}{of} films, {self.rate:.1f} a second"
        return f"{told}; waits: {self.waits}" if self.waits else told

    def summary(self) -> str:
        """What became of all, in a line."""
        seconds = time.monotonic() - self.began
        words = {State.QUEUED: "taken in", State.KNOWN: "here already", State.FAILED: "could not be read"}
        named = ", ".join(f"{self.counts[one]} {words.get(one, one)}" for one in State if self.counts[one])
        told = f"{self.counts.total()} films: {named or 'none'}"
        told += f"; {self.left} of them still to be scored" if self.left else ""
        return f"{told}; {seconds:.1f} s, {self.rate:.1f} a second"


@contextmanager
def shown(progress: Progress, look: Callable[[], None]) -> Iterator[None]:
    """Show a run for as long as the context lasts.

    Args:
        progress: Its figures.
        look: Brings them up to date; called before each look at them.
    """
    ended = threading.Event()
    show = _show_bar if sys.stderr.isatty() else _show_lines
    thread = threading.Thread(target=show, args=(progress, look, ended), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(5)


def _show_lines(progress: Progress, look: Callable[[], None], ended: threading.Event) -> None:
    while not ended.wait(_LINE_S):
        look()
        print(f"{time.monotonic() - progress.began:6.0f} s: {progress.line()}", file=sys.stderr, flush=True)


def _show_bar(progress: Progress, look: Callable[[], None], ended: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("")
        while not ended.wait(_LOOK_S):
            look()
            bars.update(bar, total=progress.total, completed=progress.done, description=progress.line())
