"""The article's study: accuracy over the number of epochs (its Table 2) and over the steps in each (its Table 3).

With a constant learning rate, a run of N epochs is the beginning of one of M > N epochs with the same seed. All cells
of a seed that share their steps are therefore one run, whose weights are measured at the end of each epoch asked for.
What is finished stands in ``epochs.jsonl``; a sweep that was stopped goes on from there. On a Ray cluster each run has
such a file of its own until it has ended, as several hosts cannot append to one.
"""

import fcntl
import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from medd.errors import ModelUnusable, SettingsError, TransientError
from medd.hookspecs import ClassifierSpec
from medd.learn import manifest, metrics
from medd.learn.dataset import Part
from medd.learn.fit import Classes, classes_of, fit
from medd.learn.options import TrainOptions
from medd.learn.train import Prepared, prepare_samples, require_extra, trainable
from medd.learn.trials import Trials

if TYPE_CHECKING:
    import keras

#: Where finished epochs stand, and what they are of.
LOG, STUDY = "epochs.jsonl", "study.json"
#: Not part of what a study is: its cells and seeds vary, the rest changes nothing that it measures.
_VARIED = {
    "epochs", "steps_per_epoch", "seed", "name", "version", "licence", "intended_use", "patience", "keep", "outliers"
}  # fmt: skip
_BATCH = 64

#: A seed, and the cells that come out of one run with it.
Run = tuple[int, list["Cell"]]


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One entry of a table."""

    epochs: int
    steps: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is varied, and around what."""

    #: Of Table 2, at `steps_of_table_2` steps.
    epochs: tuple[int, ...]
    #: Of Table 3, at `epochs_of_table_3` epochs.
    steps: tuple[int, ...]
    seeds: tuple[int, ...]
    steps_of_table_2: int = 326
    epochs_of_table_3: int = 20

    @property
    def table_2(self) -> list[Cell]:
        """Epochs varied."""
        return [Cell(epochs, self.steps_of_table_2) for epochs in sorted(set(self.epochs))]

    @property
    def table_3(self) -> list[Cell]:
        """Steps varied."""
        return [Cell(self.epochs_of_table_3, steps) for steps in sorted(set(self.steps))]

    def runs(self, *, constant_rate: bool) -> list[list[Cell]]:
        """Which cells come out of one run: with a constant learning rate those of the same steps, else each alone."""
        cells = sorted({*self.table_2, *self.table_3})
        if not constant_rate:
            return [[cell] for cell in cells]
        by_steps: defaultdict[int, list[Cell]] = defaultdict(list)
        for cell in cells:
            by_steps[cell.steps].append(cell)
        return [by_steps[steps] for steps in sorted(by_steps)]


@dataclass(frozen=True, slots=True)
class Study:
    """A sweep's results so far."""

    plan: Plan
    #: (seed, cell) → what `measure` gives, with its epochs' training figures as history.
    cells: dict[tuple[int, Cell], dict[str, Any]]
    #: How many images and patients each side of the split has.
    sides: dict[str, tuple[int, int]]
    #: Whether DATA states its test part; else it is taken from it by patient.
    test_is_stated: bool
    options: TrainOptions


def sweep(
    data: Path,
    output: Path,
    plan: Plan,
    options: TrainOptions,
    specs: Sequence[ClassifierSpec],
    *,
    console: Console | None = None,
    on_ray: bool = False,
    cores: int = 0,
) -> Study:
    """Train and measure every cell over every seed, or what is left of them.

    The split is the same for all. The weights measured are those at the end of the epoch, as in the article, whatever
    the recipe keeps; none stops early. A training that fails is noted, and the others go on.

    Args:
        data: Any form of DATA that `medd.learn.manifest` reads.
        output: The folder of the study.
        plan: What is varied.
        options: The rest of the recipe.
        specs: The classifiers that the plugins registered.
        console: Where progress is told; standard error when None.
        on_ray: Train on the Ray cluster that was joined (`medd.ray_cluster.joined`), whose hosts share `output`.
        cores: Of each training there; see `Trials`.

    Raises:
        SettingsError: The data do not allow it, or the folder holds another study.
        PluginError: No plugin brings the network, or it cannot be trained.
        ModelUnusable: A training failed; the others are finished, and the next call tries it again.
        TransientError: The same where Ray could not do it, or the log has lost lines; the next call makes up for it.
    """
    require_extra()
    console = console or Console(stderr=True)
    spec = trainable(options.network, specs)
    split_seed = options.seed if options.split_seed is None else options.split_seed
    options = options.model_copy(update={"split_seed": split_seed, "patience": 0, "keep": "last"})
    samples, skipped = manifest.read(data)
    stated = any(sample.split == "test" for sample in samples)
    prepared = prepare_samples(samples, skipped, options, console)
    constant = options.optimizer.schedule == "constant"
    output.mkdir(parents=True, exist_ok=True)
    output = output.resolve()
    with alone(output):
        _claim(output, data, prepared, options)
        found = read(output, constant_rate=constant)
        runs: list[Run] = [(seed, run) for seed in plan.seeds for run in plan.runs(constant_rate=constant)]
        left = [(seed, run) for seed, run in runs if any((seed, cell) not in found for cell in run)]
        for one in runs:
            if one not in left:  # the call that finished it may have been killed before it did so
                shutil.rmtree(_work(output, one), ignore_errors=True)
        work_off = partial(_on_ray, cores=cores) if on_ray else _here
        failures = []
        for one, failed in work_off(left, output, spec, prepared, options, console):
            if not isinstance(failed, TransientError):
                shutil.rmtree(_work(output, one), ignore_errors=True)
            if failed:
                failures.append(type(failed)(f"{_told(one)}: {failed}"))
                _note(output / LOG, _about(one) | {"failed": str(failed)})
                console.print(f"failed: {failures[-1]}", highlight=False, markup=False, soft_wrap=True)
        if failures:
            told = f"{len(failures)} of {len(left)} trainings failed, the others are kept: {failures[0]}"
            raise type(failures[0])(told)
    found = read(output, constant_rate=constant)
    wanted = [(seed, cell) for seed in plan.seeds for cell in {*plan.table_2, *plan.table_3}]
    if lost := [key for key in wanted if key not in found]:
        why = (
            f"lines are missing, and the next call trains those runs again. Received: {len(lost)} cells without theirs"
        )
        raise TransientError(f"{output / LOG}: {why}")
    sides = {side: (len(part), len({s.patient for s in part.samples})) for side, part in prepared.parts.items()}
    return Study(plan, {key: found[key] for key in wanted}, sides, stated, options)


def _here(
    left: Sequence[Run],
    output: Path,
    spec: ClassifierSpec,
    prepared: Prepared,
    options: TrainOptions,
    console: Console,
) -> Iterator[tuple[Run, ModelUnusable | None]]:
    """Do one run after the other: which has ended, and why it failed, if it did."""
    for run in left:
        console.print(_told(run), highlight=False)
        try:
            train_run(prepared, run, output, output / LOG, spec, options, console=console)
        except ModelUnusable as error:
            yield run, error
        else:
            yield run, None


def _on_ray(
    left: Sequence[Run],
    output: Path,
    spec: ClassifierSpec,
    prepared: Prepared,
    options: TrainOptions,
    console: Console,
    *,
    cores: int,
) -> Iterator[tuple[Run, ModelUnusable | TransientError | None]]:
    """Do them at the same time, where there is room in the cluster, in the order in which they end."""
    trials = Trials(train_run, prepared, cores)
    console.print(f"{len(left)} trainings, {trials.room} at a time", highlight=False)
    for number, run in enumerate(left):
        trials.begin(number, run, output, _log_of(output, run), spec, options)
    while trials.running:
        number, _, failed = trials.ended()
        _gather(output, _log_of(output, left[number]))
        if not failed:
            console.print(f"{_told(left[number])}: done", highlight=False)
        yield left[number], failed


def _told(run: Run) -> str:
    return f"seed {run[0]}, {max(run[1]).steps} steps, {max(run[1]).epochs} epochs"


def _about(run: Run) -> dict[str, Any]:
    return {"seed": run[0], "steps": max(run[1]).steps, "of": max(run[1]).epochs}


def _work(output: Path, run: Run) -> Path:
    return output / f"work-{run[0]}-{max(run[1]).steps}-{max(run[1]).epochs}"


def _log_of(output: Path, run: Run) -> Path:
    return output / f"epochs-{run[0]}-{max(run[1]).steps}-{max(run[1]).epochs}.jsonl"


def _gather(output: Path, log: Path) -> None:
    """Put the lines of a run on Ray where all others are. Lines that are there twice say the same."""
    if log.exists():
        _mend(output / LOG)
        _append(output / LOG, log.read_text() + "\n")
        log.unlink()


def _note(log: Path, line: dict[str, Any]) -> None:
    _append(log, json.dumps(line) + "\n")


def _append(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())  # before the checkpoint that goes on after it


def _mend(log: Path) -> None:
    """End the line that was being written when the sweep was killed."""
    if log.exists() and not log.read_bytes().endswith(b"\n"):
        _append(log, "\n")


def _claim(output: Path, data: Path, prepared: Prepared, options: TrainOptions) -> None:
    """See that the folder is new, or that of this very study."""
    recipe = options.model_dump(mode="json", exclude=_VARIED)
    study = {"data": data.name, "split_digest": manifest.digest(prepared.samples), "recipe": recipe}
    file = output / STUDY
    if not file.exists():
        file.write_text(json.dumps(study, indent=2) + "\n")
    elif json.loads(file.read_text()) != study:
        raise SettingsError(f"{output}: another study (other data, split or recipe) lies here. Received: {file}")
    _mend(output / LOG)
    for log in sorted(output.glob("epochs-*.jsonl")):
        _gather(output, log)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder, so that what another process left there is known to be left.

    Raises:
        SettingsError: Another process holds it.
    """
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"{folder}: another sweep or search is at work here") from None
        yield


def train_run(
    prepared: Prepared,
    run: Run,
    output: Path,
    log: Path,
    spec: ClassifierSpec,
    options: TrainOptions,
    *,
    console: Console,
) -> None:
    """Train once and note every epoch in `log`; those of the cells are measured.

    Raises:
        ModelUnusable: Training diverged.
    """
    seed, cells = run
    update = {"seed": seed, "epochs": max(cells).epochs, "steps_per_epoch": max(cells).steps}
    options = options.model_copy(update=update)
    work = _work(output, run)
    _mend(log)
    wanted = sorted(cell.epochs for cell in cells)
    asked = work / "epochs.json"
    if work.exists() and (not asked.exists() or asked.read_text() != json.dumps(wanted)):
        shutil.rmtree(work)  # it may be past an epoch that is asked for now
    work.mkdir(exist_ok=True)
    asked.write_text(json.dumps(wanted))
    classes = classes_of(prepared.samples, prepared.labels, options.sublabels)
    began = time.monotonic()

    def note(epoch: int, model: "keras.Model", figures: dict[str, float]) -> None:
        nonlocal began
        line = _about(run) | {"epoch": epoch, "seconds": round(time.monotonic() - began, 2), "figures": figures}
        if epoch in wanted:
            line |= measure(model, classes, prepared.parts, options.sensitivity)
        _note(log, line)
        began = time.monotonic()

    fit(spec, prepared.parts, classes, options, console, work=work, on_epoch=note)


def measure(model: "keras.Model", classes: Classes, parts: dict[str, Part], sensitivity: float) -> dict[str, Any]:
    """Measure a network on the validation and the test part, at 0.5 and at the threshold that validation chooses.

    Raises:
        ModelUnusable: It gives no numbers any more.

    Returns:
        threshold, and for "val" and "test" accuracy, sensitivity and specificity at 0.5, auroc, loss (cross-entropy,
        nats), and at_threshold, what becomes of the first three there.
    """
    said = {side: (parts[side].truth != 0, finding(model, classes, parts[side])) for side in ("val", "test")}
    if not all(np.isfinite(scores).all() for _, scores in said.values()):
        raise ModelUnusable(
            "training diverged; a lower learning rate may help. Received: probabilities that are no numbers"
        )
    threshold = metrics.threshold_for(*said["val"], sensitivity)
    measured: dict[str, Any] = {"threshold": threshold}
    names = ("accuracy", "sensitivity", "specificity")
    for side, (truth, scores) in said.items():
        right = np.where(truth, scores, 1 - scores).astype(np.float64)
        at_half, chosen = metrics.figures(truth, scores, 0.5), metrics.figures(truth, scores, threshold)
        measured[side] = {name: at_half[name] for name in (*names, "auroc")}
        measured[side]["loss"] = float(-np.log(np.maximum(right, 1e-7)).mean())
        measured[side]["at_threshold"] = {name: chosen[name] for name in names}
    return measured


def finding(model: "keras.Model", classes: Classes, part: Part) -> NDArray[np.float32]:
    """(N,) probability of a finding, that is of any but the first label, by a network that is not exported yet."""
    starts = range(0, len(part), _BATCH)
    scores = np.concatenate([model.predict_on_batch(part.inputs(start, start + _BATCH)) for start in starts])
    positive = scores if scores.shape[1] == 1 else scores[:, classes.label_of != 0]
    return np.asarray(np.minimum(positive.sum(axis=1), 1), np.float32)


def read(output: Path, *, constant_rate: bool = True) -> dict[tuple[int, Cell], dict[str, Any]]:
    """Read the finished cells of a study: (seed, cell) → its measures, with history {figure: [one for each epoch]}.

    Args:
        output: The folder of the study.
        constant_rate: Whether the epochs of a longer run count as those of a shorter one.
    """
    epochs: defaultdict[tuple[int, int, int], dict[int, dict[str, Any]]] = defaultdict(dict)
    for line in _lines(output / LOG):
        if "failed" in line:
            continue
        run = (line["seed"], line["steps"], 0 if constant_rate else line["of"])
        epochs[run][line["epoch"]] = epochs[run].get(line["epoch"], {}) | line
    found = {}
    for (seed, steps, _), by_epoch in epochs.items():
        for epoch, line in by_epoch.items():
            before = [by_epoch[number] for number in range(1, epoch + 1) if number in by_epoch]
            if "test" in line and (constant_rate or epoch == line["of"]) and len(before) == epoch:
                history = {name: [one["figures"][name] for one in before] for name in line["figures"]}
                seconds = sum(one["seconds"] for one in before)
                kept = {name: line[name] for name in ("threshold", "val", "test")}
                found[seed, Cell(epoch, steps)] = kept | {"history": history, "seconds": seconds}
    return found


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    if log.exists():
        for text in log.read_text().splitlines():
            try:
                yield json.loads(text)
            except ValueError:
                continue  # the line that was being written when the sweep was killed; its epoch comes again
