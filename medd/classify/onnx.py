"""The standard way to run a bundle: ``model.onnx`` on ONNX Runtime. No code is executed from the model file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medd.errors import ModelUnusable

MODEL = "model.onnx"


class OnnxClassifier:
    """A network with one input (N, size, size, channels) and one output (N, 1) or (N, labels), float32.

    One output is a sigmoid, the probability of the second label; several are a softmax, one for each label.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Waiting threads must not burn the cores that decode the next batch.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes differ from release to release
            raise ModelUnusable(f"{path}: not a network that ONNX Runtime can load. Received: {error}") from error
        self._input = self._session.get_inputs()[0].name

    def predict(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score (N, size, size, channels) float32 → (N, labels) float32 probabilities."""
        scores: NDArray[np.float32] = self._session.run(None, {self._input: batch})[0]
        return np.concatenate([1 - scores, scores], axis=1) if scores.shape[1] == 1 else scores


def load(folder: Path, threads: int = 0) -> OnnxClassifier:
    """Load the bundle in `folder`.

    Raises:
        ModelUnusable: ``model.onnx`` is missing or no network.
    """
    return OnnxClassifier(folder / MODEL, threads)
