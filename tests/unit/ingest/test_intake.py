import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
import sqlalchemy as sa
from pydicom.uid import JPEG2000, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian

from medd import hookimpl
from medd.dicom.part10 import encode_file_meta
from medd.errors import TransientError
from medd.ingest import admission
from medd.ingest.files import receive_paths
from medd.ingest.intake import Intake, Receipt
from medd.plugins import load_plugins
from medd.records import MediaType, Reason, Status
from medd.store.repository import ResultFilter, find_results
from medd.store.spool import Spool
from medd.store.tables import instance, job
from medd.testing import cheap_series, dicom_radiograph, jpeg_radiograph
from tests.schema import open_new


class Door:
    """An intake on SQLite with all that stands behind it."""

    def __init__(self, home: Path) -> None:
        self.database = open_new(home / "medd.db")
        self.spool = Spool(home / "spool")
        self.spool.prepare()
        self.plugins = load_plugins(builtin=(admission,))
        self.intake = Intake(self.database, self.spool, self.plugins)

    def store(self, data: bytes, origin: str = "dicom://CR1@10.0.0.1", prefix: bytes = b"preamble") -> Receipt:
        """Hand a bare dataset in, as the listener does."""
        writer = self.intake.begin(prefix)
        try:
            for place in range(0, len(data), 5000):
                writer.write(data[place : place + 5000])
            header = self.intake.read_header(writer, str(ExplicitVRLittleEndian))
            return self.intake.receive_dataset(writer, header, origin)
        finally:
            writer.discard()

    def rows(self) -> list[dict]:
        with self.database.read() as connection:
            return list(find_results(connection, ResultFilter()))

    def jobs(self) -> int:
        with self.database.read() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(job))

    def media_types(self) -> list[str]:
        with self.database.read() as connection:
            return list(connection.scalars(sa.select(instance.c.media_type)))

    def spooled(self) -> list[Path]:
        return sorted(path for path in self.spool.root.rglob("*.*") if path.is_file())

    def close(self) -> None:
        self.intake.close()
        self.database.close()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path / "home")
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _home(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()


def file_of(tmp_path: Path, data: bytes, name: str = "film.dcm") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


# What is taken in


def test_object_on_its_way_in_ends_where_the_disk_gets_full(tmp_path, monkeypatch):
    monkeypatch.setattr("medd.store.spool._LOOK_S", 0.0)
    spool = Spool(tmp_path / "spool", min_free_mib=1)
    spool.prepare()
    writer = spool.writer()
    writer.write(bytes(2 << 20))
    spool._min_free_mib = 1 << 40
    with pytest.raises(OSError, match="min_free_mib"):
        writer.write(bytes(1 << 20))
    writer.discard()
    assert not list((tmp_path / "spool" / "incoming").iterdir())


def test_bytes_lie_in_the_spool_under_their_digest_when_the_row_is_there(door):
    [data] = cheap_series(1, rows=64, columns=64, part10=False)
    receipt = door.store(data)
    sha256 = hashlib.sha256(data).hexdigest()
    [row] = door.rows()
    assert (receipt.new, receipt.status, receipt.sha256) == (True, Status.PENDING, sha256)
    assert (row["instance_id"], row["sha256"], row["status"]) == (receipt.instance_id, sha256, "pending")
    assert row["origin"] == "dicom://CR1@10.0.0.1"
    assert [path.read_bytes() for path in door.spooled()] == [b"preamble" + data]
    assert door.spooled()[0].name == f"{sha256}.dcm"
    assert door.jobs() == 1


def test_dataset_larger_than_the_buffer_is_stored_whole(door):
    [data] = cheap_series(1, rows=1024, columns=1024, part10=False)
    assert len(data) > 2 << 20
    door.store(data)
    assert [path.read_bytes() for path in door.spooled()] == [b"preamble" + data]


def test_same_bytes_by_two_ways_are_one_instance(door, tmp_path):
    [bare] = cheap_series(1, rows=64, columns=64, part10=False)
    [file] = cheap_series(1, rows=64, columns=64)
    assert file.endswith(bare)
    by_network = door.store(bare)
    by_folder = door.intake.receive_file(file_of(tmp_path, file), "file:film.dcm")
    bare_file = door.intake.receive_file(file_of(tmp_path, bare, "bare"), "file:bare")
    assert by_network.new
    assert not by_folder.new
    assert not bare_file.new
    assert by_network.instance_id == by_folder.instance_id == bare_file.instance_id
    [row] = door.rows()
    assert row["origin"] == "dicom://CR1@10.0.0.1"
    assert door.jobs() == 1
    assert len(door.spooled()) == 1


@pytest.mark.parametrize("rows", [64, 1024], ids=["small", "large"])
def test_same_bytes_said_to_be_encoded_otherwise_change_nothing(door, tmp_path, rows):
    [data] = cheap_series(1, rows=rows, columns=1024, part10=False)
    meta = [encode_file_meta("1", "1.2", syntax, "CR1") for syntax in (ExplicitVRLittleEndian, JPEG2000)]
    for prefix in meta:
        door.store(data, prefix=prefix)
        assert [path.read_bytes() for path in door.spooled()] == [meta[0] + data]
    [path] = door.spooled()
    for damaged in (meta[0] + data[:-1] + b"?", meta[0] + data[:-2]):
        path.write_bytes(damaged)
        door.store(data, prefix=meta[0])
        assert path.read_bytes() == meta[0] + data
    path.write_bytes(bytes(len(meta[0] + data)))  # as a crash may leave it
    door.store(data, prefix=meta[1])
    assert path.read_bytes() == meta[1] + data
    assert door.spooled() == [path]


def test_same_uid_with_other_bytes_is_kept_and_flagged(door):
    film = dicom_radiograph(1, size=32)
    for comment in ("one", "two"):
        film.ImageComments = comment
        stream = BytesIO()
        film.save_as(stream, enforce_file_format=True)
        data = stream.getvalue()
        door.store(data[144 + int.from_bytes(data[140:144], "little") :])
    assert [row["conflict"] for row in door.rows()] == [True, True]


def test_row_says_which_device_made_the_image_and_how_old_the_patient_is(door, tmp_path):
    for seed, age in enumerate(("004Y", "0000018M")):  # the second is no Age String: PS3.5 allows four characters
        film = BytesIO()
        dicom_radiograph(seed, size=64, Manufacturer="ACME", StationName="ROOM1", PatientAge="004Y").save_as(film)
        data = film.getvalue().replace(b"AS\x04\x00004Y", b"AS" + len(age).to_bytes(2, "little") + age.encode())
        door.intake.receive_file(file_of(tmp_path, data, f"{seed}.dcm"), "file:film")
    columns = sa.select(instance.c.manufacturer, instance.c.station_name, instance.c.patient_age)
    with door.database.read() as connection:
        rows = connection.execute(columns.order_by(instance.c.id)).all()
    assert [tuple(row) for row in rows] == [("ACME", "ROOM1", "004Y"), ("ACME", "ROOM1", "0000")]


def test_picture_is_kept_as_it_is(door, tmp_path):
    data = jpeg_radiograph(1, size=64)
    receipt = door.intake.receive_file(file_of(tmp_path, data, "film.jpg"), "file:film.jpg")
    assert (receipt.new, receipt.status) == (True, Status.PENDING)
    assert receipt.sha256 == hashlib.sha256(data).hexdigest()
    assert [(path.suffix, path.read_bytes()) for path in door.spooled()] == [(".jpg", data)]
    assert door.media_types() == ["image/jpeg"]


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian], ids=["big", "deflated"])
def test_spooled_file_of_an_unusual_syntax_is_readable(door, tmp_path, syntax):
    film = dicom_radiograph(1, size=32, transfer_syntax=syntax)
    path = tmp_path / "film.dcm"
    film.save_as(path, enforce_file_format=True)
    receipt = door.intake.receive_file(path, "file:film.dcm")
    assert receipt.status is Status.PENDING
    assert pydicom.dcmread(door.spooled()[0]).PatientID == film.PatientID
    assert door.rows()[0]["patient_id"] == film.PatientID


def test_bare_dataset_is_spooled_as_a_readable_file(door, tmp_path):
    [bare] = cheap_series(1, rows=64, columns=64, part10=False)
    door.intake.receive_file(file_of(tmp_path, bare), "file:bare")
    read = pydicom.dcmread(door.spooled()[0])
    assert read.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert read.pixel_array.shape == (64, 64)


# What is refused, with a row


@pytest.mark.parametrize(
    "data",
    [b"", b"Dear colleague\n" * 50, next(cheap_series(1, rows=64, columns=64))[:900], bytes(128) + b"DICM"],
    ids=["empty", "text", "truncated", "preamble only"],
)
def test_unreadable_file_becomes_a_row_and_keeps_its_bytes(door, tmp_path, data):
    receipt = door.intake.receive_file(file_of(tmp_path, data), "file:odd.dcm")
    assert (receipt.new, receipt.status, receipt.reason) == (True, Status.NOT_ASSESSED, Reason.UNREADABLE)
    assert receipt.detail
    [row] = door.rows()
    assert (row["status"], row["reason"], row["origin"]) == ("not_assessed", "unreadable", "file:odd.dcm")
    assert [path.read_bytes() for path in door.spooled()] == [data]
    assert door.jobs() == 0


def test_files_cut_within_their_meta_group_are_told_apart(door, tmp_path):
    whole = next(cheap_series(1, rows=64, columns=64))
    receipts = [
        door.intake.receive_file(file_of(tmp_path, whole[:cut], f"{cut}.dcm"), f"file:{cut}.dcm") for cut in (200, 250)
    ]
    assert [receipt.new for receipt in receipts] == [True, True]
    assert len({receipt.instance_id for receipt in receipts}) == 2


def test_refused_kind_becomes_a_row_without_a_job(door):
    stream = BytesIO()
    dicom_radiograph(1, size=32, BodyPartExamined="HAND").save_as(stream, enforce_file_format=True)
    data = stream.getvalue()
    receipt = door.store(data[144 + int.from_bytes(data[140:144], "little") :])
    assert (receipt.status, receipt.reason, receipt.detail) == (
        Status.NOT_ASSESSED,
        Reason.NOT_CHEST,
        "body part HAND",
    )
    assert door.jobs() == 0
    assert len(door.spooled()) == 1


def test_file_name_that_is_no_utf8_does_not_matter(door, tmp_path):
    [data] = cheap_series(1, rows=64, columns=64)
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xf6ntgen\n.dcm"))
    path.write_bytes(data)
    [(_, receipt)] = receive_paths([path], door.intake)
    assert receipt.new
    assert door.rows()[0]["origin"] == "file:r\\udcf6ntgen\n.dcm"


# Failures of the surroundings


def _full(*_arguments, **_options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["writev", "fsync"])
def test_full_disk_takes_nothing_in_and_may_pass(door, monkeypatch, call):
    [data] = cheap_series(1, rows=64, columns=64, part10=False)
    with monkeypatch.context() as patch:
        patch.setattr(f"medd.store.spool.os.{call}", _full)
        with pytest.raises(TransientError, match="No space left"):
            door.store(data)
    assert door.rows() == []
    assert door.jobs() == 0
    assert not list((door.spool.root / "incoming").iterdir())
    assert door.store(data).new
    assert len(door.rows()) == 1


def test_disk_that_fails_one_sender_takes_nothing_from_another_of_the_same_bytes(door, monkeypatch):
    [data] = cheap_series(1, rows=64, columns=64, part10=False)
    door.store(data)
    with monkeypatch.context() as patch:
        patch.setattr("medd.store.spool.os.fsync", _full)
        with pytest.raises(TransientError, match="No space left"):
            door.store(data)
    assert (len(door.rows()), door.jobs()) == (1, 1)
    [row] = door.rows()
    assert hashlib.sha256(data).hexdigest() == row["sha256"]
    assert door.spool.path(row["sha256"], MediaType.DICOM).read_bytes().endswith(data)


def test_disk_that_fills_up_while_a_file_is_read_may_pass(door, tmp_path, monkeypatch):
    path = file_of(tmp_path, next(cheap_series(1, rows=1024, columns=1024)))
    calls = []

    def nearly_full(_file, data):
        calls.append(len(data))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("medd.store.spool.os.write", nearly_full)
        with pytest.raises(TransientError, match="No space left"):
            door.intake.receive_file(path, "file:film.dcm")
    assert calls
    assert door.rows() == []
    assert door.spooled() == []
    assert door.intake.receive_file(path, "file:film.dcm").new


def test_failing_database_takes_nothing_in_and_may_pass(door):
    one, two = cheap_series(2, rows=64, columns=64, part10=False)
    door.store(one)
    with door.database.write() as connection:
        connection.execute(sa.text("ALTER TABLE job RENAME TO gone"))
    with pytest.raises(TransientError, match="database: "):
        door.store(two)
    assert len(door.rows()) == 1
    with door.database.write() as connection:
        connection.execute(sa.text("ALTER TABLE gone RENAME TO job"))
    assert door.store(two).new
    assert len(door.rows()) == door.jobs() == 2


def test_file_that_cannot_be_read_is_reported_and_the_others_go_on(door, tmp_path):
    good = file_of(tmp_path, next(cheap_series(1, rows=64, columns=64)))
    outcomes = list(receive_paths([tmp_path / "missing.dcm", good], door.intake))
    assert outcomes[0] == (tmp_path / "missing.dcm", "cannot be read. Received: No such file or directory")
    assert outcomes[1][1].new


def test_folder_is_taken_in_with_all_below_it(door, tmp_path):
    folder = tmp_path / "study"
    (folder / "a" / "x.dcm").mkdir(parents=True)  # a folder that looks like a file
    films = list(cheap_series(3, rows=64, columns=64))
    for name, data in zip(("b.dcm", "a/2", "a/x.dcm/3.dcm"), films, strict=True):
        (folder / name).write_bytes(data)
    (folder / "link.dcm").symlink_to(folder / "b.dcm")
    outcomes = list(receive_paths([folder], door.intake))
    assert [receipt.new for _, receipt in outcomes] == [True] * 3
    assert {row["origin"] for row in door.rows()} == {
        "file:study/b.dcm",
        "file:study/a/2",
        "file:study/a/x.dcm/3.dcm",
    }


# Many at once


def test_thirty_two_threads_each_get_their_own_answer(door):
    films = list(cheap_series(64, rows=64, columns=64, part10=False))
    films += films[:32]  # a third of them twice, at the same time
    with ThreadPoolExecutor(32) as threads:
        receipts = list(threads.map(door.store, films))
    digests = [hashlib.sha256(film).hexdigest() for film in films]
    by_digest = {row["sha256"]: row["instance_id"] for row in door.rows()}
    assert [receipt.sha256 for receipt in receipts] == digests
    assert [receipt.instance_id for receipt in receipts] == [by_digest[digest] for digest in digests]
    assert len(by_digest) == door.jobs() == 64
    assert sum(receipt.new for receipt in receipts) == 64
    assert {path.stem for path in door.spooled()} == set(digests)


def test_those_who_come_together_share_a_commit(door):
    commits: list[str] = []
    sa.event.listen(door.database.engine, "connect", lambda raw, _: raw.set_trace_callback(commits.append))
    door.close()  # so that the next connection is a watched one
    gate = threading.Barrier(32)

    def store(film: bytes) -> Receipt:
        gate.wait(30)
        return door.store(film)

    with ThreadPoolExecutor(32) as threads:
        receipts = list(threads.map(store, cheap_series(32, rows=64, columns=64, part10=False)))
    assert all(receipt.new for receipt in receipts)
    assert 1 <= commits.count("COMMIT") < 32


# Plugins


class Listening:
    def __init__(self, door: Door) -> None:
        self.door = door
        self.heard: list[tuple] = []

    @hookimpl
    def instance_received(self, instance, header) -> None:
        committed = [row["instance_id"] for row in self.door.rows()]
        self.heard.append((instance.id in committed, instance.path.read_bytes(), instance.origin, header.modality))


def test_plugins_are_told_after_the_commit_and_once(door):
    listening = Listening(door)
    door.plugins.register(listening, "listening")
    [data] = cheap_series(1, rows=64, columns=64, part10=False)
    door.store(data)
    door.store(data)
    assert listening.heard == [(True, b"preamble" + data, "dicom://CR1@10.0.0.1", "DX")]


class Failing:
    @hookimpl
    def instance_received(self) -> None:
        raise RuntimeError("a bug of the plugin")


def test_plugin_that_fails_when_told_costs_no_image(door, caplog):
    door.plugins.register(Failing(), "failing")
    [data] = cheap_series(1, rows=64, columns=64, part10=False)
    assert door.store(data).new
    assert "a bug of the plugin" in caplog.text


def test_log_names_neither_patient_nor_uid(door, caplog):
    [data] = cheap_series(1, rows=64, columns=64, part10=False)
    with caplog.at_level("DEBUG"):
        receipt = door.store(data)
    [row] = door.rows()
    [line] = [record for record in caplog.records if record.name == "medd.ingest.intake"]
    assert line.event == "instance.received"
    assert line.instance == receipt.instance_id
    assert row["patient_id"] not in caplog.text
    assert row["sop_instance_uid"] not in caplog.text


@pytest.mark.parametrize(("file_system", "synced"), [("ext4", 0), ("xfs", 0), ("nfs4", 1), ("ext2", 1), ("", 1)])
def test_folder_is_synchronised_where_the_file_system_does_not_keep_name_and_file_together(
    tmp_path, monkeypatch, file_system, synced
):
    monkeypatch.setattr("medd.store.spool.file_system", lambda folder: file_system)
    door = Door(tmp_path)
    folders = []

    def fsync(file, _real=os.fsync):
        folders.append(stat.S_ISDIR(os.fstat(file).st_mode))
        _real(file)

    monkeypatch.setattr("medd.store.spool.os.fsync", fsync)
    [data] = cheap_series(1, rows=64, columns=64, part10=False)
    door.store(data)
    assert sum(folders) == synced
    door.store(data)  # takes the place of a file that may be durable: its new name must be too
    assert sum(folders) == synced + 1
