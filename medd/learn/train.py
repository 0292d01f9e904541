"""From a folder of labelled images to a bundle."""

import csv
import os
import shutil
import time
import tomllib
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medd.classify.classifier import LoadedModel, resolve
from medd.errors import ModelUnusable, PluginError, SettingsError
from medd.hookspecs import ClassifierSpec
from medd.imaging import PreprocessSpec
from medd.learn import manifest, metrics, plots
from medd.learn.dataset import Augmentation, Part, batches, decode
from medd.learn.evaluate import evaluate, score
from medd.registry import bundle as bundles
from medd.registry.bundle import Bundle

if TYPE_CHECKING:
    import keras

#: The served network may differ from the trained one by this much in any probability.
TOLERANCE = 1e-4


class TrainOptions(BaseModel):
    """Everything about a training run but the data: a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: The classifier to train, as a plugin registers it.
    network: str = "paper"
    #: Name of the bundle; empty: the network's.
    name: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9_-]*)?$")
    #: Its version; by default the time, UTC.
    version: str = Field(
        default_factory=lambda: datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"), pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
    )
    #: The label that is no finding; every other one counts as positive.
    negative: str = "NORMAL"
    #: The article's 20 epochs of 326 batches of 16.
    epochs: int = Field(default=20, ge=1)
    #: Batches in an epoch; more than the data hold repeats them.
    steps_per_epoch: int = Field(default=326, ge=1)
    batch_size: int = Field(default=16, ge=1)
    #: Of the split, the weights, the order and the augmentation.
    seed: int = Field(default=0, ge=0, lt=2**32)
    learning_rate: float = Field(default=1e-3, gt=0)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    #: Of two labels; more are always a softmax.
    head: Literal["sigmoid", "softmax"] = "sigmoid"
    #: Stop after this many epochs without a lower validation loss; 0 never stops early.
    patience: int = Field(default=0, ge=0)
    preprocess: PreprocessSpec = PreprocessSpec()
    augmentation: Augmentation = Augmentation()
    #: The threshold is the highest that finds this share of the validation part's findings.
    sensitivity: float = Field(default=0.95, gt=0, le=1)
    #: Written into the bundle.
    licence: str = ""
    intended_use: str = "Research use only. Not for diagnosis."

    @property
    def bundle_name(self) -> str:
        """`name`, or the network's."""
        return self.name or self.network


def read_options(recipe: Path | None, given: Mapping[str, Any]) -> TrainOptions:
    """Put the options together: defaults < the recipe < what is given.

    Args:
        recipe: A TOML file whose keys are those of `TrainOptions`.
        given: The same keys, tables as mappings; None where nothing is said.

    Raises:
        SettingsError: The file cannot be read, or a key or value is wrong.
    """
    values: dict[str, Any] = {}
    if recipe is not None:
        try:
            values = tomllib.loads(recipe.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{recipe}: cannot be read as TOML. Received: {error}") from error
    for key, value in given.items():
        if isinstance(value, Mapping):
            said = {name: one for name, one in value.items() if one is not None}
            stated = values.get(key, {})
            values[key] = stated | said if isinstance(stated, dict) else stated
        elif value is not None:
            values[key] = value
    try:
        return TrainOptions(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SettingsError(f"{where}: {first['msg']}. Received: {first['input']!r}") from error


def train(
    data: Path,
    output: Path,
    options: TrainOptions,
    specs: Sequence[ClassifierSpec],
    *,
    console: Console | None = None,
) -> Bundle:
    """Train a network and write its bundle.

    The weights kept are those of the epoch with the lowest validation loss. The threshold is chosen on the validation
    part alone. The figures in the bundle are measured on the test part, which takes no other part in the training.

    Args:
        data: Any form of DATA that `medd.learn.manifest` reads.
        output: The bundle's folder; must not exist, for bundles are immutable.
        options: The recipe.
        specs: The classifiers that the plugins registered.
        console: Where progress is told; standard error when None.

    Raises:
        SettingsError: The data, the options or the installation do not allow it.
        PluginError: No plugin brings the network, or it cannot be trained.
        ModelUnusable: Training diverged, or the exported network does not compute what the trained one does.
    """
    _require_extra()
    console = console or Console(stderr=True)
    spec = _trainable(options.network, specs)
    if output.exists():
        raise SettingsError(f"{output}: is there already; a bundle is never overwritten")
    started = time.monotonic()

    samples, skipped = manifest.read(data)
    samples = manifest.divide(samples, options.seed)
    labels = _labels(samples, options.negative)
    parts: dict[str, Part] = {}
    for side in manifest.SHARES:
        dtype = np.uint8 if side == "train" else np.float32
        parts[side], unreadable = decode([s for s in samples if s.split == side], labels, options.preprocess, dtype)
        skipped += unreadable
    for file in skipped:
        console.print(f"skipped {file.path}: {file.why}", highlight=False, markup=False, soft_wrap=True)
    samples = [sample for part in parts.values() for sample in part.samples]
    manifest.check(samples)
    console.print(", ".join(f"{side} {len(part)}" for side, part in parts.items()) + " images", highlight=False)

    draft = _draft(options, labels)
    model, history = _fit(spec, parts, len(labels), options, console)

    unfinished = output.with_name(output.name + ".part")  # renamed when complete: a bundle is never half there
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    _export(model, unfinished, options.preprocess)
    _write_history(unfinished, history)
    manifest.write(unfinished / "split.csv", samples)

    served = LoadedModel(draft, resolve(spec.load, spec.name)(unfinished, 0))
    difference = _difference(model, served, parts["val"])
    threshold = metrics.threshold_for(*score(served, parts["val"]), options.sensitivity)
    served = LoadedModel(draft.model_copy(update={"threshold": threshold}), served.classifier)
    evaluation = {
        "measured_on": "the test part of this split: patients that took no part in training or validation",
        **evaluate(served, parts["test"]),
        "confusion_at_0.5": metrics.confusion(*score(served, parts["test"]), 0.5),
        "threshold_rule": f"the highest with sensitivity {options.sensitivity:g} on the validation part",
        "validation": evaluate(served, parts["val"], resamples=0),
        "onnx_max_difference": difference,
    }
    training = {
        "data": data.name,
        "images": {side: _counts(part) for side, part in parts.items()},
        "skipped": len(skipped),
        "split_digest": manifest.digest(samples),
        "options": options.model_dump(mode="json", exclude={"licence", "intended_use", "preprocess"}),
        "epochs_run": len(history["loss"]),
        "best_epoch": int(np.argmin(history["val_loss"])) + 1,
        "seconds": round(time.monotonic() - started),
        "versions": {name: metadata.version(name) for name in ("medd", "tensorflow", "keras", "onnxruntime")},
    }
    made = served.bundle.model_copy(update={"evaluation": evaluation, "training": training})
    made = bundles.write(unfinished, made)
    unfinished.rename(output)
    return made


def _require_extra() -> None:
    """See that the train extra is installed, before an hour's work fails at its end."""
    for module in ("tensorflow", "sklearn", "matplotlib", "tf2onnx"):
        if util.find_spec(module) is None:
            raise SettingsError(f"training needs more: pip install 'medd[train]'. Received: no module {module!r}")
    # Must be set before tensorflow is imported. What it writes to standard error by itself (no GPU here, a build newer
    # than its graph) is nothing that a user can act on; real errors are raised.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _trainable(network: str, specs: Sequence[ClassifierSpec]) -> ClassifierSpec:
    known = {spec.name: spec for spec in specs if spec.build}
    if network not in known:
        raise PluginError(f"no plugin brings a trainable network {network!r}. Received: {', '.join(known) or 'none'}")
    return known[network]


def _labels(samples: Sequence[manifest.Sample], negative: str) -> tuple[str, ...]:
    """The negative label first, so that a sigmoid is the probability of the finding; then the others by name."""
    labels = sorted({s.label for s in samples})
    found = [label for label in labels if label.casefold() == negative.casefold()]
    if len(found) != 1:
        raise SettingsError(
            f"say which label is no finding (negative = {negative!r} is none of them). Received: {labels}"
        )
    return (found[0], *(label for label in labels if label != found[0]))


def _draft(options: TrainOptions, labels: tuple[str, ...]) -> Bundle:
    """The bundle before anything is measured."""
    return Bundle(
        name=options.bundle_name,
        version=options.version,
        classifier=options.network,
        labels=labels,
        positive_labels=labels[1:],
        threshold=0.5,
        preprocess=options.preprocess,
        licence=options.licence,
        intended_use=options.intended_use,
        created_at=datetime.now(UTC).replace(microsecond=0),
        files={},
    )


def _fit(
    spec: ClassifierSpec, parts: dict[str, Part], n_labels: int, options: TrainOptions, console: Console
) -> tuple["keras.Model", dict[str, list[float]]]:
    """Build and train the network; its weights are those of the best epoch."""
    import keras
    import tensorflow as tf

    build = resolve(spec.build, spec.name)
    keras.backend.clear_session()
    keras.utils.set_random_seed(options.seed)
    tf.config.experimental.enable_op_determinism()
    model = build(
        options.preprocess.input_shape,
        n_labels,
        head=options.head,
        dropout=options.dropout,
        learning_rate=options.learning_rate,
    )
    stream = batches(parts["train"], options.augmentation, options.batch_size, options.seed)
    val_inputs, val_truth = parts["val"].inputs(), parts["val"].truth[:, np.newaxis]
    history: dict[str, list[float]] = {}
    best_loss, best_weights, best_epoch = np.inf, model.get_weights(), 0
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=options.epochs * options.steps_per_epoch)
        for epoch in range(1, options.epochs + 1):
            # No `fit`: of a Python generator it makes a tf.data pipeline, which tells malloc to hand every freed
            # buffer back to the system (generator_dataset_op.cc, M_TRIM_THRESHOLD): a third of the processor time went
            # to page faults.
            figures: defaultdict[str, float] = defaultdict(float)
            for _ in range(options.steps_per_epoch):
                # Keras gives the figures of this one batch.
                for name, value in model.train_on_batch(*next(stream), return_dict=True).items():
                    figures[name] += value / options.steps_per_epoch
                progress.advance(task)
            judged = model.evaluate(val_inputs, val_truth, batch_size=64, verbose=0, return_dict=True)
            figures.update({f"val_{name}": value for name, value in judged.items()})
            for name, value in figures.items():
                history.setdefault(name, []).append(value)
            told = " ".join(f"{name} {value:.4f}" for name, value in figures.items())
            console.print(f"epoch {epoch}/{options.epochs} {told}", highlight=False)
            if judged["loss"] < best_loss:
                best_loss, best_weights, best_epoch = judged["loss"], model.get_weights(), epoch
            elif options.patience and epoch - best_epoch >= options.patience:
                break
    if not best_epoch:
        raise ModelUnusable(f"training diverged; a lower learning rate may help. Received: {history['val_loss']}")
    model.set_weights(best_weights)
    return model, history


def _export(model: "keras.Model", folder: Path, spec: PreprocessSpec) -> None:
    """Write ``model.keras``, without the optimizer's state, and ``model.onnx``, whose batch size is open."""
    import keras

    network = keras.Model(model.input, model.output, name=model.name)
    network(np.zeros((1, *spec.input_shape), np.float32))  # export wants a model that has been called
    network.save(folder / "model.keras")
    with warnings.catch_warnings():
        # tf2onnx 1.16 asks numpy for np.object, which numpy announces to change; nothing that a user can act on.
        warnings.simplefilter("ignore", FutureWarning)
        network.export(folder / "model.onnx", format="onnx", verbose=False)


def _difference(model: "keras.Model", served: LoadedModel, part: Part) -> float:
    """Compare the served network with the trained one; returns max |Δp|.

    Raises:
        ModelUnusable: It is above `TOLERANCE`.
    """
    trained = model.predict(part.inputs(), batch_size=64, verbose=0)
    if trained.shape[1] == 1:
        trained = np.concatenate([1 - trained, trained], axis=1)
    difference = float(np.abs(trained - served.predict(part.inputs())).max())
    if not difference <= TOLERANCE:
        raise ModelUnusable(
            f"{served.bundle.ref}: the exported network does not compute what was trained "
            f"(max |Δp| ≤ {TOLERANCE:g}). Received: {difference:.2e}"
        )
    return difference


def _write_history(folder: Path, history: dict[str, list[float]]) -> None:
    """Write ``history.csv``, ``accuracy.png`` and ``loss.png``."""
    with (folder / "history.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("epoch", *history))
        for number, values in enumerate(zip(*history.values(), strict=True), start=1):
            rows.writerow((number, *(f"{value:.6f}" for value in values)))
    for quantity in ("accuracy", "loss"):
        plots.history(folder / f"{quantity}.png", history, quantity)


def _counts(part: Part) -> dict[str, int]:
    return dict(sorted(Counter(sample.label for sample in part.samples).items()))
