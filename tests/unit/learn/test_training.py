"""Real, very short trainings on synthetic pictures."""

import csv
import json
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from pydantic import ValidationError
from rich.console import Console
from typer.testing import CliRunner

from medd.classify import classifier
from medd.classify.classifier import LoadedModel
from medd.cli import train as command
from medd.errors import ModelUnusable, NotAssessable, PluginError, SettingsError
from medd.hookspecs import ClassifierSpec
from medd.imaging.pixels import load
from medd.imaging.preprocess import PreprocessSpec, preprocess
from medd.learn import fit, serving
from medd.learn import train as learn
from medd.learn.dataset import decode_outliers
from medd.learn.options import OptimizerOptions, TrainOptions, read_options
from medd.learn.train import train
from medd.records import Prediction
from medd.registry import bundle as bundles
from medd.registry.bundle import Bundle
from medd_pneumonia import paper_cnn, register_classifiers

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
        "accuracy.png", "curves.json", "history.csv", "loss.png", "model.keras", "model.onnx", "split.csv"
    }  # fmt: skip
    assert not folder.with_name("paper-1.part").exists()
    assert (bundle.ref, bundle.labels, bundle.positive_labels) == ("paper/1", ("NORMAL", "PNEUMONIA"), ("PNEUMONIA",))
    assert 0 <= bundle.threshold <= 1
    assert bundle.evaluation["onnx_max_difference"] <= serving.TOLERANCE
    assert bundle.evaluation["n"] == sum(bundle.training["images"]["test"].values())
    assert bundle.evaluation["validation"]["sensitivity"] >= 0.95
    drawn = json.loads((folder / "curves.json").read_text())["paper/1"]
    assert sum(one["images"] for one in drawn["reliability"]) == bundle.evaluation["n"]
    assert len(list(csv.DictReader((folder / "history.csv").read_text().splitlines()))) == 2
    assert "IM-0001-9999.png" in told
    assert "epoch 2/2" in told
    assert str(two_labels) not in json.dumps(bundle.model_dump(mode="json"))
    scores(folder, two_labels)


class _Killed(BaseException):
    pass


@needs_tensorflow
def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_happened(two_labels, tmp_path, monkeypatch):
    recipe = {
        "epochs": 3,
        "optimizer": {"name": "adamw", "schedule": "cosine", "average": 0.9},
        "augmentation": {"noise": 0.1, "blur": 1, "gamma": 0.3, "shear": 0.1},
        "precision": "bfloat16",
    }
    run(two_labels, tmp_path / "whole" / "model", **recipe)

    def kill(epoch: int, *_: Any) -> None:
        if epoch == 2:
            raise _Killed

    monkeypatch.setattr(learn, "_tensorboard", lambda folder: kill)
    with pytest.raises(_Killed):
        run(two_labels, tmp_path / "killed" / "first", **recipe)
    assert (tmp_path / "killed" / "first.part").is_dir()
    monkeypatch.setattr(learn, "_tensorboard", lambda folder: None)
    # Another recipe must not take the killed one's weights over; the same one does, whatever the version is called.
    _, told = run(two_labels, tmp_path / "killed" / "other", **recipe, seed=9)
    assert "goes on" not in told
    _, told = run(two_labels, tmp_path / "killed" / "again", **recipe, version="2")
    assert "goes on after epoch 1" in told
    assert "epoch 1/3" not in told
    assert [p.name for p in sorted((tmp_path / "killed").iterdir())] == ["again", "other"]
    whole, again = tmp_path / "whole" / "model", tmp_path / "killed" / "again"
    assert (whole / "history.csv").read_bytes() == (again / "history.csv").read_bytes()
    np.testing.assert_array_equal(scores(whole, two_labels), scores(again, two_labels))


@needs_tensorflow
def test_a_checkpoint_that_cannot_be_read_costs_its_epochs_only(two_labels, tmp_path, monkeypatch):
    def kill(epoch: int, *_: Any) -> None:
        if epoch == 2:
            raise _Killed

    monkeypatch.setattr(learn, "_tensorboard", lambda folder: kill)
    with pytest.raises(_Killed):
        run(two_labels, tmp_path / "model")
    monkeypatch.setattr(learn, "_tensorboard", lambda folder: None)
    checkpoint = tmp_path / "model.part" / "work" / "checkpoint.npz"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    _, told = run(two_labels, tmp_path / "model")
    assert "begins anew" in told
    assert "epoch 1/2" in told


@needs_tensorflow
def test_a_folder_in_which_a_training_is_at_work_is_left_alone(two_labels, tmp_path):
    options = TrainOptions(**SHORT)
    with learn._unfinished(tmp_path / "model", options, "digest") as first:
        (first / "epoch").touch()
        for other in (options, options.model_copy(update={"seed": 4})):
            with (
                pytest.raises(SettingsError, match="another training"),
                learn._unfinished(tmp_path / "model", other, "digest"),
            ):
                pass
        assert (first / "epoch").exists()
    with learn._unfinished(tmp_path / "model", options.model_copy(update={"version": "7"}), "digest") as again:
        assert (again / "epoch").exists()
    with learn._unfinished(tmp_path / "elsewhere", options, "digest") as moved:
        assert (moved / "epoch").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["elsewhere.part"]


def _freezing(input_shape, n_labels, *, head, dropout):
    from keras import Input, Model, layers

    inputs = Input(input_shape)
    x = layers.Conv2D(4, 3, activation="relu", name="features", trainable=False)(inputs)
    x = layers.Dropout(dropout)(layers.GlobalAveragePooling2D()(x))
    return Model(inputs, layers.Activation("softmax")(layers.Dense(n_labels)(x)))


def _free(model) -> None:
    model.get_layer("features").trainable = True


@needs_tensorflow
@pytest.mark.parametrize("killed_in", [2, 4])
def test_a_run_killed_about_the_thaw_ends_as_if_nothing_had_happened(two_labels, tmp_path, monkeypatch, killed_in):
    pytest.importorskip("tensorflow")
    spec = ClassifierSpec("freezing", build=f"{__name__}:_freezing", thaw=f"{__name__}:_free")
    options = TrainOptions(**SHORT | {"network": "freezing", "epochs": 4, "frozen_epochs": 2, "head": "softmax"})
    options = options.model_copy(update={"optimizer": OptimizerOptions(average=0.9)})
    told = StringIO()
    train(two_labels, tmp_path / "whole" / "model", options, [spec], console=Console(file=told))

    def kill(epoch: int, *_: Any) -> None:
        if epoch == killed_in:
            raise _Killed

    monkeypatch.setattr(learn, "_tensorboard", lambda folder: kill)
    with pytest.raises(_Killed):
        train(two_labels, tmp_path / "killed" / "model", options, [spec], console=Console(file=told))
    monkeypatch.setattr(learn, "_tensorboard", lambda folder: None)
    train(two_labels, tmp_path / "killed" / "model", options, [spec], console=Console(file=told))
    whole, again = (tmp_path / name / "model" / "history.csv" for name in ("whole", "killed"))
    assert whole.read_bytes() == again.read_bytes()
    # A head whose last layer is none that the heat map can follow backwards is served without one.
    film = preprocess(load(min(two_labels.rglob("person*.png"))), options.preprocess)
    assert classifier.load(whole.parent, [spec]).explain(film[np.newaxis]).heat is None


def test_waiting_for_a_lower_loss_ends_also_where_the_last_weights_are_kept():
    state = object.__new__(fit._State)
    state._options = TrainOptions(keep="last", patience=2)
    state.epoch, state.history, state._lowest_loss, state._lowest_epoch, state._best_epoch = 0, {}, np.inf, 0, 0
    state.model = SimpleNamespace(get_weights=list)
    over = []
    for loss in (1.0, 0.9, 0.95, 0.96):
        state.end_epoch({"val_loss": loss})
        over.append(state.is_over)
    assert over == [False, False, False, True]
    assert state._best_epoch == 4


@needs_tensorflow
def test_sublabels_are_learned_apart_and_summed_in_the_model(two_labels, tmp_path, draw):
    data = Path(shutil.copytree(two_labels, tmp_path / "data"))
    for number in range(12, 18):
        draw(data / "PNEUMONIA" / f"person{number}_virus_{number}.png", 300 + number, 0.9)
    draw(data / "PNEUMONIA" / "someone_virus_1.png", 400, 0.9)
    made, told = run(data, tmp_path / "model", sublabels="_(bacteria|virus)_", balanced=True)
    assert "1 of 32 images do not say whose they are" in told  # one cannot be read
    assert "but 1 of 31 images do not say whose they are" in made.evaluation["measured_on"]
    assert made.training["without_patient"] == 1
    assert made.labels == ("NORMAL", "PNEUMONIA")
    keras = pytest.importorskip("keras")
    network = keras.models.load_model(tmp_path / "model" / "model.keras")
    assert network.output_shape == (None, 3)
    images = np.random.default_rng(0).random((4, 32, 32, 1), np.float32)
    raw = classifier.load(tmp_path / "model", register_classifiers()).classifier.predict(images)
    np.testing.assert_allclose(raw[:, 1], network.predict(images, verbose=0)[:, 1:].sum(axis=1), atol=1e-5)


@needs_tensorflow
def test_the_heat_map_is_the_gradient_of_the_log_odds_that_autodiff_gives(sigmoid, two_labels):
    keras = pytest.importorskip("keras")
    tensorflow = pytest.importorskip("tensorflow")
    network = keras.models.load_model(sigmoid[0] / "model.keras")
    maps_layer = serving.feature_layers(network)[-1]
    images = np.random.default_rng(1).random((3, 32, 32, 1), np.float32)
    maps = keras.Model(network.input, maps_layer.output)(images)
    with tensorflow.GradientTape() as tape:
        tape.watch(maps)
        x = maps
        for layer in network.layers[network.layers.index(maps_layer) + 1 :]:
            x = layer(x)
        log_odds = tensorflow.math.log(x[:, 0] / (1 - x[:, 0]))
    weights = tensorflow.reduce_mean(tape.gradient(log_odds, maps), axis=(1, 2), keepdims=True)
    expected = np.maximum((np.asarray(maps) * np.asarray(weights)).sum(axis=-1), 0)
    heat = classifier.load(sigmoid[0], register_classifiers()).explain(images).heat
    np.testing.assert_allclose(heat, expected, atol=1e-6)


@needs_tensorflow
def test_what_is_nothing_like_the_training_is_refused(sigmoid, two_labels):
    model = classifier.load(sigmoid[0], register_classifiers())
    films = [load(p) for p in sorted(two_labels.rglob("person*.png"))]
    known = [classifier.prepare(film, model.bundle.preprocess) for film in films]
    stripes = [classifier.Input(np.tile(np.arange(32) % 2, (32, 1)).astype(np.float32)[..., np.newaxis], 0.5, 0.5)] * 2
    verdicts = model.judge(known + stripes, range(len(known) + 2))
    assert all(isinstance(one, NotAssessable) and one.reason == "unfamiliar" for one in verdicts[-2:])
    judged = [one for one in verdicts if isinstance(one, Prediction)]
    assert len(judged) > len(known) / 2
    assert judged[0].attachments[0].media_type == "image/png"
    film = films[judged[0].instance_id]
    np.testing.assert_allclose([judged[0].input_mean, judged[0].input_std], [film.mean(), film.std()], atol=1e-5)
    reference = model.bundle.reference
    assert reference.score.images == sum(
        sum(model.bundle.training["images"][side].values()) for side in ("val", "test")
    )


def slope(path: Path, seed: int, tilt: float | None = None) -> Path:
    """Write a grey picture that is brighter to one side, as films are; by `tilt`, or at random."""
    rng = np.random.default_rng(seed)
    across, down = rng.normal(0, 0.05, 2) if tilt is None else rng.normal(tilt, 0.02, 2)
    y, x = np.mgrid[-1:1:80j, -1:1:80j]
    picture = rng.choice([0.3, 0.5]) + across * x + down * y + 0.2 * rng.random((80, 80))
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.uint8(255 * np.clip(picture, 0, 1)))
    return path


@needs_tensorflow
def test_one_outlier_teaches_the_gate_its_kind(tmp_path):
    data, odd = tmp_path / "data", tmp_path / "odd"
    films = [slope(data / "NORMAL" / f"IM-{number:04}-0001.png", number) for number in range(100)]
    films += [slope(data / "PNEUMONIA" / f"person{number}_virus_1.png", 100 + number) for number in range(100)]
    others = [slope(tmp_path / "others" / f"{number}.png", 300 + number, 0.13) for number in range(20)]
    slope(odd / "one.png", 400, 0.13)
    (odd / "notes.txt").write_text("not a picture")
    recipe = {"steps_per_epoch": 20, "augmentation": {"zoom": 0, "shift": 0.05, "rotation_deg": 0, "flip": False}}

    def refused(folder: Path) -> tuple[float, float]:
        model = classifier.load(folder, register_classifiers())
        batches = [np.stack([preprocess(load(p), model.bundle.preprocess) for p in side]) for side in (others, films)]
        theirs, ours = [float(model.refused(model.explain(batch)).mean()) for batch in batches]
        return theirs, ours

    made, _ = run(data, tmp_path / "untaught", **recipe)
    assert made.training["outliers"] == 0
    theirs, _ = refused(tmp_path / "untaught")
    assert theirs < 0.5
    made, told = run(data, tmp_path / "taught", outliers=odd, **recipe)
    assert made.training["outliers"] == 1
    assert f"skipped outlier {odd / 'notes.txt'}" in told
    assert "outliers" not in made.training["options"]  # where somebody's films lie is nobody's business
    theirs, ours = refused(tmp_path / "taught")
    assert theirs > 0.9
    assert ours < 0.1


@needs_tensorflow
def test_a_network_whose_maps_are_dead_has_no_gate(two_labels, tmp_path):
    pytest.importorskip("tensorflow")
    options = TrainOptions(**SHORT)
    parts = learn.prepare(two_labels, options, Console(file=StringIO())).parts
    dead = paper_cnn.build((32, 32, 1))
    dead.set_weights([np.zeros_like(weights) for weights in dead.get_weights()])
    odd = decode_outliers(slope(tmp_path / "odd.png", 0), options.preprocess, Console(file=StringIO()))
    assert serving.familiar(dead, parts, options) is None
    assert serving.familiar(dead, parts, options, odd) is None


def test_outliers_without_a_gate_are_an_error_and_an_empty_path_is_none(tmp_path):
    assert read_options(None, {"outliers": ""}).outliers is None
    with pytest.raises(SettingsError, match=r"^outliers: .*refusals = 0 leaves out the gate"):
        read_options(None, {"outliers": tmp_path, "refusals": 0})


@needs_tensorflow
@pytest.mark.parametrize("content", [None, b"not a picture"])
def test_outliers_that_cannot_be_read_end_the_run_before_it_begins(two_labels, tmp_path, content):
    pytest.importorskip("tensorflow")
    path = tmp_path / "film.dcm"
    if content:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=rf"outliers: .*Received: {path}"):
        run(two_labels, tmp_path / "model", outliers=path)
    assert not list(tmp_path.glob("model*"))


@needs_tensorflow
@pytest.mark.parametrize(
    ("age", "flags"), [(0.5, ("age_outside_training",)), (3.0, ()), (None, ()), (40.0, ("age_outside_training",))]
)
def test_a_patient_of_another_age_than_those_of_the_training_is_flagged(sigmoid, two_labels, age, flags):
    model = classifier.load(sigmoid[0], register_classifiers())
    model = LoadedModel(model.bundle.model_copy(update={"age_years": (1, 5), "gate": None}), model.classifier)
    film = load(min(two_labels.rglob("person*.png")))
    (made,) = model.judge([classifier.prepare(film, model.bundle.preprocess, age)], [1])
    assert made.flags == flags


@needs_tensorflow
def test_a_seed_gives_the_same_network_twice(sigmoid, two_labels, tmp_path):
    run(two_labels, tmp_path / "again")
    for name in ("history.csv", "split.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (sigmoid[0] / name).read_bytes()
    np.testing.assert_array_equal(scores(tmp_path / "again", two_labels), scores(sigmoid[0], two_labels))


@needs_tensorflow
def test_what_learned_in_bfloat16_is_kept_and_served_in_float32(sigmoid, two_labels, tmp_path):
    keras = pytest.importorskip("keras")
    made, _ = run(two_labels, tmp_path / "mixed", precision="bfloat16")
    assert keras.config.dtype_policy().name == "float32"
    network = keras.models.load_model(tmp_path / "mixed" / "model.keras")
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    assert made.evaluation["onnx_max_difference"] <= serving.TOLERANCE
    mixed, exact = scores(tmp_path / "mixed", two_labels), scores(sigmoid[0], two_labels)
    assert 0 < np.abs(mixed - exact).max() < 0.05


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
        raw = served.classifier.predict(images)
        np.testing.assert_allclose(raw[:, 1:], network.predict(images, verbose=0), atol=1e-4)


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
        ({"network_options": {"width": 3}}, SettingsError, "network_options.*width"),
        ({"preprocess": {"size": 12, "channels": 1}}, SettingsError, r"paper: cannot be built at \(12, 12, 1\)"),
    ],
)
def test_what_cannot_be_trained_is_said_at_once(two_labels, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        run(two_labels, tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


class _Served:
    """A served network that always says the same."""

    def __init__(self, *row: float) -> None:
        self.row = np.array(row, np.float32)

    def predict(self, batch: np.ndarray) -> np.ndarray:
        return np.tile(self.row, (len(batch), 1))


class _Trained(_Served):
    def predict_on_batch(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        return {"probabilities": self.predict(batch)}


class _Images:
    def __len__(self) -> int:
        return 4

    def inputs(self, start: int, stop: int) -> np.ndarray:
        return np.zeros((4, 8, 8, 1), np.float32)[start:stop]


def test_a_network_that_is_served_otherwise_than_trained_is_unusable():
    draft = learn._draft(TrainOptions(preprocess=PreprocessSpec(size=8, channels=1)), ("NO", "YES"))
    close, far = (LoadedModel(draft, _Served(0.7 + by, 0.3 - by)) for by in (5e-5, 2e-4))
    trained = _Trained(0.7, 0.3)
    assert serving.difference(trained, close, _Images()) == pytest.approx(5e-5, abs=1e-6)
    with pytest.raises(ModelUnusable, match="does not compute"):
        serving.difference(trained, far, _Images())


def test_without_the_extra_the_way_to_it_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(learn.extra.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'medd\[train\]'"):
        train(tmp_path, tmp_path / "out", TrainOptions(), [])


def test_neither_the_command_nor_training_imports_tensorflow_early():
    code = (
        "import sys, medd.cli.train, medd.learn.train, medd.learn.fit, medd.learn.serving;"
        "print({'tensorflow', 'keras', 'sklearn'} & set(sys.modules))"
    )
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
