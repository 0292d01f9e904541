"""What the hosts of a Ray cluster do, without a cluster."""

import dataclasses
import os
import secrets
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from medd import pipeline, settings
from medd.backfill import actors
from medd.backfill.actors import Decode, Plan, Predict, load_model, read_taken
from medd.backfill.door import State, patiently
from medd.backfill.source import Folder
from medd.errors import ModelUnusable, SettingsError, TransientError
from medd.store.tables import delivery, instance, job, prediction
from medd.testing import jpeg_radiograph, stub_bundle, write_stub_plugin
from medd.testing.films import cheap_series


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDD_MODEL__CLASSIFIER", "stub")
    home, films = tmp_path / "home", tmp_path / "films"
    write_stub_plugin(home / "plugins", stub_bundle(tmp_path / "bundle"))
    films.mkdir()
    for number, data in enumerate(cheap_series(4, rows=64, columns=64)):
        (films / f"{number}.dcm").write_bytes(data)
    (films / "again.dcm").write_bytes((films / "0.dcm").read_bytes())
    (films / "cut.jpg").write_bytes(jpeg_radiograph(1, size=64)[:400])
    (films / "letter.txt").write_text("no image")
    loaded = settings.load(home)
    database = pipeline.open_database(loaded)
    spec = load_model(loaded, database, "stub/1", 1).bundle.preprocess
    token, spool = secrets.token_hex(16), pipeline.open_spool(loaded).id
    yield Plan(loaded, Folder(str(films)), "host:backfill", token, spool, "stub/1", spec)
    database.close()


@pytest.fixture
def decode(plan):
    actor = Decode(plan)
    yield actor
    actor._decoder.close()
    actor._intake.close()
    actor.database.close()


@pytest.fixture
def predict(plan):
    actor = Predict(plan, 1)
    yield actor
    actor.database.close()


def rows_of(plan: Plan) -> dict[str, list]:
    entries = list(plan.source.entries())
    return {"key": [os.fsencode(entry.key) for entry in entries], "mark": [entry.mark for entry in entries]}


def counted(actor: Decode, column: sa.Column) -> dict[str, int]:
    with actor.database.read() as connection:
        return dict(connection.execute(sa.select(column, sa.func.count()).group_by(column)).all())


def test_every_file_is_accounted_for_and_every_image_judged_once(plan, decode, predict):
    batch = decode(rows_of(plan))
    states = {one.entry.key: one.state for one in read_taken(batch)}
    assert states["letter.txt"] is State.NOT_ASSESSED
    assert {state for key, state in states.items() if key != "letter.txt"} == {State.QUEUED}
    assert sum(map(bool, batch["work"])) == 5, "the same bytes under two names are one piece of work"
    assert predict(batch)["taken"] == batch["taken"]
    assert counted(decode, instance.c.status) == {"scored": 4, "not_assessed": 2}
    assert counted(decode, job.c.state) == {"done": 5}


def test_a_task_that_is_done_again_at_any_point_doubles_nothing(plan, decode, predict):
    first, second = decode(rows_of(plan)), decode(rows_of(plan))
    predict(first)
    predict(second)
    third = decode(rows_of(plan))
    assert not any(third["work"]), "what is judged is not decoded again"
    predict(third)
    assert counted(decode, prediction.c.current) == {True: 4}
    assert {one.state for one in read_taken(third)} == {State.KNOWN}


def test_a_live_image_that_it_holds_is_delivered_and_no_other(plan, monkeypatch):
    monkeypatch.setattr(actors, "LIVE_WAIT_S", 0)
    destinations = [settings.DestinationSettings(type="folder", name="archive")]
    plan = dataclasses.replace(plan, settings=plan.settings.model_copy(update={"destination": destinations}))
    door = pipeline.build_intake(plan.settings, pipeline.open_database(plan.settings))
    live = door.receive_file(Path(plan.source.name) / "0.dcm", "dicom://CR1@10.0.0.1")
    door.close()
    decoding, predicting = Decode(plan), Predict(plan, 1)
    predicting(decoding({"key": [b"0.dcm", b"1.dcm"], "mark": ["", ""]}))
    with decoding.database.read() as connection:
        told = sa.select(instance.c.id).join(delivery, delivery.c.study == instance.c.study_instance_uid)
        assert list(connection.scalars(told)) == [live.instance_id]
        assert connection.scalars(sa.select(delivery.c.spool)).all() == [plan.spool]
    decoding._decoder.close()
    decoding._intake.close()


def test_it_lets_live_images_pass_but_not_for_ever(plan, decode, monkeypatch):
    monkeypatch.setattr(actors, "LIVE_WAIT_S", 0.6)
    monkeypatch.setattr(actors, "_LOOK_S", 0.05)
    monkeypatch.setattr(actors, "live_waits", lambda *_: True)
    began = time.monotonic()
    assert len(read_taken(decode({"key": [b"0.dcm"], "mark": [""]}))) == 1
    assert time.monotonic() - began >= 0.6


def test_a_host_with_another_spool_or_without_the_model_is_refused(plan, tmp_path):
    elsewhere = plan.settings.model_copy(update={"spool": settings.SpoolSettings(path=tmp_path / "another")})
    with pytest.raises(SettingsError, match="not the spool of the host that began"):
        Decode(Plan(elsewhere, plan.source, plan.owner, plan.token, plan.spool, plan.model, plan.spec))
    database = pipeline.open_database(plan.settings)
    with pytest.raises(ModelUnusable, match="stub/2"):
        load_model(plan.settings, database, "stub/2", 1)
    database.close()


def test_what_may_pass_is_tried_again(monkeypatch):
    monkeypatch.setattr("medd.backfill.door.RETRY_DELAYS_S", (0.0, 0.0))
    told: list[str] = []

    def ask() -> str:
        if len(told) < 2:
            raise TransientError("the database is away")
        return "here"

    assert patiently(ask, told.append) == "here"
    assert told == ["the database is away"] * 2
    told.clear()
    with pytest.raises(TransientError, match="for ever"):
        patiently(lambda: (_ for _ in ()).throw(TransientError("for ever")), lambda _: None)
