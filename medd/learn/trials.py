"""The trainings of a sweep or a search on a Ray cluster: a task for each, wherever there is room.

Ray runs a task again when its process or its host dies. What fails by itself is told and not tried again.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from rich.console import Console

from medd.errors import SettingsError
from medd.learn.train import require_extra

#: How often a training is begun again whose process or host died.
_RETRIES = 3


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """Join a Ray cluster ("host:port"), or start one on this host where `address` is empty; no telemetry, no dashboard.

    Raises:
        SettingsError: Ray is not installed, or there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise SettingsError(f"--engine ray: install it with: pip install 'medd[ray]'. Received: {error}") from error
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    try:
        ray.init(address=address or "local", **(options if address else options | {"include_dashboard": False}))
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SettingsError(f"--address: no Ray cluster that can be joined. Received: {error}") from error
    try:
        with redirect_stdout(sys.stderr):  # where Ray tells of hosts that died
            yield
    finally:
        ray.shutdown()


class Trials:
    """Trainings that run at the same time; to be used within `cluster`."""

    def __init__(self, train: Callable[..., Any], data: Any, cores: int = 0) -> None:
        """Share out the data.

        Args:
            train: Called as ``train(data, *arguments, console=…)`` on some host.
            data: What every training reads; goes to each host once.
            cores: For each training; 0 takes as many as this host has. The number of threads decides in which order
                sums are made: the same number gives the same network.
        """
        import ray

        self._cores = cores or len(os.sched_getaffinity(0))  # as TensorFlow counts them
        self._gpus = 1 if ray.cluster_resources().get("GPU") else 0
        threads = {"TF_NUM_INTRAOP_THREADS": str(self._cores)}
        self._task = ray.remote(
            num_cpus=self._cores, num_gpus=self._gpus, max_retries=_RETRIES, runtime_env={"env_vars": threads}
        )(_quietly)
        self._train, self._data = train, ray.put(data)
        self._running: dict[Any, Any] = {}

    @property
    def running(self) -> list[Any]:
        """Keys of the trainings that have begun and not ended."""
        return list(self._running.values())

    @property
    def room(self) -> int:
        """How many more could begin now.

        Raises:
            SettingsError: None ever, as no host is large enough.
        """
        import ray

        hosts = [host["Resources"] for host in ray.nodes() if host["Alive"]]
        places = [int(host.get("CPU", 0) // self._cores) for host in hosts]
        if self._gpus:
            places = [min(one, int(host.get("GPU", 0))) for one, host in zip(places, hosts, strict=True)]
        if not sum(places) and not self._running:
            raise SettingsError(f"--cores: no host of the Ray cluster has so many (and a GPU). Received: {self._cores}")
        return sum(places) - len(self._running)

    def begin(self, key: Any, *arguments: Any) -> None:
        """Begin a training; more than there is room for wait."""
        self._running[self._task.remote(self._train, self._data, *arguments)] = key

    def ended(self) -> tuple[Any, Any, str]:
        """Wait until one has ended: its key, what it gives, and why it failed ("" if it did not)."""
        import ray
        import ray.exceptions

        (one,), _ = ray.wait(list(self._running))
        key = self._running.pop(one)
        try:
            return key, ray.get(one), ""
        except ray.exceptions.RayTaskError as error:
            return key, None, str(error.cause) or type(error.cause).__name__
        except ray.exceptions.RayError as error:
            return key, None, f"{type(error).__name__}: its process or host died {_RETRIES + 1} times"


def _quietly(train: Callable[..., Any], data: Any, *arguments: Any) -> Any:
    require_extra()
    return train(data, *arguments, console=Console(quiet=True))
