"""DATA through a model, image by image, on the road that serving takes."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pluggy
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from medd import plugins
from medd.classify.classifier import LoadedModel
from medd.dicom.headers import inspect_file
from medd.errors import InputError, NotAssessable, PluginError, SettingsError, TransientError
from medd.hookspecs import Metric
from medd.imaging.pixels import load
from medd.imaging.preprocess import PreprocessSpec, preprocess
from medd.learn.evaluate import measure
from medd.learn.manifest import Sample, Skipped
from medd.learn.metrics import METRICS
from medd.records import InstanceHeader, Reason
from medd.registry.bundle import Bundle
from medd.rows import read_csv

_BATCH = 64
#: What the report and its table call other things.
_TAKEN = frozenset(
    "against ci comparison confusion data group groups model n not_assessed not_assessed_reasons patients seen skipped "
    "split threshold ungated value".split()
)


@dataclass(frozen=True, slots=True)
class Assessed:
    """Images with what a model says of them."""

    model: LoadedModel
    #: (N,) whether the finding is there.
    truth: NDArray[np.bool_]
    #: (N,) probability of the finding, in [0, 1]; NaN where the image is nothing that can be scored.
    scores: NDArray[np.float64]
    #: (N,) why the model does not assess the image; "" where it does.
    reasons: list[str]
    #: What plugins add to its figures.
    more: Sequence[Metric] = ()

    @property
    def assessed(self) -> NDArray[np.bool_]:
        """(N,) whether the model assesses the image, as serving would."""
        return np.array([not reason for reason in self.reasons], bool)

    def measure(self, samples: Sequence[Sample], which: NDArray[np.bool_], resamples: int) -> dict[str, Any]:
        """The figures of some of the images, (N,) bool; see `medd.learn.evaluate.measure`."""
        patients = [sample.patient for sample, chosen in zip(samples, which, strict=True) if chosen]
        threshold = self.model.bundle.threshold
        truth, scores = self.truth[which], self.scores[which]
        return measure(truth, scores, threshold, patients, resamples=resamples, more=self.more)


@dataclass(frozen=True, slots=True)
class _Opened:
    header: InstanceHeader
    #: For each model's spec (size, size, channels) float32, the network's input; {} where there is none to score. The
    #: film itself is not kept: at 30 MB each, a batch of them would take gigabytes.
    inputs: dict[PreprocessSpec, NDArray[np.float32]]
    reason: str


@dataclass(frozen=True, slots=True)
class Material:
    """The images of DATA that could be read, and what each model says of them."""

    #: (N,)
    samples: list[Sample]
    #: (N,)
    headers: list[InstanceHeader]
    #: What could not be read.
    skipped: list[Skipped]
    #: One for each model.
    results: list[Assessed]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The figures of each, in their order."""
        return (*METRICS, *(one.name for one in self.results[0].more))


def choose(samples: Sequence[Sample], split: str | None, model: Path) -> tuple[list[Sample], str]:
    """Take one side of DATA: as DATA states it, else as the model's own split has it, by the images' digests.

    Args:
        samples: The images of DATA.
        split: "train", "val", "test" or "all"; None: the test part where DATA states one, else every image.
        model: The bundle's folder.

    Raises:
        SettingsError: Neither DATA nor the model's split has such a side.
    """
    stated = {sample.split for sample in samples}
    split = split or ("test" if "test" in stated else "all")
    if split == "all":
        return list(samples), split
    sides = {} if split in stated else sides_of(model)
    chosen = [s for s in samples if (s.split if split in stated else sides.get(s.sha256[:16])) == split]
    if not chosen:
        raise SettingsError(
            f"--split {split}: DATA states no such part, and none of its images is in that of the model's own split. "
            f"Received: {model / 'split.csv'}"
        )
    return chosen, split


def sides_of(model: Path) -> dict[str, str]:
    """The split that a bundle keeps: the first 16 hex digits of each image's SHA-256 → its side; {} without one.

    Raises:
        SettingsError: It is no such table.
    """
    table = model / "split.csv"
    if not table.is_file():
        return {}
    return {row["sha256"]: row["split"] for _, row in read_csv(table, ("sha256", "split"))}


def seen(samples: Sequence[Sample], model: Path) -> dict[str, int]:
    """How many of the images stand on each side of the split that the model was trained by: {train, val, test}."""
    sides = sides_of(model)
    counts = Counter(sides.get(sample.sha256[:16]) for sample in samples)
    return {side: counts[side] for side in ("train", "val", "test")}


def truth_of(samples: Sequence[Sample], bundle: Bundle, negative: str | None) -> NDArray[np.bool_]:
    """Whether the finding is there, (N,): so it is under every label that is not the model's, or the user's, negative.

    Labels are compared without case. DATA may have other findings than the model (PNEUMONIA for bacteria and virus).

    Raises:
        SettingsError: Nobody knows which label is no finding: none is negative, and one is unknown to the model or
            `negative` is given.
    """
    negatives = {label.casefold() for label in bundle.labels if label not in bundle.positive_labels}
    labels = {sample.label for sample in samples}
    folded = {label.casefold() for label in labels}
    if negative is not None:
        negatives = {negative.casefold()}
        if not folded & negatives:
            raise SettingsError(
                f"--negative {negative}: no image has this label. Received: {', '.join(sorted(labels))}"
            )
    elif not folded & negatives and folded - {label.casefold() for label in bundle.labels}:
        raise SettingsError(
            f"{bundle.ref} knows {', '.join(bundle.labels)}; say by --negative which label of DATA is no finding. "
            f"Received: {', '.join(sorted(labels))}"
        )
    return np.array([sample.label.casefold() not in negatives for sample in samples], bool)


def assess(
    samples: Sequence[Sample],
    models: Sequence[LoadedModel],
    manager: pluggy.PluginManager,
    negative: str | None = None,
    *,
    progress: bool = False,
) -> Material:
    """Decode every image once, as serving does, and have each model score it.

    An image that serving would refuse, by its header or as unlike those of the training, is scored nevertheless, and
    the reason noted.

    Args:
        samples: The images.
        models: One or more.
        manager: The plugins, which may refuse an image by its header.
        negative: The label of DATA that is no finding; None takes the models'.
        progress: Show a bar on standard error.

    Raises:
        SettingsError: Nobody knows which label is no finding.
        ModelUnusable: A model fails.
        PluginError: A plugin brings a figure of a name that is taken.
    """
    more = plugins.metrics(manager)
    for metric in more:
        if metric.name in _TAKEN or metric.name in METRICS:
            raise PluginError(f"metric {metric.name!r}: medd's own report has this name already")
    truths = [truth_of(samples, model.bundle, negative) for model in models]
    kept: list[int] = []
    headers: list[InstanceHeader] = []
    skipped: list[Skipped] = []
    scores: list[list[float]] = [[] for _ in models]
    reasons: list[list[str]] = [[] for _ in models]
    specs = {model.bundle.preprocess for model in models}
    starts = range(0, len(samples), _BATCH)
    console = Console(stderr=True)
    with ThreadPoolExecutor(os.cpu_count() or 1) as decoders:
        for start in track(starts, "evaluate", console=console, disable=not (progress and console.is_terminal)):
            chunk = samples[start : start + _BATCH]
            opened = []
            for place, one in enumerate(decoders.map(lambda sample: _open(sample, manager, specs), chunk), start):
                if isinstance(one, Skipped):
                    skipped.append(one)
                else:
                    opened.append(one)
                    kept.append(place)
            headers += [one.header for one in opened]
            for number, model in enumerate(models):
                said, why = _score(model, opened)
                scores[number] += said
                reasons[number] += why
    results = [
        Assessed(model, truth[kept], np.array(said, float), why, more)
        for model, truth, said, why in zip(models, truths, scores, reasons, strict=True)
    ]
    return Material([samples[place] for place in kept], headers, skipped, results)


def _open(sample: Sample, manager: pluggy.PluginManager, specs: Iterable[PreprocessSpec]) -> _Opened | Skipped:
    try:
        header = inspect_file(sample.path)
        reason = plugins.admit(manager, header).reason or ""
        try:
            image = load(sample.path, header.media_type)
            return _Opened(header, {spec: preprocess(image, spec) for spec in specs}, reason)
        except NotAssessable as error:
            return _Opened(header, {}, reason or error.reason)
    except (InputError, TransientError, OSError) as error:
        return Skipped(sample.path, str(error))


def _score(model: LoadedModel, opened: Sequence[_Opened]) -> tuple[list[float], list[str]]:
    """What one model says of some images: probabilities of the finding, and why it does not assess each, or ""."""
    bundle = model.bundle
    positive = [bundle.labels.index(label) for label in bundle.positive_labels]
    scores, reasons = [math.nan] * len(opened), [one.reason for one in opened]
    places = [place for place, one in enumerate(opened) if one.inputs]
    if places:
        said = model.explain(np.stack([opened[place].inputs[bundle.preprocess] for place in places]))
        found = np.minimum(said.probabilities[:, positive].sum(axis=1), 1)
        for place, score, refused in zip(places, found, model.refused(said), strict=True):
            scores[place] = float(score)
            if refused:
                reasons[place] = reasons[place] or Reason.UNFAMILIAR
    return scores, reasons
