"""Sweeps of real, very small trainings; and their tables, of made-up figures."""

import csv
import json
import random
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from medd.cli.main import app
from medd.errors import ModelUnusable, SettingsError, TransientError
from medd.learn import sweep as module
from medd.learn import tables
from medd.learn.fit import classes_of, fit
from medd.learn.options import TrainOptions
from medd.learn.sweep import Cell, Plan, Study, measure, read, sweep
from medd.learn.train import prepare
from medd_pneumonia import register_classifiers

needs_tensorflow = pytest.mark.train

# Keras 3.15 with NumPy 2, while it saves weights; Python does not show it to users.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

OPTIONS = TrainOptions(epochs=2, steps_per_epoch=3, batch_size=4, preprocess={"size": 32, "channels": 1})
#: Three cells: two epochs of three steps, whose first is a cell too, and two epochs of one step.
PLAN = Plan(epochs=(1, 2), steps=(1, 3), seeds=(0, 1), steps_of_table_2=3, epochs_of_table_3=2)


def run(data: Path, output: Path, plan: Plan = PLAN, options: TrainOptions = OPTIONS) -> Study:
    pytest.importorskip("tensorflow")
    return sweep(data, output, plan, options, register_classifiers(), console=Console(file=StringIO(), width=200))


def without_times(study: Study) -> dict[Any, Any]:
    return {key: cell | {"seconds": 0} for key, cell in study.cells.items()}


@pytest.fixture(scope="session")
def swept(two_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study]:
    output = tmp_path_factory.mktemp("sweep")
    return output, run(two_labels, output)


def test_cells_of_the_same_steps_are_one_run_while_the_rate_is_constant():
    plan = Plan((5, 10, 20, 25), (100, 200, 326), (0,))
    assert plan.table_2 == [Cell(5, 326), Cell(10, 326), Cell(20, 326), Cell(25, 326)]
    assert plan.table_3 == [Cell(20, 100), Cell(20, 200), Cell(20, 326)]
    assert plan.runs(constant_rate=True) == [[Cell(20, 100)], [Cell(20, 200)], plan.table_2]
    assert len(plan.runs(constant_rate=False)) == 6
    assert all(len(run) == 1 for run in plan.runs(constant_rate=False))


@needs_tensorflow
@pytest.mark.parametrize("update", [{}, {"optimizer": {"name": "adamw", "weight_decay": 0.01, "average": 0.9}}])
def test_a_cell_is_what_a_run_of_its_own_gives(two_labels, tmp_path, update):
    options = TrainOptions(**(OPTIONS.model_dump() | update))
    one_run = Plan((1, 2), (3,), (5,), 3, 2)
    study = run(two_labels, tmp_path, one_run, options)
    console = Console(file=StringIO())
    for epochs in (1, 2):
        alone = options.model_copy(update={"epochs": epochs, "seed": 5, "split_seed": options.seed, "keep": "last"})
        prepared = prepare(two_labels, alone, console)
        classes = classes_of(prepared.samples, prepared.labels, "")
        fitted = fit(register_classifiers()[0], prepared.parts, classes, alone, console)
        expected = measure(fitted.model, classes, prepared.parts, alone.sensitivity)
        cell = study.cells[5, Cell(epochs, 3)]
        assert {name: cell[name] for name in expected} == expected
        assert cell["history"] == fitted.history


@needs_tensorflow
def test_every_cell_of_every_seed_is_measured_on_both_parts(swept):
    output, study = swept
    assert set(study.cells) == {(seed, cell) for seed in (0, 1) for cell in (Cell(1, 3), Cell(2, 3), Cell(2, 1))}
    for cell in study.cells.values():
        for side in ("val", "test"):
            assert 0 <= cell[side]["accuracy"] <= 1
            assert cell[side]["loss"] > 0
        assert cell["val"]["at_threshold"]["sensitivity"] >= OPTIONS.sensitivity
        assert np.isclose(cell["val"]["loss"], cell["history"]["val_loss"][-1], atol=1e-4)
        assert np.isclose(cell["val"]["accuracy"], cell["history"]["val_accuracy"][-1], atol=1e-6)
    assert not list(output.glob("work-*"))


@needs_tensorflow
def test_a_finished_sweep_trains_nothing_again(swept, two_labels, monkeypatch):
    output, study = swept
    monkeypatch.setattr(module, "fit", None)
    (output / "work-0-3-2").mkdir()  # of a call that was killed before it could remove it
    assert run(two_labels, output) == study
    assert not list(output.glob("work-*"))


@needs_tensorflow
def test_cells_whose_lines_are_lost_are_trained_again(swept, two_labels, tmp_path, monkeypatch):
    output = Path(shutil.copytree(swept[0], tmp_path / "copy"))
    lines = (output / "epochs.jsonl").read_text().splitlines()
    kept = [line for line in lines if not line.startswith('{"seed": 0, "steps": 3, "of": 2, "epoch": 1,')]
    assert len(kept) == len(lines) - 1
    (output / "epochs.jsonl").write_text("\n".join(kept) + "\n")
    assert set(read(output)) == set(swept[1].cells) - {(0, Cell(1, 3)), (0, Cell(2, 3))}
    trained = []
    monkeypatch.setattr(module, "fit", lambda *arguments, **_: trained.append(arguments[3].seed))  # and finds no more
    with pytest.raises(TransientError, match=r"lines are missing, .* 2 cells"):
        run(two_labels, output)
    assert trained == [0]


@needs_tensorflow
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_sweep_that_was_killed_goes_on_to_the_same_figures(swept, two_labels, tmp_path, monkeypatch, epoch):
    trained = []

    def killed(*arguments: Any, on_epoch: Any, **named: Any) -> Any:
        def note(number: int, *rest: Any) -> None:
            on_epoch(number, *rest)
            trained.append(number)
            if len(trained) == epoch:
                raise KeyboardInterrupt

        return fit(*arguments, on_epoch=note, **named)

    with monkeypatch.context() as patch:
        patch.setattr(module, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            run(two_labels, tmp_path)
    with (tmp_path / "epochs.jsonl").open("a") as log:
        log.write('{"seed": 0, "ste')  # and it was killed while it wrote
    assert without_times(run(two_labels, tmp_path)) == without_times(swept[1])


@needs_tensorflow
def test_cells_asked_for_later_join_those_that_are_there(swept, two_labels, tmp_path):
    run(two_labels, tmp_path, Plan((2,), (3,), (0,), 3, 2))
    assert set(read(tmp_path)) == {(0, Cell(2, 3))}
    assert without_times(run(two_labels, tmp_path)) == without_times(swept[1])


@needs_tensorflow
def test_a_training_that_fails_is_noted_and_tried_again_by_the_next_call(swept, two_labels, tmp_path, monkeypatch):
    def fails(*arguments: Any, **named: Any) -> Any:
        if arguments[3].seed == 0 and arguments[3].steps_per_epoch == 3:
            raise ModelUnusable("training diverged")
        return fit(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(module, "fit", fails)
        with pytest.raises(ModelUnusable, match="1 of 4 trainings failed, the others are kept: seed 0, 3 steps"):
            run(two_labels, tmp_path)
    assert set(read(tmp_path)) == set(swept[1].cells) - {(0, Cell(1, 3)), (0, Cell(2, 3))}
    assert '"failed": "training diverged"' in (tmp_path / "epochs.jsonl").read_text()
    assert without_times(run(two_labels, tmp_path)) == without_times(swept[1])


@needs_tensorflow
def test_with_a_rate_that_falls_each_cell_is_a_run_of_its_own(two_labels, tmp_path):
    options = TrainOptions(**(OPTIONS.model_dump() | {"optimizer": {"schedule": "cosine", "learning_rate": 0.01}}))
    study = run(two_labels, tmp_path, Plan((1, 2), (3,), (0,), 3, 2), options)
    lines = [json.loads(line) for line in (tmp_path / "epochs.jsonl").read_text().splitlines()]
    assert [(line["of"], line["epoch"]) for line in lines] == [(1, 1), (2, 1), (2, 2)]
    first, second = study.cells[0, Cell(1, 3)], study.cells[0, Cell(2, 3)]
    assert first["history"]["val_loss"][0] != second["history"]["val_loss"][0]


@needs_tensorflow
def test_a_folder_of_another_study_is_refused(swept, two_labels):
    with pytest.raises(SettingsError, match="another study"):
        run(two_labels, swept[0], options=OPTIONS.model_copy(update={"dropout": 0.1}))


@needs_tensorflow
def test_the_command_writes_tables_and_figures(two_labels, tmp_path):
    pytest.importorskip("tensorflow")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("epochs = 1\nsteps_per_epoch = 1\nbatch_size = 4\n[preprocess]\nsize = 32\nchannels = 1\n")
    options = f"--epochs 1 --steps-per-epoch 1,2 --seeds 0 --recipe {recipe} --output {tmp_path / 'out'}"
    told = CliRunner().invoke(app, ["sweep", str(two_labels), *options.split(), "--home", str(tmp_path)])
    assert told.exception is None
    assert "## Table 3: steps per epoch varied, 1 epochs" in told.stdout
    names = {"sweep.md", "table2.csv", "table3.csv", "cells.csv", "figure5.png", "figure6.png"}
    assert names <= {file.name for file in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    "option", ["--epochs=5,x", "--steps-per-epoch=0", "--seeds=-1", "--trials=3", "--search=a=1:2"]
)
def test_a_wrong_call_is_one_line(tmp_path, option):
    told = CliRunner().invoke(app, ["sweep", str(tmp_path), option, "--home", str(tmp_path)])
    assert isinstance(told.exception, SettingsError)


@pytest.fixture
def study() -> Study:
    """The article's study with made-up figures."""
    plan = Plan((5, 10, 20, 25), (100, 200, 326), (0, 1, 2))
    dice = random.Random(0)

    def figures(seed: int, cell: Cell) -> dict[str, Any]:
        side = {"auroc": 0.98, "sensitivity": 0.97, "specificity": 0.8, "loss": 0.3 / cell.epochs}
        chosen = {"accuracy": 0.9, "sensitivity": 0.95, "specificity": 0.85}
        side |= {"accuracy": 0.8 + cell.epochs / 1000 + seed / 100, "at_threshold": chosen}
        history = {
            name: [dice.uniform(0.5, 1) for _ in range(cell.epochs)]
            for name in ("accuracy", "loss", "val_accuracy", "val_loss")
        }
        return {"threshold": 0.4, "val": side, "test": side, "seconds": 60.0, "history": history}

    cells = {(s, cell): figures(s, cell) for s in plan.seeds for cell in {*plan.table_2, *plan.table_3}}
    return Study(plan, cells, {"train": (9, 9), "val": (8, 7), "test": (780, 424)}, False, TrainOptions())


def test_tables_give_mean_and_spread_beside_the_article(study, tmp_path):
    tables.write(tmp_path, study)
    text = (tmp_path / "sweep.md").read_text()
    # 0.805, 0.815, 0.825
    assert "| 5 | 81.50 ± 1.00 | 80.50 – 82.50 | 0.9800 ± 0.0000 |" in text
    line = next(line for line in text.splitlines() if line.startswith("| 20 |"))
    assert line.endswith("| 87.66 |")
    assert "our own split by patient (780 images of 424 patients)" in text
    assert "official test part of 624 images" in text
    table = list(csv.DictReader((tmp_path / "table3.csv").read_text().splitlines()))
    assert [row["steps_per_epoch"] for row in table] == ["100", "200", "326"]
    assert [row["article_accuracy_%"] for row in table] == ["81.25", "86.06", "87.66"]
    assert float(table[0]["accuracy_%"]) == pytest.approx(83)
    assert float(table[0]["accuracy_%_sd"]) == pytest.approx(1)
    assert len(list(csv.DictReader((tmp_path / "cells.csv").read_text().splitlines()))) == 18


def test_figures_are_drawn_and_the_same_twice(study, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tables.write(tmp_path / name, study)
    for figure in ("figure5.png", "figure6.png"):
        assert cv2.imread(str(tmp_path / "a" / figure)).std() > 5
        assert (tmp_path / "a" / figure).read_bytes() == (tmp_path / "b" / figure).read_bytes()
