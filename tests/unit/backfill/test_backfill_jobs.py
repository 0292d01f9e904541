"""The jobs of a backfill, on SQLite and PostgreSQL."""

import pytest
import sqlalchemy as sa

from medd.backfill.jobs import BACKFILL_PRIORITY, count_left, find_settled, hold, live_waits, release
from medd.queue.base import CLASSIFY
from medd.queue.sql import SqlQueue
from medd.records import Status
from medd.store.database import Database
from medd.store.inserts import InstanceInserter
from medd.store.outbox import Outbox
from medd.store.tables import delivery, instance, job
from tests.rows import instance_row

TOKEN = "t" * 32


class Rows:
    """A database with images of a backfill."""

    def __init__(self, database: Database) -> None:
        self.database, self.queue = database, SqlQueue(database, "host:backfill")

    def add(self, *numbers: int, **values: object) -> list[int]:
        inserter = InstanceInserter(self.database, CLASSIFY)
        rows = [instance_row(number, **({"priority": BACKFILL_PRIORITY} | values)) for number in numbers]
        added = [inserter.add([row])[row["sha256"]].id for row in rows]
        inserter.close()
        return added

    def finish(self, jobs: list) -> int:
        with self.database.write() as connection:
            return len(self.queue.finish(connection, jobs))

    def states(self) -> list[str]:
        with self.database.read() as connection:
            return list(connection.scalars(sa.select(job.c.state).order_by(job.c.id)))


@pytest.fixture
def rows(database: Database) -> Rows:
    return Rows(database)


def test_everything_that_comes_in_live_is_claimed_before_a_backfill(rows):
    rows.add(1, 2, 3)
    live = rows.add(4, priority=0)
    assert [one.instance_id for one in SqlQueue(rows.database, "worker").claim(CLASSIFY, 1)] == live


def test_what_is_left_is_counted_while_it_waits_and_while_it_runs(rows):
    ids = rows.add(1, 2, 3)
    rows.add(4, priority=0)
    assert count_left(rows.database, "") == 3
    held = hold(rows.queue, TOKEN, ids[:2])
    assert count_left(rows.database, "") == 3
    rows.finish(held)
    assert count_left(rows.database, "") == 1
    assert count_left(rows.database, "another spool") == 0


def test_only_live_images_are_waited_for(rows):
    rows.add(1)
    assert not live_waits(rows.database, "")
    rows.add(2, priority=0)
    assert live_waits(rows.database, "")


def test_a_task_that_is_done_again_finds_its_jobs_and_commits_each_once(rows):
    ids = rows.add(1, 2)
    first = hold(rows.queue, TOKEN, ids)
    again = hold(rows.queue, TOKEN, ids)
    assert first == again
    assert [rows.finish(first), rows.finish(again)] == [2, 0], "the second finds its token gone"
    assert hold(rows.queue, TOKEN, ids) == []


def test_jobs_of_a_worker_are_left_to_it_and_it_leaves_ours_alone(rows):
    ids = rows.add(1, 2)
    worker = SqlQueue(rows.database, "worker")
    theirs = worker.claim(CLASSIFY, 1)
    assert [one.instance_id for one in hold(rows.queue, TOKEN, ids)] == ids[1:]
    assert worker.claim(CLASSIFY, 5) == []
    assert rows.finish(theirs) == 1


def test_what_a_run_still_holds_it_gives_back_without_a_try_counted(rows):
    ids = rows.add(1, 2, 3)
    rows.finish(hold(rows.queue, TOKEN, ids[:1]))
    for _ in range(10):
        hold(rows.queue, TOKEN, ids)
        release(rows.queue, TOKEN)
    assert rows.states() == ["done", "pending", "pending"]
    assert [one.attempts for one in SqlQueue(rows.database, "worker").claim(CLASSIFY, 5)] == [1, 1]


def test_what_failed_for_good_may_be_tried_again(rows):
    rows.add(1, 2)
    one, two = (instance_row(number)["sha256"] for number in (1, 2))
    assert find_settled(rows.database, [one, two, "0" * 64]) == {one: Status.PENDING, two: Status.PENDING}
    with rows.database.write() as connection:
        failed = {"status": Status.FAILED, "reason": "retries_exhausted"}
        connection.execute(instance.update().where(instance.c.sha256 == one).values(**failed))
    assert find_settled(rows.database, [one, two]) == {two: Status.PENDING}


def test_what_comes_in_live_while_a_backfill_has_it_queued_goes_in_front(rows):
    rows.add(1, 2)
    live = rows.add(2, priority=0)
    rows.add(2)
    (first, *_) = SqlQueue(rows.database, "worker").claim(CLASSIFY, 1)
    assert (first.instance_id, first.priority) == (live[0], 0), "and it stays there when the backfill comes by again"


def test_what_a_backfill_cannot_score_is_told_to_nobody(rows):
    queue = SqlQueue(rows.database, "worker", max_attempts=1, outbox=Outbox(("pacs",)))
    rows.add(1)
    rows.add(2, priority=0)
    for one in queue.claim(CLASSIFY, 2):
        queue.retry(one, "the disk is gone")
    assert rows.states() == ["dead", "dead"]
    with rows.database.read() as connection:
        assert list(connection.scalars(sa.select(delivery.c.study))) == [instance_row(2)["study_instance_uid"]]
