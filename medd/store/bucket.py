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

#: Seconds to reach the server, and for it to say a word; tries of one request. What waits for it is a modality.
_CONNECT_S, _READ_S, _TRIES = 5, 20, 3


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
                limits = {"connect_timeout": _CONNECT_S, "read_timeout": _READ_S, "retries": {"max_attempts": _TRIES}}
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
        with self._told() as (system, folder):
            system.put_file(os.fspath(file), f"{folder}/{key}")

    def get(self, key: str, file: Path) -> None:
        """Fetch a file.

        Raises:
            FileNotFoundError: There is none.
            OSError: The bucket cannot be read.
        """
        with self._told() as (system, folder):
            system.get_file(f"{folder}/{key}", os.fspath(file))

    def size(self, key: str) -> int | None:
        """Bytes of a file; None where there is none."""
        try:
            with self._told() as (system, folder):
                return int(system.info(f"{folder}/{key}", refresh=True)["size"])
        except FileNotFoundError:
            return None

    def delete(self, key: str) -> None:
        """Delete a file, if it is there."""
        with contextlib.suppress(FileNotFoundError), self._told() as (system, folder):
            system.rm_file(f"{folder}/{key}")

    def move(self, key: str, to: str) -> None:
        """Give a file another key."""
        with self._told() as (system, folder):
            system.cp_file(f"{folder}/{key}", f"{folder}/{to}")
            system.rm_file(f"{folder}/{key}")

    def folders(self) -> set[str]:
        """The folders in which there are files."""
        with self._told() as (system, folder):
            try:
                found = system.ls(folder, detail=True, refresh=True)
            except FileNotFoundError:
                return set()
        return {one["name"].rstrip("/").rpartition("/")[2] for one in found if one["type"] == "directory"}

    def list(self, prefix: str) -> Iterator[tuple[str, float]]:
        """The keys of a folder, and when each was written, seconds since the epoch."""
        with self._told() as (system, folder):
            try:
                found = system.find(f"{folder}/{prefix}", detail=True)
            except FileNotFoundError:
                return
        for name, info in found.items():
            yield name.removeprefix(f"{folder}/"), _written_at(info)

    def agree_on(self, key: str, content: str) -> str:
        """Write a text unless it is there; of several hosts that do so at once, one wins and all get the same."""
        with self._told() as (system, folder):
            name = f"{folder}/{key}"
            with contextlib.suppress(FileNotFoundError):
                return str(system.cat_file(name).decode().strip())
            with contextlib.suppress(FileExistsError):
                system.pipe_file(name, content.encode(), mode="create")
            return str(system.cat_file(name).decode().strip())

    @contextlib.contextmanager
    def _told(self) -> Iterator[tuple[Any, str]]:
        opened = self._opened
        try:
            yield opened
        except (FileNotFoundError, FileExistsError, PermissionError):
            raise
        except self._errors as error:
            what = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise OSError(errno.EIO, f"bucket: {what}") from error

    @cached_property
    def _errors(self) -> tuple[type[Exception], ...]:
        if not self._url.startswith("s3://"):
            return (OSError,)
        from botocore.exceptions import BotoCoreError

        return (OSError, BotoCoreError)


def _written_at(info: dict[str, Any]) -> float:
    """Each of fsspec's file systems calls it something else."""
    moment = info.get("LastModified") or info.get("mtime") or info.get("created") or 0.0
    return float(moment if isinstance(moment, int | float) else moment.timestamp())
