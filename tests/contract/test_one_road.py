"""One file through training's data and through classifying gives identical bytes."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from medd.classify import classifier
from medd.classify.classifier import LoadedModel
from medd.imaging.pixels import load
from medd.imaging.preprocess import PreprocessSpec, preprocess
from medd.learn import manifest
from medd.learn.dataset import decode
from medd.learn.evaluate import score
from medd.testing.films import dicom_radiograph
from medd_pneumonia import register_classifiers

SPECS = [
    PreprocessSpec(),
    PreprocessSpec(size=128, channels=1, mean=0.5, scale=0.25),
    PreprocessSpec(size=224, fit="pad"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each label a DICOM film, one stored inverted, a small JPEG, and a PNG of 16 bits."""
    folder = tmp_path_factory.mktemp("data")
    for label in ("NORMAL", "PNEUMONIA"):
        (folder / label).mkdir()
        sick = label == "PNEUMONIA"
        for name, kind in (("plain", "MONOCHROME2"), ("inverted", "MONOCHROME1")):
            film = dicom_radiograph(1, opacity=sick, size=(300, 260), photometric=kind)
            film.save_as(folder / label / f"{name}.dcm", enforce_file_format=True)
        rng = np.random.default_rng(sick)
        assert cv2.imwrite(str(folder / label / "small.jpg"), rng.integers(0, 256, (90, 110), np.uint8))
        assert cv2.imwrite(str(folder / label / "deep.png"), rng.integers(0, 65536, (400, 300), np.uint16))
    return folder


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.size}-{spec.fit}-{spec.channels}")
def test_evaluation_sees_the_bytes_that_serving_sees(data, spec):
    samples, _ = manifest.read(data)
    part, skipped = decode(samples, ("NORMAL", "PNEUMONIA"), spec)
    served = np.stack([preprocess(load(sample.path), spec) for sample in samples])
    assert not skipped
    assert len(part) == 8
    assert part.inputs().dtype == served.dtype == np.float32
    assert part.inputs().tobytes() == served.tobytes()
    assert part.inputs(2, 5).tobytes() == served[2:5].tobytes()


def test_evaluation_and_serving_score_alike(data):
    specs = register_classifiers()
    spec = next(spec for spec in specs if spec.name == "paper")
    assert spec.bundle is not None
    model: LoadedModel = classifier.load(spec.bundle, specs)
    samples, _ = manifest.read(data)
    part, _ = decode(samples, model.bundle.labels, model.bundle.preprocess)
    scored = score(model, part)
    truth, scores = scored.truth, scored.scores
    assert list(truth) == [sample.label == "PNEUMONIA" for sample in samples]
    images = np.stack([preprocess(load(sample.path), model.bundle.preprocess) for sample in samples])
    predictions = [model.interpret(row, number) for number, row in enumerate(model.predict(images))]
    assert [prediction.probability for prediction in predictions] == [float(score) for score in scores]
