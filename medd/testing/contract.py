"""What every classifier has to hold: call it in one test of your plugin."""

from pathlib import Path

import numpy as np

from medd.classify.classifier import LoadedModel, load
from medd.hookspecs import ClassifierSpec
from medd.imaging.preprocess import preprocess
from medd.testing.phantom import radiograph


def check_classifier(
    spec: ClassifierSpec, bundle: Path | None = None, *, batch_size: int = 8, tolerance: float = 1e-4
) -> LoadedModel:
    """Load a classifier's bundle, score a few synthetic films, and check what the worker relies on.

    Args:
        spec: As the plugin registers it.
        bundle: The bundle to try; the one that `spec` ships by default.
        batch_size: Films in the batch.
        tolerance: How far a probability may move with the company an image is scored in, or between two loads.

    Returns:
        The loaded model, for checks of your own.

    Raises:
        AssertionError: The contract is broken; the message says where.
        MeddError: The bundle or the builder cannot be loaded.
    """
    folder = bundle or spec.bundle
    assert folder is not None, f"{spec.name}: the spec names no bundle and none was given"
    model = load(folder, [spec], threads=1)
    about, labels = model.bundle, model.bundle.labels
    films = [radiograph(seed, size=256, opacity=seed % 2 == 1) for seed in range(batch_size)]
    batch = np.stack([preprocess(film, about.preprocess) for film in films])
    before = batch.copy()

    scores = model.predict(batch)
    assert np.array_equal(batch, before), f"{about.ref}: predict altered its input"
    assert scores.shape == (batch_size, len(labels)), (
        f"{about.ref}: one probability per label. Received: {scores.shape}"
    )
    assert scores.min() >= 0, f"{about.ref}: probabilities in [0, 1]. Received: {scores.min()}"
    assert scores.max() <= 1, f"{about.ref}: probabilities in [0, 1]. Received: {scores.max()}"

    alone = np.concatenate([model.predict(batch[i : i + 1]) for i in range(batch_size)])
    apart = float(np.abs(alone - scores).max())
    assert apart <= tolerance, f"{about.ref}: an image's score depends on its batch. Received: {apart:.2g} apart"
    turned = model.predict(batch[::-1].copy())[::-1]
    apart = float(np.abs(turned - scores).max())
    assert apart <= tolerance, f"{about.ref}: a score depends on the order in the batch. Received: {apart:.2g} apart"
    apart = float(np.abs(load(folder, [spec], threads=2).predict(batch) - scores).max())
    assert apart <= tolerance, f"{about.ref}: loaded again, it scores otherwise. Received: {apart:.2g} apart"

    for row in scores:
        prediction = model.interpret(row, instance_id=1)
        assert tuple(prediction.probabilities) == labels, f"{about.ref}: labels. Received: {prediction.probabilities}"
        assert prediction.label in labels, f"{about.ref}: labels. Received: {prediction.label}"
        assert prediction.positive == (prediction.label in about.positive_labels), f"{about.ref}: label and finding"
    return model
