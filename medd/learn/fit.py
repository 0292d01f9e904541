"""The loop that trains a network, epoch by epoch, and goes on where it was killed."""

import inspect
import json
import os
import re
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medd.classify.classifier import resolve
from medd.errors import ModelUnusable, SettingsError
from medd.hookspecs import ClassifierSpec
from medd.learn.dataset import Part, ahead, batches
from medd.learn.manifest import Sample
from medd.learn.options import OptimizerOptions, TrainOptions
from medd.learn.team import Team

if TYPE_CHECKING:
    import keras

#: Called when an epoch has ended, with its number from 1, the model as it would be kept now, and its figures.
OnEpoch = Callable[[int, "keras.Model", dict[str, float]], None]

_CHECKPOINT = "checkpoint.npz"
#: A pretrained backbone is fine-tuned at this part of the learning rate (Keras' guide to transfer learning).
_FINE_TUNING = 0.1


@dataclass(frozen=True, slots=True)
class Classes:
    """What the network tells apart: the labels, or finer ones that belong to them.

    Attributes:
        names: One for each output.
        label_of: (K,) for each output the index of its label.
    """

    names: tuple[str, ...]
    label_of: NDArray[np.intp]

    def targets(self, samples: Sequence[Sample], pattern: str) -> NDArray[np.int32]:
        """(N,) int32: the output that is right for each sample."""
        return np.array([self.names.index(_class_of(s, pattern)) for s in samples], np.int32)


def classes_of(samples: Sequence[Sample], labels: Sequence[str], pattern: str) -> Classes:
    """The classes in the order of their labels; see `TrainOptions.sublabels`."""
    found = {(labels.index(s.label), _class_of(s, pattern)) for s in samples}
    ordered = sorted(found)
    return Classes(tuple(name for _, name in ordered), np.array([label for label, _ in ordered]))


def _class_of(sample: Sample, pattern: str) -> str:
    match = re.search(pattern, sample.path.stem) if pattern else None
    return f"{sample.label}/{match[1]}" if match and match[1] else sample.label


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network, with the weights that are kept."""

    model: "keras.Model"
    #: Quantity, and "val_" + quantity → one value for each epoch.
    history: dict[str, list[float]]
    #: The epoch, from 1, that the weights are of.
    epoch: int


def fit(
    spec: ClassifierSpec,
    parts: dict[str, Part],
    classes: Classes,
    options: TrainOptions,
    console: Console,
    *,
    work: Path | None = None,
    on_epoch: OnEpoch | None = None,
    team: Team | None = None,
) -> Fitted:
    """Build and train a network.

    Args:
        spec: The classifier; its `build` makes the network, its `thaw` frees a frozen backbone.
        parts: "train" (uint8) and "val" (float32).
        classes: What it is to tell apart.
        options: The recipe.
        console: Where progress is told.
        work: A folder for the checkpoint; a run that was killed goes on from the last epoch that it ended. None keeps
            no checkpoint.
        on_epoch: Told of every epoch of this call, not of those before a checkpoint.
        team: Devices that share the training, which do the same as one; None is one. Every host of it calls this with
            the same data and recipe, and its first one's checkpoint counts.

    Raises:
        ModelUnusable: Training diverged, or a host of the team has left.
        SettingsError: The network cannot be built, or the batch cannot be divided among the team.
    """
    import keras
    import tensorflow as tf

    keras.backend.clear_session()
    keras.utils.set_random_seed(options.seed)
    tf.config.experimental.enable_op_determinism()
    shape = options.preprocess.input_shape
    state = _State(spec, options, classes, shape, team)
    checkpoint = work / _CHECKPOINT if work else None
    saved = checkpoint.read_bytes() if checkpoint and checkpoint.is_file() else b""
    if team:
        saved = team.tell(saved)
    if saved:
        try:
            state.restore(saved)
            console.print(f"goes on after epoch {state.epoch}", highlight=False)
        except Exception as error:  # a damaged archive fails in many ways
            why = f"the checkpoint cannot be read, begins anew. Received: {error!r}"
            console.print(why, highlight=False, markup=False)
            keras.utils.set_random_seed(options.seed)
            state = _State(spec, options, classes, shape, team)
    targets = classes.targets(parts["train"].samples, options.sublabels)
    val_inputs = parts["val"].inputs()
    val_targets = state.encode(classes.targets(parts["val"].samples, options.sublabels)[:, np.newaxis])
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        done = state.epoch * options.steps_per_epoch
        task = progress.add_task("", total=options.epochs * options.steps_per_epoch, completed=done)
        while state.epoch < options.epochs and not state.is_over:
            state.begin_epoch()
            # Each epoch has a seed of its own, so that a run can go on from any of them.
            stream = batches(
                parts["train"],
                targets,
                options.augmentation,
                options.batch_size,
                (options.seed, state.epoch),
                balanced=options.balanced,
            )
            # No `fit`: of a Python generator it makes a tf.data pipeline, which tells malloc to hand every freed
            # buffer back to the system (generator_dataset_op.cc, M_TRIM_THRESHOLD): a third of the processor time went
            # to page faults.
            figures: defaultdict[str, float] = defaultdict(float)
            for inputs, truth in ahead(stream, options.steps_per_epoch):
                told = state.step(inputs, state.encode(truth))
                for name, value in told.items():
                    figures[name] += float(value) / options.steps_per_epoch
                progress.advance(task)
            state.swap()
            model = state.judged()
            judged = model.evaluate(val_inputs, val_targets, batch_size=64, verbose=0, return_dict=True)
            figures.update({f"val_{name}": float(value) for name, value in judged.items()})
            if team:
                figures.update(team.figures(figures))
            state.end_epoch(dict(figures))
            text = " ".join(f"{name} {value:.4f}" for name, value in figures.items())
            console.print(f"epoch {state.epoch}/{options.epochs} {text}", highlight=False)
            if on_epoch:
                on_epoch(state.epoch, model, dict(figures))
            state.swap()
            if checkpoint or team:
                state.save(checkpoint)
    return state.kept()


class _State:
    """Everything that a checkpoint holds, and the network it belongs to."""

    def __init__(
        self,
        spec: ClassifierSpec,
        options: TrainOptions,
        classes: Classes,
        shape: tuple[int, int, int],
        team: Team | None = None,
    ) -> None:
        build = resolve(spec.build, spec.name)
        self._spec, self._options, self._team = spec, options, team
        if team and options.batch_size % team.size:
            raise SettingsError(
                f"batch_size: {team.size} devices share a batch equally. Received: {options.batch_size}"
            )
        self._outputs = len(classes.names)
        hyper = {"head": options.head, "dropout": options.dropout, **options.network_options}
        try:
            inspect.signature(build).bind(shape, self._outputs, **hyper)
        except TypeError as error:
            raise SettingsError(f"network_options: {error}. Received: {options.network_options}") from error
        mixed = options.precision == "bfloat16"
        try:
            with team.scope() if team else nullcontext(), _dtype_policy("mixed_bfloat16" if mixed else "float32"):
                self.model = build(shape, self._outputs, **hyper)
            # What is judged and kept is an ordinary network, which knows of no team and computes in float32.
            self._plain = build(shape, self._outputs, **hyper) if team or mixed else self.model
        except (TypeError, ValueError) as error:
            lines = str(error).strip().splitlines()
            raise SettingsError(f"{spec.name}: cannot be built at {shape}: {lines[0] if lines else error!r}") from error
        self._binary = self.model.output_shape[-1] == 1
        self._thawed = False
        self._compile(options.frozen_epochs or options.epochs, 1.0)
        self._average: list[NDArray[Any]] = []
        if options.optimizer.average:
            self._average = [np.array(v) for v in self.model.trainable_variables]
        self.epoch = self._steps = 0
        self.history: dict[str, list[float]] = {}
        self._lowest_loss, self._lowest_epoch, self._best_epoch = np.inf, 0, 0
        self._best: list[NDArray[Any]] = []

    def _compile(self, epochs: int, factor: float) -> None:
        import keras

        loss: Any
        if self._binary:
            loss = keras.losses.BinaryCrossentropy(label_smoothing=self._options.label_smoothing)
        else:
            loss = keras.losses.CategoricalCrossentropy(label_smoothing=self._options.label_smoothing)
        steps = epochs * self._options.steps_per_epoch
        with self._team.scope() if self._team else nullcontext():
            optimizer = _optimizer(self._options.optimizer, steps, factor, self._team.size if self._team else 1)
            self.model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
            optimizer.build(self.model.trainable_variables)
        if self._plain is not self.model:
            self._plain.compile(loss=loss, metrics=["accuracy"])
        if self._team:
            self._team_step = self._team.step(self.model)

    def step(self, inputs: NDArray[np.float32], truth: NDArray[np.float32]) -> dict[str, float]:
        """Learn from a batch, and give its figures."""
        if self._team:
            told = self._team_step(inputs, truth)
        else:
            told = self.model.train_on_batch(inputs, truth, return_dict=True)
        self._average_step()
        return told

    def judged(self) -> "keras.Model":
        """The network with the weights of now, to be measured."""
        if self._plain is not self.model:
            self._plain.set_weights(self.model.get_weights())
        return self._plain

    def encode(self, truth: NDArray[np.int32]) -> NDArray[np.float32]:
        """(N, 1) indices → what the loss compares with: (N, 1), or (N, K) with a one at each index."""
        if self._binary:
            return truth.astype(np.float32)
        return np.eye(self._outputs, dtype=np.float32)[truth[:, 0]]

    @property
    def is_over(self) -> bool:
        """Whether validation has not improved for as long as the recipe waits."""
        since = self.epoch - max(self._lowest_epoch, self._options.frozen_epochs)
        return bool(self._options.patience) and since >= self._options.patience

    def begin_epoch(self) -> None:
        """Free the backbone when its time has come."""
        frozen = self._options.frozen_epochs
        if frozen and self._spec.thaw and not self._thawed and self.epoch >= frozen:
            before = len(self.model.trainable_variables)
            for model in {id(one): one for one in (self.model, self._plain)}.values():
                resolve(self._spec.thaw, self._spec.name)(model)
            self._thawed = True
            # A backbone that was never frozen goes on at its own rate.
            factor = _FINE_TUNING if len(self.model.trainable_variables) != before else 1.0
            self._compile(self._options.epochs - frozen, factor)
            if self._average:
                self._average, self._steps = [np.array(v) for v in self.model.trainable_variables], 0

    def _average_step(self) -> None:
        """Move the average towards the weights; quickly at first, when they have not settled."""
        if self._average:
            self._steps += 1
            momentum = min(self._options.optimizer.average, (1 + self._steps) / (10 + self._steps))
            for average, variable in zip(self._average, self.model.trainable_variables, strict=True):
                average *= momentum
                average += (1 - momentum) * np.asarray(variable)

    def swap(self) -> None:
        """Exchange the weights and their average."""
        for number, average in enumerate(self._average):
            variable = self.model.trainable_variables[number]
            self._average[number] = np.array(variable)
            variable.assign(average)

    def end_epoch(self, figures: dict[str, float]) -> None:
        """Note the figures of an epoch, and its weights where they are the best."""
        self.epoch += 1
        for name, value in figures.items():
            self.history.setdefault(name, []).append(value)
        loss = figures["val_loss"]
        lowest = loss < self._lowest_loss
        if lowest:
            self._lowest_loss, self._lowest_epoch = loss, self.epoch
        if lowest or (self._options.keep == "last" and np.isfinite(loss)):
            self._best_epoch, self._best = self.epoch, self.model.get_weights()

    def kept(self) -> Fitted:
        """The model with the weights to keep."""
        if not self._best_epoch:
            raise ModelUnusable(
                f"training diverged; a lower learning rate may help. Received: {self.history.get('val_loss')}"
            )
        self._plain.set_weights(self._best)
        return Fitted(self._plain, self.history, self._best_epoch)

    def save(self, path: Path | None) -> None:
        """Write the checkpoint; it is there whole or not at all. None: take part, as a team's first host writes."""
        # Where the replicas' values differ (batch normalisation), to read them is something that all hosts do together.
        arrays = {f"variable_{n}": np.asarray(v) for n, v in enumerate(self._variables())}
        arrays |= {f"average_{n}": v for n, v in enumerate(self._average)}
        arrays |= {f"best_{n}": v for n, v in enumerate(self._best)}
        told = {"epoch": self.epoch, "steps": self._steps, "history": self.history}
        told |= {"lowest_loss": self._lowest_loss, "lowest_epoch": self._lowest_epoch, "best_epoch": self._best_epoch}
        if path is None:
            return
        # Another process may write one too: on Ray a task that was thought dead, beside the one in its place.
        part = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.part")
        with part.open("wb") as file:
            np.savez(file, **arrays, state=np.array(json.dumps(told)))  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def restore(self, content: bytes) -> None:
        """Take up a checkpoint of the same recipe.

        Raises:
            Exception: Any; it is damaged, and this state is not to be used any more.
        """
        with np.load(BytesIO(content)) as saved:
            told = json.loads(str(saved["state"]))
            self.epoch, self.history = told["epoch"], told["history"]
            self._lowest_loss, self._lowest_epoch = told["lowest_loss"], told["lowest_epoch"]
            if self.epoch > self._options.frozen_epochs:
                self.begin_epoch()
            self._steps, self._best_epoch = told["steps"], told["best_epoch"]
            for number, variable in enumerate(self._variables()):
                variable.assign(saved[f"variable_{number}"])
            self._average = [saved[f"average_{n}"] for n in range(len(self._average))]
            self._best = [saved[f"best_{n}"] for n in range(sum(name.startswith("best_") for name in saved.files))]

    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.model.optimizer.variables]


@contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    """What layers that are made meanwhile compute in."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _optimizer(options: OptimizerOptions, steps: int, factor: float, replicas: int) -> Any:
    from keras import optimizers

    rate: Any = options.learning_rate * factor
    if options.schedule == "cosine":
        rise = max(1, steps // 10)
        rate = optimizers.schedules.CosineDecay(0.0, max(1, steps - rise), warmup_target=rate, warmup_steps=rise)
    clip = {"clipnorm": options.clip_norm / replicas} if options.clip_norm else {}  # see Team.step
    if options.name == "adamw":
        return optimizers.AdamW(rate, weight_decay=options.weight_decay, **clip)
    return optimizers.Adam(rate, **clip)
