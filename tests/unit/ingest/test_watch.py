import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from medd import hookimpl
from medd.errors import SettingsError
from medd.ingest import admission
from medd.ingest.intake import Intake
from medd.ingest.watch import Inbox, Settler, files_below, is_candidate
from medd.plugins import load_plugins
from medd.settings import InboxSettings
from medd.store.repository import ResultFilter, find_results
from medd.store.spool import Spool
from medd.testing import cheap_series, dicom_radiograph, jpeg_radiograph
from tests.schema import open_new
from tests.support import wait_until

FILM = Path("film.dcm")

# A thread of watchdog's dies when what it reads goes away; that the inbox bears it is what some of these tests show.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

# The settler: no disk, no clock


def test_file_is_settled_when_it_was_quiet_long_enough():
    settler = Settler(2)
    assert not settler.observe(FILM, (7, 10, 1), now=100.0)
    assert not settler.observe(FILM, (7, 10, 1), now=101.9)
    assert settler.observe(FILM, (7, 10, 1), now=102.0)


def test_every_change_starts_the_wait_again():
    settler = Settler(2)
    settler.observe(FILM, (7, 10, 1), now=0)
    assert not settler.observe(FILM, (7, 20, 1), now=3)  # grown
    assert not settler.observe(FILM, (7, 20, 2), now=4.9)  # written over, same size
    assert not settler.observe(FILM, (8, 20, 2), now=5.0)  # another file of the same name, size and time
    assert not settler.observe(FILM, (8, 20, 2), now=6.9)
    assert settler.observe(FILM, (8, 20, 2), now=7.0)


def test_files_settle_apart():
    settler = Settler(2)
    settler.observe(FILM, (7, 1, 1), now=0)
    settler.observe(Path("other"), (7, 1, 1), now=1.5)
    assert settler.observe(FILM, (7, 1, 1), now=2)
    assert not settler.observe(Path("other"), (7, 1, 1), now=2)


def test_forgotten_file_starts_anew():
    settler = Settler(2)
    settler.observe(FILM, (7, 1, 1), now=0)
    settler.forget(FILM)
    settler.forget(Path("never seen"))
    assert not settler.observe(FILM, (7, 1, 1), now=5)


def test_without_a_wait_a_file_is_settled_at_first_sight():
    assert Settler(0).observe(FILM, (7, 1, 1), now=0)


@pytest.mark.parametrize("name", ["film.dcm", "film", "a/b/film.JPG", "a/done/film.dcm", "partial.dcm", "a.part.dcm"])
def test_file_is_a_candidate(name):
    assert is_candidate(Path(name))


@pytest.mark.parametrize(
    "name",
    [
        ".film.dcm",
        ".hidden/film.dcm",
        "a/.hidden/film.dcm",
        "film.dcm.part",
        "film.PART",
        "film.tmp",
        "film.dcm.filepart",
        "film.crdownload",
        "film.dcm~",
        "done/film.dcm",
        "rejected/a/film.dcm",
    ],
)
def test_file_is_no_candidate(name):
    assert not is_candidate(Path(name))


def test_files_below_are_found_in_order_and_links_left_alone(tmp_path):
    for name in ("b/2", "a/1", "c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "c")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path)] == ["a/1", "b/2", "c"]


# The inbox: a real folder, a real database


class Watched:
    """An inbox in a home folder."""

    def __init__(self, home: Path) -> None:
        self.home, self.root = home, home / "inbox"
        self.database = open_new(home / "medd.db")
        spool = Spool(home / "spool")
        spool.prepare()
        self.plugins = load_plugins(builtin=(admission,))
        self.intake = Intake(self.database, spool, self.plugins)
        self.inbox: Inbox | None = None

    def start(self, **values: object) -> None:
        settings = InboxSettings.model_validate({"settle_s": 0.1, "rescan_s": 60} | values)
        self.inbox = Inbox(settings, self.root, self.intake)
        self.inbox.start()

    def lay(self, name: str, data: bytes) -> Path:
        """Lay a file in at once, as a careful sender does: under another name first."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.unfinished")
        unfinished.write_bytes(data)
        return unfinished.rename(path)

    def rows(self) -> list[dict]:
        with self.database.read() as connection:
            return list(find_results(connection, ResultFilter()))

    def origins(self) -> set[str]:
        return {row["origin"] for row in self.rows()}

    def below(self) -> set[str]:
        return {path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if not path.is_dir()}

    def stop(self) -> None:
        if self.inbox is not None:
            self.inbox.stop()
            self.inbox = None
        self.intake.close()
        self.database.close()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    made = Watched(tmp_path)
    yield made
    made.stop()


def films(count: int) -> list[bytes]:
    return list(cheap_series(count, rows=64, columns=64))


def rejected_film() -> bytes:
    from io import BytesIO

    stream = BytesIO()
    dicom_radiograph(1, size=32, BodyPartExamined="HAND").save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def eventually(condition: Callable[[], object]) -> None:
    wait_until(condition, 15, what="the inbox")


def test_files_are_taken_and_moved_to_done(watched):
    [film] = films(1)
    watched.start()
    watched.lay("film.dcm", film)
    watched.lay("ward 7/no extension", films(2)[1])
    watched.lay("film.jpg", jpeg_radiograph(1, size=64))
    eventually(lambda: watched.below() == {"done/film.dcm", "done/ward 7/no extension", "done/film.jpg"})
    assert watched.origins() == {"file:film.dcm", "file:ward 7/no extension", "file:film.jpg"}
    assert {row["status"] for row in watched.rows()} == {"pending"}
    assert (watched.root / "done/film.dcm").read_bytes() == film


def test_what_lay_there_before_the_start_is_found(watched):
    watched.lay("deep/er/film.dcm", films(1)[0])
    watched.start()
    eventually(lambda: watched.below() == {"done/deep/er/film.dcm"})


def test_folder_that_is_moved_in_whole_is_found(watched):
    outside = watched.home / "study"
    outside.mkdir()
    (outside / "1.dcm").write_bytes(films(1)[0])
    watched.start(rescan_s=0.5)
    eventually(lambda: watched.root.is_dir())
    outside.rename(watched.root / "study")
    eventually(lambda: watched.below() == {"done/study/1.dcm"})


def test_growing_file_is_not_taken_until_it_is_quiet(watched):
    [film] = films(1)
    watched.start(settle_s=0.5)
    eventually(lambda: watched.root.is_dir())
    step = len(film) // 8 + 1
    with (watched.root / "film.dcm").open("wb", buffering=0) as file:
        for place in range(0, len(film), step):
            file.write(film[place : place + step])
            os.fsync(file)
            assert watched.rows() == []
            assert not _waited(0.15, lambda: watched.rows())
    eventually(lambda: watched.below() == {"done/film.dcm"})
    [row] = watched.rows()
    assert row["status"] == "pending"


def _waited(seconds: float, condition: Callable[[], object]) -> bool:
    try:
        wait_until(condition, seconds)
    except AssertionError:
        return False
    return True


def test_refused_file_goes_to_rejected_with_its_reason(watched):
    watched.start()
    watched.lay("a/hand.dcm", rejected_film())
    watched.lay("letter.txt", b"Dear colleague")
    expected = {"a/hand.dcm", "a/hand.dcm.reason.txt", "letter.txt", "letter.txt.reason.txt"}
    eventually(lambda: watched.below() == {f"rejected/{name}" for name in expected})
    note = (watched.root / "rejected/a/hand.dcm.reason.txt").read_text()
    ids = {row["origin"]: row["instance_id"] for row in watched.rows()}
    assert note == f"not assessed: not_chest\nbody part HAND\ninstance: {ids['file:a/hand.dcm']}\n"
    assert "unreadable" in (watched.root / "rejected/letter.txt.reason.txt").read_text()


def test_files_can_be_left_where_they_are(watched):
    watched.start(after="leave", rescan_s=0.2)
    path = watched.lay("film.dcm", films(1)[0])
    watched.lay("hand.dcm", rejected_film())
    eventually(lambda: len(watched.rows()) == 2)
    assert watched.below() == {"film.dcm", "hand.dcm"}
    path.write_bytes(films(2)[1])  # other bytes under the same name are a new file
    eventually(lambda: len(watched.rows()) == 3)
    assert not _waited(0.6, lambda: len(watched.rows()) > 3)


def test_files_can_be_deleted_when_they_are_safe(watched):
    watched.start(after="delete")
    watched.lay("a/film.dcm", films(1)[0])
    eventually(lambda: len(watched.rows()) == 1)
    eventually(lambda: watched.below() == set())


def test_unfinished_hidden_and_linked_files_are_left_alone(watched):
    film = films(1)[0]
    watched.start(rescan_s=0.2)
    outside = watched.home / "outside.dcm"
    outside.write_bytes(film)
    names = [".hidden.dcm", "film.dcm.part", "film.tmp", ".folder/film.dcm", "film.dcm~"]
    for name in names:
        watched.lay(name, film)
    (watched.root / "link.dcm").symlink_to(outside)
    (watched.root / "dangling.dcm").symlink_to(watched.home / "nowhere")
    (watched.root / "folder.dcm").mkdir()
    watched.lay("sound.dcm", films(2)[1])
    eventually(lambda: "done/sound.dcm" in watched.below())
    assert not _waited(0.5, lambda: len(watched.rows()) > 1)
    assert watched.below() == {*names, "link.dcm", "dangling.dcm", "done/sound.dcm"}
    (watched.root / "film.dcm.part").rename(watched.root / "film.dcm")  # the sender has finished
    eventually(lambda: "done/film.dcm" in watched.below())


def test_second_file_of_a_name_does_not_overwrite_the_first(watched):
    first, second = films(2)
    watched.start()
    watched.lay("film.dcm", first)
    eventually(lambda: watched.below() == {"done/film.dcm"})
    watched.lay("film.dcm", second)
    eventually(lambda: len(watched.below()) == 2 and "film.dcm" not in watched.below())
    kept = {path.read_bytes() for path in (watched.root / "done").iterdir()}
    assert kept == {first, second}
    assert len(watched.rows()) == 2


def test_same_file_again_is_moved_away_and_changes_nothing(watched):
    [film] = films(1)
    watched.start()
    watched.lay("film.dcm", film)
    eventually(lambda: watched.below() == {"done/film.dcm"})
    watched.lay("copy.dcm", film)
    eventually(lambda: watched.below() == {"done/film.dcm", "done/copy.dcm"})
    assert len(watched.rows()) == 1


def test_file_that_disappears_is_forgotten(watched):
    watched.start(settle_s=0.4)
    eventually(lambda: watched.root.is_dir())
    path = watched.lay("gone.dcm", films(1)[0])
    assert not _waited(0.1, lambda: watched.rows())
    path.unlink()
    watched.lay("film.dcm", films(2)[1])
    eventually(lambda: watched.below() == {"done/film.dcm"})
    assert watched.origins() == {"file:film.dcm"}


def test_network_drive_is_polled(watched, monkeypatch):
    monkeypatch.setattr("medd.ingest.watch.Observer", None)  # which would see the changes of a local folder, too
    watched.start(poll=True)
    eventually(lambda: watched.root.is_dir())
    watched.lay("film.dcm", films(1)[0])
    eventually(lambda: watched.below() == {"done/film.dcm"})


def test_rescan_finds_what_no_event_told(watched, monkeypatch):
    monkeypatch.setattr("medd.ingest.watch._Collector.on_any_event", lambda *_: None)
    watched.start(rescan_s=0.3)
    eventually(lambda: watched.root.is_dir())
    watched.lay("film.dcm", films(1)[0])
    eventually(lambda: watched.below() == {"done/film.dcm"})


@pytest.mark.parametrize("poll", [False, True])
def test_folder_that_is_taken_away_and_comes_back_is_watched_again(watched, poll):
    watched.start(rescan_s=0.3, poll=poll)
    watched.lay("film.dcm", films(1)[0])
    eventually(lambda: watched.below() == {"done/film.dcm"})
    shutil.rmtree(watched.root)
    before = watched.inbox._observer
    eventually(lambda: not all(emitter.is_alive() for emitter in before.emitters))
    watched.root.mkdir()
    eventually(
        lambda: (now := watched.inbox._observer) not in (None, before) and all(e.is_alive() for e in now.emitters)
    )
    watched.lay("film.dcm", films(2)[1])
    eventually(lambda: watched.below() == {"done/film.dcm"})


def test_file_that_is_replaced_while_it_is_taken_is_taken_again(watched, monkeypatch):
    first, second = films(2)
    receive = Intake.receive_file

    def slowly(self, path, *arguments):
        receipt = receive(self, path, *arguments)
        if path.read_bytes() == first:
            scan = watched.home / "scan"
            scan.write_bytes(second)
            scan.rename(path)
        return receipt

    monkeypatch.setattr(Intake, "receive_file", slowly)
    watched.start(after="delete")
    eventually(lambda: watched.root.is_dir())
    watched.lay("film.dcm", first)
    eventually(lambda: len(watched.rows()) == 2)
    eventually(lambda: watched.below() == set())


def test_what_was_put_aside_or_is_hidden_is_not_looked_through(watched, monkeypatch):
    scan, entered = os.scandir, set()
    for name in ("done/a/1.dcm", "rejected/2.dcm", ".hidden/3.dcm", "b/.hidden/4.dcm"):
        watched.lay(name, b"")
    monkeypatch.setattr(os, "scandir", lambda folder: [entered.add(Path(folder)), scan(folder)][1])
    watched.start(poll=True, rescan_s=0.1)
    watched.lay("b/done/film.dcm", films(1)[0])
    eventually((watched.root / "done/b/done/film.dcm").exists)
    assert watched.origins() == {"file:b/done/film.dcm"}
    assert {path for path in entered if path.is_relative_to(watched.root)} == {
        watched.root,
        watched.root / "b",
        watched.root / "b/done",
    }


def test_folder_that_cannot_be_made_is_a_setting_to_mend(watched):
    (watched.home / "file").write_bytes(b"")
    with pytest.raises(SettingsError, match="cannot be made"):
        Inbox(InboxSettings(), watched.home / "file" / "inbox", watched.intake)


def test_files_wait_while_the_database_is_away(watched, caplog):
    one, two = films(2)
    watched.start(rescan_s=0.3)
    with watched.database.write() as connection:
        connection.execute(sa.text("ALTER TABLE job RENAME TO gone"))
    watched.lay("one.dcm", one)
    watched.lay("two.dcm", two)
    eventually(lambda: "inbox waits" in caplog.text)
    assert watched.below() == {"one.dcm", "two.dcm"}
    assert watched.rows() == []
    with watched.database.write() as connection:
        connection.execute(sa.text("ALTER TABLE gone RENAME TO job"))
    eventually(lambda: watched.below() == {"done/one.dcm", "done/two.dcm"})
    assert len(watched.rows()) == 2
    waiting = [record for record in caplog.records if "inbox waits" in record.getMessage()]
    assert len(waiting) == 1  # said once, not every second


class Odd:
    @hookimpl
    def admit_instance(self, header) -> None:
        if header.patient_id == "SYN-000000000000":
            raise RuntimeError("a bug of the plugin")


def test_file_that_a_plugin_fails_on_does_not_hold_up_the_others(watched, caplog):
    watched.plugins.register(Odd(), "odd")
    first, second = films(2)
    watched.lay("a.dcm", first)
    watched.lay("b.dcm", second)
    watched.start(rescan_s=0.2)
    eventually(lambda: watched.below() == {"a.dcm", "done/b.dcm"})
    assert "a bug of the plugin" in caplog.text
    assert watched.origins() == {"file:b.dcm"}


def test_stop_ends_the_watch_at_once(watched):
    watched.start()
    thread = watched.inbox._thread
    watched.stop()
    assert not thread.is_alive()
    watched.lay("late.dcm", films(1)[0])
    assert watched.below() == {"late.dcm"}
