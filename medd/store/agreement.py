"""What readers say of images against what a model said of them, and what two models say of the same ones.

This is no measure of a model's accuracy: readers choose what they speak of, and have mostly seen what it says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from medd.store.planner import unindexed
from medd.store.tables import annotation, prediction


@dataclass(frozen=True, slots=True)
class Words:
    """Readers' words of one day about images that a model has scored; of each reader and image the newest counts."""

    day: date
    #: Both say there is a finding; only the model; only the reader; neither.
    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    @property
    def n(self) -> int:
        """How many words."""
        return self.tp + self.fp + self.fn + self.tn

    @property
    def agreed(self) -> int:
        """How many say what the model says."""
        return self.tp + self.tn


def find_words(
    connection: Connection, model: str, labels: Sequence[str], findings: Sequence[str], since: datetime
) -> list[Words]:
    """What readers said since then of what a model has scored, shown or in the shadow, day by day (UTC).

    Args:
        connection: To the database.
        model: "name/version".
        labels: Those of the model; other words (taken back, cannot tell) are passed over.
        findings: Which of them are findings.
        since: The moment.
    """
    a, p = annotation.c, prediction.c
    day = _day(connection, a.at)
    there = a.label.in_(findings)
    counted = sa.select(day, there, p.positive, sa.func.count()).join_from(
        annotation, prediction, (p.instance_id == a.instance_id) & _is(connection, p.model, model)
    )
    counted = counted.where(a.at >= since, a.label.in_(labels), _is_newest()).group_by(day, there, p.positive)
    found: dict[date, dict[str, int]] = {}
    names = {(True, True): "tp", (False, True): "fp", (True, False): "fn", (False, False): "tn"}
    for when, reader, positive, count in connection.execute(counted):
        moment = date.fromisoformat(when) if isinstance(when, str) else when
        found.setdefault(moment, {})[names[bool(reader), bool(positive)]] = count
    return [Words(moment, **found[moment]) for moment in sorted(found)]


def find_scores_with_words(
    connection: Connection, model: str, labels: Sequence[str], findings: Sequence[str], since: datetime, limit: int
) -> list[tuple[bool, float]]:
    """Whether a reader says there is a finding, and the model's probability of one: of the newest words, `limit`."""
    a, p = annotation.c, prediction.c
    rows = sa.select(a.label.in_(findings), p.probability).join_from(
        annotation, prediction, (p.instance_id == a.instance_id) & _is(connection, p.model, model)
    )
    rows = rows.where(a.at >= since, a.label.in_(labels), _is_newest()).order_by(a.at.desc()).limit(limit)
    return [(bool(there), probability) for there, probability in connection.execute(rows)]


@dataclass(frozen=True, slots=True)
class Pair:
    """What two models say of the images that both have scored."""

    n: int = 0
    #: Images that only the first, or only the second, finds positive.
    only_first: int = 0
    only_second: int = 0
    #: Mean of |difference| of their probabilities.
    apart: float = 0.0
    #: Readers' words about these images; and how many say what only the first, or only the second, says.
    words: int = 0
    first_right: int = 0
    second_right: int = 0


def compare_models(
    connection: Connection, first: str, second: str, labels: Sequence[str], findings: Sequence[str], since: datetime
) -> Pair:
    """Compare what a model said in the shadow, the second, with what the first said of the same images.

    Args:
        connection: To the database.
        first: The model on duty, "name/version".
        second: The candidate.
        labels: As for `find_words`.
        findings: As there.
        since: Scored by the candidate since then.
    """
    one, other, a = prediction.alias("one"), prediction.alias("other"), annotation.c
    both = sa.join(other, one, (one.c.instance_id == other.c.instance_id) & (one.c.model == first))
    asked = (other.c.model == second) & (other.c.shadow == sa.true()) & (other.c.scored_at >= since)
    one_only, other_only = one.c.positive & ~other.c.positive, other.c.positive & ~one.c.positive
    apart = sa.func.avg(sa.func.abs(one.c.probability - other.c.probability))
    counted = sa.select(sa.func.count(), _count(one_only), _count(other_only), apart).select_from(both).where(asked)
    n, only_first, only_second, distance = connection.execute(counted).one()
    there = a.label.in_(findings)
    spoken = both.join(annotation, (a.instance_id == one.c.instance_id) & a.label.in_(labels))
    right, wrong = (one_only & there) | (other_only & ~there), (other_only & there) | (one_only & ~there)
    judged = sa.select(sa.func.count(), _count(right), _count(wrong)).select_from(spoken).where(asked, _is_newest())
    words, first_right, second_right = connection.execute(judged).one()
    return Pair(n, only_first, only_second, float(distance or 0), words, first_right, second_right)


def _count(which: ColumnElement[bool]) -> ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(sa.case((which, 1), else_=0)), 0)


def _is(connection: Connection, column: ColumnElement[str], model: str) -> ColumnElement[bool]:
    """Whether a prediction is of a model; looked up by its image, not by the index of models, which finds them all."""
    return unindexed(connection, column) == model


def _is_newest() -> ColumnElement[bool]:
    """Whether a reader has said nothing of the image since."""
    later = annotation.alias("later")
    same = (later.c.instance_id == annotation.c.instance_id) & (later.c.reader == annotation.c.reader)
    return ~sa.exists().where(same & (later.c.id > annotation.c.id))


def _day(connection: Connection, column: ColumnElement[datetime]) -> ColumnElement[str | date]:
    if connection.dialect.name == "sqlite":
        return sa.func.substr(sa.type_coerce(column, sa.String), 1, sa.literal_column("10"))
    return sa.cast(sa.func.timezone(sa.literal_column("'UTC'"), column), sa.Date)
