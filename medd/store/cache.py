"""What a host keeps of a bucket."""

import contextlib
import fcntl
import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

#: A cache is looked through so often at most, seconds; what was used so lately stays, as it may be read just now.
_TRIM_S, _IN_USE_S = 60.0, 600.0


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
        """Empty it when the host was started anew: nothing in it was synchronised, so it may be damaged."""
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:  # no Linux
            boot = ""
        mark = self._root / "boot-id"
        with (self._root / "boot-lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # each process of the daemon does this at its start
            if boot and mark.is_file() and mark.read_text() == boot:
                return
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
        """Delete what was used longest ago, until the rest is within the limit; what may be in use stays."""
        found = []
        for path in self._files():
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        surplus = sum(size for _, size, _ in found) - self._limit
        young = time.time() - _IN_USE_S
        for used_at, size, path in sorted(found):
            if surplus <= 0 or used_at > young:
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
