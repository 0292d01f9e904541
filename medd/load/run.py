"""The senders: threads that take the next image as soon as they are free, and send it when it is due.

Threads do: nearly all of a sender's time is spent in the socket, and one process brings far more images than a receiver
that synchronises each to disk can take (`docs/reliability.md` has the figures).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medd.dicom.part10 import encode_file_meta
from medd.errors import MeddError
from medd.load.aim import Scp
from medd.load.images import Image, Images
from medd.load.scu import Association
from medd.load.tally import WRITTEN, Answer, Tally

#: Between two tries with the same image, seconds: doubled each time up to the latter.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is sent, and how fast."""

    #: Images; 0 for as long as nobody stops it.
    count: int = 100
    #: Images a second, whether or not the earlier ones are answered; 0 for as fast as they are answered.
    rate: float = 0.0
    senders: int = 1
    #: Images of one association; 0 for all.
    per_association: int = 0
    #: Seconds for which an image is sent again that was not answered, or refused for the time being (0xA7xx).
    retry_s: float = 0.0


class Run:
    """One run of the generator.

    Args:
        target: Where to.
        images: What.
        pace: How.
        tally: Told what became of each.
    """

    def __init__(self, target: Scp | Path, images: Images, pace: Pace, tally: Tally) -> None:
        self._target, self._images, self._pace, self._tally = target, images, pace, tally
        self._series = images.make(pace.count or 1 << 62)
        self._next, self._stop, self._ended = threading.Lock(), threading.Event(), threading.Event()
        self._left = pace.senders
        self._start = 0.0

    def start(self) -> None:
        """Begin to send."""
        self._start = time.monotonic()
        self._tally.start()
        for number in range(self._pace.senders):
            threading.Thread(target=self._send_all, name=f"sender-{number}", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait for the end; returns whether it has come."""
        return self._ended.wait(seconds)

    def stop(self) -> None:
        """Send nothing more; what is on its way is waited for."""
        self._stop.set()

    def _send_all(self) -> None:
        sender = _Files(self._target) if isinstance(self._target, Path) else _Network(self._target, self._images)
        try:
            for sent, (image, due) in enumerate(self._due(), 1):
                self._send(sender, image, due)
                if self._pace.per_association and sent % self._pace.per_association == 0:
                    sender.release()
            sender.release()
        finally:
            with self._next:
                self._left -= 1
                if self._left == 0:
                    self._ended.set()

    def _due(self) -> Iterator[tuple[Image, float]]:
        """The next image of the series, at its time."""
        while not self._stop.is_set():
            with self._next:
                image = next(self._series, None)
            if image is None:
                return
            due = time.monotonic()
            if self._pace.rate:
                due = self._start + image.number / self._pace.rate
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    return
            yield image, due

    def _send(self, sender: "_Files | _Network", image: Image, due: float) -> None:
        give_up, pause = time.monotonic() + self._pace.retry_s, _FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            answer = sender.send(image)
            may_pass = answer.kind == "unanswered" or (answer.status or 0) >> 8 == 0xA7
            if not may_pass or time.monotonic() + pause > give_up or self._stop.is_set():
                self._tally.add(image, answer, due, began)
                return
            self._tally.try_again()
            self._stop.wait(pause)
            pause = min(_LONGEST_PAUSE_S, 2 * pause)


class _Files:
    """Writes files as a careful modality does: under another name first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def send(self, image: Image) -> Answer:
        path = self._folder / f"{image.sop_instance_uid}.dcm"
        part = path.with_suffix(".part")
        meta = encode_file_meta(image.sop_class_uid, image.sop_instance_uid, image.transfer_syntax_uid)
        try:
            part.write_bytes(meta + image.dataset)
            part.rename(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            return Answer(None, error.strerror or "error")
        return Answer(None, WRITTEN)

    def release(self) -> None:
        """Nothing is open."""


class _Network:
    """Sends by C-STORE, on an association that is opened when it is needed."""

    def __init__(self, scp: Scp, images: Images) -> None:
        self._scp, self._contexts = scp, images.contexts
        self._association: Association | None = None

    def send(self, image: Image) -> Answer:
        scp = self._scp
        try:
            if self._association is None:
                self._association = Association(
                    scp.address, scp.ae_title, scp.calling, self._contexts, scp.tls, scp.timeout_s
                )
            if not self._association.accepts(image.sop_class_uid, image.transfer_syntax_uid):
                return Answer(None, "presentation context not accepted")
            syntax = image.transfer_syntax_uid
            return Answer(self._association.store(image.sop_class_uid, syntax, image.sop_instance_uid, image.dataset))
        except TimeoutError:
            error = "no answer in time"
        except OSError as problem:
            error = problem.strerror or str(problem) or type(problem).__name__
        except MeddError as problem:
            error = str(problem)
        self._drop()
        return Answer(None, error.lower())

    def release(self) -> None:
        if self._association is not None:
            with suppress(OSError, MeddError):
                self._association.release()
            self._association = None

    def _drop(self) -> None:
        if self._association is not None:
            self._association.close()
            self._association = None


def watch(run: Run, tally: Tally, told: Callable[[int], None], every_s: float) -> None:
    """Wait for the end of a run, telling how far it is; Ctrl-C stops it, once in order and twice at once."""
    run.start()
    for last in (False, True):
        try:
            while not run.wait(every_s):
                told(tally.count)
            break
        except KeyboardInterrupt:
            run.stop()
            if last:
                break
    told(tally.count)
