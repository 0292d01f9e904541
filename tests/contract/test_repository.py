"""What the store holds, on SQLite and on PostgreSQL."""

import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from medd.dicom import part10
from medd.errors import InputError, TransientError
from medd.queue.base import CLASSIFY
from medd.records import Reason, Status
from medd.store import repository
from medd.store.database import Database, check_schema
from medd.store.inserts import Added, InstanceInserter
from medd.store.reports import make_report
from medd.store.repository import (
    RESULT_COLUMNS,
    ResultFilter,
    find_results,
    record_predictions,
    record_shadow,
    set_not_assessed,
)
from medd.store.tables import instance, job, prediction
from tests.rows import EPOCH, instance_row, prediction_of


def add(database: Database, *rows: dict) -> dict[str, Added]:
    inserter = InstanceInserter(database, CLASSIFY)
    try:
        return inserter.add(rows)
    finally:
        inserter.close()


def add_one(database: Database, number: int, probability: float | None = None, **values: object) -> int:
    """Add an instance, scored when a probability is given; returns its id."""
    row = instance_row(number, **values)
    id_ = add(database, row)[row["sha256"]].id
    if probability is not None:
        record(database, prediction_of(id_, probability))
    return id_


def record(database: Database, *made) -> None:
    with database.write() as connection:
        record_predictions(connection, made)


def results(database: Database, **wanted: object) -> list[dict]:
    with database.read() as connection:
        return list(find_results(connection, ResultFilter(**wanted)))


def ids(database: Database, **wanted: object) -> list[int]:
    return [row["instance_id"] for row in results(database, **wanted)]


def count(database: Database, table: sa.Table) -> int:
    with database.read() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table))


# Instances


def test_same_bytes_twice_make_one_instance_and_one_job(database):
    first = add(database, instance_row(1))
    again = add(database, instance_row(1, origin="file:copy.dcm", received_at=EPOCH + timedelta(days=1)))
    [(sha256, one)], [(_, other)] = first.items(), again.items()
    assert sha256 == instance_row(1)["sha256"]
    assert (one.new, other.new) == (True, False)
    assert one.id == other.id
    assert (count(database, instance), count(database, job)) == (1, 1)
    [row] = results(database)
    assert (row["origin"], row["received_at"]) == ("dicom://CR1@10.0.0.1", EPOCH + timedelta(seconds=1))


def test_same_bytes_twice_in_one_call_make_one_instance(database):
    added = add(database, instance_row(1), instance_row(2), instance_row(1))
    assert len({one.id for one in added.values()}) == len(added) == 2
    assert all(one.new for one in added.values())
    assert (count(database, instance), count(database, job)) == (2, 2)


def test_each_row_gets_its_own_id_among_known_and_new_ones(database):
    add(database, instance_row(3), instance_row(5, status=Status.NOT_ASSESSED, reason=Reason.NOT_CHEST))
    rows = [instance_row(number) for number in range(8)]
    added = add(database, *rows)
    assert [added[row["sha256"]].new for row in rows] == [True, True, True, False, True, False, True, True]
    assert added[rows[5]["sha256"]].reason is Reason.NOT_CHEST
    assert added[rows[5]["sha256"]].status is Status.NOT_ASSESSED
    with database.read() as connection:
        found = dict(connection.execute(sa.select(instance.c.id, instance.c.sha256)).all())
    assert {one.id: sha256 for sha256, one in added.items()} == found


def test_eight_threads_with_the_same_images_make_one_instance_each(database):
    gate = threading.Barrier(8)
    rows = [instance_row(n) for n in range(200)]

    def send(number: int) -> list[bool]:
        # In opposite orders: those who lock one another's rows must not end in a deadlock.
        mine = rows if number % 2 else rows[::-1]
        gate.wait(30)
        return [one.new for one in add(database, *mine).values()]

    with ThreadPoolExecutor(8) as threads:
        news = [new for answer in threads.map(send, range(8)) for new in answer]
    assert sum(news) == 200
    assert (count(database, instance), count(database, job)) == (200, 200)


def test_only_pending_instances_get_a_job(database):
    waiting = add_one(database, 1)
    add_one(database, 2, status=Status.NOT_ASSESSED, reason=Reason.NOT_CHEST)
    with database.read() as connection:
        assert list(connection.scalars(sa.select(job.c.instance_id))) == [waiting]


def test_other_bytes_under_the_same_uid_are_kept_and_flagged(database):
    one = add_one(database, 1)
    two = add_one(database, 2, sop_instance_uid="1.2.3.1")
    alone = add_one(database, 3)
    assert {row["instance_id"]: row["conflict"] for row in results(database)} == {one: True, two: True, alone: False}


def test_pictures_without_uid_are_no_conflict(database):
    for number in (1, 2):
        add_one(database, number, sop_instance_uid="")
    assert [row["conflict"] for row in results(database)] == [False, False]


def test_what_a_peer_writes_into_a_patient_id_is_stored_harmlessly(database):
    hostile = "P\0\x1b[31m'; DROP TABLE instance; --\u202e\ud800 \U0001f600 Ωμέγα"
    cleaned = part10.clean(hostile)
    add_one(database, 1, patient_id=cleaned)
    [row] = results(database, patient=cleaned)
    assert row["patient_id"] == cleaned == "P[31m'; DROP TABLE instance; -- \U0001f600 Ωμέγα"


# Predictions


def test_instance_has_exactly_one_current_prediction(database):
    id_ = add_one(database, 1)
    for version, probability in (("1", 0.2), ("2", 0.9), ("3", 0.6)):
        record(database, prediction_of(id_, probability, model=f"stub/{version}"))
    assert count(database, prediction) == 3
    [row] = results(database)
    assert (row["model"], row["probability"], row["label"]) == ("stub/3", 0.6, "PNEUMONIA")
    assert row["status"] == "scored"


def test_same_model_twice_is_one_prediction_with_the_last_word(database):
    id_ = add_one(database, 1)
    record(database, prediction_of(id_, 0.2), prediction_of(add_one(database, 2), 0.4))
    record(database, prediction_of(id_, 0.9, model="stub/2"))
    record(database, prediction_of(id_, 0.7))
    assert count(database, prediction) == 3
    with database.read() as connection:
        rows = connection.execute(
            sa.select(prediction.c.model, prediction.c.current).where(prediction.c.instance_id == id_)
        )
        assert dict(rows.all()) == {"stub/1": True, "stub/2": False}
    assert [row["probability"] for row in results(database)] == [0.4, 0.7]


def test_prediction_of_one_instance_leaves_the_others_alone(database):
    one, two = add_one(database, 1, 0.9), add_one(database, 2, 0.8)
    record(database, prediction_of(one, 0.1, model="stub/2"))
    by_id = {row["instance_id"]: row["model"] for row in results(database)}
    assert by_id == {one: "stub/2", two: "stub/1"}


def test_no_predictions_are_no_error(database):
    record(database)
    assert count(database, prediction) == 0


def test_score_clears_an_earlier_refusal(database):
    id_ = add_one(database, 1)
    with database.write() as connection:
        set_not_assessed(connection, id_, Reason.BLANK_IMAGE, "one grey")
    [row] = results(database)
    assert (row["status"], row["reason"], row["label"]) == ("not_assessed", "blank_image", None)
    record(database, prediction_of(id_))
    [row] = results(database)
    assert (row["status"], row["reason"]) == ("scored", None)


def test_times_and_numbers_come_back_as_they_were_written(database):
    received = datetime(2026, 3, 1, 13, 30, 15, 123456, tzinfo=timezone(timedelta(hours=2)))
    id_ = add_one(database, 1, received_at=received)
    made = prediction_of(id_, 0.1 + 0.2)
    record(database, made)
    [row] = results(database)
    assert row["received_at"] == received
    assert row["received_at"].tzinfo is UTC
    assert row["scored_at"] == made.scored_at
    assert row["probability"] == made.probability
    assert row["probabilities"] == made.probabilities
    assert row["positive"] is False
    assert tuple(row) == RESULT_COLUMNS


def test_time_without_a_zone_is_refused(database):
    id_ = add_one(database, 1)
    with pytest.raises(sa.exc.StatementError, match="a time needs its zone"):
        record(database, prediction_of(id_, scored_at=datetime(2026, 1, 1)))


# Constraints


def test_database_refuses_a_status_that_does_not_fit_its_reason(database):
    id_ = add_one(database, 1)
    for status, reason in (
        ("scored", "not_chest"),
        ("pending", "not_chest"),
        ("not_assessed", None),
        ("failed", None),
        ("normal", None),
    ):
        with pytest.raises(IntegrityError), database.write() as connection:
            connection.execute(instance.update().where(instance.c.id == id_).values(status=status, reason=reason))
    assert results(database)[0]["status"] == "pending"


def test_database_refuses_jobs_and_predictions_that_cannot_be(database):
    id_ = add_one(database, 1, 0.9)
    jobs = {"kind": CLASSIFY, "instance_id": id_, "state": "pending"}
    columns = {"instance_id": id_, "positive": True, "current": False, "model": "other/1"}
    scores = vars_of(prediction_of(id_)) | columns
    for statement in (
        job.update().values(state="running"),  # without a lease
        job.update().values(lease_token="t"),  # a lease without running
        job.update().values(state="lost"),
        job.insert().values(**jobs),  # a second job of the same kind
        job.insert().values(**(jobs | {"instance_id": 999})),
        prediction.insert().values(**(scores | {"current": True})),  # a second current one
        prediction.insert().values(**(scores | {"model": "stub/1"})),  # the same model again
        prediction.insert().values(**(scores | {"probability": 1.5})),
        prediction.insert().values(**(scores | {"instance_id": 999})),
    ):
        with pytest.raises(IntegrityError), database.write() as connection:
            connection.execute(statement)
    with database.write() as connection:
        connection.execute(prediction.insert().values(**scores))


def vars_of(made) -> dict:
    return {name: getattr(made, name) for name in made.__slots__ if name != "attachments"}


def test_row_that_the_database_refuses_leaves_neither_rows_nor_locks(database):
    inserter = InstanceInserter(database, CLASSIFY)
    for number, values in enumerate(({"status": "nonsense"}, {"origin": None}, {"reason": "not_chest"})):
        with pytest.raises(InputError, match="the database refuses the row") as refusal:
            inserter.add([instance_row(100), instance_row(200, **values)])
        # At once, while the exception is still at hand and with it all that it refers to.
        assert refusal.value
        assert inserter.add([instance_row(number)])[instance_row(number)["sha256"]].new
    inserter.close()
    assert (count(database, instance), count(database, job)) == (3, 3)


def test_inserter_outlives_a_connection_that_was_cut(database):
    if database.is_sqlite:
        pytest.skip("SQLite has no server that could cut a connection")
    inserter = InstanceInserter(database, CLASSIFY)
    inserter.add([instance_row(1)])
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = "
    with database.write() as connection:
        connection.execute(sa.text(f"{others} current_database()"))
    assert inserter.add([instance_row(2)])[instance_row(2)["sha256"]].new
    inserter.close()
    assert count(database, instance) == 2


def test_locked_database_is_a_failure_that_may_pass(tmp_path, monkeypatch):
    monkeypatch.setattr("medd.store.database.BUSY_TIMEOUT_S", 0.1)  # which the inserter's connections take
    database = Database(f"sqlite:///{tmp_path / 'medd.db'}")
    check_schema(database)
    inserter = InstanceInserter(database, CLASSIFY)
    with closing(sqlite3.connect(database.file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransientError, match="locked"):
            inserter.add([instance_row(1)])
        with pytest.raises(TransientError, match="locked"), database.write(0.1):
            pass
        other.execute("ROLLBACK")
    assert inserter.add([instance_row(1)])[instance_row(1)["sha256"]].new
    inserter.close()
    database.close()


# Results


@pytest.fixture
def filled(database: Database) -> Database:
    """Six instances: 1 and 2 scored positive, 3 negative, 4 waits, 5 is refused, 6 of patient P1 in study 1.2.1.1."""
    for number, probability in ((1, 0.9), (2, 0.6), (3, 0.2)):
        add_one(database, number, probability)
    add_one(database, 4)
    add_one(database, 5, status=Status.NOT_ASSESSED, reason=Reason.LATERAL_VIEW)
    add_one(database, 6, patient_id="P1", study_instance_uid="1.2.1.1")
    return database


def numbers(database: Database, **wanted: object) -> list[int]:
    return [int(row["sop_instance_uid"].split(".")[-1]) for row in results(database, **wanted)]


FILTERS = [
    ({}, [6, 5, 4, 3, 2, 1]),
    ({"limit": 2}, [6, 5]),
    ({"since": EPOCH + timedelta(seconds=4)}, [6, 5, 4]),
    ({"label": "PNEUMONIA"}, [2, 1]),
    ({"label": "NORMAL"}, [3]),
    ({"label": "pneumonia"}, []),
    ({"min_probability": 0.6}, [2, 1]),
    ({"min_probability": 0.0}, [3, 2, 1]),
    ({"patient": "P1"}, [6, 1]),
    ({"patient": "P%"}, []),
    ({"study": "1.2.1.1"}, [6, 1]),
    ({"status": Status.PENDING}, [6, 4]),
    ({"status": Status.NOT_ASSESSED}, [5]),
    ({"status": Status.FAILED}, []),
    ({"patient": "P1", "status": Status.SCORED, "min_probability": 0.5}, [1]),
]


def test_results_are_filtered_and_newest_first(filled):
    # In one test, as the rows are the same for all of them.
    found = [(wanted, numbers(filled, **wanted)) for wanted, _ in FILTERS]
    assert found == FILTERS


def test_results_received_in_the_same_instant_have_a_stable_order(database):
    made = [add_one(database, number, received_at=EPOCH) for number in range(5)]
    assert ids(database) == made[::-1]


def test_only_the_current_prediction_is_filtered(database):
    id_ = add_one(database, 1, 0.9)
    record(database, prediction_of(id_, 0.1, model="stub/2"))
    assert ids(database, label="PNEUMONIA") == ids(database, min_probability=0.5) == []
    assert ids(database, label="NORMAL") == [id_]


def test_view_is_readable_by_people_who_come_with_sql(database):
    add_one(database, 1, 0.75)
    sql = "SELECT sop_instance_uid, status, label, positive, probability, probabilities FROM results"
    if database.is_sqlite:
        with closing(sqlite3.connect(database.file)) as connection:
            [row] = connection.execute(sql).fetchall()
    else:
        import psycopg

        with psycopg.connect(database.engine.url.set(drivername="postgresql").render_as_string(False)) as connection:
            [row] = connection.execute(sql).fetchall()
    probabilities = row[5] if isinstance(row[5], dict) else json.loads(row[5])
    assert row[:5] == ("1.2.3.1", "scored", "PNEUMONIA", True, 0.75)
    assert probabilities == {"NORMAL": 0.25, "PNEUMONIA": 0.75}


def test_view_cannot_be_written(database):
    add_one(database, 1)
    with pytest.raises((TransientError, sa.exc.DBAPIError)), database.write() as connection:
        connection.execute(sa.text("UPDATE results SET status = 'scored'"))


# Statuses


def test_statuses_are_counted(database):
    for number in range(3):
        add_one(database, number)
    add_one(database, 4, 0.5)
    with database.read() as connection:
        counts = repository.count_statuses(connection)
    assert {status: n for status, n in counts.items() if n} == {Status.PENDING: 3, Status.SCORED: 1}


def test_refusal_by_a_later_model_hides_what_an_earlier_one_said(database):
    id_ = add_one(database, 1, 0.9)
    with database.write() as connection:
        set_not_assessed(connection, id_, Reason.BLANK_IMAGE, "one grey")
    [row] = results(database)
    assert (row["status"], row["label"], row["probability"]) == ("not_assessed", None, None)
    assert count(database, prediction) == 1


# Shadow


def record_beside(database: Database, *made) -> None:
    with database.write() as connection:
        record_shadow(connection, made)


def test_what_a_candidate_says_is_recorded_and_never_shown(database):
    id_ = add_one(database, 1, 0.2)
    record_beside(database, prediction_of(id_, 0.9, model="stub/2"))
    [row] = results(database)
    assert (row["model"], row["probability"]) == ("stub/1", 0.2)
    assert count(database, prediction) == 2
    alone = add_one(database, 2)
    record_beside(database, prediction_of(alone, 0.9, model="stub/2"))
    assert results(database)[0]["status"] == "pending"


def test_candidate_does_not_overwrite_what_it_said_on_duty(database):
    id_ = add_one(database, 1, 0.2)
    record_beside(database, prediction_of(id_, 0.9))
    [row] = results(database)
    assert (row["model"], row["probability"]) == ("stub/1", 0.2)


def test_candidate_that_came_on_duty_shows_what_it_says_from_then_on(database):
    id_ = add_one(database, 1, 0.2)
    record_beside(database, prediction_of(id_, 0.9, model="stub/2"))
    record(database, prediction_of(id_, 0.8, model="stub/2"))
    [row] = results(database)
    assert (row["model"], row["probability"]) == ("stub/2", 0.8)
    assert count(database, prediction) == 2


def test_which_labels_are_findings_is_read_back_and_makes_another_report(database):
    class Spool:
        def path(self, sha256: str, media_type: str) -> Path:
            return Path(sha256)

    id_ = add_one(database, 1)
    reports = []
    for findings in (("PNEUMONIA",), ("PNEUMONIA", "NORMAL")):
        record(database, prediction_of(id_, findings=findings))
        with database.write() as connection:
            reports.append(make_report(connection, "1.2.1.1", Spool()))
    assert [made.images[0].prediction.findings for made in reports] == [("PNEUMONIA",), ("PNEUMONIA", "NORMAL")]
    assert [made.number for made in reports] == [1, 2]


def test_flags_findings_and_input_statistics_are_kept(database):
    id_ = add_one(database, 1)
    record(database, prediction_of(id_, flags=("age_outside_training",), input_mean=0.5, input_std=0.25))
    [row] = results(database)
    assert row["flags"] == ["age_outside_training"]
    with database.read() as connection:
        assert connection.execute(sa.select(prediction.c.input_mean, prediction.c.input_std)).one() == (0.5, 0.25)
        assert connection.scalar(sa.select(prediction.c.findings)) == ["PNEUMONIA"]
