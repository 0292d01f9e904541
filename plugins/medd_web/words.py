"""The words in which pages speak of states and reasons. What nobody judged is never called normal here."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from medd.records import DeliveryState, Reason, Status
from medd.store.urgency import Place
from medd_web.context import ago

#: Status → word and the class of its badge.
STATUSES: dict[str, tuple[str, str]] = {
    Status.PENDING: ("Waiting", "waiting"),
    Status.SCORED: ("Scored", "waiting"),
    Status.NOT_ASSESSED: ("Not assessed", "unassessed"),
    Status.FAILED: ("Failed", "failed"),
}

REASONS: dict[str, str] = {
    Reason.NOT_AN_IMAGE: "no image",
    Reason.REPORT_OBJECT: "a report or presentation state, no image",
    Reason.NOT_A_RADIOGRAPH: "no projection radiograph",
    Reason.NOT_CHEST: "another part of the body",
    Reason.LATERAL_VIEW: "a lateral or decubitus view",
    Reason.DERIVED_IMAGE: "derived from another image",
    Reason.MULTI_FRAME: "more than one frame",
    Reason.COLOUR_IMAGE: "in colour",
    Reason.TOO_SMALL: "too small",
    Reason.TOO_LARGE: "too large",
    Reason.BLANK_IMAGE: "shows nothing",
    Reason.UNFAMILIAR: "unlike what the model was trained on",
    Reason.UNREADABLE: "unreadable",
    Reason.REFUSED_BY_PLUGIN: "refused by a plugin",
    Reason.RETRIES_EXHAUSTED: "tried too often",
}

FLAGS: dict[str, str] = {
    "age_outside_training": "The patient is younger or older than those whom the model learned from.",
}

SENDINGS: dict[str, tuple[str, str]] = {
    DeliveryState.PENDING: ("waits", "waiting"),
    DeliveryState.RUNNING: ("being sent", "waiting"),
    DeliveryState.DONE: ("sent", "good"),
    DeliveryState.DEAD: ("given up", "failed"),
}


def reason(word: str | None) -> str:
    """A reason in words; one that is not known here as it is."""
    return REASONS.get(word or "", (word or "").replace("_", " "))


def probability(value: float, threshold: float | None = None) -> str:
    """A probability with as many digits as it takes not to read the same as a threshold that it is not."""
    for digits in (3, 4, 5):
        shown = f"{value:.{digits}f}"
        if threshold is None or value == threshold or shown != f"{threshold:.{digits}f}":
            return shown
    return f"{value:.6f}"


#: Why a study stands where it stands.
PLACES: dict[str, str] = {
    Place.OVERDUE: "Nobody has read it for longer than worklist.max_wait_min: it goes before all that wait less.",
    Place.FINDING: "An image reached its model's threshold; the surest go first.",
    Place.UNJUDGED: "No model has judged all of it: it may hold anything.",
    Place.BELOW: "All that was judged is below the threshold; the nearest to it go first.",
    Place.READ: "It has been read; the last one read goes first.",
}


def priority(row: Mapping[str, Any], now: datetime) -> tuple[str, str, str]:
    """Why a study stands where it stands in the worklist, in a word or two.

    Args:
        row: As `medd.store.studies.find_worklist` gives it.
        now: This moment.

    Returns:
        A word, the class of its badge, and a sentence.
    """
    if row["place"] == Place.OVERDUE:
        said = f"unread for {ago(row['waiting_since'], now)}", incomplete(row)
        return "Overdue", "overdue", "; ".join(filter(None, said))
    if row["place"] == Place.READ:
        return "Read", "waiting", f"by {row['read_by']}, {ago(row['read_at'], now)} ago"
    if row["place"] == Place.FINDING:
        return "Finding", "finding", incomplete(row) or str(row["label"] or "")
    if row["place"] == Place.BELOW:
        return "Below threshold", "below", incomplete(row)
    word, badge = STATUSES[row["status"]]
    return word, badge, incomplete(row)


def incomplete(row: Mapping[str, Any]) -> str:
    """What of a study nobody judged, and why; "" where all of it was."""
    images = row["images"]
    for status, said in ((Status.PENDING, "waits for the model"), (Status.FAILED, "failed")):
        if count := row[status]:
            subject = f"{count} of {images} images" if images > 1 else "the image"
            why = f": {reason(row['reason'])}" if status is Status.FAILED and row["reason"] else ""
            return f"{subject} {said if count == 1 else said.replace('waits', 'wait')}{why}"
    if count := row[Status.NOT_ASSESSED]:
        told = reason(row["reason"])
        return f"{count} of {images} images not assessed{f': {told}' if told else ''}" if images > 1 else told
    return ""
