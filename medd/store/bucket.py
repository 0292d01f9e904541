"""A bucket of an object store, by fsspec: S3 and what speaks like it, or any other file system that fsspec knows."""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from medd.errors import SettingsError

#: Seconds to reach the server, and for it to say a word: what waits for it is a modality.
_CONNECT_S, _READ_S = 5, 20
#: Seconds after which an answer is given up, and a list; the slowest way to it that is waited for, bytes per second.
_ANSWER_S, _LIST_S, _SLOWEST = 30.0, 600.0, 1 << 20


class Bucket:
    """Files by their keys. Safe to use from many threads; every failure is an `OSError`.

    What was put is kept when `put` returns, and comes into being whole or not at all, as S3 promises: a key that is
    put again with the same bytes never shows anything between.

    Args:
        url: ``s3://bucket/folder``. Who we are says the environment, or the files that it names, as everywhere with
            S3: ``AWS_ACCESS_KEY_ID``, ``AWS_SHARED_CREDENTIALS_FILE``, the role of the machine.
        endpoint: Of a server other than Amazon's, ``https://host:port``.
    """

    def __init__(self, url: str, endpoint: str = "") -> None:
        self._url, self._endpoint = url.rstrip("/"), endpoint

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        # The receiver without a bucket must not load it.
        try:
            from fsspec.core import url_to_fs

            logging.getLogger("aiobotocore").setLevel(logging.WARNING)  # it tells where it found credentials
            options: dict[str, Any] = {}
            if self._url.startswith("s3://"):
                limits = {"connect_timeout": _CONNECT_S, "read_timeout": _READ_S}
                options = {"endpoint_url": self._endpoint or None, "config_kwargs": limits}
            system, folder = url_to_fs(self._url, use_listings_cache=False, **options)
        except ImportError as error:
            raise SettingsError(
                "spool.bucket: fsspec's driver is missing; install it: pip install 'medd[s3]'"
            ) from error
        except ValueError as error:
            raise SettingsError(f"spool.bucket: {self._url} is no URL of a bucket. Received: {error}") from error
        return system, folder

    def put(self, file: Path, key: str) -> None:
        """Keep a file."""
        self._call("put_file", os.fspath(file), key, limit_s=_ANSWER_S + file.stat().st_size / _SLOWEST)

    def get(self, key: str, file: Path) -> None:
        """Fetch a file.

        Raises:
            FileNotFoundError: There is none.
            OSError: The bucket cannot be read.
        """
        size = self.size(key)
        if size is None:
            raise FileNotFoundError(errno.ENOENT, "not in the bucket")
        self._call("get_file", key, os.fspath(file), limit_s=3 * _ANSWER_S + size / _SLOWEST)

    def size(self, key: str) -> int | None:
        """Bytes of a file; None where there is none."""
        try:
            return int(self._call("info", key, refresh=True)["size"])
        except FileNotFoundError:
            return None

    def delete(self, key: str) -> None:
        """Delete a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._call("rm_file", key)

    def move(self, key: str, to: str) -> None:
        """Give a file another key."""
        self._call("cp_file", key, to)
        self._call("rm_file", key)

    def folders(self) -> set[str]:
        """The folders in which there are files."""
        try:
            found = self._call("ls", "", detail=True, refresh=True)
        except FileNotFoundError:
            return set()
        return {one["name"].rstrip("/").rpartition("/")[2] for one in found if one["type"] == "directory"}

    def list(self, prefix: str) -> Iterator[tuple[str, float]]:
        """The keys of a folder, and when each was written, seconds since the epoch."""
        try:
            found = self._call("find", prefix, detail=True, limit_s=_LIST_S)
        except FileNotFoundError:
            return
        for name, info in found.items():
            yield name.removeprefix(f"{self._opened[1]}/"), _written_at(info)

    def agree_on(self, key: str, content: str) -> str:
        """Write a text unless it is there; of several hosts that do so at once, one wins and all get the same."""
        with contextlib.suppress(FileNotFoundError):
            return self._text(key)
        try:
            self._create(key, content)
        except OSError:  # another was first, which each store says in words of its own; or it is away
            with contextlib.suppress(FileNotFoundError):
                return self._text(key)
            raise
        return self._text(key)

    def is_exclusive(self, key: str) -> bool:
        """Whether what `agree_on` writes is written once: not every server that speaks S3 knows how. Leaves the key."""
        self._create(key, "first")
        with contextlib.suppress(OSError):
            self._create(key, "second")
        return self._text(key) == "first"

    def _create(self, key: str, content: str) -> None:
        self._call("pipe_file", key, content.encode(), mode="create")

    def _text(self, key: str) -> str:
        return str(self._call("cat_file", key).decode().strip())

    def _call(self, what: str, *arguments: Any, limit_s: float = 0, **options: Any) -> Any:
        """One of fsspec's functions, of which what is no path is given as it is; it ends within `limit_s`."""
        limit_s = limit_s or _ANSWER_S
        system, folder = self._opened
        here = [
            one if isinstance(one, bytes) or one.startswith("/") else f"{folder}/{one}".rstrip("/") for one in arguments
        ]
        try:
            if not system.async_impl:
                return getattr(system, what)(*here, **options)
            # The driver's own time-outs do not end every wait: not that for leave to send ("100-continue"), for one.
            from fsspec.asyn import sync

            return sync(system.loop, getattr(system, f"_{what}"), *here, timeout=limit_s, **options)
        except FileExistsError:
            raise
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "not in the bucket") from error
        except self._refusals as error:
            raise PermissionError(errno.EACCES, f"bucket: {error}") from error
        except self._failures as error:
            told = getattr(error, "strerror", None) or str(error) or f"no answer within {limit_s:.0f} s"
            raise OSError(errno.EIO, f"bucket: {told}") from error

    @cached_property
    def _failures(self) -> tuple[type[Exception], ...]:
        """What the driver raises when the store is away."""
        if not self._url.startswith("s3://"):
            return (OSError,)
        from aiohttp import ClientError
        from botocore.exceptions import BotoCoreError

        return (OSError, BotoCoreError, ClientError)

    @cached_property
    def _refusals(self) -> tuple[type[Exception], ...]:
        """What it raises when the settings are wrong."""
        if not self._url.startswith("s3://"):
            return (PermissionError,)
        from botocore.exceptions import NoCredentialsError

        return (PermissionError, NoCredentialsError)


def _written_at(info: dict[str, Any]) -> float:
    """Each of fsspec's file systems calls it something else."""
    moment = info.get("LastModified") or info.get("mtime") or info.get("created") or 0.0
    return float(moment if isinstance(moment, int | float) else moment.timestamp())
