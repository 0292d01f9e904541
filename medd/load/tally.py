"""What became of the images: counted as the answers come, and told at the end."""

import json
import threading
import time
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Self

from medd.load.images import Image

#: The status of what was written into a folder: nobody has answered for it.
WRITTEN = "written"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one image."""

    #: The status of the C-STORE response; None where there was none, or nobody to give one.
    status: int | None
    #: Why there was none; `WRITTEN` for a file.
    error: str = ""

    @property
    def kind(self) -> str:
        """One of "success", "warning", "refused" and "unanswered"."""
        if self.status is None:
            return "success" if self.error == WRITTEN else "unanswered"
        if self.status == 0x0000:
            return "success"
        # PS3.7 annex C: warnings are 0x0001, 0x0107, 0x0116 and 0xBxxx.
        return "warning" if self.status >> 12 == 0xB or self.status in (0x0001, 0x0107, 0x0116) else "refused"

    @property
    def word(self) -> str:
        """As it is counted and written down."""
        return self.error if self.status is None else f"0x{self.status:04X}"


class Tally:
    """Counts answers, from many threads, and writes the journal.

    Args:
        journal: A file to which a line is added for each answer; it is written out with each line, so that nothing that
            was answered is missing from it if we are killed.
    """

    def __init__(self, journal: Path | None = None) -> None:
        self._guard = threading.Lock()
        self._journal: IO[str] | None = journal.open("a", buffering=1) if journal else None
        self._latencies, self._services = array("d"), array("d")
        self._kinds: Counter[str] = Counter()
        self._words: dict[str, Counter[str]] = {"refused": Counter(), "warning": Counter(), "unanswered": Counter()}
        self.again, self.bytes = 0, 0
        self._started, self._ended = time.monotonic(), 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal:
            self._journal.close()

    @property
    def count(self) -> int:
        """Images of which it is known what became."""
        return sum(self._kinds.values())

    def start(self) -> None:
        """The clock runs from now."""
        self._started = time.monotonic()

    def try_again(self) -> None:
        """An image was refused for the time being, or not answered, and is sent once more."""
        with self._guard:
            self.again += 1

    def add(self, image: Image, answer: Answer, due: float, sent: float) -> None:
        """Note what became of an image that was to go at `due`, and went at `sent`, by `time.monotonic`."""
        now = time.monotonic()
        line = ""
        if self._journal:
            told = {
                "uid": image.sop_instance_uid,
                "sha256": sha256(image.dataset).hexdigest(),
                "status": answer.word if answer.kind != "unanswered" else None,
                "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "bad": image.bad,
            }
            line = json.dumps(told) + "\n"
        with self._guard:
            self._ended = now
            self._kinds[answer.kind] += 1
            if answer.kind in self._words:
                self._words[answer.kind][answer.word] += 1
            if answer.kind != "unanswered":
                self._latencies.append(now - due)
                self._services.append(now - sent)
                self.bytes += len(image.dataset)
            if self._journal:
                self._journal.write(line)

    def report(self) -> dict[str, Any]:
        """All of it."""
        with self._guard:
            seconds = max(1e-9, self._ended - self._started)
            answered = len(self._latencies)
            return {
                "images": self.count,
                "answered": answered,
                "success": self._kinds["success"],
                "warning": _plain(self._words["warning"]),
                "refused": _plain(self._words["refused"]),
                "unanswered": _plain(self._words["unanswered"]),
                "sent_again": self.again,
                "seconds": round(seconds, 3),
                "rate": round(answered / seconds, 2),
                "mib_per_s": round(self.bytes / seconds / (1 << 20), 3),
                "latency_ms": quantiles(self._latencies),
                "service_ms": quantiles(self._services),
            }


def _plain(counter: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counter.items()))


def quantiles(seconds: "array[float]") -> dict[str, float]:
    """p50, p90, p99 and the longest, milliseconds: the value that so many are not above."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    at = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[max(0, -int(-share * len(ordered) // 1) - 1)] * 1000, 2) for name, share in at.items()}
