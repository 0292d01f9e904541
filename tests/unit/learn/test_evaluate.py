"""`medd evaluate` with a classifier that takes brightness for the finding."""

import csv
import json
import weakref
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sklearn.metrics import log_loss
from typer.testing import CliRunner, Result

from medd import plugins
from medd.classify import classifier, oneoff
from medd.classify.classifier import LoadedModel, Scores
from medd.classify.oneoff import classify_files
from medd.cli.main import app
from medd.errors import PluginError, SettingsError
from medd.imaging import pixels
from medd.ingest import admission
from medd.learn import assess, manifest, report
from medd.learn.dataset import decode
from medd.learn.evaluate import evaluate, score
from medd.registry import bundle as bundles
from medd.registry.bundle import Gate
from medd.registry.find import find_folder
from medd.testing import dicom_radiograph, stub_bundle, stub_plugin, write_stub_plugin

#: Brightness of the pictures of a label; the stub's score is about 0.1 above it.
LEVELS = {"NORMAL": 0.1, "PNEUMONIA": 0.7}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    write_stub_plugin(home / "plugins")
    stub_bundle(home / "models" / "stub-1")
    stub_bundle(home / "models" / "stub-2", version="2", threshold=0.95)
    return home


@pytest.fixture
def pictures(tmp_path: Path, draw) -> Path:
    """Ten of each label, two for each patient; IM-0000-0000 is bright, person0_bacteria_0 dark, one is no picture."""
    data = tmp_path / "data"
    for number in range(10):
        draw(data / "NORMAL" / f"IM-{number // 2:04}-{number:04}.png", number, 0.7 if number == 0 else 0.1)
        kind = "bacteria" if number < 6 else "virus"
        draw(data / "PNEUMONIA" / f"person{number // 2}_{kind}_{number}.png", 90 + number, 0.1 if number == 0 else 0.7)
    (data / "PNEUMONIA" / "person9_virus_99.png").write_bytes(b"no picture")
    return data


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def told(*arguments: Any, code: int = 0) -> dict[str, Any]:
    result = run(*arguments, "--format", "json", "--resamples", 50)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def load(folder: Path) -> LoadedModel:
    return classifier.load(folder, stub_plugin.register_classifiers())


def test_a_folder_per_label_is_measured_whole(home, pictures):
    found = told(pictures, "--model", "stub/1", "--home", home, code=1)
    assert (found["n"], found["patients"], found["skipped"], found["split"]) == (20, 10, 1, "all")
    assert found["confusion"] == {"tn": 9, "fp": 1, "fn": 1, "tp": 9}
    assert found["accuracy"] == found["sensitivity"] == found["specificity"] == found["ppv"] == found["npv"] == 0.9
    assert found["model"] == "stub/1"
    assert found["threshold"] == 0.5
    for metric in ("accuracy", "auroc", "auprc", "sensitivity", "specificity", "ppv", "npv", "brier", "ece"):
        low, high = found["ci"][metric]
        assert low <= found[metric] <= high or metric == "ece"  # the bootstrap of an error's size is biased upwards
    assert found["not_assessed"] == 0
    assert "ungated" not in found


def test_a_file_that_cannot_be_read_is_named(home, pictures):
    result = run(pictures, "--model", "stub/1", "--home", home, "--resamples", 0)
    assert "person9_virus_99.png" in result.stderr
    assert "whose they are" not in result.stderr
    assert result.exit_code == 1


METRIC = """
from sklearn.metrics import log_loss
from medd import hookimpl
from medd.hookspecs import Metric

def compute(y_true, y_score, *, threshold, sample_weight):
    {body}

@hookimpl
def register_metrics():
    return [Metric("{name}", compute)]
"""
LOG_LOSS = "return log_loss(y_true, y_score, sample_weight=sample_weight, labels=[False, True])"


def add_metric(home: Path, name: str, body: str = LOG_LOSS) -> None:
    (home / "plugins" / "figure.py").write_text(METRIC.format(name=name, body=body))


def test_a_plugins_figure_stands_beside_medds_with_its_interval(home, pictures, tmp_path):
    add_metric(home, "cross_entropy")
    output = tmp_path / "out"
    found = told(pictures, "--model", "stub/1", "--home", home, "--output", output, code=1)
    with (output / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    truth, scores = [int(row["finding"]) for row in rows], [float(row["probability"]) for row in rows]
    assert found["cross_entropy"] == pytest.approx(log_loss(truth, scores), abs=1e-4)
    low, high = found["ci"]["cross_entropy"]
    assert low < found["cross_entropy"] < high
    assert found["groups"]["source"]["virus"]["cross_entropy"] > 0
    with (output / "groups.csv").open() as file:
        [first, *_] = csv.DictReader(file)
    assert (float(first["cross_entropy"]), float(first["cross_entropy_low"])) == (found["cross_entropy"], low)
    assert "cross_entropy" in run(pictures, "--model", "stub/1", "--home", home, "--resamples", 0).stdout


def test_a_figure_that_images_cannot_tell_is_none(home, pictures):
    add_metric(home, "unknown", "return float('nan')")
    found = told(pictures, "--model", "stub/1", "--home", home, code=1)
    assert (found["unknown"], found["ci"]["unknown"]) == (None, None)


@pytest.mark.parametrize(
    ("name", "body", "reason"),
    [
        ("auroc", LOG_LOSS, "metric 'auroc': medd's own report has this name already"),
        ("groups", LOG_LOSS, "metric 'groups': medd's own report has this name already"),
    ],
)
def test_a_plugins_figure_that_cannot_be_used_is_named(home, pictures, name, body, reason):
    add_metric(home, name, body)
    result = run(pictures, "--model", "stub/1", "--home", home)
    assert isinstance(result.exception, PluginError)
    assert reason in str(result.exception)


def test_what_a_plugins_figure_raises_is_shown_as_it_is(home, pictures):
    add_metric(home, "broken", "raise ValueError('only one class')")
    result = run(pictures, "--model", "stub/1", "--home", home)
    assert isinstance(result.exception, ValueError)
    assert str(result.exception) == "only one class"


def test_scores_are_those_of_serving(home, pictures):
    model = load(home / "models" / "stub-1")
    manager = plugins.load_plugins(builtin=(admission, stub_plugin))
    samples = manifest.read(pictures)[0]
    material = assess.assess(samples, [model], manager)
    served = [one.prediction.probability for one in classify_files([s.path for s in material.samples], model, manager)]
    np.testing.assert_array_equal(material.results[0].scores, served)


def test_no_film_is_held_while_a_model_is_asked(home, pictures, monkeypatch):
    films: list[weakref.ref[np.ndarray]] = []
    held: list[int] = []

    def load_film(*arguments: Any) -> np.ndarray:
        film = pixels.load(*arguments)
        films.append(weakref.ref(film))
        return film

    class Watching:
        def predict(self, batch: np.ndarray) -> np.ndarray:
            held.append(sum(film() is not None for film in films))
            return np.full((len(batch), 2), 0.5, np.float32)

    for module in (assess, oneoff):
        monkeypatch.setattr(module, "load", load_film)
    stub, manager = load(home / "models" / "stub-1"), plugins.load_plugins(builtin=(admission, stub_plugin))
    watched = LoadedModel(stub.bundle, Watching())
    samples = manifest.read(pictures)[0]
    assess.assess(samples, [watched], manager)
    paths = [sample.path for sample in samples]
    assert {one.image is None for one in classify_files(paths, watched, manager)} == {True}
    assert len(films) == 40
    assert held == [0, 0]
    kept = classify_files(paths, watched, manager, keep_images=True)
    assert [one.image is None for one in kept] == [path.name == "person9_virus_99.png" for path in paths]


def test_models_of_other_inputs_are_each_given_theirs(home, pictures):
    other = load(stub_bundle(home / "models" / "stub-3", version="3", size=32, channels=3))
    stub, manager = load(home / "models" / "stub-1"), plugins.load_plugins(builtin=(admission, stub_plugin))
    samples = manifest.read(pictures)[0]
    both = assess.assess(samples, [stub, other], manager).results
    for model, found in zip((stub, other), both, strict=True):
        np.testing.assert_array_equal(found.scores, assess.assess(samples, [model], manager).results[0].scores)


def test_a_part_in_memory_gives_the_same_figures_as_its_files(home, pictures):
    model = load(home / "models" / "stub-1")
    samples = manifest.read(pictures)[0]
    part, _ = decode(samples, model.bundle.labels, model.bundle.preprocess)
    material = assess.assess(samples, [model], plugins.load_plugins(builtin=(admission, stub_plugin)))
    np.testing.assert_array_equal(score(model, part).scores, material.results[0].scores.astype(np.float32))
    expected = evaluate(model, part, resamples=20)
    found = report.report(pictures, "all", material, [home / "models" / "stub-1"], 20)
    assert {name: found[name] for name in expected} == expected


def test_sub_groups_are_told_by_the_names_of_the_files(home, pictures):
    sources = told(pictures, "--model", "stub/1", "--home", home, code=1)["groups"]["source"]
    assert {name: group["n"] for name, group in sources.items()} == {"IM": 10, "bacteria": 6, "virus": 4}
    assert sources["bacteria"]["sensitivity"] == pytest.approx(5 / 6, abs=1e-4)
    assert sources["virus"]["sensitivity"] == 1
    assert sources["IM"]["specificity"] == 0.9
    assert sources["IM"]["auroc"] is None
    assert sources["IM"]["ci"]["auroc"] is None


def test_columns_of_a_csv_are_sub_groups_and_its_test_part_is_taken(home, tmp_path, draw):
    with (tmp_path / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label", "patient", "split", "age", "scanner", "accession"))
        for number in range(48):
            label = ("NORMAL", "PNEUMONIA")[number % 2]
            draw(tmp_path / f"{number}.png", number, LEVELS[label])
            split = "train" if number < 4 else "test"
            age = "" if number == 4 else 1 if number < 20 else "070Y"
            rows.writerow((f"{number}.png", label, number, split, age, "AB"[number % 4 > 1], f"A{number}"))
    found = told(tmp_path / "table.csv", "--model", "stub/1", "--home", home)
    assert (found["split"], found["n"]) == ("test", 44)
    assert {v: g["n"] for v, g in found["groups"]["age"].items()} == {"0–1": 15, "65+": 28, "not stated": 1}
    assert list(found["groups"]["age"]) == ["0–1", "65+", "not stated"]
    assert set(found["groups"]) == {"age", "scanner"}  # an accession number is no grouping
    assert told(tmp_path / "table.csv", "--split", "all", "--model", "stub/1", "--home", home)["n"] == 48


def test_dicom_headers_give_sub_groups_and_refusals(home, tmp_path, draw):
    for number in range(6):
        label = ("NORMAL", "PNEUMONIA")[number % 2]
        folder = tmp_path / "data" / label
        folder.mkdir(parents=True, exist_ok=True)
        dataset = dicom_radiograph(
            number,
            size=128,
            PatientSex="MF"[number % 2],
            PatientAge="004Y",
            Manufacturer=("Acme", "Other")[number > 2],
            ViewPosition="LL" if number == 5 else "AP",
        )
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    found = told(tmp_path / "data", "--model", "stub/1", "--home", home)
    assert (found["n"], found["not_assessed"], found["not_assessed_reasons"]) == (5, 1, {"lateral_view": 1})
    assert found["ungated"]["n"] == 6
    assert {v: g["n"] for v, g in found["groups"]["sex"].items()} == {"F": 2, "M": 3}
    assert {v: g["n"] for v, g in found["groups"]["manufacturer"].items()} == {"Acme": 3, "Other": 2}
    assert "age" not in found["groups"]


def test_when_nothing_is_assessed_nothing_is_claimed(home, tmp_path):
    for label, seed in (("NORMAL", 1), ("PNEUMONIA", 2)):
        (tmp_path / "data" / label).mkdir(parents=True)
        lateral = dicom_radiograph(seed, size=128, ViewPosition="LL")
        lateral.save_as(tmp_path / "data" / label / "1.dcm", enforce_file_format=True)
    found = told(tmp_path / "data", "--model", "stub/1", "--home", home, "--output", tmp_path / "out")
    assert (found["n"], found["not_assessed"], found["accuracy"], found["ci"]["accuracy"]) == (0, 2, None, None)
    assert found["ungated"]["n"] == 2
    assert run(tmp_path / "data", "--model", "stub/1", "--home", home).exit_code == 0


class _Wary:
    """Brightness is the finding; whatever is neither dark nor bright is unfamiliar."""

    def predict(self, batch: np.ndarray) -> np.ndarray:
        return self.explain(batch).probabilities

    def explain(self, batch: np.ndarray) -> Scores:
        level = batch.mean(axis=(1, 2, 3))
        return Scores(np.stack([1 - level, level], axis=1), novelty=(abs(level - 0.5) < 0.2).astype(np.float32))


def test_what_the_model_finds_unfamiliar_is_not_assessed_and_counted(home, pictures, draw):
    draw(pictures / "PNEUMONIA" / "person50_virus_1.png", 500, 0.35)
    stub = load(home / "models" / "stub-1")
    wary = LoadedModel(stub.bundle.model_copy(update={"gate": Gate(threshold=0.5)}), _Wary())
    manager = plugins.load_plugins(builtin=(admission, stub_plugin))
    material = assess.assess(manifest.read(pictures)[0], [wary, stub], manager)
    folders = [home / "models" / "stub-1"] * 2
    found = report.report(pictures, "all", material, folders, 0)
    assert (found["n"], found["not_assessed"], found["not_assessed_reasons"]) == (20, 1, {"unfamiliar": 1})
    assert (found["ungated"]["n"], found["against"]["n"]) == (21, 21)
    assert found["comparison"]["n"] == 20


def test_two_models_are_compared_on_the_same_images(home, pictures):
    result = run(pictures, "--model", "stub/1", "--against", "stub/2", "--home", home, "--resamples", 0)
    assert "stub/1 against stub/2 on the 20 images" in result.stdout
    found = told(pictures, "--model", "stub/1", "--against", "stub/2", "--home", home, code=1)
    compared = found["comparison"]
    assert (compared["a"], compared["b"], compared["n"]) == ("stub/1", "stub/2", 20)
    # At 0.95 the second calls nothing a finding: it is right on the bright normal, and wrong on nine findings.
    assert (compared["only_a_right"], compared["only_b_right"]) == (9, 1)
    assert compared["auroc_difference"] == 0
    assert found["against"]["sensitivity"] == 0


@pytest.mark.parametrize(("label", "known"), [("PNEUMONIA", "sensitivity"), ("NORMAL", "specificity")])
def test_one_class_alone_gives_what_it_can(home, tmp_path, draw, label, known):
    for number in range(4):
        draw(tmp_path / "data" / label / f"{number}.png", number, LEVELS[label])
    found = told(tmp_path / "data", "--model", "stub/1", "--home", home, "--output", tmp_path / "out")
    assert found[known] == found["accuracy"] == 1
    assert found["auroc"] is found["auprc"] is found["ppv"] is found["npv"] is None
    assert found["ci"]["auroc"] is None
    assert not (tmp_path / "out" / "roc.png").exists()
    assert (tmp_path / "out" / "confusion.png").exists()
    assert run(tmp_path / "data", "--model", "stub/1", "--home", home).exit_code == 0


def test_output_holds_figures_scores_and_plots(home, pictures, tmp_path):
    out = tmp_path / "out"
    found = told(pictures, "--model", "stub/1", "--against", "stub/2", "--home", home, "--output", out, code=1)
    assert json.loads((out / "evaluation.json").read_text()) == found
    lines = list(csv.DictReader((out / "scores.csv").read_text().splitlines()))
    assert len(lines) == 40
    assert {line["model"] for line in lines} == {"stub/1", "stub/2"}
    assert sum(line["positive"] == line["finding"] for line in lines if line["model"] == "stub/1") == 18
    groups = list(csv.DictReader((out / "groups.csv").read_text().splitlines()))
    assert [row["n"] for row in groups if row["group"] == "all"] == ["20", "20"]
    for name in ("roc", "precision_recall", "reliability", "confusion"):
        assert cv2.imread(str(out / f"{name}.png")).std() > 5


def test_an_output_that_cannot_be_written_is_one_line(home, pictures, tmp_path):
    (tmp_path / "file").write_text("")
    result = run(pictures, "--model", "stub/1", "--home", home, "--resamples", 0, "--output", tmp_path / "file" / "x")
    assert isinstance(result.exception, SettingsError)


def test_a_row_for_all_and_for_each_group_as_csv(home, pictures):
    result = run(pictures, "--model", "stub/1", "--home", home, "--resamples", 0, "--format", "csv")
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert [(row["group"], row["value"]) for row in rows] == [
        ("all", ""), ("source", "IM"), ("source", "bacteria"), ("source", "virus")
    ]  # fmt: skip


def test_images_that_trained_the_model_are_counted_and_told(home, pictures, tmp_path):
    (pictures / "PNEUMONIA" / "person9_virus_99.png").unlink()
    samples = manifest.divide(manifest.read(pictures)[0], 0)
    folder = stub_bundle(tmp_path / "trained")
    manifest.write(folder / "split.csv", samples)
    bundles.write(folder, bundles.read(folder, verify=False))
    sides = {side: sum(sample.split == side for sample in samples) for side in ("train", "val", "test")}
    result = run(pictures, "--model", folder, "--home", home, "--resamples", 0)
    assert f"{sides['train'] + sides['val']} of these images took part in the training of stub/1" in result.stderr
    assert told(pictures, "--model", folder, "--home", home)["seen"] == sides
    held_out = told(pictures, "--model", folder, "--home", home, "--split", "test")
    assert held_out["n"] == sides["test"]
    assert held_out["seen"] == {"train": 0, "val": 0, "test": sides["test"]}


@pytest.mark.parametrize("text", [b"sha256,side\n00,test\n", b"sha256,split\n\xff,test\n"])
def test_a_split_that_is_no_such_table_is_an_error(tmp_path, text):
    assert assess.sides_of(tmp_path) == {}
    (tmp_path / "split.csv").write_bytes(text)
    with pytest.raises(SettingsError, match=r"split\.csv"):
        assess.sides_of(tmp_path)


def test_a_part_that_nobody_states_is_an_error(home, pictures):
    result = run(pictures, "--model", "stub/1", "--home", home, "--split", "val")
    assert isinstance(result.exception, SettingsError)
    assert "states no such part" in str(result.exception)


def test_other_findings_than_the_models_count_as_findings(home, tmp_path, draw):
    for number, (label, level) in enumerate((("normal", 0.1), ("bacteria", 0.7), ("virus", 0.8))):
        draw(tmp_path / "data" / label / "1.png", number, level)
    found = told(tmp_path / "data", "--model", "stub/1", "--home", home)
    assert found["confusion"] == {"tn": 1, "fp": 0, "fn": 0, "tp": 2}
    assert set(found["groups"]["label"]) == {"normal", "bacteria", "virus"}
    result = run(tmp_path / "data", "--model", "stub/1", "--home", home, "--resamples", 0)
    assert "3 of 3 images do not say whose they are" in result.stderr


def test_labels_that_the_model_does_not_know_need_a_word(home, tmp_path, draw):
    for number, (label, level) in enumerate((("healthy", 0.1), ("sick", 0.7))):
        draw(tmp_path / "data" / label / "1.png", number, level)
    result = run(tmp_path / "data", "--model", "stub/1", "--home", home)
    assert isinstance(result.exception, SettingsError)
    assert "--negative" in str(result.exception)
    found = told(tmp_path / "data", "--model", "stub/1", "--home", home, "--negative", "healthy")
    assert found["confusion"] == {"tn": 1, "fp": 0, "fn": 0, "tp": 1}


def test_a_label_that_nobody_knows_beside_a_finding_needs_a_word(home, tmp_path, draw):
    for number, (label, level) in enumerate((("HEALTHY", 0.1), ("PNEUMONIA", 0.7))):
        draw(tmp_path / "data" / label / "1.png", number, level)
    result = run(tmp_path / "data", "--model", "stub/1", "--home", home)
    assert isinstance(result.exception, SettingsError)
    assert "--negative" in str(result.exception)
    found = told(tmp_path / "data", "--model", "stub/1", "--home", home, "--negative", "Healthy")
    assert found["confusion"] == {"tn": 1, "fp": 0, "fn": 0, "tp": 1}


def test_a_negative_label_that_no_image_has_is_an_error(home, pictures):
    result = run(pictures, "--model", "stub/1", "--home", home, "--negative", "NORMALE")
    assert isinstance(result.exception, SettingsError)
    assert "--negative NORMALE: no image has this label. Received: NORMAL, PNEUMONIA" in str(result.exception)


def test_a_model_is_found_by_its_name_or_its_folder(home, tmp_path):
    shipped = stub_bundle(tmp_path / "shipped", version="0")
    (home / "models" / "broken").mkdir()
    (home / "models" / "broken" / "bundle.json").write_text("{")
    specs = [stub_plugin.spec(shipped)]
    assert find_folder("stub/0", specs, home / "models") == shipped
    assert find_folder("stub/2", specs, home / "models") == home / "models" / "stub-2"
    assert find_folder(str(shipped), specs, home / "models") == shipped
    with pytest.raises(SettingsError, match="stub/0, stub/1, stub/2"):
        find_folder("stub/9", specs, home / "models")


def test_a_classifier_without_a_model_asks_for_one(home, pictures):
    result = run(pictures, "--home", home, "--config", _config(home, "stub"))
    assert isinstance(result.exception, SettingsError)
    assert "--model" in str(result.exception)


def _config(home: Path, name: str) -> Path:
    path = home / "other.toml"
    path.write_text(f'[model]\nclassifier = "{name}"\n')
    return path
