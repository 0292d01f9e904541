"""Transfer learning, on a small input and weights from a file as a user without a network has them."""

import os
import urllib.request
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from medd.classify import classifier
from medd.classify.classifier import resolve
from medd.classify.onnx import load
from medd.errors import SettingsError
from medd.imaging.preprocess import PreprocessSpec
from medd.learn.options import TrainOptions
from medd.learn.train import train
from medd_transfer import register_classifiers

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

keras = pytest.importorskip("keras")

pytestmark = [
    pytest.mark.train,
    # Keras 3.15 with NumPy 2, while it saves weights; Python does not show it to users.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

(SPEC,) = register_classifiers()
BUILD, THAW = resolve(SPEC.build, SPEC.name), resolve(SPEC.thaw, SPEC.name)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of weights of MobileNetV2 without its top, whose features are not all nothing."""
    keras.utils.set_random_seed(1)
    body = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
    for layer in body.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(3 * layer.gamma)
    path = tmp_path_factory.mktemp("weights") / "mobilenet.weights.h5"
    body.save_weights(path)
    return str(path)


def images(count: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(count).random((count, 64, 64, channels), np.float32)


def backbone(model: "keras.Model") -> "keras.Model":
    (body,) = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    return body


def step(model: "keras.Model", steps: int = 2) -> None:
    model.compile("sgd", "binary_crossentropy")
    for _ in range(steps):
        model.train_on_batch(images(8), np.arange(8)[:, np.newaxis] % 2)


def moved(body: "keras.Model", before: list[np.ndarray]) -> set[str]:
    """Names of the backbone's variables that are not as they were."""
    pairs = zip(body.variables, before, strict=True)
    return {variable.name for variable, old in pairs if not np.array_equal(variable.numpy(), old)}


def test_a_pretrained_backbone_moves_only_after_it_is_thawed(weights):
    model = BUILD((64, 64, 1), weights=weights)
    body, head = backbone(model), model.get_layer("predictions")
    before, first = body.get_weights(), head.get_weights()
    step(model)
    assert moved(body, before) == set()
    assert not np.array_equal(head.get_weights()[0], first[0])
    THAW(model)
    step(model)
    assert "kernel" in moved(body, before)


def test_pretrained_statistics_stay_when_the_backbone_is_thawed(weights):
    model = BUILD((64, 64, 1), weights=weights)
    THAW(model)
    before = backbone(model).get_weights()
    step(model)
    assert moved(backbone(model), before) == {"kernel"}


def test_a_backbone_with_random_weights_learns_from_the_start():
    model = BUILD((64, 64, 1), weights="random")
    before = backbone(model).get_weights()
    step(model)
    assert moved(backbone(model), before) == {"kernel", "gamma", "beta", "moving_mean", "moving_variance"}


def test_the_weights_come_from_the_file(weights):
    body = keras.applications.MobileNetV2(include_top=False, weights=weights, input_shape=(64, 64, 3))
    for mine, theirs in zip(
        backbone(BUILD((64, 64, 3), weights=weights)).get_weights(), body.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_the_backbone_sees_what_its_own_preprocessing_makes(weights):
    model = BUILD((64, 64, 3), weights=weights)
    grey = np.repeat(images(2), 3, axis=3)
    seen = keras.applications.mobilenet_v2.preprocess_input(255 * grey)
    features = keras.Model(model.input, model.get_layer("features").output)
    np.testing.assert_allclose(features(grey), backbone(model)(seen, training=False), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "module"),
    [("mobilenet_v2", "mobilenet_v2"), ("densenet121", "densenet"), ("resnet50", "resnet50")],
)
def test_the_constants_are_those_of_keras(name, module):
    from medd_transfer.network import BACKBONES

    grey = np.repeat(images(2), 3, axis=3)
    mine = grey * np.array(BACKBONES[name].scale) + np.array(BACKBONES[name].offset)
    theirs = getattr(keras.applications, module).preprocess_input(255 * grey)
    np.testing.assert_allclose(mine, theirs, atol=1e-4)


def test_the_scaling_left_out_of_efficientnet_is_done_before_it():
    from medd_transfer.network import BACKBONES

    whole = keras.applications.EfficientNetV2B0(include_top=False, weights=None, input_shape=(32, 32, 3))
    inner = keras.Model(whole.input, whole.get_layer("normalization").output)
    grey = np.repeat(images(2), 3, axis=3)[:, :32, :32]
    spec = BACKBONES["efficientnet_v2_b0"]
    np.testing.assert_allclose(grey * np.array(spec.scale) + np.array(spec.offset), inner(255 * grey), atol=1e-4)


def test_one_channel_is_three_of_the_same_grey(weights):
    one, three = BUILD((64, 64, 1), weights=weights), BUILD((64, 64, 3), weights=weights)
    three.set_weights(one.get_weights())
    np.testing.assert_array_equal(one(images(3)), three(np.repeat(images(3), 3, axis=3)))


@pytest.mark.parametrize(
    ("n_labels", "head", "outputs", "activation"),
    [(2, "sigmoid", 1, "sigmoid"), (2, "softmax", 2, "softmax"), (3, "sigmoid", 3, "softmax")],
)
def test_the_head_fits_the_labels(n_labels, head, outputs, activation):
    model = BUILD((32, 32, 1), n_labels, head=head, dropout=0.3, weights="random")
    assert [layer.name for layer in model.layers[-4:]] == ["features", "pool", "dropout", "predictions"]
    last = model.layers[-1]
    assert (last.units, last.activation.__name__, model.get_layer("dropout").rate) == (outputs, activation, 0.3)
    assert model.get_layer("features").output.shape == (None, 1, 1, 1280)


@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")
@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v2",
        pytest.param("efficientnet_v2_b0", marks=pytest.mark.full),
        pytest.param("densenet121", marks=pytest.mark.full),
        pytest.param("resnet50", marks=pytest.mark.full),
    ],
)
def test_the_exported_network_computes_what_was_trained(name, tmp_path):
    keras.utils.set_random_seed(2)
    model = BUILD((64, 64, 1), backbone=name, weights="random")
    step(model, steps=1)
    network = keras.Model(model.input, model.output)
    network(images(1))
    network.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    for count in (1, 3):
        served = load(tmp_path).predict(images(count))
        np.testing.assert_allclose(served[:, 1:], model.predict(images(count), verbose=0), atol=1e-4)


def test_medd_train_thaws_the_backbone_and_serves_the_result(weights, tmp_path):
    # Two epochs, the second with the backbone free; training itself holds what it exports against what it trained.
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    for number in range(36):
        label, level = (("NORMAL", 0.2), ("PNEUMONIA", 0.5))[number % 2]
        path = tmp_path / "data" / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.uint8(255 * (level + 0.3 * rng.random((64, 64)))))
    options = TrainOptions(
        network="transfer",
        version="1",
        network_options={"weights": weights},
        epochs=2,
        frozen_epochs=1,
        steps_per_epoch=2,
        batch_size=4,
        keep="last",
        preprocess=PreprocessSpec(size=32, channels=1),
    )
    bundle = train(tmp_path / "data", tmp_path / "bundle", options, [SPEC], console=Console(file=StringIO()))
    model = classifier.load(tmp_path / "bundle", [SPEC])
    assert bundle.reference is not None
    assert bundle.training["files"] == ["weights"]
    assert model.predict(images(3)[:, :32, :32]).shape == (3, 2)
    first = BUILD((32, 32, 1), weights=weights)
    trained = keras.models.load_model(tmp_path / "bundle" / "model.keras")
    assert moved(backbone(trained), backbone(first).get_weights()) == {"kernel"}


def test_a_saved_network_is_thawed_as_the_first_one(weights, tmp_path):
    model = BUILD((64, 64, 1), weights=weights)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(images(2), verbose=0), model.predict(images(2), verbose=0))
    THAW(again)
    before = backbone(again).get_weights()
    step(again)
    assert moved(backbone(again), before) == {"kernel"}


def test_without_a_network_imagenet_is_one_line_that_says_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr(urllib.request, "_opener", None)
    with pytest.raises(SettingsError, match=r'without a network set network_options.weights to a file or to "random"'):
        BUILD((64, 64, 1), weights="imagenet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vgg"}, "mobilenet_v2, efficientnet_v2_b0, densenet121, resnet50"),
        ({"weights": "nowhere.h5"}, "a file expected. Received: 'nowhere.h5'"),
        ({"input_shape": (24, 24, 1), "weights": "random"}, "at least 32 pixels. Received: 24×24"),
    ],
)
def test_what_cannot_be_built_is_said_in_a_line(options, message):
    with pytest.raises(SettingsError, match=message):
        BUILD(**({"input_shape": (64, 64, 1)} | options))


def test_weights_of_another_network_are_refused(tmp_path: Path):
    path = tmp_path / "other.weights.h5"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save_weights(path)
    with pytest.raises(SettingsError, match="not weights of this backbone without its top"):
        BUILD((64, 64, 1), weights=str(path))
    path.write_bytes(b"nothing")
    with pytest.raises(SettingsError, match="not weights of this backbone"):
        BUILD((64, 64, 1), weights=str(path))
