"""Results back into real archives: Orthanc and DCMTK's dcmqrscp, in the study that they belong to."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pynetdicom import build_context

from medd import settings
from medd.deliver.pacs import PacsDestination
from medd.dicom.network import associate
from medd.errors import PeerRefused, TransientError
from medd.ingest.pdu import decode_associate_rq, encode_associate_ac, encode_associate_rj
from medd.testing import cheap_series, dicom_radiograph
from tests.peers import Dcmqrscp, OrthancArchive, send
from tests.studies import NAMES, film_bytes, padded
from tests.support import EXPLICIT, Daemon, free_port, running, wait_until

pytestmark = pytest.mark.peers

SR, SC, GSPS = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.11.1"

SETTINGS = """
[study]
quiet_s = 0.5
max_wait_s = 5

[deliver]
poll_s = 0.1

[[destination]]
type = "pacs"
name = "main"
host = "127.0.0.1"
port = {port}
ae_title = "{ae_title}"
timeout_s = 5
send = ["sr", "sc", "gsps"]
"""


def make_daemon(folder: Path, port: int, ae_title: str = "ORTHANC", more: str = "") -> Daemon:
    daemon = Daemon(folder)
    (folder / "medd.toml").write_text(SETTINGS.format(port=port, ae_title=ae_title) + more)
    return daemon


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Daemon, OrthancArchive]]:
    """A medd that delivers to an Orthanc, and an Orthanc that forwards to that medd."""
    dicom_port = free_port()
    daemon = make_daemon(tmp_path / "home", dicom_port)
    orthanc = OrthancArchive(tmp_path / "orthanc", {"MEDD": daemon.port}, port=dicom_port).start()
    try:
        with running(daemon):
            yield daemon, orthanc
    finally:
        orthanc.stop()


def by_class(orthanc: OrthancArchive, study: str) -> dict[str, list[dict[str, Any]]]:
    """What an Orthanc has of a study: SOP class → its instances' tags."""
    found: dict[str, list[dict[str, Any]]] = {}
    for wanted in orthanc.post("/tools/lookup", study.encode()):
        for one in orthanc.get(f"/studies/{wanted['ID']}/instances"):
            tags = orthanc.get(f"/instances/{one['ID']}/simplified-tags")
            found.setdefault(tags["SOPClassUID"], []).append(tags)
    return found


def has_all(orthanc: OrthancArchive, study: str, reports: int = 1) -> Callable[[], bool]:
    return lambda: len(by_class(orthanc, study).get(SR, [])) == reports


def store(orthanc: OrthancArchive, *datasets: pydicom.Dataset, folder: Path) -> list[str]:
    ids = []
    for number, dataset in enumerate(datasets):
        path = folder / f"{time.monotonic_ns()}-{number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        ids.append(orthanc.post("/instances", path.read_bytes())["ID"])
    return ids


def forward(orthanc: OrthancArchive, ids: list[str]) -> None:
    assert orthanc.post("/modalities/medd/store", json.dumps(ids).encode())["FailedInstancesCount"] == 0


def delivered(daemon: Daemon) -> dict[str, int]:
    return dict(daemon.query("SELECT state, count(*) FROM delivery GROUP BY state"))


def test_a_film_in_orthanc_comes_back_with_report_picture_and_presentation_state(site, tmp_path):
    daemon, orthanc = site
    film = dicom_radiograph(1, size=256, opacity=True)
    forward(orthanc, store(orthanc, film, folder=tmp_path))
    study = str(film.StudyInstanceUID)
    wait_until(has_all(orthanc, study), 60, "the report's arrival")
    wait_until(lambda: delivered(daemon) == {"done": 1}, what="the delivery's end")
    assert len(orthanc.get("/studies")) == 1, "nothing lands in a study of its own"
    found = by_class(orthanc, study)
    assert {name: len(instances) for name, instances in found.items()} == {
        str(film.SOPClassUID): 1,
        SR: 1,
        SC: 1,
        GSPS: 1,
    }
    for one in (tags for instances in found.values() for tags in instances):
        assert one["PatientID"] == str(film.PatientID)
        assert one["PatientName"] == str(film.PatientName)
    assert found[SR][0]["VerificationFlag"] == "UNVERIFIED"
    assert found[SC][0]["BurnedInAnnotation"] == "YES"
    assert len({tags["SeriesInstanceUID"] for instances in found.values() for tags in instances}) == 4


def test_what_comes_back_to_us_is_not_answered_again(site, tmp_path):
    daemon, orthanc = site
    film = dicom_radiograph(1, size=256)
    study = str(film.StudyInstanceUID)
    forward(orthanc, store(orthanc, film, folder=tmp_path))
    wait_until(lambda: delivered(daemon) == {"done": 1}, 60, "the delivery")
    [known] = orthanc.post("/tools/lookup", study.encode())
    forward(orthanc, [known["ID"]])  # an archive that forwards everything, our own objects too
    wait_until(lambda: daemon.query("SELECT count(*) FROM instance") == [(4,)], what="their arrival")
    time.sleep(2)
    assert delivered(daemon) == {"done": 1}
    assert daemon.query("SELECT count(*) FROM report") == [(1,)]
    assert sorted(daemon.query("SELECT status, count(*) FROM instance GROUP BY status")) == [
        ("not_assessed", 3),
        ("scored", 1),
    ]


def test_a_late_image_makes_a_second_report_that_names_the_first(site, tmp_path):
    daemon, orthanc = site
    first = dicom_radiograph(1, size=256)
    study = str(first.StudyInstanceUID)
    forward(orthanc, store(orthanc, first, folder=tmp_path))
    wait_until(has_all(orthanc, study), 60, "the first report")
    wait_until(lambda: delivered(daemon) == {"done": 1}, what="the delivery's end")
    late = dicom_radiograph(2, size=256)
    for name in ("StudyInstanceUID", "PatientID", "PatientName"):
        setattr(late, name, getattr(first, name))
    forward(orthanc, store(orthanc, late, folder=tmp_path))
    wait_until(has_all(orthanc, study, 2), 60, "the second report")
    wait_until(lambda: delivered(daemon) == {"done": 1}, what="the delivery's end")
    reports = by_class(orthanc, study)[SR]
    numbers = dict(daemon.query("SELECT sop_instance_uid, number FROM report"))
    older, newer = sorted(reports, key=lambda tags: numbers[tags["SOPInstanceUID"]])
    assert "PredecessorDocumentsSequence" not in older
    [predecessor] = newer["PredecessorDocumentsSequence"]
    [series] = predecessor["ReferencedSeriesSequence"]
    assert series["ReferencedSOPSequence"][0]["ReferencedSOPInstanceUID"] == older["SOPInstanceUID"]
    assert len(by_class(orthanc, study)[SC]) == 2, "the first picture was not sent again"


def test_an_archive_that_was_away_gets_everything_once_when_it_is_back(tmp_path):
    dicom_port = free_port()
    daemon = make_daemon(tmp_path / "home", dicom_port)
    with running(daemon):
        folder = tmp_path / "films"
        folder.mkdir()
        for number, data in enumerate(cheap_series(12, rows=128, columns=128, seed=3)):
            (folder / f"{number}.dcm").write_bytes(data)
        assert daemon.medd("ingest", str(folder)).returncode == 0
        wait_until(lambda: daemon.query("SELECT count(*) FROM delivery WHERE error IS NOT NULL")[0][0] > 0, 60)
        assert set(delivered(daemon)) <= {"pending", "running"}, "an archive that is away is no reason to give up"
        orthanc = OrthancArchive(tmp_path / "orthanc", {"MEDD": daemon.port}, port=dicom_port).start()
        try:
            wait_until(lambda: delivered(daemon) == {"done": 12}, 120, "all deliveries")
            statistics = orthanc.get("/statistics")
            assert (statistics["CountStudies"], statistics["CountInstances"]) == (12, 36)
        finally:
            orthanc.stop()


def test_an_archive_that_rejects_our_ae_title_makes_deliveries_dead_at_once_and_says_why(tmp_path):
    dicom_port = free_port()
    daemon = make_daemon(tmp_path / "home", dicom_port, "NOBODY")
    orthanc = OrthancArchive(
        tmp_path / "orthanc", {"MEDD": daemon.port}, port=dicom_port, more={"DicomCheckCalledAet": True}
    ).start()
    try:
        with running(daemon):
            film = dicom_radiograph(1, size=256)
            film.save_as(tmp_path / "film.dcm", enforce_file_format=True)
            daemon.medd("ingest", str(tmp_path / "film.dcm"))
            wait_until(lambda: delivered(daemon) == {"dead": 1}, 60, "the delivery's death")
            [dead] = json.loads(daemon.medd("queue", "list", "--format", "json").stdout)
            assert dead["destination"] == "main"
            assert dead["attempts"] == 1
            assert "Called AE title not recognised" in dead["error"]
            # Mended there, it is tried again when it is told to.
            toml = (daemon.home / "medd.toml").read_text()
            (daemon.home / "medd.toml").write_text(toml.replace("NOBODY", "ORTHANC"))
            daemon.stop()
            daemon.start()
            assert daemon.medd("queue", "retry").stdout.strip() == "1 back in the queue"
            wait_until(lambda: delivered(daemon) == {"done": 1}, 60, "the delivery")
            assert has_all(orthanc, str(film.StudyInstanceUID))()
    finally:
        orthanc.stop()


def test_names_in_every_character_set_come_back_as_they_went(site, tmp_path):
    daemon, orthanc = site
    studies = {}
    for number, (name, (character_set, value)) in enumerate(NAMES.items()):
        film = film_bytes(value, character_set, seed=10 + number)
        studies[name] = str(pydicom.dcmread(BytesIO(film), specific_tags=["StudyInstanceUID"]).StudyInstanceUID)
        forward(orthanc, [orthanc.post("/instances", film)["ID"]])
    wait_until(lambda: delivered(daemon) == {"done": len(studies)}, 120, "the deliveries")
    for name, study in studies.items():
        for wanted in orthanc.post("/tools/lookup", study.encode()):
            instances = orthanc.get(f"/studies/{wanted['ID']}/instances")
            assert len(instances) == 4
            for one in instances:
                stored = pydicom.dcmread(BytesIO(orthanc.read(f"/instances/{one['ID']}/file")), stop_before_pixels=True)
                raw = stored.get_item("PatientName")
                assert raw.value == padded(NAMES[name][1]), (name, stored.SOPClassUID.name)
                declared = stored.get("SpecificCharacterSet") or ""
                assert (declared if isinstance(declared, str) else "\\".join(declared)) == NAMES[name][0]


def test_dcmqrscp_takes_everything_and_finds_it_in_its_study(tmp_path):
    archive = Dcmqrscp(tmp_path / "archive").start()
    try:
        with running(make_daemon(tmp_path / "home", archive.port, Dcmqrscp.ae_title)) as daemon:
            film = dicom_radiograph(1, size=256)
            send(archive.port, Dcmqrscp.ae_title, [film])
            send(daemon.port, "MEDD", [film])
            wait_until(lambda: delivered(daemon) == {"done": 1}, 60, "the delivery")
        held = [
            pydicom.dcmread(path, stop_before_pixels=True)
            for path in archive.images.glob("*")
            if path.name != "index.dat"
        ]
        assert sorted(one.SOPClassUID for one in held) == sorted([film.SOPClassUID, SR, SC, GSPS])
        assert {one.StudyInstanceUID for one in held} == {film.StudyInstanceUID}
    finally:
        archive.stop()


def test_an_archive_is_asked_to_take_responsibility_for_what_it_was_sent(tmp_path):
    dicom_port = free_port()
    daemon = make_daemon(tmp_path / "home", dicom_port, more="commitment = true\n")
    orthanc = OrthancArchive(tmp_path / "orthanc", {"MEDD": daemon.port}, port=dicom_port).start()
    try:
        with running(daemon):
            film = dicom_radiograph(1, size=256)
            forward(orthanc, store(orthanc, film, folder=tmp_path))
            wait_until(lambda: delivered(daemon) == {"done": 1}, 60, "the delivery")
            wait_until(
                lambda: daemon.query("SELECT committed, count(*) FROM sent GROUP BY committed") == [(1, 3)],
                60,
                "the commitment",
            )
            assert daemon.query("SELECT direction, state FROM commitment") == [("asked", "done")]
    finally:
        orthanc.stop()


def test_an_archive_that_stops_reading_costs_its_time_out_and_no_thread(tmp_path):
    """Its socket stays open and its window full, as of a process that is stopped."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer = PacsDestination.Settings(
        name="stuck", host="127.0.0.1", port=listening.getsockname()[1], ae_title="STUCK", timeout_s=2
    )
    picture = Dataset()
    picture.SOPClassUID, picture.SOPInstanceUID = SC, "1.2.3"
    picture.PixelData, picture["PixelData"].VR = bytes(32 << 20), "OB"
    picture.file_meta = FileMetaDataset()
    picture.file_meta.TransferSyntaxUID = EXPLICIT
    held: list[socket.socket] = []

    def accept() -> None:
        connection, _ = listening.accept()
        held.append(connection)
        _, length = struct.unpack(">BxI", receive(connection, 6))
        body = receive(connection, length)
        results = [(context.id, 0, context.transfer_syntaxes[0]) for context in decode_associate_rq(body).contexts]
        connection.sendall(encode_associate_ac(body, results, "1.2.3", "STUCK"))

    thread = threading.Thread(target=accept)
    thread.start()
    before = threading.active_count()

    class Objects:
        def make(self, kind: str) -> list[Dataset]:
            return [picture] if kind == "sc" else []

    began = time.monotonic()
    try:
        destination = PacsDestination("stuck", peer, settings.load(tmp_path))
        with pytest.raises(TransientError, match="stuck"):
            list(destination.send(None, Objects(), ()))  # type: ignore[arg-type]
    finally:
        thread.join()
        for connection in held:
            connection.close()
        listening.close()
    assert time.monotonic() - began < 20
    wait_until(lambda: threading.active_count() <= before, 10, "the end of its threads")


def receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += connection.recv(size - len(data))
    return data


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((1, 1, 3), PeerRefused),  # calling AE title not recognised
        ((1, 1, 7), PeerRefused),  # called AE title not recognised
        ((2, 3, 1), TransientError),  # temporary congestion
        ((1, 3, 2), TransientError),  # local limit exceeded, said to be permanent
    ],
)
def test_a_rejection_tells_whether_it_may_pass(tmp_path, answer, error):
    listening = socket.create_server(("127.0.0.1", 0))

    def reject() -> None:
        connection, _ = listening.accept()
        with connection:
            _, length = struct.unpack(">BxI", receive(connection, 6))
            receive(connection, length)
            connection.sendall(encode_associate_rj(*answer))
            connection.recv(1)

    thread = threading.Thread(target=reject)
    thread.start()
    own = PacsDestination.Settings(name="main", host="127.0.0.1", port=listening.getsockname()[1], ae_title="PACS")
    try:
        with pytest.raises(error, match="rejects the association"), associate(own, "MEDD", [build_context(SC)]):
            pass
    finally:
        thread.join()
        listening.close()
