"""STOW-RS in (PS3.18 section 10.5): real senders, broken ones, and what is left when the server is killed."""

import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import httpx
import pydicom
import pytest
import sqlalchemy as sa
from dicomweb_client.web import DICOMwebClient
from pydicom import Dataset

from medd import pipeline
from medd.imaging import pixels
from medd.records import UserRole
from medd.settings import ListenerSettings
from medd.store import users
from medd.store.audit import EventFilter, find_events
from medd.store.tables import instance, job
from medd.testing import bad_inputs, cheap_series, dicom_radiograph
from medd_web import bodies
from tests.peers import OrthancArchive
from tests.support import DX, Daemon, PostgresServer, RawSender, free_port, running, wait_until
from tests.web import Web, running_web, web_settings

RELATED = 'multipart/related; type="application/dicom"; boundary=XX'
CANNOT_UNDERSTAND, OTHER, OUT_OF_RESOURCES = 0xC000, 0xA900, 0xA700


def multipart(
    *contents: bytes, header: bytes = b"Content-Type: application/dicom\r\n", end: bytes = b"--XX--\r\n"
) -> bytes:
    return b"".join(b"--XX\r\n" + header + b"\r\n" + one + b"\r\n" for one in contents) + end


def part10(dataset: Dataset) -> bytes:
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def film(seed: int, **attributes: Any) -> Dataset:
    return dicom_radiograph(seed, **{"size": (96, 80)} | attributes)


def rows(web: Web) -> list[Any]:
    with web.database.read() as connection:
        return list(connection.execute(sa.select(instance).order_by(instance.c.id)))


def store(web: Web, content: bytes, study: str = "", **headers: str) -> httpx.Response:
    headers = {"Content-Type": RELATED} | {name.replace("_", "-"): value for name, value in headers.items()}
    return web.client.post(f"/dicom-web/studies{f'/{study}' if study else ''}", content=content, headers=headers)


def told(answer: httpx.Response) -> dict[str, list[tuple[str, int]]]:
    """What an answer tells of: keyword of the sequence → UID and reason of its items."""
    assert answer.headers["content-type"] == "application/dicom+json", answer.text
    dataset = Dataset.from_json(answer.json())
    names = ("ReferencedSOPSequence", "FailedSOPSequence", "OtherFailuresSequence")
    return {
        name: [(item.get("ReferencedSOPInstanceUID", ""), item.get("FailureReason", 0)) for item in dataset.get(name)]
        for name in names
        if name in dataset
    }


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with running_web(web_settings(tmp_path / "home")) as web:
        yield web


# Real senders


def test_dicomweb_client_stores_and_stores_again(web):
    films = [film(seed) for seed in (1, 2, 3)]
    client = DICOMwebClient(f"{web.url}dicom-web")
    answer = client.store_instances(films)
    assert [item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence] == [f.SOPInstanceUID for f in films]
    assert [item.ReferencedSOPClassUID for item in answer.ReferencedSOPSequence] == [DX] * 3
    assert "FailedSOPSequence" not in answer
    found = rows(web)
    assert [row.sop_instance_uid for row in found] == [str(f.SOPInstanceUID) for f in films]
    assert {row.origin for row in found} == {"dicomweb://local@127.0.0.1"}
    for row in found:
        path = web.context.spool.path(row.sha256, row.media_type)
        assert str(pydicom.dcmread(path, force=True).SOPInstanceUID) == row.sop_instance_uid  # it sends no preamble
        assert pixels.load(path).shape == (96, 80)
    assert client.store_instances(films, str(films[0].StudyInstanceUID)) is not None
    assert len(rows(web)) == 3, "the same bytes again are the same instances"
    with web.database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(job)) == 3
        events = [row["study"] for row in find_events(connection, EventFilter(action="images_received"))]
    assert set(events) == {str(f.StudyInstanceUID) for f in films}


def test_large_bodies_in_chunks_without_a_length(web):
    client = DICOMwebClient(f"{web.url}dicom-web", chunk_size=10_000)
    client.store_instances([film(4, size=700)])
    assert rows(web)[0].size > 700 * 700


@pytest.mark.peers
def test_orthanc_sends_a_study_of_every_encoding(tmp_path, web):
    films = [
        film(1),
        film(1, transfer_syntax=pydicom.uid.JPEG2000Lossless, bits=16, SOPInstanceUID="1.2.3.4.1"),
        film(1, transfer_syntax=pydicom.uid.RLELossless, SOPInstanceUID="1.2.3.4.2"),
    ]
    servers = {"medd": [f"{web.url}dicom-web/"]}
    archive = OrthancArchive(
        tmp_path / "orthanc", dicomweb=True, more={"DicomWeb": {"Enable": True, "Servers": servers}}
    ).start()
    try:
        archive.hold(films)
        [study] = archive.get("/studies")
        body = f'{{"Resources": ["{study}"], "Synchronous": true}}'.encode()
        sent = archive.post("/dicom-web/servers/medd/stow", body)
    finally:
        archive.stop()
    assert sent["InstancesCount"] == "3" or sent["InstancesCount"] == 3
    found = {row.sop_instance_uid: row for row in rows(web)}
    assert set(found) == {str(one.SOPInstanceUID) for one in films}
    syntaxes = {
        str(pydicom.dcmread(web.context.spool.path(row.sha256, row.media_type)).file_meta.TransferSyntaxUID)
        for row in found.values()
    }
    assert len(syntaxes) == 3, "as they are, not transcoded"


def test_the_same_object_by_stow_and_by_c_store_is_one_instance(web):
    [data] = cheap_series(1, rows=64, columns=64)
    [bare] = cheap_series(1, rows=64, columns=64, part10=False)
    settings = web.settings.model_copy(update={"listener": ListenerSettings(port=0), "inbox": ()})
    receiver = pipeline.build_receiver(settings)
    receiver.start()
    try:
        with RawSender(receiver.listener.port) as sender:
            sender.associate()
            uid = str(pydicom.dcmread(BytesIO(data)).SOPInstanceUID)
            assert sender.store(bare, uid)[0] == 0x0000
            sender.release()
        assert told(store(web, multipart(data))) == {"ReferencedSOPSequence": [(uid, 0)]}
    finally:
        receiver.stop()
    [row] = rows(web)
    assert row.origin == "dicom://RAW@127.0.0.1"
    assert row.sha256 == hashlib.sha256(bare).hexdigest()


# Answers


def test_the_answer_as_xml(web):
    [data] = cheap_series(1, rows=64, columns=64)
    answer = store(web, multipart(data, b"nothing"), Accept="application/dicom+xml")
    assert (answer.status_code, answer.headers["content-type"]) == (202, "application/dicom+xml")
    root = ElementTree.fromstring(answer.content)
    space = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
    keywords = [element.get("keyword") for element in root]
    assert keywords == ["RetrieveURL", "ReferencedSOPSequence", "OtherFailuresSequence"]
    [uid] = [e for e in root.iter(f"{space}DicomAttribute") if e.get("keyword") == "ReferencedSOPInstanceUID"]
    assert uid.find(f"{space}Value").text == str(pydicom.dcmread(BytesIO(data)).SOPInstanceUID)
    [reason] = [e for e in root.iter(f"{space}DicomAttribute") if e.get("keyword") == "FailureReason"]
    assert reason.find(f"{space}Value").text == str(CANNOT_UNDERSTAND)
    refused = store(web, multipart(data), Accept="image/png")
    assert (refused.status_code, refused.headers["content-type"]) == (406, "application/problem+json")


def test_a_single_object_without_parts_and_a_refusal_by_the_gate_is_no_error_to_the_sender(web):
    lateral = film(1, ViewPosition="LL")
    answer = store(web, part10(lateral), Content_Type="application/dicom")
    assert (answer.status_code, told(answer)) == (200, {"ReferencedSOPSequence": [(str(lateral.SOPInstanceUID), 0)]})
    [row] = rows(web)
    assert (row.status, row.reason) == ("not_assessed", "lateral_view")


def test_each_instance_is_told_of_with_the_status_that_c_store_would_give(web, monkeypatch):
    mib = web.context.settings.listener.model_copy(update={"max_object_mib": 1})
    monkeypatch.setattr(web.context, "settings", web.settings.model_copy(update={"listener": mib}))
    good, other, large = film(1), film(2), film(3, size=1200)
    cut = part10(film(4))[:-1000]
    nameless = film(5)
    del nameless.SOPInstanceUID
    answer = store(
        web,
        multipart(part10(good), part10(other), part10(large), cut, b"", b"no DICOM", nameless_bytes(nameless)),
        str(good.StudyInstanceUID),
    )
    assert answer.status_code == 202
    assert told(answer) == {
        "ReferencedSOPSequence": [(str(good.SOPInstanceUID), 0)],
        "FailedSOPSequence": [
            (str(other.SOPInstanceUID), OTHER),
            (str(large.SOPInstanceUID), OUT_OF_RESOURCES),
            (str(film(4).SOPInstanceUID), CANNOT_UNDERSTAND),
        ],
        "OtherFailuresSequence": [("", CANNOT_UNDERSTAND)] * 3,
    }
    assert [row.sop_instance_uid for row in rows(web)] == [str(good.SOPInstanceUID)]
    assert not list((web.context.spool.root / "incoming").iterdir()), "nothing half-written is left"
    alone = {
        413: store(web, multipart(part10(large))),
        409: store(web, multipart(part10(other)), "1.2.3"),
    }
    for status, answer in alone.items():
        assert answer.status_code == status
        assert set(told(answer)) == {"FailedSOPSequence"}
    assert store(web, multipart(part10(large), part10(other)), "1.2.3").status_code == 409
    assert store(web, part10(large), Content_Type="application/dicom").status_code == 413


def nameless_bytes(dataset: Dataset) -> bytes:
    stream = BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=False)
    return stream.getvalue()


BROKEN = {
    "nothing": b"",
    "no part": b"--XX--\r\n",
    "no delimiter": b"a body " * 20_000,
    "another boundary": multipart(b"x").replace(b"XX", b"YY"),
    "truncated in the header": b"--XX\r\nContent-Type: appl",
    "truncated in the content": b"--XX\r\n\r\nDICM",
    "a header without end": b"--XX\r\n" + b"X-More: y\r\n" * 20_000,
    "a header of one endless line": b"--XX\r\nX: " + b"y" * 200_000,
    "too many fields": multipart(b"x", header=b"A: b\r\n" * 1000),
}


OTHER_KINDS = (
    "",
    "application/json",
    "text/plain",
    'multipart/related; type="application/dicom+json"; boundary=XX',
    "multipart/form-data; boundary=XX",
    "multipart/related; boundary*0*=bad''%zz; type=image/png",
)


def test_what_is_no_multipart_body_is_400(web):
    for what, body in BROKEN.items():
        answer = store(web, body)
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json"), what
    assert rows(web) == []
    for kind in ('multipart/related; type="application/dicom"', RELATED.replace("XX", '""')):
        assert store(web, multipart(b"x"), Content_Type=kind).status_code == 400
    for kind in OTHER_KINDS:
        answer = store(web, multipart(b"x"), Content_Type=kind)
        assert answer.status_code == 415, kind
        assert answer.headers["accept-post"] == 'multipart/related; type="application/dicom"'
    assert store(web, multipart(b"x"), Content_Encoding="gzip").status_code == 415
    assert rows(web) == []


def test_parts_within_parts_preambles_and_bare_parts(web):
    one, two, three = cheap_series(3, rows=64, columns=64)
    inner = b"--XXX\r\n\r\n" + two + b"\r\n--XXX--\r\n"
    body = b"a preamble\r\n" + multipart(one, inner, end=b"") + multipart(three, header=b"") + b"an epilogue"
    answer = store(web, body)
    assert answer.status_code == 202
    assert len(told(answer)["ReferencedSOPSequence"]) == 2
    assert told(answer)["OtherFailuresSequence"] == [("", CANNOT_UNDERSTAND)]


def test_damaged_objects_are_refused_one_by_one(web, tmp_path):
    bad = [file.read_bytes() for file in bad_inputs(tmp_path / "bad").values() if file.is_file()]
    answer = store(web, multipart(*bad))
    assert answer.status_code in (202, 409)
    count = sum(len(items) for items in told(answer).values())
    assert count == len(bad)
    assert len(rows(web)) == len(set(told(answer).get("ReferencedSOPSequence", [])))


def test_a_body_that_breaks_off_tells_what_is_stored(web):
    one, two = cheap_series(2, rows=64, columns=64)
    uids = [str(pydicom.dcmread(BytesIO(data)).SOPInstanceUID) for data in (one, two)]
    for rest in (b"--XX\r\n", b"--XX\r\nContent-", b"--XX\r\n\r\n" + two[:-500]):
        answer = store(web, multipart(one, end=b"") + rest)
        assert answer.status_code == 202
        found = told(answer)
        assert found["ReferencedSOPSequence"] == [(uids[0], 0)]
        failed = found.get("FailedSOPSequence", []) + found.get("OtherFailuresSequence", [])
        assert failed in ([("", CANNOT_UNDERSTAND)], [(uids[1], CANNOT_UNDERSTAND)])
    assert len(rows(web)) == 1


# Limits


def test_more_parts_than_are_taken(web, monkeypatch):
    monkeypatch.setattr("medd_web.stow.MAX_PARTS", 2)
    answer = store(web, multipart(*cheap_series(4, rows=16, columns=16)))
    assert answer.status_code == 202
    assert {name: len(items) for name, items in told(answer).items()} == {
        "ReferencedSOPSequence": 2,
        "OtherFailuresSequence": 1,
    }


def connect(web: Web, headers: str, body: bytes = b"", path: str = "/dicom-web/studies") -> socket.socket:
    """A request whose body has begun, on a bare socket."""
    parts = urlsplit(web.url)
    opened = socket.create_connection((parts.hostname, parts.port), timeout=30)
    head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{headers}\r\n\r\n"
    opened.sendall(head.encode() + body)
    return opened


def test_what_came_before_its_sender_hung_up_is_in_the_audit_trail(web):
    form = b'Content-Disposition: form-data; name="files"; filename="a"\r\n'
    ways = {
        "STOW-RS": ("/dicom-web/studies", RELATED, b""),
        "upload": ("/upload", "multipart/form-data; boundary=XX", form),
    }
    for count, (how, (path, kind, header)) in enumerate(ways.items()):
        one, two = cheap_series(2, rows=64, columns=64, seed=count)
        body = multipart(one, header=header, end=b"") + multipart(two, header=header)[:-500]
        with connect(web, f"Content-Type: {kind}\r\nContent-Length: 1000000", body, path):
            wait_until(lambda count=count: len(rows(web)) == count + 1)

        def noted(how: str = how) -> bool:
            with web.database.read() as connection:
                events = list(find_events(connection, EventFilter(action="images_received")))
            return f"1 by {how}" in [event["detail"] for event in events]

        wait_until(noted)


def test_slow_senders_take_no_place_of_others_and_are_given_up(web, monkeypatch):
    monkeypatch.setattr(bodies, "SLOTS", 3)
    headers = f"Content-Type: {RELATED}\r\nContent-Length: 1000000"
    [data] = cheap_series(1, rows=64, columns=64)
    slow: list[socket.socket] = []

    def refused() -> httpx.Response | None:
        # A request of ours may have had the place that one of these wanted.
        slow.append(connect(web, headers, b"--XX\r\n\r\n"))
        answer = store(web, multipart(data))
        return answer if answer.status_code == 503 else None

    try:
        busy = wait_until(refused, what="all places to be taken")
        assert int(busy.headers["retry-after"]) > 0
        assert web.client.get("/api/v1/results").status_code == 200
    finally:
        for one in slow:
            one.close()
    wait_until(lambda: store(web, multipart(data)).status_code == 200, what="their places to be free again")


def test_a_silent_sender_is_cut_off_and_nothing_of_it_is_left(web, monkeypatch):
    monkeypatch.setattr(bodies, "SILENCE_S", 1)
    [data] = cheap_series(1, rows=1024, columns=1024)
    with connect(web, f"Content-Type: {RELATED}\r\nContent-Length: 10000000", b"--XX\r\n\r\n" + data) as opened:
        assert b"408" in opened.recv(100)
    wait_until(lambda: not list((web.context.spool.root / "incoming").iterdir()), what="the cleaning up")
    assert rows(web) == []


def test_a_slow_sender_does_not_hold_up_the_end(tmp_path):
    with running_web(web_settings(tmp_path / "home")) as web:
        opened = connect(web, f"Content-Type: {RELATED}\r\nContent-Length: 1000000", b"--XX\r\n\r\n")
        started = time.monotonic()
    with opened:
        assert b"503" in opened.recv(100)
    assert time.monotonic() - started < bodies.SILENCE_S / 2


def test_who_may_and_that_nobody_else_is_listened_to(tmp_path):
    with running_web(web_settings(tmp_path / "home", login=True)) as web:
        tokens = {}
        with web.database.write() as connection:
            for name, role in (("rita", "reader"), ("otto", "operator")):
                users.add_account(connection, name, UserRole(role), None)
                tokens[name] = f"Bearer {users.add_token(connection, name, 'test', 1)}"
        [data] = cheap_series(1, rows=64, columns=64)
        assert store(web, multipart(data)).status_code == 401
        assert store(web, multipart(data), Authorization=tokens["rita"]).status_code == 403
        assert rows(web) == []
        assert store(web, multipart(data), Authorization=tokens["otto"]).status_code == 200
        assert rows(web)[0].origin == "dicomweb://otto@127.0.0.1"
        # A sender that waits to be let in (RFC 9110 section 10.1.1) need not send at all.
        expect = f"Content-Type: {RELATED}\r\nContent-Length: 1000000\r\nExpect: 100-continue"
        with connect(web, expect) as opened:
            assert opened.recv(12) == b"HTTP/1.1 401"


def test_too_large_a_request_is_413_by_its_word_and_by_its_bytes(tmp_path):
    with running_web(web_settings(tmp_path / "home", max_upload_mib=1)) as web:
        small, large = next(cheap_series(1, rows=64, columns=64)), bytes(2 << 20)
        assert store(web, multipart(small, large)).status_code == 413
        assert rows(web) == []

        def pieces() -> Iterator[bytes]:
            yield multipart(small, end=b"--XX\r\n\r\n")
            for _ in range(32):
                yield large[: 1 << 16]

        answer = web.client.post("/dicom-web/studies", content=pieces(), headers={"Content-Type": RELATED})
        assert answer.status_code == 202, "what was stored before is told of"
        assert len(told(answer)["ReferencedSOPSequence"]) == 1


def test_a_full_disk_is_507_and_too_long_a_queue_503(tmp_path):
    films = list(cheap_series(3, rows=64, columns=64))
    for values, status in (({"min_free_mib": 1 << 40}, 507), ({"max_waiting": 1}, 503)):
        settings = web_settings(tmp_path / str(status))
        spool = settings.spool.model_copy(update=values)
        with running_web(settings.model_copy(update={"spool": spool})) as web:
            if status == 503:
                assert store(web, multipart(*films[:2])).status_code == 200
                wait_until(lambda web=web: store(web, multipart(films[0])).status_code == 503)
            answer = store(web, multipart(films[0], films[2], b"no DICOM"))
            assert answer.status_code == status
            assert int(answer.headers["retry-after"]) > 0
            found = told(answer)
            assert [reason for _, reason in found["FailedSOPSequence"]] == [OUT_OF_RESOURCES] * 2, "named, to be resent"
            assert len(rows(web)) == (0 if status == 507 else 2)
            assert not list((web.context.spool.root / "incoming").iterdir())


@pytest.mark.peers
def test_a_database_that_goes_away_is_503_and_all_is_well_when_it_is_back(tmp_path):
    server = PostgresServer()
    server.start()
    try:
        with running_web(web_settings(tmp_path / "home", database_url=server.url())) as web:
            films = list(cheap_series(4, rows=64, columns=64))
            assert store(web, multipart(*films[:2])).status_code == 200
            server.stop()
            away = store(web, multipart(*films))
            assert away.status_code == 503
            assert len(told(away)["FailedSOPSequence"]) == 4
            for path in ("results", "studies", "annotations", "models", "jobs", "jobs/counts", "results?format=csv"):
                answer = web.client.get(f"/api/v1/{path}")
                assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json"), path
                assert int(answer.headers["retry-after"]) > 0
            server.start()
            assert store(web, multipart(*films)).status_code == 200
            assert len(rows(web)) == 4
    finally:
        server.remove()


def test_an_object_is_never_in_memory_whole(tmp_path):
    import psutil

    daemon = web_daemon(tmp_path)
    with running(daemon):
        process = psutil.Process(wait_until(lambda: web_process(daemon), what="the web process"))
        answer = httpx.post(
            f"{daemon.url}/dicom-web/studies",
            content=multipart(next(cheap_series(1, rows=64, columns=64))),
            headers={"Content-Type": RELATED},
            trust_env=False,
        )
        assert answer.status_code == 200
        before = process.memory_info().rss
        highest = []
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.02):
                highest.append(process.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            head = part10(film(1, size=64))
            length = 256 << 20

            def pieces() -> Iterator[bytes]:
                yield b"--XX\r\n\r\n" + with_pixels(head, length)
                for _ in range(length >> 20):
                    yield bytes(1 << 20)
                yield b"\r\n--XX--\r\n"

            answer = httpx.post(
                f"{daemon.url}/dicom-web/studies",
                content=pieces(),
                headers={"Content-Type": RELATED},
                trust_env=False,
                timeout=300,
            )
        finally:
            stop.set()
            watcher.join()
        assert answer.status_code == 200, answer.text
        assert max(highest) - before < 48 << 20
        assert daemon.query("SELECT max(size) FROM instance")[0][0] > length


def with_pixels(data: bytes, length: int) -> bytes:
    """The file up to its pixels, which are said to be so many bytes."""
    at = data.index(b"\xe0\x7f\x10\x00OW")
    return data[: at + 8] + length.to_bytes(4, "little")


# What is left when the server is killed


def web_daemon(folder: Path, **environment: str) -> Daemon:
    port = free_port()
    daemon = Daemon(folder / "home", MEDD_WEB__ENABLED="true", MEDD_WEB__PORT=str(port), **environment)
    daemon.url = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]
    return daemon


def web_process(daemon: Daemon) -> int | None:
    import psutil

    pid = daemon.children().get("web")
    if pid is None or not psutil.pid_exists(pid):
        return None
    try:
        answers = httpx.get(f"{daemon.url}/api/v1/jobs/counts", trust_env=False).status_code == 200
    except httpx.TransportError:
        return None
    return pid if answers else None


def test_what_was_answered_is_there_after_kill_9_in_the_middle_of_a_large_stow(tmp_path):
    daemon = web_daemon(tmp_path)
    films = list(cheap_series(60, rows=512, columns=512))
    uids = [str(pydicom.dcmread(BytesIO(data), stop_before_pixels=True).SOPInstanceUID) for data in films]
    answered: list[str] = []
    with running(daemon):
        first = wait_until(lambda: web_process(daemon), what="the web process")
        killed = threading.Event()

        def pieces(start: int) -> Iterator[bytes]:
            for number, data in enumerate(films[start:]):
                yield multipart(data, end=b"")
                if start == 0 and number == 40:
                    os.kill(first, signal.SIGKILL)
                    killed.set()
                    time.sleep(0.2)
            yield b"--XX--\r\n"

        def send(start: int, end: int) -> None:
            answer = httpx.post(
                f"{daemon.url}/dicom-web/studies",
                content=multipart(*films[start:end]) if end else pieces(start),
                headers={"Content-Type": RELATED},
                trust_env=False,
                timeout=60,
            )
            assert answer.status_code == 200
            answered.extend(uid for uid, _ in told(answer)["ReferencedSOPSequence"])

        for start in range(0, 30, 5):
            send(start, start + 5)
        assert len(answered) == 30
        with pytest.raises(httpx.TransportError):
            send(0, 0)
        assert killed.is_set()
        rows = dict(daemon.query("SELECT sop_instance_uid, sha256 FROM instance"))
        assert set(answered) <= set(rows)
        for uid in rows:
            assert uid in uids
            path = next(daemon.home.glob(f"spool/??/{rows[uid]}.dcm"))
            assert hashlib.sha256(bare_of(path)).hexdigest() == rows[uid], "bytes and row belong together"
        # It is started again, and the sender sends all of it once more.
        second = wait_until(lambda: web_process(daemon), what="the web process to be back")
        assert second != first
        send(0, 60)
        assert set(answered) == set(uids)
        assert daemon.query("SELECT count(*), count(DISTINCT sha256) FROM instance") == [(60, 60)]


def bare_of(path: Path) -> bytes:
    with path.open("rb") as file:
        pydicom.filereader.read_preamble(file, force=False)
        pydicom.filereader._read_file_meta_info(file)
        return file.read()
