"""Storage commitment (PS3.4 Annex J) with real peers, asked of us and asked by us: pynetdicom and Orthanc."""

import json
import queue
import random
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest
import sqlalchemy as sa
from pydicom import DataElement, Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association

from medd import plugins
from medd.deliver import commitment as deliver
from medd.deliver.commitment import Reporter, planner
from medd.deliver.destination import Sent
from medd.dicom import commitment
from medd.dicom.network import associate
from medd.dicom.tls import server_context
from medd.errors import InputError, TransientError
from medd.ingest import admission
from medd.ingest import association as association_module
from medd.ingest.commitment import CommitmentDesk
from medd.ingest.intake import Intake
from medd.ingest.listener import Listener
from medd.settings import ListenerSettings, PeerSettings, Settings, TlsSettings
from medd.store import commitments as commitments_module
from medd.store.commitments import ANSWER_S, Commitment, Commitments, judge
from medd.store.database import Database
from medd.store.spool import Spool
from medd.store.tables import commitment as table
from medd.store.tables import sent
from tests.certificates import Authority
from tests.integration.test_listener import exchange, films, mutate
from tests.peers import OrthancArchive
from tests.schema import empty_database
from tests.support import (
    DX,
    EXPLICIT,
    IMPLICIT,
    RawSender,
    associate_rq,
    command_set,
    free_port,
    pdata,
    uid_in,
    wait_until,
)

#: pynetdicom forgets to close the socket of a peer that is not there.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")

CT = "1.2.840.10008.5.1.4.1.1.2"
CONTEXTS = {1: (DX, (EXPLICIT,)), 3: (commitment.PUSH_MODEL, (IMPLICIT, EXPLICIT))}
N_ACTION, N_EVENT_REPORT = 0x0130, 0x0100


#: Rows that several processes claim and change: on both databases. All else is the same on either.
BOTH = pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.peers)], indirect=True
)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh database: SQLite, unless a test asks for `BOTH`."""
    if getattr(request, "param", "sqlite") == "sqlite":
        (tmp_path / "medd.db").write_bytes(empty_database())
        return f"sqlite:///{tmp_path / 'medd.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


class Site:
    """A listener, and what the deliverer calls, in this process; the modality's and the archive's address are settings.

    Args:
        home: Of it.
        database: Where its rows are.
        peers: Of its settings.
    """

    def __init__(self, home: Path, database: Database, *peers: PeerSettings, port: int = 0) -> None:
        self.database, self.spool = database, Spool(home / "spool")
        self.spool.prepare()
        self.settings = Settings(home=home, peer=peers, listener=ListenerSettings(port=port))
        self._intake = Intake(database, self.spool, plugins.load_plugins(builtin=(admission,)))
        desk = CommitmentDesk(database, self.spool, peers)
        self.listener = Listener(self.settings.listener, self._intake, desk, home)
        self.port = self.listener.port
        self.listener.start()

    def reporter(self, **destinations: PeerSettings) -> Reporter:
        return Reporter(self.database, self.spool, self.settings, destinations)

    def store(self, n: int) -> list[tuple[str, str]]:
        """Send films; what was stored, as it is referred to."""
        stored = []
        with RawSender(self.port, CONTEXTS) as sender:
            sender.associate()
            for film in films(n):
                assert sender.store(film, uid_in(film)) == (0x0000, "")
                stored.append((DX, uid_in(film)))
            sender.release()
        return stored

    def rows(self) -> list[tuple[str, str, str, str | None]]:
        """Direction, peer, state and error of each transaction."""
        c = table.c
        with self.database.read() as connection:
            columns = sa.select(c.direction, c.peer, c.state, c.error).order_by(c.id)
            return [tuple(row) for row in connection.execute(columns)]

    def ask(self, peer: PeerSettings, objects: list[tuple[str, str]]) -> None:
        """Plan and make a request to the destination "pacs"."""
        with self.database.write() as connection:
            planner(self.database, {"pacs": peer})(connection, "pacs", [Sent(uid, cls) for cls, uid in objects])
        assert self.reporter(pacs=peer).run_once() == 1

    def age(self, seconds: float) -> None:
        """Make every transaction older, and due."""
        then = datetime.now(UTC) - timedelta(seconds=seconds)
        with self.database.write() as connection:
            connection.execute(table.update().values(created_at=then, available_at=then))

    def close(self) -> None:
        self.listener.stop()
        self._intake.close()


@pytest.fixture
def site(tmp_path: Path, database: Database) -> Iterator[Callable[..., Site]]:
    started: list[Site] = []

    def start(*peers: PeerSettings, **more: int) -> Site:
        started.append(Site(tmp_path / "home", database, *peers, **more))
        return started[-1]

    yield start
    for one in started:
        one.close()


class Peer:
    """A modality, or an archive, of pynetdicom: it hears N-EVENT-REPORT and N-ACTION on a port of its own."""

    def __init__(self, ae_title: str = "ROOM1") -> None:
        self.ae_title, self.port = ae_title, free_port()
        self.reports: queue.Queue[tuple[int, Dataset]] = queue.Queue()
        self.requests: queue.Queue[Dataset] = queue.Queue()
        self.status = 0x0000
        #: What is done after a request was answered, with the association and the request.
        self.then: Callable[[Any, Dataset], None] | None = None
        self._server: Any = None

    @property
    def settings(self) -> PeerSettings:
        return PeerSettings(name="peer", host="127.0.0.1", port=self.port, ae_title=self.ae_title, timeout_s=5)

    def start(self, *, offers: str = commitment.PUSH_MODEL, context: ssl.SSLContext | None = None) -> "Peer":
        entity = AE(self.ae_title)
        entity.require_called_aet = True
        entity.add_supported_context(offers, scu_role=True, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._hear), (evt.EVT_N_ACTION, self._take)]
        where = ("127.0.0.1", self.port)
        self._server = entity.start_server(where, block=False, evt_handlers=handlers, ssl_context=context)
        return self

    def _hear(self, event: evt.Event) -> tuple[int, None]:
        self.reports.put((event.event_type, event.event_information))
        return self.status, None

    def _take(self, event: evt.Event) -> tuple[int, None]:
        self.requests.put(event.action_information)
        if self.then is not None:
            work = threading.Timer(0.2, self.then, (event.assoc, event.action_information))
            work.daemon = True
            work.start()
        return self.status, None

    def request(self, port: int, objects: list[tuple[str, str]], *, uid: str = "", stay_s: float = 0) -> int:
        """Ask for storage commitment; the status. Stay on the association for a while, as some do."""
        entity = AE(self.ae_title)
        contexts = [build_context(commitment.PUSH_MODEL)]
        handlers = [(evt.EVT_N_EVENT_REPORT, self._hear)]
        association = entity.associate("127.0.0.1", port, contexts, ae_title="MEDD", evt_handlers=handlers)
        assert association.is_established
        information = commitment.request(uid or generate_uid(), objects)
        status, _ = association.send_n_action(information, 1, commitment.PUSH_MODEL, commitment.INSTANCE)
        if stay_s:
            wait_until(lambda: not self.reports.empty(), stay_s)
            time.sleep(0.5)  # its answer to the report is to be sent before the release
        association.release()
        return int(status.Status)

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server = None


@pytest.fixture
def room() -> Iterator[Peer]:
    peer = Peer("ROOM1")
    yield peer
    peer.stop()


@pytest.fixture
def archive() -> Iterator[Peer]:
    peer = Peer("ARCHIVE")
    yield peer
    peer.stop()


def references(dataset: Dataset, keyword: str = "ReferencedSOPSequence") -> list[tuple[str, str]]:
    items = dataset.get(keyword) or ()
    return [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in items]


def failures(dataset: Dataset) -> dict[str, int]:
    return {item.ReferencedSOPInstanceUID: item.FailureReason for item in dataset.get("FailedSOPSequence") or ()}


# Asked of us: a modality whose address is known -----------------------------------------------------------------------


@BOTH
def test_a_modality_is_told_on_an_association_of_ours_that_all_is_kept(site: Callable[..., Site], room: Peer) -> None:
    here = site(room.start().settings)
    stored = here.store(3)
    uid = generate_uid()
    assert room.request(here.port, stored, uid=uid) == 0x0000
    assert here.rows() == [("offered", "ROOM1", "waiting", None)]
    assert here.reporter().run_once() == 1
    event_type, told = room.reports.get(timeout=5)
    assert (event_type, told.TransactionUID, references(told)) == (1, uid, stored)
    assert "FailedSOPSequence" not in told
    assert here.rows() == [("offered", "ROOM1", "done", None)]
    assert here.reporter().run_once() == 0


@BOTH
def test_what_is_not_kept_is_told_with_its_reason(site: Callable[..., Site], room: Peer) -> None:
    here = site(room.start().settings)
    [kept, lost, other] = here.store(3)
    with here.database.read() as connection:
        query = sa.text("SELECT sha256, media_type FROM instance WHERE sop_instance_uid = :uid")
        here.spool.path(*connection.execute(query, {"uid": lost[1]}).one()).unlink()
    assert room.request(here.port, [kept, lost, (CT, other[1]), (DX, "1.2.03.4")]) == 0x0000
    here.reporter().run_once()
    event_type, told = room.reports.get(timeout=5)
    with pydicom.config.disable_value_validation():  # of a UID with a leading zero, which we pass on as it came
        told.decode()
    assert event_type == 2
    assert references(told) == [kept]
    assert failures(told) == {lost[1]: 0x0112, other[1]: 0x0119, "1.2.03.4": 0x0112}


def test_a_modality_that_is_away_is_told_when_it_is_back(
    site: Callable[..., Site], room: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "backoff_s", lambda attempts: 0.2)
    here = site(room.settings)
    assert room.request(here.port, here.store(1)) == 0x0000
    reporter = here.reporter()
    reporter.run_once()
    [(_, _, state, error)] = here.rows()
    assert state == "waiting"
    assert "cannot be reached" in str(error)
    assert reporter.run_once() == 0, "not at once again"
    room.start()
    wait_until(reporter.run_once)
    assert room.reports.get(timeout=5)[0] == 1
    assert here.rows()[0][2] == "done"


@pytest.mark.parametrize(("status", "state"), [(0x0110, "waiting"), (0x0115, "dead")])
def test_a_report_that_the_modality_refuses_is_repeated_or_given_up(
    site: Callable[..., Site], room: Peer, status: int, state: str
) -> None:
    room.status = status
    here = site(room.start().settings)
    with_one = here.store(1)
    room.status = 0x0000
    assert room.request(here.port, with_one) == 0x0000
    room.status = status
    here.reporter().run_once()
    [(_, _, found, error)] = here.rows()
    assert found == state
    assert f"{status:#06x}" in str(error)


def test_a_modality_that_does_not_take_reports_or_stays_away_too_long_is_given_up(
    site: Callable[..., Site], room: Peer
) -> None:
    here = site(room.settings)
    room.request(here.port, here.store(1))
    here.age(73 * 3600)
    here.reporter().run_once()
    [(_, _, state, error)] = here.rows()
    assert state == "dead"
    assert "cannot be reached" in str(error)
    room.start(offers="1.2.840.10008.1.1")
    room.request(here.port, [(DX, "1.2.3")])
    here.reporter().run_once()
    assert here.rows()[1][2] == "dead"
    assert "accepts none" in str(here.rows()[1][3])


def test_requests_that_wait_for_one_modality_share_an_association(site: Callable[..., Site], room: Peer) -> None:
    here = site(room.start().settings)
    stored = here.store(4)
    for one in stored:
        assert room.request(here.port, [one]) == 0x0000
    opened = []
    room._server.bind(evt.EVT_ACCEPTED, opened.append)
    assert here.reporter().run_once() == 4
    told = [references(room.reports.get(timeout=5)[1]) for _ in stored]
    assert sorted(told) == sorted([one] for one in stored)
    assert len(opened) == 1


@BOTH
def test_two_reporters_tell_a_modality_once(site: Callable[..., Site], room: Peer) -> None:
    here = site(room.start().settings)
    stored = here.store(1)
    for _ in range(10):
        room.request(here.port, stored)
    reporters = [threading.Thread(target=here.reporter().run_once) for _ in range(4)]
    for thread in reporters:
        thread.start()
    for thread in reporters:
        thread.join()
    transactions = [room.reports.get(timeout=5)[1].TransactionUID for _ in range(10)]
    assert len(set(transactions)) == 10
    assert room.reports.empty()


@BOTH
def test_the_same_request_again_is_answered_again_and_a_stolen_transaction_is_refused(
    site: Callable[..., Site], room: Peer
) -> None:
    here = site(room.start().settings)
    stored = here.store(2)
    uid = generate_uid()
    for _ in range(2):
        assert room.request(here.port, stored, uid=uid) == 0x0000
        assert here.reporter().run_once() == 1
        assert room.reports.get(timeout=5)[1].TransactionUID == uid
    assert room.request(here.port, stored[:1], uid=uid) == 0x0115
    assert Peer("ROOM2").request(here.port, stored, uid=uid) == 0x0115
    assert len(here.rows()) == 1


def test_a_modality_is_told_under_tls_where_its_settings_say_so(
    site: Callable[..., Site], room: Peer, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, key="ec")
    authority.issue("room")
    context = server_context(TlsSettings(certificate="room.pem", key="room.key"), tmp_path)
    trusted, distrusted = TlsSettings(ca=str(authority.certificate)), TlsSettings()
    for tls, state in ((distrusted, "waiting"), (trusted, "done")):
        here = site(room.settings.model_copy(update={"tls": tls, "host": "localhost"}))
        if tls is distrusted:
            room.start(context=context)
            room.request(here.port, here.store(1))
        else:
            here.age(0)
        here.reporter().run_once()
        assert here.rows()[0][2] == state


def end_association_after_the_report(room: Peer) -> None:
    def end(event: evt.Event) -> tuple[int, None]:
        threading.Timer(0.1, event.assoc.abort).start()
        return 0x0000, None

    room._hear = end  # type: ignore[method-assign]


def test_a_modality_that_ends_its_association_after_each_report_is_told_of_all_and_so_are_others(
    site: Callable[..., Site], room: Peer, archive: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "backoff_s", lambda attempts: 0.1)
    end_association_after_the_report(room)
    here = site(room.start().settings, archive.start().settings)
    stored = here.store(1)
    for peer in (room, room, room, archive):
        assert peer.request(here.port, stored) == 0x0000
    judged = judge

    def slow(*arguments: Any) -> commitment.Outcome:
        time.sleep(0.5)  # so that the association is over before the next report
        return judged(*arguments)

    monkeypatch.setattr(deliver, "judge", slow)
    reporter = here.reporter()
    wait_until(lambda: reporter.run_once() == 0 and {row[2] for row in here.rows()} == {"done"})
    assert archive.reports.get(timeout=5)[0] == 1


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
@pytest.mark.parametrize("lost", [True, False])
def test_what_pynetdicom_raises_is_on_record(
    site: Callable[..., Site], room: Peer, monkeypatch: pytest.MonkeyPatch, error: type[Exception], lost: bool
) -> None:
    def fail(association: Association, *_: object) -> None:
        if lost:
            association.abort()
        raise error

    monkeypatch.setattr(Association, "send_n_event_report", fail)
    here = site(room.start().settings)
    assert room.request(here.port, [(DX, "1.2.3")]) == 0x0000
    assert here.reporter().run_once() == 1
    [(_, _, state, why)] = here.rows()
    assert (state, "association was lost" in str(why)) == (("waiting", True) if lost else ("dead", False))


def test_a_peer_that_brings_out_a_bug_does_not_starve_the_others(
    site: Callable[..., Site], room: Peer, archive: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = site(room.start().settings, archive.start().settings)
    assert room.request(here.port, [(DX, "1.2.3")]) == 0x0000
    assert archive.request(here.port, [(DX, "1.2.3")]) == 0x0000

    def fail(peer: PeerSettings, *arguments: Any, **more: Any) -> Any:
        if peer.ae_title == "ROOM1":
            raise KeyError(peer.name)
        return associate(peer, *arguments, **more)

    monkeypatch.setattr(deliver, "associate", fail)
    assert here.reporter().run_once() == 2
    assert here.rows() == [
        ("offered", "ROOM1", "waiting", "unexpected. Received: KeyError"),
        ("offered", "ARCHIVE", "done", None),
    ]


@BOTH
def test_a_claim_is_of_one_peer_and_one_that_another_has_meanwhile_is_not_told_twice(
    site: Callable[..., Site], room: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = site(room.start().settings)
    commitments = Commitments(here.database)
    for uid, peer in (("1.2.1", "ROOM1"), ("1.2.2", "ROOM2"), ("1.2.3", "ROOM1")):
        commitments.offer(uid, peer, OBJECTS)
    with monkeypatch.context() as patch:
        patch.setattr(commitments_module, "CLAIM_S", 0.0)
        assert [row.transaction_uid for row in commitments.claim(10)] == ["1.2.1", "1.2.3"]
    again: list[Commitment] = []

    def overtake(limit: int) -> list[Commitment]:
        if not again:
            with monkeypatch.context() as patch:
                patch.setattr(commitments_module, "CLAIM_S", 0.0)
                [lost, kept] = Commitments(here.database).claim(limit)
            again.extend(Commitments(here.database).claim(1))  # ran out, and another has it
            return [lost, kept]
        return []

    [other] = commitments.claim(10)
    assert other.transaction_uid == "1.2.2"
    reporter = here.reporter()
    monkeypatch.setattr(reporter._commitments, "claim", overtake)
    reporter.run_once()
    assert [row.transaction_uid for row in again] == ["1.2.1"]
    assert room.reports.get(timeout=5)[1].TransactionUID == "1.2.3"
    assert room.reports.empty()


# Asked of us: a modality without an address ---------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 600], ids=["one object", "a report of many fragments"])
def test_a_modality_that_no_setting_knows_is_told_on_its_own_association(
    site: Callable[..., Site], room: Peer, n: int
) -> None:
    here = site()
    stored = here.store(1)
    asked = [*stored, *((DX, f"1.2.3.{number}") for number in range(1, n))]
    assert room.request(here.port, asked, stay_s=5) == 0x0000
    event_type, told = room.reports.get_nowait()
    assert event_type == (1 if n == 1 else 2)
    assert references(told) == stored
    assert len(failures(told)) == n - 1
    wait_until(lambda: here.rows() == [("offered", "ROOM1", "done", None)])


def test_a_modality_that_no_setting_knows_and_that_hangs_up_at_once_is_given_up_with_the_reason(
    site: Callable[..., Site],
) -> None:
    here = site()
    dataset = commitment.encode(commitment.request("1.2.3", [(DX, "1.2.4")]), IMPLICIT)
    with RawSender(here.port, CONTEXTS) as sender:
        sender.associate()
        sender.send(action(dataset))
        assert status_of(sender.receive_response()) == 0x0000
    assert here.reporter().run_once() == 0, "the answer may still come on the association"
    here.age(61)
    here.reporter().run_once()
    assert here.rows() == [
        ("offered", "RAW", "dead", "told on its own association, and not answered; no [[peer]] has AE title RAW")
    ]


def hear_report(sender: RawSender) -> tuple[int, Dataset]:
    """The message id and the dataset of an N-EVENT-REPORT-RQ, which comes in one fragment for each of its parts."""
    command = sender.receive_response()
    kind, body = sender.receive_pdu()
    assert kind == 4
    return int.from_bytes(command[0x0110], "little"), commitment.decode(body[6:], IMPLICIT)


def answer_report(sender: RawSender, message_id: int, status: int = 0) -> None:
    def element(number: int, value: bytes) -> bytes:
        return struct.pack("<HHI", 0, number, len(value)) + value

    numbers = {0x0100: N_EVENT_REPORT | 0x8000, 0x0120: message_id, 0x0800: 0x0101, 0x0900: status}
    group = b"".join(element(number, struct.pack("<H", value)) for number, value in numbers.items())
    sender.send(pdata((3, 3, element(0, struct.pack("<I", len(group))) + group)))


def request_of(uid: str) -> bytes:
    return action(commitment.encode(commitment.request(uid, [(DX, "1.2.4")]), IMPLICIT))


def test_answers_to_reports_in_any_order_count_for_the_transaction_they_belong_to(site: Callable[..., Site]) -> None:
    here = site()
    ids = []
    with RawSender(here.port, CONTEXTS) as sender:
        sender.associate()
        for number in (1, 2, 3):
            sender.send(request_of(f"1.2.{number}"))
            assert status_of(sender.receive_response()) == 0x0000
            message_id, told = hear_report(sender)
            assert told.TransactionUID == f"1.2.{number}"
            ids.append(message_id)
            if number == 2:
                answer_report(sender, ids[0])
                wait_until(lambda: here.rows()[0][2] == "done")
        answer_report(sender, ids[1], 0x0110)
        answer_report(sender, ids[2])
        wait_until(lambda: "waiting" not in [row[2] for row in here.rows()])
    assert [row[2] for row in here.rows()] == ["done", "dead", "done"]


def test_a_peer_that_answers_no_report_is_told_a_number_of_them_and_no_more(
    site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(association_module, "_MAX_OPEN_REPORTS", 3)
    with RawSender(site().port, CONTEXTS) as sender:
        sender.associate()
        for number in (1, 2, 3):
            sender.send(request_of(f"1.2.{number}"))
            assert status_of(sender.receive_response()) == 0x0000
            last, _ = hear_report(sender)
        sender.send(request_of("1.2.4"))
        assert status_of(sender.receive_response()) == 0x0213
        answer_report(sender, last)
        sender.send(request_of("1.2.5"))
        assert status_of(sender.receive_response()) == 0x0000


@pytest.mark.parametrize(("max_length", "status"), [(1, 0x0213), (8, 0x0213), (1023, 0x0213), (1024, 0), (0, 0)])
def test_a_peer_that_takes_no_pdu_worth_the_name_is_not_told(
    site: Callable[..., Site], max_length: int, status: int
) -> None:
    here = site()
    with RawSender(here.port, CONTEXTS) as sender:
        announced = struct.pack(">BxHI", 0x51, 4, 16384)
        proposal = associate_rq(CONTEXTS)
        assert announced in proposal
        sender.send(proposal.replace(announced, struct.pack(">BxHI", 0x51, 4, max_length)))
        assert sender.receive_pdu()[0] == 2
        sender.send(action(SOUND))
        assert status_of(sender.receive_response()) == status
    assert len(here.rows()) == (status == 0)


def test_a_peer_has_so_many_transactions_that_wait_and_no_more(
    site: Callable[..., Site], room: Peer, archive: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitments_module, "MAX_OPEN", 2)
    here = site(room.start().settings, archive.settings)
    uids = [generate_uid() for _ in range(3)]
    assert [room.request(here.port, OBJECTS, uid=uid) for uid in uids] == [0x0000, 0x0000, 0x0213]
    assert room.request(here.port, OBJECTS, uid=uids[0]) == 0x0000, "one that is known takes no room"
    assert archive.request(here.port, OBJECTS) == 0x0000, "nor do those of others"
    here.reporter().run_once()
    assert room.request(here.port, OBJECTS, uid=uids[2]) == 0x0000


def test_a_request_that_is_repeated_is_tried_for_as_long_as_a_new_one(site: Callable[..., Site], room: Peer) -> None:
    here = site(room.settings)
    uid = generate_uid()
    assert room.request(here.port, OBJECTS, uid=uid) == 0x0000
    here.age(73 * 3600)
    assert room.request(here.port, OBJECTS, uid=uid) == 0x0000
    assert here.reporter().run_once() == 1
    assert here.rows()[0][2] == "waiting"


def test_a_disk_that_fails_is_not_taken_for_an_object_that_is_lost(
    site: Callable[..., Site], room: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "backoff_s", lambda attempts: 0.0)
    here = site(room.start().settings)
    stored = here.store(1)
    assert room.request(here.port, stored) == 0x0000
    reporter = here.reporter()
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "path", lambda *_: Path("/dev/null/no-folder"))
        reporter.run_once()
        assert here.rows() == [("offered", "ROOM1", "waiting", "spool: Not a directory")]
        assert Peer("UNKNOWN").request(here.port, stored) == 0x0110
    (here.spool.root / "spool-id").rename(here.spool.root / "away")
    reporter.run_once()
    assert here.rows() == [("offered", "ROOM1", "waiting", "spool: No such file or directory")]
    (here.spool.root / "away").rename(here.spool.root / "spool-id")
    reporter.run_once()
    assert room.reports.get(timeout=5)[0] == 1
    assert here.rows() == [("offered", "ROOM1", "done", None)]


def test_an_image_without_a_job_may_lie_with_another_host(site: Callable[..., Site]) -> None:
    here = site()
    [refused, other] = here.store(2)
    with here.database.write() as connection:
        of_it = "instance_id = (SELECT id FROM instance WHERE sop_instance_uid = :uid)"
        connection.execute(sa.text(f"DELETE FROM job WHERE {of_it}"), {"uid": refused[1]})
    assert judge(here.database, here.spool, "1.2", [refused]).committed == (refused,)
    for path in here.spool.root.glob("??/*.dcm"):
        path.unlink()
    assert judge(here.database, here.spool, "1.2", [refused]).failed == ((refused, 0x0112),)
    with here.database.write() as connection:
        connection.execute(sa.text("UPDATE job SET spool = 'another'"))
    with pytest.raises(TransientError, match="another host"):
        judge(here.database, here.spool, "1.2", [refused])
    assert judge(here.database, here.spool, "1.2", [other]).committed == (other,)


# Asked of us: what is no request --------------------------------------------------------------------------------------


def action(
    dataset: bytes,
    *,
    sop_class: str = commitment.PUSH_MODEL,
    uid: str = commitment.INSTANCE,
    type_id: int = 1,
    context_id: int = 3,
) -> bytes:
    """An N-ACTION-RQ (PS3.7 section 10.3.5.1) in one P-DATA-TF for each of its two parts."""

    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return b"\0\0" + number.to_bytes(2, "little") + len(value).to_bytes(4, "little") + value

    has_dataset = 0x0001 if dataset else 0x0101
    numbers = {0x0100: N_ACTION, 0x0110: 7, 0x0800: has_dataset, 0x1008: type_id}
    values = {number: value.to_bytes(2, "little") for number, value in numbers.items()}
    values |= {0x0003: sop_class.encode(), 0x1001: uid.encode()}
    group = b"".join(element(number, values[number]) for number in sorted(values))
    command = element(0, len(group).to_bytes(4, "little")) + group
    return pdata((context_id, 3, command)) + (pdata((context_id, 2, dataset)) if dataset else b"")


def status_of(response: dict[int, bytes]) -> int:
    return int.from_bytes(response[0x0900], "little")


SOUND = commitment.encode(commitment.request("1.2.3", [(DX, "1.2.4")]), IMPLICIT)
WITHOUT_OBJECTS = commitment.encode(commitment.request("1.2.3", []), IMPLICIT)
NO_UID = SOUND.replace(b"1.2.4\0", b"1/2/4\0")
TRANSACTION = b"\x08\x00\x95\x11UI\x06\x001.2.3\0"
#: Referenced SOP Sequence (0008,1199) as a number, in Explicit VR.
NO_SEQUENCE = TRANSACTION + b"\x08\x00\x99\x11US\x02\x00\x01\x00"
TWO_UIDS = SOUND.replace(b"1.2.3\0", b"1\\2\\3\0")
FULL_OF_ITEMS = SOUND[:14] + b"\x08\x00\x99\x11" + struct.pack("<I", 80_008) + b"\xfe\xff\x00\xe0\0\0\0\0" * 10_001


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (action(SOUND, sop_class="1.2.840.10008.1.1"), 0x0118),
        (action(SOUND, uid="1.2.3"), 0x0112),
        (action(SOUND, type_id=2), 0x0123),
        (action(b""), 0x0115),
        (action(SOUND[:30]), 0x0115),
        (action(b"no dataset at all"), 0x0115),
        (action(bytes(9 << 20)), 0x0115),
        (action(WITHOUT_OBJECTS), 0x0115),
        (action(NO_UID), 0x0115),
        (action(bytes((1 << 20) + 2)), 0x0115),
        (action(TWO_UIDS), 0x0115),
        (action(NO_SEQUENCE, context_id=5), 0x0115),
        (action(FULL_OF_ITEMS), 0x0115),
    ],
    ids=[
        "class",
        "instance",
        "action",
        "nothing",
        "cut",
        "text",
        "too large",
        "no objects",
        "no UID",
        "a bit too large",
        "two UIDs",
        "no sequence",
        "items",
    ],
)
def test_what_is_no_request_is_refused_and_the_association_goes_on(
    site: Callable[..., Site], message: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    here = site()
    with RawSender(here.port, CONTEXTS | {5: (commitment.PUSH_MODEL, (EXPLICIT,))}) as sender:
        sender.associate()
        sender.send(message)
        response = sender.receive_response()
        assert int.from_bytes(response[0x0100], "little") == N_ACTION | 0x8000
        assert int.from_bytes(response[0x0120], "little") == 7
        assert status_of(response) == status
        assert here.rows() == []
        [event] = [record.event for record in caplog.records if "refused" in record.msg]  # type: ignore[attr-defined]
        assert event == "commitment.refused"
        sender.send(action(SOUND))
        assert status_of(sender.receive_response()) == 0x0000
    assert len(here.rows()) == 1


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize("undefined", [False, True], ids=["lengths", "delimiters"])
def test_what_else_stands_in_a_request_is_passed_over(syntax: str, undefined: bool) -> None:
    def sequence(*items: Dataset) -> DataElement:
        element = DataElement(0x00081140, "SQ", items)
        element.is_undefined_length = undefined
        for item in element.value:
            item.is_undefined_length_sequence_item = undefined
        return element

    dataset = commitment.request("1.2.3", [*OBJECTS, (DX, "1.2.03")])
    inner = Dataset()
    inner.add(DataElement(0x00081199, "SQ", [commitment.request("1.2", OBJECTS)]))
    for one in (dataset, *dataset.ReferencedSOPSequence):
        one.RetrieveAETitle = ["ONE", "TWO"]
        one.StorageMediaFileSetUID = "1.2.3"
        one.add(DataElement(0x00091010, "OB", bytes(70_000)))
        one.add(sequence(inner, Dataset(), inner))
    dataset["ReferencedSOPSequence"].is_undefined_length = undefined
    for item in dataset.ReferencedSOPSequence:
        item.is_undefined_length_sequence_item = undefined
    data = commitment.encode(dataset, syntax)
    assert (b"\xfe\xff\xdd\xe0" in data) is undefined
    assert commitment.read_request(commitment.decode(data, syntax)) == ("1.2.3", [*OBJECTS, (DX, "1.2.03")])


def test_a_megabyte_of_empty_elements_costs_no_time() -> None:
    flood = b"".join(struct.pack("<HHI", 0x0008, number & 0x3FFF, 0) for number in range(130_000))
    item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(flood)) + flood
    for data in (flood, b"\x08\x00\x99\x11" + struct.pack("<I", len(item)) + item):
        began = time.thread_time()
        with pytest.raises(InputError):
            commitment.read_request(commitment.decode(data, IMPLICIT))
        assert time.thread_time() - began < 2


def test_mutated_datasets_are_read_or_unreadable() -> None:
    for syntax in (IMPLICIT, EXPLICIT):
        outcome = commitment.Outcome("1.2.3", tuple(OBJECTS), ((OBJECTS[0], 0x0112),))
        for seed in range(500):
            data = mutate(commitment.encode(commitment.report(outcome), syntax), random.Random(seed))
            for read in (commitment.read_request, commitment.read_report):
                with suppress(InputError):
                    read(commitment.decode(data, syntax))


def test_a_request_is_on_record_before_it_is_answered_or_fails(
    site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = site()

    def fail(*_: object, **__: object) -> None:
        raise TransientError("database: away")

    monkeypatch.setattr(Commitments, "offer", fail)
    with RawSender(here.port, CONTEXTS) as sender:
        sender.associate()
        sender.send(action(SOUND))
        assert status_of(sender.receive_response()) == 0x0110


def test_a_hundred_mutated_requests_are_no_bug_of_ours(
    site: Callable[..., Site], caplog: pytest.LogCaptureFixture
) -> None:
    here = site()
    stream = associate_rq(CONTEXTS) + action(SOUND)
    for seed in range(100):
        exchange(here.port, mutate(stream, random.Random(seed)))
    with RawSender(here.port, CONTEXTS) as sender:
        sender.associate()
        sender.send(action(SOUND.replace(b"1.2.3", b"1.2.9")))
        assert status_of(sender.receive_response()) == 0x0000
    assert not [record for record in caplog.records if record.exc_info]


def test_a_response_that_nobody_asked_for_ends_the_association(site: Callable[..., Site]) -> None:
    with RawSender(site().port, CONTEXTS) as sender:
        sender.associate()
        response = command_set(N_EVENT_REPORT | 0x8000, 1, commitment.PUSH_MODEL)
        sender.send(pdata((3, 3, response.replace(b"\x10\x01\x02", b"\x20\x01\x02"))))
        assert sender.receive_pdu()[0] == 7


def test_an_instance_in_the_spool_of_another_host_counts_as_kept(site: Callable[..., Site]) -> None:
    here = site()
    [one] = here.store(1)
    with here.database.write() as connection:
        connection.execute(sa.text("UPDATE job SET spool = 'another'"))
    for path in here.spool.root.glob("??/*.dcm"):
        path.unlink()
    assert judge(here.database, here.spool, "1.2", [one]).committed == (one,)


def test_a_listener_without_a_desk_does_not_accept_the_context(tmp_path: Path, database: Database) -> None:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    intake = Intake(database, spool, plugins.load_plugins(builtin=(admission,)))
    listener = Listener(ListenerSettings(port=0), intake)
    listener.start()
    try:
        with RawSender(listener.port, CONTEXTS) as sender:
            answers = sender.associate()
        assert (answers[1][0], answers[3][0]) == (0, 3)
    finally:
        listener.stop()
        intake.close()


# Asked by us ----------------------------------------------------------------------------------------------------------


def sent_rows(database: Database, objects: list[tuple[str, str]], destination: str = "pacs") -> None:
    with database.write() as connection:
        for sop_class_uid, uid in objects:
            row = {
                "destination": destination,
                "object": uid,
                "sop_class_uid": sop_class_uid,
                "study": "1.2",
                "number": 1,
            }
            connection.execute(sent.insert().values(**row, at=datetime.now(UTC), answer="0x0000"))


def committed(database: Database) -> dict[str, bool | None]:
    with database.read() as connection:
        return {row.object: row.committed for row in connection.execute(sa.select(sent.c.object, sent.c.committed))}


OBJECTS = [(DX, "1.2.3.1"), (DX, "1.2.3.2"), (CT, "1.2.3.3")]


def answer_on(association: Any, outcome: commitment.Outcome) -> int:
    information = commitment.report(outcome)
    status, _ = association.send_n_event_report(
        information, outcome.event_type, commitment.PUSH_MODEL, commitment.INSTANCE
    )
    return int(status.Status)


def answer_by_calling(port: int, outcome: commitment.Outcome, *, negotiates: bool = True) -> int:
    """An archive's report on an association of its own, in which it is SCP though it calls."""
    entity = AE("ARCHIVE")
    roles = [build_role(commitment.PUSH_MODEL, scp_role=True)] if negotiates else []
    contexts = [build_context(commitment.PUSH_MODEL)]
    association = entity.associate("127.0.0.1", port, contexts, ae_title="MEDD", ext_neg=roles)
    assert association.is_established
    [context] = association.accepted_contexts
    assert context.as_scp is negotiates
    status = answer_on(association, outcome)
    association.release()
    return status


def test_an_archive_that_answers_at_once_is_believed_at_once(
    site: Callable[..., Site], archive: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = site()
    sent_rows(here.database, OBJECTS)
    statuses = []

    def answer(association: Any, request: Dataset) -> None:
        outcome = commitment.Outcome(request.TransactionUID, tuple(references(request)))
        statuses.append(answer_on(association, outcome))

    archive.then = answer
    monkeypatch.setattr(deliver, "WAIT_S", 20)
    began = time.monotonic()
    here.ask(archive.start().settings, OBJECTS)
    assert time.monotonic() - began < 10, "it does not wait longer than for the answer"
    assert references(archive.requests.get_nowait()) == OBJECTS
    assert committed(here.database) == dict.fromkeys(("1.2.3.1", "1.2.3.2", "1.2.3.3"), True)
    assert here.rows() == [("asked", "pacs", "done", None)]
    wait_until(lambda: statuses == [0x0000])


@BOTH
@pytest.mark.parametrize("negotiates", [True, False], ids=["with roles", "without roles"])
def test_an_archive_that_answers_later_is_heard_by_the_listener(
    site: Callable[..., Site],
    archive: Peer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    negotiates: bool,
) -> None:
    here = site()
    sent_rows(here.database, OBJECTS)
    sent_rows(here.database, [(DX, "1.2.3.1")], "another")
    monkeypatch.setattr(deliver, "WAIT_S", 0.1)
    here.ask(archive.start().settings, OBJECTS)
    assert here.rows() == [("asked", "pacs", "waiting", None)]
    uid = archive.requests.get_nowait().TransactionUID
    outcome = commitment.Outcome(uid, (OBJECTS[0],), ((OBJECTS[1], 0x0112),))
    assert answer_by_calling(here.port, outcome, negotiates=negotiates) == 0x0000
    with here.database.read() as connection:
        columns = sa.select(sent.c.destination, sent.c.object, sent.c.committed)
        found = {(one.destination, one.object): one.committed for one in connection.execute(columns)}
    assert found == {
        ("pacs", "1.2.3.1"): True,
        ("pacs", "1.2.3.2"): False,
        ("pacs", "1.2.3.3"): False,  # not mentioned, so not promised
        ("another", "1.2.3.1"): None,
    }
    [(_, _, state, error)] = here.rows()
    assert state == "done"
    assert error == "2 of 3 objects are not kept: 1.2.3.2 (0x0112), 1.2.3.3 (not mentioned)"
    assert error in caplog.messages


@pytest.mark.parametrize(
    ("committed_", "failed"),
    [
        ([(DX, "1.2.3.1")], [((DX, "1.2.3.1"), 0x0110)]),
        ([(CT, "1.2.3.1")], []),
        ([(CT, "1.2.3.1")], [((DX, "1.2.3.1"), 0x0119)]),
    ],
    ids=["both", "another class", "both, of two classes"],
)
def test_what_an_archive_does_not_clearly_keep_is_not_kept(
    site: Callable[..., Site], committed_: list[tuple[str, str]], failed: list[Any]
) -> None:
    here = site()
    sent_rows(here.database, OBJECTS[:1])
    commitments = Commitments(here.database)
    with here.database.write() as connection:
        commitments.plan(connection, "pacs", OBJECTS[:1])
    [row] = commitments.claim(1)
    assert commitments.settle(commitment.Outcome(row.transaction_uid, tuple(committed_), tuple(failed)))
    assert committed(here.database) == {"1.2.3.1": False}
    assert "1 of 1 objects are not kept" in str(here.rows()[0][3])


def report_with(reason: DataElement | None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = DX, "1.2.3.1"
    if reason is not None:
        item.add(reason)
    dataset = Dataset()
    dataset.TransactionUID, dataset.FailedSOPSequence = "1.2.3", [item]
    return dataset


@pytest.mark.parametrize(("vr", "value"), [("LO", "no such object"), ("US", [1, 2]), ("LO", "274"), ("DS", "1.5")])
def test_a_reason_that_is_no_number_makes_a_report_unreadable(vr: str, value: Any) -> None:
    dataset = report_with(DataElement(0x00081197, vr, value))
    stream = commitment.encode(dataset, EXPLICIT)
    with pytest.raises(InputError, match="no number"):
        commitment.read_report(commitment.decode(stream, EXPLICIT))


def test_a_report_may_leave_out_the_reason() -> None:
    assert commitment.read_report(report_with(None)).failed == (((DX, "1.2.3.1"), 0),)


def test_an_answer_to_nothing_that_we_asked_is_refused(site: Callable[..., Site]) -> None:
    here = site()
    assert answer_by_calling(here.port, commitment.Outcome("1.2.3.4", (OBJECTS[0],))) == 0x0115
    assert here.rows() == []


def test_an_archive_that_does_not_offer_it_is_on_record_as_such(
    site: Callable[..., Site], archive: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    here = site()
    sent_rows(here.database, OBJECTS)
    here.ask(archive.start(offers="1.2.840.10008.1.1").settings, OBJECTS)
    [(_, _, state, error)] = here.rows()
    assert state == "dead"
    assert "accepts none" in str(error)
    assert any("accepts none" in line for line in caplog.messages)
    assert set(committed(here.database).values()) == {None}


def test_an_archive_that_is_away_is_asked_again_under_the_same_transaction(
    site: Callable[..., Site], archive: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "backoff_s", lambda attempts: 0.2)
    monkeypatch.setattr(deliver, "WAIT_S", 0.1)
    here = site()
    here.ask(archive.settings, OBJECTS)
    assert here.rows()[0][2] == "waiting"
    archive.start()
    reporter = here.reporter(pacs=archive.settings)
    wait_until(reporter.run_once)
    assert references(archive.requests.get(timeout=5)) == OBJECTS
    assert here.rows() == [("asked", "pacs", "waiting", None)]
    assert reporter.run_once() == 0


def test_transactions_for_one_archive_share_an_association_and_the_wait(
    site: Callable[..., Site], archive: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "WAIT_S", 1.0)
    here = site()
    sent_rows(here.database, OBJECTS)
    archive.start()
    plan = planner(here.database, {"pacs": archive.settings})
    for number, (sop_class_uid, uid) in enumerate(OBJECTS * 3):
        with here.database.write() as connection:
            plan(connection, "pacs", [Sent(uid, sop_class_uid), Sent(f"{number}.json")])
            plan(connection, "elsewhere", [Sent(uid, sop_class_uid)])
    opened = []
    archive._server.bind(evt.EVT_ACCEPTED, opened.append)
    began = time.monotonic()
    assert here.reporter(pacs=archive.settings).run_once() == 9
    assert time.monotonic() - began < 5
    assert len(opened) == 1
    asked = [references(archive.requests.get(timeout=5)) for _ in range(9)]
    assert sorted(asked) == sorted([one] for one in OBJECTS * 3)
    assert here.rows() == [("asked", "pacs", "waiting", None)] * 9


def test_an_archive_that_refuses_one_transaction_may_take_the_next(site: Callable[..., Site], archive: Peer) -> None:
    here = site()
    archive.status = 0x0115
    plan = planner(here.database, {"pacs": archive.start().settings})
    with here.database.write() as connection:
        for sop_class_uid, uid in OBJECTS:
            plan(connection, "pacs", [Sent(uid, sop_class_uid)])
    began = time.monotonic()
    here.reporter(pacs=archive.settings).run_once()
    assert time.monotonic() - began < deliver.WAIT_S, "there is nothing to wait for"
    assert archive.requests.qsize() == 3
    assert [(state, "0x0115" in str(error)) for _, _, state, error in here.rows()] == [("dead", True)] * 3


@BOTH
def test_an_archive_that_never_answers_is_given_up_after_a_day_and_believed_even_then(
    site: Callable[..., Site], archive: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = site()
    sent_rows(here.database, OBJECTS)
    monkeypatch.setattr(deliver, "WAIT_S", 0.1)
    here.ask(archive.start().settings, OBJECTS)
    here.age(ANSWER_S + 1)
    here.reporter().run_once()
    assert here.rows() == [("asked", "pacs", "dead", "no answer within a day")]
    uid = archive.requests.get_nowait().TransactionUID
    assert answer_by_calling(here.port, commitment.Outcome(uid, tuple(OBJECTS))) == 0x0000
    assert set(committed(here.database).values()) == {True}
    assert here.rows() == [("asked", "pacs", "done", None)]


@BOTH
def test_a_claim_that_dies_with_its_process_comes_back(
    site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitments_module, "CLAIM_S", 0.3)
    commitments = Commitments(site().database)
    commitments.offer("1.2.3", "ROOM1", OBJECTS)
    [first] = commitments.claim(10)
    assert commitments.claim(10) == []
    [second] = wait_until(lambda: commitments.claim(10))
    assert (first.id, first.attempts, second.attempts) == (second.id, 1, 2)
    assert second.objects == tuple(OBJECTS)


# Orthanc --------------------------------------------------------------------------------------------------------------


@pytest.mark.peers
def test_orthanc_asks_us_and_is_told(tmp_path: Path, site: Callable[..., Site]) -> None:
    port = free_port()
    orthanc = OrthancArchive(tmp_path / "orthanc", {"MEDD": port}).start()
    try:
        dicom_port = orthanc.get("/system")["DicomPort"]
        there = PeerSettings(name="orthanc", host="127.0.0.1", port=dicom_port, ae_title="ORTHANC", timeout_s=10)
        here = site(there, port=port)
        stored = here.store(2)
        body = {"DicomInstances": [list(one) for one in [*stored, (DX, "1.2.3.4")]]}
        asked = orthanc.post("/modalities/medd/storage-commitment", json.dumps(body).encode())
        assert orthanc.get(asked["Path"])["Status"] == "Pending"
        assert here.reporter().run_once() == 1
        told = orthanc.get(asked["Path"])
        assert told["Status"] == "Failure"
        assert {one["SOPInstanceUID"] for one in told["Success"]} == {uid for _, uid in stored}
        [failure] = told["Failures"]
        assert failure["SOPInstanceUID"] == "1.2.3.4"
        assert "was not available" in failure["Description"]  # its words for 0x0112
        assert here.rows() == [("offered", "ORTHANC", "done", None)]
        body = {"DicomInstances": [list(one) for one in stored]}
        asked = orthanc.post("/modalities/medd/storage-commitment", json.dumps(body).encode())
        here.reporter().run_once()
        assert orthanc.get(asked["Path"])["Status"] == "Success"
    finally:
        orthanc.stop()


@pytest.mark.peers
def test_orthanc_is_asked_and_tells_our_listener(tmp_path: Path, site: Callable[..., Site]) -> None:
    from medd.testing import cheap_series

    port = free_port()
    orthanc = OrthancArchive(tmp_path / "orthanc", {"MEDD": port}).start()
    try:
        here = site(port=port)
        objects = []
        for film in cheap_series(2, rows=32, columns=32):
            orthanc.post("/instances", film)
            objects.append((DX, uid_in(film)))
        objects.append((DX, "1.2.3.4"))
        sent_rows(here.database, objects)
        dicom_port = orthanc.get("/system")["DicomPort"]
        there = PeerSettings(name="orthanc", host="127.0.0.1", port=dicom_port, ae_title="ORTHANC", timeout_s=10)
        here.ask(there, objects)
        wait_until(lambda: here.rows()[0][2] == "done", what="Orthanc's report")
        assert committed(here.database) == {objects[0][1]: True, objects[1][1]: True, "1.2.3.4": False}
        assert "1.2.3.4 (0x0112)" in str(here.rows()[0][3])
    finally:
        orthanc.stop()
