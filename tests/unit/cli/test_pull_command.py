"""``medd pull`` and ``medd echo``: wrong calls, exit codes, and what they say."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification
from typer.testing import CliRunner

from medd.cli.main import app, main
from medd.dicom import network
from medd.errors import TransientError
from medd.ingest import pull as pulling
from medd.ingest.query import FoundSeries, FoundStudy, Query, Source, Tally
from tests.support import free_port

UID = "1.2.826.0.1.3680043.8.498.1"


class Shelf(Source):
    """An archive of three studies, of which the second has an image that it cannot give."""

    name = "shelf"

    def __init__(self) -> None:
        self.queries: list[Query] = []

    def find(self, query: Query) -> list[FoundStudy]:
        self.queries.append(query)
        if query.patient_id == "away":
            raise TransientError("shelf: away")
        return [FoundStudy(f"1.{n}", f"2026010{n}", "", ("DX",), f"P{n}", f"A{n}", 2) for n in (1, 2, 3)]

    def find_series(self, study_instance_uid: str, modalities: tuple[str, ...]) -> list[FoundSeries]:
        return [FoundSeries("1.2")]

    def fetch(self, study_instance_uid: str, modalities: tuple[str, ...], tally: Tally) -> bool:
        tally.begin(self.find_series(study_instance_uid, modalities))
        tally.received |= {f"{study_instance_uid}.1", f"{study_instance_uid}.2"}
        tally.failed = 1 if study_instance_uid == "1.2" else 0
        return True


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    made = Shelf()
    monkeypatch.setattr(pulling, "open_source", lambda *_: made)
    monkeypatch.setattr(pulling, "RETRY_DELAYS_S", ())
    return made


def medd(home: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments, "--home", str(home)])


def fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path, *arguments: str) -> str:
    """Run a wrong call as a user does: its line on stderr, with exit code 2."""
    monkeypatch.setattr("sys.argv", ["medd", *arguments, "--home", str(home)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "all of an archive is too much"),
        (["--date", "20260101", "--days", "2"], "not both"),
        (["--date", "January"], "YYYYMMDD"),
        (["--patient", "*"], "patient"),
        (["--accession", "A\\B"], "accession"),
        (["--study", "1.2.*"], "Study Instance UID"),
        (["--days", "1", "--modality", "*"], "modality"),
        (["--days", "99999999"], "calendar"),
    ],
)
def test_wrong_calls_are_refused_before_anything_is_asked(
    tmp_path: Path,
    shelf: Shelf,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    what: str,
) -> None:
    assert what in fail(monkeypatch, capsys, tmp_path, "pull", "--from", "shelf", *arguments)
    assert shelf.queries == []


def test_an_unknown_archive_is_refused_by_naming_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "known are: none" in fail(monkeypatch, capsys, tmp_path, "pull", "--from", "x", "--days", "1")
    (tmp_path / "medd.toml").write_text(
        '[[peer]]\nname = "archive"\nhost = "10.0.0.1"\nae_title = "A"\n[[dicomweb]]\nname = "web"\nurl = "http://h/d"\n'
    )
    assert "archive, web" in fail(monkeypatch, capsys, tmp_path, "pull", "--from", "x", "--days", "1")
    assert "known are: archive" in fail(monkeypatch, capsys, tmp_path, "echo", "web")


def test_filters_reach_the_archive(tmp_path: Path, shelf: Shelf) -> None:
    medd(
        tmp_path,
        *("pull", "--from", "shelf", "--date", "20260101-20260131", "--modality", "CR", "--modality", "RG"),
        *("--patient", "P1", "--accession", "A1", "--study", UID, "--dry-run"),
    )
    [query] = shelf.queries
    assert (query.date_range, query.modalities) == ("20260101-20260131", ("CR", "RG"))
    assert (query.patient_id, query.accession_number, query.study_instance_uid) == ("P1", "A1", UID)


def test_a_study_that_fails_makes_exit_code_1_and_is_asked_for_again(tmp_path: Path, shelf: Shelf) -> None:
    done = medd(tmp_path, "pull", "--from", "shelf", "--limit", "5", "--format", "json")
    assert done.exit_code == 1
    rows = json.loads(done.stdout)
    assert [(row["study_instance_uid"], row["state"], row["images"], row["failed"]) for row in rows] == [
        ("1.3", "fetched", 2, 0),
        ("1.2", "failed", 2, 1),
        ("1.1", "fetched", 2, 0),
    ]
    assert "2 studies fetched with 6 images, 1 failed, 0 known already" in done.stderr
    listed = medd(tmp_path, "pull", "--from", "shelf", "--limit", "5", "--dry-run", "--format", "jsonl")
    assert listed.exit_code == 0
    assert [json.loads(line)["study_instance_uid"] for line in listed.stdout.splitlines()] == ["1.2"]
    assert "1 to be fetched, 2 known already" in listed.stderr


def test_an_archive_that_is_away_makes_exit_code_1(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["medd", "pull", "--from", "s", "--patient", "away", "--home", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert capsys.readouterr().err == "medd: shelf: away\n"


# pynetdicom leaves the socket of a connection that was refused to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_echo_says_which_peer_does_not_answer(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "medd.toml").write_text(
        f'[[peer]]\nname = "gone"\nhost = "127.0.0.1"\nport = {port}\nae_title = "GONE"\ntimeout_s = 2\n'
    )
    done = medd(tmp_path, "echo", "--format", "json")
    assert done.exit_code == 1
    [row] = json.loads(done.stdout)
    assert (row["name"], row["address"], row["answers"]) == ("gone", f"GONE@127.0.0.1:{port}", False)
    assert "cannot be reached" in row["error"]


@pytest.mark.parametrize("host", ["nonexist.invalid", "x" * 64 + ".invalid"])
def test_echo_says_that_a_name_is_known_to_nobody(tmp_path: Path, host: str) -> None:
    done = medd(tmp_path, "echo", f"{host}:104", "--format", "json")
    assert done.exit_code == 1
    [row] = json.loads(done.stdout)
    assert not row["answers"]
    assert "cannot be reached" in row["error"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_echo_of_a_peer_that_leaves_at_once_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    server = AE("GONE")
    server.add_supported_context(Verification)
    port = free_port()
    started = server.start_server(("127.0.0.1", port), block=False)
    prepare = network._prepare_socket

    def leave(association: Association, timeout_s: float) -> None:
        if moment == "before":
            raise OSError(errno.EBADF, "Bad file descriptor")
        prepare(association, timeout_s)
        association.abort()

    monkeypatch.setattr(network, "_prepare_socket", leave)
    try:
        done = medd(tmp_path, "echo", f"127.0.0.1:{port}", "--format", "json")
    finally:
        started.shutdown()
    assert done.exit_code == 1
    [row] = json.loads(done.stdout)
    assert "went away" in row["error"] or "is gone" in row["error"]


@pytest.mark.parametrize("target", ["127.0.0.1:x", "127.0.0.1:0", "127.0.0.1:99999"])
def test_echo_refuses_what_is_no_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    assert "port" in fail(monkeypatch, capsys, tmp_path, "echo", target)


def test_echo_without_any_peer_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "[[peer]]" in fail(monkeypatch, capsys, tmp_path, "echo")
