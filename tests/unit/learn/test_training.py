"""Real, very short trainings on synthetic pictures."""

import csv
import json
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from pydantic import ValidationError
from rich.console import Console
from typer.testing import CliRunner

from medd.classify import classifier
from medd.classify.classifier import LoadedModel
from medd.cli import train as command
from medd.errors import ModelUnusable, PluginError, SettingsError
from medd.imaging import PreprocessSpec, load, preprocess
from medd.learn import train as learn
from medd.learn.train import TrainOptions, read_options, train
from medd.registry import bundle as bundles
from medd.registry.bundle import Bundle
from medd_pneumonia import register_classifiers

needs_tensorflow = pytest.mark.train

# Keras 3.15 with NumPy 2, while it saves weights; Python does not show it to users.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SHORT = {
    "epochs": 2,
    "steps_per_epoch": 4,
    "batch_size": 8,
    "seed": 3,
    "version": "1",
    "preprocess": {"size": 32, "channels": 1},
}


def run(data: Path, folder: Path, **options: Any) -> tuple[Bundle, str]:
    pytest.importorskip("tensorflow")
    told = StringIO()
    console = Console(file=told, width=200)
    return train(
        data, folder, TrainOptions(**(SHORT | options)), register_classifiers(), console=console
    ), told.getvalue()


@pytest.fixture(scope="session")
def sigmoid(two_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("models") / "paper-1"
    return folder, run(two_labels, folder)[1]


@pytest.fixture
def bundle(sigmoid: tuple[Path, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(sigmoid[0], tmp_path / "bundle"))


def scores(folder: Path, data: Path) -> np.ndarray:
    model = classifier.load(folder, register_classifiers())
    files = sorted(p for p in data.rglob("*.png") if "9999" not in p.name)
    result = model.predict(np.stack([preprocess(load(p), model.bundle.preprocess) for p in files]))
    assert result.shape == (len(files), len(model.bundle.labels))
    np.testing.assert_allclose(result.sum(axis=1), 1, atol=1e-5)
    return result


@needs_tensorflow
def test_training_writes_a_bundle_that_serving_loads(sigmoid, two_labels):
    folder, told = sigmoid
    bundle = bundles.read(folder)
    assert set(bundle.files) == {
        "accuracy.png", "history.csv", "loss.png", "model.keras", "model.onnx", "split.csv"
    }  # fmt: skip
    assert not folder.with_name("paper-1.part").exists()
    assert (bundle.ref, bundle.labels, bundle.positive_labels) == ("paper/1", ("NORMAL", "PNEUMONIA"), ("PNEUMONIA",))
    assert 0 <= bundle.threshold <= 1
    assert bundle.evaluation["onnx_max_difference"] <= learn.TOLERANCE
    assert bundle.evaluation["n"] == sum(bundle.training["images"]["test"].values())
    assert bundle.evaluation["validation"]["sensitivity"] >= 0.95
    assert len(list(csv.DictReader((folder / "history.csv").read_text().splitlines()))) == 2
    assert "IM-0001-9999.png" in told
    assert "epoch 2/2" in told
    assert str(two_labels) not in json.dumps(bundle.model_dump(mode="json"))
    scores(folder, two_labels)


@needs_tensorflow
def test_a_seed_gives_the_same_network_twice(sigmoid, two_labels, tmp_path):
    run(two_labels, tmp_path / "again")
    for name in ("history.csv", "split.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (sigmoid[0] / name).read_bytes()
    np.testing.assert_array_equal(scores(tmp_path / "again", two_labels), scores(sigmoid[0], two_labels))


@needs_tensorflow
def test_three_labels_are_a_softmax_summed_to_a_finding(three_labels, tmp_path):
    made, _ = run(three_labels, tmp_path / "three", preprocess={"size": 32, "channels": 3})
    assert made.labels == ("NORMAL", "BACTERIA", "VIRUS")
    assert made.positive_labels == ("BACTERIA", "VIRUS")
    probabilities = scores(tmp_path / "three", three_labels)
    model = classifier.load(tmp_path / "three", register_classifiers())
    prediction = model.interpret(probabilities[0], 1)
    assert prediction.probability == pytest.approx(probabilities[0, 1:].sum())


@needs_tensorflow
def test_the_command_trains_two_labels_as_a_softmax(two_labels, tmp_path):
    pytest.importorskip("tensorflow")
    app = typer.Typer()
    app.command()(command.train)
    options = "--head softmax --name soft --version 2 --epochs 3 --steps-per-epoch 2 --patience 1 --learning-rate 1e-9"
    told = CliRunner().invoke(
        app, [str(two_labels), *options.split(), "--size", "32", "--no-flip", "--home", str(tmp_path)]
    )
    assert told.exception is None
    made = bundles.read(tmp_path / "models" / "soft-2")
    assert f"soft/2: {tmp_path / 'models' / 'soft-2'}" in told.output
    assert f"auroc        {made.evaluation['auroc']:.3f}" in told.output
    assert made.training["epochs_run"] <= 3
    assert not made.training["options"]["augmentation"]["flip"]
    scores(tmp_path / "models" / "soft-2", two_labels)


@needs_tensorflow
def test_the_kept_keras_model_is_the_served_one(sigmoid, two_labels):
    keras = pytest.importorskip("keras")
    network = keras.models.load_model(sigmoid[0] / "model.keras")
    assert getattr(network, "optimizer", None) is None
    served = classifier.load(sigmoid[0], register_classifiers())
    for count in (1, 5):
        images = np.random.default_rng(count).random((count, 32, 32, 1), np.float32)
        np.testing.assert_allclose(served.predict(images)[:, 1:], network.predict(images, verbose=0), atol=1e-4)


@needs_tensorflow
@pytest.mark.parametrize("name", ["model.onnx", "model.keras", "history.csv"])
def test_an_altered_file_makes_the_bundle_unusable(bundle, name):
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(ModelUnusable, match="altered"):
        classifier.load(bundle, register_classifiers())


@needs_tensorflow
def test_a_missing_file_makes_the_bundle_unusable(bundle):
    (bundle / "model.onnx").unlink()
    with pytest.raises(ModelUnusable, match="cannot be read"):
        classifier.load(bundle, register_classifiers())


@needs_tensorflow
def test_a_bundle_is_never_overwritten(sigmoid, two_labels):
    with pytest.raises(SettingsError, match="never overwritten"):
        run(two_labels, sigmoid[0])


@needs_tensorflow
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"network": "other"}, PluginError, "paper"),
        ({"negative": "healthy"}, SettingsError, "no finding"),
    ],
)
def test_what_cannot_be_trained_is_said_at_once(two_labels, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        run(two_labels, tmp_path / "x", **options)
    assert not list(tmp_path.iterdir())


class _Fixed:
    """A network, trained or served, that always says the same."""

    def __init__(self, *row: float) -> None:
        self.row = np.array(row, np.float32)

    def predict(self, batch: np.ndarray, **_: Any) -> np.ndarray:
        return np.tile(self.row, (len(batch), 1))


class _Images:
    def inputs(self) -> np.ndarray:
        return np.zeros((4, 8, 8, 1), np.float32)


@pytest.mark.parametrize("trained", [_Fixed(0.3), _Fixed(0.7, 0.3)])
def test_a_network_that_is_served_otherwise_than_trained_is_unusable(trained):
    draft = learn._draft(TrainOptions(preprocess=PreprocessSpec(size=8, channels=1)), ("NO", "YES"))
    close, far = (LoadedModel(draft, _Fixed(0.7 + by, 0.3 - by)) for by in (5e-5, 2e-4))
    assert learn._difference(trained, close, _Images()) == pytest.approx(5e-5, abs=1e-6)
    with pytest.raises(ModelUnusable, match="does not compute"):
        learn._difference(trained, far, _Images())


def test_without_the_extra_the_way_to_it_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(learn.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'medd\[train\]'"):
        train(tmp_path, tmp_path / "out", TrainOptions(), [])


def test_neither_the_command_nor_training_imports_tensorflow_early():
    code = "import sys, medd.cli.train, medd.learn.train; print({'tensorflow', 'keras', 'sklearn'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


def test_the_command_line_wins_over_the_recipe(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('epochs = 7\nseed = 5\n[preprocess]\nsize = 64\nfit = "pad"\n')
    options = read_options(recipe, {"seed": 6, "epochs": None, "preprocess": {"size": None, "channels": 1}})
    assert (options.epochs, options.seed, options.batch_size) == (7, 6, 16)
    assert options.preprocess == PreprocessSpec(size=64, fit="pad", channels=1)


@pytest.mark.parametrize("text", ["epoch = 3", "epochs = 0", "epochs = ", 'name = "A b"', "preprocess = 3"])
def test_a_wrong_recipe_is_an_error(tmp_path, text):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text)
    with pytest.raises(SettingsError, match="Received"):
        read_options(recipe, {"preprocess": {"size": 64}})


def test_options_are_frozen():
    with pytest.raises(ValidationError):
        TrainOptions().epochs = 3
