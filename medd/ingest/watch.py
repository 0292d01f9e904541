"""Watched folders: a file is taken when it has been quiet, told by events where there are any and by rescans anyway."""

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.polling import PollingObserverVFS

from medd.errors import InputError, SettingsError, TransientError
from medd.ingest.intake import Intake, Receipt
from medd.records import Status
from medd.settings import InboxSettings

log = logging.getLogger(__name__)

DONE, REJECTED = "done", "rejected"
_UNFINISHED = (".part", ".tmp", ".filepart", ".crdownload")


def is_candidate(relative: Path) -> bool:
    """Whether a file of this name is meant for us: not hidden, not unfinished, not one that we put aside."""
    if relative.parts[0] in (DONE, REJECTED) or relative.name.endswith("~"):
        return False
    return not any(part.startswith(".") for part in relative.parts) and relative.suffix.lower() not in _UNFINISHED


def files_below(root: Path, scan: Callable[[Path], Iterator[os.DirEntry[str]]] = os.scandir) -> Iterator[Path]:
    """Every regular file below a folder, in the order of names; symbolic links are left alone.

    Args:
        root: The folder.
        scan: What is in a folder; what it leaves out is not entered.

    Raises:
        OSError: The folder itself cannot be read; below it, what cannot be read is passed over with a line.
    """
    for entry in sorted(scan(root), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            try:
                yield from files_below(Path(entry.path), scan)
            except OSError as error:
                log.warning("folder %s cannot be read: %s", entry.name, error.strerror, extra={"event": "inbox.error"})
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def _state(path: Path) -> tuple[int, int, int] | None:
    """Inode, size and time of modification of a regular file; None when it is none, or gone."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


class Settler:
    """Tells when a file has stopped changing. No clock of its own and no disk: both are handed in.

    Args:
        settle_s: Seconds without change.
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._seen: dict[Path, tuple[tuple[int, int, int], float]] = {}

    def observe(self, path: Path, state: tuple[int, int, int], now: float) -> bool:
        """Note what a file looks like now; True when it has looked so for `settle_s` seconds.

        Args:
            path: The file.
            state: Its inode, size and time of modification; whatever of it changes, the file has changed.
            now: Seconds of a clock that never goes back.
        """
        before = self._seen.get(path)
        if before is None or before[0] != state:
            self._seen[path] = (state, now)
            return self._settle_s == 0
        return now - before[1] >= self._settle_s

    def forget(self, path: Path) -> None:
        """The file is gone or taken."""
        self._seen.pop(path, None)


class _Collector(FileSystemEventHandler):
    """Collects the paths that events name; the inbox looks at them itself."""

    def __init__(self) -> None:
        self.paths: set[Path] = set()
        self.guard = threading.Lock()
        self.something = threading.Event()

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.is_directory or event.event_type in ("deleted", "opened", "closed_no_write"):
            return
        with self.guard:
            for name in (event.src_path, event.dest_path):
                if name:
                    self.paths.add(Path(os.fsdecode(name)))
        self.something.set()

    def drain(self) -> set[Path]:
        with self.guard:
            paths, self.paths = self.paths, set()
            self.something.clear()
        return paths


class Inbox:
    """One watched folder, in a thread of its own."""

    def __init__(self, settings: InboxSettings, root: Path, intake: Intake) -> None:
        """Make the folder where it is missing.

        Raises:
            SettingsError: It cannot be made.
        """
        self._settings, self._root, self._intake = settings, root, intake
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"inbox.path: {root} cannot be made. Received: {error.strerror}") from error
        self._collector = _Collector()
        self._settler = Settler(settings.settle_s)
        self._waiting: set[Path] = set()
        #: Files that were looked at and stay where they are, as they were then: taken and left, or unreadable.
        self._left: dict[Path, tuple[int, int, int]] = {}
        self._observer: Any = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inbox")
        self._reported = ""

    def start(self) -> None:
        """Watch from now on; what lies there already is found too."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether the folder is still watched."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop after the file in hand."""
        self._stopping.set()
        self._collector.something.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        next_rescan = 0.0
        while not self._stopping.is_set():
            now = time.monotonic()
            try:
                if now >= next_rescan:
                    next_rescan = now + self._settings.rescan_s
                    self._watch()
                    self._waiting.update(path for path in files_below(self._root, self._scan) if self._wanted(path))
                self._waiting.update(path for path in self._collector.drain() if self._wanted(path))
                for path in sorted(self._waiting):
                    if self._stopping.is_set():
                        break
                    self._look(path)
                self._reported = ""
            except OSError as error:
                self._report(f"inbox cannot be read, will look again: {error.strerror}")
            except TransientError as error:
                self._report(f"inbox waits: {error}")
                self._stopping.wait(1)
            except Exception:  # one odd file must not end the watch over the others
                log.exception("inbox failed", extra={"event": "inbox.failed"})
                self._stopping.wait(1)
            quiet = next_rescan - time.monotonic()
            if self._waiting:
                self._stopping.wait(min(max(0.05, self._settings.settle_s / 4), 1.0))
            elif quiet > 0 and not self._stopping.is_set():  # the loop may have cleared the event that `stop` set
                self._collector.something.wait(quiet)
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(timeout=5)

    def _watch(self) -> None:
        """Start the observer, and start it again when it died: it does so silently when the folder drops away."""
        if self._observer is not None:
            # Its own thread lives on; it is the one that reads the folder that dies.
            if all(emitter.is_alive() for emitter in self._observer.emitters):
                return
            self._observer.stop()
            self._observer = None
        # inotify has one watch for each folder of what was put aside, but nothing to do for it.
        observer = PollingObserverVFS(os.lstat, self._scan) if self._settings.poll else Observer()
        try:
            observer.schedule(self._collector, str(self._root), recursive=True)
            observer.start()
            self._observer = observer
        except OSError as error:
            # inotify's limits are used up, or the folder is away: the rescans still find everything.
            self._report(f"no change events, rescans only: {error.strerror}")

    def _scan(self, folder: Path | str | None) -> Iterator[os.DirEntry[str]]:
        """What is in a folder, without what is hidden or was put aside: that grows, and need not be looked through."""
        assert folder is not None
        aside = (DONE, REJECTED) if Path(folder) == self._root else ()
        with os.scandir(folder) as entries:
            return iter([entry for entry in entries if not entry.name.startswith(".") and entry.name not in aside])

    def _report(self, sentence: str) -> None:
        if sentence != self._reported:
            self._reported = sentence
            log.warning("%s", sentence, extra={"event": "inbox.error"})

    def _wanted(self, path: Path) -> bool:
        try:
            return is_candidate(path.relative_to(self._root))
        except (ValueError, IndexError):
            return False

    def _look(self, path: Path) -> None:
        state = _state(path)
        if state is None or self._left.get(path) == state:
            return self._drop(path)
        if not self._settler.observe(path, state, time.monotonic()):
            return None
        relative = path.relative_to(self._root)
        try:
            receipt = self._intake.receive_file(path, f"file:{relative.as_posix()}")
        except FileNotFoundError:
            log.warning("file %s disappeared", relative, extra={"event": "inbox.error"})
            return self._drop(path)
        except OSError as error:
            log.warning("file %s cannot be read: %s", relative, error.strerror, extra={"event": "inbox.error"})
            self._left[path] = state
            return self._drop(path)
        except InputError as error:
            log.warning("file %s is refused: %s", relative, error, extra={"event": "inbox.refused"})
            self._left[path] = state
            return self._drop(path)
        except TransientError:
            raise
        except Exception:  # a fault of ours or of a plugin, met by one file: those behind it go on
            log.exception("file %s failed and stays", relative, extra={"event": "inbox.failed"})
            self._left[path] = state
            return self._drop(path)
        if _state(path) != state:
            # Written on, or replaced, while it was taken: what lies there now is another file.
            log.warning("file %s changed while it was taken", relative, extra={"event": "inbox.changed"})
            self._settler.forget(path)
            return None
        self._put_aside(path, relative, state, receipt)
        return self._drop(path)

    def _drop(self, path: Path) -> None:
        self._waiting.discard(path)
        self._settler.forget(path)

    def _put_aside(self, path: Path, relative: Path, state: tuple[int, int, int], receipt: Receipt) -> None:
        """Do with a file that was taken what the settings say. It is safe in the spool already."""
        refused = receipt.status is Status.NOT_ASSESSED
        if refused:
            fields = {"event": "inbox.refused", "instance": receipt.instance_id, "reason": receipt.reason}
            log.warning("file %s is not assessed: %s", relative, receipt.detail or receipt.reason, extra=fields)
        try:
            if self._settings.after == "leave":
                self._left[path] = state
            elif self._settings.after == "delete":
                path.unlink()
            else:
                target = self._root / (REJECTED if refused else DONE) / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.exists():
                    target = target.with_name(f"{target.stem}.{receipt.sha256[:12]}{target.suffix}")
                path.replace(target)
                if refused:
                    note = f"not assessed: {receipt.reason}\n{receipt.detail}\ninstance: {receipt.instance_id}\n"
                    target.with_name(f"{target.name}.reason.txt").write_text(note)
        except OSError as error:
            self._left[path] = state
            log.warning("file %s cannot be put aside: %s", relative, error.strerror, extra={"event": "inbox.error"})
