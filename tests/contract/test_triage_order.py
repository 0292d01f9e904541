"""The simulation reads in the order of the worklist, and replays what came, on SQLite and on PostgreSQL."""

import random
from datetime import datetime, timedelta

import pytest

from medd.queue.base import CLASSIFY
from medd.records import Annotation, Reason, Status
from medd.store import annotations
from medd.store.database import Database
from medd.store.inserts import InstanceInserter
from medd.store.repository import record_predictions, record_shadow
from medd.store.studies import WorklistFilter, find_worklist
from medd.store.tally import refresh
from medd.triage.cases import BELOW, FINDING, UNJUDGED, Case, replay
from medd.triage.desk import MostUrgentFirst
from tests.rows import EPOCH, instance_row, prediction_of


def add(database: Database, *rows: dict) -> list[int]:
    inserter = InstanceInserter(database, CLASSIFY)
    ids = [inserter.add([row])[row["sha256"]].id for row in rows]
    inserter.close()
    return ids


def record(database: Database, *made) -> None:
    with database.write() as connection:
        record_predictions(connection, made)
        refresh(connection, [one.instance_id for one in made])


@pytest.mark.parametrize("cap_s", [None, 30.0, 55.5, 1000.0])
def test_next_study_is_the_first_of_the_worklist(database, cap_s):
    chance = random.Random(4)
    moments = sorted(chance.uniform(0, 100) for _ in range(60))
    scores = [chance.choice([None, 0.2, round(chance.random(), 1), chance.random()]) for _ in moments]
    times = [EPOCH + timedelta(seconds=moment) for moment in moments]
    ids = add(database, *(instance_row(n, received_at=at) for n, at in enumerate(times)))
    record(database, *(prediction_of(id_, score) for id_, score in zip(ids, scores, strict=True) if score is not None))
    order = MostUrgentFirst(cap_s)
    for number, (at, score) in enumerate(zip(moments, scores, strict=True)):
        band = UNJUDGED if score is None else FINDING if score >= 0.5 else BELOW
        order.put(number, Case(at, at, band, score, None), at)
    cap = timedelta(seconds=cap_s) if cap_s else None
    with database.read() as connection:
        rows = find_worklist(connection, WorklistFilter(), EPOCH + timedelta(seconds=100), cap, 100)
    assert [f"P{order.take(100.0)}" for _ in rows] == [row["patient_id"] for row in rows]
    assert order.take(100.0) is None


def after_midnight(moment: datetime) -> float:
    midnight = EPOCH.astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    return (moment - midnight).total_seconds()


def test_studies_are_replayed_as_they_came_were_scored_and_are_known(database):
    lateral = {"status": Status.NOT_ASSESSED, "reason": Reason.LATERAL_VIEW}
    one, two, three, four, _ = add(
        database,
        instance_row(10),
        instance_row(20, study_instance_uid=""),
        instance_row(30),
        instance_row(40),
        instance_row(50, **lateral),
    )
    at = {n: EPOCH + timedelta(seconds=n) for n in (10, 12, 20, 25, 30, 40, 41, 50, 99)}
    record(database, prediction_of(one, 0.9, scored_at=at[12]), prediction_of(two, 0.2, scored_at=at[25]))
    record(database, prediction_of(four, 0.3, scored_at=at[41]))
    record(database, prediction_of(four, 0.6, model="stub/2", scored_at=at[99]))
    with database.write() as connection:
        record_shadow(connection, [prediction_of(three, 0.9, model="stub/2")])
        for id_, label, reader in ((two, "PNEUMONIA", "anna"), (two, "NORMAL", "bert"), (four, "?", "anna")):
            annotations.annotate(connection, Annotation(id_, label, reader, at[99]))
        for label in ("PNEUMONIA", "NORMAL"):
            annotations.annotate(connection, Annotation(one, label, "anna", at[99]))
    with database.read() as connection:
        cases = replay(connection, EPOCH)
        assert replay(connection, at[40])[0].arrived_s == cases[3].arrived_s
        assert replay(connection, at[99]) == []
    moments = {n: after_midnight(moment) for n, moment in at.items()}
    assert cases == [
        Case(moments[10], moments[12], FINDING, 0.9, False),  # the reader's last word, against the model's
        Case(moments[20], moments[25], BELOW, 0.2, True),  # one reader's finding is enough
        Case(moments[30], moments[30], UNJUDGED, None, None),
        Case(moments[40], moments[41], FINDING, 0.6, True),  # first scored then, by whatever model
        Case(moments[50], moments[50], UNJUDGED, None, None),
    ]
