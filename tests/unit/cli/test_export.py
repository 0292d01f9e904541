"""``medd export``, as it is typed, and what comes out of it."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from medd.dicom.pseudonyms import KEY_FILE, load_pseudonyms
from medd.imaging.pixels import load
from medd.learn import manifest
from medd.testing import dicom_radiograph, jpeg_radiograph
from tests.home import Home

SECRET = "SECRETNAME"


@pytest.fixture
def ward(home: Home, tmp_path: Path) -> Home:
    """A home with films of six patients, two of each of the first two; three pictures of a child; a PNG and a TIFF."""
    folder = tmp_path / "films"
    folder.mkdir()
    for seed, view in [*((seed, "AP") for seed in range(6)), (0, "PA"), (1, "PA")]:
        film = dicom_radiograph(seed, size=64, view=view, patient_name=f"{SECRET}^EVA")
        film.save_as(folder / f"{SECRET}-{seed}{view}.dcm", enforce_file_format=True)
    for number in range(3):
        data = jpeg_radiograph(10 + number, size=64)
        comment = b"\xff\xfe\x00\x0c" + SECRET.encode()
        (folder / f"person77_bacteria_{number}.jpeg").write_bytes(data[:2] + comment + data[2:])
    grey = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    cv2.imwrite(str(folder / f"{SECRET}.png"), grey * 16)
    cv2.imwrite(str(folder / f"{SECRET}.tif"), grey * 15)
    home.medd("ingest", folder)
    home.folder = folder
    return home


def annotate_all(ward: Home, tmp_path: Path) -> dict[int, str]:
    """Every second patient has a finding: 6 images are normal, 7 are not. Returns the labels by instance id."""
    labels = {}
    for row in ward.json("results"):
        ill = int(row["patient_id"][-1]) % 2 if row["patient_id"] else "person77" in row["origin"]
        labels[row["instance_id"]] = "PNEUMONIA" if ill else "NORMAL"
    lines = "\n".join(f"{instance_id},{label}" for instance_id, label in sorted(labels.items()))
    (tmp_path / "labels.csv").write_text(f"uid,label\n{lines}\n")
    ward.medd("annotate", "--from", tmp_path / "labels.csv", "--reader", "anna")
    return dict(sorted(labels.items()))


def listed(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_export_trains_and_keeps_patients_together(ward, tmp_path):
    annotate_all(ward, tmp_path)
    out, _ = ward.medd("export", tmp_path / "set")
    assert out.startswith("13 new, 0 there already, 0 relabelled, 0 withdrawn, 0 left out, 0 failed\n")
    assert "not examined for burnt-in text" in out
    samples, skipped = manifest.read(tmp_path / "set" / "manifest.csv")
    assert skipped == []
    counts: dict[str, int] = {}
    for sample in samples:
        assert load(sample.path).ndim == 2
        counts[sample.patient] = counts.get(sample.patient, 0) + 1
    # Four patients with one film, two with two, the child of the three pictures, and two of whom nothing is known.
    assert sorted(counts.values()) == [1, 1, 1, 1, 1, 1, 2, 2, 3]
    # The header of a DICOM object and the manifest name the patient alike, so none is two people.
    assert all(not sample.aliases for sample in samples)
    manifest.check(manifest.divide(samples, seed=0), {sample.label for sample in samples})


def test_the_pictures_are_those_that_were_received(ward, tmp_path):
    annotate_all(ward, tmp_path)
    ward.medd("export", tmp_path / "set")
    before = {load(path).tobytes() for path in ward.folder.iterdir()}
    after = {load(tmp_path / "set" / row["path"]).tobytes() for row in listed(tmp_path / "set")}
    assert before == after


def test_nothing_of_the_patients_is_left(ward, tmp_path):
    annotate_all(ward, tmp_path)
    out, err = ward.medd("export", tmp_path / "set")
    everything = files(tmp_path / "set")
    for name, data in everything.items():
        assert SECRET.encode() not in name.encode() + data
        assert b"SYN-" not in data  # the synthetic patients' IDs
        assert b"person77" not in name.encode() + data
        assert load_pseudonyms(ward.path).fingerprint.encode() not in data or name == ".medd-export.json"
    assert SECRET not in out + err
    digests = {row["sha256"] for row in ward.json("results")}
    assert not {Path(name).stem for name in everything} & digests
    # Their times and those of their order are gone, too.
    assert {path.stat().st_mtime for path in (tmp_path / "set").rglob("*") if path.is_file()} == {946_684_800}
    first = dcmread(next(path for path in (tmp_path / "set").rglob("*.dcm")))
    assert (
        first.PatientID
        == first.PatientName
        == next(r["patient"] for r in listed(tmp_path / "set") if Path(first.filename).name in r["path"])
    )
    assert "NOT EXAMINED" in (tmp_path / "set" / "README.txt").read_text()


def test_a_second_run_changes_nothing_and_adds_what_is_new(ward, tmp_path):
    labels = annotate_all(ward, tmp_path)
    ward.medd("export", tmp_path / "set", "--label", "NORMAL")
    normal = files(tmp_path / "set")
    assert ward.medd("export", tmp_path / "set", "--label", "NORMAL")[0].startswith("0 new, 6 there already")
    assert files(tmp_path / "set") == normal
    assert ward.medd("export", tmp_path / "set")[0].startswith("7 new, 6 there already, 0 relabelled")
    whole = files(tmp_path / "set")
    assert {name: whole[name] for name in normal if name != "manifest.csv"} == {
        name: data for name, data in normal.items() if name != "manifest.csv"
    }
    assert len(listed(tmp_path / "set")) == len(labels)


def test_what_readers_took_back_or_cannot_tell_leaves_the_export(ward, tmp_path):
    first, second, *rest = annotate_all(ward, tmp_path)
    ward.medd("export", tmp_path / "set")
    assert ward.medd("annotate", first, "--undo", "--reader", "anna")[0] == "withdrawn\n"
    assert ward.medd("annotate", first, "--undo", "--reader", "anna")[0] == "nothing was said\n"
    assert ward.medd("annotate", second, "?", "--reader", "anna")[0] == "1 recorded, 0 known already\n"
    out, _ = ward.medd("export", tmp_path / "set")
    assert out.startswith(f"0 new, {len(rest)} there already, 0 relabelled, 2 withdrawn, 0 left out, 0 failed\n")
    rows = listed(tmp_path / "set")
    assert len(rows) == len(rest)
    assert {row["path"] for row in rows} == {name for name in files(tmp_path / "set") if "/" in name}
    ward.medd("annotate", "--undo", "--reader", "anna", code=2)
    ward.medd("annotate", first, "NORMAL", "--undo", code=2)


def test_what_readers_relabel_moves_and_what_they_dispute_is_taken_back(ward, tmp_path):
    labels = annotate_all(ward, tmp_path)
    ward.medd("export", tmp_path / "set")
    first = next(instance_id for instance_id, label in labels.items() if label == "NORMAL")
    second = next(instance_id for instance_id, label in labels.items() if label == "PNEUMONIA")
    ward.medd("annotate", first, "PNEUMONIA", "--reader", "anna")
    ward.medd("annotate", second, "NORMAL", "--reader", "ben")
    # Also when the run itself is about something else.
    out, err = ward.medd("export", tmp_path / "set", "--label", "NORMAL")
    assert out.startswith("0 new, 11 there already, 1 relabelled, 1 withdrawn, 1 left out, 0 failed\n")
    assert f"instance {second}: left out: readers disagree about it" in err
    rows = listed(tmp_path / "set")
    assert len(rows) == len(labels) - 1
    assert {row["path"] for row in rows} | {"README.txt", "manifest.csv", ".medd-export.json"} == set(
        files(tmp_path / "set")
    )
    assert all(row["path"].startswith(row["label"] + "/") for row in rows)


def test_reader_and_since_choose(ward, tmp_path):
    labels = annotate_all(ward, tmp_path)
    normal = next(instance_id for instance_id, label in labels.items() if label == "NORMAL")
    ward.medd("annotate", normal, "PNEUMONIA", "--reader", "ben")
    assert ward.medd("export", tmp_path / "ben", "--reader", "ben")[0].startswith("1 new")
    assert [row["label"] for row in listed(tmp_path / "ben")] == ["PNEUMONIA"]
    assert ward.medd("export", tmp_path / "anna", "--reader", "anna")[0].startswith("13 new")
    assert ward.medd("export", tmp_path / "recent", "--since", "1h", "--reader", "anna")[0].startswith("13 new")
    assert ward.medd("export", tmp_path / "future", "--since", "2100-01-01")[0].startswith("0 new")
    assert listed(tmp_path / "future") == []


def test_burnt_in_text_is_left_out_by_name_and_damage_is_a_failure(ward, tmp_path):
    film = dicom_radiograph(50, size=64, BurnedInAnnotation="YES")
    film.save_as(tmp_path / "burnt.dcm", enforce_file_format=True)
    ward.medd("ingest", tmp_path / "burnt.dcm")
    annotate_all(ward, tmp_path)
    burnt = max(row["instance_id"] for row in ward.json("results"))
    spooled = next((ward.path / "spool").rglob("*.jpg"))
    spooled.write_bytes(spooled.read_bytes()[:300])
    out, err = ward.medd("export", tmp_path / "set", code=1)
    assert out.startswith("12 new, 0 there already, 0 relabelled, 0 withdrawn, 1 left out, 1 failed\n")
    assert f"instance {burnt}: left out: it says that text is burnt in" in err
    assert err.count(": failed: ") == 1


def test_a_file_that_was_deleted_is_written_again(ward, tmp_path):
    annotate_all(ward, tmp_path)
    ward.medd("export", tmp_path / "set")
    gone = tmp_path / "set" / listed(tmp_path / "set")[0]["path"]
    before = gone.read_bytes()
    gone.unlink()
    assert ward.medd("export", tmp_path / "set")[0].startswith("1 new, 12 there already")
    assert gone.read_bytes() == before


def test_what_was_cleaned_by_other_rules_is_cleaned_anew(ward, tmp_path):
    annotate_all(ward, tmp_path)
    ward.medd("export", tmp_path / "set")
    fresh = files(tmp_path / "set")
    mark = tmp_path / "set" / ".medd-export.json"
    # As the first version wrote it.
    mark.write_text(json.dumps({"format": 1, "key": load_pseudonyms(ward.path).fingerprint}))
    for row in listed(tmp_path / "set"):
        path = tmp_path / "set" / row["path"]
        path.write_bytes(path.read_bytes() + SECRET.encode())
    # Whatever the run is about; what this home can clean no more is taken back.
    [gone] = [path for path in (ward.path / "spool").rglob("*") if path.suffix == ".png"]
    gone.unlink()
    out, err = ward.medd("export", tmp_path / "set", "--label", "NORMAL", code=1)
    assert "1 withdrawn, 0 left out, 1 failed\n12 cleaned anew: " in out
    assert ": failed: its bytes are not in this spool" in err.replace("\n", " ")
    again = files(tmp_path / "set")
    assert len(listed(tmp_path / "set")) == 12
    assert again == {name: data for name, data in fresh.items() if name in again} | {
        "manifest.csv": again["manifest.csv"]
    }
    assert "anew" not in ward.medd("export", tmp_path / "set", "--label", "NORMAL", code=1)[0]


def test_a_run_that_dies_while_it_cleans_anew_leaves_the_rest_to_the_next(ward, tmp_path, monkeypatch):
    annotate_all(ward, tmp_path)
    ward.medd("export", tmp_path / "set")
    fresh = files(tmp_path / "set")
    monkeypatch.setattr("medd.learn.export._CLEANING", "3 of tomorrow")
    with monkeypatch.context() as patch:
        patch.setattr("medd.learn.export.deidentify_file", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ward.medd("export", tmp_path / "set")
    assert "13 cleaned anew" in ward.medd("export", tmp_path / "set")[0]
    assert files(tmp_path / "set").keys() == fresh.keys()


def test_captures_that_were_asked_for_go_in_a_run_that_does_not_ask(ward, tmp_path):
    capture = dicom_radiograph(50, size=64, BurnedInAnnotation=None, SOPClassUID=SecondaryCaptureImageStorage)
    capture.save_as(tmp_path / "capture.dcm", enforce_file_format=True)
    ward.medd("ingest", tmp_path / "capture.dcm")
    annotate_all(ward, tmp_path)
    assert ward.medd("export", tmp_path / "set")[0].startswith("13 new")
    assert ward.medd("export", tmp_path / "set", "--secondary-captures")[0].startswith("1 new, 13 there already")
    assert ward.medd("export", tmp_path / "set", "--secondary-captures")[0].startswith("0 new, 14 there already")
    out, err = ward.medd("export", tmp_path / "set")
    assert out.startswith("0 new, 13 there already, 0 relabelled, 1 withdrawn, 1 left out")
    assert "left out: it is a Secondary Capture" in err
    assert len(list((tmp_path / "set").rglob("*.dcm"))) == len(listed(tmp_path / "set")) - 5


def test_the_manifest_and_the_object_name_the_patient_alike_also_when_another_is_known(ward, tmp_path):
    annotate_all(ward, tmp_path)
    ward.medd("export", tmp_path / "set")
    table = tmp_path / "set" / "manifest.csv"
    film = next((tmp_path / "set").rglob("*.dcm"))
    before = film.read_bytes()
    pseudonym = dcmread(film).PatientID
    # As if its patient had been called otherwise when it was exported.
    film.write_bytes(before.replace(pseudonym.encode(), b"P0123456789abcdef"))
    table.write_text(table.read_text().replace(pseudonym, "P0123456789abcdef"))
    ward.medd("export", tmp_path / "set")
    assert film.read_bytes() == before
    assert "P0123456789abcdef" not in table.read_text()


def test_what_a_killed_run_left_is_swept_and_nothing_else(ward, tmp_path):
    annotate_all(ward, tmp_path)
    ward.medd("export", tmp_path / "set")
    before = files(tmp_path / "set")
    film = next((tmp_path / "set" / "NORMAL").glob("*.dcm"))
    # Written under another label, and half-written, before the manifest was.
    left = [
        tmp_path / "set" / "PNEUMONIA" / film.name,
        tmp_path / "set" / "NORMAL" / f".{film.name}-0123abcd",
        tmp_path / "set" / ".manifest.csv-0123abcd",
    ]
    mine = [
        tmp_path / "set" / "notes.txt",
        tmp_path / "set" / "NORMAL" / "0123456789abcdef0123456789abcdef.dcm",
        tmp_path / "set" / "NORMAL" / ".notes-0123abcd",
    ]
    for path in left + mine:
        path.write_bytes(b"x")
    ward.medd("export", tmp_path / "set")
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in mine)
    assert {name: files(tmp_path / "set")[name] for name in before} == before


def test_a_folder_that_is_no_export_of_this_home_is_refused(ward, tmp_path):
    annotate_all(ward, tmp_path)
    assert "neither empty nor an export" in ward.refused("export", ward.folder)
    ward.medd("export", tmp_path / "set")
    (ward.path / KEY_FILE).unlink()
    assert "exported with another key" in ward.refused("export", tmp_path / "set")


def test_a_manifest_that_leads_out_of_the_folder_is_refused(ward, tmp_path):
    annotate_all(ward, tmp_path)
    ward.medd("export", tmp_path / "set")
    table = tmp_path / "set" / "manifest.csv"
    table.write_text(table.read_text().replace(",NORMAL,", ",../NORMAL,"))
    assert "can name no folder" in ward.refused("export", tmp_path / "set")


def test_a_file_in_place_of_the_folder_is_refused_by_one_line(ward, tmp_path):
    (tmp_path / "set").write_text("")
    assert "cannot be written" in ward.refused("export", tmp_path / "set")
