"""Any hyper-parameter of a recipe, searched for by optuna: what does best on validation, never on the test part."""

import csv
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from rich.console import Console

from medd.errors import ModelUnusable, SettingsError, TransientError
from medd.hookspecs import ClassifierSpec
from medd.learn import extra, manifest, metrics
from medd.learn.fit import classes_of, fit
from medd.learn.options import TrainOptions
from medd.learn.sweep import alone, finding
from medd.learn.train import Prepared, prepare, require_extra, trainable
from medd.learn.trials import Trials

if TYPE_CHECKING:
    import optuna

#: Options that no search may choose: they change the data, name the result, or teach the gate.
_FIXED = {
    "seed",
    "split_seed",
    "name",
    "version",
    "negative",
    "sublabels",
    "network",
    "licence",
    "intended_use",
    "preprocess",
    "outliers",
}
#: Attribute of a study: numbers of the trials that a stop or a crash cut short, and that are tried again.
_KILLED = "killed"
#: Attribute of a trial whose training failed by itself: optuna's FAIL stands for Ctrl-C and crashes too.
_DIVERGED = "diverged"
_RANGE = re.compile(r"([^:,]+):([^:,]+)(:log)?")


@dataclass(frozen=True, slots=True)
class Dimension:
    """One hyper-parameter and where to look for it."""

    #: As `TrainOptions` has it; of a table "table.key".
    name: str
    #: The two ends of a range, or None.
    low: float | None = None
    high: float | None = None
    #: Whether the range is searched by its logarithm, and whether by whole numbers.
    log: bool = False
    whole: bool = False
    #: The values to choose from, where it is no range.
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: "optuna.Trial") -> Any:
        """Let a trial choose."""
        if self.low is None or self.high is None:
            return trial.suggest_categorical(self.name, self.choices)
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


def parse(text: str) -> Dimension:
    """Read "name=low:high", "name=low:high:log" or "name=a,b,c"; of an option that is a whole number, only such.

    A key of a table may stand alone where it is the only one of its name: learning_rate for optimizer.learning_rate.

    Raises:
        SettingsError: It is none of these, or no such option.
    """
    name, _, values = text.partition("=")
    if not values:
        raise SettingsError(f"--search: name=low:high, name=low:high:log or name=a,b,c. Received: {text!r}")
    name = _full_name(name.strip())
    if match := _RANGE.fullmatch(values):
        try:
            low, high = float(match[1]), float(match[2])
        except ValueError:
            raise SettingsError(f"--search: the ends of a range are numbers. Received: {text!r}") from None
        if not low < high or (match[3] and low <= 0):
            raise SettingsError(f"--search: a range goes upwards, and by logarithm from above 0. Received: {text!r}")
        if (whole := _is_whole(name)) and not (low.is_integer() and high.is_integer()):
            raise SettingsError(f"--search {name}: whole numbers are needed. Received: {text!r}")
        return Dimension(name, low, high, log=bool(match[3]), whole=whole)
    return Dimension(name, choices=tuple(_value(choice.strip()) for choice in values.split(",")))


def _full_name(name: str) -> str:
    known = [one for one in _names(TrainOptions) if one == name or one.rpartition(".")[2] == name]
    known = [name] if name in known else known
    if len(known) != 1 or known[0].split(".")[0] in _FIXED:
        free = ", ".join(one for one in _names(TrainOptions) if one.split(".")[0] not in _FIXED)
        raise SettingsError(f"--search {name}: one of {free}. Received: {name!r}")
    return known[0]


def _names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _names(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def _is_whole(name: str) -> bool:
    model: type[BaseModel] = TrainOptions
    *tables, key = name.split(".")
    for table in tables:
        model = model.model_fields[table].annotation  # type: ignore[assignment]
    return model.model_fields[key].annotation is int


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def apply(options: TrainOptions, chosen: dict[str, Any]) -> TrainOptions:
    """The recipe with some of its keys ("table.key") replaced.

    Raises:
        SettingsError: A value is none that the option takes.
    """
    values = options.model_dump()
    for name, value in chosen.items():
        *tables, key = name.split(".")
        place = values
        for table in tables:
            place = place[table]
        place[key] = value
    try:
        return TrainOptions(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SettingsError(f"--search {where}: {first['msg']}. Received: {first['input']!r}") from error


def search(
    data: Path,
    output: Path,
    dimensions: Sequence[Dimension],
    trials: int,
    seeds: Sequence[int],
    options: TrainOptions,
    specs: Sequence[ClassifierSpec],
    *,
    storage: str = "",
    console: Console | None = None,
    on_ray: bool = False,
    cores: int = 0,
) -> "optuna.Study":
    """Try values until so many trials are finished, those of earlier calls included.

    Each trial trains one network for each seed; what counts is the mean area under the ROC curve of the validation
    part, by the weights that the recipe keeps. The split is the same for all.

    Args:
        data: Any form of DATA that `medd.learn.manifest` reads.
        output: The folder: ``trials.csv``, and the study where `storage` names no other place.
        dimensions: What is searched.
        trials: How many are to be finished in the end; one whose training diverges counts.
        seeds: Of the trainings of each trial.
        options: The rest of the recipe.
        specs: The classifiers that the plugins registered.
        storage: SQLAlchemy URL of the study, SQLite or PostgreSQL; several hosts may then search together. Not that of
            medd's own database: optuna has a table of the same name there.
        console: Where progress is told; standard error when None.
        on_ray: Train on the Ray cluster that was joined (`medd.ray_cluster.joined`); the study stays here.
        cores: Of each trial there; see `Trials`.

    Raises:
        SettingsError: The data do not allow it, a value is none that the option takes, or the study's database cannot
            be used.
        TransientError: Ray could not do a trial; those that had begun are finished, and the next call goes on.
    """
    require_extra()
    extra.require("optuna")
    console = console or Console(stderr=True)
    spec = trainable(options.network, specs)
    for dimension in dimensions:
        for value in dimension.choices or (dimension.low, dimension.high):
            apply(options, {dimension.name: int(value) if dimension.whole and value is not None else value})
    split_seed = options.seed if options.split_seed is None else options.split_seed
    options = options.model_copy(update={"split_seed": split_seed})
    prepared = prepare(data, options, console)

    def begin(trial: "optuna.Trial") -> TrainOptions:
        chosen = {dimension.name: dimension.suggest(trial) for dimension in dimensions}
        console.print(f"trial {trial.number}: {_told(chosen)}", highlight=False)
        return apply(options, chosen)

    def end(trial: "optuna.Trial", values: list[float]) -> float:
        trial.set_user_attr("aurocs", values)
        console.print(f"trial {trial.number}: validation AUROC {mean(values):.4f}", highlight=False)
        return mean(values)

    def objective(trial: "optuna.Trial") -> float:
        try:
            return end(trial, judge(prepared, begin(trial), seeds, spec, console=console))
        except ModelUnusable as error:
            trial.set_user_attr(_DIVERGED, str(error))
            raise

    output.mkdir(parents=True, exist_ok=True)
    with alone(output):
        about = {
            "split_digest": manifest.digest(prepared.samples),
            "recipe": options.model_dump(
                mode="json", exclude={"name", "version", "licence", "intended_use", "outliers"}
            ),
            "search": [str(dimension) for dimension in dimensions],
            "seeds": list(seeds),
        }
        study = _study(storage or f"sqlite:///{output.resolve() / 'search.db'}", about, is_shared=bool(storage))
        if on_ray:
            _on_ray(study, trials, Trials(judge, prepared, cores), begin, end, (seeds, spec), console)
        while len(finished(study)) < trials:  # asked before each, as other hosts may share the study
            study.optimize(objective, n_trials=1, catch=(ModelUnusable,))
        _write(output / "trials.csv", study)
    return study


def _on_ray(
    study: "optuna.Study",
    wanted: int,
    pool: Trials,
    begin: Callable[["optuna.Trial"], TrainOptions],
    end: Callable[["optuna.Trial", list[float]], float],
    rest: tuple[Any, ...],
    console: Console,
) -> None:
    """Try as many values at the same time as the cluster has room for, until so many are finished."""
    from optuna.trial import TrialState

    lost: TransientError | None = None
    try:
        while pool.running or (not lost and len(finished(study)) < wanted):
            while not lost and pool.room > 0 and len(finished(study)) + len(pool.running) < wanted:
                trial = study.ask()
                pool.begin(trial, begin(trial), *rest)
            if not pool.running:
                continue  # another process that shares the study has finished the last one
            trial, values, failed = pool.ended()
            if not failed:
                study.tell(trial, end(trial, values))
                continue
            console.print(f"trial {trial.number} failed: {failed}", highlight=False, markup=False, soft_wrap=True)
            if isinstance(failed, TransientError):
                lost = failed  # and nothing more is begun, as it might well fail too
            else:
                trial.set_user_attr(_DIVERGED, str(failed))
            study.tell(trial, state=TrialState.FAIL)
    finally:  # a stop cuts short what has begun
        for trial in pool.running:
            study.tell(trial, state=TrialState.FAIL)
    if lost:
        raise TransientError(f"a trial could not be done, the next call tries it again: {lost}") from lost


def judge(
    prepared: Prepared, options: TrainOptions, seeds: Sequence[int], spec: ClassifierSpec, *, console: Console
) -> list[float]:
    """Train one network for each seed: the area under the ROC curve of the validation part by each.

    Raises:
        ModelUnusable: Training diverged, or the validation part shows one class only.
    """
    classes = classes_of(prepared.samples, prepared.labels, options.sublabels)
    part = prepared.parts["val"]
    values = []
    for seed in seeds:
        fitted = fit(spec, prepared.parts, classes, options.model_copy(update={"seed": seed}), console)
        figures = metrics.figures(part.truth != 0, finding(fitted.model, classes, part), 0.5)
        values.append(figures["auroc"])
    if not math.isfinite(mean(values)):  # optuna takes no NaN, and nothing would ever be finished
        raise ModelUnusable("the validation part shows one class only")
    return values


def finished(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    """The trials that have ended by themselves, the best first; those whose training failed last."""
    from optuna.trial import TrialState

    ended = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        if trial.state is TrialState.COMPLETE or _DIVERGED in trial.user_attrs
    ]
    return sorted(ended, key=lambda trial: (trial.value is None, -(trial.value or 0), trial.number))


def rows(study: "optuna.Study") -> list[dict[str, Any]]:
    """The finished trials as a table."""
    return [
        {"trial": trial.number, "validation_auroc": trial.value} | trial.params | {"failed": trial.value is None}
        for trial in finished(study)
    ]


def _study(url: str, about: dict[str, Any], *, is_shared: bool) -> "optuna.Study":
    import optuna
    from optuna.trial import TrialState
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Another search (data, recipe, ranges or seeds) is another study, whatever else lies in the database.
    name = "medd-" + hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    try:
        study = optuna.create_study(storage=url, study_name=name, direction="maximize", load_if_exists=True)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise SettingsError(f"the study's database cannot be used. Received: {type(error).__name__}") from error
    study.set_user_attr("about", about)
    seen = study.get_trials(deepcopy=False)
    # A sampler seeded alike would only repeat itself after a stop, and what the other hosts try.
    study.sampler = optuna.samplers.TPESampler(seed=None if is_shared else len(seen))
    for trial in () if is_shared else seen:  # in a database of many hosts another may be at it
        killed = study.user_attrs.get(_KILLED, [])
        failed = trial.state is TrialState.FAIL and _DIVERGED not in trial.user_attrs and trial.number not in killed
        if failed or trial.state is TrialState.RUNNING:
            study.set_user_attr(_KILLED, [*killed, trial.number])
            if not failed:
                study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
    return study


def _write(path: Path, study: "optuna.Study") -> None:
    table = rows(study)
    names = dict.fromkeys(name for row in table for name in row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def _told(chosen: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in chosen.items()
    )
