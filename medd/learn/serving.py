"""From a trained network to the one that serves: probabilities, novelty and heat out of one pass.

Everything learned is in the one graph that is exported, so that serving needs no more than a runtime.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medd.classify.classifier import LoadedModel
from medd.errors import ModelUnusable
from medd.imaging.preprocess import PreprocessSpec
from medd.learn.dataset import Part, batches
from medd.learn.fit import Classes
from medd.learn.options import TrainOptions

if TYPE_CHECKING:
    import keras

#: The served network may differ from the trained one by this much in any probability.
TOLERANCE = 1e-4

#: Layers whose maps describe an image: their names begin so. The last of them is what the heat map explains.
_MAPS = ("pool_", "features")
#: Directions in feature space with a variance of their own; what is left shares one.
_DIRECTIONS = 128
#: With more features than this the directions are found by random projections: the exact way takes their cube.
_EXACT = 2000
#: A few outliers are seen this often, augmented anew each time.
_VIEWS = 512
#: Of what the gate may refuse of the validation part, the share that it may refuse for its likeness to outliers alone.
_OUTLIERS_SHARE = 1 / 3
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Familiar:
    """Where in feature space the training images lie: a probabilistic PCA (Tipping & Bishop 1999, sections 3 and 5.1).

    Attributes:
        mean: (D,) of the features.
        scale: (D,) one over their standard deviation.
        directions: (D, R) principal directions of the scaled features, each over its standard deviation.
        axes: (D, R) the same directions with length 1.
        rest: Variance, per dimension, in all other directions.
        outwards: (D,) from the training images towards the outliers; the product with scaled features compares with the
            distance: as far out is as rare, or rarer. None without outliers.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    directions: NDArray[np.float32]
    axes: NDArray[np.float32]
    rest: float
    outwards: NDArray[np.float32] | None = None


def feature_layers(model: "keras.Model") -> list[Any]:
    """The layers whose maps describe an image, from the finest to the coarsest."""
    return [layer for layer in model.layers if layer.name.startswith(_MAPS) and len(layer.output.shape) == 4]


def _features(model: "keras.Model") -> Any:
    """Symbolic (N, D): all layers' maps, each by its means over the quarters of the image.

    The last ones see what tells the labels apart, and where; the early ones what a film is made of: ribs, soft tissue.
    """
    from keras import layers, ops

    parts = []
    for layer in feature_layers(model):
        grid = min(*layer.output.shape[1:3], 2)
        pooled = layers.AveragePooling2D(min(layer.output.shape[1:3]) // grid, name=f"grid_{layer.name}")(layer.output)
        parts.append(layers.Flatten(name=f"flat_{layer.name}")(pooled))
    return ops.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


def familiar(
    model: "keras.Model", parts: dict[str, Part], options: TrainOptions, outliers: Part | None = None
) -> Familiar | None:
    """Learn what images of the training look like to the network; None where it names no maps, or all are dead.

    Args:
        model: The trained network.
        parts: "train", not augmented, is learned; "val" only tells how far out is rare, where there are outliers.
        options: Its augmentation, seed and `refusals` are used where there are outliers.
        outliers: Images of a kind that is to be refused, uint8; their truth means nothing.
    """
    import keras
    from sklearn.decomposition import PCA

    if not feature_layers(model):
        return None
    reader = keras.Model(model.input, _features(model))
    features = _read(reader, _plain(parts["train"]))
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    alive = deviation[deviation > 0]
    if not alive.size:
        return None
    # A feature that never moves (a dead unit) must not make every image that stirs it infinitely far.
    scale = 1 / np.maximum(deviation, max(1e-6, 0.05 * float(np.median(alive))))
    scaled = (features - mean) * scale
    count = min(_DIRECTIONS, len(features) // 4, scaled.shape[1] - 1)
    solver = "covariance_eigh" if scaled.shape[1] <= _EXACT else "randomized"
    fitted = PCA(count, svd_solver=solver, random_state=0).fit(scaled)
    total = float(scaled.var(axis=0).sum())
    rest = max(total - float(fitted.explained_variance_.sum()), 1e-6) / (scaled.shape[1] - count)
    axes = fitted.components_.T
    directions = axes / np.sqrt(np.maximum(fitted.explained_variance_, rest))
    known = Familiar(
        mean.astype(np.float32), scale.astype(np.float32), directions.astype(np.float32), axes.astype(np.float32), rest
    )
    if outliers is None:
        return known

    def views(part: Part, number: int) -> Iterator[NDArray[np.float32]]:
        stream = batches(part, part.truth, options.augmentation, _BATCH, (options.seed, len(part)))
        return (inputs for inputs, _ in islice(stream, -(-number // _BATCH)))

    ours, theirs, val = (
        (_read(reader, inputs) - mean) * scale
        for inputs in (
            views(parts["train"], len(parts["train"])),
            views(outliers, max(_VIEWS, len(outliers))),
            _plain(parts["val"]),
        )
    )
    # With augmented views on both sides augmentation is not what tells them apart.
    direction = _discriminant(np.concatenate([scaled, ours]), theirs)
    novelty = np.asarray(_distance(val.astype(np.float32), known))
    rare = max(np.quantile(side @ direction, 1 - _OUTLIERS_SHARE * options.refusals) for side in (val, scaled))
    length = np.quantile(novelty, 1 - options.refusals) / rare
    return replace(known, outwards=(direction * length).astype(np.float32))


def _plain(part: Part) -> Iterator[NDArray[np.float32]]:
    return (part.inputs(start, start + _BATCH) for start in range(0, len(part), _BATCH))


def _read(reader: "keras.Model", inputs: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    return np.concatenate([reader.predict_on_batch(batch) for batch in inputs]).astype(np.float64)


def _distance(scaled: Any, known: Familiar) -> Any:
    """(N,) from scaled features (N, D), symbolic or not: standard deviations from the training images."""
    from keras import ops

    along = ops.sum(ops.square(ops.matmul(scaled, known.directions)), axis=1)
    inside = ops.sum(ops.square(ops.matmul(scaled, known.axes)), axis=1)
    across = ops.maximum(ops.sum(ops.square(scaled), axis=1) - inside, 0.0) / known.rest
    return ops.sqrt((along + across) / len(known.mean))


def _discriminant(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """(D,) from ours (N, D) to theirs (K, D), by linear discriminant analysis.

    The features know in what films differ; an outlier only has to tell which of these differences count (compare
    Liznerski et al. 2022 on how few outliers are of use).
    """
    from sklearn.covariance import shrunk_covariance

    # Half way to a sphere: a handful of films says little of how their features move together. scikit-learn's
    # LinearDiscriminantAnalysis gives the same by singular values, which take long with thousands of features.
    within = shrunk_covariance((np.cov(ours, rowvar=False) + np.cov(theirs, rowvar=False)) / 2, shrinkage=0.5)
    return np.linalg.solve(within, theirs.mean(axis=0) - ours.mean(axis=0))


def serving_model(
    model: "keras.Model", classes: Classes, positive: Sequence[int], known: Familiar | None
) -> "keras.Model":
    """Build the network that serves.

    Args:
        model: The trained network: (N, size, size, C) → (N, 1) sigmoid or (N, K) softmax.
        classes: What its outputs stand for.
        positive: Indices of the labels that are a finding.
        known: What the training images look like.

    Returns:
        A model with the outputs "probabilities" (N, labels); where `known` is given "novelty" (N, 1), the distance from
        the training images in standard deviations, or the likeness to outliers where that is larger; and where the head
        can be followed backwards "heat" (N, h, w) ≥ 0, Grad-CAM of the finding's log-odds (Selvaraju et al. 2017, eq. 1
        and 2).
    """
    import keras
    from keras import layers, ops

    scores = model.output
    if scores.shape[-1] == 1:
        scores = ops.concatenate([1 - scores, scores], axis=1)
    n_labels = int(classes.label_of.max()) + 1
    summed = np.eye(n_labels, dtype=np.float32)[classes.label_of]
    probabilities = ops.matmul(scores, summed)
    outputs = {"probabilities": layers.Identity(name="probabilities")(probabilities)}
    if known is not None:
        scaled = (_features(model) - known.mean) * known.scale
        novelty = _distance(scaled, known)
        if known.outwards is not None:
            novelty = ops.maximum(novelty, ops.sum(scaled * known.outwards, axis=1))
        outputs["novelty"] = layers.Identity(name="novelty")(ops.expand_dims(novelty, -1))
    heat = _heat(model, scores, np.isin(classes.label_of, positive))
    if heat is not None:
        outputs["heat"] = layers.Identity(name="heat")(heat)
    return keras.Model(model.input, outputs, name=model.name)


def _heat(model: "keras.Model", scores: Any, finding: NDArray[np.bool_]) -> Any:
    """Symbolic (N, h, w), or None for a head that this cannot follow.

    The gradient of the log-odds of the finding, log(Σ finding p / Σ others p), is written out layer by layer through
    the head (Flatten or GlobalAveragePooling2D, Dense with ReLU, Dropout, Dense): a runtime has no automatic one.
    """
    from keras import layers, ops

    found = feature_layers(model)
    if not found:
        return None
    maps = found[-1].output
    head = model.layers[model.layers.index(found[-1]) + 1 :]
    last = head[-1] if head else None
    if not isinstance(last, layers.Dense) or _activation(last) not in ("sigmoid", "softmax"):
        return None
    side = tuple(maps.shape[1:])
    # d log-odds / d logit: a softmax within the findings, minus one within the others; of a sigmoid's logit it is 1.
    inside, outside = finding.astype(np.float32), (~finding).astype(np.float32)
    if last.units == 1:
        gradient = ops.ones_like(scores[:, 1:])
    else:
        share = scores * inside / (ops.sum(scores * inside, axis=1, keepdims=True) + 1e-12)
        gradient = share - scores * outside / (ops.sum(scores * outside, axis=1, keepdims=True) + 1e-12)
    for layer in reversed(head):
        if isinstance(layer, layers.Dense):
            if _activation(layer) == "relu":
                gradient = gradient * ops.cast(layer.output > 0, "float32")
            elif layer is not last and _activation(layer) != "linear":
                return None
            gradient = ops.matmul(gradient, np.asarray(layer.kernel).T)
        elif isinstance(layer, layers.Flatten):
            # Grad-CAM weighs each map by its mean gradient.
            gradient = ops.mean(ops.reshape(gradient, (-1, side[0] * side[1], side[2])), axis=1)
        elif isinstance(layer, layers.GlobalAveragePooling2D):
            gradient = gradient / (side[0] * side[1])
        elif not isinstance(layer, layers.Dropout):
            return None
    return ops.relu(ops.sum(maps * gradient[:, None, None, :], axis=-1))


def _activation(layer: Any) -> str:
    return getattr(layer.activation, "__name__", "")


def export(model: "keras.Model", serving: "keras.Model", folder: Path, spec: PreprocessSpec) -> None:
    """Write ``model.keras``, without the optimizer's state, and ``model.onnx``, whose batch size is open."""
    import keras

    network = keras.Model(model.input, model.output, name=model.name)
    network.save(folder / "model.keras")
    serving(np.zeros((1, *spec.input_shape), np.float32))  # export wants a model that has been called
    with warnings.catch_warnings():
        # tf2onnx 1.16 asks numpy for np.object, which numpy announces to change; nothing that a user can act on.
        warnings.simplefilter("ignore", FutureWarning)
        serving.export(folder / "model.onnx", format="onnx", verbose=False)


def difference(serving: "keras.Model", served: LoadedModel, part: Part) -> float:
    """Compare what is served, before calibration, with what was trained; returns max |Δp|.

    Raises:
        ModelUnusable: It is above `TOLERANCE`.
    """
    apart = 0.0
    for start in range(0, len(part), _BATCH):
        batch = part.inputs(start, start + _BATCH)
        trained = np.asarray(serving.predict_on_batch(batch)["probabilities"])
        worst = float(np.abs(trained - served.predict(batch)).max())
        apart = worst if np.isnan(worst) else max(apart, worst)
    if not apart <= TOLERANCE:
        raise ModelUnusable(
            f"{served.bundle.ref}: the exported network does not compute what was trained "
            f"(max |Δp| ≤ {TOLERANCE:g}). Received: {apart:.2e}"
        )
    return apart
