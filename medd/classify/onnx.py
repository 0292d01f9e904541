"""The standard way to run a bundle: ``model.onnx`` on ONNX Runtime. No code is executed from the model file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medd.classify.classifier import Scores
from medd.errors import ModelUnusable

MODEL = "model.onnx"

#: Images in one pass: more at once are no faster, and the memory that a pass takes is kept for the next.
_AT_ONCE = 16


class OnnxClassifier:
    """A network with one input (N, size, size, channels) float32.

    Its output "probabilities", or its only one, is (N, labels), or (N, 1) for a sigmoid, the probability of the second
    label. The outputs "novelty" (N, 1) and "heat" (N, h, w) may come with it; see `medd.classify.classifier.Scores`.
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
        names = [output.name for output in self._session.get_outputs()]
        self._main = "probabilities" if "probabilities" in names else names[0]
        self._extra = [name for name in ("novelty", "heat") if name in names]

    def predict(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score (N, size, size, channels) float32 → (N, labels) float32 probabilities."""
        return _both(self._run([self._main], batch)[0])

    def explain(self, batch: NDArray[np.float32]) -> Scores:
        """Score (N, size, size, channels) float32, with novelty and heat where the network has them."""
        scores, *extra = self._run([self._main, *self._extra], batch)
        told = dict(zip(self._extra, extra, strict=True))
        novelty = told.get("novelty")
        return Scores(_both(scores), None if novelty is None else novelty.reshape(-1), told.get("heat"))

    def _run(self, outputs: list[str], batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        starts = range(0, max(len(batch), 1), _AT_ONCE)
        parts = [self._session.run(outputs, {self._input: batch[n : n + _AT_ONCE]}) for n in starts]
        return [np.concatenate(one) for one in zip(*parts, strict=True)]


def _both(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """A sigmoid's (N, 1) as (N, 2); a softmax as it is."""
    return np.concatenate([1 - scores, scores], axis=1) if scores.shape[1] == 1 else scores


def load(folder: Path, threads: int = 0) -> OnnxClassifier:
    """Load the bundle in `folder`.

    Raises:
        ModelUnusable: ``model.onnx`` is missing or no network.
    """
    return OnnxClassifier(folder / MODEL, threads)
