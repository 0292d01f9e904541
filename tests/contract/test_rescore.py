"""History into the queue again, on SQLite and on PostgreSQL."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from medd.queue.base import CLASSIFY, RESCORE_PRIORITY
from medd.queue.sql import SqlQueue
from medd.records import Reason, Status
from medd.store.database import Database
from medd.store.inserts import InstanceInserter
from medd.store.repository import ResultFilter, find_results, record_predictions, record_shadow, set_not_assessed
from medd.store.tables import instance, job, prediction
from tests.rows import EPOCH, instance_row, prediction_of


class History:
    """Instances that "stub/1" has scored."""

    def __init__(self, database: Database) -> None:
        self.database, self.queue = database, SqlQueue(database, "worker")

    def add(self, *numbers: int, **values: object) -> list[int]:
        inserter = InstanceInserter(self.database, CLASSIFY)
        rows = [instance_row(number, **values) for number in numbers]
        ids = [inserter.add([row])[row["sha256"]].id for row in rows]
        inserter.close()
        return ids

    def work(self, model: str, limit: int = 100) -> list[int]:
        jobs = self.queue.claim(CLASSIFY, limit)
        with self.database.write() as connection:
            self.queue.finish(connection, jobs)
            record_predictions(connection, [prediction_of(one.instance_id, model=model) for one in jobs])
        return [one.instance_id for one in jobs]

    def rows(self) -> dict[int, dict]:
        with self.database.read() as connection:
            return {row["instance_id"]: row for row in find_results(connection, ResultFilter())}


@pytest.fixture
def history(database: Database) -> History:
    made = History(database)
    made.add(*range(1, 6))
    made.work("stub/1")
    return made


def test_history_is_scored_again_by_the_new_model_and_the_old_score_is_kept(history):
    assert history.queue.rescore(CLASSIFY, "stub/2") == 5
    assert {row["status"] for row in history.rows().values()} == {"scored"}, "what is known stays shown meanwhile"
    assert history.work("stub/2") == [1, 2, 3, 4, 5]
    assert {row["model"] for row in history.rows().values()} == {"stub/2"}
    with history.database.read() as connection:
        kept = connection.execute(sa.select(prediction.c.model, prediction.c.current, prediction.c.shadow)).all()
    assert sorted(map(tuple, kept)) == [("stub/1", False, False)] * 5 + [("stub/2", True, False)] * 5


def test_what_the_model_has_scored_is_left_alone(history):
    assert history.queue.rescore(CLASSIFY, "stub/1") == 0
    assert history.queue.rescore(CLASSIFY, "stub/2") == 5
    assert history.queue.rescore(CLASSIFY, "stub/2") == 0, "they wait already"
    assert len(history.work("stub/2", limit=2)) == 2
    assert history.queue.rescore(CLASSIFY, "stub/2") == 0
    history.work("stub/2")
    assert history.queue.rescore(CLASSIFY, "stub/2") == 0


def test_live_images_go_first(history):
    history.queue.rescore(CLASSIFY, "stub/2")
    live = history.add(10, 11)
    assert history.work("stub/2", limit=2) == live
    with history.database.read() as connection:
        priorities = set(connection.scalars(sa.select(job.c.priority).where(job.c.state == "pending")))
    assert priorities == {RESCORE_PRIORITY}


def test_only_what_was_received_since_comes_back(history):
    assert history.queue.rescore(CLASSIFY, "stub/2", EPOCH + timedelta(seconds=4)) == 2
    assert history.work("stub/2") == [4, 5]


def test_shadow_of_a_candidate_is_no_score_that_was_shown(history):
    with history.database.write() as connection:
        record_shadow(connection, [prediction_of(1, model="stub/2")])
    assert history.queue.rescore(CLASSIFY, "stub/2") == 5


def test_what_was_never_for_a_model_stays_so_and_what_a_model_refused_is_tried_again(history):
    history.add(20, status=Status.NOT_ASSESSED, reason=Reason.LATERAL_VIEW)
    for id_, reason in ((1, Reason.BLANK_IMAGE), (2, Reason.UNFAMILIAR)):
        with history.database.write() as connection:
            set_not_assessed(connection, id_, reason, "")
    assert history.queue.rescore(CLASSIFY, "stub/2") == 4
    assert history.work("stub/2") == [2, 3, 4, 5]


def test_what_the_model_itself_refused_is_left_alone_until_another_one_is_on_duty(history):
    with history.database.write() as connection:
        set_not_assessed(connection, 2, Reason.UNFAMILIAR, "", refused_by="stub/1")
    for _ in range(2):
        assert history.queue.rescore(CLASSIFY, "stub/1") == 0
    assert history.queue.rescore(CLASSIFY, "stub/2") == 5
    assert history.work("stub/2") == [1, 2, 3, 4, 5]
    with history.database.read() as connection:
        assert set(connection.scalars(sa.select(instance.c.refused_by))) == {None}


def test_work_that_dies_at_its_second_scoring_loses_no_first_one(history):
    history.queue.rescore(CLASSIFY, "stub/2")
    queue = SqlQueue(history.database, "worker", max_attempts=1)
    [claimed] = queue.claim(CLASSIFY, 1)
    queue.retry(claimed, "no memory")
    row = history.rows()[claimed.instance_id]
    assert (row["status"], row["reason"], row["model"]) == ("scored", None, "stub/1")
    assert queue.revive(CLASSIFY) == 1
    assert history.rows()[claimed.instance_id]["status"] == "scored"


def test_more_than_one_portion_comes_back(history, monkeypatch):
    monkeypatch.setattr("medd.queue.sql._AT_ONCE", 2)
    assert history.queue.rescore(CLASSIFY, "stub/2") == 5


@pytest.mark.parametrize("since", [None, EPOCH])
def test_portions_are_looked_for_in_the_order_of_jobs_and_without_the_write_lock(history, since):
    looked = []

    def listen(connection, cursor, statement, parameters, context, many):
        if statement.startswith("SELECT job.id"):
            looked.append((statement, parameters, connection.get_execution_options().get("medd_write", False)))

    sa.event.listen(history.database.engine, "before_cursor_execute", listen)
    assert history.queue.rescore(CLASSIFY, "stub/2", since) == 5
    assert [holds_lock for _, _, holds_lock in looked] == [False, False]
    if history.database.is_sqlite:  # the other one plans by statistics
        statement, parameters, _ = looked[0]
        with history.database.read() as connection:
            plan = [row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
        assert plan[0] == "SEARCH job USING INTEGER PRIMARY KEY (rowid>?)"
        assert not [step for step in plan if "TEMP B-TREE" in step]
