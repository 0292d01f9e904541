"""From a folder of labelled images to a bundle."""

import csv
import fcntl
import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from medd.classify.classifier import LoadedModel, resolve
from medd.errors import PluginError, SettingsError
from medd.hookspecs import ClassifierSpec
from medd.learn import extra, manifest, metrics, plots, serving
from medd.learn.curves import write_curves
from medd.learn.dataset import Part, decode, decode_outliers
from medd.learn.evaluate import Scored, figures_of, score
from medd.learn.fit import Fitted, OnEpoch, classes_of, fit
from medd.learn.options import TrainOptions
from medd.learn.team import Team
from medd.registry import bundle as bundles
from medd.registry.bundle import Bundle, Gate
from medd.registry.reference import reference

_STATE = "recipe.sha256"


@dataclass(frozen=True, slots=True)
class Prepared:
    """The data of a run, decoded and divided."""

    #: "train" (uint8), "val" and "test" (float32).
    parts: dict[str, Part]
    labels: tuple[str, ...]
    skipped: list[manifest.Skipped]

    @property
    def samples(self) -> list[manifest.Sample]:
        """Every image that can be read, with its side."""
        return [sample for part in self.parts.values() for sample in part.samples]


def prepare(data: Path, options: TrainOptions, console: Console) -> Prepared:
    """Read, divide and decode DATA.

    Raises:
        SettingsError: The data do not allow it.
    """
    samples, skipped = manifest.read(data)
    return prepare_samples(samples, skipped, options, console)


def prepare_samples(
    samples: Sequence[manifest.Sample], skipped: Sequence[manifest.Skipped], options: TrainOptions, console: Console
) -> Prepared:
    """Divide and decode samples; those that have a side keep it.

    Raises:
        SettingsError: They do not allow it.
    """
    seed = options.seed if options.split_seed is None else options.split_seed
    if unnamed := manifest.unnamed(samples):
        console.print(f"{unnamed}; name them in a CSV", highlight=False, soft_wrap=True)
    samples = manifest.divide(samples, seed)
    labels = _labels(samples, options.negative)
    left_out = list(skipped)
    parts: dict[str, Part] = {}
    for side in manifest.SHARES:
        dtype = np.uint8 if side == "train" else np.float32
        parts[side], unreadable = decode([s for s in samples if s.split == side], labels, options.preprocess, dtype)
        left_out += unreadable
    for file in left_out:
        console.print(f"skipped {file.path}: {file.why}", highlight=False, markup=False, soft_wrap=True)
    prepared = Prepared(parts, labels, left_out)
    manifest.check(prepared.samples, labels)
    console.print(", ".join(f"{side} {len(part)}" for side, part in parts.items()) + " images", highlight=False)
    return prepared


def train(
    data: Path,
    output: Path,
    options: TrainOptions,
    specs: Sequence[ClassifierSpec],
    *,
    console: Console | None = None,
    tensorboard: Path | None = None,
    team: Team | None = None,
) -> Bundle:
    """Train a network and write its bundle.

    A run with the same data and recipe that was killed goes on where it stood. Early stopping and the choice of the
    best epoch look at the validation part, and so do threshold, calibration and gate; the test part only gives the
    figures.

    Args:
        data: Any form of DATA that `medd.learn.manifest` reads.
        output: The bundle's folder; must not exist, for bundles are immutable.
        options: The recipe.
        specs: The classifiers that the plugins registered.
        console: Where progress is told; standard error when None.
        tensorboard: A folder for TensorBoard's event files.
        team: Devices that share the training, of which this is the first host; its others call `follow`.

    Raises:
        SettingsError: The data, the options or the installation do not allow it.
        PluginError: No plugin brings the network, or it cannot be trained.
        ModelUnusable: Training diverged, or the exported network does not compute what the trained one does.
    """
    require_extra()
    console = console or Console(stderr=True)
    trainable(options.network, specs)
    if output.exists():
        raise SettingsError(f"{output}: is there already; a bundle is never overwritten")
    prepared = prepare(data, options, console)
    with team.together() if team else nullcontext():
        return train_prepared(prepared, data.name, output, options, specs, console, tensorboard, team)


def follow(
    data: Path, options: TrainOptions, specs: Sequence[ClassifierSpec], team: Team, *, console: Console | None = None
) -> None:
    """Train along with the first host of a team, which writes the bundle; ends when that is there.

    Raises:
        MeddError: As `train`; or the data, the recipe or a version differ from the first host's.
    """
    require_extra()
    console = console or Console(stderr=True)
    spec = trainable(options.network, specs)
    prepared = prepare(data, options, console)
    classes = classes_of(prepared.samples, prepared.labels, options.sublabels)
    with team.together():
        team.agree(_key(options, manifest.digest(prepared.samples)))
        fit(spec, prepared.parts, classes, options, console, team=team)
        team.tell(b"")


def train_prepared(
    prepared: Prepared,
    data_name: str,
    output: Path,
    options: TrainOptions,
    specs: Sequence[ClassifierSpec],
    console: Console,
    tensorboard: Path | None = None,
    team: Team | None = None,
) -> Bundle:
    """`train` on data that are in memory already."""
    spec = trainable(options.network, specs)
    started = time.monotonic()
    outliers = decode_outliers(options.outliers, options.preprocess, console) if options.outliers else None
    parts, samples = prepared.parts, prepared.samples
    draft = _draft(options, prepared.labels)
    classes = classes_of(samples, prepared.labels, options.sublabels)
    split_digest = manifest.digest(samples)
    with _unfinished(output, options, split_digest) as folder:
        work = folder / "work"
        work.mkdir(exist_ok=True)
        if team:
            team.agree(_key(options, split_digest))
        fitted = fit(spec, parts, classes, options, console, work=work, on_epoch=_tensorboard(tensorboard), team=team)

        known = serving.familiar(fitted.model, parts, options, outliers) if options.refusals else None
        positive = [prepared.labels.index(label) for label in draft.positive_labels]
        network = serving.serving_model(fitted.model, classes, positive, known)
        serving.export(fitted.model, network, folder, options.preprocess)
        _write_history(folder, fitted)
        manifest.write(folder / "split.csv", samples)

        served = LoadedModel(draft, resolve(spec.load, spec.name)(folder, 0))
        apart = serving.difference(network, served, parts["val"])
        served = LoadedModel(_settle(draft, score(served, parts["val"]), options), served.classifier)
        val, test = score(served, parts["val"]), score(served, parts["test"])
        write_curves(folder, {draft.ref: (test.truth, test.scores)})
        unnamed = manifest.unnamed(samples)
        evaluation = {
            "measured_on": "the test part of this split: patients that took no part in training or validation"
            + (f"; but {unnamed}" if unnamed else ""),
            **figures_of(served, parts["test"], test),
            "confusion_at_0.5": metrics.confusion(test.truth, test.scores, 0.5),
            "refused": int(test.refused.sum()) if served.bundle.gate else None,
            "threshold_rule": f"the highest with sensitivity {options.sensitivity:g} on the validation part",
            "validation": figures_of(served, parts["val"], val, resamples=0),
            "onnx_max_difference": apart,
        }
        training = {
            "data": data_name,
            "images": {side: _counts(part) for side, part in parts.items()},
            "skipped": len(prepared.skipped),
            "without_patient": sum(not sample.is_named for sample in samples),
            "split_digest": split_digest,
            "options": _public(options),
            "files": _files(options),
            "outliers": len(outliers) if outliers and known else 0,
            "epochs_run": len(fitted.history["loss"]),
            "best_epoch": fitted.epoch,
            "seconds": round(time.monotonic() - started),
            "versions": _versions(),
        }
        # What later images are compared with: the images that took no part in the training.
        means, stds = np.concatenate([parts["val"].brightness, parts["test"].brightness]).T
        held_out = reference(np.concatenate([val.scores, test.scores]), means, stds)
        updates = {"evaluation": evaluation, "training": training, "reference": held_out}
        shutil.rmtree(work)
        (folder / _STATE).unlink()
        made = bundles.write(folder, served.bundle.model_copy(update=updates))
        folder.rename(output)
    if team:
        team.tell(b"")
    return made


def _settle(draft: Bundle, val: Scored, options: TrainOptions) -> Bundle:
    """Choose calibration, threshold and gate by what the uncalibrated model says of the validation part."""
    calibration = metrics.calibrate(val.truth, val.scores, options.prevalence)
    threshold = metrics.threshold_for(val.truth, calibration.apply(val.scores), options.sensitivity)
    gate = None
    if options.refusals and val.novelty is not None:
        gate = Gate(threshold=float(np.ceil(np.quantile(val.novelty, 1 - options.refusals) * 1e4) / 1e4))
    return draft.model_copy(update={"calibration": calibration, "threshold": threshold, "gate": gate})


def _public(options: TrainOptions) -> dict[str, Any]:
    """The recipe as the bundle tells it: a file that a network was given is named without its folder."""
    told = options.model_dump(mode="json", exclude={"licence", "intended_use", "preprocess", "outliers"})
    told["network_options"] |= {name: Path(told["network_options"][name]).name for name in _files(options)}
    return told


def _files(options: TrainOptions) -> list[str]:
    """The options of the network that are files."""
    return [name for name, value in options.network_options.items() if isinstance(value, str) and Path(value).is_file()]


@contextmanager
def _unfinished(output: Path, options: TrainOptions, split_digest: str) -> Iterator[Path]:
    """The folder in which a bundle grows; that of a killed run with the same recipe and data is taken over.

    It is renamed when it is complete: a bundle is never half there. While somebody works in it, it is locked.
    """
    key = _key(options, split_digest)
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(output.name + ".part")
    busy = SettingsError(f"{part}: another training is at work here")
    with ExitStack() as locks:

        def take(folder: Path) -> bool:
            return locks.enter_context(_locked(folder))

        if part.is_dir() and not take(part):
            raise busy
        if not _is_of(part, key):
            shutil.rmtree(part, ignore_errors=True)
            others = (one for one in sorted(output.parent.glob("*.part")) if _is_of(one, key))
            found = next((one for one in others if take(one)), None)
            try:
                if found:
                    found.rename(part)
                else:
                    part.mkdir()
            except OSError as error:
                raise busy from error
            if not found:
                if not take(part):
                    raise busy
                (part / _STATE).write_text(key)
        yield part


def _key(options: TrainOptions, split_digest: str) -> str:
    """What a run is of. Outliers are read again by whoever goes on with it."""
    recipe = options.model_dump_json(exclude={"version", "outliers"})
    return hashlib.sha256(f"{recipe}\n{split_digest}\n{_versions()}".encode()).hexdigest()


def _is_of(folder: Path, key: str) -> bool:
    """Whether a folder holds an unfinished run with this key."""
    state = folder / _STATE
    return state.is_file() and state.read_text() == key


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("medd", "tensorflow", "keras", "onnxruntime")}


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether the folder is ours for now."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(file)


def _tensorboard(folder: Path | None) -> OnEpoch | None:
    """Write each epoch's figures for TensorBoard."""
    if folder is None:
        return None
    import tensorflow as tf

    writer = tf.summary.create_file_writer(str(folder))

    def write(epoch: int, _: object, figures: dict[str, float]) -> None:
        with writer.as_default(step=epoch):
            for name, value in figures.items():
                tf.summary.scalar(name, value)
        writer.flush()

    return write


def require_extra() -> None:
    """See that the train extra is installed, before an hour's work fails at its end."""
    extra.require("tensorflow", "sklearn", "matplotlib", "tf2onnx")
    # Must be set before tensorflow is imported. What it writes to standard error by itself (no GPU here, a build newer
    # than its graph) is nothing that a user can act on; real errors are raised.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow turns oneDNN's kernels on by itself only where the processor has AVX-512; they are faster without, too.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def trainable(network: str, specs: Sequence[ClassifierSpec]) -> ClassifierSpec:
    """The classifier of that name, if it can be trained.

    Raises:
        PluginError: It cannot, or no plugin brings it.
    """
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
        age_years=options.age_years,
        licence=options.licence,
        intended_use=options.intended_use,
        created_at=datetime.now(UTC).replace(microsecond=0),
        files={},
    )


def _write_history(folder: Path, fitted: Fitted) -> None:
    """Write ``history.csv``, ``accuracy.png`` and ``loss.png``."""
    history = fitted.history
    with (folder / "history.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("epoch", *history))
        for number, values in enumerate(zip(*history.values(), strict=True), start=1):
            rows.writerow((number, *(f"{value:.6f}" for value in values)))
    for quantity in ("accuracy", "loss"):
        plots.history(folder / f"{quantity}.png", history, quantity)


def _counts(part: Part) -> dict[str, int]:
    return dict(sorted(Counter(sample.label for sample in part.samples).items()))
