"""What people who watch a daemon ask, on SQLite and on PostgreSQL."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from medd.queue.base import CLASSIFY, RESCORE_PRIORITY
from medd.records import Annotation, Reason, Status
from medd.store import activity
from medd.store.activity import Outgoing, Step, Waiting, percentiles
from medd.store.annotations import annotate
from medd.store.database import Database
from medd.store.inserts import InstanceInserter
from medd.store.outbox import Deliveries, Outbox
from medd.store.reports import record_sent
from medd.store.repository import record_predictions, record_shadow, set_not_assessed
from medd.store.tables import delivery, job, sent
from tests.rows import EPOCH, instance_row, prediction_of

NAMES = {"models": ["stub/1", "stub/2"], "destinations": ["main"]}
OUTBOX = Outbox(("main", "folder"))


def add(database: Database, *rows: dict) -> list[int]:
    inserter = InstanceInserter(database, CLASSIFY, outbox=OUTBOX)
    try:
        added = inserter.add(rows)
    finally:
        inserter.close()
    return [added[row["sha256"]].id for row in rows]


def score(database: Database, ids: list[int], at: datetime, **values) -> None:
    with database.write() as connection:
        record_predictions(connection, [prediction_of(id_, scored_at=at, **values) for id_ in ids])
        connection.execute(job.update().where(job.c.instance_id.in_(ids)).values(state="done"))


def acknowledge(
    database: Database, study: str, at: datetime, *objects: str, name: str = "main", number: int = 1
) -> None:
    with database.write() as connection:
        taken = [SimpleNamespace(object=one, sop_class_uid="", answer="0x0000") for one in objects]
        record_sent(connection, study, number, name, taken)
        connection.execute(sent.update().where(sent.c.object.in_(objects)).values(at=at))


def rates(database: Database, step: Step, since: datetime, until: datetime) -> list[activity.Bucket]:
    with database.read() as connection:
        return activity.find_rates(connection, step, since, until, **NAMES)


def test_rates_count_what_came_by_arrival_and_what_was_judged_and_sent_by_its_own_time(database):
    minute = timedelta(minutes=1)
    first, second, third, fourth = add(database, *(instance_row(number) for number in (1, 2, 65, 190)))
    score(database, [first], EPOCH + 1.5 * minute)
    with database.write() as connection:
        set_not_assessed(connection, second, Reason.UNFAMILIAR, "unlike the training")
        record_shadow(connection, [prediction_of(first, model="stub/2", scored_at=EPOCH)])
    acknowledge(database, "1.2.1.1", EPOCH + 3.5 * minute, "1.2.9.1", "1.2.9.2")
    found = rates(database, Step.MINUTE, EPOCH, EPOCH + 3.9 * minute)
    assert [one.start for one in found] == [EPOCH + n * minute for n in range(4)]
    assert [one.received for one in found] == [2, 1, 0, 1]
    assert [(one.scored, one.not_assessed, one.pending) for one in found] == [(1, 1, 0), (0, 0, 1), (0,) * 3, (0, 0, 1)]
    assert [one.judged for one in found] == [0, 1, 0, 0], "the shadow is shown to nobody"
    assert [one.delivered for one in found] == [0, 0, 0, 2]
    assert fourth > third


@pytest.mark.parametrize(("step", "starts"), [(Step.HOUR, [0, 1]), (Step.DAY, [0])])
def test_hours_and_days_are_those_of_utc(database, step, starts):
    add(database, *(instance_row(number) for number in (0, 3599, 3600, 3601)))
    elsewhere = EPOCH.astimezone().replace(tzinfo=None).astimezone()
    found = rates(database, step, elsewhere, EPOCH + timedelta(hours=1))
    begin = EPOCH.replace(hour=12 if step is Step.HOUR else 0)
    assert [one.start for one in found] == [begin + n * step.length for n in starts]
    assert [one.received for one in found] == ([2, 2] if step is Step.HOUR else [4])


def test_reasons_tell_why_images_were_not_judged_the_most_frequent_first(database):
    ids = add(database, *(instance_row(number) for number in range(5)))
    with database.write() as connection:
        for id_, reason in zip(ids, [Reason.UNFAMILIAR, Reason.LATERAL_VIEW, Reason.LATERAL_VIEW], strict=False):
            set_not_assessed(connection, id_, reason, "")
    failed = instance_row(9, status=Status.FAILED, reason=Reason.RETRIES_EXHAUSTED)
    add(database, failed)
    with database.read() as connection:
        found = activity.find_reasons(connection, EPOCH)
        assert activity.find_reasons(connection, EPOCH + timedelta(hours=1)) == {}
    assert found["failed"] == {"retries_exhausted": 1}
    assert list(found["not_assessed"].items()) == [("lateral_view", 2), ("unfamiliar", 1)]


def test_the_queue_tells_live_work_from_history_and_how_long_the_first_has_waited(database):
    ids = [add(database, instance_row(number))[0] for number in range(6)]
    states = [
        {"state": "dead"},
        {"state": "running", "lease_token": "t"},
        {"priority": RESCORE_PRIORITY},
        {},
        {},
        {"state": "done"},
    ]
    with database.write() as connection:
        for id_, values in zip(ids, states, strict=True):
            if values:
                connection.execute(job.update().where(job.c.instance_id == id_).values(**values))
    with database.read() as connection:
        found = activity.find_queue(connection, CLASSIFY, EPOCH + timedelta(seconds=63))
    assert found == Waiting(pending=2, again=1, running=1, dead=1, oldest_s=60.0)


def test_an_empty_queue_has_no_age(database):
    with database.read() as connection:
        assert activity.find_queue(connection, CLASSIFY, EPOCH) == Waiting(0, 0, 0, 0, 0.0)


def test_destinations_tell_what_waits_fails_and_was_given_up(database):
    ids = add(database, *(instance_row(number) for number in range(4)))
    with database.write() as connection:
        OUTBOX.open(connection, ids)
        connection.execute(delivery.update().values(available_at=EPOCH, due_by=EPOCH))
    main = Deliveries(database, "me")
    first, second, third = main.claim("main", 3)
    main.retry(first, "main cannot be reached", 60)
    main.bury(second, "refused")
    acknowledge(database, "1.2.1.9", EPOCH + timedelta(hours=5), "1.2.9.1")
    acknowledge(database, "1.2.1.9", EPOCH + timedelta(hours=1), "1.2.9.2")
    now = EPOCH + timedelta(seconds=90)
    with database.read() as connection:
        main_now, nowhere, folder = activity.find_outgoing(
            connection, ["main", "nowhere"], now, EPOCH + timedelta(hours=2)
        )
    assert main_now.failing_since is not None
    assert (main_now.pending, main_now.running, main_now.dead, main_now.failing) == (2, 1, 1, 1)
    assert (main_now.error, main_now.overdue_s) == ("main cannot be reached", 90.0)
    assert (main_now.sent, main_now.last_sent_at) == (1, EPOCH + timedelta(hours=5))
    assert nowhere == Outgoing("nowhere")
    assert (folder.name, folder.pending, folder.failing, folder.error) == ("folder", 4, 0, None)
    assert third.destination == "main"


def test_latency_is_from_received_to_the_first_word_that_was_shown(database):
    ids = add(database, *(instance_row(number) for number in range(4)))
    for id_, seconds in zip(ids, (2, 4, 10), strict=False):
        score(database, [id_], EPOCH + timedelta(seconds=id_ - ids[0] + seconds))
    # Scored again a day later: the first answer came when it came. What the shadow said before it nobody saw.
    score(database, ids[:1], EPOCH + timedelta(days=1), model="stub/2")
    with database.write() as connection:
        record_shadow(connection, [prediction_of(ids[2], model="stub/3", scored_at=EPOCH)])
    with database.read() as connection:
        found = activity.find_scoring_latency(connection, EPOCH)
        assert activity.find_scoring_latency(connection, EPOCH + timedelta(days=2)) is None
    assert found is not None
    assert (found.n, found.p50, found.longest) == (3, 4.0, 10.0)


def test_latency_to_delivery_is_from_the_first_image_to_the_first_report(database):
    study = {"study_instance_uid": "1.2.77"}
    add(database, instance_row(0, **study), instance_row(5, **study), instance_row(8, study_instance_uid=""))
    file = instance_row(8)["sha256"]
    acknowledge(database, "1.2.77", EPOCH + timedelta(seconds=30), "a", "b")
    acknowledge(database, "1.2.77", EPOCH + timedelta(seconds=20), "c", name="folder")
    acknowledge(database, "1.2.77", EPOCH + timedelta(hours=3), "d", number=2)
    acknowledge(database, file, EPOCH + timedelta(seconds=18), "e")
    acknowledge(database, "1.2.99", EPOCH + timedelta(seconds=18), "f")
    with database.read() as connection:
        found = activity.find_delivery_latency(connection, ["main", "folder"], EPOCH)
        assert activity.find_delivery_latency(connection, [], EPOCH) is None
    assert found is not None
    assert (found.n, found.p50, found.longest) == (2, 10.0, 20.0)


def test_percentiles_are_values_that_were_measured():
    assert percentiles([]) is None
    found = percentiles([float(n) for n in range(1, 101)])
    assert found is not None
    assert (found.n, found.p50, found.p95, found.p99, found.longest) == (100, 50, 95, 99, 100)


def test_counts_and_bytes_are_of_the_while_that_is_asked_for(database):
    ids = [add(database, instance_row(number))[0] for number in range(5)]
    score(database, ids[:2], EPOCH)
    with database.write() as connection:
        record_shadow(connection, [prediction_of(ids[0], model="stub/2", scored_at=EPOCH)])
        set_not_assessed(connection, ids[2], Reason.LATERAL_VIEW, "")
        annotate(connection, Annotation(ids[0], "NORMAL", "anna", EPOCH))
    acknowledge(database, "1.2.1.0", EPOCH, "1.2.9.1", "1.2.9.2")

    def counts(since: int, until: int) -> dict[tuple[str, ...], int]:
        whiles = EPOCH + timedelta(seconds=since), EPOCH + timedelta(seconds=until)
        with database.read() as connection:
            return {key: count for key, count in activity.find_counts(connection, *whiles, **NAMES).items() if count}

    assert counts(0, 5) == {
        ("received",): 5,
        ("finished", "scored", ""): 2,
        ("finished", "not_assessed", "lateral_view"): 1,
        ("predicted", "stub/1", "false"): 2,
        ("predicted", "stub/2", "true"): 1,
        ("delivered", "main"): 2,
        ("said",): 1,
    }
    assert counts(1, 3) == {
        ("received",): 2,
        ("finished", "scored", ""): 1,
        ("finished", "not_assessed", "lateral_view"): 1,
    }
    assert counts(5, 9) == {}
    with database.read() as connection:
        assert activity.count_bytes(connection, EPOCH + timedelta(seconds=3)) == 1003 + 1004
        assert activity.count_bytes(connection, datetime.now(UTC) + timedelta(days=9999)) == 0


def test_questions_about_a_while_go_by_an_index(database):
    """At a million rows each is answered in milliseconds only so."""
    if not database.is_sqlite:
        pytest.skip("PostgreSQL plans by its statistics, and has none of an empty table")
    asked: list[tuple[str, tuple]] = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda *told: asked.append((told[2], told[3])))
    with database.read() as connection:
        activity.find_rates(connection, Step.HOUR, EPOCH, EPOCH, **NAMES)
        activity.find_reasons(connection, EPOCH)
        activity.count_bytes(connection, EPOCH)
        activity.find_queue(connection, CLASSIFY, EPOCH)
        activity.find_outgoing(connection, ["main"], EPOCH, EPOCH)
        activity.find_scoring_latency(connection, EPOCH)
        activity.find_delivery_latency(connection, ["main"], EPOCH)
        activity.find_counts(connection, EPOCH, EPOCH, **NAMES)
        asked = [one for one in asked if one[0].startswith("SELECT")]
        for statement, values in list(asked):
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
            assert not [step[3] for step in plan if step[3].startswith("SCAN") and "INDEX" not in step[3]
                        and not step[3].startswith("SCAN (") and "anon" not in step[3]], statement  # fmt: skip
    assert len(asked) > 15
