"""Real peers, end to end: Orthanc that forwards, and DCMTK's senders; what they send is scored."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom import uid

from medd.testing import cheap_series, dicom_radiograph
from tests.peers import OrthancArchive
from tests.support import Daemon, require, running, wait_until

pytestmark = pytest.mark.peers


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(Daemon(tmp_path / "home")) as started:
        yield started


@pytest.fixture
def orthanc(tmp_path: Path, daemon: Daemon) -> Iterator[OrthancArchive]:
    started = OrthancArchive(tmp_path / "orthanc", {"MEDD": daemon.port}).start()
    yield started
    started.stop()


def write_films(folder: Path) -> dict[str, Path]:
    """Films of several rooms, one in each of the usual encodings: SOP Instance UID → file."""
    folder.mkdir()
    datasets = [
        dicom_radiograph(1, size=256),
        dicom_radiograph(2, size=256, modality="CR", photometric="MONOCHROME1", opacity=True),
        dicom_radiograph(3, size=256, transfer_syntax=uid.ImplicitVRLittleEndian),
        dicom_radiograph(4, size=256, transfer_syntax=uid.JPEG2000Lossless, bits=16),
        dicom_radiograph(5, size=256, transfer_syntax=uid.JPEGBaseline8Bit, bits=8),
        dicom_radiograph(6, size=256, transfer_syntax=uid.RLELossless),
    ]
    files = {}
    for number, dataset in enumerate(datasets):
        files[str(dataset.SOPInstanceUID)] = folder / f"{number}.dcm"
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return files


def statuses(daemon: Daemon) -> dict[str, str]:
    return dict(daemon.query("SELECT sop_instance_uid, status FROM results"))


def test_orthanc_forwards_films_of_every_encoding_and_each_is_scored(
    tmp_path: Path, daemon: Daemon, orthanc: OrthancArchive
) -> None:
    orthanc.post("/modalities/medd/echo", b"{}")
    files = write_films(tmp_path / "films")
    ids = [orthanc.post("/instances", path.read_bytes())["ID"] for path in files.values()]
    sent = orthanc.post("/modalities/medd/store", json.dumps(ids).encode())
    assert sent["FailedInstancesCount"] == 0
    assert sent["InstancesCount"] == len(files)
    wait_until(lambda: statuses(daemon) == dict.fromkeys(files, "scored"))
    [(origin,)] = daemon.query("SELECT DISTINCT origin FROM results")
    assert origin == "dicom://ORTHANC@127.0.0.1"
    spooled = {
        str(dataset.SOPInstanceUID): str(dataset.file_meta.TransferSyntaxUID)
        for dataset in map(pydicom.dcmread, (daemon.home / "spool").glob("??/*.dcm"))
    }
    assert spooled == {name: str(pydicom.dcmread(path).file_meta.TransferSyntaxUID) for name, path in files.items()}
    # A study sent twice, as a PACS does when somebody presses the button again.
    orthanc.post("/modalities/medd/store", json.dumps(ids).encode())
    assert statuses(daemon) == dict.fromkeys(files, "scored")


def test_orthanc_forwards_a_study_and_a_lateral_view_is_no_error_to_it(
    tmp_path: Path, daemon: Daemon, orthanc: OrthancArchive
) -> None:
    frontal, lateral = dicom_radiograph(7, size=256), dicom_radiograph(7, size=256, ViewPosition="LL")
    for number, dataset in enumerate((frontal, lateral)):
        dataset.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
        study = orthanc.post("/instances", (tmp_path / f"{number}.dcm").read_bytes())["ParentStudy"]
    sent = orthanc.post("/modalities/medd/store", study.encode())
    assert sent["FailedInstancesCount"] == 0
    expected = {str(frontal.SOPInstanceUID): "scored", str(lateral.SOPInstanceUID): "not_assessed"}
    wait_until(lambda: statuses(daemon) == expected)
    assert daemon.query("SELECT reason FROM results WHERE status = 'not_assessed'") == [("lateral_view",)]


@pytest.mark.parametrize(
    ("program", "options"),
    [("storescu", ["-xs", "+sd"]), ("storescu", ["-xi", "+sd", "--max-pdu", "4096"]), ("dcmsend", ["+sd"])],
    ids=["storescu", "storescu with small PDUs", "dcmsend"],
)
def test_what_dcmtk_sends_is_scored(tmp_path: Path, daemon: Daemon, program: str, options: list[str]) -> None:
    [path] = require(program)
    folder = tmp_path / "films"
    folder.mkdir()
    for number, film in enumerate(cheap_series(20, rows=128, columns=128, images_per_study=4)):
        (folder / f"{number}.dcm").write_bytes(film)
    command = [path, *options, "-aet", "ROOM1", "-aec", "MEDD", "127.0.0.1", str(daemon.port), str(folder)]
    environment = os.environ | {"TCP_NODELAY": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: list(statuses(daemon).values()) == ["scored"] * 20)
    assert daemon.query("SELECT DISTINCT origin FROM results") == [("dicom://ROOM1@127.0.0.1",)]
    assert daemon.query("SELECT count(DISTINCT study_instance_uid) FROM results") == [(5,)]


def test_dcmtk_sends_every_encoding_it_knows_as_it_is(tmp_path: Path, daemon: Daemon) -> None:
    [path] = require("dcmsend")
    files = write_films(tmp_path / "films")
    command = [path, "+sd", "--decompress-never", "127.0.0.1", str(daemon.port), str(tmp_path / "films")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: statuses(daemon) == dict.fromkeys(files, "scored"))
