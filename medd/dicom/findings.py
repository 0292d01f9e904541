"""A prediction in the words of the objects that go to other people's screens.

What is below the threshold is said to be just that. "Normal" is a word for a reader, and the label of what is no
finding is shown nowhere.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from medd.dicom.derived import PRIVATE_SCHEME, plain
from medd.records import Prediction

#: Code value, coding scheme designator, code meaning.
Code = tuple[str, str, str]

#: Of more labels than that not every choice is tried.
_MANY = 12
#: How far the sum of probabilities may be from what was stored, by rounding alone.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Finding:
    """What a prediction is about."""

    #: The label of the finding that is most probable.
    label: str
    code: Code
    #: Its own probability, in [0, 1].
    probability: float
    #: Whether other findings are in the sum that the threshold is for.
    one_of_many: bool


def finding_of(prediction: Prediction, codes: Mapping[str, Code]) -> Finding:
    """The finding that a prediction gives the probability of, be it above or below the threshold.

    Args:
        prediction: What a model said.
        codes: Label → code.
    """
    findings = _finding_labels(prediction, codes)
    label = max(findings, key=prediction.probabilities.__getitem__)
    probability = prediction.probabilities[label] if len(findings) > 1 else prediction.probability
    return Finding(label, code_of(label, codes), probability, len(findings) > 1)


def _finding_labels(prediction: Prediction, codes: Mapping[str, Code]) -> tuple[str, ...]:
    """The labels whose probabilities sum up to the prediction's: those that its model counts as findings.

    With two labels, and with one finding among many, there is nothing to choose. Where several choices give the sum,
    those count whose labels have codes, and of them the fewest.
    """
    others = [label for label in prediction.probabilities if label != prediction.label]
    if len(prediction.probabilities) <= 2:
        return (prediction.label,) if prediction.positive or not others else tuple(others)
    fixed = (prediction.label,) if prediction.positive else ()
    fitting = [
        fixed + chosen
        for size in range(0 if prediction.positive else 1, len(others) + (0 if prediction.positive else 1))
        for chosen in (combinations(others, size) if len(others) < _MANY else ())
        if abs(sum(prediction.probabilities[one] for one in fixed + chosen) - prediction.probability) < _ROUNDING
    ]
    if not fitting:
        return fixed or tuple(others)
    return min(
        fitting, key=lambda labels: (sum(label.casefold() not in _folded(codes) for label in labels), len(labels))
    )


def code_of(label: str, codes: Mapping[str, Code]) -> Code:
    """The code of a label, compared without case; one of our own scheme where the plugin gave none."""
    if given := _folded(codes).get(label.casefold()):
        value, scheme, meaning = given
        return plain(value, 16), plain(scheme, 16), plain(meaning, 64)
    return private_code(label)


def private_code(text: str, meaning: str = "") -> Code:
    """A code of our own coding scheme: the text itself, or where a Code Value (VR SH) cannot hold it, its digest."""
    value = plain(text).upper().replace(" ", "_")
    if len(value) > 16 or plain(text) != text or not value:
        value = hashlib.sha256(text.encode()).hexdigest()[:16].upper()
    return value, PRIVATE_SCHEME, plain(meaning or text, 64) or value


def lines_of(prediction: Prediction, finding: Finding) -> tuple[str, str]:
    """What a prediction says, in two lines of ASCII: the finding with its probability and the threshold, and the model.

    The comparison stands beside the finding, so that nobody reads the one without the other.
    """
    held = prediction.probability
    # As many digits as it takes for what is just below a threshold not to read the same as the threshold.
    digits = next((n for n in (3, 4, 5) if f"{held:.{n}f}" != f"{prediction.threshold:.{n}f}"), 6)
    comparison = "at or above" if prediction.positive else "BELOW"
    total = f" (all findings {held:.{digits}f})" if finding.one_of_many else ""
    probability = f"{plain(finding.label, 40)}   p = {finding.probability:.{digits}f}{total}"
    return (
        f"{probability}, {comparison} threshold {prediction.threshold:.{digits}f}",
        f"Model {plain(prediction.model, 64)}",
    )


def _folded(codes: Mapping[str, Code]) -> dict[str, Code]:
    return {label.casefold(): code for label, code in codes.items()}
