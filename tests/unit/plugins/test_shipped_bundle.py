import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from medd.classify import classifier
from medd.hookspecs import ClassifierSpec
from medd.imaging.pixels import load
from medd.imaging.preprocess import preprocess
from medd.learn import manifest
from medd.learn.dataset import decode
from medd.learn.evaluate import evaluate
from medd.registry import bundle as bundles
from medd.registry.bundle import Bundle
from medd.testing import radiograph
from medd.testing.contract import check_classifier
from medd_pneumonia import register_classifiers

CHEST = Path(__file__).parents[3] / "../shared/data/chest_xray/train"
ADULT = CHEST.parents[1] / "dicom" / "cxr_pa_jpeg_baseline.dcm"

NAMES = ("paper", "pneumonia")


@pytest.fixture(scope="module", params=NAMES)
def spec(request: pytest.FixtureRequest) -> ClassifierSpec:
    [found] = [spec for spec in register_classifiers() if spec.name == request.param]
    assert found.bundle is not None
    return found


@pytest.fixture
def folder(spec: ClassifierSpec) -> Path:
    assert spec.bundle is not None
    return spec.bundle


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    return bundles.read(folder)


def figures_of(bundle: Bundle) -> list[str]:
    """The table of MODEL_CARD.md, line by line."""
    measured = bundle.evaluation
    rows = []
    for name in ("accuracy", "auroc", "sensitivity", "specificity", "brier", "ece"):
        low, high = measured["ci"][name]
        rows.append(f"| {name} | {measured[name]:.3f} | {low:.3f} to {high:.3f} |")
    cells = ", ".join(f"{name} {count}" for name, count in measured["confusion"].items())
    half = ", ".join(f"{name} {count}" for name, count in measured["confusion_at_0.5"].items())
    return [
        *rows,
        f"{measured['n']} images of {measured['patients']} patients",
        f"Threshold: {bundle.threshold}",
        f"Confusion at the threshold: {cells}.",
        f"Confusion at 0.5: {half}.",
        f"best epoch: {bundle.training['best_epoch']} of {bundle.training['epochs_run']}",
        bundle.training["split_digest"][:16],
    ]


def test_the_shipped_model_keeps_the_contract(spec):
    check_classifier(spec, batch_size=40)  # more than the network is given at once


def test_novelty_and_heat_belong_to_their_image_however_many_there_are():
    [spec] = [spec for spec in register_classifiers() if spec.name == "pneumonia"]
    model = classifier.load(spec.bundle, [spec])
    films = [radiograph(seed, size=256, opacity=seed % 2 == 1) for seed in range(40)]
    batch = np.stack([preprocess(film, model.bundle.preprocess) for film in films])
    together = model.explain(batch)
    for number in (0, 15, 16, 39):
        alone = model.explain(batch[number : number + 1])
        np.testing.assert_allclose(together.novelty[number], alone.novelty[0], rtol=1e-3)
        np.testing.assert_allclose(together.heat[number], alone.heat[0], rtol=1e-3, atol=1e-4)


def test_the_shipped_model_says_what_it_is_for(spec, bundle):
    assert bundle.ref == f"{spec.name}/1"
    assert "Kermany, Zhang, Goldbaum 2018, CC BY 4.0, doi:10.17632/rscbjbr9sj.2" in bundle.licence
    assert "Not for diagnosis" in bundle.intended_use
    assert bundle.evaluation["onnx_max_difference"] <= 1e-4


def test_nothing_but_the_bundle_is_shipped(folder, bundle):
    found = {path.name for path in folder.iterdir()}
    assert found == {*bundle.files, "bundle.json"}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 11_000_000


def test_the_model_card_states_what_was_measured(spec, bundle):
    card = (spec.about / "MODEL_CARD.md").read_text()
    assert [line for line in figures_of(bundle) if line not in card] == []


def test_the_curves_that_are_shipped_are_of_the_images_that_the_bundle_was_measured_on(spec, bundle):
    told = json.loads((spec.about / "held-out" / "evaluation.json").read_text())
    drawn = json.loads((spec.about / "held-out" / "curves.json").read_text())[bundle.ref]
    assert told["model"] == bundle.ref
    assert told["n"] + told["not_assessed"] == bundle.evaluation["n"]
    assert told["auroc"] == pytest.approx(bundle.evaluation["auroc"], abs=0.002)
    area = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(drawn["roc"]))
    assert area == pytest.approx(told["auroc"], abs=0.002)
    assert sum(one["images"] for one in drawn["reliability"]) == told["n"]


@pytest.mark.data
@pytest.mark.skipif(not CHEST.is_dir(), reason="needs ../shared/data/chest_xray")
def test_the_figures_come_out_again(folder, bundle):
    options = bundle.training["options"]
    samples = manifest.divide(manifest.read(CHEST)[0], options.get("split_seed") or options["seed"])
    assert manifest.digest(samples) == bundle.training["split_digest"]
    held_out = [sample for sample in samples if sample.split == "test"]
    part, _ = decode(held_out, bundle.labels, bundle.preprocess)
    measured = evaluate(classifier.load(folder, register_classifiers()), part)
    # Another processor rounds otherwise: one image of 780 may cross the threshold.
    for name in ("accuracy", "auroc", "sensitivity", "specificity", "brier", "ece"):
        assert measured[name] == pytest.approx(bundle.evaluation[name], abs=0.006)


@pytest.mark.data
@pytest.mark.skipif(not CHEST.is_dir(), reason="needs ../shared/data/chest_xray")
def test_the_default_model_refuses_few_of_its_own_and_what_is_no_such_film():
    [spec] = [spec for spec in register_classifiers() if spec.name == "pneumonia"]
    assert spec.bundle is not None
    model = classifier.load(spec.bundle, [spec])
    samples = [s for s in manifest.divide(manifest.read(CHEST)[0], 0) if s.split == "test"]
    films = [load(sample.path) for sample in samples]

    def refused(images: list[np.ndarray]) -> float:
        inputs = np.stack([preprocess(np.ascontiguousarray(image), model.bundle.preprocess) for image in images])
        return float(model.refused(model.explain(inputs)).mean())

    assert refused(films) <= 0.02
    some = films[::10]
    assert refused([1 - film for film in some]) > 0.99
    assert refused([np.rot90(film) for film in some]) > 0.99


@pytest.mark.data
@pytest.mark.skipif(not ADULT.is_file(), reason="needs ../shared/data/dicom")
def test_a_film_that_the_gate_was_shown_is_refused_however_it_is_cut():
    [spec] = [spec for spec in register_classifiers() if spec.name == "pneumonia"]
    model = classifier.load(spec.bundle, [spec])
    assert model.bundle.training["outliers"] == 2
    film = load(ADULT)
    rows, columns = film.shape
    cut = film[rows // 20 : -rows // 20, columns // 25 : -columns // 20]
    views = [film, film[:, ::-1], np.sqrt(film), film**1.4, cut, cut[::4, ::4]]
    inputs = np.stack([preprocess(np.ascontiguousarray(view), model.bundle.preprocess) for view in views])
    assert model.refused(model.explain(inputs)).all()
