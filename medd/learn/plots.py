"""Pictures of a training run."""

from collections.abc import Mapping, Sequence
from pathlib import Path


def history(path: Path, values: Mapping[str, Sequence[float]], quantity: str) -> None:
    """Draw one quantity over the epochs, training beside validation, as the article's figures do.

    Args:
        path: The PNG to write.
        values: Keras' history: quantity and "val_" + quantity, one value for each epoch.
        quantity: "accuracy" or "loss".
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # needs no display, and changes no global state
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=80, layout="constrained")
    axes = figure.add_subplot()
    epochs = range(1, len(values[quantity]) + 1)
    axes.plot(epochs, values[quantity], label="training")
    axes.plot(epochs, values[f"val_{quantity}"], label="validation")
    axes.set(xlabel="epoch", ylabel=quantity)
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})
