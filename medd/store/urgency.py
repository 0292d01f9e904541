"""The order of the worklist, and why a study stands where it stands. Pure: `medd simulate` goes by the same rules.

::

    unread for longer than worklist.max_wait_min   the longest waiting first, whatever was found
    a finding                                      the surest first
    not judged completely                          what a model said of it, then by arrival
    below the threshold                            the nearest to it first
    read                                           the last one first; not shown unless asked for

The cap keeps whatever scores low from waiting for ever while findings come in faster than they are read.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any


class Place(StrEnum):
    """Why a study stands where it stands."""

    #: Nobody has read it for longer than the cap.
    OVERDUE = "overdue"
    #: An image of it reached its model's threshold.
    FINDING = "finding"
    #: An image of it waits or failed, or none was assessed: it may hold anything.
    UNJUDGED = "unjudged"
    #: All that a model judged is below the threshold.
    BELOW = "below"
    #: It has been read.
    READ = "read"


#: By the column `band` of `study`.
BANDS = (Place.FINDING, Place.UNJUDGED, Place.BELOW)


def overdue_before(now: Any, max_wait: Any) -> Any:
    """What waits since before this moment goes first; None where there is no cap.

    Args:
        now: A moment: a datetime, or seconds.
        max_wait: The cap, a timedelta or seconds; None or 0 is none.
    """
    return now - max_wait if max_wait else None


def urgency_of(band: int, probability: float | None, waiting_since: Any) -> tuple[int, float, Any]:
    """The order of what is not overdue, lowest first: the columns `band`, `rank` and `waiting_since` of `study`."""
    return band, 1.0 if probability is None else -probability, waiting_since


def label_of(row: Mapping[str, Any]) -> str | None:
    """What a study is called: None where no model judged all of it, as the label of one image would stand for the rest.

    Args:
        row: Its row, or at least its "label" and "band".
    """
    label: str | None = row["label"]
    return None if BANDS[row["band"]] is Place.UNJUDGED else label


def place_of(row: Mapping[str, Any], now: datetime, max_wait: timedelta | None) -> Place:
    """Why a study stands where it stands.

    Args:
        row: Its row, or at least its "read_at", "waiting_since" and "band".
        now: This moment.
        max_wait: The cap; None or 0 is none.
    """
    if row["read_at"] is not None:
        return Place.READ
    limit = overdue_before(now, max_wait)
    if limit is not None and row["waiting_since"] < limit:
        return Place.OVERDUE
    return BANDS[row["band"]]
