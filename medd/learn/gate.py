"""Whether a candidate is better than the champion, on the images that both were never shown."""

from medd.learn.compare import Comparison

#: A difference that chance makes less often than this is no chance.
ALPHA = 0.05


def objection(found: Comparison) -> str | None:
    """Why the candidate (A) may not replace the champion (B); None where it may.

    It may where it is at least as good in accuracy and AUROC and better in one of them; or better in one beyond chance
    (exact McNemar, DeLong; p < 0.05) and not worse beyond chance in the other. Anything else is no gain: a champion is
    not replaced for luck, as the losses would add up from one retraining to the next.
    """
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


def describe(found: Comparison) -> str:
    """The figures in a sentence, the champion's first."""
    text = f"accuracy {found.accuracy_b:.4f} → {found.accuracy_a:.4f} (McNemar p = {found.mcnemar_p:.3g})"
    if found.auroc_a is not None:
        p = "" if found.delong_p is None else f" (DeLong p = {found.delong_p:.3g})"
        text += f", AUROC {found.auroc_b:.4f} → {found.auroc_a:.4f}{p}"
    return f"{text}, on {found.n} images"
