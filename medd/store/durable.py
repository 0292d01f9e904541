"""Files that survive a power failure."""

import contextlib
import ctypes
import os
import secrets
from pathlib import Path
from typing import Any

#: Linux's sync_file_range(2), which Python does not offer. It promises nothing, so its failure means nothing.
_sync_file_range: Any = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_SYNC_FILE_RANGE_WRITE = 2

#: Where fsync(2) of a file that was just given a name makes the name durable too: both are in one transaction of the
#: journal, which fsync forces out (Mohan et al., "Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing",
#: OSDI 2018); without a journal, ext4 writes the parent of a new name. POSIX promises it nowhere, so every other file
#: system has its folder synchronised.
NAMES_WITH_FILES = ("ext4", "xfs")


def write_once(path: Path, text: str) -> None:
    """Write a file unless it is there; of several processes that do so at once, one wins and all read the same."""
    if path.exists():
        return
    mine = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    with mine.open("w") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(mine)
    mine.unlink()
    sync_folder(path.parent)


def sync_folder(folder: Path | str) -> None:
    """Make the names in a folder survive a power failure."""
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def file_system(folder: Path) -> str:
    """What kind of file system a folder lies on, such as "ext4"; "" where that cannot be told."""
    number = folder.stat().st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    with contextlib.suppress(OSError):
        # proc_pid_mountinfo(5): the third field is the device; the type comes behind a hyphen.
        for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines():
            fields = line.split()
            if fields[2] == device and "-" in fields:
                return fields[fields.index("-") + 1]
    return ""


def start_writeback(file: int | None) -> None:
    """Have the system write what it holds of a file, without waiting for it."""
    if _sync_file_range is not None:
        _sync_file_range(file, 0, 0, _SYNC_FILE_RANGE_WRITE)


def write_all(file: int | None, data: bytes | bytearray | memoryview) -> None:
    """Write everything: a disk that is nearly full takes less than it is given."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]  # type: ignore[arg-type]
