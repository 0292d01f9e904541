import os

import pytest

from medd.classify.classifier import resolve
from medd_pneumonia import register_classifiers

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

pytestmark = pytest.mark.train
pytest.importorskip("tensorflow")

#: The article's Table 1: layer, output, parameters.
TABLE_1 = [
    ("image", (None, 150, 150, 3), 0),
    ("conv_1", (None, 148, 148, 32), 896),
    ("pool_1", (None, 74, 74, 32), 0),
    ("conv_2", (None, 72, 72, 32), 9_248),
    ("pool_2", (None, 36, 36, 32), 0),
    ("conv_3", (None, 34, 34, 64), 18_496),
    ("pool_3", (None, 17, 17, 64), 0),
    ("flatten", (None, 18_496), 0),
    ("dense", (None, 64), 1_183_808),
    ("dropout", (None, 64), 0),
    ("predictions", (None, 1), 65),
]


@pytest.fixture(scope="module")
def build():
    (spec,) = [spec for spec in register_classifiers() if spec.name == "paper"]
    return resolve(spec.build, spec.name)


def test_the_layers_are_those_of_table_1(build):
    model = build()
    layers = [(layer.name, layer.output.shape, layer.count_params()) for layer in model.layers]
    assert layers == TABLE_1
    assert model.count_params() == 1_212_513
    assert model.get_layer("dropout").rate == 0.5
    assert {layer.activation.__name__ for layer in model.layers if layer.name.startswith("conv")} == {"relu"}


def test_one_channel_saves_576_parameters(build):
    assert build((150, 150, 1)).count_params() == 1_212_513 - 2 * 9 * 32


@pytest.mark.parametrize(
    ("n_labels", "head", "outputs", "activation"),
    [
        (2, "sigmoid", 1, "sigmoid"),
        (2, "softmax", 2, "softmax"),
        (3, "sigmoid", 3, "softmax"),
        (5, "softmax", 5, "softmax"),
    ],
)
def test_the_head_fits_the_labels(build, n_labels, head, outputs, activation):
    last = build((64, 64, 1), n_labels, head=head, dropout=0.2).get_layer("predictions")
    assert (last.units, last.activation.__name__) == (outputs, activation)
