"""What a host keeps of a bucket."""

import contextlib
import fcntl
import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from medd.errors import SettingsError

#: A file that every cache has: which start of the host it is from.
MARK = "boot-id"
#: A cache is looked through so often at most, seconds. What was used so lately stays, as it may be read just now; what
#: was not used for a day goes, as it may be deleted elsewhere.
_TRIM_S, _IN_USE_S, _UNUSED_S = 20.0, 60.0, 24 * 3600.0


class Cache:
    """What this host keeps of a bucket, in folders of a spool: what was used last.

    Args:
        root: The spool's folder.
        limit: Bytes.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self._root, self._limit = root, limit
        self._trimmed_at = time.monotonic()
        self._trimming = threading.Lock()

    def prepare(self) -> None:
        """Empty it when the host was started anew: nothing in it was synchronised, so it may be damaged.

        Raises:
            SettingsError: It holds files and was no cache so far.
        """
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:  # no Linux
            boot = ""
        mark = self._root / MARK
        with (self._root / "boot-lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # each process of the daemon does this at its start
            if boot and mark.is_file() and mark.read_text() == boot:
                self.evict()
                return
            if not mark.is_file() and next(self._files(), None):
                raise SettingsError(
                    f"spool.path: {self._root} holds files and was a spool until now, and a cache is emptied;"
                    " see to it that the bucket has them all, then move the folder away or name another"
                )
            for path in self._files():
                path.unlink(missing_ok=True)
            mark.write_text(boot)

    def touch(self, path: Path) -> bool:
        """Whether a file is here; it is used now."""
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def trim(self) -> None:
        """`evict`, once a minute at most, and in a thread of its own."""
        if time.monotonic() - self._trimmed_at >= _TRIM_S and self._trimming.acquire(blocking=False):
            threading.Thread(target=self._trim_then_rest, name="cache", daemon=True).start()

    def _trim_then_rest(self) -> None:
        try:
            self.evict()
        finally:
            self._trimmed_at = time.monotonic()
            self._trimming.release()

    def evict(self) -> None:
        """Delete what was not used for a day, and what was used longest ago until the rest is within the limit.

        What may be in use stays.
        """
        found = []
        for path in self._files():
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        surplus = sum(size for _, size, _ in found) - self._limit
        now = time.time()
        for used_at, size, path in sorted(found):
            if used_at > now - (_IN_USE_S if surplus > 0 else _UNUSED_S):
                return
            with contextlib.suppress(OSError):
                path.unlink()
                surplus -= size

    def _files(self) -> Iterator[Path]:
        for number in range(256):
            yield from old_files(self._root / f"{number:02x}", math.inf)


def old_files(folder: Path, before: float) -> Iterator[Path]:
    """The files of a folder that were last written before a moment, seconds since the epoch."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False) and entry.stat().st_mtime < before:
                    yield Path(entry.path)
