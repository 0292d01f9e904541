"""Whether a candidate is better than the champion, on the images that both were never shown."""

import numpy as np
from numpy.typing import NDArray

from medd.learn.compare import Comparison

#: A difference that chance makes less often than this is no chance.
ALPHA = 0.05


def objection(found: Comparison, refused_a: NDArray[np.bool_], refused_b: NDArray[np.bool_]) -> str | None:
    """Why the candidate (A) may not replace the champion (B); None where it may.

    It may where it is at least as good in accuracy and AUROC and better in one of them; or better in one beyond chance
    (exact McNemar, DeLong; p < 0.05) and not worse beyond chance in the other. Anything else is no gain: a champion is
    not replaced for luck, as the losses would add up from one retraining to the next.

    Nor may it where it judges fewer images, beyond chance: what it refuses, nobody is told.

    Args:
        found: The comparison, which counts refused images like all others.
        refused_a: (N,) whether the candidate refuses to judge the image.
        refused_b: (N,) the same of the champion.
    """
    if _surely_more(refused_a, refused_b):
        return (
            f"judges fewer images than the model on duty: refused {refused_b.mean():.1%} → {refused_a.mean():.1%}, "
            f"on {found.n} images"
        )
    differences = [(found.accuracy_difference, found.mcnemar_p)]
    if found.auroc_difference is not None:
        differences.append((found.auroc_difference, 1.0 if found.delong_p is None else found.delong_p))
    worse = any(difference < 0 and p < ALPHA for difference, p in differences)
    surely_better = any(difference > 0 and p < ALPHA for difference, p in differences)
    better = any(difference > 0 for difference, _ in differences)
    never_lower = all(difference >= 0 for difference, _ in differences)
    if worse:
        return f"regression: {describe(found)}"
    if surely_better or (better and never_lower):
        return None
    return f"no better than the model on duty: {describe(found)}"


def _surely_more(refused_a: NDArray[np.bool_], refused_b: NDArray[np.bool_]) -> bool:
    """Whether A refuses more images than B, beyond chance (exact McNemar, two-sided)."""
    from scipy.stats import binomtest

    only_a, only_b = int((refused_a & ~refused_b).sum()), int((refused_b & ~refused_a).sum())
    return only_a > only_b and float(binomtest(only_a, only_a + only_b).pvalue) < ALPHA


def describe(found: Comparison) -> str:
    """The figures in a sentence, the champion's first."""
    text = f"accuracy {found.accuracy_b:.4f} → {found.accuracy_a:.4f} (McNemar p = {found.mcnemar_p:.3g})"
    if found.auroc_a is not None:
        p = "" if found.delong_p is None else f" (DeLong p = {found.delong_p:.3g})"
        text += f", AUROC {found.auroc_b:.4f} → {found.auroc_a:.4f}{p}"
    return f"{text}, on {found.n} images"
