from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
import sqlalchemy as sa

from medd import hookimpl
from medd.classify.classifier import LoadedModel, Scores, load
from medd.classify.prepare import prepare_file
from medd.classify.stage import ClassifyStage
from medd.errors import Casualty, ModelUnusable
from medd.ingest import admission
from medd.ingest.intake import Intake
from medd.plugins import load_plugins
from medd.queue.base import CLASSIFY, JobState
from medd.queue.sql import SqlQueue
from medd.records import Attachment, Job
from medd.registry import bundle as bundles
from medd.registry.bundle import Gate
from medd.store.repository import ResultFilter, find_attachments, find_results
from medd.store.spool import Spool
from medd.store.studies import WorklistFilter, find_worklist
from medd.store.tables import job, prediction
from medd.testing import EXPECTED_REASONS, bad_inputs, cheap_series, stub_bundle, stub_plugin
from medd.testing.stub_plugin import spec
from tests.schema import open_new
from tests.support import in_place


class Room:
    """A spool and a database with images in them, and a stage that scores them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.database = open_new(home / "medd.db")
        self.spool = Spool(home / "spool")
        self.spool.prepare()
        self.plugins = load_plugins(builtin=(admission, stub_plugin))
        self.intake = Intake(self.database, self.spool, self.plugins)
        self.queue = SqlQueue(self.database, "room", spool=self.spool.id)

    def receive(self, *files: Path) -> list[int]:
        return [self.intake.receive_file(file, f"file:{file.name}").instance_id for file in files]

    def films(self, count: int) -> list[int]:
        """Pending films, the brighter the later."""
        files = []
        for number, film in enumerate(cheap_series(count, rows=64, columns=64, bits=8)):
            files.append(self.home / f"film{number}.dcm")
            grey = 40 + 180 * number // max(1, count - 1)
            rng = np.random.default_rng(number)
            pixels = np.clip(grey + rng.integers(-30, 31, 64 * 64), 0, 255).astype(np.uint8)
            files[-1].write_bytes(film[: -64 * 64] + pixels.tobytes())
        return self.receive(*files)

    def stage(self, model: LoadedModel) -> ClassifyStage:
        return ClassifyStage(model, self.spool, self.queue, self.plugins, in_place(prepare_file))

    def work(self, model: LoadedModel, limit: int = 32) -> list[Job]:
        jobs = self.queue.claim(CLASSIFY, limit)
        self.stage(model).handle(jobs)()
        return jobs

    def stub(self, labels: Sequence[str] = ("NORMAL", "PNEUMONIA"), **options: object) -> LoadedModel:
        return load(stub_bundle(self.home / "bundle", labels, **options), [spec()])

    def rows(self) -> dict[int, dict]:
        with self.database.read() as connection:
            return {row["instance_id"]: row for row in find_results(connection, ResultFilter())}

    def jobs(self) -> dict[int, sa.Row]:
        with self.database.read() as connection:
            return {row.instance_id: row for row in connection.execute(job.select())}

    def predictions(self) -> int:
        with self.database.read() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(prediction))

    def close(self) -> None:
        self.intake.close()
        self.database.close()


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.close()


class Handmade:
    """A classifier whose answers a test decides."""

    def __init__(self, answer: Callable[[np.ndarray], np.ndarray]) -> None:
        self.answer = answer
        self.batches: list[int] = []

    def predict(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append(len(batch))
        return self.answer(batch)


def model_of(room: Room, answer: Callable[[np.ndarray], np.ndarray], **options: object) -> LoadedModel:
    return LoadedModel(bundles.read(stub_bundle(room.home / "bundle", **options)), Handmade(answer))


def brightness(batch: np.ndarray) -> np.ndarray:
    mean = batch.mean(axis=(1, 2, 3))
    return np.stack([1 - mean, mean], axis=1)


# Scores


def test_every_image_gets_its_own_score(room):
    ids = room.films(5)
    room.work(room.stub())
    rows = room.rows()
    scores = [rows[id_]["probability"] for id_ in ids]
    assert scores == sorted(scores)
    assert scores[0] < 0.3 < 0.7 < scores[-1]
    assert {row["status"] for row in rows.values()} == {"scored"}
    assert {row.state for row in room.jobs().values()} == {"done"}
    assert rows[ids[0]]["label"] == "NORMAL"
    assert rows[ids[-1]]["label"] == "PNEUMONIA"
    assert rows[ids[0]]["model"] == "stub/1"


def test_images_that_wait_are_scored_together(room):
    room.films(4)
    model = model_of(room, brightness)
    room.work(model)
    assert model.classifier.batches == [4]


def test_three_labels_work_as_well_as_two(room):
    ids = room.films(3)

    def answer(batch: np.ndarray) -> np.ndarray:
        return np.array([[0.7, 0.2, 0.1], [0.3, 0.25, 0.45], [0.45, 0.3, 0.25]], np.float32)[: len(batch)]

    about = bundles.read(stub_bundle(room.home / "bundle", ("NORMAL", "BACTERIA", "VIRUS")))
    about = about.model_copy(update={"positive_labels": ("BACTERIA", "VIRUS")})
    room.work(LoadedModel(about, Handmade(answer)))
    rows = [room.rows()[id_] for id_ in ids]
    assert [row["probability"] for row in rows] == pytest.approx([0.3, 0.7, 0.55])
    # The third: NORMAL alone is the likeliest label, yet both findings together pass the threshold.
    assert [(row["label"], row["positive"]) for row in rows] == [
        ("NORMAL", False),
        ("VIRUS", True),
        ("BACTERIA", True),
    ]
    assert list(rows[0]["probabilities"]) == ["NORMAL", "BACTERIA", "VIRUS"]


@pytest.mark.parametrize(("probability", "positive"), [(0.5, True), (0.5 - 2**-24, False), (0.75, True)])
def test_threshold_itself_is_positive(room, probability, positive):
    [id_] = room.films(1)
    answer = np.array([[1 - probability, probability]], np.float32)
    room.work(model_of(room, lambda _: answer, threshold=0.5))
    row = room.rows()[id_]
    assert (row["positive"], row["label"]) == (positive, "PNEUMONIA" if positive else "NORMAL")
    assert row["threshold"] == 0.5


# What cannot be scored


def test_bad_images_fail_alone_each_with_its_reason(room):
    files = bad_inputs(room.home / "bad")
    wanted = {name: reason for name, reason in EXPECTED_REASONS.items() if not files[name].is_dir()}
    bad = dict(zip(wanted, room.receive(*(files[name] for name in wanted)), strict=True))
    good = room.films(3)
    while room.work(room.stub()):
        pass
    rows = room.rows()
    assert {name: rows[id_]["reason"] for name, id_ in bad.items()} == wanted
    for name, id_ in bad.items():
        assert rows[id_]["status"] == ("not_assessed" if wanted[name] else "scored")
        assert (rows[id_]["label"] is None) == (wanted[name] is not None)  # "not assessed" is never "normal"
    assert {rows[id_]["status"] for id_ in good} == {"scored"}
    assert {row.state for row in room.jobs().values()} == {"done"}


def test_studies_follow_in_the_commit_of_the_results(room):
    room.films(3)
    room.receive(*(file for file in bad_inputs(room.home / "bad").values() if file.is_file()))
    while room.work(room.stub()):
        pass
    results = {row["instance_id"]: row for row in room.rows().values()}
    with room.database.read() as connection:
        studies = find_worklist(connection, WorklistFilter(), datetime.now(UTC), None, 100)
    assert sum(row["images"] for row in studies) == len(results)
    assert {row["status"] for row in studies} == {"scored", "not_assessed"}
    for row in studies:
        decides = results[row["instance_id"]]
        assert [row[name] for name in ("probability", "label", "model")] == [
            decides[name] for name in ("probability", "label", "model")
        ]


def test_image_that_a_classifier_raises_on_fails_alone(room):
    ids = room.films(4)

    def moody(batch: np.ndarray) -> np.ndarray:
        if batch.mean(axis=(1, 2, 3)).max() > 0.75:
            raise ValueError("too bright for me")
        return brightness(batch)

    room.work(model_of(room, moody))
    rows, jobs = room.rows(), room.jobs()
    assert [rows[id_]["status"] for id_ in ids] == ["scored", "scored", "scored", "pending"]
    assert jobs[ids[3]].state == "pending"
    assert jobs[ids[3]].available_at > datetime.now(UTC)
    assert "classifier raised ValueError" in jobs[ids[3]].error


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda batch: np.zeros((len(batch), 2), np.float32), "do not sum to 1"),
        (lambda batch: np.full((len(batch), 2), np.nan, np.float32), "do not sum to 1"),
        (lambda batch: np.ones((len(batch), 1), np.float32), "one row per image"),
        (lambda batch: np.array([[1.5, -0.5]] * len(batch), np.float32), r"in \[0, 1\]"),
    ],
    ids=["zeros", "nan", "shape", "outside"],
)
def test_what_is_no_distribution_is_no_score(room, answer, message):
    [id_] = room.films(1)
    model = model_of(room, answer)
    with pytest.raises(ModelUnusable, match=message):
        model.predict(np.zeros((1, 64, 64, 1), np.float32))
    room.work(model)
    assert room.rows()[id_]["status"] == "pending"
    assert room.predictions() == 0
    assert "stub/1" in room.jobs()[id_].error


def test_work_that_fails_too_often_is_buried_and_plugins_are_told(room):
    [id_] = room.films(1)
    room.queue.max_attempts = 1
    heard: list[tuple] = []

    class Undertaker:
        @hookimpl
        def job_buried(self, instance_id, reason) -> None:
            heard.append((instance_id, reason))

    def fails(_batch: np.ndarray) -> np.ndarray:
        raise ValueError

    room.plugins.register(Undertaker())
    room.work(model_of(room, fails))
    row = room.rows()[id_]
    assert (row["status"], row["reason"], row["label"]) == ("failed", "retries_exhausted", None)
    assert heard == [(id_, "stub/1: classifier raised ValueError()")]
    assert room.queue.counts(CLASSIFY)[JobState.DEAD] == 1


@pytest.mark.parametrize("damage", ["missing", "cut", "altered"])
def test_damaged_bytes_are_never_scored_and_do_not_stop_the_others(room, damage):
    lost, kept = room.films(2)
    path = room.spool.path(room.rows()[lost]["sha256"], "application/dicom")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    if damage == "altered":
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()
    room.work(room.stub())
    assert room.rows()[kept]["status"] == "scored"
    assert (room.rows()[lost]["status"], room.rows()[lost]["label"]) == ("pending", None)
    assert "spool: " in room.jobs()[lost].error
    # The sender tries again, and all is well.
    assert room.receive(room.home / "film0.dcm") == [lost]
    with room.database.write() as connection:
        connection.execute(job.update().values(available_at=None))
    room.work(room.stub())
    assert room.rows()[lost]["status"] == "scored"


# Claims


def test_prediction_of_a_lost_claim_is_not_stored(room):
    stale, ours = room.films(2)
    jobs = room.queue.claim(CLASSIFY, 2)
    commit = room.stage(room.stub()).handle(jobs)
    with room.database.write() as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(job.update().where(job.c.instance_id == stale).values(lease_until=past))
    room.queue.recover(CLASSIFY)
    commit()
    assert room.rows()[stale]["status"] == "pending"
    assert room.rows()[ours]["status"] == "scored"
    assert room.predictions() == 1
    room.work(room.stub())
    assert room.rows()[stale]["status"] == "scored"
    assert room.predictions() == 2


def test_commit_that_is_tried_again_changes_nothing_more(room):
    ids = room.films(3)
    told: list[int] = []

    class Listening:
        @hookimpl
        def prediction_recorded(self, prediction) -> None:
            told.append(prediction.instance_id)

    room.plugins.register(Listening())
    commit = room.stage(room.stub()).handle(room.queue.claim(CLASSIFY, 3))
    commit()
    commit()
    assert sorted(told) == ids
    assert room.predictions() == 3


def test_plugins_are_told_of_a_prediction_after_it_is_committed(room):
    [id_] = room.films(1)
    seen: list[str] = []

    class Listening:
        @hookimpl
        def prediction_recorded(self, prediction) -> None:
            seen.append(room.rows()[prediction.instance_id]["status"])
            raise RuntimeError("and then it fails")

    room.plugins.register(Listening())
    room.work(room.stub())
    assert seen == ["scored"]
    assert room.jobs()[id_].state == "done"


class _Telling:
    """A classifier that says how novel an image is, and where it looked."""

    def __init__(self, *novelty: float) -> None:
        self.novelty = np.array(novelty, np.float32)

    def predict(self, batch: np.ndarray) -> np.ndarray:
        return np.tile(np.float32([0.2, 0.8]), (len(batch), 1))

    def explain(self, batch: np.ndarray) -> Scores:
        heat = np.tile(np.float32([[0, 1], [2, 4]]), (len(batch), 1, 1))
        return Scores(self.predict(batch), self.novelty[: len(batch)], heat)


def test_the_unfamiliar_is_not_assessed_and_the_others_are_scored(room):
    first, second = room.films(2)
    bundle = room.stub().bundle.model_copy(update={"gate": Gate(threshold=1.5)})
    room.work(LoadedModel(bundle, _Telling(1.0, 2.0)))
    assert room.rows()[first]["status"] == "scored"
    refused = room.rows()[second]
    assert (refused["status"], refused["reason"], refused["label"]) == ("not_assessed", "unfamiliar", None)
    assert room.queue.rescore(CLASSIFY, bundle.ref) == 0, "it would refuse it again"
    assert room.queue.rescore(CLASSIFY, "stub/2") == 2


def test_heat_and_what_plugins_add_are_attached_to_the_prediction(room):
    class Explaining:
        @hookimpl
        def explain_prediction(self, image, prediction) -> list[Attachment]:
            return [Attachment("size", "text/plain", f"{image.shape[0]} {prediction.label}".encode())]

    class Failing:
        @hookimpl
        def explain_prediction(self, classifier) -> list[Attachment]:
            raise RuntimeError("no idea")

    room.plugins.register(Explaining())
    room.plugins.register(Failing())
    model = LoadedModel(room.stub().bundle, _Telling(1.0))
    [id_] = room.films(1)
    room.work(model)
    with room.database.read() as connection:
        heat, size = find_attachments(connection, id_)
    assert (heat.name, heat.media_type) == ("heat", "image/png")
    decoded = cv2.imdecode(np.frombuffer(heat.content, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert decoded.tolist() == [[0, 64], [128, 255]]
    side = model.bundle.preprocess.size
    assert size == Attachment("size", "text/plain", f"{side} {model.bundle.labels[1]}".encode())


def test_age_and_brightness_are_kept_with_the_prediction(room):
    film = pydicom.dcmread(BytesIO(next(iter(cheap_series(1, rows=64, columns=64)))))
    film.PatientAge = "071Y"
    film.save_as(room.home / "old.dcm")
    [id_] = room.receive(room.home / "old.dcm")
    bundle = room.stub().bundle.model_copy(update={"age_years": (1, 5)})
    room.work(LoadedModel(bundle, _Telling(1.0)))
    assert room.rows()[id_]["flags"] == ["age_outside_training"]
    with room.database.read() as connection:
        mean, std = connection.execute(sa.select(prediction.c.input_mean, prediction.c.input_std)).one()
    assert 0 < mean < 1
    assert 0 < std < 1


def test_no_jobs_are_no_work(room):
    room.stage(room.stub()).handle([])()
    assert room.predictions() == 0


# Files that end their decoder


def test_a_file_that_ends_its_decoder_twice_has_failed_and_the_others_are_scored(room):
    ids = room.films(3)
    killer = room.rows()[ids[1]]["sha256"]
    orders = []

    def decode(batch):
        orders.append(len(batch))
        made = in_place(prepare_file)(batch)
        died = Casualty("ended its process (SIGSEGV)")
        return [died if order.sha256 == killer else one for order, one in zip(batch, made, strict=True)]

    stage = ClassifyStage(room.stub(), room.spool, room.queue, room.plugins, decode)
    stage.handle(room.queue.claim(CLASSIFY, 32))()
    assert [room.rows()[id_]["status"] for id_ in ids] == ["scored", "pending", "scored"]
    with room.database.write() as connection:
        connection.execute(job.update().values(available_at=None))
    stage.handle(room.queue.claim(CLASSIFY, 32))()
    assert orders == [3, 1]
    assert (room.rows()[ids[1]]["status"], room.rows()[ids[1]]["reason"]) == ("failed", "retries_exhausted")
    assert room.jobs()[ids[1]].error == "ended its process (SIGSEGV)"
