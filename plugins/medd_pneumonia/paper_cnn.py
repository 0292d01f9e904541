"""The article's network (its Table 1): three convolutions, two dense layers, 1,212,513 parameters.

::

    input           150 × 150 × 3
    conv_1   32     148 × 148 × 32      pool_1    74 × 74 × 32
    conv_2   32      72 × 72 × 32       pool_2    36 × 36 × 32
    conv_3   64      34 × 34 × 64       pool_3    17 × 17 × 64
    flatten                             18496
    dense    64 → dropout
    predictions                         1 (sigmoid) or one for each label (softmax)
"""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import keras


def build(
    input_shape: tuple[int, int, int] = (150, 150, 3),
    n_labels: int = 2,
    *,
    head: Literal["sigmoid", "softmax"] = "sigmoid",
    dropout: float = 0.5,
) -> "keras.Model":
    """Build the network.

    Args:
        input_shape: (H, W, C) of one image; the article's is (150, 150, 3).
        n_labels: At least 2.
        head: "sigmoid" is one output, the probability of the second label, as in the article; "softmax" is one
            output for each label. More than two labels are always a softmax.
        dropout: Rate before the last layer, in [0, 1).

    Returns:
        A model: (N, H, W, C) float32 → (N, 1) or (N, n_labels) float32 in [0, 1].
    """
    from keras import Input, Model, layers

    # === Features ===
    inputs = Input(input_shape, name="image")
    x = inputs
    for number, filters in enumerate((32, 32, 64), start=1):
        x = layers.Conv2D(filters, 3, activation="relu", name=f"conv_{number}")(x)
        x = layers.MaxPooling2D(2, name=f"pool_{number}")(x)

    # === Head ===
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(64, activation="relu", name="dense")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    binary = n_labels == 2 and head == "sigmoid"
    outputs = layers.Dense(
        1 if binary else n_labels, activation="sigmoid" if binary else "softmax", dtype="float32", name="predictions"
    )(x)

    return Model(inputs, outputs, name="paper_cnn")
