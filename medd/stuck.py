"""Calls that never return: a thread that hangs in a stranger's code cannot be stopped, so its process leaves.

Its supervisor starts another one, and what it had claimed is done again.
"""

import itertools
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

#: EX_SOFTWARE of sysexits(3).
EXIT_CODE = 70

T = TypeVar("T")

log = logging.getLogger(__name__)

_numbers = itertools.count()
#: What runs in this process now: since when, by `time.monotonic`, and its name.
_calls: dict[int, tuple[float, str]] = {}


@contextmanager
def bounded(what: str) -> Iterator[None]:
    """Say that the block is a stranger's code, which may never end.

    Args:
        what: Its name in the log.
    """
    number = next(_numbers)
    _calls[number] = time.monotonic(), what
    try:
        yield
    finally:
        del _calls[number]


def bounded_each(items: Iterable[T], what: str) -> Iterator[T]:
    """The items of a stranger's generator, each of which may take as long as a call may."""
    each = iter(items)
    while True:
        with bounded(what):
            try:
                item = next(each)
            except StopIteration:
                return
        yield item


def watch(limit_s: float) -> None:
    """From now on end this process, with `EXIT_CODE`, when a bounded call takes longer than `limit_s` seconds."""
    threading.Thread(target=_watch, args=(limit_s,), name="stuck", daemon=True).start()


def _watch(limit_s: float) -> None:
    while True:
        time.sleep(min(limit_s / 4, 5))
        now = time.monotonic()
        late = sorted({what for since, what in list(_calls.values()) if now - since > limit_s})
        if late:
            log.critical("%s: no end after %g s: leaving", ", ".join(late), limit_s, extra={"event": "process.stuck"})
            os._exit(EXIT_CODE)
