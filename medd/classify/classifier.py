"""What a classifier is, and how a bundle becomes one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from medd.errors import MeddError, ModelUnusable, NotAssessable, PluginError
from medd.hookspecs import ClassifierSpec
from medd.imaging.preprocess import PreprocessSpec, brightness, preprocess
from medd.records import Attachment, Prediction, Reason
from medd.registry import bundle as bundles
from medd.registry.bundle import Bundle

#: How far from a distribution a row of probabilities may be by rounding alone.
_ROUNDING = 1e-3


#: On a prediction: the patient is younger or older than those whom the model learned from.
AGE_OUTSIDE_TRAINING = "age_outside_training"


@dataclass(frozen=True, slots=True)
class Scores:
    """What a classifier says of N images.

    Attributes:
        probabilities: (N, labels) float32, each row summing to 1, in the order of the bundle's labels.
        novelty: (N,) float32: how far each image is from those of the training; None where the classifier cannot tell.
        heat: (N, h, w) float32 ≥ 0: what speaks for a finding, where; None where the classifier cannot tell.
    """

    probabilities: NDArray[np.float32]
    novelty: NDArray[np.float32] | None = None
    heat: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Input:
    """One image, ready for the network, with what is known of it."""

    #: (size, size, channels) float32.
    pixels: NDArray[np.float32]
    #: Mean and standard deviation of the decoded image, in [0, 1].
    mean: float
    std: float
    #: The patient's, years; None where unknown.
    age: float | None = None


def prepare(image: NDArray[np.float32], spec: PreprocessSpec, age: float | None = None) -> Input:
    """Make a decoded image, (H, W) float32 in [0, 1], the input of a network."""
    return Input(preprocess(image, spec), *brightness(image), age)


class Classifier(Protocol):
    """What a plugin's ``load`` returns. Called from one thread at a time.

    A classifier may have a second method, ``explain``, with the same argument, that returns `Scores`.
    """

    def predict(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score a batch.

        Args:
            batch: (N, size, size, channels) float32, as the bundle's PreprocessSpec makes it.

        Returns:
            (N, labels) float32: probabilities that sum to 1, in the order of the bundle's labels.
        """


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A bundle and the classifier that runs it."""

    bundle: Bundle
    classifier: Classifier

    def predict(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score (N, size, size, channels) float32 → (N, labels) float32, checked and calibrated.

        Raises:
            ModelUnusable: The classifier raised, or returned something else than one distribution per image.
        """
        return self.explain(batch).probabilities

    def explain(self, batch: NDArray[np.float32]) -> Scores:
        """Score (N, size, size, channels) float32 with all that the classifier can tell, checked and calibrated.

        Raises:
            ModelUnusable: As `predict`.
        """
        try:
            method = getattr(self.classifier, "explain", None)
            scores = method(batch) if method else Scores(self.classifier.predict(batch))
            probabilities = np.asarray(scores.probabilities, dtype=np.float32)
        except Exception as error:  # a stranger's classifier may raise anything
            raise ModelUnusable(f"{self.bundle.ref}: classifier raised {error!r}") from error
        self._check(probabilities, len(batch))
        return replace(scores, probabilities=self._calibrate(probabilities.clip(0, 1)))

    def _check(self, scores: NDArray[np.float32], count: int) -> None:
        expected = (count, len(self.bundle.labels))
        if scores.shape != expected:
            raise ModelUnusable(f"{self.bundle.ref}: one row per image expected, {expected}. Received: {scores.shape}")
        if not (np.isfinite(scores).all() and np.allclose(scores.sum(axis=1), 1, atol=_ROUNDING)):
            raise ModelUnusable(f"{self.bundle.ref}: probabilities do not sum to 1. Received: {scores.sum(axis=1)[:3]}")
        if scores.size and (scores.min() < -_ROUNDING or scores.max() > 1 + _ROUNDING):
            message = f"{self.bundle.ref}: probabilities are not in [0, 1]. Received: {scores.min()} to {scores.max()}"
            raise ModelUnusable(message)

    def _calibrate(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Move the share of the findings as the bundle says; within findings and others the proportions stay."""
        if self.bundle.calibration is None:
            return scores
        positive = np.isin(self.bundle.labels, self.bundle.positive_labels)
        exact = scores.astype(np.float64)
        inside, outside = exact[:, positive].sum(axis=1), exact[:, ~positive].sum(axis=1)
        after = self.bundle.calibration.apply(inside / (inside + outside))
        moved = np.empty_like(exact)
        for part, before, share in ((positive, inside, after), (~positive, outside, 1 - after)):
            # Where nothing is left to share out in proportion, it is shared evenly.
            even = np.full((len(exact), int(part.sum())), 1 / part.sum())
            split = np.divide(exact[:, part], before[:, None], out=even, where=before[:, None] > 0)
            moved[:, part] = split * share[:, None]
        return moved.astype(np.float32)

    def refused(self, scores: Scores) -> NDArray[np.bool_]:
        """(N,) whether each image is too unlike those of the training to be judged."""
        if self.bundle.gate is None or scores.novelty is None:
            return np.zeros(len(scores.probabilities), np.bool_)
        return ~(scores.novelty <= self.bundle.gate.threshold)

    def judge(self, inputs: Sequence[Input], instance_ids: Sequence[int]) -> "list[Prediction | NotAssessable]":
        """Score images and interpret the scores.

        Args:
            inputs: N images.
            instance_ids: N row ids, 0 where there is none.

        Returns:
            For each image its prediction, or why the model does not judge it.

        Raises:
            ModelUnusable: As `predict`.
        """
        scores = self.explain(np.stack([one.pixels for one in inputs]))
        refused = self.refused(scores)
        limits = self.bundle.age_years
        # Of a padded square the map would have to be cut back to the film; laid over it as it is, it would point aside.
        heat = None if self.bundle.preprocess.fit == "pad" else scores.heat
        judged: list[Prediction | NotAssessable] = []
        for number, (one, instance_id) in enumerate(zip(inputs, instance_ids, strict=True)):
            if refused[number]:
                assert scores.novelty is not None
                assert self.bundle.gate is not None
                told = f"{scores.novelty[number]:.2f}, above {self.bundle.gate.threshold:.2f}"
                message = f"does not look like what {self.bundle.ref} was trained on. Received: novelty {told}"
                judged.append(NotAssessable(Reason.UNFAMILIAR, message))
                continue
            strange = one.age is not None and limits is not None and not limits[0] <= one.age <= limits[1]
            made = replace(
                self.interpret(scores.probabilities[number], instance_id),
                flags=(AGE_OUTSIDE_TRAINING,) if strange else (),
                input_mean=one.mean,
                input_std=one.std,
                attachments=() if heat is None else (heat_attachment(heat[number]),),
            )
            judged.append(made)
        return judged

    def interpret(self, scores: NDArray[np.float32], instance_id: int) -> Prediction:
        """Turn one image's (labels,) probabilities into a prediction by the bundle's labels and threshold."""
        bundle = self.bundle
        probabilities = {label: float(p) for label, p in zip(bundle.labels, scores, strict=True)}
        probability = min(1.0, sum(probabilities[label] for label in bundle.positive_labels))
        positive = probability >= bundle.threshold
        shown = [label for label in bundle.labels if (label in bundle.positive_labels) == positive]
        return Prediction(
            instance_id=instance_id,
            model=bundle.ref,
            label=max(shown, key=probabilities.__getitem__),
            positive=positive,
            probability=probability,
            probabilities=probabilities,
            threshold=bundle.threshold,
            preprocess_digest=bundle.preprocess.digest,
            scored_at=datetime.now(UTC),
            findings=bundle.positive_labels,
        )


def heat_attachment(heat: NDArray[np.float32]) -> Attachment:
    """A heat map as a grey PNG of the same size: white is what spoke most for a finding.

    Args:
        heat: (h, w) float32 ≥ 0.
    """
    highest = float(heat.max())
    grey = np.rint(heat / highest * 255) if highest > 0 else np.zeros_like(heat)
    _, content = cv2.imencode(".png", grey.astype(np.uint8))
    return Attachment("heat", "image/png", content.tobytes())


def resolve(target: str, plugin: str) -> Any:
    """Import what "module:function" names.

    Raises:
        PluginError: It is not there; the message names the plugin.
    """
    module, _, name = target.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise PluginError(f"classifier {plugin!r}: cannot import {target!r}. Received: {error}") from error


def load(folder: Path, specs: Sequence[ClassifierSpec], *, threads: int = 0) -> LoadedModel:
    """Read and verify the bundle in `folder` and load it by the classifier it names.

    Args:
        folder: The bundle.
        specs: The classifiers that the plugins registered.
        threads: For the network; 0 takes every core.

    Raises:
        ModelUnusable: The bundle is broken, or its classifier cannot load it.
        PluginError: No plugin brings its classifier.
    """
    bundle = bundles.read(folder)
    spec = next((s for s in specs if s.name == bundle.classifier), None)
    if spec is None:
        known = ", ".join(sorted(s.name for s in specs)) or "none"
        raise PluginError(f"{bundle.ref}: no plugin brings the classifier {bundle.classifier!r}. Received: {known}")
    builder = resolve(spec.load, spec.name)
    try:
        return LoadedModel(bundle, builder(folder, threads))
    except MeddError:
        raise
    except Exception as error:  # a stranger's code may raise anything
        raise ModelUnusable(f"{bundle.ref}: classifier {spec.name!r} cannot load it. Received: {error!r}") from error
