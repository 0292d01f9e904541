"""Devices, of one host or of several, that train one network together: each batch is divided among them.

Keras trains on several devices of TensorFlow under ``tf.distribute``; its own ``keras.distribution`` is for JAX (with
TensorFlow, ``keras/src/backend/tensorflow/distribution_lib.py`` is a prototype whose functions are empty). Every host
makes the same whole batches, as their seed says, and its devices take their rows of them. So what one device would have
done is done, but for the rounding, and for what a layer does with the batch as a whole: dropout has other masks, and
batch normalisation takes the statistics of a device's rows.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medd.errors import ModelUnusable, SettingsError

if TYPE_CHECKING:
    import keras

#: One step: inputs (N, H, W, C) and what is true of them → the figures of the batch.
Step = Callable[[NDArray[np.float32], NDArray[np.float32]], dict[str, float]]


class Team:
    """The devices that share a training, as one of its hosts sees them."""

    def __init__(self, strategy: Any) -> None:
        """Take the devices of a ``tf.distribute.Strategy`` that keeps its replicas alike."""
        self._strategy = strategy
        resolver = strategy.cluster_resolver
        self._hosts = 1
        if resolver is not None and resolver.task_type is not None:
            cluster = resolver.cluster_spec().as_dict()
            self._hosts = sum(len(cluster.get(kind, ())) for kind in ("chief", "worker"))
            first = "chief" if "chief" in cluster else "worker"
            self._is_first = (resolver.task_type, resolver.task_id) == (first, 0)
        else:
            self._is_first = True

    @property
    def size(self) -> int:
        """Devices in all."""
        return int(self._strategy.num_replicas_in_sync)

    @property
    def is_first(self) -> bool:
        """Whether this host is the one that writes: checkpoint, bundle, and what people see."""
        return self._is_first

    def scope(self) -> Any:
        """The context in which the network and its optimizer are made."""
        return self._strategy.scope()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Say in one line that another host has left.

        Raises:
            ModelUnusable: It did; what was trained until the last epoch is kept by the first host.
        """
        import tensorflow as tf

        try:
            yield
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
            raise ModelUnusable(
                f"a host has left the training; start all of them again. Received: {type(error).__name__}"
            ) from error

    def tell(self, content: bytes) -> bytes:
        """What the first host gives, on every host; each waits here for all others."""
        if self._hosts == 1:
            return content
        length = int(self._sum(np.array([len(content)], np.int64))[0])
        words = np.zeros(-(-length // 8), np.int64)
        if self.is_first:
            words.view(np.uint8)[:length] = np.frombuffer(content, np.uint8)
        return self._sum(words).tobytes()[:length] if length else b""

    def _sum(self, mine: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first replica's numbers, as all others give nothing."""
        import tensorflow as tf

        def value(context: Any) -> Any:
            return tf.constant(mine if context.replica_id_in_sync_group == 0 else np.zeros_like(mine))

        each = self._strategy.experimental_distribute_values_from_function(value)
        return np.asarray(self._strategy.reduce("SUM", each, axis=None))

    def agree(self, key: str) -> None:
        """See that every host trains the same.

        Raises:
            SettingsError: This one has other data, another recipe or other versions than the first.
        """
        if self.tell(key.encode()) != key.encode():
            raise SettingsError(
                f"this host has other data, another recipe or other versions than the first one. Received: {key[:12]}"
            )

    def figures(self, figures: dict[str, float]) -> dict[str, float]:
        """The first host's figures, so that all hosts stop at the same epoch and keep the same one."""
        told: dict[str, float] = json.loads(self.tell(json.dumps(figures).encode()))
        return told

    def step(self, model: "keras.Model") -> Step:
        """A training step of a compiled model that `scope` made."""
        import keras
        import tensorflow as tf

        binary = model.output_shape[-1] == 1
        accuracy = keras.metrics.binary_accuracy if binary else keras.metrics.categorical_accuracy

        def one(inputs: Any, truth: Any) -> tuple[Any, Any]:
            with tf.GradientTape() as tape:
                said = model(inputs, training=True)
                loss = model.compute_loss(inputs, truth, said)  # already a replica's part of the mean
            gradients = tape.gradient(loss, model.trainable_variables)
            if model.optimizer.clipnorm:
                # Keras clips before it adds up the replicas' gradients. Each is given the same part of the whole, and
                # `optimizer` makes the limit that of a part.
                gradients = tf.distribute.get_replica_context().all_reduce("MEAN", gradients)
            model.optimizer.apply(gradients, model.trainable_variables)
            return tf.reduce_mean(accuracy(truth, said)), loss * self.size

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
        def all_of_them(inputs: Any, truth: Any) -> Any:
            each = self._strategy.run(one, (inputs, truth))
            return [self._strategy.reduce("MEAN", figure, axis=None) for figure in each]

        def step(inputs: NDArray[np.float32], truth: NDArray[np.float32]) -> dict[str, float]:
            right, loss = all_of_them(self._share(inputs), self._share(truth))
            return {"accuracy": float(right), "loss": float(loss)}

        return step

    def _share(self, batch: NDArray[np.float32]) -> Any:
        """Each device's rows of a batch."""
        import tensorflow as tf

        rows = np.split(batch, self.size)
        return self._strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(rows[context.replica_id_in_sync_group])
        )


def assemble(devices: str = "") -> Team | None:
    """The devices that train together; None is one device, as ever. To be called before TensorFlow does anything.

    Args:
        devices: How many GPUs of this host (of its logical CPUs where it has no GPU), or "all"; empty: one device. With
            ``TF_CONFIG`` in the environment (https://www.tensorflow.org/guide/distributed_training) all GPUs of all its
            hosts.

    Raises:
        SettingsError: There are not so many, or ``TF_CONFIG`` cannot be read or names hosts that cannot be reached.
    """
    config = os.environ.get("TF_CONFIG", "")
    if config and devices:
        raise SettingsError("--devices: with TF_CONFIG a host takes part with all its GPUs (CUDA_VISIBLE_DEVICES)")
    if config:
        return Team(_of_several_hosts(config))
    if not devices:
        return None
    import tensorflow as tf

    known = [one.name for one in tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")]
    wanted = len(known) if devices == "all" else int(devices) if devices.isdecimal() else 0
    if not 0 < wanted <= len(known):
        raise SettingsError(f"--devices: all, or a number from 1 to {len(known)} on this host. Received: {devices!r}")
    return Team(tf.distribute.MirroredStrategy(known[:wanted]))


def _of_several_hosts(config: str) -> Any:
    import tensorflow as tf

    try:
        told = json.loads(config)
        hosts = [*told["cluster"].get("chief", ()), *told["cluster"]["worker"]]
        kind, number = told["task"]["type"], int(told["task"]["index"])
        told["cluster"][kind][number]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise SettingsError(
            f"TF_CONFIG: cluster (worker) and task (type, index) expected. Received: {error!r}"
        ) from error
    if kind not in ("chief", "worker") or not hosts:
        raise SettingsError(f"TF_CONFIG: task.type: chief or worker expected. Received: {kind!r}")
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        raise SettingsError(f"TF_CONFIG: the hosts do not find each other. Received: {type(error).__name__}") from error
