"""A backbone of keras.applications with medd's head.

::

    image           h × w × 1 or 3, in [0, 1]
    to_rgb          h × w × 3               grey three times; only where the input has one channel
    scale           h × w × 3               what the backbone's preprocess_input computes
    (the backbone)  h/32 × w/32 × k         a model in the model, under its own name
    features        h/32 × w/32 × k         what Grad-CAM and the gate for unfamiliar images read
    pool            k
    dropout
    predictions     1 (sigmoid) or one for each label (softmax)

The PreprocessSpec must leave images in [0, 1] (mean 0, scale 1, its defaults), as the scaling is in the network.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medd.errors import SettingsError

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network of keras.applications, and the input that its ImageNet weights were trained with."""

    #: Class of keras.applications.
    name: str
    #: Input = scale · x + offset for x in [0, 1], one number for each channel. Red, green and blue are the same grey
    #: here, so that their order, which some turn round, is that of the constants alone.
    scale: tuple[float, float, float]
    offset: tuple[float, float, float]
    #: Arguments that leave out the scaling that some bring along: as ONNX it loses its constants.
    options: Mapping[str, bool] = field(default_factory=dict)


# keras.applications.imagenet_utils calls these "tf", "torch" and "caffe"; a test compares them.
_SYMMETRIC = ((2.0, 2.0, 2.0), (-1.0, -1.0, -1.0))
_STANDARD = ((1 / 0.229, 1 / 0.224, 1 / 0.225), (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225))
_CENTRED_BGR = ((255.0, 255.0, 255.0), (-103.939, -116.779, -123.68))

#: EfficientNet B0 to B7 are left out: with "imagenet" Keras adds a layer to them that it leaves out for the same
#: weights from a file (efficientnet.py), so that a file would see other inputs.
BACKBONES = {
    "mobilenet_v2": Backbone("MobileNetV2", *_SYMMETRIC),
    "efficientnet_v2_b0": Backbone("EfficientNetV2B0", *_STANDARD, {"include_preprocessing": False}),
    "densenet121": Backbone("DenseNet121", *_STANDARD),
    "resnet50": Backbone("ResNet50", *_CENTRED_BGR),
}

#: The backbones halve their input five times.
SMALLEST = 32


def build(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    n_labels: int = 2,
    *,
    head: Literal["sigmoid", "softmax"] = "sigmoid",
    dropout: float = 0.2,
    backbone: str = "mobilenet_v2",
    weights: str = "imagenet",
) -> "keras.Model":
    """Build the network; a pretrained backbone is frozen until `thaw`.

    Pretrained batch normalisation keeps the statistics it came with, thawed or not (Keras' guide to transfer learning).
    A backbone with random weights has nothing to keep: it is never frozen and learns its own statistics.

    Args:
        input_shape: (H, W, C) of one image, each side at least `SMALLEST`, C 1 or 3.
        n_labels: At least 2.
        head: "sigmoid" is one output, the probability of the second label; "softmax" is one output for each label. More
            than two labels are always a softmax.
        dropout: Rate before the last layer, in [0, 1).
        backbone: A key of `BACKBONES`.
        weights: "imagenet", which Keras downloads once into ~/.keras (or KERAS_HOME); "random"; or a file of the
            backbone's weights without its top, ``.h5`` or ``.weights.h5``, such as the one that Keras downloads.

    Returns:
        A model that is not compiled: (N, H, W, C) float32 in [0, 1] → (N, 1) or (N, n_labels) float32 in [0, 1].

    Raises:
        SettingsError: There is no such backbone, the input is too small, or the weights cannot be had.
    """
    from keras import Input, Model, layers

    if backbone not in BACKBONES:
        raise SettingsError(
            f"network_options.backbone: there is no {backbone!r}. Received: not one of {', '.join(BACKBONES)}"
        )
    height, width, channels = input_shape
    if min(height, width) < SMALLEST:
        raise SettingsError(f"preprocess.size: {backbone} needs at least {SMALLEST} pixels. Received: {height}×{width}")
    chosen = BACKBONES[backbone]

    # === Input ===
    inputs = Input(input_shape, name="image")
    x = inputs if channels == 3 else layers.Concatenate(name="to_rgb")([inputs] * 3)
    x = layers.Rescaling(list(chosen.scale), list(chosen.offset), name="scale")(x)

    # === Features ===
    body = _backbone(chosen, (height, width, 3), weights)
    body.trainable = weights == "random"
    x = body(x)
    x = layers.Identity(name="features")(x)

    # === Head ===
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    binary = n_labels == 2 and head == "sigmoid"
    outputs = layers.Dense(
        1 if binary else n_labels, activation="sigmoid" if binary else "softmax", dtype="float32", name="predictions"
    )(x)
    return Model(inputs, outputs, name=f"transfer_{backbone}")


def thaw(model: "keras.Model") -> None:
    """Let the backbone of a model that `build` made be trained too; the model wants to be compiled again after it."""
    from keras import Model, layers

    (body,) = [layer for layer in model.layers if isinstance(layer, Model)]
    if body.trainable:
        return
    for layer in body.layers:
        # Called with training=False, as Keras' guide has it, it would still learn new statistics: Keras 3 hands the
        # outer model's `training` on instead (keras/src/models/functional.py, operation_fn).
        layer.trainable = not isinstance(layer, layers.BatchNormalization)


def _backbone(chosen: Backbone, shape: tuple[int, int, int], weights: str) -> "keras.Model":
    """The backbone without its top.

    Raises:
        SettingsError: The weights cannot be had; the message says what to do.
    """
    if weights == "imagenet":
        why = 'their download failed; without a network set network_options.weights to a file or to "random"'
    elif weights == "random" or Path(weights).is_file():
        why = "not weights of this backbone without its top"
    else:
        raise SettingsError(f'network_options.weights: "imagenet", "random" or a file expected. Received: {weights!r}')
    from keras import applications

    source = "imagenet" if weights == "imagenet" else None
    body: keras.Model
    with warnings.catch_warnings():
        # MobileNetV2 tells that it loads the weights made for 224 pixels, as one would expect.
        warnings.filterwarnings("ignore", message="`input_shape` is undefined or non-square")
        try:
            body = getattr(applications, chosen.name)(
                include_top=False, weights=source, input_shape=shape, **chosen.options
            )
            if weights not in ("imagenet", "random"):
                body.load_weights(weights)
        except Exception as error:  # keras.utils.get_file raises Exception itself; h5py and Keras various ones
            if weights == "random":
                raise
            told = " ".join(str(error).split())[:200]
            raise SettingsError(f"{chosen.name}, weights {weights!r}: {why}. Received: {told}") from error
    return body
