"""The points of a model's curves, few enough to be kept with its figures and drawn without its scores."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

#: The file in a bundle, or in what `medd evaluate --output` wrote: "name/version" → what `curves` gives.
FILE = "curves.json"
#: Points of a curve, at most: more than a page can show.
POINTS = 200
BINS = 10


def curves(truth: Iterable[Any], scores: Iterable[Any]) -> dict[str, Any]:
    """What is drawn of a model.

    Args:
        truth: (N,) whether the finding is there.
        scores: (N,) probability of the finding, in [0, 1].

    Returns:
        roc, [[1 - specificity, sensitivity], …]; precision_recall, [[recall, precision], …], for each score the shares
        at that threshold; both empty where there is one class only; and reliability, for each tenth of the score that
        has images {score (their mean), images, found (with the finding)}.
    """
    pairs = sorted(((float(score), bool(there)) for there, score in zip(truth, scores, strict=True)), reverse=True)
    found = sum(there for _, there in pairs)
    clear = len(pairs) - found
    counts = list(_counts(pairs)) if found and clear else []
    roc = [(0.0, 0.0), *((fp / clear, tp / found) for tp, fp in counts)] if counts else []
    recall = [(tp / found, tp / (tp + fp)) for tp, fp in counts]
    return {
        "roc": _rounded(_thinned(_corners(roc))),
        "precision_recall": _rounded(_thinned(recall)),
        "reliability": list(_bins(pairs)),
    }


def write_curves(folder: Path, scored: Mapping[str, tuple[Iterable[Any], Iterable[Any]]]) -> None:
    """Write ``curves.json``: "name/version" → truth and scores, as for `curves`."""
    told = {model: curves(truth, scores) for model, (truth, scores) in scored.items()}
    (folder / FILE).write_text(json.dumps(told) + "\n")


def _counts(pairs: Sequence[tuple[float, bool]]) -> Iterator[tuple[int, int]]:
    """True and false positives at the threshold of each different score, the highest first."""
    tp = fp = 0
    for _, same in groupby(pairs, key=lambda pair: pair[0]):
        for _, there in same:
            tp, fp = tp + there, fp + (not there)
        yield tp, fp


def _corners(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without the points that lie on a line, level or upright, between their neighbours."""
    inner = [
        one
        for before, one, after in zip(points, points[1:], points[2:], strict=False)
        if not (before[0] == one[0] == after[0] or before[1] == one[1] == after[1])
    ]
    return [*points[:1], *inner, *points[-1:]] if len(points) > 1 else list(points)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= POINTS:
        return list(points)
    return [points[round(n * (len(points) - 1) / (POINTS - 1))] for n in range(POINTS)]


def _rounded(points: Sequence[tuple[float, float]]) -> list[list[float]]:
    return [[round(x, 4), round(y, 4)] for x, y in points]


def _bins(pairs: Sequence[tuple[float, bool]]) -> Iterator[dict[str, Any]]:
    for number in range(BINS):
        inside = [pair for pair in pairs if min(int(pair[0] * BINS), BINS - 1) == number]
        if inside:
            mean = sum(score for score, _ in inside) / len(inside)
            yield {"score": round(mean, 4), "images": len(inside), "found": sum(there for _, there in inside)}
