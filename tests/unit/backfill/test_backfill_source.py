"""Where the files of a backfill lie, and what is remembered of them."""

import os

import pytest

from medd.backfill.door import State, Taken
from medd.backfill.journal import Journal
from medd.backfill.progress import Progress
from medd.backfill.source import Bucket, Entry, Folder, open_files
from medd.errors import SettingsError, TransientError
from medd.queue.base import CLASSIFY
from medd.records import Status
from medd.store.inserts import InstanceInserter
from tests.rows import instance_row
from tests.schema import open_new


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "archive"
    (root / "b").mkdir(parents=True)
    for name in ("b/2.dcm", "a.dcm", "c.dcm"):
        (root / name).write_bytes(name.encode())
    return root


def test_a_folder_and_the_same_folder_by_its_url_hold_the_same_files(folder):
    by_path, by_url = Folder(str(folder)), Bucket(f"file://{folder}")
    keys = [entry.key for entry in by_path.entries()]
    assert keys == ["a.dcm", "b/2.dcm", "c.dcm"]
    assert sorted(entry.key for entry in by_url.entries()) == keys
    for source in (by_path, by_url):
        with source.open("b/2.dcm") as path:
            assert path.read_bytes() == b"b/2.dcm"
    assert by_path.origin("b/2.dcm") == "file:archive/b/2.dcm"
    assert by_url.origin("b/2.dcm") == f"file://{folder}/b/2.dcm"


def test_one_file_is_an_archive_too(folder):
    file = folder / "a.dcm"
    for source in (Folder(str(file)), Bucket(f"file://{file}")):
        (entry,) = source.entries()
        with source.open(entry.key) as path:
            assert path.read_bytes() == b"a.dcm"
        assert source.origin(entry.key).endswith("a.dcm")


def test_a_name_that_is_no_utf_8_is_read_and_remembered(tmp_path, folder):
    name = os.fsdecode(b"caf\xe9.dcm")
    (folder / name).write_bytes(b"x")
    source = Folder(str(folder))
    entry = next(entry for entry in source.entries() if entry.key == name)
    with source.open(entry.key) as path:
        assert path.read_bytes() == b"x"
    journal = Journal(tmp_path / "journal", source.name)
    journal.note([(entry, "0" * 64)])
    journal.close()


def test_a_file_that_has_changed_has_another_mark(folder):
    source = Folder(str(folder))
    before = list(source.entries())
    (folder / "c.dcm").write_bytes(b"longer than before")
    after = list(source.entries())
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, False]


def test_what_cannot_be_opened_is_told_in_a_line(tmp_path):
    assert open_files(str(tmp_path / "nowhere")) is None
    with pytest.raises(SettingsError, match="strange://"):
        open_files("strange://bucket")
    with pytest.raises(TransientError, match="cannot be read"):
        list(Folder(str(tmp_path / "nowhere")).entries())


def test_only_what_the_database_knows_is_passed_over(tmp_path):
    database = open_new(tmp_path / "medd.db")
    inserter = InstanceInserter(database, CLASSIFY)
    row = instance_row(1)
    inserter.add([row])
    inserter.close()
    here, gone, changed, new = (Entry(name, "1-1") for name in ("here", "gone", "changed", "new"))
    journal = Journal(tmp_path / "journal", "archive")
    journal.note([(here, row["sha256"]), (gone, "0" * 64), (Entry("changed", "1-0"), row["sha256"])])
    journal.close()
    for name, expected in (("archive", Status.PENDING), ("another archive", None)):
        journal = Journal(tmp_path / "journal", name)
        found = dict(journal.sift([here, gone, changed, new], database))
        assert found == {here: expected, gone: None, changed: None, new: None}
        journal.close()
    database.close()


def test_the_figures_count_each_file_once_and_what_waits_as_not_done():
    progress = Progress(total=5)
    for state in (State.QUEUED, State.QUEUED, State.NOT_ASSESSED, State.FAILED):
        progress.add(Taken(Entry("x", ""), state, detail="x: cannot be read"))
    progress.skip(Status.SCORED)
    progress.left = 2
    assert progress.done == 3
    assert progress.line().startswith("3 of 5 films")
    assert progress.failures == ["x: cannot be read"]
    expected = "5 films: 2 taken in, 1 here already, 1 not assessed, 1 could not be read; 2 of them still to be scored"
    assert progress.summary().startswith(expected)
