"""The closed loop's refusals, with real and very short trainings on synthetic pictures."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from medd.classify.classifier import LoadedModel
from medd.classify.desk import ModelDesk
from medd.errors import ModelUnusable, SettingsError
from medd.hookspecs import ClassifierSpec
from medd.ingest import admission
from medd.ingest.intake import Intake
from medd.learn import gate
from medd.learn.options import TrainOptions
from medd.learn.retrain import Outcome, Request, retrain
from medd.learn.train import train
from medd.plugins import load_plugins
from medd.records import MediaType, ModelChange, ModelEvent
from medd.registry.annotate import Said, annotate
from medd.registry.bundle import file_digest
from medd.store.models import add_event, find_events
from medd.store.spool import Spool
from medd_pneumonia import register_classifiers
from tests.schema import open_new

pytestmark = [
    pytest.mark.train,
    # Keras 3.15 with NumPy 2, while it saves weights; Python does not show it to users.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def trained(two_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A model of the pictures, and what its training told."""
    pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("models") / "paper-first"
    told = StringIO()
    options = TrainOptions.model_validate(
        {"epochs": 1, "steps_per_epoch": 2, "batch_size": 8, "version": "first"}
        | {"preprocess": {"size": 32, "channels": 1}}
    )
    train(two_labels, folder, options, register_classifiers(), console=Console(file=told, width=200))
    return folder, told.getvalue()


class Loop:
    """A home with that model on duty."""

    def __init__(self, home: Path, model: Path, data: Path) -> None:
        self.home, self.data = home, data
        self.database = open_new(home / "medd.db")
        self.spool = Spool(home / "spool")
        self.spool.prepare()
        manager = load_plugins(builtin=(admission,))
        self.intake = Intake(self.database, self.spool, manager)
        [shipped] = [one for one in register_classifiers() if one.name == "paper"]
        spec = ClassifierSpec("paper", load=shipped.load, build=shipped.build, bundle=model)
        self.desk = ModelDesk(self.database, spec, [spec], manager, home / "models")
        self.desk.rows()

    def say(self, path: Path, reader: str = "anna", label: str = "NORMAL") -> None:
        receipt = self.intake.receive_file(path, f"file:{path.name}")
        annotate(self.database, self.desk.spec, [Said(str(receipt.instance_id), label, reader)])

    def retrain(self, **options: object) -> Outcome:
        request = Request(**({"data": self.data, "who": "ward", "min_labels": 0} | options))
        self.told = StringIO()
        return retrain(self.desk, self.spool, request, Console(file=self.told))

    def events(self) -> list[tuple[str, str]]:
        with self.database.read() as connection:
            found = find_events(connection, "paper", kinds=(ModelChange.REFUSED,))
        return [(event.model, event.why) for event in found]

    def close(self) -> None:
        self.intake.close()
        self.database.close()


@pytest.fixture
def loop(trained: tuple[Path, str], two_labels: Path, tmp_path: Path) -> Iterator[Loop]:
    made = Loop(tmp_path, trained[0], two_labels)
    yield made
    made.close()


def side(loop: Loop, wanted: str) -> Path:
    """A picture of the pneumonia folder that stands on a side of the champion's split."""
    from medd.learn.assess import sides_of

    sides = sides_of(loop.desk.champion().path)
    return next(p for p in sorted((loop.data / "PNEUMONIA").iterdir()) if sides[file_digest(p)[:16]] == wanted)


def event(what: ModelChange, ref: str, figures: dict[str, object]) -> ModelEvent:
    return ModelEvent(datetime.now(UTC), "paper", ref, what, "ward", "", figures)


def copy(model: Path, folder: Path, **changes: object) -> Path:
    """A bundle of the same files that says something else of itself."""
    shutil.copytree(model, folder)
    description = folder / "bundle.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | changes))
    return folder


def put_on_duty(loop: Loop, version: str, **changes: object) -> None:
    """Another model of the same weights, by hand."""
    folder = copy(loop.desk.champion().path, loop.home / version, version=version, **changes)
    loop.desk.promote(str(folder), "ward", "")


def untrained(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, before: Callable[[], None] = lambda: None, **changes: object
) -> list[Path]:
    """Instead of training, `before` is called and the first model copied; returns where to."""
    made: list[Path] = []

    def copied(prepared, data_name, output, options, *_):
        before()
        made.append(copy(loop.desk.spec.bundle, output, version=options.version, **changes))

    monkeypatch.setattr("medd.learn.retrain.train_prepared", copied)
    return made


def test_too_few_new_labels_are_refused_with_the_figures(loop):
    loop.say(side(loop, "train"))
    outcome = loop.retrain(min_labels=2)
    assert outcome.promoted is False
    assert outcome.reason == "too few new labels: 1, and 2 are wanted"
    assert (outcome.figures["new_labels"], outcome.figures["corrected"]) == (1, 1)
    assert loop.events() == [("", outcome.reason)]


def test_a_label_counts_as_new_until_the_champion_has_learned_it(loop):
    loop.say(side(loop, "train"))
    figures = {"fingerprint": "00", "newest_annotation": 1}
    with loop.database.write() as connection:  # a model that learned it, and was rolled back since
        add_event(connection, event(ModelChange.PROMOTED, "paper/other", figures))
    assert loop.retrain(min_labels=2).figures["new_labels"] == 1
    with loop.database.write() as connection:
        add_event(connection, event(ModelChange.PROMOTED, "paper/first", figures))
    assert loop.retrain(min_labels=2).figures["new_labels"] == 0


def test_a_label_of_an_image_that_is_gone_is_not_counted(loop, tmp_path, draw):
    path = draw(tmp_path / "new.png", 5)
    loop.say(path)
    loop.spool.path(file_digest(path), MediaType.PNG).unlink()
    outcome = loop.retrain(min_labels=1)
    assert outcome.reason == "too few new labels: 0, and 1 are wanted"


def test_labels_that_contradict_each_other_are_refused(loop):
    loop.say(side(loop, "train"), "anna", "NORMAL")
    loop.say(side(loop, "train"), "ben", "PNEUMONIA")
    outcome = loop.retrain()
    assert outcome.promoted is False
    assert outcome.reason.startswith("contradicting labels: readers disagree about 1 images")


def test_an_image_of_a_locked_patient_is_refused(loop, tmp_path, draw):
    locked = side(loop, "test").stem
    loop.say(draw(tmp_path / f"{locked.rsplit('_', 1)[0]}_999.png", 5))
    outcome = loop.retrain()
    assert outcome.promoted is False
    assert outcome.reason.startswith("patient overlap: 1 images for training")


def test_a_recipe_with_a_file_has_to_be_named(loop):
    training = json.loads((loop.desk.champion().path / "bundle.json").read_text())["training"]
    put_on_duty(loop, "transfer", training=training | {"files": ["weights"]})
    with pytest.raises(SettingsError, match=r"--recipe\. Received: network_options: weights"):
        loop.retrain()


def test_nothing_is_done_when_nothing_has_changed_since_the_last_run(loop):
    loop.say(side(loop, "train"))
    assert loop.retrain(min_labels=5).promoted is False
    again = loop.retrain(min_labels=5, if_changed=True)
    assert (again.promoted, again.reason) == (None, "nothing has changed since the last run")
    assert len(loop.events()) == 1
    loop.say(side(loop, "val"))
    assert loop.retrain(min_labels=5, if_changed=True).promoted is False


def test_another_champion_is_a_change(loop):
    assert loop.retrain(min_labels=5).promoted is False
    put_on_duty(loop, "second")
    assert loop.retrain(min_labels=5, if_changed=True).promoted is False
    assert loop.retrain(min_labels=5, if_changed=True).promoted is None


def test_a_champion_that_came_while_the_candidate_trained_is_not_replaced_unasked(loop, monkeypatch):
    untrained(loop, monkeypatch, lambda: put_on_duty(loop, "second"))
    monkeypatch.setattr(gate, "objection", lambda *_: None)
    outcome = loop.retrain()
    assert outcome.promoted is False
    assert "was to replace paper/first, which is not on duty. Received: paper/second" in outcome.reason
    assert loop.desk.champion().ref == "paper/second"


def test_a_broken_champion_is_not_replaced_by_what_was_compared_with_the_one_before(loop):
    put_on_duty(loop, "second")
    (loop.home / "second" / "bundle.json").unlink()
    assert loop.desk.champion().ref == "paper/first", "workers go on with it"
    with pytest.raises(ModelUnusable, match="second"):
        loop.retrain()


def test_a_candidate_that_is_no_better_is_refused_and_not_trained_again(loop):
    outcome = loop.retrain()  # the same data, recipe and seed: the same model
    assert outcome.promoted is False
    assert outcome.reason.startswith("no better than the model on duty: accuracy")
    assert outcome.figures["comparison"]["n"] > 0
    assert outcome.figures["refused"]["candidate"] == outcome.figures["refused"]["champion"] < 1
    assert loop.desk.champion().ref == "paper/first"
    [row] = [row for row in loop.desk.rows() if row["model"] == outcome.model]
    assert row["role"] == "retired"
    made = (Path(row["path"]) / "bundle.json").stat().st_mtime_ns
    assert loop.retrain().model == outcome.model
    assert (Path(row["path"]) / "bundle.json").stat().st_mtime_ns == made


def test_data_without_the_locked_images_are_refused(loop, tmp_path):
    data = Path(shutil.copytree(loop.data, tmp_path / "data"))
    (data / "PNEUMONIA" / side(loop, "test").name).unlink()
    with pytest.raises(SettingsError, match="DATA is not what the model on duty was tested on"):
        loop.retrain(data=data)


def test_a_refused_candidate_that_was_deleted_is_made_again_under_another_version(loop, monkeypatch):
    made = untrained(loop, monkeypatch)
    first = loop.retrain().model
    shutil.rmtree(made[0])
    second = loop.retrain()
    assert (second.promoted, second.model) == (False, f"{first}-2")
    assert loop.retrain().model == second.model
    assert len(made) == 2, "one that is there is not made again"


@pytest.mark.parametrize(
    "other", [{"labels": ["PNEUMONIA", "NORMAL"]}, {"positive_labels": ["NORMAL"]}], ids=["labels", "positive"]
)
def test_labels_that_the_champion_has_in_another_order_or_meaning_are_not_compared(loop, monkeypatch, other):
    put_on_duty(loop, "second", **other)
    made = untrained(loop, monkeypatch)
    with pytest.raises(SettingsError, match=r"not the labels of paper/second\. Received: NORMAL, PNEUMONIA"):
        loop.retrain()
    assert not made


def test_a_candidate_whose_labels_mean_something_else_is_refused(loop, monkeypatch):
    untrained(loop, monkeypatch, positive_labels=["NORMAL"])
    outcome = loop.retrain()
    assert outcome.promoted is False
    assert outcome.reason == "its labels do not mean what those of the model on duty mean"


def test_the_gate_is_asked_with_what_both_refuse_to_judge(loop, monkeypatch):
    untrained(loop, monkeypatch)
    judged = LoadedModel.refused
    monkeypatch.setattr(
        LoadedModel, "refused", lambda model, said: judged(model, said) | (model.bundle.version != "first")
    )
    asked = []
    monkeypatch.setattr(gate, "objection", lambda found, one, other: asked.append((one.all(), other.all())) or "no")
    outcome = loop.retrain()
    assert asked == [(True, False)]
    assert outcome.figures["refused"]["candidate"] == 1
    assert outcome.figures["refused"]["champion"] < 1


def test_a_training_that_diverges_is_on_record_and_not_tried_again_every_night(loop, monkeypatch):
    def diverge() -> None:
        raise ModelUnusable("training diverged")

    untrained(loop, monkeypatch, diverge)
    outcome = loop.retrain()
    assert (outcome.promoted, outcome.reason) == (False, "training diverged")
    assert loop.events() == [("", "training diverged")]
    assert loop.retrain(if_changed=True).promoted is None


def test_a_candidate_that_cannot_score_is_on_record(loop, monkeypatch):
    untrained(loop, monkeypatch)
    judge = LoadedModel.explain

    def fail(model, batch):
        if model.bundle.version == "first":
            return judge(model, batch)
        raise ModelUnusable("probabilities do not sum to 1")

    monkeypatch.setattr(LoadedModel, "explain", fail)
    outcome = loop.retrain()
    assert (outcome.promoted, outcome.reason) == (False, "probabilities do not sum to 1")
    assert loop.events() == [(outcome.model, outcome.reason)]


def test_images_to_refuse_are_asked_for_again_and_are_part_of_what_may_change(loop, monkeypatch, draw, tmp_path):
    untrained(loop, monkeypatch)
    about = json.loads((loop.desk.champion().path / "bundle.json").read_text())
    put_on_duty(loop, "taught", training=about["training"] | {"outliers": 1})
    film = draw(tmp_path / "adult.png", 7)
    asked = "paper/taught was shown images to refuse; without --outliers the candidate knows of none"
    assert loop.retrain(outliers=film).promoted is not None
    assert asked not in loop.told.getvalue()
    assert loop.retrain(outliers=film, if_changed=True).promoted is None
    draw(film, 8)
    assert loop.retrain(outliers=film, if_changed=True).promoted is not None
    assert loop.retrain(if_changed=True).promoted is not None
    assert asked in loop.told.getvalue()
