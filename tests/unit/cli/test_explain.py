"""``medd explain``, as it is typed."""

from medd.testing import dicom_radiograph
from tests.home import Home


def receive(home: Home, tmp_path) -> str:
    film = dicom_radiograph(1, size=64, StudyInstanceUID="1.2.3")
    film.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    home.medd("ingest", tmp_path / "film.dcm")
    return str(film.SOPInstanceUID)


def test_every_step_of_a_case_is_shown_as_a_table_and_as_json(home, tmp_path):
    uid = receive(home, tmp_path)
    for key in ("1.2.3", uid, "1"):
        rows = home.json("explain", key)
        assert [row["what"] for row in rows] == ["received", "admitted", "waiting"]
        assert rows[0]["at"].endswith("Z")
        assert rows[0]["facts"]["sop_instance_uid"] == uid
    table, _ = home.medd("explain", "1.2.3")
    assert "waits to be scored" in table
    assert "Not for diagnosis" in table


def test_a_case_that_is_not_there_is_one_line(home, tmp_path):
    receive(home, tmp_path)
    told = home.refused("explain", "9.9.9")
    assert told == "medd: no study or instance of this UID, SHA-256 or id. Received: '9.9.9'\n"
