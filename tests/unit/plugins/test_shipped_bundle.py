from pathlib import Path

import pytest

from medd.classify import classifier
from medd.learn import manifest
from medd.learn.dataset import decode
from medd.learn.evaluate import evaluate
from medd.registry import bundle as bundles
from medd.registry.bundle import Bundle
from medd.testing.contract import check_classifier
from medd_pneumonia import register_classifiers

CHEST = Path(__file__).parents[3] / "../shared/data/chest_xray/train"

(SPEC,) = [spec for spec in register_classifiers() if spec.name == "paper"]
assert SPEC.bundle is not None
FOLDER: Path = SPEC.bundle


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return bundles.read(FOLDER)


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


def test_the_shipped_model_keeps_the_contract():
    check_classifier(SPEC)


def test_the_shipped_model_says_what_it_is_for(bundle):
    assert bundle.ref == "paper/1"
    assert "Kermany, Zhang, Goldbaum 2018, CC BY 4.0, doi:10.17632/rscbjbr9sj.2" in bundle.licence
    assert "Not for diagnosis" in bundle.intended_use
    assert bundle.evaluation["onnx_max_difference"] <= 1e-4


def test_nothing_but_the_bundle_is_shipped(bundle):
    found = {path.name for path in FOLDER.iterdir()}
    assert found == {*bundle.files, "bundle.json"}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 11_000_000


def test_the_model_card_states_what_was_measured(bundle):
    card = (FOLDER.parents[1] / "MODEL_CARD.md").read_text()
    assert [line for line in figures_of(bundle) if line not in card] == []


@pytest.mark.data
@pytest.mark.skipif(not CHEST.is_dir(), reason="needs ../shared/data/chest_xray")
def test_the_figures_come_out_again(bundle):
    samples = manifest.divide(manifest.read(CHEST)[0], bundle.training["options"]["seed"])
    assert manifest.digest(samples) == bundle.training["split_digest"]
    held_out = [sample for sample in samples if sample.split == "test"]
    part, _ = decode(held_out, bundle.labels, bundle.preprocess)
    measured = evaluate(classifier.load(FOLDER, register_classifiers()), part)
    # Another processor rounds otherwise: one image of 780 may cross the threshold.
    for name in ("accuracy", "auroc", "sensitivity", "specificity", "brier", "ece"):
        assert measured[name] == pytest.approx(bundle.evaluation[name], abs=0.006)
