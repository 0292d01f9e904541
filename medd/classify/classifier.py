"""What a classifier is, and how a bundle becomes one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medd.errors import MeddError, ModelUnusable, PluginError
from medd.hookspecs import ClassifierSpec
from medd.records import Prediction
from medd.registry import bundle as bundles
from medd.registry.bundle import Bundle

#: How far from a distribution a row of probabilities may be by rounding alone.
_ROUNDING = 1e-3


class Classifier(Protocol):
    """What a plugin's ``load`` returns. Called from one thread at a time."""

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
        """Score (N, size, size, channels) float32 → (N, labels) float32, checked.

        Raises:
            ModelUnusable: The classifier raised, or returned something else than one distribution per image.
        """
        try:
            scores = np.asarray(self.classifier.predict(batch), dtype=np.float32)
        except Exception as error:  # a stranger's classifier may raise anything
            raise ModelUnusable(f"{self.bundle.ref}: classifier raised {error!r}") from error
        expected = (len(batch), len(self.bundle.labels))
        if scores.shape != expected:
            raise ModelUnusable(f"{self.bundle.ref}: one row per image expected, {expected}. Received: {scores.shape}")
        if not (np.isfinite(scores).all() and np.allclose(scores.sum(axis=1), 1, atol=_ROUNDING)):
            raise ModelUnusable(f"{self.bundle.ref}: probabilities do not sum to 1. Received: {scores.sum(axis=1)[:3]}")
        if scores.size and (scores.min() < -_ROUNDING or scores.max() > 1 + _ROUNDING):
            message = f"{self.bundle.ref}: probabilities are not in [0, 1]. Received: {scores.min()} to {scores.max()}"
            raise ModelUnusable(message)
        return scores.clip(0, 1)

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
        )


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
