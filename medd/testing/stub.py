"""A classifier without a network: quick, deterministic, and good for nothing but tests."""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medd.imaging.preprocess import PreprocessSpec
from medd.registry import bundle as bundles
from medd.registry.bundle import Bundle

#: The classifier that stub bundles name.
NAME = "stub"
_FILE = "stub.json"


class StubClassifier:
    """Takes an image's mean brightness for the probability of the last label; the others share the rest."""

    def __init__(self, n_labels: int = 2, delay_s: float = 0.0) -> None:
        self._n_labels = n_labels
        self._delay_s = delay_s

    def predict(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score (N, size, size, channels) float32 in [0, 1] → (N, labels) float32."""
        time.sleep(self._delay_s)
        last = np.clip(batch.mean(axis=(1, 2, 3)), 0, 1)[:, None]
        others = np.repeat((1 - last) / (self._n_labels - 1), self._n_labels - 1, axis=1)
        return np.concatenate([others, last], axis=1).astype(np.float32)


def load_stub(folder: Path, threads: int = 0) -> StubClassifier:
    """Load a bundle made by `stub_bundle`, as ``ClassifierSpec.load``."""
    options = json.loads((folder / _FILE).read_text())
    return StubClassifier(options["n_labels"], options["delay_s"])


def stub_bundle(
    folder: Path,
    labels: Sequence[str] = ("NORMAL", "PNEUMONIA"),
    *,
    size: int = 64,
    channels: int = 1,
    threshold: float = 0.5,
    name: str = NAME,
    version: str = "1",
    delay_s: float = 0.0,
) -> Path:
    """Write a small bundle for `StubClassifier`; its last label is the positive one.

    Args:
        folder: Made where it is missing.
        labels: Two or more.
        size: Side of the input, pixels.
        channels: 1 or 3.
        threshold: In [0, 1].
        name: Name of the model.
        version: Version of the model.
        delay_s: How long each batch takes, for tests of slow models and of kills in the middle of work.

    Returns:
        `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FILE).write_text(json.dumps({"n_labels": len(labels), "delay_s": delay_s}) + "\n")
    bundle = Bundle(
        name=name,
        version=version,
        classifier=NAME,
        labels=tuple(labels),
        positive_labels=(labels[-1],),
        threshold=threshold,
        preprocess=PreprocessSpec.model_validate({"size": size, "channels": channels}),
        licence="Apache-2.0",
        intended_use="Tests of medd; never for people.",
        created_at=datetime(2024, 1, 1, tzinfo=UTC),
        files={},
    )
    bundles.write(folder, bundle)
    return folder


def write_stub_plugin(plugins_dir: Path, bundle: Path | None = None) -> Path:
    """Write a plugin file that registers the stub, with `bundle` on duty: for tests that start a real daemon.

    Args:
        plugins_dir: Made where it is missing.
        bundle: From `stub_bundle`.

    Returns:
        The file.
    """
    plugins_dir.mkdir(parents=True, exist_ok=True)
    path = plugins_dir / "stub_plugin.py"
    path.write_text(
        "from pathlib import Path\n\n"
        "from medd import hookimpl\n"
        "from medd.testing.stub_plugin import spec\n\n\n"
        "@hookimpl\n"
        "def register_classifiers():\n"
        f"    return [spec({f'Path({str(bundle.resolve())!r})' if bundle else ''})]\n"
    )
    return path
