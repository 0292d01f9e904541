"""What every queue holds, on SQLite and on PostgreSQL."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from medd.errors import TransientError
from medd.queue import worker
from medd.queue.base import CLASSIFY, MAX_BACKOFF_S, JobState, backoff_s
from medd.queue.sql import SqlQueue
from medd.queue.worker import Worker
from medd.store.database import Database
from medd.store.inserts import InstanceInserter
from medd.store.repository import record_predictions
from medd.store.tables import instance, job, prediction
from tests.rows import instance_row, prediction_of
from tests.support import wait_until


def add_jobs(database: Database, count: int) -> list[int]:
    """Pending instances with a job each; returns the instances' ids, oldest first."""
    inserter = InstanceInserter(database, CLASSIFY)
    added = [one for number in range(count) for one in inserter.add([instance_row(number)]).values()]
    inserter.close()
    return [one.id for one in added]


def change_jobs(database: Database, instance_ids: list[int], **values: object) -> None:
    with database.write() as connection:
        connection.execute(job.update().where(job.c.instance_id.in_(instance_ids)).values(**values))


def read_job(database: Database, instance_id: int) -> sa.Row:
    with database.read() as connection:
        return connection.execute(job.select().where(job.c.instance_id == instance_id)).one()


def status_of(database: Database, instance_id: int) -> tuple[str, str | None]:
    with database.read() as connection:
        columns = sa.select(instance.c.status, instance.c.reason).where(instance.c.id == instance_id)
        return tuple(connection.execute(columns).one())


def claimed_instances(queue: SqlQueue, limit: int) -> list[int]:
    return [one.instance_id for one in queue.claim(CLASSIFY, limit)]


def finish(queue: SqlQueue, jobs: list) -> set[int]:
    with queue.database.write() as connection:
        return set(queue.finish(connection, jobs))


# Claiming


def test_oldest_job_goes_first(database):
    ids = add_jobs(database, 5)
    queue = SqlQueue(database)
    assert claimed_instances(queue, 2) == ids[:2]
    assert claimed_instances(queue, 10) == ids[2:]


def test_lower_priority_number_goes_first_whatever_its_age(database):
    ids = add_jobs(database, 4)
    change_jobs(database, ids[:2], priority=5)
    change_jobs(database, ids[3:], priority=-1)
    queue = SqlQueue(database)
    assert [claimed_instances(queue, 1)[0] for _ in range(4)] == [ids[3], ids[2], ids[0], ids[1]]


def test_empty_queue_gives_no_jobs(database):
    assert SqlQueue(database).claim(CLASSIFY, 10) == []


def test_jobs_of_another_kind_are_left_alone(database):
    add_jobs(database, 1)
    assert SqlQueue(database).claim("other", 10) == []
    assert SqlQueue(database).recover("other").given_back == 0


def test_jobs_whose_bytes_lie_elsewhere_are_left_to_other_hosts(database):
    inserter = InstanceInserter(database, CLASSIFY, "attic")
    [added] = inserter.add([instance_row(1)]).values()
    inserter.close()
    [here] = add_jobs(database, 1)
    assert claimed_instances(SqlQueue(database), 10) == [here]
    assert claimed_instances(SqlQueue(database, spool="cellar"), 10) == []
    assert claimed_instances(SqlQueue(database, spool="attic"), 10) == [added.id]


def test_claimed_job_stays_visible_as_running_under_its_owner(database):
    [id_] = add_jobs(database, 1)
    [claimed] = SqlQueue(database, "host:0").claim(CLASSIFY, 1)
    row = read_job(database, id_)
    assert (row.state, row.lease_owner, row.lease_token) == ("running", "host:0", claimed.lease_token)
    assert claimed.attempts == row.attempts == 1
    assert abs((row.lease_until - datetime.now(UTC)).total_seconds() - 60) < 10


def test_running_job_is_not_claimed_again(database):
    add_jobs(database, 3)
    queue = SqlQueue(database)
    assert len(queue.claim(CLASSIFY, 10)) == 3
    assert queue.claim(CLASSIFY, 10) == []


def test_sixteen_threads_claim_every_job_exactly_once(database):
    ids = add_jobs(database, 200)
    gate = threading.Barrier(16)

    def claim_all(number: int) -> list[int]:
        queue, mine = SqlQueue(database, f"worker:{number}"), []
        gate.wait(30)
        while some := claimed_instances(queue, 4):
            mine += some
        return mine

    with ThreadPoolExecutor(16) as threads:
        claims = [id_ for mine in threads.map(claim_all, range(16)) for id_ in mine]
    # A claimer that came away empty while others held locks must not leave work behind for good.
    claims += claimed_instances(SqlQueue(database), 200)
    assert Counter(claims) == Counter(ids)


# Leases


def test_job_comes_back_when_its_lease_ends(database):
    ids = add_jobs(database, 2)
    queue = SqlQueue(database, lease_s=0.3)
    [lost, _] = queue.claim(CLASSIFY, 2)
    assert queue.recover(CLASSIFY).given_back == 0
    time.sleep(0.4)
    assert queue.recover(CLASSIFY).given_back == 2
    again = queue.claim(CLASSIFY, 2)
    assert [one.instance_id for one in again] == ids
    assert [one.attempts for one in again] == [2, 2]
    assert again[0].lease_token != lost.lease_token


def test_heartbeat_keeps_a_job_beyond_its_lease(database):
    add_jobs(database, 2)
    queue = SqlQueue(database, lease_s=1)
    [kept] = queue.claim(CLASSIFY, 1)
    queue.claim(CLASSIFY, 1)
    for _ in range(4):
        time.sleep(0.3)
        queue.extend([kept.lease_token])
    assert queue.recover(CLASSIFY).given_back == 1  # the other one, which nobody extended
    assert finish(queue, [kept]) == {kept.id}


def test_heartbeat_of_a_lost_claim_does_not_extend_the_new_one(database):
    [id_] = add_jobs(database, 1)
    queue = SqlQueue(database, lease_s=30)
    [lost] = queue.claim(CLASSIFY, 1)
    change_jobs(database, [id_], lease_until=datetime.now(UTC) - timedelta(seconds=1))
    queue.recover(CLASSIFY)
    queue.claim(CLASSIFY, 1)
    before = read_job(database, id_).lease_until
    time.sleep(0.02)
    queue.extend([lost.lease_token])
    assert read_job(database, id_).lease_until == before


def test_stale_token_can_neither_finish_nor_retry(database):
    [id_] = add_jobs(database, 1)
    queue = SqlQueue(database)
    [stale] = queue.claim(CLASSIFY, 1)
    change_jobs(database, [id_], lease_until=datetime.now(UTC) - timedelta(seconds=1))
    assert queue.recover(CLASSIFY).given_back == 1
    assert finish(queue, [stale]) == set()  # lost and waiting
    [fresh] = queue.claim(CLASSIFY, 1)
    assert finish(queue, [stale]) == set()  # lost and claimed by another
    assert queue.retry(stale, "too late") is None
    row = read_job(database, id_)
    assert (row.state, row.lease_token, row.error) == ("running", fresh.lease_token, "the worker died or fell silent")
    assert finish(queue, [fresh]) == {fresh.id}


def test_finished_job_is_finished_once(database):
    [id_] = add_jobs(database, 1)
    queue = SqlQueue(database)
    jobs = queue.claim(CLASSIFY, 1)
    assert finish(queue, jobs) == {jobs[0].id}
    assert finish(queue, jobs) == set()
    assert queue.retry(jobs[0], "no") is None
    assert read_job(database, id_).state == "done"
    assert queue.claim(CLASSIFY, 1) == []


def test_finish_that_is_rolled_back_leaves_the_job_claimed(database):
    add_jobs(database, 1)
    queue = SqlQueue(database)
    jobs = queue.claim(CLASSIFY, 1)
    with database.engine.connect().execution_options(medd_write=True) as connection:
        queue.finish(connection, jobs)
        connection.rollback()
    assert finish(queue, jobs) == {jobs[0].id}


def test_restarted_worker_takes_its_earlier_work_back_at_once(database):
    ids = add_jobs(database, 3)
    SqlQueue(database, "host:0").claim(CLASSIFY, 2)
    SqlQueue(database, "host:1").claim(CLASSIFY, 1)
    again = SqlQueue(database, "host:0")
    assert again.recover(CLASSIFY).given_back == 0
    assert again.recover(CLASSIFY, own=True).given_back == 2
    assert claimed_instances(again, 10) == ids[:2]


# Failures


def test_failed_job_waits_longer_each_time(database):
    [id_] = add_jobs(database, 1)
    queue = SqlQueue(database)
    for attempts, wait_s in ((1, 1), (2, 2), (3, 4), (4, 8)):
        [claimed] = queue.claim(CLASSIFY, 1)
        assert claimed.attempts == attempts
        assert queue.retry(claimed, f"failure {attempts}") is JobState.PENDING
        row = read_job(database, id_)
        assert abs((row.available_at - datetime.now(UTC)).total_seconds() - wait_s) < 0.8
        assert row.error == f"failure {attempts}"
        assert queue.claim(CLASSIFY, 1) == []
        change_jobs(database, [id_], available_at=datetime.now(UTC) - timedelta(seconds=0.1))


def test_backoff_doubles_up_to_its_limit():
    assert [backoff_s(attempts) for attempts in (1, 2, 3, 4)] == [1, 2, 4, 8]
    assert backoff_s(50) == MAX_BACKOFF_S


def test_waiting_job_holds_nobody_up(database):
    ids = add_jobs(database, 2)
    change_jobs(database, ids[:1], available_at=datetime.now(UTC) + timedelta(seconds=100))
    assert claimed_instances(SqlQueue(database), 10) == ids[1:]


def test_job_that_failed_too_often_is_dead_and_says_why(database):
    [id_] = add_jobs(database, 1)
    queue = SqlQueue(database, max_attempts=2)
    [claimed] = queue.claim(CLASSIFY, 1)
    assert queue.retry(claimed, "first") is JobState.PENDING
    assert status_of(database, id_) == ("pending", None)
    change_jobs(database, [id_], available_at=None)
    [claimed] = queue.claim(CLASSIFY, 1)
    assert queue.retry(claimed, "second") is JobState.DEAD
    assert status_of(database, id_) == ("failed", "retries_exhausted")
    assert read_job(database, id_).error == "second"
    assert queue.claim(CLASSIFY, 1) == []
    assert queue.counts(CLASSIFY) == {"pending": 0, "running": 0, "done": 0, "dead": 1}


def test_job_that_kills_its_worker_each_time_dies_too(database):
    [id_] = add_jobs(database, 1)
    queue = SqlQueue(database, "host:0", max_attempts=3)
    for _ in range(3):
        assert len(queue.claim(CLASSIFY, 1)) == 1
        queue.recover(CLASSIFY, own=True)
    assert queue.claim(CLASSIFY, 1) == []
    assert read_job(database, id_).state == "dead"
    assert status_of(database, id_) == ("failed", "retries_exhausted")


def test_job_tried_twice_is_claimed_alone(database):
    ids = add_jobs(database, 5)
    change_jobs(database, [ids[0], ids[3]], attempts=2)
    queue = SqlQueue(database)
    claims = []
    while some := claimed_instances(queue, 10):
        claims.append(some)
    assert claims == [[ids[0]], [ids[1], ids[2], ids[4]], [ids[3]]]


@pytest.mark.parametrize("at_once", [1, 500])
def test_revived_job_starts_over(database, monkeypatch, at_once):
    monkeypatch.setattr("medd.queue.sql._AT_ONCE", at_once)
    ids = add_jobs(database, 3)
    queue = SqlQueue(database, max_attempts=1)
    for claimed in queue.claim(CLASSIFY, 3):
        queue.retry(claimed, "broken")
    assert queue.revive(CLASSIFY, [ids[1]]) == 1
    assert status_of(database, ids[1]) == ("pending", None)
    [claimed] = queue.claim(CLASSIFY, 10)
    assert (claimed.instance_id, claimed.attempts) == (ids[1], 1)
    assert queue.revive(CLASSIFY) == 2
    assert queue.revive(CLASSIFY) == 0
    assert claimed_instances(queue, 10) == [ids[0], ids[2]]


def test_revive_touches_no_living_job(database):
    ids = add_jobs(database, 2)
    queue = SqlQueue(database)
    [claimed] = queue.claim(CLASSIFY, 1)
    assert queue.revive(CLASSIFY, ids) == 0
    assert finish(queue, [claimed]) == {claimed.id}


# Clocks


def test_clock_put_back_leaves_no_job_waiting_for_ever(database):
    ids = add_jobs(database, 2)
    queue = SqlQueue(database)
    [running] = queue.claim(CLASSIFY, 1)
    year = datetime.now(UTC) + timedelta(days=365)
    change_jobs(database, ids[:1], lease_until=year)
    change_jobs(database, ids[1:], available_at=year)
    assert queue.recover(CLASSIFY).given_back == 1
    assert claimed_instances(queue, 10) == ids
    assert finish(queue, [running]) == set()


def test_clock_put_forward_gives_work_back_early_but_never_twice(database):
    ids = add_jobs(database, 2)
    queue = SqlQueue(database)
    [slow, other] = queue.claim(CLASSIFY, 2)
    queue.retry(other, "waits")
    past = datetime.now(UTC) - timedelta(days=365)
    change_jobs(database, ids[:1], lease_until=past)
    change_jobs(database, ids[1:], available_at=past)
    assert queue.recover(CLASSIFY).given_back == 1
    again = queue.claim(CLASSIFY, 10)
    assert [one.instance_id for one in again] == ids
    done = [finish(queue, [slow]), finish(queue, again)]
    assert done == [set(), {one.id for one in again}]


def test_longest_backoff_is_still_waited_for(database):
    ids = add_jobs(database, 1)
    change_jobs(database, ids, available_at=datetime.now(UTC) + timedelta(seconds=MAX_BACKOFF_S))
    assert SqlQueue(database).claim(CLASSIFY, 1) == []


# Several workers

_WORKER = """
import sys, time
from medd.queue.base import CLASSIFY
from medd.queue.sql import SqlQueue
from medd.queue.worker import Worker
from medd.store.database import Database
from medd.store.repository import record_predictions
from tests.rows import prediction_of

class Slow:
    def handle(self, jobs):
        time.sleep(0.05)
        def commit():
            with queue.database.write() as connection:
                ours = queue.finish(connection, jobs)
                made = [prediction_of(job.instance_id, model=f"{owner}/1") for job in jobs if job.id in ours]
                record_predictions(connection, made)
        return commit

url, owner = sys.argv[1:]
queue = SqlQueue(Database(url), owner, lease_s=1.5)
print("ready", flush=True)
Worker(queue, CLASSIFY, Slow(), batch_size=4, poll_s=0.05).run()
"""


def test_killed_workers_jobs_are_done_by_the_others_and_none_twice(database):
    url = database.engine.url.render_as_string(hide_password=False)
    ids = add_jobs(database, 120)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, url, f"worker-{number}"],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        for number in range(3)
    ]
    queue = SqlQueue(database)
    try:
        for worker in workers:
            assert worker.stdout.readline() == b"ready\n"
        wait_until(lambda: queue.counts(CLASSIFY)[JobState.DONE] >= 10, what="the first results")
        workers[0].kill()
        wait_until(lambda: queue.counts(CLASSIFY)[JobState.DONE] == 120, what="the last result")
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            worker.stdout.close()
    with database.read() as connection:
        scored = list(connection.scalars(sa.select(prediction.c.instance_id)))
    assert Counter(scored) == Counter(ids)


def test_a_worker_whose_surroundings_fail_keeps_what_it_has_in_hand_and_costs_no_try(database, monkeypatch):
    monkeypatch.setattr(worker, "AWAY_S", 0.01)
    ids = add_jobs(database, 6)
    queue = SqlQueue(database, "worker")
    seen = []

    class Shaken:
        def handle(self, jobs):
            seen.append([one.instance_id for one in jobs])
            if len(seen) < 3:
                raise TransientError("no process for decoding: it does not start")

            def commit():
                finish(queue, jobs)
                one.stop()

            return commit

    one = Worker(queue, CLASSIFY, Shaken(), batch_size=2, poll_s=0.01)
    one.run()
    assert seen == [ids[:2]] * 3
    assert queue.counts(CLASSIFY) == {**dict.fromkeys(JobState, 0), JobState.DONE: 2, JobState.PENDING: 4}
    assert [read_job(database, id_).attempts for id_ in ids] == [1, 1, 0, 0, 0, 0]


def test_result_and_acknowledgement_are_one_transaction(database):
    [id_] = add_jobs(database, 1)
    queue = SqlQueue(database)
    jobs = queue.claim(CLASSIFY, 1)
    with database.engine.connect().execution_options(medd_write=True) as connection:
        queue.finish(connection, jobs)
        record_predictions(connection, [prediction_of(id_)])
        connection.rollback()
    assert read_job(database, id_).state == "running"
    assert status_of(database, id_) == ("pending", None)
