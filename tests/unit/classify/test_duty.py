"""A worker that keeps in step with the registry, and a candidate in its shadow."""

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import sqlalchemy as sa

from medd import hookimpl, stuck
from medd.classify import classifier, duty, prepare
from medd.classify.duty import Duty
from medd.classify.prepare import prepare_file
from medd.classify.stage import ClassifyStage
from medd.errors import ModelUnusable
from medd.ingest import admission
from medd.ingest.intake import Intake
from medd.plugins import load_plugins
from medd.queue.base import CLASSIFY
from medd.queue.sql import SqlQueue
from medd.records import ModelVersion
from medd.registry import changes
from medd.registry.changes import Change
from medd.store.database import Database
from medd.store.repository import ResultFilter, find_results
from medd.store.spool import Spool
from medd.store.tables import model_event, prediction
from medd.testing import cheap_series, stub_bundle, stub_plugin
from medd.testing.stub_plugin import spec
from tests.schema import open_new
from tests.support import in_place

WARD = Change("ward", "a test")


class Ward:
    """A database and a spool with films that wait, a registry with "stub/1" on duty, and a worker's stage."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.database = open_new(home / "medd.db")
        self.spool = Spool(home / "spool")
        self.spool.prepare()
        self.plugins = load_plugins(builtin=(admission, stub_plugin))
        self.intake = Intake(self.database, self.spool, self.plugins)
        self.queue = SqlQueue(self.database, "ward", spool=self.spool.id)
        self.spec = spec(stub_bundle(home / "shipped"))
        self.start()

    def start(self) -> None:
        self.mark = self.home / "candidate-0"
        self.duty = Duty(self.database, self.spec, [self.spec], threads=1, look_s=0, mark=self.mark)
        self.stage = ClassifyStage(
            self.duty.champion, self.spool, self.queue, self.plugins, in_place(prepare_file), self.duty
        )

    def receive(self, count: int, seed: int = 0) -> None:
        for number, film in enumerate(cheap_series(count, rows=64, columns=64, seed=seed)):
            path = self.home / f"film-{seed}-{number}.dcm"
            path.write_bytes(film)
            self.intake.receive_file(path, f"file:{path.name}")

    def work(self) -> None:
        self.stage.handle(self.queue.claim(CLASSIFY, 32))()

    def register(self, version: str, **options) -> ModelVersion:
        folder = stub_bundle(self.home / f"stub-{version}", version=version, **options)
        return changes.register(self.database, folder, [self.spec], WARD)

    def promote(self, model: ModelVersion) -> None:
        changes.promote(self.database, model, self.plugins, WARD)

    def set_candidate(self, model: ModelVersion) -> None:
        changes.set_candidate(self.database, model, WARD)

    def shown(self) -> list[str]:
        with self.database.read() as connection:
            return [row["model"] for row in find_results(connection, ResultFilter())][::-1]

    def shadows(self) -> list[tuple[int, str]]:
        columns = sa.select(prediction.c.instance_id, prediction.c.model).order_by(prediction.c.id)
        with self.database.read() as connection:
            return [tuple(row) for row in connection.execute(columns.where(prediction.c.shadow))]

    def set_aside(self) -> list[str]:
        events = sa.select(model_event.c.model).where(model_event.c.what == "set_aside")
        with self.database.read() as connection:
            return list(connection.scalars(events))

    def close(self) -> None:
        self.intake.close()
        self.database.close()


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    made = Ward(tmp_path)
    yield made
    made.close()


class Failing:
    """A candidate's network that fails, in one way or another."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.calls = 0

    def predict(self, batch: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.how == "raises":
            raise RuntimeError("out of memory")
        return np.full((len(batch), 2), np.nan, np.float32)


# The champion


def test_a_new_champion_is_taken_between_two_batches(ward):
    ward.receive(2)
    ward.work()
    ward.promote(ward.register("2"))
    ward.receive(2, seed=1)
    ward.work()
    assert ward.shown() == ["stub/1", "stub/1", "stub/2", "stub/2"]


def test_a_batch_in_hand_is_finished_by_the_model_that_began_it(ward):
    ward.receive(2)
    commit = ward.stage.handle(ward.queue.claim(CLASSIFY, 32))
    ward.promote(ward.register("2"))
    commit()
    assert ward.shown() == ["stub/1", "stub/1"]


def test_after_a_rollback_the_earlier_one_works_again(ward):
    ward.promote(ward.register("2"))
    ward.receive(1)
    ward.work()
    changes.rollback(ward.database, "stub", ward.plugins, WARD)
    ward.receive(1, seed=1)
    ward.work()
    assert ward.shown() == ["stub/2", "stub/1"]


def test_the_registry_is_asked_once_in_a_while_only(ward):
    ward.duty._look_s = 3600
    ward.duty.look()
    ward.promote(ward.register("2"))
    ward.receive(1)
    ward.work()
    assert ward.shown() == ["stub/1"]


def test_a_new_champion_that_cannot_be_read_is_set_aside_and_the_old_one_goes_on(ward, caplog):
    model = ward.register("2")
    ward.promote(model)
    (model.path / "stub.json").write_text("damaged")
    with caplog.at_level(logging.ERROR):
        for seed in range(3):
            ward.receive(1, seed=seed)
            ward.work()
    assert ward.shown() == ["stub/1"] * 3
    assert ward.set_aside() == ["stub/2"]
    assert [record.event for record in caplog.records] == ["model.set_aside"]


def test_a_start_with_a_broken_champion_falls_back_on_the_one_before(ward):
    model = ward.register("2")
    ward.promote(model)
    (model.path / "bundle.json").unlink()
    ward.start()
    ward.receive(1)
    ward.work()
    assert ward.shown() == ["stub/1"]
    assert ward.set_aside() == ["stub/2"]


def test_a_start_without_any_usable_model_is_refused(ward):
    (ward.home / "shipped" / "stub.json").unlink()
    with pytest.raises(ModelUnusable, match="no model that can be used"):
        ward.start()


def test_no_new_look_fails_while_the_database_is_away(ward):
    ward.duty._database = Database(f"sqlite:///{ward.home / 'nowhere' / 'medd.db'}")
    ward.duty.look()
    assert ward.duty.champion.bundle.ref == "stub/1"


# The candidate


def test_a_candidate_scores_the_same_images_and_nobody_is_told(ward):
    told = []
    ear = SimpleNamespace(prediction_recorded=hookimpl(lambda prediction: told.append(prediction.model)))
    ward.plugins.register(ear, "ear")
    ward.set_candidate(ward.register("2", size=32, channels=3))  # it may want another input
    ward.receive(2)
    ward.work()
    assert ward.shown() == ["stub/1", "stub/1"]
    assert ward.shadows() == [(1, "stub/2"), (2, "stub/2")]
    assert told == ["stub/1", "stub/1"]


def test_a_withdrawn_candidate_scores_no_more(ward):
    ward.set_candidate(ward.register("2"))
    ward.receive(1)
    ward.work()
    changes.withdraw(ward.database, "stub", WARD)
    ward.receive(1, seed=1)
    ward.work()
    assert len(ward.shadows()) == 1


def test_a_promoted_candidate_shows_its_scores_from_then_on(ward):
    model = ward.register("2")
    ward.set_candidate(model)
    ward.receive(1)
    ward.work()
    ward.promote(model)
    ward.receive(1, seed=1)
    ward.work()
    assert ward.shown() == ["stub/1", "stub/2"]
    assert ward.shadows() == [(1, "stub/2")]


def test_a_candidate_that_hangs_ends_its_process_too(ward):
    ward.set_candidate(ward.register("2"))
    ward.duty.look()
    bounded: list[list[str]] = []

    class Watched(Failing):
        def predict(self, batch: np.ndarray) -> np.ndarray:
            bounded.append([what for _, what in stuck._calls.values()])
            return super().predict(batch)

    object.__setattr__(ward.duty.candidate, "classifier", Watched("raises"))
    ward.receive(1)
    ward.work()
    assert bounded == [["the candidate"]]


def test_a_candidate_over_which_a_worker_ended_is_not_asked_again_until_it_is_set_again(ward):
    model = ward.register("2")
    ward.set_candidate(model)
    ward.duty.look()
    found: list[str] = []

    class Watched(Failing):
        def predict(self, batch: np.ndarray) -> np.ndarray:
            found.append(ward.mark.read_text())
            return super().predict(batch)

    object.__setattr__(ward.duty.candidate, "classifier", Watched("raises"))
    ward.receive(1)
    ward.work()
    assert not ward.mark.exists(), "what it survived leaves no mark"
    ward.mark.write_text(found[0])  # as of a process that was ended in between
    ward.start()
    ward.duty.look()
    assert ward.duty.candidate is not None, "once may be a power failure"
    object.__setattr__(ward.duty.candidate, "classifier", Watched("raises"))
    ward.receive(1, seed=9)
    ward.work()
    assert found[1] == f"{found[0]}\n{found[0]}"
    ward.mark.write_text(found[1])  # as of a second process that was ended
    for seed in (1, 2):
        ward.start()
        ward.receive(1, seed=seed)
        ward.work()
        assert ward.duty.candidate is None
    assert ward.shown() == ["stub/1"] * 4
    assert ward.set_aside() == ["stub/2"]
    changes.withdraw(ward.database, "stub", WARD)
    ward.duty.look()
    ward.set_candidate(model)
    ward.receive(1, seed=3)
    ward.work()
    assert ward.shadows() == [(5, "stub/2")]


@pytest.mark.parametrize("failure", [MemoryError(), ValueError("reshape"), cv2.error("resize")])
def test_an_input_that_cannot_be_made_for_the_candidate_costs_the_champion_nothing(ward, monkeypatch, failure):
    ward.set_candidate(ward.register("2", size=32))

    def fussy(image, spec, age):
        if spec.size == 32:
            raise failure
        return classifier.prepare(image, spec, age)

    monkeypatch.setattr(prepare, "prepare", fussy)
    for seed in range(3):
        ward.receive(1, seed=seed)
        ward.work()
    assert ward.shown() == ["stub/1"] * 3
    assert ward.set_aside() == ["stub/2"]


@pytest.mark.parametrize("how", ["raises", "returns nonsense"])
def test_a_failing_candidate_harms_no_result_and_is_set_aside_in_the_end(ward, how):
    model = ward.register("2")
    ward.set_candidate(model)
    ward.duty.look()
    network = Failing(how)
    object.__setattr__(ward.duty.candidate, "classifier", network)
    for seed in range(5):
        ward.receive(1, seed=seed)
        ward.work()
    assert ward.shown() == ["stub/1"] * 5
    assert ward.shadows() == []
    assert ward.set_aside() == ["stub/2"]
    assert network.calls == 3
    changes.withdraw(ward.database, "stub", WARD)
    ward.duty.look()
    ward.set_candidate(model)
    ward.receive(1, seed=5)
    ward.work()
    assert [model for _, model in ward.shadows()] == ["stub/2"]


def test_a_candidate_that_cannot_be_read_is_set_aside(ward):
    model = ward.register("2")
    ward.set_candidate(model)
    (model.path / "stub.json").unlink()
    ward.receive(1)
    ward.work()
    assert ward.shown() == ["stub/1"]
    assert ward.set_aside() == ["stub/2"]


def test_a_candidate_that_could_not_be_read_is_tried_again_after_a_while(ward, monkeypatch):
    model = ward.register("2")
    ward.set_candidate(model)
    content = (model.path / "stub.json").read_bytes()
    (model.path / "stub.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(duty, "_AGAIN_S", 0.0)
        ward.duty.look()
    assert ward.duty.candidate is None
    (model.path / "stub.json").write_bytes(content)
    ward.receive(1)
    ward.work()
    assert ward.shadows() == [(1, "stub/2")]


def test_a_candidate_that_could_not_be_read_is_left_alone_at_first(ward):
    earlier, model = ward.register("2"), ward.register("3")
    ward.set_candidate(earlier)
    ward.duty.look()
    ward.set_candidate(model)
    content = (model.path / "stub.json").read_bytes()
    (model.path / "stub.json").unlink()
    ward.duty.look()
    (model.path / "stub.json").write_bytes(content)
    ward.duty.look()
    assert ward.duty.candidate is None


def test_a_damaged_image_is_no_fault_of_the_candidate(ward):
    ward.set_candidate(ward.register("2"))
    ward.receive(4)
    for file in list(ward.spool.root.glob("*/*.dcm"))[:3]:
        file.write_bytes(b"damaged")
    ward.work()
    assert ward.set_aside() == []
    assert len(ward.shadows()) == 1
