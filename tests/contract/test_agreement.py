"""Readers' words against models, on SQLite and on PostgreSQL."""

from datetime import datetime, timedelta

import pytest

from medd.queue.base import CLASSIFY
from medd.records import UNSURE, WITHDRAWN, Annotation
from medd.store import agreement
from medd.store.agreement import Pair, Words
from medd.store.annotations import annotate
from medd.store.database import Database
from medd.store.inserts import InstanceInserter
from medd.store.repository import record_predictions, record_shadow
from tests.rows import EPOCH, instance_row, prediction_of

LABELS, FINDINGS = ("NORMAL", "PNEUMONIA"), ("PNEUMONIA",)
DAY = timedelta(days=1)


@pytest.fixture
def ids(database: Database) -> list[int]:
    """Six images: the model on duty finds something in the first three, the candidate in the first and the last."""
    rows = [instance_row(number) for number in range(6)]
    inserter = InstanceInserter(database, CLASSIFY)
    added = inserter.add(rows)
    inserter.close()
    ids = [added[row["sha256"]].id for row in rows]
    with database.write() as connection:
        record_predictions(connection, [prediction_of(id_, 0.9 if n < 3 else 0.2) for n, id_ in enumerate(ids)])
        tried = [prediction_of(id_, 0.8 if n in (0, 5) else 0.1, model="stub/2") for n, id_ in enumerate(ids)]
        record_shadow(connection, tried)
    return ids


def say(database: Database, instance_id: int, label: str, reader: str = "anna", at: datetime = EPOCH) -> None:
    with database.write() as connection:
        annotate(connection, Annotation(instance_id, label, reader, at))


def words(database: Database, model: str = "stub/1", since: datetime = EPOCH) -> list[Words]:
    with database.read() as connection:
        return agreement.find_words(connection, model, LABELS, FINDINGS, since)


def test_words_are_counted_by_day_against_what_the_model_said(database, ids):
    for id_, label in zip(ids, ("PNEUMONIA", "PNEUMONIA", "NORMAL", "NORMAL", "PNEUMONIA"), strict=False):
        say(database, id_, label)
    say(database, ids[5], "NORMAL", at=EPOCH + DAY)
    first, second = words(database)
    assert (first.day, first.tp, first.fp, first.fn, first.tn) == (EPOCH.date(), 2, 1, 1, 1)
    assert (first.n, first.agreed) == (5, 3)
    assert second == Words((EPOCH + DAY).date(), tn=1)
    assert words(database, since=EPOCH + DAY) == [second]
    assert words(database, "stub/9") == []


def test_a_candidate_in_the_shadow_is_held_against_the_same_words(database, ids):
    say(database, ids[5], "PNEUMONIA")
    assert words(database, "stub/2") == [Words(EPOCH.date(), tp=1)]
    assert words(database, "stub/1") == [Words(EPOCH.date(), fn=1)]


def test_of_each_reader_the_newest_word_counts_and_none_that_is_no_truth(database, ids):
    say(database, ids[0], "NORMAL")
    say(database, ids[0], "PNEUMONIA")
    say(database, ids[0], "NORMAL", reader="ben")
    say(database, ids[1], "PNEUMONIA")
    say(database, ids[1], WITHDRAWN)
    say(database, ids[2], UNSURE)
    assert words(database) == [Words(EPOCH.date(), tp=1, fp=1)]


def test_scores_come_with_what_the_reader_says(database, ids):
    say(database, ids[0], "NORMAL")
    say(database, ids[1], "PNEUMONIA", at=EPOCH + DAY)
    say(database, ids[2], UNSURE)
    with database.read() as connection:
        arguments = (connection, "stub/1", LABELS, FINDINGS, EPOCH)
        assert agreement.find_scores_with_words(*arguments, limit=10) == [(True, 0.9), (False, 0.9)]
        assert agreement.find_scores_with_words(*arguments, limit=1) == [(True, 0.9)]


def compared(database: Database, since: datetime = EPOCH) -> Pair:
    with database.read() as connection:
        return agreement.compare_models(connection, "stub/1", "stub/2", LABELS, FINDINGS, since)


def test_a_candidate_is_compared_with_the_model_on_duty_on_the_same_images(database, ids):
    for id_, label in ((ids[0], "PNEUMONIA"), (ids[1], "PNEUMONIA"), (ids[2], "NORMAL"), (ids[5], "PNEUMONIA")):
        say(database, id_, label)
    found = compared(database)
    assert (found.n, found.only_first, found.only_second) == (6, 2, 1)
    assert found.apart == pytest.approx((0.1 + 0.8 + 0.8 + 0.1 + 0.1 + 0.6) / 6)
    assert (found.words, found.first_right, found.second_right) == (4, 1, 2)


def test_without_a_shadow_there_is_nothing_to_compare(database, ids):
    assert compared(database, since=EPOCH + 99 * DAY) == Pair()
    assert len(ids) == 6
