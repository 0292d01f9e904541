"""What is fuzzed: where inputs come from, what is done with one, and what may come of it."""

import random
import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutate import damage


class Broken(AssertionError):
    """What has to hold after any input does not."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an input."""

    #: For the report: an error's type and reason, a status.
    kind: str
    #: Tells outcomes of one kind apart: an input that brings out a new one is damaged further.
    detail: str = ""
    #: Allowed, but better looked at: such inputs are kept.
    is_kept: bool = False


class Target:
    """One door. A target is opened in an empty folder, and again in another after `REFRESH` inputs."""

    #: Processor time that one input may take, seconds.
    LIMIT_S = 10.0
    #: Inputs after which it is opened anew: what was taken in fills folder and database.
    REFRESH = 20_000
    #: Words that an input is made of.
    DICTIONARY: Sequence[bytes] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def seeds(self) -> list[bytes]:
        """Inputs to begin with."""
        raise NotImplementedError

    def open(self) -> None:
        """Start what is fuzzed."""

    def close(self) -> None:
        """End it."""

    def change(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        """Another input, made of one or two that there are."""
        return damage(rng, data, other, self.DICTIONARY)

    def run(self, data: bytes) -> Outcome:
        """Do with an input what medd does. Whatever is raised is a finding."""
        raise NotImplementedError

    def check(self) -> None:
        """See that it still does its work. Whatever is raised is a finding."""


def outcome_of(error: Exception) -> Outcome:
    """An expected error as an outcome."""
    reason = getattr(error, "reason", "")
    return Outcome(f"{type(error).__name__} {reason}".strip(), shape(str(error)))


def shape(message: str) -> str:
    """A message without what differs from input to input."""
    return re.sub(r"'[^']*'|b\"[^\"]*\"|\d+(\.\d+)*", "#", message)[:120]


def signature_of(error: BaseException) -> str:
    """What tells findings apart: the error's type, and where it was raised."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name != "too_slow"]
    ours = [frame for frame in frames if "/medd" in frame.filename] or frames
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
    if not isinstance(error, AssertionError):  # where it is raised tells enough, and it may quote the input
        return f"{type(error).__name__} in {where}"
    return f"{type(error).__name__} in {where}: {shape((str(error).splitlines() or [''])[0])}"
