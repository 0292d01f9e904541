"""Each thing that can be wrong between rows and files, made so on purpose: it is found, mended, and then gone."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from medd.errors import SettingsError
from medd.ingest import admission
from medd.ingest.intake import Intake
from medd.plugins import load_plugins
from medd.queue.base import CLASSIFY
from medd.queue.sql import SqlQueue
from medd.reconcile import Check, Scope, reconcile
from medd.reconcile.files import images
from medd.store.database import Database
from medd.store.outbox import Outbox
from medd.store.repository import record_predictions, set_not_assessed
from medd.store.spool import Spool
from medd.store.tables import annotation, delivery, instance, job, prediction, purged, study
from medd.store.tally import refresh
from medd.testing import cheap_series
from tests.rows import prediction_of

YEAR = timedelta(days=365)


@pytest.fixture
def scope(database: Database, tmp_path: Path) -> Iterator[Scope]:
    """Eight images, of which six are scored, one is not assessed and one waits; all told of to two destinations."""
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    outbox = Outbox(("archive", "folder"), 0, 0, spool.id)
    intake = Intake(database, spool, load_plugins(None, builtin=(admission,)), outbox)
    for number, data in enumerate(cheap_series(8, rows=32, columns=32, seed=7, images_per_study=2)):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(data)
        intake.receive_file(path, "file:test")
    queue = SqlQueue(database, "worker", spool=spool.id, outbox=outbox)
    claimed = queue.claim(CLASSIFY, 7)
    ids = [one.instance_id for one in claimed]
    with database.write() as connection:
        queue.finish(connection, claimed)
        record_predictions(connection, [prediction_of(id_, 0.1 * id_) for id_ in ids[:6]])
        set_not_assessed(connection, ids[6], "lateral_view", "a lateral view")
        refresh(connection, ids)
        outbox.open(connection, ids)
    yield Scope(database, spool, outbox, intake, young_s=0, told_since=datetime.now(UTC) - YEAR)
    intake.close()


def run(scope: Scope, journal: Path | None = None) -> dict[str, Check]:
    return {check.name: check for check in reconcile(scope, journal)}


def faults(scope: Scope, journal: Path | None = None) -> dict[str, int]:
    return {name: check.found for name, check in run(scope, journal).items() if check.found}


def change(scope: Scope, *statements: sa.Executable | str) -> None:
    """As somebody would who asks for no foreign keys."""
    engine = sa.create_engine(scope.database.engine.url)
    with engine.begin() as connection:
        if not scope.database.is_sqlite:  # which asks for them only where it is told to
            connection.exec_driver_sql("SET session_replication_role = replica")
        for statement in statements:
            connection.execute(sa.text(statement) if isinstance(statement, str) else statement)
    engine.dispose()


def file_of(scope: Scope, id_: int) -> Path:
    with scope.database.read() as connection:
        row = connection.execute(sa.select(instance.c.sha256, instance.c.media_type).where(instance.c.id == id_)).one()
    return scope.spool.path(*row)


def value(scope: Scope, column: sa.Column, id_: int) -> object:
    key = column.table.c.get("instance_id", column.table.c.id)
    with scope.database.read() as connection:
        return connection.scalar(sa.select(column).where(key == id_))


def test_what_is_sound_is_left_alone(scope: Scope) -> None:
    checks = run(replace(scope, verify=True))
    assert {name: check.found for name, check in checks.items()} == dict.fromkeys(checks, 0)
    assert checks["images"].looked_at == checks["spool"].looked_at == 8
    assert checks["studies"].looked_at == 4
    assert checks["deliveries"].looked_at == 8


BROKEN = {
    "a job that is not there": ("jobs", lambda: [job.delete().where(job.c.instance_id.in_([2, 8]))]),
    "done and without a result": ("jobs", lambda: [job.update().where(job.c.instance_id == 8).values(state="done")]),
    "dead and said to wait": ("jobs", lambda: [job.update().where(job.c.instance_id == 8).values(state="dead")]),
    "failed and still worked on": (
        "jobs",
        lambda: [
            instance.update().where(instance.c.id == 8).values(status="failed", reason="retries_exhausted"),
            "UPDATE study SET pending = 0, failed = 1, reason = 'retries_exhausted' WHERE pending = 1",
        ],
    ),
    "a prediction that is not there": (
        "predictions",
        lambda: [
            prediction.delete().where(prediction.c.instance_id == 2),
            "UPDATE study SET instance_id = 1, probability = 0.1 WHERE instance_id = 2",
        ],
    ),
    "a prediction of what was not assessed": (
        "predictions",
        lambda: [prediction.update().where(prediction.c.instance_id == 6).values(instance_id=7)],
    ),
    "a row of nobody": ("strays", lambda: [job.insert().values(kind="classify", instance_id=99, state="done")]),
    "a lease of the past": (
        "leases",
        lambda: [
            job.update()
            .where(job.c.instance_id == 8)
            .values(state="running", lease_token="t", lease_until=datetime.now(UTC) - timedelta(hours=1))
        ],
    ),
    "a lease of before the clock was put back": (
        "leases",
        lambda: [
            delivery.update()
            .where(delivery.c.id == 1)
            .values(state="running", lease_token="t", lease_until=datetime.now(UTC) + YEAR)
        ],
    ),
    "a study that is not there": ("studies", lambda: [study.delete().where(study.c.pending == 0)]),
    "a study of nobody": ("studies", lambda: ["UPDATE study SET study = '1.2.3.4' WHERE instance_id = 2"]),
    "a study that says otherwise": ("studies", lambda: [study.update().values(label="NORMAL", scored=7)]),
    "an outbox without a study": (
        "deliveries",
        lambda: [delivery.delete().where(delivery.c.destination == "archive")],
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_row_that_is_wrong_is_found_and_mended(scope: Scope, what: str) -> None:
    where, statements = BROKEN[what]
    change(scope, *statements())
    assert where in faults(replace(scope, intake=None))
    assert where in faults(replace(scope, intake=None)), "it only looks"
    checks = run(scope)
    assert checks[where].found > 0
    assert sum(check.left for check in checks.values()) == 0, [check.examples for check in checks.values()]
    assert faults(scope) == {}


def test_what_was_said_by_a_reader_is_never_deleted(scope: Scope) -> None:
    change(scope, annotation.insert().values(instance_id=99, label="NORMAL", reader="anna", at=datetime.now(UTC)))
    assert run(scope)["strays"].left == 1
    assert run(scope)["strays"].left == 1


def test_what_has_lost_its_bytes_fails_where_it_waits_and_stays_where_it_is_scored(scope: Scope) -> None:
    file_of(scope, 8).unlink()
    file_of(scope, 1).write_bytes(b"half")
    assert faults(replace(scope, intake=None)) == {"images": 2}
    check = run(scope)["images"]
    assert (check.found, check.mended) == (2, 1)
    assert value(scope, instance.c.status, 8) == "failed"
    assert value(scope, instance.c.reason, 8) == "retries_exhausted"
    assert value(scope, instance.c.status, 1) == "scored"
    assert "the same image sent again" in " ".join(check.examples)
    assert faults(scope) == {"images": 1}


def test_a_byte_that_flipped_is_found_where_every_file_is_read(scope: Scope) -> None:
    path = file_of(scope, 3)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert faults(scope) == {}
    assert faults(replace(scope, verify=True)) == {"images": 1}


def test_what_retention_has_deleted_is_missed_by_nobody(scope: Scope) -> None:
    file_of(scope, 1).unlink()
    change(scope, purged.insert().values(instance_id=1, at=datetime.now(UTC), spool=scope.spool.id, gone=True))
    assert faults(scope) == {}


def test_a_file_without_a_row_is_taken_in_unless_it_is_young_or_damaged(scope: Scope, tmp_path: Path) -> None:
    [sound] = cheap_series(1, rows=32, columns=32, seed=8)
    (tmp_path / "new.dcm").write_bytes(sound)
    assert scope.intake is not None
    sha256 = scope.intake.receive_file(tmp_path / "new.dcm", "file:test").sha256
    change(scope, "DELETE FROM job WHERE instance_id = 9", "DELETE FROM study WHERE instance_id = 9")
    change(scope, "DELETE FROM instance WHERE id = 9")
    damaged = scope.spool.root / "ab" / f"ab{'0' * 62}.dcm"
    damaged.write_bytes(sound[:-5])
    assert faults(replace(scope, young_s=600)) == {}
    for path in (damaged, scope.spool.path(sha256, "application/dicom")):
        os.utime(path, (1, 1))
    assert faults(replace(scope, intake=None, young_s=600)) == {"spool": 2}
    check = run(replace(scope, young_s=600))["spool"]
    assert (check.found, check.mended) == (2, 2)
    assert (scope.spool.root / "orphans" / damaged.name).exists()
    with scope.database.read() as connection:
        taken = connection.execute(sa.select(instance.c.status).where(instance.c.sha256 == sha256)).scalar_one()
    assert taken == "pending"
    assert faults(scope) == {}


def test_a_destination_that_came_later_is_told_nothing_of_before(scope: Scope) -> None:
    later = replace(scope, told_since=None, outbox=replace(scope.outbox, destinations=("archive", "new")))
    assert faults(later) == {}
    assert faults(replace(later, told_since=scope.told_since)) == {"deliveries": 7}


def test_history_that_was_scored_needs_no_delivery(scope: Scope) -> None:
    change(scope, delivery.delete(), job.update().values(priority=1000))
    assert faults(scope) == {}


def test_history_that_was_refused_at_the_door_needs_no_delivery(scope: Scope) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)  # than the first of all deliveries was due
    study = value(scope, instance.c.study_instance_uid, 7)
    change(
        scope,
        delivery.delete().where(delivery.c.study == study),
        instance.update().where(instance.c.id == 7).values(received_at=later),
    )
    known = replace(scope, told_since=None)
    assert faults(known)["deliveries"] == 2
    change(scope, job.delete().where(job.c.instance_id == 7))
    assert "deliveries" not in faults(known)


def test_what_was_refused_at_another_hosts_door_is_not_missed_here(scope: Scope, tmp_path: Path) -> None:
    theirs = Spool(tmp_path / "theirs")
    theirs.prepare()
    change(
        scope,
        job.update().where(job.c.instance_id == 1).values(spool=theirs.id),
        job.delete().where(job.c.instance_id == 7),
    )
    for id_ in (1, 7):
        file_of(scope, id_).unlink()
    assert faults(scope) == {}
    file_of(scope, 2).unlink()
    assert faults(scope) == {"images": 1}


@pytest.mark.parametrize("alone", [True, False])
def test_a_disk_that_does_not_say_whether_a_file_is_there_is_a_fault_told_of(scope: Scope, alone: bool) -> None:
    elsewhere = [] if alone else [job.update().where(job.c.instance_id == 1).values(spool="attic")]
    change(scope, job.delete().where(job.c.instance_id == 7), *elsewhere)
    file = file_of(scope, 7)
    file.unlink()
    file.symlink_to(file.name)  # it leads to itself: no success, and not "no such file" either
    with pytest.raises(SettingsError, match=f"{file.name} cannot be read"):
        images(scope)


def journal_of(scope: Scope, file: Path, alter: Callable[[dict], dict] = dict) -> Path:
    with scope.database.read() as connection:
        rows = connection.execute(sa.select(instance.c.sha256, instance.c.sop_instance_uid)).all()
    lines = [alter({"uid": uid, "sha256": sha256, "status": "0x0000"}) for sha256, uid in rows]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"uid": "cut o')
    return file


def test_what_a_journal_says_was_answered_is_there(scope: Scope, tmp_path: Path) -> None:
    assert run(scope, journal_of(scope, tmp_path / "good"))["journal"].looked_at == 8
    assert faults(scope, tmp_path / "good") == {}
    lost = journal_of(scope, tmp_path / "lost", lambda line: line | {"sha256": "0" * 64})
    assert run(scope, lost)["journal"].left == 1, "all eight lines name one image"
    refused = journal_of(scope, tmp_path / "refused", lambda line: line | {"sha256": "0" * 64, "status": "0xA700"})
    assert faults(scope, refused) == {}
    path = file_of(scope, 2)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert run(scope, tmp_path / "good")["journal"].left == 1


def test_nothing_of_a_patient_is_told(scope: Scope) -> None:
    change(scope, *[statement for _, make in BROKEN.values() for statement in make()])
    told = " ".join(example for check in run(scope).values() for example in check.examples)
    assert told
    assert "SYN" not in told
    assert "1.2.826" not in told
