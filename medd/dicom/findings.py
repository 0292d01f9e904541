"""A prediction in the words of the objects that go to other people's screens.

What is below the threshold is said to be just that. "Normal" is a word for a reader, and the label of what is no
finding is shown nowhere.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from medd import DISCLAIMER
from medd.dicom.derived import PRIVATE_SCHEME, plain
from medd.records import Prediction

#: Code value, coding scheme designator, code meaning.
Code = tuple[str, str, str]

#: What is said where nobody knows any more which label is the finding.
_UNNAMED = "the finding"


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
    findings = prediction.findings or _guessed(prediction, codes)
    label = max(findings, key=lambda one: prediction.probabilities.get(one, 0.0))
    own = prediction.probabilities.get(label, prediction.probability)
    many = len(findings) > 1 if prediction.findings else own != prediction.probability
    return Finding(label, code_of(label, codes), own if many else prediction.probability, many)


def _guessed(prediction: Prediction, codes: Mapping[str, Code]) -> tuple[str, ...]:
    """What may be the finding of a prediction that does not say: a row of before it was recorded.

    At or above the threshold the label is a finding. Below it the label is none, so that of two the other is; of more,
    those that have a code.
    """
    if prediction.positive:
        return (prediction.label,)
    others = tuple(label for label in prediction.probabilities if label != prediction.label)
    if len(others) == 1:
        return others
    return tuple(label for label in others if label.casefold() in _folded(codes)) or (_UNNAMED,)


def code_of(label: str, codes: Mapping[str, Code]) -> Code:
    """The code of a label, compared without case; one of our own scheme where the plugin gave none that is one.

    A code is never changed: cut short, or in other letters, it would be another one. Beyond 16 characters it goes into
    (0008,0119) Long Code Value.
    """
    value, scheme, meaning = _folded(codes).get(label.casefold(), ("", "", ""))
    if value and scheme and plain(value) == value and plain(scheme, 16) == scheme:
        return value, scheme, plain(meaning, 64) or plain(label, 64)
    return private_code(label)


def private_code(text: str, meaning: str = "") -> Code:
    """A code of our own coding scheme: the text itself, or where a Code Value (VR SH) cannot hold it, its digest."""
    value = plain(text).upper().replace(" ", "_")
    if len(value) > 16 or plain(text) != text or not value:
        value = hashlib.sha256(text.encode()).hexdigest()[:16].upper()
    return value, PRIVATE_SCHEME, plain(meaning or text, 64) or value


def captions(prediction: Prediction, codes: Mapping[str, Code]) -> tuple[str, ...]:
    """All that is written on a picture: what the prediction says, what to doubt about it, and what it is not for."""
    return (*lines_of(prediction, finding_of(prediction, codes)), *doubts(prediction), DISCLAIMER)


def doubts(prediction: Prediction) -> tuple[str, ...]:
    """What its flags say, a line for each."""
    return tuple(f"To be doubted: {plain(flag, 64)}" for flag in prediction.flags)


def shows_heat(prediction: Prediction) -> bool:
    """Whether a picture of it has a heat map.

    Heat is relative, its hottest spot always full: below the threshold it would show a finding that is none.
    """
    return prediction.positive and any(one.name == "heat" for one in prediction.attachments)


def lines_of(prediction: Prediction, finding: Finding) -> tuple[str, str]:
    """What a prediction says, in two lines of ASCII: the finding with its probability and the threshold, and the model.

    The comparison stands beside the finding, so that nobody reads the one without the other.
    """
    digits = digits_of(prediction)
    total = f" (all findings {prediction.probability:.{digits}f})" if finding.one_of_many else ""
    probability = f"{_shown(finding)}   p = {finding.probability:.{digits}f}{total}"
    return (
        f"{probability}, {comparison_of(prediction)} {prediction.threshold:.{digits}f}",
        f"Model {plain(prediction.model, 64)}",
    )


def comparison_of(prediction: Prediction) -> str:
    """On which side of the threshold its probability is."""
    return "at or above threshold" if prediction.positive else "BELOW threshold"


def digits_of(prediction: Prediction) -> int:
    """As many decimals as it takes for what is just below a threshold not to read the same as the threshold."""
    held, threshold = prediction.probability, prediction.threshold
    return next((n for n in (3, 4, 5) if f"{held:.{n}f}" != f"{threshold:.{n}f}"), 6)


def _shown(finding: Finding) -> str:
    """The label, or what its code means where ASCII does not have its letters."""
    label, meaning = plain(finding.label, 512), finding.code[2]
    return meaning if "<U+" in label and "<U+" not in meaning else label


def _folded(codes: Mapping[str, Code]) -> dict[str, Code]:
    return {label.casefold(): code for label, code in codes.items()}
