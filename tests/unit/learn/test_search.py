"""Searches over real, very small trainings."""

import csv
import gc
import warnings
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from medd.errors import ModelUnusable, SettingsError
from medd.learn import search as module
from medd.learn.options import TrainOptions
from medd.learn.search import Dimension, apply, finished, parse, rows, search
from medd_pneumonia import register_classifiers

needs_tensorflow = pytest.mark.train

# Keras 3.15 with NumPy 2, while it saves weights; Python does not show it to users.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

OPTIONS = TrainOptions(epochs=1, steps_per_epoch=1, batch_size=4, preprocess={"size": 32, "channels": 1})
WANTED = ["learning_rate=1e-4:1e-2:log", "dropout=0.2:0.6"]


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("learning_rate=1e-4:1e-2:log", Dimension("optimizer.learning_rate", 1e-4, 1e-2, log=True)),
        ("optimizer.learning_rate=0.001:0.01", Dimension("optimizer.learning_rate", 1e-3, 1e-2)),
        ("dropout=0:1", Dimension("dropout", 0, 1)),
        ("batch_size=8:64:log", Dimension("batch_size", 8, 64, log=True, whole=True)),
        ("batch_size=16,32", Dimension("batch_size", choices=(16, 32))),
        ("head=sigmoid,softmax", Dimension("head", choices=("sigmoid", "softmax"))),
        ("flip=true,false", Dimension("augmentation.flip", choices=(True, False))),
    ],
)
def test_what_is_searched_is_a_range_or_a_choice(text, dimension):
    assert parse(text) == dimension


@pytest.mark.parametrize(
    "text",
    ["dropout", "dropout=", "dropout=0.6:0.2", "dropout=a:b", "dropout=0:1:log", "batch_size=1.5:3", "nothing=1:2",
     "seed=0:9", "split_seed=0,1", "size=32,64"],
)  # fmt: skip
def test_what_cannot_be_searched_is_one_line(text):
    with pytest.raises(SettingsError, match="--search"):
        parse(text)


def test_chosen_values_take_their_place_in_the_recipe():
    made = apply(OPTIONS, {"optimizer.learning_rate": 0.5, "dropout": 0.1})
    assert made == OPTIONS.model_copy(
        update={"dropout": 0.1, "optimizer": OPTIONS.optimizer.model_copy(update={"learning_rate": 0.5})}
    )
    with pytest.raises(SettingsError, match="dropout"):
        apply(OPTIONS, {"dropout": 1.5})


def run(data: Path, output: Path, trials: int, wanted: list[str] = WANTED, **named: Any) -> Any:
    pytest.importorskip("tensorflow")
    pytest.importorskip("optuna")
    console = Console(file=StringIO())
    dimensions = [parse(text) for text in wanted]
    specs = register_classifiers()
    return search(data, output, dimensions, trials, (0,), OPTIONS, specs, console=console, **named)


@needs_tensorflow
def test_a_search_goes_on_where_it_stopped(two_labels, tmp_path):
    first = {trial.number: trial.params for trial in finished(run(two_labels, tmp_path, 2))}
    assert len(first) == 2
    study = run(two_labels, tmp_path, 4)
    found = rows(study)
    assert len(found) == 4
    assert {number: study.trials[number].params for number in first} == first
    assert len({row["dropout"] for row in found}) == 4
    values = [row["validation_auroc"] for row in found]
    assert values == sorted(values, reverse=True)
    assert all(0.2 <= row["dropout"] <= 0.6 and 1e-4 <= row["optimizer.learning_rate"] <= 1e-2 for row in found)
    table = list(csv.DictReader((tmp_path / "trials.csv").read_text().splitlines()))
    assert [int(row["trial"]) for row in table] == [row["trial"] for row in found]


@needs_tensorflow
def test_a_trial_that_was_killed_is_tried_again(two_labels, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "fit", _killed)
        with pytest.raises(SystemExit):
            run(two_labels, tmp_path, 1)
    _pretend_still_running(tmp_path)
    study = run(two_labels, tmp_path, 1)
    assert len(finished(study)) == 1
    assert finished(study)[0].params == study.trials[0].params
    assert len(study.trials) == 2


def _killed(*_: Any, **__: Any) -> None:
    raise SystemExit


def _pretend_still_running(output: Path) -> None:
    """Optuna notes a trial that an exception ended; a killed process has no time to."""
    import sqlite3

    with sqlite3.connect(output / "search.db") as database:
        database.execute("UPDATE trials SET state = 'RUNNING', datetime_complete = NULL")
    database.close()


@needs_tensorflow
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_trial_that_a_stop_or_a_crash_cut_short_is_tried_again_once(two_labels, tmp_path, monkeypatch, error):
    def stop(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(module, "fit", stop)
        with pytest.raises(error):
            run(two_labels, tmp_path, 1)
    study = run(two_labels, tmp_path, 1)
    assert [(row["trial"], row["failed"]) for row in rows(study)] == [(1, False)]
    assert study.trials[1].params == study.trials[0].params
    assert len(run(two_labels, tmp_path, 1).trials) == 2


@needs_tensorflow
def test_a_validation_part_of_one_class_ends_the_search_nevertheless(two_labels, tmp_path, monkeypatch):
    monkeypatch.setattr(module.metrics, "figures", lambda *_: {"auroc": float("nan")})
    assert [row["failed"] for row in rows(run(two_labels, tmp_path, 1))] == [True]


@needs_tensorflow
def test_a_training_that_diverges_is_a_trial_that_failed(two_labels, tmp_path, monkeypatch):
    def diverge(*_: Any, **__: Any) -> None:
        raise ModelUnusable("training diverged")

    monkeypatch.setattr(module, "fit", diverge)
    found = rows(run(two_labels, tmp_path, 2))
    assert [(row["validation_auroc"], row["failed"]) for row in found] == [(None, True)] * 2


@pytest.fixture
def shared(database_url: str) -> Iterator[str]:
    """The URL of a database for a study; optuna leaves its connections to the garbage collector."""
    yield database_url
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@needs_tensorflow
def test_hosts_that_share_a_study_share_the_work(two_labels, tmp_path, monkeypatch, shared):
    def judged(*_: Any, **__: Any) -> list[float]:
        monkeypatch.setattr(module, "judge", lambda *_, **__: [0.5])
        run(two_labels, tmp_path / "other", 3, storage=shared)  # another host, while this one is at its first trial
        return [0.5]

    monkeypatch.setattr(module, "judge", judged)
    found = rows(run(two_labels, tmp_path / "one", 3, storage=shared))
    assert len(found) == 4
    assert len({row["dropout"] for row in found}) == 4


@needs_tensorflow
def test_hosts_that_begin_together_try_different_values(shared):
    hosts = [module._study(shared, {}, is_shared=True) for _ in range(2)]
    assert len({parse(WANTED[1]).suggest(host.ask()) for host in hosts}) == 2


@needs_tensorflow
def test_another_search_in_the_same_folder_is_a_study_of_its_own(two_labels, tmp_path, monkeypatch):
    run(two_labels, tmp_path, 1)
    study = run(two_labels, tmp_path, 1, ["dropout=0.1:0.2"])
    assert [set(row) for row in rows(study)] == [{"trial", "validation_auroc", "dropout", "failed"}]


@needs_tensorflow
def test_values_that_the_recipe_does_not_take_are_said_before_anything_is_trained(two_labels, tmp_path):
    with pytest.raises(SettingsError, match="head"):
        run(two_labels, tmp_path, 1, ["head=sigmoid,tanh"])


@needs_tensorflow
def test_a_database_that_cannot_be_used_is_one_line(two_labels, tmp_path):
    with pytest.raises(SettingsError, match="database"):
        run(two_labels, tmp_path, 1, storage=f"sqlite:///{tmp_path}/nowhere/x.db")
