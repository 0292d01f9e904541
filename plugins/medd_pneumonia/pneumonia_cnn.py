"""The default network: four blocks of two convolutions, no normalisation layers, and a mean over the last maps.

::

    input             128 × 128 × 1, scaled to x / 64 - 2 of 8-bit grey by the PreprocessSpec
    block 1  w = 16   5 × 5 with stride 2, 3 × 3     64 × 64 × 16     pool_1   32 × 32 × 16
    block 2  w = 32   3 × 3, 3 × 3                   32 × 32 × 32     pool_2   16 × 16 × 32
    block 3  w = 64   3 × 3, 3 × 3                   16 × 16 × 64     pool_3    8 ×  8 × 64
    block 4  w = 128  3 × 3, features                 8 ×  8 × 128
    mean → dropout → predictions

Normalisation layers would cost more than the convolutions on a CPU. As the last layer looks at means of maps alone, its
Grad-CAM is a weighted sum of them: the class activation map of Zhou et al. 2016.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import keras


def build(
    input_shape: tuple[int, int, int] = (128, 128, 1),
    n_labels: int = 2,
    *,
    head: Literal["sigmoid", "softmax"] = "softmax",
    dropout: float = 0.2,
    widths: Sequence[int] = (16, 32, 64, 128),
) -> "keras.Model":
    """Build the network.

    Args:
        input_shape: (H, W, C) of one image.
        n_labels: At least 2.
        head: "sigmoid" is one output, the probability of the second label; "softmax" is one output for each label.
            More than two labels are always a softmax.
        dropout: Rate before the last layer, in [0, 1).
        widths: Maps in each block.

    Returns:
        A model: (N, H, W, C) float32 → (N, 1) or (N, n_labels) float32 in [0, 1].
    """
    from keras import Input, Model, layers

    # === Features ===
    inputs = Input(input_shape, name="image")
    x = inputs
    for block, width in enumerate(widths, start=1):
        size, stride = (5, 2) if block == 1 else (3, 1)
        is_last = block == len(widths)
        for name, kernel, step in ((f"conv_{block}a", size, stride), (f"conv_{block}b", 3, 1)):
            x = layers.Conv2D(
                width,
                kernel,
                strides=step,
                padding="same",
                activation="relu",
                kernel_initializer="he_normal",
                name="features" if is_last and name.endswith("b") else name,
            )(x)
        if not is_last:
            x = layers.MaxPooling2D(2, name=f"pool_{block}")(x)

    # === Head ===
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    binary = n_labels == 2 and head == "sigmoid"
    outputs = layers.Dense(
        1 if binary else n_labels, activation="sigmoid" if binary else "softmax", dtype="float32", name="predictions"
    )(x)
    return Model(inputs, outputs, name="pneumonia_cnn")
