"""Results into a folder."""

import csv
import json

import pytest

from medd import DISCLAIMER, settings
from medd.deliver.files import FolderDestination
from medd.errors import TransientError


class NoObjects:
    def make(self, kind: str) -> tuple[()]:
        return ()

    def patient_name(self) -> str:
        return ""


def destination(tmp_path, **keys: object) -> FolderDestination:
    return FolderDestination("out", FolderDestination.Settings(**keys), settings.load(tmp_path))


def test_the_json_has_the_rows_of_medd_results_and_says_what_it_is(tmp_path, report):
    [taken] = destination(tmp_path).send(report, NoObjects(), ())
    told = json.loads((tmp_path / "results" / taken.object).read_text())
    assert told["disclaimer"] == DISCLAIMER
    assert (told["report"], told["number"], told["predecessor"]) == (report.sop_instance_uid, 2, "2.25.1")
    scored, refused = told["results"]
    assert (scored["status"], scored["label"], scored["probability"]) == ("scored", "PNEUMONIA", 0.875)
    assert (refused["status"], refused["reason"]) == ("not_assessed", "lateral_view")
    assert refused["label"] is refused["probability"] is refused["positive"] is None


def test_a_cell_that_a_spreadsheet_would_run_is_quoted(tmp_path, report):
    [taken] = destination(tmp_path, formats=["csv"]).send(report, NoObjects(), ())
    with (tmp_path / "results" / taken.object).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["accession_number"] for row in rows] == ["'=A1", "'=A1"]
    assert [row["status"] for row in rows] == ["scored", "not_assessed"]
    assert {row["disclaimer"] for row in rows} == {DISCLAIMER}


def test_what_is_there_is_not_written_again_and_nothing_half_is_left(tmp_path, report):
    out = destination(tmp_path, formats=["json", "csv"], path="elsewhere/deep")
    first = [one.object for one in out.send(report, NoObjects(), ())]
    assert list(out.send(report, NoObjects(), first)) == []
    assert sorted(path.name for path in (tmp_path / "elsewhere" / "deep").iterdir()) == sorted(first)


def test_what_holds_patients_ids_is_for_the_owner_and_his_group(tmp_path, report):
    [taken] = destination(tmp_path).send(report, NoObjects(), ())
    assert (tmp_path / "results" / taken.object).stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "results").stat().st_mode & 0o007 == 0


def test_a_share_that_is_not_mounted_is_waited_for(tmp_path, report):
    share = tmp_path / "mnt" / "share"
    with pytest.raises(TransientError, match="No such file"):
        list(destination(tmp_path, path=share).send(report, NoObjects(), ()))
    assert not share.parent.exists()


def test_a_folder_that_cannot_be_written_is_waited_for(tmp_path, report):
    (tmp_path / "results").write_text("a file is in the way")
    with pytest.raises(TransientError, match="results cannot be written"):
        list(destination(tmp_path).send(report, NoObjects(), ()))
