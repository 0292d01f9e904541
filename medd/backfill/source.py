"""Where an archive's files lie: a folder, or what fsspec opens by a URL, such as a bucket of an object store."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from medd.errors import SettingsError, TransientError
from medd.ingest.watch import files_below


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive."""

    #: Names it within its source, such as a path relative to the folder.
    key: str
    #: Changes with the file: size and time of modification, or what the object store says of its content.
    mark: str


class Source(Protocol):
    """An archive of files. Handed to other processes and hosts by pickling."""

    @property
    def name(self) -> str:
        """Which archive it is: the absolute path, or the URL."""

    def entries(self) -> Iterator[Entry]:
        """Every file, in the order of names.

        Raises:
            TransientError: The archive cannot be read.
        """

    def origin(self, key: str) -> str:
        """Where an image came from, as its row says."""

    def open(self, key: str) -> contextlib.AbstractContextManager[Path]:
        """A file, as a path on this host for as long as the context lasts.

        Raises:
            OSError: It cannot be read.
        """


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder with all that is below it, or one file."""

    name: str

    def entries(self) -> Iterator[Entry]:
        """Every file, in the order of names."""
        root = Path(self.name)
        try:
            for path in files_below(root) if root.is_dir() else (root,):
                try:
                    found = path.stat()
                except FileNotFoundError:
                    if path == root:
                        raise
                    continue  # gone since its folder was read
                yield Entry(path.relative_to(root).as_posix(), f"{found.st_size}-{found.st_mtime_ns}")
        except OSError as error:
            raise TransientError(f"{self.name}: cannot be read. Received: {error.strerror}") from error

    def origin(self, key: str) -> str:
        """As `medd ingest` says it: the path, beginning with the folder's own name."""
        return f"file:{(Path(Path(self.name).name) / key).as_posix()}"

    @contextlib.contextmanager
    def open(self, key: str) -> Iterator[Path]:
        """The file itself."""
        yield Path(self.name) / key


@dataclass(frozen=True, slots=True)
class Bucket:
    """All objects below a URL that fsspec knows: "s3://bucket/prefix" with s3fs.

    How to reach the store, and as whom, is taken from the environment as its own tools do: AWS_ENDPOINT_URL,
    AWS_ACCESS_KEY_ID, AWS_PROFILE, ….
    """

    name: str

    def _open(self) -> tuple[Any, str]:
        try:
            from fsspec.core import url_to_fs

            system, root = url_to_fs(self.name, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            message = f"{self.name}: what reads it is missing; for s3:// install: pip install 'medd[s3]'"
            raise SettingsError(f"{message}. Received: {error}") from error
        return system, root

    def entries(self) -> Iterator[Entry]:
        """Every object, a common prefix up to "/" after the other."""
        system, root = self._open()
        try:
            if system.isfile(root):
                yield Entry("", _mark(system.info(root)))
                return
            for folder, _, files in system.walk(root, detail=True, on_error="raise"):
                for name in sorted(files):
                    yield Entry(f"{folder}/{name}".removeprefix(root).lstrip("/"), _mark(files[name]))
        except _failures() as error:
            raise TransientError(f"{self.name}: cannot be listed. Received: {error}") from error

    def origin(self, key: str) -> str:
        """The object's URL."""
        return f"{self.name.rstrip('/')}/{key}".rstrip("/")

    @contextlib.contextmanager
    def open(self, key: str) -> Iterator[Path]:
        """A copy of the object in a temporary file.

        Raises:
            OSError: There is none of this name, or we may not read it.
            TransientError: The store does not answer.
        """
        system, root = self._open()
        with tempfile.NamedTemporaryFile(prefix="medd-backfill-") as copy:
            try:
                system.get_file(f"{root.rstrip('/')}/{key}".rstrip("/"), copy.name)
            except (FileNotFoundError, PermissionError):
                raise
            except _failures() as error:
                raise TransientError(f"{self.name}: does not answer. Received: {error}") from error
            yield Path(copy.name)


def _failures() -> tuple[type[Exception], ...]:
    """What fsspec raises when a store is away: s3fs lets through what the library below it raises."""
    try:
        from aiohttp import ClientError
        from botocore.exceptions import BotoCoreError
    except ImportError:
        return (OSError,)
    return (OSError, BotoCoreError, ClientError)


def _mark(info: dict[str, Any]) -> str:
    changed = info.get("ETag") or info.get("LastModified") or info.get("mtime") or ""
    return f"{info.get('size')}-{changed}"


def open_files(text: str) -> Source | None:
    """The folder, file or bucket of this name; None where it is none.

    Raises:
        SettingsError: It is the URL of a store that cannot be used.
    """
    if "://" in text:
        bucket = Bucket(text)
        bucket._open()
        return bucket
    path = Path(text).expanduser()
    return Folder(str(path.absolute())) if path.exists() else None
