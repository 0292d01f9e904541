"""`medd pull` and `medd echo` against real archives: DCMTK's dcmqrscp, and Orthanc by DIMSE and by DICOMweb."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread, uid

from medd.testing import dicom_radiograph
from tests.certificates import Authority
from tests.peers import Dcmqrscp, OrthancArchive, dataset_bytes
from tests.support import Daemon, free_port, running, wait_until

pytestmark = pytest.mark.peers

CT = "1.2.840.10008.5.1.4.1.1.2"


def films() -> list[Dataset]:
    """Four studies on four days; the first has a CT series beside its film."""
    made = [
        dicom_radiograph(1, size=128, StudyDate="20260101"),
        dicom_radiograph(2, size=128, StudyDate="20260102", modality="CR"),
        dicom_radiograph(3, size=128, StudyDate="20260103", transfer_syntax=uid.ImplicitVRLittleEndian),
        dicom_radiograph(4, size=128, StudyDate="20260104"),
    ]
    made.append(dicom_radiograph(4, size=128, StudyDate="20260104", view="PA"))
    return made


def slice_beside(film: Dataset) -> Dataset:
    """A CT slice of the same study."""
    made = dicom_radiograph(1, size=128, StudyDate=film.StudyDate, Modality="CT", SOPClassUID=CT)
    made.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.77"
    made.file_meta.MediaStorageSOPClassUID = CT
    return made


def compressed() -> list[Dataset]:
    """Films in the usual compressed encodings."""
    syntaxes = (uid.JPEG2000Lossless, uid.JPEGLSLossless, uid.RLELossless, uid.DeflatedExplicitVRLittleEndian)
    made = [
        dicom_radiograph(10 + number, size=128, StudyDate="20260110", transfer_syntax=syntax)
        for number, syntax in enumerate(syntaxes)
    ]
    baseline = dicom_radiograph(20, size=128, StudyDate="20260110", transfer_syntax=uid.JPEGBaseline8Bit, bits=8)
    return [*made, baseline]


def configure(home: Path, archive: Dcmqrscp | OrthancArchive, **more: str) -> None:
    """The archive as peers "get" and "move", and other tables as they are."""
    text = ""
    for how in ("get", "move"):
        text += (
            f'[[peer]]\nname = "{how}"\nhost = "127.0.0.1"\nport = {archive.port}\n'
            f'ae_title = "{archive.ae_title}"\nretrieve = "{how}"\ntimeout_s = 10\n'
        )
    home.mkdir(exist_ok=True)
    (home / "medd.toml").write_text(text + "".join(more.values()))


@pytest.fixture(params=["dcmqrscp", "Orthanc"])
def archive(request: pytest.FixtureRequest, tmp_path: Path, daemon: Daemon) -> Iterator[Dcmqrscp | OrthancArchive]:
    known = {"MEDD": daemon.port}
    made = (
        Dcmqrscp(tmp_path / "peer", known) if request.param == "dcmqrscp" else OrthancArchive(tmp_path / "peer", known)
    )
    made.start()
    configure(daemon.home, made)
    yield made
    made.stop()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path / "home")
    yield made
    if made.process is not None:
        made.stop()


@pytest.fixture
def web(tmp_path: Path, daemon: Daemon) -> Iterator[OrthancArchive]:
    made = OrthancArchive(tmp_path / "peer", dicomweb=True).start()
    url = f"http://127.0.0.1:{made.http_port}/dicom-web/"
    configure(daemon.home, made, web=f'[[dicomweb]]\nname = "web"\nurl = "{url}"\n')
    yield made
    made.stop()


def pull(daemon: Daemon, name: str, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    done = daemon.medd("pull", "--from", name, *arguments, "--format", "json")
    assert done.returncode == code, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def instances(daemon: Daemon) -> list[str]:
    return sorted(name for (name,) in daemon.query("SELECT sop_instance_uid FROM instance"))


def names(datasets: list[Dataset]) -> list[str]:
    return sorted(str(dataset.SOPInstanceUID) for dataset in datasets)


def spooled(daemon: Daemon) -> set[bytes]:
    return {dataset_bytes(file) for file in (daemon.home / "spool").glob("??/*.dcm")}


def bytes_of(datasets: list[Dataset], folder: Path) -> set[bytes]:
    folder.mkdir()
    for number, dataset in enumerate(datasets):
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return {dataset_bytes(file) for file in folder.iterdir()}


@pytest.mark.parametrize(("archive", "how"), [("dcmqrscp", "get"), ("Orthanc", "move")], indirect=["archive"])
def test_films_are_fetched_once_and_scored_and_the_ct_stays_where_it_is(
    daemon: Daemon, archive: Dcmqrscp | OrthancArchive, how: str
) -> None:
    held = films()
    archive.hold([*held, slice_beside(held[0])])
    with running(daemon):
        listed = pull(daemon, how, "--date", "20260101-20260131", "--dry-run")
        assert [row["study_date"] for row in listed] == ["20260104", "20260103", "20260102", "20260101"]
        rows = pull(daemon, how, "--date", "20260101-20260103")
        assert [(row["state"], row["images"], row["failed"]) for row in rows] == [("fetched", 1, 0)] * 3
        rows = pull(daemon, how, "--date", "20260101-20260131")
        assert [(row["study_date"], row["images"]) for row in rows] == [("20260104", 2)]
        assert pull(daemon, how, "--date", "20260101-20260131") == []
        wait_until(lambda: daemon.query("SELECT count(*) FROM results WHERE status = 'scored'") == [(5,)])
        assert instances(daemon) == names(held)
        [(origin,)] = daemon.query("SELECT DISTINCT origin FROM instance")
        assert origin == f"dicom://{archive.ae_title}@127.0.0.1"


@pytest.mark.parametrize(("archive", "how"), [("dcmqrscp", "move"), ("Orthanc", "get")], indirect=["archive"])
def test_a_film_that_comes_into_a_study_later_is_fetched_too(
    daemon: Daemon, archive: Dcmqrscp | OrthancArchive, how: str
) -> None:
    film = films()[3]
    later = dicom_radiograph(4, size=128, StudyDate="20260104", view="PA")
    later.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.78"
    archive.hold([film])
    with running(daemon):
        assert [row["images"] for row in pull(daemon, how, "--date", "20260104")] == [1]
        assert pull(daemon, how, "--date", "20260104") == []
        archive.hold([later])
        assert [row["images"] for row in pull(daemon, how, "--date", "20260104", "--dry-run")] != []
        assert [row["images"] for row in pull(daemon, how, "--date", "20260104")] == [2]
        assert pull(daemon, how, "--date", "20260104") == []
    assert instances(daemon) == names([film, later])


def test_filters_find_what_they_name(daemon: Daemon, archive: Dcmqrscp | OrthancArchive) -> None:
    held = films()
    archive.hold(held)
    for film, arguments in (
        (held[0], ["--patient", held[0].PatientID]),
        (held[1], ["--accession", held[1].AccessionNumber]),
        (held[2], ["--study", held[2].StudyInstanceUID]),
        (held[1], ["--modality", "CR", "--date", "20260101-20260131"]),
        (held[3], ["--limit", "1"]),
    ):
        found = pull(daemon, "get", *arguments, "--dry-run")
        assert [row["study_instance_uid"] for row in found] == [film.StudyInstanceUID]
    assert pull(daemon, "get", "--patient", held[0].PatientID[:-1], "--dry-run") == []
    assert pull(daemon, "get", "--modality", "CT", "--date", "20260101-20260131", "--dry-run") == []


def test_a_move_without_a_listener_says_what_to_look_at(daemon: Daemon, archive: Dcmqrscp | OrthancArchive) -> None:
    held = films()
    archive.hold(held)
    rows = pull(daemon, "move", "--date", "20260101", code=1)
    assert (rows[0]["state"], rows[0]["images"]) == ("failed", 0)
    assert "is `medd serve` running, and does the peer know MEDD" in rows[0]["error"]
    with running(daemon):
        assert pull(daemon, "move", "--date", "20260101")[0]["state"] == "fetched"
        assert instances(daemon) == names(held[:1])


def test_an_archive_that_does_not_know_us_is_named(daemon: Daemon, archive: Dcmqrscp | OrthancArchive) -> None:
    archive.hold(films())
    daemon.environment["MEDD_LISTENER__AE_TITLE"] = "STRANGER"
    rows = pull(daemon, "move", "--limit", "4", code=1)
    assert all(row["state"] == "failed" for row in rows)
    assert "STRANGER" in rows[0]["error"]
    if isinstance(archive, Dcmqrscp):  # Orthanc answers 0xC000 to each
        assert len(rows) == 1
        assert "0xa801" in rows[0]["error"]


def test_orthanc_gives_every_encoding_as_it_holds_it(tmp_path: Path, daemon: Daemon) -> None:
    archive = OrthancArchive(tmp_path / "peer").start()
    configure(daemon.home, archive)
    try:
        held = compressed()
        archive.hold(held)
        rows = pull(daemon, "get", "--date", "20260110")
    finally:
        archive.stop()
    assert [row["state"] for row in rows] == ["fetched"] * len(held)
    assert spooled(daemon) == bytes_of(held, tmp_path / "held")


def test_dcmqrscp_moves_a_compressed_film_as_it_holds_it(tmp_path: Path, daemon: Daemon) -> None:
    # By C-GET it cannot: it takes the first context of a class, whatever the film's encoding (DCMTK 3.6.7).
    archive = Dcmqrscp(tmp_path / "peer", {"MEDD": daemon.port}, options=["-xv"]).start()
    configure(daemon.home, archive)
    try:
        held = compressed()[:1]
        archive.hold(held)
        with running(daemon):
            assert pull(daemon, "get", "--date", "20260110", code=1)[0]["error"] == "C-GET answered with 0xa702"
            assert pull(daemon, "move", "--date", "20260110")[0]["state"] == "fetched"
    finally:
        archive.stop()
    assert spooled(daemon) == bytes_of(held, tmp_path / "held")


@pytest.mark.parametrize("how", ["get", "web"])
def test_a_pull_that_is_killed_goes_on_and_every_image_is_there_once(
    daemon: Daemon, web: OrthancArchive, how: str
) -> None:
    held = [dicom_radiograph(100 + number, size=64, StudyDate="20260201") for number in range(30)]
    web.hold(held)
    command = [sys.executable, "-m", "medd", "pull", "--from", how, "--date", "20260201", "--rate", "600"]
    for wanted in (5, 12):
        process = subprocess.Popen(command, env=daemon.environment, stdout=subprocess.DEVNULL)
        wait_until(lambda wanted=wanted: (daemon.home / "spool").is_dir() and len(spooled(daemon)) >= wanted)
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = daemon.query("SELECT count(*) FROM pulled WHERE complete")[0][0]
    rows = pull(daemon, how, "--date", "20260201")
    assert len(rows) == len(held) - before < len(held)
    assert instances(daemon) == names(held)
    assert daemon.query("SELECT count(*), min(complete) FROM pulled") == [(30, 1)]


def test_an_archive_that_stops_in_the_middle_is_asked_for_the_rest(daemon: Daemon, web: OrthancArchive) -> None:
    held = [dicom_radiograph(200 + number, size=64, StudyDate="20260202") for number in range(8)]
    web.hold(held)
    command = [sys.executable, "-m", "medd", "pull", "--from", "get", "--date", "20260202", "--rate", "120"]
    process = subprocess.Popen(command, env=daemon.environment, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (daemon.home / "spool").is_dir() and len(spooled(daemon)) >= 2)
    web.stop()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "cannot be reached" in said
    web.start()
    pull(daemon, "get", "--date", "20260202")
    assert instances(daemon) == names(held)


def test_dicomweb_brings_films_byte_for_byte_and_leaves_the_ct(
    tmp_path: Path, daemon: Daemon, web: OrthancArchive
) -> None:
    held = [*films(), *compressed()]
    web.hold([*held, slice_beside(held[0])])
    rows = pull(daemon, "web", "--date", "20260101-20260131")
    assert [row["state"] for row in rows] == ["fetched"] * 9
    assert spooled(daemon) == bytes_of(held, tmp_path / "held")
    assert pull(daemon, "web", "--date", "20260101-20260131") == []
    found = pull(daemon, "web", "--patient", held[0].PatientID, "--again", "--dry-run")
    assert [row["study_date"] for row in found] == ["20260101"]
    assert daemon.query("SELECT DISTINCT origin FROM instance") == [("dicomweb://127.0.0.1",)]


def test_the_same_film_by_three_ways_is_one_instance(daemon: Daemon, web: OrthancArchive, tmp_path: Path) -> None:
    held = films()[:1]
    web.hold(held)
    held[0].save_as(tmp_path / "film.dcm", enforce_file_format=True)
    pull(daemon, "get", "--date", "20260101")
    pull(daemon, "web", "--date", "20260101")
    assert daemon.medd("ingest", str(tmp_path / "film.dcm")).returncode == 0
    assert instances(daemon) == names(held)


def test_a_server_that_wants_a_password_refuses_us(tmp_path: Path, daemon: Daemon) -> None:
    archive = OrthancArchive(tmp_path / "peer", dicomweb=True, users={"reader": "secret"}).start()
    url = f"http://127.0.0.1:{archive.http_port}/dicom-web"
    configure(daemon.home, archive, web=f'[[dicomweb]]\nname = "web"\nurl = "{url}"\n')
    try:
        started = time.monotonic()
        done = daemon.medd("pull", "--from", "web", "--days", "1")
    finally:
        archive.stop()
    assert done.returncode == 1
    assert "HTTP 401: is the token right?" in done.stderr
    assert time.monotonic() - started < 15


def test_films_come_over_tls_from_a_peer_that_we_trust_and_from_no_other(tmp_path: Path, daemon: Daemon) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    certificate, key = ours.issue("orthanc")
    tls = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(certificate),
        "DicomTlsPrivateKey": str(key),
        "DicomTlsTrustedCertificates": str(ours.certificate),
        "DicomTlsRemoteCertificateRequired": False,
    }
    archive = OrthancArchive(tmp_path / "peer", more=tls).start()
    peer = f'host = "127.0.0.1"\nport = {archive.port}\nae_title = "ORTHANC"\n'
    text = "".join(
        f'[[peer]]\nname = "{name}"\n{peer}tls = {{ ca = "{authority.certificate}" }}\n'
        for name, authority in (("trusted", ours), ("stranger", theirs))
    )
    daemon.home.mkdir(exist_ok=True)
    (daemon.home / "medd.toml").write_text(f'{text}[[peer]]\nname = "clear"\n{peer}timeout_s = 3\n')
    try:
        archive.hold(films()[:1])
        assert daemon.medd("echo", "trusted").returncode == 0
        assert daemon.medd("echo", "stranger").returncode == 1
        assert daemon.medd("echo", "clear").returncode == 1
        assert pull(daemon, "trusted", "--date", "20260101")[0]["state"] == "fetched"
        refused = daemon.medd("pull", "--from", "stranger", "--date", "20260101")
    finally:
        archive.stop()
    assert refused.returncode == 1
    assert "stranger" in refused.stderr


def test_a_daemon_with_scheduled_pulls_starts_and_one_with_an_unknown_source_does_not(
    tmp_path: Path, daemon: Daemon, archive: Dcmqrscp | OrthancArchive
) -> None:
    schedule = '[[pull]]\nsource = "{}"\nat = "03:00"\n'
    configure(daemon.home, archive, pull=schedule.format("get"))
    with running(daemon):
        assert daemon.process is not None
    configure(daemon.home, archive, pull=schedule.format("nobody"))
    refused = daemon.medd("serve", "--only", "receive")
    assert refused.returncode == 2
    assert "known are: get, move" in refused.stderr


def test_echo_calls_peers_destinations_and_addresses(daemon: Daemon, archive: Dcmqrscp | OrthancArchive) -> None:
    nobody = free_port()
    pacs = f'[[destination]]\ntype = "pacs"\nname = "main"\nhost = "127.0.0.1"\nport = {archive.port}\n'
    configure(daemon.home, archive, pacs=pacs + f'ae_title = "{archive.ae_title}"\nsend = ["sr"]\n')
    done = daemon.medd("echo", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert [(row["name"], row["answers"]) for row in json.loads(done.stdout)] == [
        ("get", True),
        ("move", True),
        ("main", True),
    ]
    target = f"127.0.0.1:{archive.port}"
    assert daemon.medd("echo", target, "--ae-title", archive.ae_title).returncode == 0
    done = daemon.medd("echo", "main", f"127.0.0.1:{nobody}", "--format", "json")
    assert done.returncode == 1
    assert [row["answers"] for row in json.loads(done.stdout)] == [True, False]


def test_the_meta_group_of_a_fetched_file_names_where_it_came_from(
    daemon: Daemon, archive: Dcmqrscp | OrthancArchive
) -> None:
    archive.hold(films()[:1])
    pull(daemon, "get", "--date", "20260101")
    [file] = (daemon.home / "spool").glob("??/*.dcm")
    meta = dcmread(file).file_meta
    assert meta.SourceApplicationEntityTitle == archive.ae_title
