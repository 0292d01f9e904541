"""The trainings of a sweep or a search on a Ray cluster: a task for each, wherever there is room.

Ray runs a task again when its process or its host dies. A training that diverges is told and not tried again.
"""

import os
from collections.abc import Callable
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from rich.console import Console

from medd.errors import ModelUnusable, SettingsError, TransientError
from medd.learn.train import require_extra

if TYPE_CHECKING:
    from ray.exceptions import RayError

#: How often a training is begun again whose process or host died.
_RETRIES = 3
#: Characters of what Ray says of an error, which may be a page.
_REASON = 300


class Trials:
    """Trainings that run at the same time; to be used within `medd.ray_cluster.joined`."""

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

    def ended(self) -> tuple[Any, Any, ModelUnusable | TransientError | None]:
        """Wait until one has ended: its key, what it gives, and its `failure`, if it failed.

        Raises:
            Exception: What the training raised beside ModelUnusable; it counts as running still.
        """
        import ray
        import ray.exceptions

        (one,), _ = ray.wait(list(self._running))
        value, failed = None, None
        try:
            value = ray.get(one)
        except ray.exceptions.RayError as error:
            failed = failure(error)
        return self._running.pop(one), value, failed


def failure(error: "RayError") -> ModelUnusable | TransientError:
    """What became of a training that gave nothing: it failed by itself, or Ray could not do it.

    Raises:
        Exception: What the training raised beside ModelUnusable: a mistake of the program, or what its host lacks.
    """
    from ray.exceptions import NodeDiedError, RayError, RayTaskError, WorkerCrashedError

    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, ModelUnusable):
        return cause
    if not isinstance(cause, RayError):
        raise cause from error
    why = f"{type(cause).__name__}: {shorten(str(cause), _REASON)}"
    if isinstance(cause, (NodeDiedError, WorkerCrashedError)):
        why = f"its process or host died {_RETRIES + 1} times, {why}"
    return TransientError(why)


def _quietly(train: Callable[..., Any], data: Any, *arguments: Any) -> Any:
    require_extra()
    return train(data, *arguments, console=Console(quiet=True))
