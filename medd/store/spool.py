"""Where the bytes of every instance lie: ``spool/ab/abcd….dcm``, named by their SHA-256 and by nothing a peer sent.

With a bucket they lie there, under the same names, and the folder is this host's cache: nothing in it is promised to
anybody, so nothing in it is synchronised.
"""

import contextlib
import errno
import hashlib
import itertools
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from medd.dicom.part10 import HEAD_BYTES, split_file
from medd.errors import InputError, SettingsError, TransientError
from medd.records import MediaType
from medd.store.cache import MARK, Cache, old_files
from medd.store.durable import NAMES_WITH_FILES, file_system, start_writeback, sync_folder, write_all, write_once

if TYPE_CHECKING:
    from medd.store.bucket import Bucket

_SUFFIX = {MediaType.DICOM: ".dcm", MediaType.JPEG: ".jpg", MediaType.PNG: ".png", MediaType.TIFF: ".tif"}
#: An object smaller than this touches the disk only when it is complete.
BUFFER_BYTES = 1 << 20
#: A `.part` file this old belongs to nobody any more.
STALE_S = 24 * 3600
#: Below these, images will soon be answered 0xA700.
WARN_FREE_GIB, FAIL_FREE_GIB, WARN_FREE_SHARE = 5.0, 1.0, 0.10
#: Seconds between looks at how much of the disk is free.
_LOOK_S = 1.0

#: Files brought from a bucket at the same time.
_AT_ONCE = 16


class Spool:
    """A content-addressed store of files.

    Args:
        root: The folder.
        min_free_mib: New files are refused while less is free on its disk: the database and the results of what was
            taken in already need room too.
        bucket: Where the files are kept; `root` is then a cache of it, of this host alone.
        cache_mib: How much of the bucket's is kept in the cache.

    Attributes:
        root: The folder.
        bucket: As given.
    """

    def __init__(
        self, root: Path, min_free_mib: int = 0, bucket: "Bucket | None" = None, cache_mib: int = 1024
    ) -> None:
        self.root, self.bucket, self._min_free_mib = root, bucket, min_free_mib
        self._root = str(root)
        # Not the process id, which repeats from one container to the next.
        self._token = secrets.token_hex(8)
        self._numbers = itertools.count()
        self._sync_names = True
        self._looked_at, self._is_full = -_LOOK_S, False
        self._cache = Cache(root, cache_mib << 20) if bucket else None

    def prepare(self) -> None:
        """Make the folders and remove what writers that died left half-written.

        Raises:
            OSError: The folder cannot be written, or the bucket not be reached.
            SettingsError: The folder is another bucket's, or was a spool or a cache and is to be the other.
        """
        incoming = self.root / "incoming"
        incoming.mkdir(parents=True, exist_ok=True)
        for number in range(256):
            (self.root / f"{number:02x}").mkdir(exist_ok=True)
        sync_folder(self.root)
        self._sync_names = file_system(self.root) not in NAMES_WITH_FILES
        wanted = (
            secrets.token_hex(16) if self.bucket is None else self.bucket.agree_on("spool-id", secrets.token_hex(16))
        )
        write_once(self.root / "spool-id", wanted)
        if self._cache is not None:
            if self.id != wanted:
                raise SettingsError(f"spool.path: {self.root} belongs to another spool than spool.bucket")
            self._cache.prepare()
        elif (self.root / MARK).exists():
            # What is put into a cache is deleted again.
            raise SettingsError(f"spool.path: {self.root} is the cache of a bucket, and spool.bucket is empty")
        for part in incoming.glob("*.part"):
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > STALE_S:
                    part.unlink()

    @property
    def id(self) -> str:
        """What this spool is called in the database, wherever it is mounted. Made by `prepare`."""
        return (self.root / "spool-id").read_text().strip()

    def path(self, sha256: str, media_type: MediaType | str) -> Path:
        """Where the bytes with this digest lie."""
        return self.root / sha256[:2] / f"{sha256}{_SUFFIX[MediaType(media_type)]}"

    def bring(self, path: Path) -> Path:
        """See to it that a file can be read here; returns its path.

        Raises:
            OSError: It is not in the bucket, or that cannot be read. Without a bucket nothing is looked at.
        """
        if self.bucket is not None and self._cache is not None and not self._cache.touch(path):
            part = self.root / "incoming" / f"{self._token}-{next(self._numbers)}.part"
            try:
                self.bucket.get(self._key(path), part)
                part.rename(path)
            finally:
                part.unlink(missing_ok=True)
            self._cache.trim()
        return path

    def check_bucket(self) -> None:
        """Ask whether the bucket is there.

        Raises:
            OSError: It cannot be read.
        """
        if self.bucket is not None:
            self.bucket.size("spool-id")

    def bring_all(self, paths: Sequence[Path]) -> list[OSError | None]:
        """`bring`, of many at once; what went wrong with each."""

        def attempt(path: Path) -> OSError | None:
            try:
                self.bring(path)
            except OSError as error:
                return error
            return None

        if self.bucket is None or len(paths) < 2:
            return [attempt(path) for path in paths]
        with ThreadPoolExecutor(min(len(paths), _AT_ONCE), "bring") as pool:
            return list(pool.map(attempt, paths))

    def bring_anew(self, paths: Sequence[Path]) -> list[OSError | None]:
        """`bring_all` of what is kept, whatever the cache says."""
        for path in paths:
            self.forget(path)
        return self.bring_all(paths)

    def has(self, path: Path) -> bool:
        """Whether a file is kept; it can be read here then.

        Raises:
            TransientError: The bucket is away.
        """
        try:
            return self.bring(path).is_file()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise TransientError(f"spool: {error.strerror}") from error

    def forget(self, path: Path) -> None:
        """Bring a file anew when it is next wanted, as the copy here may be damaged. Without a bucket it stays."""
        if self.bucket is not None:
            path.unlink(missing_ok=True)

    def size(self, path: Path) -> int | None:
        """Bytes of a kept file with what was put before its content; None where there is none.

        Raises:
            OSError: The disk or the bucket does not say.
        """
        if self.bucket is not None:
            return self.bucket.size(self._key(path))
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return None

    def delete(self, path: Path) -> None:
        """Delete a file for good.

        Raises:
            OSError: The disk or the bucket does not let us.
        """
        if self.bucket is not None:
            self.bucket.delete(self._key(path))
        path.unlink(missing_ok=True)

    def set_aside(self, path: Path) -> None:
        """Move a file to ``orphans/``.

        Raises:
            OSError: It cannot be moved.
        """
        orphans = self.root / "orphans"
        if self.bucket is not None:
            self.bucket.move(self._key(path), f"orphans/{path.name}")
            path.unlink(missing_ok=True)
            return
        orphans.mkdir(exist_ok=True)
        path.rename(orphans / path.name)
        sync_folder(orphans)

    def old_files(self, before: float) -> Iterator[Path]:
        """Every kept file that was last written before a moment, seconds since the epoch.

        Raises:
            OSError: The bucket cannot be read.
        """
        names = {f"{number:02x}" for number in range(256)}
        if self.bucket is None:
            for name in sorted(names):
                yield from old_files(self.root / name, before)
            return
        for name in sorted(names & self.bucket.folders()):
            yield from (self.root / key for key, written_at in self.bucket.list(name) if written_at < before)

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def writer(self, prefix: bytes = b"", media_type: MediaType = MediaType.DICOM) -> "SpoolWriter":
        """Begin a file with `prefix`, which is not part of its digest: preamble and file meta group."""
        name = f"{self._token}-{next(self._numbers)}"
        keep = None if self.bucket is None else self._keep
        return SpoolWriter(self._root, name, prefix, media_type, self._sync_names, self.check_space, keep)

    def _keep(self, path: str) -> None:
        assert self.bucket is not None
        assert self._cache is not None
        self.bucket.put(Path(path), self._key(Path(path)))
        self._cache.trim()

    def check_space(self) -> None:
        """Look, once a second at most, whether there is room for another file.

        Raises:
            OSError: ENOSPC: less is free than is to stay free.
        """
        if not self._min_free_mib:
            return
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_S:
            disk = os.statvfs(self._root)
            self._looked_at, self._is_full = now, disk.f_bavail * disk.f_frsize < self._min_free_mib << 20
        if self._is_full:
            raise OSError(errno.ENOSPC, f"less than {self._min_free_mib} MiB free on its disk (spool.min_free_mib)")


class SpoolWriter:
    """One file on its way into the spool: `write` repeatedly, then `publish` and `sync`, or `discard`.

    Attributes:
        head: The beginning of the content, at most `BUFFER_BYTES` and what came with the last write before.
        size: Content written so far, bytes, without the prefix.
    """

    def __init__(
        self,
        root: str,
        name: str,
        prefix: bytes,
        media_type: MediaType,
        sync_names: bool,
        check_space: Callable[[], None],
        keep: Callable[[str], None] | None = None,
    ) -> None:
        self._root, self._part = root, f"{root}/incoming/{name}.part"
        self._prefix, self._suffix, self._sync_names = prefix, _SUFFIX[media_type], sync_names
        self._check_space, self._keep = check_space, keep
        self._digest = hashlib.sha256()
        self._file: int | None = None
        self._unsynced = 0
        self.head = bytearray()
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add content.

        Raises:
            OSError: The disk is full or failing.
        """
        self._digest.update(data)
        self.size += len(data)
        if self._file is None:
            if self.size <= BUFFER_BYTES:
                self.head += data
                return
            self._open()
        write_all(self._file, data)
        self._unsynced += len(data)
        if self._unsynced >= BUFFER_BYTES:
            # A large object goes to the disk while it still comes in, and others beside it.
            self._check_space()
            start_writeback(self._file)
            self._unsynced = 0

    def _open(self) -> None:
        self._check_space()
        self._file = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        written = os.writev(self._file, (self._prefix, self.head))
        if written < len(self._prefix) + len(self.head):
            write_all(self._file, (self._prefix + self.head)[written:])

    def read(self, at: int, length: int) -> bytes:
        """Content again, from an offset on.

        Raises:
            OSError: The disk is failing.
        """
        if self._file is None:
            return bytes(self.head[at : at + length])
        return os.pread(self._file, length, len(self._prefix) + at)

    @property
    def sha256(self) -> str:
        """Digest of the content so far, in hex."""
        return self._digest.hexdigest()

    def publish(self) -> None:
        """Give the complete file its name. It survives a crash of this process now, and a power failure after `sync`.

        Raises:
            OSError: The disk is full or failing. Nothing is left behind.
        """
        final = f"{self._folder}/{self.sha256}{self._suffix}"
        try:
            if self._file is None:
                self._open()
            try:
                os.link(self._part, final)  # hot path, as below
                os.unlink(self._part)  # noqa: PTH108
            except FileExistsError:
                # The same bytes again: what was answered for must not be replaced by what is not on the disk yet.
                self._take_prefix(final)
                os.fsync(self._file)  # type: ignore[arg-type]
                os.rename(self._part, final)  # noqa: PTH104
                self._sync_names = True
        except OSError:
            self.discard()
            raise

    def _take_prefix(self, final: str) -> None:
        """Write the file anew with what stands before the same content in a file that is there, unless that is damaged.

        Whoever sent it first said how it is encoded, and its row came of that: nobody else can say otherwise.
        """
        try:
            with Path(final).open("rb") as file:
                there, size = file.read(HEAD_BYTES), os.fstat(file.fileno()).st_size
            prefix = there[: split_file(there)[0]]
        except (FileNotFoundError, InputError):  # deleted just now, or what a crash left
            return
        if prefix == self._prefix or size != len(prefix) + self.size:
            return
        written, at = self._file, len(self._prefix) + len(self.head)
        assert written is not None
        self._file, self._prefix = None, prefix
        try:
            os.unlink(self._part)  # noqa: PTH108
            self._open()
            while data := os.pread(written, BUFFER_BYTES, at):
                write_all(self._file, data)
                at += len(data)
        finally:
            os.close(written)

    def sync(self) -> None:
        """Make a published file and its name survive a power failure; with a bucket, the end of this host.

        Raises:
            OSError: The disk is failing, or the bucket cannot be written.
        """
        assert self._file is not None
        try:
            if self._keep is not None:
                self._keep(f"{self._folder}/{self.sha256}{self._suffix}")
                return
            os.fsync(self._file)
            if self._sync_names:
                sync_folder(self._folder)
        finally:
            os.close(self._file)
            self._file = None

    @property
    def _folder(self) -> str:
        return f"{self._root}/{self.sha256[:2]}"

    def discard(self) -> None:
        """Forget the file. Harmless after `sync`."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            with contextlib.suppress(OSError):
                os.unlink(self._part)  # noqa: PTH108 - hot path
