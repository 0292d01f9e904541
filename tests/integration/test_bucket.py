"""A spool in a bucket: an S3 server, several hosts' daemons on one PostgreSQL."""

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from medd import settings
from medd.classify.classifier import load
from medd.classify.prepare import prepare_file
from medd.classify.stage import ClassifyStage
from medd.doctor.finding import State
from medd.doctor.host import check_spool
from medd.errors import SettingsError, TransientError
from medd.ingest import admission
from medd.ingest.intake import Intake
from medd.plugins import load_plugins
from medd.queue.base import CLASSIFY, JobState
from medd.queue.sql import SqlQueue
from medd.queue.worker import Worker
from medd.records import Job, MediaType
from medd.store.bucket import Bucket
from medd.store.cache import Cache
from medd.store.database import Database, check_schema
from medd.store.spool import Spool
from medd.store.tables import job
from medd.testing import stub_bundle, stub_plugin
from medd.testing.films import cheap_series
from medd.testing.stub_plugin import spec as stub_spec
from tests.bucket import CREDENTIALS, S3Server
from tests.support import RawSender, in_place, running, uid_in, wait_until

CONTENT = b"bytes of an image"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    server = S3Server().start().wait()
    yield server
    server.stop()


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def url(s3: S3Server, credentials: None, tmp_path: Path) -> str:
    return f"s3://films/{tmp_path.name}"


def spool_of(s3: S3Server, url: str, root: Path, cache_mib: int = 1024) -> Spool:
    spool = Spool(root, bucket=Bucket(url, s3.url), cache_mib=cache_mib)
    spool.prepare()
    return spool


def keep(spool: Spool, content: bytes = CONTENT) -> Path:
    writer = spool.writer(b"prefix")
    writer.write(content)
    writer.publish()
    writer.sync()
    return spool.path(writer.sha256, MediaType.DICOM)


def test_what_one_host_keeps_another_reads(s3: S3Server, url: str, tmp_path: Path) -> None:
    one, other = spool_of(s3, url, tmp_path / "a"), spool_of(s3, url, tmp_path / "b")
    assert one.id == other.id
    name = keep(one).relative_to(one.root)
    path = other.root / name
    assert other.size(path) == len(b"prefix" + CONTENT)
    assert not path.exists()
    assert other.bring(path).read_bytes() == b"prefix" + CONTENT
    assert list(other.old_files(time.time() + 60)) == [path]
    assert list(other.old_files(time.time() - 3600)) == []

    path.write_bytes(b"damaged")
    other.forget(path)
    assert other.bring(path).read_bytes() == b"prefix" + CONTENT

    other.set_aside(path)
    assert one.size(one.root / name) is None
    assert one.size(one.root / "orphans" / name.name) == len(b"prefix" + CONTENT)


def test_what_is_deleted_is_gone_for_all(s3: S3Server, url: str, tmp_path: Path) -> None:
    one, other = spool_of(s3, url, tmp_path / "a"), spool_of(s3, url, tmp_path / "b")
    name = keep(one).relative_to(one.root)
    other.delete(other.root / name)
    other.delete(other.root / name)
    assert one.size(one.root / name) is None
    with pytest.raises(FileNotFoundError):
        other.bring(other.root / name)


def test_many_are_brought_at_once_and_each_failure_is_its_own(s3: S3Server, url: str, tmp_path: Path) -> None:
    one, other = spool_of(s3, url, tmp_path / "a"), spool_of(s3, url, tmp_path / "b")
    paths = [other.root / keep(one, bytes([n])).relative_to(one.root) for n in range(20)]
    missing = other.path("0" * 64, MediaType.DICOM)
    failures = other.bring_all([*paths[:10], missing, *paths[10:]])
    assert [place for place, failure in enumerate(failures) if failure] == [10]
    assert {path.read_bytes() for path in paths} == {b"prefix" + bytes([n]) for n in range(20)}


def test_a_bucket_that_is_away_keeps_nothing(credentials: None, tmp_path: Path) -> None:
    server = S3Server().start().wait()
    spool = spool_of(server, "s3://films", tmp_path / "a")
    server.stop()
    with pytest.raises(OSError, match="bucket: ") as caught:
        keep(spool)
    assert caught.value.strerror
    with pytest.raises(OSError, match="bucket: "):
        spool.size(spool.path("0" * 64, MediaType.DICOM))


def test_a_folder_of_another_spool_is_no_cache(s3: S3Server, url: str, tmp_path: Path) -> None:
    Spool(tmp_path / "a").prepare()
    with pytest.raises(SettingsError, match="belongs to another spool"):
        spool_of(s3, url, tmp_path / "a")


def test_a_folder_that_was_a_spool_until_now_is_not_emptied(s3: S3Server, url: str, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a")
    spool.prepare()
    kept = keep(spool)
    Bucket(url, s3.url).put(tmp_path / "a" / "spool-id", "spool-id")  # as a copy of the whole folder does
    with pytest.raises(SettingsError, match="was a spool until now"):
        spool_of(s3, url, tmp_path / "a")
    assert kept.read_bytes() == b"prefix" + CONTENT


def test_hosts_that_start_at_once_agree_on_an_id(
    s3: S3Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = Bucket(url, s3.url), Bucket(url, s3.url)
    create, agreed = Bucket._create, []

    def refused(self: Bucket, key: str, content: str) -> None:
        if self is one:
            agreed.append(other.agree_on(key, "other"))
        try:
            create(self, key, content)
        except FileExistsError:
            raise OSError(errno.EINVAL, "in the words of another server") from None

    monkeypatch.setattr(Bucket, "_create", refused)
    assert (one.agree_on("spool-id", "one"), agreed) == ("other", ["other"])


def test_a_create_that_fails_is_told(s3: S3Server, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise OSError(errno.EIO, "bucket: away")

    monkeypatch.setattr(Bucket, "_create", away)
    with pytest.raises(OSError, match="away"):
        Bucket(url, s3.url).agree_on("spool-id", "one")


def test_a_server_that_creates_what_is_there_is_told_of(
    s3: S3Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = settings.Settings(spool=settings.SpoolSettings(bucket=url, endpoint=s3.url))
    assert [one.state for one in check_spool(loaded) if one.name == "spool bucket"] == [State.OK]
    plain = Bucket._call
    monkeypatch.setattr(Bucket, "_call", lambda self, *given, mode="", **others: plain(self, *given, **others))
    assert [one.state for one in check_spool(loaded) if one.name == "spool bucket"] == [State.OK, State.WARN]


def test_a_large_object_may_take_its_time(
    s3: S3Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: dict[str, float] = {}
    plain = Bucket._call

    def noting(self: Bucket, what: str, *arguments: object, limit_s: float = 0, **options: object) -> object:
        limits[what] = limit_s
        return plain(self, what, *arguments, limit_s=limit_s, **options)

    monkeypatch.setattr(Bucket, "_call", noting)
    file = tmp_path / "film"
    file.write_bytes(bytes(2 << 20))
    bucket = Bucket(url, s3.url)
    bucket.put(file, "film")
    bucket.get("film", file)
    assert (limits["put_file"], limits["get_file"]) == (32, 92)


def test_a_cache_keeps_what_was_used_last(tmp_path: Path) -> None:
    folder = tmp_path / "ab"
    folder.mkdir()
    for age in range(5):
        (folder / f"{age}").write_bytes(bytes(1000))
        os.utime(folder / f"{age}", (time.time() - 3600 * (age + 1),) * 2)
    (folder / "in use").write_bytes(bytes(9000))
    cache = Cache(tmp_path, limit=11_500)
    cache.evict()
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "in use"]


def test_a_cache_from_before_the_host_was_started_is_not_trusted(tmp_path: Path) -> None:
    file = tmp_path / "ab" / "file"
    file.parent.mkdir()
    cache = Cache(tmp_path, 1 << 30)
    cache.prepare()
    file.write_bytes(b"synchronised by nobody")
    cache.prepare()
    assert file.exists()
    (tmp_path / "boot-id").write_text("of yesterday")
    cache.prepare()
    assert not file.exists()


@pytest.mark.peers
def test_what_one_host_receives_another_scores_and_delivers(
    s3: S3Server, tmp_path: Path, postgres_url: str, credentials: None
) -> None:
    from medd.testing import stub_bundle, write_stub_plugin
    from tests.support import Daemon

    def host(name: str, *arguments: str) -> Daemon:
        home = tmp_path / name
        (home / "plugins").mkdir(parents=True)
        write_stub_plugin(home / "plugins", stub_bundle(tmp_path / f"bundle-{name}"))
        shared = s3.settings(f"s3://films/{tmp_path.name}") | {"MEDD_DATABASE__URL": postgres_url}
        return Daemon(home, *arguments, **shared)

    films = list(cheap_series(12, rows=64, columns=64, part10=False))
    with running(host("receiver", "--only", "receive")) as receiver:
        with RawSender(receiver.port) as sender:
            sender.associate()
            assert {sender.store(film, uid_in(film)) for film in films} == {(0x0000, "")}
            sender.release()
        receiver.stop()
    with running(host("worker", "--only", "work")) as worker:

        def rows() -> str:
            return worker.medd("results", "--status", "scored", "--format", "csv").stdout

        wait_until(lambda: len(rows().splitlines()) == 1 + len(films), 60, "every image scored")
        checked = worker.medd("reconcile", "--verify")
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.peers
def test_while_the_bucket_is_away_images_are_refused_for_the_time_being(
    tmp_path: Path, postgres_url: str, credentials: None
) -> None:
    from tests.support import Daemon

    server = S3Server().start().wait()
    first, second = cheap_series(2, rows=64, columns=64, part10=False)
    settings = server.settings() | {"MEDD_DATABASE__URL": postgres_url}
    with (
        running(Daemon(tmp_path / "home", "--only", "receive", **settings)) as daemon,
        RawSender(daemon.port) as sender,
    ):
        sender.associate()
        assert sender.store(first, uid_in(first)) == (0x0000, "")
        server.stop()
        status, comment = sender.store(second, uid_in(second))
        assert status == 0xA700
        assert comment.startswith("spool: bucket")
        server.start().wait()
        assert sender.store(second, uid_in(second)) == (0x0000, "")
        sender.release()
    server.stop()


def test_a_bucket_that_cannot_be_used_is_one_line(s3: S3Server, tmp_path: Path) -> None:
    from tests.support import Daemon

    def start(**environment: str) -> tuple[int, str]:
        daemon = Daemon(tmp_path / "home", **(s3.settings() | environment))
        done = daemon.medd("serve", "--only", "receive,deliver")
        return done.returncode, done.stderr

    code, told = start(MEDD_SPOOL__BUCKET="s3://nobody-made-it/spool")
    assert (code, told.count("\n")) == (2, 1)
    assert told.startswith("medd: spool.bucket: s3://nobody-made-it/spool cannot be written. Received: ")
    # Nothing is wrong with the settings: whoever supervises starts it again.
    code, told = start(MEDD_SPOOL__ENDPOINT="http://127.0.0.1:1")
    assert (code, told.count("\n")) == (1, 1)
    assert told.startswith("medd: spool: bucket: ")


def test_a_store_that_is_silent_is_given_up(credentials: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medd.store.bucket._ANSWER_S", 1.0)
    file = tmp_path / "film"
    file.write_bytes(CONTENT)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        bucket = Bucket("s3://films/silent", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        for attempt in (lambda: bucket.put(file, "a"), lambda: bucket.size("a"), lambda: bucket.get("a", file)):
            with pytest.raises(OSError, match="no answer within"):
                attempt()
        assert time.monotonic() - began < 30


def test_what_a_bucket_says_is_told(s3: S3Server, url: str, tmp_path: Path) -> None:
    spool = spool_of(s3, url, tmp_path / "a")
    with pytest.raises(FileNotFoundError) as caught:
        spool.bring(spool.path("0" * 64, MediaType.DICOM))
    assert caught.value.strerror == "not in the bucket"


def test_a_cache_is_no_spool(s3: S3Server, url: str, tmp_path: Path) -> None:
    spool_of(s3, url, tmp_path / "a")
    with pytest.raises(SettingsError, match="is the cache of a bucket"):
        Spool(tmp_path / "a").prepare()


def test_while_the_bucket_is_away_images_wait_and_no_try_is_counted(credentials: None, tmp_path: Path) -> None:
    server = S3Server().start().wait()
    database = Database(f"sqlite:///{tmp_path / 'medd.db'}")
    check_schema(database)
    spool = spool_of(server, "s3://films/spool", tmp_path / "spool")
    plugins = load_plugins(builtin=(admission, stub_plugin))
    intake = Intake(database, spool, plugins)
    kept = {}
    for number, film in enumerate(cheap_series(2, rows=64, columns=64)):
        file = tmp_path / f"{number}.dcm"
        file.write_bytes(film)
        path = spool.path(intake.receive_file(file, "file:film").sha256, MediaType.DICOM)
        kept[path] = path.read_bytes()
        spool.forget(path)
    queue = SqlQueue(database, "worker", spool=spool.id)
    stage = ClassifyStage(
        load(stub_bundle(tmp_path / "bundle"), [stub_spec()]), spool, queue, plugins, in_place(prepare_file)
    )
    worker = Worker(queue, CLASSIFY, stage, batch_size=4, poll_s=0.05)
    server.stop()

    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        with pytest.raises(TransientError, match="spool"):
            stage.handle(wait_until(lambda: held(database), what="a claim"))
        time.sleep(2)  # long enough for a second try
        assert [one.attempts for one in held(database)] == [1, 1]
        server.start().wait()
        for path, content in kept.items():  # the server's memory is gone, and with it what it was to keep
            copy = tmp_path / path.name
            copy.write_bytes(content)
            Bucket("s3://films/spool", server.url).put(copy, path.relative_to(spool.root).as_posix())
        wait_until(lambda: queue.counts(CLASSIFY)[JobState.DONE] == 2, 60, "images scored")
    finally:
        worker.stop()
        thread.join()
        server.stop()
        intake.close()
        database.close()


def held(database: Database) -> list[Job]:
    """What a worker has in hand."""
    columns = (job.c.id, job.c.kind, job.c.instance_id, job.c.attempts, job.c.lease_token, job.c.priority)
    with database.read() as connection:
        return [Job(*row) for row in connection.execute(sa.select(*columns).where(job.c.state == "running"))]
