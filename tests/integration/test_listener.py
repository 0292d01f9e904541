"""The DICOM port over real sockets: what it takes, what it refuses, and what it lives through."""

import contextlib
import os
import random
import shutil
import socket
import sqlite3
import struct
import subprocess
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom import uid
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts
from pynetdicom.sop_class import Verification

from medd import plugins
from medd.ingest import admission, places
from medd.ingest import listener as listener_module
from medd.ingest.intake import Intake
from medd.ingest.listener import Listener
from medd.settings import ListenerSettings
from medd.store import database as database_module
from medd.store.spool import Spool
from medd.testing import cheap_series, dicom_radiograph
from tests.schema import open_new
from tests.support import (
    DX,
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    RawSender,
    associate_rq,
    command_set,
    pdata,
    require,
    uid_in,
    wait_until,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
RELEASE_RQ = struct.pack(">BxII", 5, 4, 0)
ABORT = struct.pack(">BxII", 7, 4, 0)


class Receiver:
    """A listener in this process on SQLite, and a look at what it has stored."""

    def __init__(self, home: Path, settings: ListenerSettings) -> None:
        home.mkdir(exist_ok=True)
        self.file = home / "medd.db"
        self.database = open_new(self.file)
        self.spool = Spool(home / "spool")
        self.spool.prepare()
        manager = plugins.load_plugins(builtin=(admission,))
        self.listener = Listener(settings, Intake(self.database, self.spool, manager))
        self.port = self.listener.port
        self.listener.start()
        self.stopped = False

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.listener.stop()
            self.database.close()

    def query(self, sql: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.file)) as connection:
            return connection.execute(sql).fetchall()

    def count(self) -> int:
        [(count,)] = self.query("SELECT count(*) FROM instance")
        assert isinstance(count, int)
        return count

    def stored(self, sop_instance_uid: str) -> bytes:
        """The spooled file of the one instance with this UID."""
        [(sha256, media_type)] = self.query(
            f"SELECT sha256, media_type FROM instance WHERE sop_instance_uid = '{sop_instance_uid}'"
        )
        return self.spool.path(str(sha256), str(media_type)).read_bytes()

    def parts(self) -> list[Path]:
        return list((self.spool.root / "incoming").iterdir())

    def answers_echo(self) -> bool:
        with RawSender(self.port) as sender:
            sender.associate()
            status = sender.echo()
            sender.release()
        return status == 0


@pytest.fixture
def receive(tmp_path: Path) -> Iterator[Callable[..., Receiver]]:
    """Starts a receiver on a free port, with settings of the listener as keywords."""
    started: list[Receiver] = []

    def start(**settings: object) -> Receiver:
        started.append(Receiver(tmp_path, ListenerSettings.model_validate({"port": 0, **settings})))
        return started[-1]

    yield start
    for receiver in started:
        receiver.stop()


@pytest.fixture
def receiver(receive: Callable[..., Receiver]) -> Receiver:
    return receive()


def films(n: int, *, seed: int = 0, side: int = 32) -> list[bytes]:
    """Distinct small films as C-STORE carries them, Explicit VR Little Endian."""
    return list(cheap_series(n, rows=side, columns=side, seed=seed, part10=False))


def bare(dataset: pydicom.Dataset) -> bytes:
    """A dataset without preamble and file meta group, encoded as its transfer syntax says."""
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    data = stream.getvalue()
    return data[144 + int.from_bytes(data[140:144], "little") :]


def split_spooled(file: bytes) -> tuple[str, bytes]:
    """Transfer syntax and dataset of a Part 10 file."""
    length = int.from_bytes(file[140:144], "little")
    meta = pydicom.dcmread(BytesIO(file[: 144 + length])).file_meta
    return str(meta.TransferSyntaxUID), file[144 + length :]


# What is taken --------------------------------------------------------------------------------------------------------


def test_a_pynetdicom_scu_gets_echo_and_store_answered(receiver: Receiver) -> None:
    dataset = dicom_radiograph(1, size=64)
    scu = AE(ae_title="PYNET")
    scu.add_requested_context(Verification)
    scu.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = scu.associate("127.0.0.1", receiver.port, ae_title="MEDD")
    assert association.is_established
    assert association.send_c_echo().Status == 0x0000
    assert association.send_c_store(dataset).Status == 0x0000
    association.release()
    assert association.is_released
    [(origin, status)] = receiver.query("SELECT origin, status FROM instance")
    assert origin == "dicom://PYNET@127.0.0.1"
    assert status == "pending"
    assert pydicom.dcmread(BytesIO(receiver.stored(dataset.SOPInstanceUID))) == dataset


def dcmtk(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    [path] = require(program)
    environment = os.environ | {"TCP_NODELAY": "1"}  # without it Nagle's algorithm holds DCMTK at 22 images/s
    command = [path, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


@pytest.fixture
def film_files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "films"
    folder.mkdir()
    paths = [folder / f"{number}.dcm" for number in range(10)]
    for path, data in zip(paths, cheap_series(10, rows=32, columns=32), strict=True):
        path.write_bytes(data)
    return paths


@pytest.mark.peers
def test_dcmtk_echoscu_is_answered(receiver: Receiver) -> None:
    done = dcmtk("echoscu", "-v", "-aec", "MEDD", "127.0.0.1", receiver.port)
    assert done.returncode == 0, done.stderr
    assert "Received Echo Response (Success)" in done.stderr


@pytest.mark.peers
@pytest.mark.parametrize("proposal", ["-xe", "-xi", "-xb", "-xs", "-x="])
def test_dcmtk_storescu_stores_whatever_it_proposes(receiver: Receiver, film_files: list[Path], proposal: str) -> None:
    done = dcmtk("storescu", "-v", proposal, "-aec", "MEDD", "127.0.0.1", receiver.port, *film_files)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Received Store Response (Success)") == 10
    assert receiver.count() == 10


@pytest.mark.peers
def test_dcmtk_dcmsend_stores_a_folder(receiver: Receiver, film_files: list[Path]) -> None:
    done = dcmtk("dcmsend", "-v", "+sd", "-aec", "MEDD", "127.0.0.1", receiver.port, film_files[0].parent)
    assert done.returncode == 0, done.stderr
    stored = {pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in film_files}
    assert {name for (name,) in receiver.query("SELECT sop_instance_uid FROM instance")} == stored


@pytest.mark.peers
@pytest.mark.parametrize(("syntax", "proposal"), [(uid.RLELossless, "-xr"), (uid.JPEG2000Lossless, "-xv")])
def test_dcmtk_storescu_sends_compressed_films_as_they_are(
    receiver: Receiver, tmp_path: Path, syntax: str, proposal: str
) -> None:
    dataset = dicom_radiograph(2, size=64, transfer_syntax=syntax)
    dataset.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    done = dcmtk("storescu", "-v", proposal, "127.0.0.1", receiver.port, tmp_path / "film.dcm")
    assert done.returncode == 0, done.stderr
    kept, _ = split_spooled(receiver.stored(dataset.SOPInstanceUID))
    assert kept == syntax


def encoded(syntax: str) -> tuple[str, bytes]:
    """An object in a transfer syntax: its SOP Instance UID and bytes. Streams that nobody here makes are invented."""
    made_here = (*uid.UncompressedTransferSyntaxes, uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless)
    if syntax in made_here:
        dataset = dicom_radiograph(3, size=32, transfer_syntax=syntax)
        return dataset.SOPInstanceUID, bare(dataset)
    dataset = dicom_radiograph(3, size=32, transfer_syntax=uid.JPEG2000Lossless)
    dataset.SOPInstanceUID = uid.generate_uid(entropy_srcs=["test", syntax])
    data = bare(dataset)
    at = data.index(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff")
    invented = b"\xfe\xff\x00\xe0\0\0\0\0" + b"\xfe\xff\x00\xe0\x10\0\0\0" + bytes(range(16))
    data = data[: at + 12] + invented + b"\xfe\xff\xdd\xe0\0\0\0\0"
    if syntax in ("1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"):  # JPIP Referenced Deflate, of J2K and HTJ2K
        deflate = zlib.compressobj(wbits=-15)
        data = deflate.compress(data) + deflate.flush()
    return dataset.SOPInstanceUID, data


@pytest.mark.parametrize("syntax", ALL_TRANSFER_SYNTAXES, ids=lambda syntax: uid.UID(syntax).name)
def test_every_transfer_syntax_is_kept_byte_for_byte(receiver: Receiver, syntax: str) -> None:
    name, data = encoded(syntax)
    with RawSender(receiver.port, {1: (DX, (syntax,))}) as sender:
        assert sender.associate() == {1: (0, syntax)}
        assert sender.store(data, name) == (0x0000, "")
        sender.release()
    kept_syntax, kept = split_spooled(receiver.stored(name))
    assert kept_syntax == syntax
    assert kept == data


def test_a_deflated_film_that_swells_is_taken_without_being_inflated_whole(receiver: Receiver) -> None:
    [film] = films(1, side=64)
    at = film.index(b"\xe0\x7f\x10\x00OW\0\0") + 8
    swollen = 256 << 20
    deflate = zlib.compressobj(1, wbits=-15)
    data = deflate.compress(film[:at] + struct.pack("<I", swollen))
    data += b"".join(deflate.compress(bytes(1 << 20)) for _ in range(swollen >> 20)) + deflate.flush()
    assert len(data) < 2 << 20
    syntax = uid.DeflatedExplicitVRLittleEndian
    with RawSender(receiver.port, {1: (DX, (syntax,))}) as sender:
        sender.associate()
        tracemalloc.start()
        try:
            assert sender.store(data, uid_in(film)) == (0x0000, "")
            assert tracemalloc.get_traced_memory()[1] < 32 << 20
        finally:
            tracemalloc.stop()
    assert split_spooled(receiver.stored(uid_in(film))) == (syntax, data)


def test_of_several_transfer_syntaxes_the_first_proposed_is_taken(receiver: Receiver) -> None:
    proposals = {
        1: (DX, (uid.JPEG2000Lossless, EXPLICIT, IMPLICIT)),
        3: (DX, (IMPLICIT, EXPLICIT)),
        5: (DX, ("1.2.3.4.5", EXPLICIT)),
    }
    with RawSender(receiver.port, proposals) as sender:
        assert sender.associate() == {1: (0, uid.JPEG2000Lossless), 3: (0, IMPLICIT), 5: (0, EXPLICIT)}


def test_every_storage_sop_class_is_accepted_in_every_transfer_syntax(receiver: Receiver) -> None:
    classes = [str(context.abstract_syntax) for context in AllStoragePresentationContexts]
    assert len(classes) > 128
    for some in (classes[:128], classes[128:]):
        proposals = {2 * place + 1: (name, tuple(ALL_TRANSFER_SYNTAXES)) for place, name in enumerate(some)}
        with RawSender(receiver.port, proposals) as sender:
            answers = sender.associate()
            sender.release()
        assert set(answers) == set(proposals)
        assert {result for result, _ in answers.values()} == {0}


def test_an_unknown_sop_class_is_refused_and_the_other_contexts_work(receiver: Receiver) -> None:
    [film] = films(1)
    contexts = {1: (DX, (EXPLICIT,)), 3: (VERIFICATION, (IMPLICIT,)), 5: ("1.2.3.4.5.6", (EXPLICIT,))}
    with RawSender(receiver.port, contexts) as sender:
        answers = sender.associate()
        assert [answers[number][0] for number in (1, 3, 5)] == [0, 0, 3]
        assert sender.store(film, uid_in(film)) == (0x0000, "")
        assert sender.echo() == 0
        sender.release()
    assert receiver.count() == 1


def test_a_message_in_a_context_that_was_refused_aborts_the_association(receiver: Receiver) -> None:
    [film] = films(1)
    with RawSender(receiver.port, {1: ("1.2.3.4.5.6", (EXPLICIT,))}) as sender:
        assert sender.associate()[1][0] == 3
        sender.send(pdata((1, 3, command_set(0x0001, 1, DX, uid_in(film), has_dataset=True))))
        assert sender.receive_pdu()[0] == 7
    assert receiver.answers_echo()
    assert receiver.count() == 0


def test_the_same_bytes_twice_are_one_instance_and_other_bytes_under_one_uid_are_two(receiver: Receiver) -> None:
    [film] = films(1)
    other = film[:-2] + b"\x01\x02"
    assert other != film
    with RawSender(receiver.port) as sender:
        sender.associate()
        assert [sender.store(data, uid_in(film))[0] for data in (film, film, other, film)] == [0, 0, 0, 0]
        sender.release()
    assert receiver.count() == 2
    assert receiver.query("SELECT count(*) FROM results WHERE conflict") == [(2,)]


# What is refused, and how ---------------------------------------------------------------------------------------------


def test_a_class_other_than_the_datasets_is_a900(receiver: Receiver) -> None:
    [film] = films(1)
    with RawSender(receiver.port, {1: (CT, (EXPLICIT,)), 3: (DX, (EXPLICIT,))}) as sender:
        sender.associate()
        for sop_class, context in ((CT, 1), (CT, 3), (DX, 1)):
            status, comment = sender.store(film, uid_in(film), sop_class=sop_class, context=context)
            assert status == 0xA900
            assert "SOP Class" in comment
        assert sender.store(film, uid_in(film), context=3)[0] == 0x0000
    assert receiver.count() == 1


def test_an_instance_uid_other_than_the_datasets_is_a900(receiver: Receiver) -> None:
    [film] = films(1)
    with RawSender(receiver.port) as sender:
        sender.associate()
        status, comment = sender.store(film, "1.2.3.4")
        assert status == 0xA900
        assert "SOP Instance" in comment
    assert receiver.count() == 0


CUT_HEADER = films(1)[0][: films(1)[0].index(b"SYNTHETIC^") + 5]


@pytest.mark.parametrize(
    "dataset",
    [b"", b"\0", b"no DICOM at all " * 50, bytes(range(256)) * 8, CUT_HEADER, films(1)[0][:-100]],
    ids=["empty", "one byte", "text", "bytes", "cut header", "cut pixels"],
)
def test_a_dataset_that_cannot_be_understood_is_c000(receiver: Receiver, dataset: bytes) -> None:
    [film] = films(1)
    with RawSender(receiver.port) as sender:
        sender.associate()
        status, comment = sender.store(dataset, uid_in(film))
        assert status == 0xC000
        assert comment
        assert sender.store(film, uid_in(film))[0] == 0x0000  # the association goes on
    assert receiver.count() == 1
    assert not receiver.parts()


@pytest.mark.parametrize("side", [32, 1024], ids=["small", "large"])
def test_a_spool_that_fails_is_a700_and_the_image_is_taken_when_it_is_back(receiver: Receiver, side: int) -> None:
    [film] = films(1, side=side)
    with RawSender(receiver.port) as sender:
        sender.associate()
        shutil.rmtree(receiver.spool.root)
        status, comment = sender.store(film, uid_in(film))
        assert status == 0xA700
        assert "spool" in comment
        assert receiver.count() == 0
        receiver.spool.prepare()
        assert sender.store(film, uid_in(film)) == (0x0000, "")
    assert split_spooled(receiver.stored(uid_in(film)))[1] == film


def test_a_database_that_fails_is_a700_and_the_image_is_taken_when_it_is_back(
    receive: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.2)
    receiver = receive()
    [film] = films(1)
    with RawSender(receiver.port) as sender, closing(sqlite3.connect(receiver.file)) as greedy:
        sender.associate()
        greedy.execute("BEGIN IMMEDIATE")
        status, comment = sender.store(film, uid_in(film))
        assert status == 0xA700
        assert "database" in comment
        assert sender.echo() == 0
        greedy.rollback()
        assert sender.store(film, uid_in(film)) == (0x0000, "")
    assert receiver.count() == 1


def test_an_object_above_the_limit_is_a700_and_leaves_nothing_behind(receive: Callable[..., Receiver]) -> None:
    receiver = receive(max_object_mib=1)
    [film] = films(1, side=1024)  # 2 MiB
    [small] = films(1)
    with RawSender(receiver.port) as sender:
        sender.associate()
        status, comment = sender.store(film, uid_in(film))
        assert status == 0xA700
        assert "larger than 1 MiB" in comment
        assert sender.store(small, uid_in(small))[0] == 0x0000
    assert not receiver.parts()


def rejection(port: int, **titles: str) -> tuple[int, int, int] | None:
    """Result, source and reason of an A-ASSOCIATE-RJ; None where the association is accepted."""
    contexts = {1: (VERIFICATION, (IMPLICIT,))}
    with RawSender(port, contexts) as sender:
        sender.send(associate_rq(contexts, **titles))
        kind, body = sender.receive_pdu()
        if kind == 2:
            return None
        assert kind == 3
        assert sender.is_closed_by_peer()
        return body[1], body[2], body[3]


def test_any_called_title_is_taken_unless_one_is_required(receive: Callable[..., Receiver]) -> None:
    assert rejection(receive().port, called="SOMEBODY") is None
    port = receive(require_called_ae=True, ae_title="Xray_In").port
    assert rejection(port, called="SOMEBODY") == (1, 1, 7)
    assert rejection(port, called="Xray_In") is None
    assert rejection(port, called="XRAY_IN") is None
    assert rejection(port, called="xray_in") is None
    assert rejection(port, called="XRAY_IN2") == (1, 1, 7)


def test_only_listed_calling_titles_are_taken(receive: Callable[..., Receiver]) -> None:
    port = receive(allowed_calling_ae=["ROOM1", "Room2"]).port
    assert rejection(port, calling="ROOM3") == (1, 1, 3)
    assert rejection(port, calling="ROOM1") is None
    assert rejection(port, calling="room2") is None


@pytest.mark.parametrize(
    ("hosts", "accepted"),
    [(["127.0.0.1"], True), (["127.0.0.0/8"], True), (["10.0.0.0/8", "192.168.1.7"], False), (["::1"], False)],
)
def test_only_listed_hosts_get_a_word_in(receive: Callable[..., Receiver], hosts: list[str], accepted: bool) -> None:
    receiver = receive(allowed_hosts=hosts)
    if accepted:
        assert receiver.answers_echo()
    else:
        with RawSender(receiver.port) as sender, pytest.raises(ConnectionError):
            sender.associate()


def test_too_many_associations_are_rejected_as_congestion_until_one_ends(receive: Callable[..., Receiver]) -> None:
    receiver = receive(max_associations=2)
    with RawSender(receiver.port) as first, RawSender(receiver.port) as second:
        first.associate()
        second.associate()
        assert rejection(receiver.port) == (2, 3, 1)
        assert first.echo() == 0  # those that are there are served on
        first.release()
        wait_until(lambda: rejection(receiver.port) is None)
        second.send(ABORT)
    wait_until(lambda: rejection(receiver.port) is None)


def test_whoever_has_released_finds_the_place_free_at_once(receive: Callable[..., Receiver]) -> None:
    receiver = receive(max_associations=1)
    for number in range(200):
        with RawSender(receiver.port) as sender:
            try:
                sender.associate()
            except AssertionError as error:
                pytest.fail(f"association {number} after a release: {error}")
            sender.release()


# Load -----------------------------------------------------------------------------------------------------------------


def test_one_association_carries_a_thousand_images(receiver: Receiver) -> None:
    sent = films(1000)
    with RawSender(receiver.port) as sender:
        sender.associate()
        assert {sender.store(film, uid_in(film)) for film in sent} == {(0x0000, "")}
        sender.release()
    assert receiver.count() == 1000
    assert receiver.query("SELECT count(*) FROM job WHERE state = 'pending'") == [(1000,)]
    assert split_spooled(receiver.stored(uid_in(sent[567])))[1] == sent[567]


def test_a_thousand_associations_carry_one_image_each(receiver: Receiver) -> None:
    threads = threading.active_count()
    for film in films(1000):
        with RawSender(receiver.port) as sender:
            sender.associate()
            assert sender.store(film, uid_in(film)) == (0x0000, "")
            sender.release()
    assert receiver.count() == 1000
    assert threading.active_count() - threads < 60, "threads are left behind"


def test_sixteen_senders_at_once_lose_nothing(receiver: Receiver) -> None:
    answers: list[tuple[int, str]] = []

    def send(seed: int) -> None:
        with RawSender(receiver.port) as sender:
            sender.associate()
            for film in films(25, seed=seed):
                answers.append(sender.store(film, uid_in(film)))
            sender.release()

    senders = [threading.Thread(target=send, args=(seed,)) for seed in range(16)]
    for thread in senders:
        thread.start()
    for thread in senders:
        thread.join()
    assert answers == [(0x0000, "")] * 400
    assert receiver.count() == 400


# How the bytes are cut ------------------------------------------------------------------------------------------------


def fragments(data: bytes, size: int, context: int, *, command: bool) -> list[tuple[int, int, bytes]]:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    last = len(pieces) - 1
    return [(context, command | 2 * (place == last), piece) for place, piece in enumerate(pieces)]


@pytest.mark.parametrize("size", [1, 2, 7, 1021, 16374, 1 << 20], ids=lambda size: f"{size} bytes")
@pytest.mark.parametrize("together", [1, 5], ids=["one value per PDU", "five values per PDU"])
def test_fragments_of_any_size_make_the_same_image(receiver: Receiver, size: int, together: int) -> None:
    [film] = films(1, side=128 if size > 100 else 32)
    with RawSender(receiver.port) as sender:
        sender.associate()
        command, dataset = sender.store_message(film, uid_in(film))
        values = fragments(command, size, 1, command=True) + fragments(dataset, size, 1, command=False)
        sender.send(b"".join(pdata(*values[at : at + together]) for at in range(0, len(values), together)))
        assert sender.receive_status() == (0x0000, "")
    assert split_spooled(receiver.stored(uid_in(film)))[1] == film


def test_command_and_dataset_may_share_a_pdu_and_empty_fragments_do_no_harm(receiver: Receiver) -> None:
    [film] = films(1)
    with RawSender(receiver.port) as sender:
        sender.associate()
        command, dataset = sender.store_message(film, uid_in(film))
        half = len(dataset) // 2
        sender.send(
            pdata((1, 1, command), (1, 1, b""), (1, 3, b""), (1, 0, b""), (1, 0, dataset[:half]), (1, 0, b""))
            + pdata()
            + pdata((1, 0, dataset[half:]), (1, 2, b""))
        )
        assert sender.receive_status() == (0x0000, "")
    assert split_spooled(receiver.stored(uid_in(film)))[1] == film


def test_two_images_may_come_before_the_first_is_answered(receiver: Receiver) -> None:
    sent = films(3)
    with RawSender(receiver.port) as sender:
        sender.associate()
        stream = b""
        for film in sent:
            command, dataset = sender.store_message(film, uid_in(film))
            stream += pdata((1, 3, command), (1, 2, dataset))
        sender.send(stream + RELEASE_RQ)
        answers = [sender.receive_response() for _ in sent]
        assert [int.from_bytes(answer[0x0900], "little") for answer in answers] == [0, 0, 0]
        assert [int.from_bytes(answer[0x0120], "little") for answer in answers] == [1, 2, 3]
        assert sender.receive_pdu()[0] == 6
    assert receiver.count() == 3


def test_bytes_that_trickle_in_make_an_image(receiver: Receiver) -> None:
    [film] = films(1)
    with RawSender(receiver.port) as sender:
        command, dataset = sender.store_message(film, uid_in(film))
        sender.associate()
        stream = pdata((1, 3, command)) + pdata((1, 2, dataset))
        for at in range(400):
            sender.send(stream[at : at + 1])
        sender.send(stream[400:])
        assert sender.receive_status() == (0x0000, "")
    assert split_spooled(receiver.stored(uid_in(film)))[1] == film


def test_a_sender_of_pynetdicom_with_the_smallest_pdus_is_understood(receiver: Receiver) -> None:
    dataset = dicom_radiograph(4, size=512)
    scu = AE()
    scu.maximum_pdu_size = 16384
    scu.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = scu.associate("127.0.0.1", receiver.port, max_pdu=16384)
    assert association.send_c_store(dataset).Status == 0x0000
    association.release()
    assert split_spooled(receiver.stored(dataset.SOPInstanceUID))[1] == bare(dataset)


# What no peer should send ---------------------------------------------------------------------------------------------

GARBAGE = {
    "zeros": bytes(1000),
    "random bytes": random.Random(1).randbytes(5000),
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: medd\r\nAccept: */*\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "a huge A-ASSOCIATE-RQ": struct.pack(">BxI", 1, 0xFFFFFFFF) + bytes(1000),
    "half an A-ASSOCIATE-RQ": associate_rq({1: (DX, (EXPLICIT,))})[:100],
    "an empty A-ASSOCIATE-RQ": struct.pack(">BxI", 1, 0),
    "a short A-ASSOCIATE-RQ": struct.pack(">BxI", 1, 30) + bytes(30),
    "a context without a body": struct.pack(">BxI", 1, 72) + b"\0\1" + bytes(66) + b"\x20\0\0\0",
    "an item longer than its PDU": struct.pack(">BxI", 1, 72) + b"\0\1" + bytes(66) + b"\x20\0\xff\xff",
    "a release before anything": RELEASE_RQ,
    "an abort before anything": ABORT,
    "data before anything": pdata((1, 3, command_set(0x0030, 1, VERIFICATION))),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_ends_its_own_connection_only(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    with RawSender(receiver.port) as good, RawSender(receiver.port) as bad:
        good.associate()
        bad.send(data)
        bad.socket.shutdown(socket.SHUT_WR)
        assert bad.is_closed_by_peer()
        assert good.echo() == 0
    assert receiver.answers_echo()
    assert receiver.count() == 0
    assert not [record for record in caplog.records if record.exc_info], "a peer's garbage is no bug of ours"


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">BxI", 9, 4) + bytes(4),
        struct.pack(">BxI", 0, 4) + bytes(4),
        struct.pack(">BxI", 255, 0xFFFFFFFF),
        struct.pack(">BxI", 2, 4) + bytes(4),
        associate_rq({1: (DX, (EXPLICIT,))}),
        struct.pack(">BxI", 5, 0xFFFFFFFF),
        struct.pack(">BxI", 7, 0xFFFFFFFF),
        struct.pack(">BxI", 4, 3) + bytes(3),
        struct.pack(">BxIIBB", 4, 6, 1, 1, 3),
        struct.pack(">BxIIBB", 4, 6, 0xFFFFFFFF, 1, 3),
        pdata((1, 2, b"data without a command")),
        pdata((99, 3, b"")),
        pdata((1, 3, b"\0\0\0\0")),
        pdata((1, 3, b"")),
        pdata((1, 3, b"\0\0\0\0\x04\0\0\0\0\0\0\0")),
        pdata((1, 3, b"\x08\0\0\0\x04\0\0\0\0\0\0\0")),
        pdata((1, 3, b"\0\0\0\0\xff\xff\xff\xff\0\0\0\0")),
        pdata((1, 1, bytes(70000))),
        pdata((1, 3, command_set(0x0001, 1, DX, "1.2", has_dataset=True)), (3, 2, b"in another context")),
        pdata((1, 3, command_set(0x0001, 1, DX, "1.2", has_dataset=True))) * 2,
    ],
    ids=range(20),
)
def test_a_breach_of_protocol_is_answered_by_an_abort(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    with RawSender(receiver.port) as good, RawSender(receiver.port) as bad:
        good.associate()
        bad.associate()
        bad.send(data)
        assert bad.receive_pdu()[0] == 7
        assert bad.is_closed_by_peer()
        assert good.echo() == 0
    assert receiver.count() == 0
    assert not receiver.parts()
    assert not [record for record in caplog.records if record.exc_info], "a peer's breach is no bug of ours"


def test_a_declared_length_of_gigabytes_costs_no_memory_and_no_row(receiver: Receiver) -> None:
    with RawSender(receiver.port) as sender:
        sender.associate()
        sender.send(pdata((1, 3, command_set(0x0001, 1, DX, "1.2", has_dataset=True))))
        sender.send(struct.pack(">BxIIBB", 4, 0xFFFFFFF0, 0xFFFFFFEC, 1, 2) + bytes(3 << 20))
        wait_until(receiver.parts, what="the image on its way into the spool")
    wait_until(lambda: not receiver.parts(), what="the removal of the unfinished file")
    assert receiver.answers_echo()
    assert receiver.count() == 0


@pytest.mark.parametrize("ending", [b"", ABORT], ids=["dropped", "aborted"])
@pytest.mark.parametrize("side", [32, 1024], ids=["small", "large"])
def test_an_association_lost_in_the_middle_of_an_image_leaves_nothing(
    receiver: Receiver, side: int, ending: bytes
) -> None:
    [whole, other] = films(2, side=side)
    with RawSender(receiver.port) as sender:
        sender.associate()
        assert sender.store(other, uid_in(other))[0] == 0x0000
        command, dataset = sender.store_message(whole, uid_in(whole))
        sender.send(pdata((1, 3, command), (1, 0, dataset[: len(dataset) * 3 // 4])))
        if side == 1024:
            wait_until(receiver.parts, what="the image on its way into the spool")
        sender.send(ending)
    assert receiver.answers_echo()
    wait_until(lambda: not receiver.parts(), what="the removal of the unfinished file")
    assert receiver.count() == 1


def test_twenty_silent_connections_keep_nobody_out(receive: Callable[..., Receiver]) -> None:
    receiver = receive(max_associations=5)
    silent = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(20)]
    try:
        began = time.monotonic()
        assert receiver.answers_echo()
        assert time.monotonic() - began < 2
    finally:
        for connection in silent:
            connection.close()


def test_silent_connections_without_number_keep_nobody_out_and_the_eldest_go(
    receive: Callable[..., Receiver], caplog: pytest.LogCaptureFixture
) -> None:
    receiver = receive(max_associations=2)
    with ExitStack() as stack, RawSender(receiver.port) as sender:
        sender.associate()
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", receiver.port)))
            for _ in range(places.MAX_UNASSOCIATED + 50)
        ]
        began = time.monotonic()
        assert receiver.answers_echo()
        assert time.monotonic() - began < 2
        assert sender.echo() == 0
        for connection in silent[:50]:
            connection.settimeout(5)
            assert connection.recv(100)[:1] in (b"", b"\x07")
        silent[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            silent[-1].recv(1)
        assert set(caplog.messages) == {"too many connections"}


def test_of_two_hosts_the_one_with_more_silent_connections_loses_one(
    receive: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "MAX_UNASSOCIATED", 5)
    receiver = receive(host="::")
    with ExitStack() as stack:
        quiet = stack.enter_context(socket.create_connection(("::1", receiver.port)))
        crowd = [stack.enter_context(socket.create_connection(("127.0.0.1", receiver.port))) for _ in range(7)]
        for connection in crowd[:3]:
            connection.settimeout(5)
            assert connection.recv(100)[:1] in (b"", b"\x07")
        for connection in (quiet, *crowd[3:]):
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)


def test_a_connection_that_never_proposes_is_closed(receive: Callable[..., Receiver]) -> None:
    receiver = receive(association_timeout_s=0.3)
    with RawSender(receiver.port) as silent:
        assert silent.is_closed_by_peer()


def test_an_association_that_falls_silent_is_ended_and_its_place_is_free(receive: Callable[..., Receiver]) -> None:
    receiver = receive(max_associations=1, network_timeout_s=0.4)
    [film] = films(1)
    with RawSender(receiver.port) as silent:
        silent.associate()
        command, dataset = silent.store_message(film, uid_in(film))
        silent.send(pdata((1, 3, command), (1, 0, dataset[:100])))
        began = time.monotonic()
        assert silent.is_closed_by_peer()
        assert 0.2 < time.monotonic() - began < 5

    def has_room() -> bool:
        # The connection is closed before its place is free.
        with contextlib.suppress(AssertionError):
            return receiver.answers_echo()
        return False

    wait_until(has_room)
    assert receiver.count() == 0
    assert not receiver.parts()


@pytest.mark.parametrize("field", [0x0020, 0x0021, 0x0010, 0x0130], ids=["C-FIND", "C-MOVE", "C-GET", "N-ACTION"])
def test_an_operation_that_is_not_offered_gets_a_failure_and_the_association_goes_on(
    receiver: Receiver, field: int
) -> None:
    with RawSender(receiver.port) as sender:
        sender.associate()
        sender.send(pdata((3, 3, command_set(field, 7, VERIFICATION, has_dataset=True)), (3, 2, b"\x08\0\x52\0")))
        response = sender.receive_response()
        assert int.from_bytes(response[0x0100], "little") == field | 0x8000
        assert int.from_bytes(response[0x0120], "little") == 7
        assert int.from_bytes(response[0x0900], "little") == 0x0211
        assert sender.echo() == 0
        sender.release()


@pytest.mark.peers
def test_a_query_by_dcmtk_is_refused_and_the_listener_lives(receiver: Receiver) -> None:
    done = dcmtk("findscu", "-S", "-k", "0008,0052=STUDY", "127.0.0.1", receiver.port)
    assert "No Acceptable Presentation Contexts" in done.stderr + done.stdout
    assert receiver.answers_echo()


def test_an_abort_ends_the_association_and_keeps_what_was_answered(receiver: Receiver) -> None:
    [film] = films(1)
    with RawSender(receiver.port) as sender:
        sender.associate()
        assert sender.store(film, uid_in(film))[0] == 0x0000
        sender.send(ABORT)
        assert sender.is_closed_by_peer()
    assert receiver.count() == 1


def test_an_echo_in_a_storage_context_is_answered(receiver: Receiver) -> None:
    # Not by the letter of the Standard, but some modalities do it and every PACS lets them.
    with RawSender(receiver.port) as sender:
        sender.associate()
        assert sender.echo(context=1) == 0


# Stopping -------------------------------------------------------------------------------------------------------------


def test_stop_lets_the_image_that_is_coming_in_end_and_aborts_the_idle(receiver: Receiver) -> None:
    [film] = films(1, side=1024)
    with RawSender(receiver.port) as busy, RawSender(receiver.port) as idle:
        busy.associate()
        idle.associate()
        command, dataset = busy.store_message(film, uid_in(film))
        half = len(dataset) // 2
        busy.send(pdata((1, 3, command), (1, 0, dataset[:half])))
        wait_until(receiver.parts, what="the image on its way into the spool")
        stopping = threading.Thread(target=receiver.stop)
        stopping.start()
        assert idle.receive_pdu()[0] == 7
        assert stopping.is_alive()
        busy.send(pdata((1, 2, dataset[half:])))
        assert busy.receive_status() == (0x0000, "")
        assert busy.receive_pdu()[0] == 7
        stopping.join(5)
        assert not stopping.is_alive()
    assert receiver.count() == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", receiver.port))


def test_stop_cuts_off_who_is_still_sending_after_a_while(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "STOP_S", 0.3)
    enough = threading.Event()
    [film] = films(1)

    def keep_on(sender: RawSender) -> None:
        command, dataset = sender.store_message(film, uid_in(film))
        with suppress(OSError):
            sender.send(pdata((1, 3, command)))
            while not enough.wait(0.02):
                sender.send(pdata((1, 0, dataset[:2])))

    with RawSender(receiver.port) as sender:
        sender.associate()
        peer = threading.Thread(target=keep_on, args=(sender,))
        peer.start()
        try:
            time.sleep(0.5)
            began = time.monotonic()
            receiver.stop()
            assert time.monotonic() - began < 5
            wait_until(lambda: not [one for one in threading.enumerate() if one.name.startswith("association")], 5)
        finally:
            enough.set()
            sender.socket.close()
            peer.join(10)
    assert receiver.count() == 0
    assert receiver.parts() == []


def test_an_instance_uid_of_any_length_costs_the_log_one_line(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    with RawSender(receiver.port) as sender:
        sender.associate()
        assert sender.store(b"no dataset", "1." * 30_000)[0] == 0xC000
    [line] = [one for one in caplog.messages if "refused" in one]
    assert len(line) < 300


# Fuzz -----------------------------------------------------------------------------------------------------------------


def mutate(stream: bytes, chance: random.Random) -> bytes:
    data = bytearray(stream)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(data))
        match chance.randrange(6):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at] = chance.randrange(256)
            case 2:
                del data[at : at + chance.randrange(1, 40)]
            case 3:
                data[at:at] = chance.randbytes(chance.randrange(1, 40))
            case 4:
                data[at : at + 4] = chance.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"))
            case _:
                del data[at:]
        if not data:
            return b"\0"
    return bytes(data)


def successes(answer: bytes) -> int:
    """How many C-STORE-RSP with status Success stand in what a receiver sent."""
    count, at = 0, 0
    while at + 6 <= len(answer):
        kind, length = struct.unpack_from(">BxI", answer, at)
        body = answer[at + 6 : at + 6 + length]
        if kind == 4:
            count += b"\0\0\0\x01\x02\0\0\0\x01\x80" in body and body.count(b"\0\0\0\x09\x02\0\0\0\0\0") == 1
        at += 6 + length
    return count


def test_two_hundred_mutated_streams_neither_kill_the_listener_nor_make_rows_that_nobody_was_told_of(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    contexts = {1: (DX, (EXPLICIT,)), 3: (VERIFICATION, (IMPLICIT,))}
    acknowledged = 0
    for seed, film in enumerate(films(200)):
        command = command_set(0x0001, 1, DX, uid_in(film), has_dataset=True)
        echo = command_set(0x0030, 2, VERIFICATION)
        dataset = pdata((1, 0, film[:500])) + pdata((1, 2, film[500:]))
        stream = associate_rq(contexts) + pdata((1, 3, command)) + dataset + pdata((3, 3, echo)) + RELEASE_RQ
        mutated = mutate(stream, random.Random(seed)) if seed else stream
        acknowledged += successes(exchange(receiver.port, mutated))
        assert receiver.count() <= acknowledged, f"a row without an answer, seed {seed}"
        if seed == 0:
            assert acknowledged == 1, "the stream itself is sound"
        if seed % 20 == 0:
            assert receiver.answers_echo(), f"no echo after seed {seed}"
    assert receiver.answers_echo()
    assert 1 < receiver.count() < 200, "mutations that do nothing, or nothing but harm, test little"
    wait_until(lambda: not receiver.parts())
    bugs = {str(record.exc_info[1]) for record in caplog.records if record.exc_info}
    assert not bugs, "a peer's garbage is no bug of ours"


def exchange(port: int, data: bytes) -> bytes:
    """Send everything, then read until the receiver closes."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while more := connection.recv(1 << 16):
                answer += more
        except ConnectionError:
            pass
    return answer


def test_the_settings_of_the_listener_are_refused_with_what_is_wrong(receive: Callable[..., Receiver]) -> None:
    from medd.errors import SettingsError

    taken = receive().port
    with pytest.raises(SettingsError, match=f"port {taken} cannot be bound"):
        receive(port=taken)
    with pytest.raises(SettingsError, match="allowed_hosts"):
        receive(allowed_hosts=["not-an-address"])
