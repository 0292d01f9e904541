"""What the host gives: folders, disk, fsync, inotify, clock."""

import ctypes
import errno
import os
import secrets
import shutil
import stat
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from medd.dicom.pseudonyms import KEY_FILE
from medd.doctor.finding import Finding, State
from medd.errors import SettingsError
from medd.settings import InboxSettings, Settings
from medd.store.bucket import Bucket
from medd.store.database import Database
from medd.store.durable import sync_folder
from medd.store.spool import FAIL_FREE_GIB, WARN_FREE_GIB, WARN_FREE_SHARE

_GIB = 1 << 30
#: Every image that is received waits for this.
WARN_FSYNC_MS = 50.0
#: Between the clocks of host, file system and database.
WARN_CLOCK_S = 2.0
#: SQLite's locks and inotify do not work across hosts.
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs", "lustre", "afs")
_VOLATILE = ("tmpfs", "ramfs")
_INOTIFY = Path("/proc/sys/fs/inotify")
_MOUNTS = Path("/proc/self/mountinfo")


def check_home(settings: Settings) -> Iterator[Finding]:
    """Whether the home folder can be written, and its secret is one."""
    yield _writable("home", settings.home)
    key = settings.home / KEY_FILE
    if key.is_file() and (mode := stat.S_IMODE(key.stat().st_mode)) & 0o077:
        found = f"{key}: others may read it (mode {mode:o}), and with it tell whom an export shows"
        yield Finding(State.WARN, "export key", found, f"chmod 600 {key}")


def check_spool(settings: Settings) -> Iterator[Finding]:
    """Whether the spool can be written, and its bucket."""
    yield _writable("spool", settings.under_home(settings.spool.path))
    if settings.spool.bucket:
        bucket = Bucket(settings.spool.bucket, settings.spool.endpoint)
        probe = f".probe-{secrets.token_hex(4)}"
        try:
            bucket.put(Path(os.devnull), probe)
            bucket.delete(probe)
            is_exclusive = bucket.is_exclusive(probe)
            bucket.delete(probe)
        except OSError as error:
            advice = "see spool.bucket, spool.endpoint and the credentials in the environment (AWS_ACCESS_KEY_ID, …)"
            yield Finding(State.FAIL, "spool bucket", f"{settings.spool.bucket}: {error.strerror}", advice)
        else:
            yield Finding(State.OK, "spool bucket", f"{settings.spool.bucket} can be written")
            if not is_exclusive:
                found = f"{settings.spool.bucket}: the server creates a key that is there (If-None-Match: *)"
                yield Finding(State.WARN, "spool bucket", found, "start the first host alone: it makes the spool's id")


def check_database_folder(settings: Settings) -> Iterator[Finding]:
    """Whether the folder of a SQLite database outside the home can be written."""
    folder = _folders(settings).get("database")
    if folder is not None and not folder.exists():
        yield Finding(State.FAIL, "database folder", f"{folder} is not there", "make it: SQLite makes no folders")
    elif folder is not None:
        yield _writable("database folder", folder)


def check_inboxes(settings: Settings) -> Iterator[Finding]:
    """Whether each inbox is there or can be made, and its files can be read and put aside."""
    if not settings.inbox:
        yield Finding(State.OK, "inbox", "none")
    for inbox in settings.inbox:
        yield _look_into(inbox, settings.under_home(inbox.path))


def _look_into(inbox: InboxSettings, folder: Path) -> Finding:
    try:
        is_there = folder.is_dir()
        if is_there:
            with os.scandir(folder) as entries:
                next(entries, None)
    except OSError as error:
        advice = f"let the user that runs medd ({os.geteuid()}) read there"
        return Finding(State.FAIL, "inbox", f"{folder} cannot be read: {error.strerror}", advice)
    if is_there and inbox.after == "leave":
        return Finding(State.OK, "inbox", f"{folder} can be read")
    finding = _writable("inbox", folder)
    if finding.state is State.OK or not is_there:
        return finding
    return replace(finding, advice=f'{finding.advice}, or set after = "leave"')


def check_file_system(settings: Settings) -> Iterator[Finding]:
    """Whether home, spool and database lie where bytes stay and locks hold."""
    folders = _folders(settings)
    holds_locks = "database" if "database" in folders else "home"
    for name, folder in folders.items():
        kind = file_system_of(_existing(folder))
        if kind in _VOLATILE:
            advice = "its content is gone after a restart: take a disk"
            yield Finding(State.FAIL, f"file system {name}", f"{folder}: {kind}", advice)
        elif kind in _NETWORK and name == holds_locks and settings.database.url.startswith("sqlite"):
            advice = "SQLite's locks do not hold there: take a local disk, or PostgreSQL"
            yield Finding(State.FAIL, f"file system {name}", f"{folder}: {kind}", advice)
        else:
            yield Finding(State.OK, f"file system {name}", f"{folder}: {kind or 'unknown'}")


def check_disk(settings: Settings) -> Iterator[Finding]:
    """How much room is left."""
    seen: set[int] = set()
    for name, folder in _folders(settings).items():
        there = _existing(folder)
        if (device := there.stat().st_dev) in seen:
            continue
        seen.add(device)
        usage = shutil.disk_usage(there)
        free, share = usage.free / _GIB, usage.free / usage.total
        state = State.OK
        if free < WARN_FREE_GIB or share < WARN_FREE_SHARE:
            state = State.FAIL if free < FAIL_FREE_GIB else State.WARN
        advice = "" if state is State.OK else "make room: on a full disk senders are answered 0xA700"
        yield Finding(state, f"disk {name}", f"{folder}: {free:.1f} GiB free, {share:.0%}", advice)


def check_fsync(settings: Settings) -> Iterator[Finding]:
    """How long the disk takes to promise that bytes are safe."""
    folder, took = _probed(settings), []
    for _ in range(5):
        probe = folder / f".probe-{secrets.token_hex(4)}"
        started = time.perf_counter()
        try:
            with probe.open("wb") as file:
                file.write(bytes(1 << 16))
                file.flush()
                os.fsync(file.fileno())
            sync_folder(folder)
        finally:
            probe.unlink(missing_ok=True)
        took.append((time.perf_counter() - started) * 1000)
    median = statistics.median(took)
    found = f"{folder}: 64 KiB and the folder in {median:.1f} ms (at most {max(took):.1f})"
    if median > WARN_FSYNC_MS:
        yield Finding(State.WARN, "fsync", found, "each image that is received waits for it: take a faster disk")
    else:
        yield Finding(State.OK, "fsync", found)


def check_inotify(settings: Settings) -> Iterator[Finding]:
    """Whether the kernel will tell of new files in the inboxes."""
    watched = [settings.under_home(inbox.path) for inbox in settings.inbox if not inbox.poll]
    if not watched:
        yield Finding(State.OK, "inotify", "not needed: no inbox, or all are polled")
        return
    try:
        watches, instances = (int((_INOTIFY / f"max_user_{what}").read_text()) for what in ("watches", "instances"))
    except OSError:
        yield Finding(
            State.WARN, "inotify", "this kernel has none", "inboxes are seen by rescans alone; set inbox.poll"
        )
        return
    needed = sum(1 + sum(len(folders) for _, folders, _ in os.walk(folder)) for folder in watched)
    found = f"{needed} folders watched, {watches} allowed; {instances} instances allowed"
    if (code := _try_inotify()) != 0:
        advice = "raise fs.inotify.max_user_instances by sysctl, or set inbox.poll"
        yield Finding(State.FAIL, "inotify", f"{found}; none to be had: {os.strerror(code)}", advice)
    elif needed > watches / 2:
        state = State.FAIL if needed > watches else State.WARN
        yield Finding(state, "inotify", found, "raise fs.inotify.max_user_watches by sysctl, or set inbox.poll")
    else:
        yield Finding(State.OK, "inotify", found)


def check_clock(settings: Settings) -> Iterator[Finding]:
    """Whether the file system's clock is the host's."""
    probe = _probed(settings) / f".probe-{secrets.token_hex(4)}"
    try:
        before = time.time()
        probe.touch()
        apart = probe.stat().st_mtime - before
    finally:
        probe.unlink(missing_ok=True)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    found = f"{now}; the file system's differs by {apart:+.1f} s"
    if abs(apart) > WARN_CLOCK_S:
        yield Finding(State.WARN, "clock", found, "synchronise the clocks of this host and of the file server (NTP)")
    else:
        yield Finding(State.OK, "clock", found)


def file_system_of(folder: Path, mounts: Path = _MOUNTS) -> str:
    """The type of the file system that a folder lies on, such as "ext4"; "" where it cannot be told."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    kinds = {}
    for line in lines:
        # proc(5): the fifth field is the mount point, octal escapes for blanks; the type follows the lone "-".
        left, _, right = line.partition(" - ")
        point = Path(left.split()[4].replace("\\040", " "))
        if folder.absolute().resolve().is_relative_to(point):
            kinds[len(point.parts)] = right.split()[0]  # of two on one point the later hides the earlier
    return kinds[max(kinds)] if kinds else ""


def _folders(settings: Settings) -> dict[str, Path]:
    folders = {"home": settings.home, "spool": settings.under_home(settings.spool.path)}
    try:
        database = Database(settings.database_url)
    except SettingsError:  # told by the check of the database
        return folders
    database.close()
    if database.file is not None and database.file.parent.absolute() != settings.home.absolute():
        folders["database"] = database.file.parent
    return folders


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(one for one in (folder, *folder.parents) if one.is_dir())


def _writable(name: str, folder: Path) -> Finding:
    try:
        there = next(one for one in (folder, *folder.parents) if one.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        probe = there / f".probe-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        advice = f"let the user that runs medd ({os.geteuid()}) write there"
        return Finding(State.FAIL, name, f"{folder} cannot be written: {error.strerror}", advice)
    return Finding(State.OK, name, f"{folder} can be written" if there == folder else f"{folder} can be made")


def _probed(settings: Settings) -> Path:
    """Where to try the spool's disk; in a home that is not there yet, the folder that it will be made in."""
    spool = settings.under_home(settings.spool.path)
    incoming = spool / "incoming"
    return incoming if incoming.is_dir() else _existing(spool)


def _try_inotify() -> int:
    """Take an inotify instance and give it back; 0, or the error's number."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        return errno.ENOSYS
    file: int = libc.inotify_init1(os.O_CLOEXEC)
    if file < 0:
        return ctypes.get_errno()
    os.close(file)
    return 0
