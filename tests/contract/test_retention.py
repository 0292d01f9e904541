"""Retention, on SQLite and on PostgreSQL: what goes, what stays, and what a crash in between leaves."""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from medd.dicom.commitment import NO_SUCH_OBJECT_INSTANCE
from medd.errors import TransientError
from medd.queue.base import CLASSIFY
from medd.queue.sql import SqlQueue
from medd.records import WITHDRAWN, Annotation, MediaType, Reason, Status
from medd.settings import RetentionSettings
from medd.store import retention as module
from medd.store.annotations import annotate
from medd.store.audit import EventFilter, find_events
from medd.store.commitments import Commitments, judge
from medd.store.database import Database, check_schema
from medd.store.expiry import Expiry
from medd.store.inserts import InstanceInserter
from medd.store.outbox import Outbox
from medd.store.repository import record_predictions, set_not_assessed
from medd.store.retention import Retention, Rounds, Rules
from medd.store.spool import Spool
from medd.store.tables import commitment, delivery, instance, job, metadata, prediction, purged, study
from medd.store.tally import refresh
from tests.rows import instance_row, prediction_of
from tests.support import wait_until

NOW = datetime.now(UTC)
WEEK = Rules(images=timedelta(days=7))
CLASS = "1.2.840.10008.5.1.4.1.1.1"


class Ward:
    """A spool with its rows, as receiver, worker and deliverer leave them."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.spool = database, Spool(folder)
        self.spool.prepare()
        self.outbox = Outbox(("pacs",), quiet_s=0, spool=self.spool.id)
        self.queue = SqlQueue(database, "worker", spool=self.spool.id, outbox=self.outbox)
        self.retention = Retention(database, self.spool)

    def write(self, number: int) -> tuple[str, int]:
        content = f"film {number} ".encode() * 1000
        writer = self.spool.writer()
        writer.write(content)
        writer.publish()
        writer.sync()
        return hashlib.sha256(content).hexdigest(), len(content)

    def receive(self, number: int, days: float = 30, **values: Any) -> int:
        sha256, size = self.write(number)
        row = instance_row(number, sha256=sha256, size=size, received_at=NOW - timedelta(days=days), **values)
        inserter = InstanceInserter(self.database, CLASSIFY, self.spool.id, self.outbox, self.has_bytes)
        try:
            return inserter.add([row])[sha256].id
        finally:
            inserter.close()

    def has_bytes(self, row: dict[str, Any]) -> bool:
        return self.spool.path(row["sha256"], row["media_type"]).is_file()

    def work(self) -> None:
        jobs = self.queue.claim(CLASSIFY, 1000)
        ids = [one.instance_id for one in jobs]
        with self.database.write() as connection:
            self.queue.finish(connection, jobs)
            record_predictions(connection, [prediction_of(id_) for id_ in ids])
            refresh(connection, ids)

    def done(self, number: int, days: float = 30, **values: Any) -> int:
        id_ = self.receive(number, days, **values)
        self.work()
        return id_

    def files(self) -> set[str]:
        return {path.stem for path in self.spool.root.glob("??/*.dcm")}

    def kept(self) -> set[int]:
        """The images whose bytes are there, by files and rows alike: no row may say of a lost file that it is there."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(instance.c.id, instance.c.sha256)).all()
            going = set(connection.scalars(sa.select(purged.c.instance_id).where(~purged.c.gone)))
            gone = set(connection.scalars(sa.select(purged.c.instance_id).where(purged.c.gone)))
        there = {row.id for row in rows if row.sha256 in self.files()}
        assert {row.id for row in rows} - gone - going <= there, "a row lacks its file, and does not say so"
        assert not gone & there
        assert {row.sha256 for row in rows} >= self.files(), "a file has no row"
        return there

    def count(self, table: sa.Table) -> int:
        with self.database.read() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


@pytest.fixture
def ward(database: Database, tmp_path: Path) -> Ward:
    return Ward(database, tmp_path / "spool")


def test_the_images_of_old_studies_go_and_what_was_said_of_them_stays(ward):
    old, young = ward.done(1, days=30), ward.done(2, days=3)
    found = ward.retention.run(WEEK, account="ann")
    assert (found.studies, found.images, found.bytes, found.kept) == (1, 1, 7000, Counter())
    assert ward.kept() == {young}
    with ward.database.read() as connection:
        assert set(connection.scalars(sa.select(prediction.c.instance_id))) == {old, young}
        (event,) = find_events(connection, EventFilter())
    assert (event["account"], event["action"]) == ("ann", "purged")
    assert "1 images" in event["detail"]
    assert ward.retention.run(WEEK).images == 0, "nothing goes twice"


def test_a_dry_run_says_what_would_go_and_changes_nothing(ward):
    for number in range(60):
        ward.receive(number, days=30)
    ward.work()
    everything = Rules(timedelta(days=7), 0, timedelta(days=20))
    said = ward.retention.run(everything, dry_run=True)
    assert (said.images, said.results) == (60, 60)
    assert len(ward.kept()) == 60
    assert ward.count(purged) == 0
    did = ward.retention.run(everything)
    assert (did.studies, did.images, did.bytes, did.results) == (said.studies, said.images, said.bytes, said.results)
    assert (ward.files(), ward.count(instance)) == (set(), 0)


def test_what_is_not_done_with_stays_and_is_told_of(ward):
    ids = {name: ward.receive(n, days=30) for n, name in enumerate(("annotated", "promised", "free"), 1)}
    ward.work()
    ids["undelivered"] = ward.done(4, days=30)
    with ward.database.write() as connection:
        ward.outbox.open(connection, [ids["undelivered"]])
    ids["refused"] = ward.receive(5, days=30, status=Status.NOT_ASSESSED, reason=Reason.NOT_AN_IMAGE)
    ids["dead"] = ward.receive(6, days=30)
    impatient = SqlQueue(ward.database, "worker", max_attempts=1, spool=ward.spool.id)
    impatient.retry(impatient.claim(CLASSIFY, 1)[0], "it failed")
    ids["running"] = ward.receive(7, days=30)
    assert ward.queue.claim(CLASSIFY, 1)
    ids["waiting"] = ward.receive(8, days=30)
    # One image of a study that waits keeps the others.
    ids["beside"] = ward.receive(9, days=30, study_instance_uid="1.2.1.8", status="not_assessed", reason="not_chest")
    with ward.database.write() as connection:
        annotate(connection, Annotation(ids["annotated"], "NORMAL", "ann", NOW))
    Commitments(ward.database).offer("2.25.1", "CR1", [(CLASS, "1.2.3.2")])
    with ward.database.write() as connection:
        connection.execute(delivery.update().where(delivery.c.study != "1.2.1.4").values(state="done"))
    found = ward.retention.run(WEEK)
    assert found.kept == {"annotated": 1, "committed": 1, "undelivered": 1, "unfinished or failed": 3}
    assert ward.kept() == set(ids.values()) - {ids["free"], ids["refused"]}
    ward.retention.run(Rules(images=timedelta(0), results=timedelta(0)))
    assert ward.kept() == set(ids.values()) - {ids["free"], ids["refused"]}


def test_an_annotation_that_was_taken_back_keeps_the_image_as_it_is_on_record(ward):
    id_ = ward.done(1)
    with ward.database.write() as connection:
        for label in ("NORMAL", WITHDRAWN):
            annotate(connection, Annotation(id_, label, "ann", NOW))
    assert ward.retention.run(WEEK).kept == {"annotated": 1}


def test_history_that_is_being_scored_again_stays(ward):
    id_ = ward.done(1)
    assert ward.queue.rescore(CLASSIFY, "stub/2") == 1
    assert ward.retention.run(WEEK).kept == {"unfinished or failed": 1}
    assert ward.kept() == {id_}


def test_what_has_no_bytes_is_not_scored_again(ward):
    ward.done(1)
    ward.retention.run(WEEK)
    assert ward.queue.rescore(CLASSIFY, "stub/2") == 0


def test_a_late_image_keeps_its_study(ward):
    first, second = ward.receive(1, 30, study_instance_uid="1.9"), ward.receive(2, 1, study_instance_uid="1.9")
    ward.work()
    assert ward.retention.run(WEEK).images == 0
    assert ward.kept() == {first, second}


def test_for_want_of_room_the_oldest_studies_go_but_none_of_the_last_day(ward):
    # By their age, whatever their UIDs are.
    ids = [ward.receive(number, days) for number, days in ((5, 9), (4, 8), (3, 7), (2, 6), (1, 0.5))]
    ward.work()
    found = ward.retention.run(Rules(spool_bytes=3 * 7000 + 100))
    assert (found.images, ward.kept()) == (2, set(ids[2:]))
    found = ward.retention.run(Rules(spool_bytes=0), dry_run=True)
    assert found.images == 2
    ward.retention.run(Rules(spool_bytes=0))
    assert ward.kept() == {ids[4]}


def test_all_that_is_known_of_very_old_studies_goes(ward):
    ward.receive(1, days=400, study_instance_uid="")
    old, young = ward.receive(2, days=400), ward.receive(3, days=100)
    ward.work()
    found = ward.retention.run(Rules(timedelta(days=30), None, timedelta(days=365)))
    assert (found.images, found.results) == (3, 2)
    assert ward.files() == set()
    for table in (instance, job, prediction, study, purged):
        assert ward.count(table) == 1, table.name
    with ward.database.read() as connection:
        assert connection.scalar(sa.select(instance.c.id)) == young
    assert old != young


def test_results_take_their_images_along_though_those_alone_have_no_age(ward):
    ward.done(1, days=400)
    assert ward.retention.run(Rules(results=timedelta(days=365))).results == 1
    assert (ward.files(), ward.count(instance)) == (set(), 0)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("moment", ["before the first file", "between two files", "after the files"])
def test_killed_in_between_no_row_lacks_its_file_and_the_next_run_goes_on(ward, monkeypatch, moment):
    for number in range(3):
        ward.receive(number, days=400)
    ward.work()
    unlink, calls = Path.unlink, []

    def dying(path: Path, *arguments: Any, **options: Any) -> None:
        calls.append(path)
        if moment == "before the first file" or (moment == "between two files" and len(calls) == 2):
            raise Killed
        unlink(path, *arguments, **options)
        if moment == "after the files" and len(calls) == 3:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", dying)
        with pytest.raises(Killed):
            ward.retention.run(Rules(images=timedelta(days=7), results=timedelta(days=7)))
    ward.kept()
    assert ward.count(instance) == 3, "no row goes before its file"
    ward.retention.run(Rules())
    assert ward.kept() == set()
    assert ward.count(instance) == 3
    ward.retention.run(Rules(results=timedelta(days=7)))
    assert ward.count(instance) == 0


def test_the_same_image_sent_again_is_kept_anew(ward):
    id_ = ward.done(1)
    ward.retention.run(WEEK)
    assert ward.kept() == set()
    assert ward.receive(1, days=0) == id_
    assert (ward.kept(), ward.count(purged)) == ({id_}, 0)


def test_sent_again_while_its_file_is_deleted_an_image_is_refused_for_the_time_being(ward, monkeypatch):
    """The file is published, deleted by retention, and only then the row is looked for: 0x0000 would be a lie."""
    ward.done(1)
    ward.retention.run(WEEK)
    publish = ward.write

    def published_too_early(number: int) -> tuple[str, int]:
        written = publish(number)
        ward.spool.path(written[0], MediaType.DICOM).unlink()
        return written

    with monkeypatch.context() as patched:
        patched.setattr(ward, "write", published_too_early)
        with pytest.raises(TransientError, match="just been deleted"):
            ward.receive(1)
    assert ward.kept() == set()
    ward.receive(1)
    assert len(ward.kept()) == 1


@pytest.fixture
def pg_ward(postgres_url: str, tmp_path: Path) -> Iterator[Ward]:
    """On SQLite one writes at a time: there is no in between."""
    database = Database(postgres_url)
    check_schema(database)
    yield Ward(database, tmp_path / "spool")
    database.close()


def waits_for_a_lock(ward: Ward) -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with ward.database.read() as connection:
        return bool(connection.scalar(sa.text(waiting)))


@pytest.mark.peers
def test_sent_again_when_all_of_it_was_to_be_deleted_an_image_stays(pg_ward, monkeypatch):
    id_ = pg_ward.done(1, days=400)
    pg_ward.retention.run(WEEK)
    judge_now = Expiry.judge

    def sent_again(self: Expiry, *arguments: Any, **options: Any) -> Any:
        judged = judge_now(self, *arguments, **options)
        assert pg_ward.receive(1) == id_
        return judged

    monkeypatch.setattr(Expiry, "judge", sent_again)
    assert pg_ward.retention.run(Rules(results=timedelta(days=365))).results == 0
    assert pg_ward.kept() == {id_}


@pytest.mark.peers
def test_sent_again_while_all_of_it_is_deleted_an_image_is_refused_for_the_time_being(pg_ward, monkeypatch):
    pg_ward.done(1, days=400)
    pg_ward.retention.run(WEEK)
    hold, answers = Retention._hold_gone, []

    def answer() -> None:
        try:
            answers.append(pg_ward.receive(1))
        except TransientError as error:
            answers.append(str(error))

    sender = threading.Thread(target=answer)

    def sent_again(connection: sa.Connection, ids: set[int]) -> set[int]:
        held = hold(connection, ids)
        sender.start()
        wait_until(lambda: answers or waits_for_a_lock(pg_ward), what="the sender's turn")
        assert not answers, "nothing is said before it is sure"
        return held

    monkeypatch.setattr(Retention, "_hold_gone", staticmethod(sent_again))
    assert pg_ward.retention.run(Rules(results=timedelta(days=365))).results == 1
    sender.join()
    assert answers == ["database: the image's old row has just been deleted"]
    assert pg_ward.count(instance) == 0


def test_images_that_are_sent_again_all_the_while_are_never_lost(ward):
    """Whoever got a row without an error has its file, however retention and receiver meet."""
    for number in range(20):
        ward.receive(number)
    ward.work()
    stop = threading.Event()
    failures: list[BaseException] = []

    def again(action: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                action()
        except BaseException as error:
            failures.append(error)

    theirs = Retention(ward.database, ward.spool)
    purging = [
        threading.Thread(target=again, args=(lambda one=one: one.run(WEEK),)) for one in (ward.retention, theirs)
    ]
    for thread in purging:
        thread.start()
    refused = 0
    for _ in range(5):
        for number in range(20):
            try:
                ward.receive(number)
            except TransientError:
                refused += 1
    stop.set()
    for thread in purging:
        thread.join()
    assert failures == []
    ward.kept()


def test_nobody_is_promised_what_is_to_go(ward):
    ward.done(1)
    asked = [(CLASS, "1.2.3.1")]
    assert judge(ward.database, ward.spool, "2.25.1", asked).failed == ()
    with ward.database.write() as connection:  # decided, and not yet done
        connection.execute(purged.insert().values(instance_id=1, at=NOW, spool=ward.spool.id, gone=False))
    assert judge(ward.database, ward.spool, "2.25.1", asked).failed == ((asked[0], NO_SUCH_OBJECT_INSTANCE),)


def test_what_is_promised_between_two_portions_is_kept(ward):
    for number in range(3):
        ward.receive(number)
    ward.work()
    assert ward.retention.run(Rules(images=timedelta(days=60))).images == 0
    Commitments(ward.database).offer("2.25.7", "CR1", [(CLASS, "1.2.3.2")])
    assert ward.retention.run(WEEK).kept == {"committed": 1}
    assert len(ward.kept()) == 1


@pytest.mark.peers
def test_what_is_promised_while_the_next_promise_is_there_already_is_kept(pg_ward):
    id_, later = pg_ward.done(1), Commitments(pg_ward.database)
    found: list[Counter[str]] = []
    thread = threading.Thread(target=lambda: found.append(pg_ward.retention.run(WEEK).kept))
    with pg_ward.database.write() as connection:
        later._insert(connection, "2.25.1", "offered", "CR1", [[CLASS, "1.2.3.1"]], 0)
        later.offer("2.25.2", "CR1", [(CLASS, "1.9.9")])
        thread.start()
        wait_until(lambda: waits_for_a_lock(pg_ward), what="retention at the lock")
    thread.join()
    assert found == [{"committed": 1}]
    assert pg_ward.kept() == {id_}


def test_old_transactions_of_storage_commitment_go_but_no_promise(ward):
    old = NOW - timedelta(days=30)
    row = {"peer": "X", "objects": [[CLASS, "1.9.9"]], "created_at": old, "available_at": old}
    kinds = [("asked", "done"), ("asked", "dead"), ("asked", "waiting"), ("offered", "done"), ("offered", "dead")]
    with ward.database.write() as connection:
        for number, (direction, state) in enumerate(kinds):
            values = {"transaction_uid": f"2.25.{number}", "direction": direction, "state": state, **row}
            connection.execute(commitment.insert().values(values))
    assert ward.retention.run(WEEK, dry_run=True).commitments == 3
    assert ward.retention.run(WEEK).commitments == 3
    with ward.database.read() as connection:
        left = connection.execute(sa.select(commitment.c.direction, commitment.c.state)).all()
    assert sorted(map(tuple, left)) == [("asked", "waiting"), ("offered", "done")]


def test_what_lies_in_another_hosts_spool_is_left_to_that_host(ward, tmp_path):
    theirs = Ward(ward.database, tmp_path / "other")
    mine = ward.done(1)
    foreign = theirs.done(2)
    refused = theirs.receive(3, status=Status.NOT_ASSESSED, reason=Reason.UNREADABLE, study_instance_uid="1.8")
    with ward.database.write() as connection:
        connection.execute(delivery.update().values(state="done"))
    assert ward.retention.run(Rules(spool_bytes=7100)).images == 0  # of another's files ours have not to make room
    both = Rules(timedelta(days=7), None, timedelta(days=7))
    assert (ward.retention.run(both).images, ward.files()) == (1, set())
    assert len(theirs.files()) == 2
    with ward.database.read() as connection:
        assert set(connection.scalars(sa.select(instance.c.id))) == {foreign, refused}
    assert theirs.retention.run(both).images == 2
    assert theirs.files() == set()
    assert mine not in (foreign, refused)


def test_what_is_sent_again_to_another_host_is_worked_on_and_deleted_there(ward, tmp_path):
    theirs = Ward(ward.database, tmp_path / "other")
    old = ward.done(1)
    ward.retention.run(WEEK)
    moved, stays = ward.receive(2), ward.receive(3)
    assert [theirs.receive(number) for number in (1, 2)] == [old, moved]
    assert [[one.instance_id for one in each.queue.claim(CLASSIFY, 9)] for each in (theirs, ward)] == [[moved], [stays]]
    assert theirs.retention.run(WEEK).images == 1
    assert len(theirs.files()) == 1


def test_a_spool_that_cannot_be_written_ends_the_run_and_the_next_one_goes_on(ward, monkeypatch):
    ward.done(1)

    def denied(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", denied)
        with pytest.raises(TransientError, match="Read-only"):
            ward.retention.run(WEEK)
    assert len(ward.kept()) == 1
    ward.retention.run(WEEK)
    assert ward.kept() == set()


def test_a_refusal_of_the_model_is_done_with_too(ward):
    id_ = ward.receive(1)
    jobs = ward.queue.claim(CLASSIFY, 1)
    with ward.database.write() as connection:
        ward.queue.finish(connection, jobs)
        set_not_assessed(connection, id_, Reason.UNFAMILIAR, "why")
        refresh(connection, [id_])
    assert ward.retention.run(WEEK).images == 1


def test_the_daemons_rounds_go_by_the_settings_and_by_default_never(ward):
    ward.done(1)
    idle = Rounds(ward.database, ward.spool, Rules.of(RetentionSettings()), first_s=0)
    idle.start()
    idle.stop()
    assert len(ward.kept()) == 1
    rounds = Rounds(ward.database, ward.spool, Rules.of(RetentionSettings(days=7)), first_s=0, every_s=0.05)
    rounds.start()
    try:
        wait_until(lambda: not ward.files(), what="the first round")
        ward.done(2)
        wait_until(lambda: not ward.files(), what="another round")
    finally:
        rounds.stop()


def test_every_table_that_knows_of_studies_is_dealt_with():
    by_study = {table.name for table in metadata.sorted_tables if "study" in table.c}
    assert by_study == {"study", "delivery", "report", "sent", "audit"}, "what becomes of it when its study goes?"
    assert module.delivery is delivery
