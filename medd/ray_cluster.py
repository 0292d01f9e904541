"""A Ray cluster: one that is there, or one that is started on this host for the time of a command."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from medd.errors import SettingsError

MISSING = "--engine ray: it is missing; install it with: pip install 'medd[ray]'"


@contextmanager
def joined(address: str, object_store: int | None = None) -> Iterator[None]:
    """Join a cluster, or start one on this host: without telemetry, without a dashboard.

    Args:
        address: "host:port"; empty starts one.
        object_store: Bytes of shared memory for what goes from process to process, where it is started here; None
            leaves it to Ray, which takes up to 30 % of the memory, no more than /dev/shm has.

    Raises:
        SettingsError: Ray is not installed, or there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise SettingsError(f"{MISSING}. Received: {error}") from error

    # What its workers say stays in Ray's own logs.
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    if not address:
        options |= {"include_dashboard": False, "object_store_memory": object_store}
    # Ray tells of hosts that died on standard output, which is the summary's.
    with redirect_stdout(sys.stderr):
        try:
            ray.init(address=address or "local", **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise SettingsError(f"--address: no Ray cluster that can be joined. Received: {error}") from error
        try:
            yield
        finally:
            ray.shutdown()
