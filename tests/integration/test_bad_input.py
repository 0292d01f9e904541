"""Whatever comes in, each image ends as a row or a clear line, the daemon goes on, and what was accepted is there."""

import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pydicom
import pytest

from medd.dicom import part10
from medd.errors import InputError
from medd.testing import EXPECTED_REASONS, bad_inputs, cheap_series, dicom_radiograph, jpeg_radiograph
from tests.support import DX, EXPLICIT, IMPLICIT, VERIFICATION, Daemon, RawSender, running, uid_in, wait_until

QUICK_INBOX = '[[inbox]]\npath = "inbox"\nsettle_s = 0.3\nrescan_s = 1\n'
#: In the corpus, but no file with something to judge.
NO_INPUT = {"folder.dcm"} | ({"no_permission.dcm"} if os.geteuid() else set())


def start(home: Path, **environment: str) -> Daemon:
    home.mkdir(parents=True)
    (home / "medd.toml").write_text(QUICK_INBOX)
    return Daemon(home, **environment)


def answers_echo(daemon: Daemon) -> bool:
    with RawSender(daemon.port) as sender:
        sender.associate()
        status = sender.echo()
        sender.release()
    return status == 0


def send_films(daemon: Daemon, n: int, seed: int) -> set[str]:
    """Send sound films; their UIDs."""
    films = list(cheap_series(n, rows=64, columns=64, seed=seed, part10=False))
    with RawSender(daemon.port) as sender:
        sender.associate()
        assert {sender.store(film, uid_in(film)) for film in films} == {(0x0000, "")}
        sender.release()
    return {uid_in(film) for film in films}


def verdicts(daemon: Daemon) -> dict[str, tuple[str, str | None]]:
    """Status and reason of every row, by its origin without the scheme."""
    rows = daemon.query("SELECT origin, status, reason FROM results")
    return {origin.split(":", 1)[1]: (status, reason) for origin, status, reason in rows}


def nothing_waits(daemon: Daemon) -> bool:
    return daemon.query("SELECT count(*) FROM job WHERE state IN ('pending', 'running')") == [(0,)]


def expected(name: str) -> tuple[str, str | None]:
    reason = EXPECTED_REASONS[name]
    return ("not_assessed", str(reason)) if reason else ("scored", None)


def test_every_bad_input_laid_into_the_folder_ends_as_a_row_with_its_reason(tmp_path: Path) -> None:
    corpus = bad_inputs(tmp_path / "corpus")
    daemon = start(tmp_path / "home")
    inbox = daemon.home / "inbox"
    with running(daemon):
        before = send_films(daemon, 3, seed=1)
        for name, path in corpus.items():
            if path.is_dir():
                shutil.copytree(path, inbox / name)
            else:
                shutil.copy(path, inbox / name)
        (inbox / "gone.dcm").write_bytes(b"soon gone")
        (inbox / "gone.dcm").unlink()
        (inbox / "link.dcm").symlink_to("/etc/hostname")
        (inbox / "dangling.dcm").symlink_to("/nowhere")
        os.mkfifo(inbox / "pipe.dcm")
        files = set(corpus) - NO_INPUT
        wait_until(lambda: files <= set(verdicts(daemon)), 60, "a row for each file")
        wait_until(lambda: nothing_waits(daemon), 60, "the last result")
        assert answers_echo(daemon)
        after = send_films(daemon, 3, seed=2)
        wait_until(lambda: nothing_waits(daemon))
        found = verdicts(daemon)
        assert {name: found[name] for name in files} == {name: expected(name) for name in files}
        assert set(found) == files | {"//RAW@127.0.0.1"}
        scored = {uid for (uid,) in daemon.query("SELECT sop_instance_uid FROM results WHERE status = 'scored'")}
        assert before | after <= scored
        wait_until(lambda: not files & {path.name for path in inbox.iterdir()}, what="an inbox without the files")
        for path in (inbox / "rejected").glob("*.reason.txt"):
            name = path.name.removesuffix(".reason.txt")
            assert (inbox / "rejected" / name).read_bytes() == corpus[name].read_bytes()
            assert f"not assessed: {EXPECTED_REASONS[name]}" in path.read_text()
        assert (inbox / "rejected" / "text.dcm.reason.txt").exists()
        assert (inbox / "done" / "no_preamble.dcm").exists()
        assert (inbox / "folder.dcm").is_dir()
        assert (inbox / "link.dcm").is_symlink()
    assert "Traceback" not in daemon.log.read_text()


def as_sent(path: Path) -> tuple[bytes, str, str, str]:
    """A file as a sender would send it: dataset, SOP class, instance UID, transfer syntax."""
    data = path.read_bytes()
    try:
        offset, syntax = part10.split_file(data)
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        return data[offset:], str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), syntax
    except (InputError, AttributeError):
        return data, DX, "1.2.3", EXPLICIT


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # it warns of what is broken on purpose
def test_every_bad_input_sent_by_c_store_is_refused_or_ends_as_a_row_with_its_reason(tmp_path: Path) -> None:
    corpus = bad_inputs(tmp_path / "corpus")
    unreadable = {"truncated_header.dcm", "truncated_pixels.dcm", "text.dcm", "zero_bytes.dcm"}
    names = [name for name in corpus if name.endswith(".dcm") and name not in NO_INPUT]
    daemon = start(tmp_path / "home")
    with running(daemon):
        statuses = {}
        for name in names:
            dataset, sop_class, uid, syntax = as_sent(corpus[name])
            contexts = {1: (sop_class, (syntax,)), 3: (VERIFICATION, (IMPLICIT,))}
            with RawSender(daemon.port, contexts, calling=name.removesuffix(".dcm")[:16]) as sender:
                sender.associate()
                statuses[name], comment = sender.store(dataset, uid, sop_class=sop_class)
                assert bool(comment) == (statuses[name] != 0), f"{name}: {comment!r}"
                assert sender.echo() == 0
                sender.release()
        assert statuses == {name: 0xC000 if name in unreadable else 0x0000 for name in names}
        wait_until(lambda: nothing_waits(daemon), 60, "the last result")
        found = verdicts(daemon)
        assert found == {
            f"//{name.removesuffix('.dcm')[:16]}@127.0.0.1": expected(name) for name in names if name not in unreadable
        }
        # The same once more by the folder: nothing new of what is known, a row of what was refused.
        inbox = daemon.home / "inbox"
        for name in names:
            shutil.copy(corpus[name], inbox / name)
        wait_until(lambda: not set(names) & {path.name for path in inbox.iterdir()}, 60, "an inbox without the files")
        wait_until(lambda: nothing_waits(daemon))
        again = verdicts(daemon)
        assert {name for name in again if name not in found} == unreadable
        assert answers_echo(daemon)
    assert "Traceback" not in daemon.log.read_text()


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # of values that no standard allows, meant so
def test_no_name_and_no_id_of_a_patient_is_in_the_log_whatever_is_wrong_with_the_image(tmp_path: Path) -> None:
    name, patient = "GEHEIM^KARLA", "SECRET-4711"
    sound = {"patient_name": name, "patient_id": patient, "size": 128}
    too_long = patient + "X" * 80
    datasets = {
        "sound": dicom_radiograph(1, **sound),
        "lateral": dicom_radiograph(2, ViewPosition="LL", **sound),
        "hand": dicom_radiograph(3, BodyPartExamined="HAND", **sound),
        "rle": dicom_radiograph(4, transfer_syntax="1.2.840.10008.1.2.5", **sound),
        "blank": dicom_radiograph(5, PixelData=bytes(128 * 128 * 2), **sound),
    }
    with pytest.warns(UserWarning, match="PatientID|value|Value"):
        datasets["odd values"] = dicom_radiograph(
            6, patient_name=name, patient_id=too_long, size=128, PatientSex="GEHEIM", PatientBirthDate=patient
        )
    daemon = start(tmp_path / "home", MEDD_LOG__LEVEL="DEBUG")
    with running(daemon):
        folder = tmp_path / "films"
        folder.mkdir()
        for kind, dataset in datasets.items():
            dataset.save_as(folder / f"{kind}.dcm", enforce_file_format=True)
            data, sop_class, uid, syntax = as_sent(folder / f"{kind}.dcm")
            cut_in_name = data[: data.index(b"KARLA") + 3]
            with RawSender(daemon.port, {1: (sop_class, (syntax,))}) as sender:
                sender.associate()
                assert sender.store(data, uid)[0] == 0x0000
                assert sender.store(data, "1.2.3")[0] == 0xA900
                assert sender.store(cut_in_name, uid)[0] == 0xC000
                sender.send(b"GET /SECRET-4711 HTTP/1.0\r\n\r\n")
                assert sender.is_closed_by_peer()
            (daemon.home / "inbox" / f"{kind} cut.dcm").write_bytes((folder / f"{kind}.dcm").read_bytes()[:-5000])
            (daemon.home / "inbox" / f"{kind} text.dcm").write_bytes(f"{kind}: {name} {patient}".encode() * 10)
        (daemon.home / "inbox" / "film.jpg").write_bytes(jpeg_radiograph(1, size=128))
        wait_until(lambda: len(verdicts(daemon)) >= 2 * len(datasets) + 1, 60, "a row for each file")
        wait_until(lambda: nothing_waits(daemon), 60)
        assert daemon.query("SELECT count(*) FROM instance WHERE patient_id = 'SECRET-4711'")[0][0] >= 5
    log = daemon.log.read_text()
    assert "instance.received" in log
    assert "store.refused" in log
    assert not re.findall(r".*(?:GEHEIM|KARLA|SECRET).*", log)


# What is wrong before the start ---------------------------------------------------------------------------------------


def refused(daemon: Daemon, *arguments: str) -> str:
    """Start what cannot start; the one line that says why."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "medd", "serve", *arguments],
        capture_output=True,
        text=True,
        env=daemon.environment,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("medd: ")
    assert time.monotonic() - began < 30
    return line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[listener]\nprot = 11112\n", "listener.prot: no such setting"),
        ("speed = 9\n", "speed: no such setting"),
        ("[listener]\nport = 111120\n", "listener.port: "),
        ('[worker]\nprocesses = "many"\n', "worker.processes: "),
        ('[listener]\nae_title = "MUCH TOO LONG A TITLE"\n', "listener.ae_title: "),
        ('[database]\nurl = "mysql://localhost/medd"\n', "database.url: "),
        ("[listener\n", "cannot be read as TOML"),
        ('[model]\nclassifier = "nobody"\n', "no plugin brings 'nobody'"),
    ],
    ids=["unknown key", "unknown section", "port", "number", "AE title", "database", "TOML", "classifier"],
)
def test_a_mistake_in_the_settings_is_one_line(tmp_path: Path, text: str, shown: str) -> None:
    daemon = Daemon(tmp_path / "home")
    del daemon.environment["MEDD_MODEL__CLASSIFIER"], daemon.environment["MEDD_LISTENER__PORT"]
    (daemon.home / "medd.toml").write_text(text)
    assert shown in refused(daemon)


@pytest.mark.parametrize(
    ("variable", "value", "shown"),
    [
        ("MEDD_LISTENR__PORT", "1", "MEDD_LISTENR__PORT: no such setting"),
        ("MEDD_LISTENER__PROT", "1", "listener.prot: no such setting"),
        ("MEDD_LISTENER__PORT", "eleven", "listener.port: "),
        ("MEDD_LISTENER__ALLOWED_HOSTS", '["not-a-host"]', "listener.allowed_hosts: "),
        ("MEDD_HOME", "/dev/null/x", "home: /dev/null/x cannot be written"),
    ],
)
def test_a_mistake_in_the_environment_is_one_line(tmp_path: Path, variable: str, value: str, shown: str) -> None:
    daemon = Daemon(tmp_path / "home", **{variable: value})
    assert shown in refused(daemon)


def test_a_part_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    assert "--only: receive, work, deliver, web expected" in refused(Daemon(tmp_path / "home"), "--only", "recieve")


@pytest.mark.parametrize("arguments", [(), ("--only", "receive")], ids=["whole", "receiver alone"])
def test_an_occupied_port_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = Daemon(tmp_path / "home", MEDD_LISTENER__PORT=str(port))
        assert f"127.0.0.1 port {port} cannot be bound" in refused(daemon, *arguments)


@pytest.mark.parametrize(("found", "shown"), [("9999", "newer than this medd"), ("0000", "Run `medd db upgrade`")])
def test_a_schema_that_does_not_fit_is_one_line(tmp_path: Path, found: str, shown: str) -> None:
    daemon = Daemon(tmp_path / "home")
    with closing(sqlite3.connect(daemon.home / "medd.db")) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.execute("INSERT INTO alembic_version VALUES (?)", (found,))
        connection.commit()
    assert shown in refused(daemon)


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "home")
    (daemon.home / "medd.db").write_bytes(b"this is not a database, and longer than a header of SQLite" * 100)
    done = subprocess.run(
        [sys.executable, "-m", "medd", "serve"],
        capture_output=True,
        text=True,
        env=daemon.environment,
        check=False,
        timeout=60,
    )
    assert done.returncode in (1, 2)
    [line] = done.stderr.splitlines()
    assert line.startswith("medd: database")


BAD_PLUGINS = {
    "misspelt": (
        "from medd import hookimpl\n\n@hookimpl\ndef register_clasifiers():\n    return []\n",
        "register_clasifiers",
    ),
    "pneumonia": ("", "is there twice"),
    "raises": ("raise RuntimeError('no licence found')\n", "no licence found"),
    "broken": ("def this is no Python\n", "SyntaxError"),
    "second_stub": (
        "from medd.testing.stub_plugin import register_classifiers\n",
        "both bring a classifier 'stub'",
    ),
    "late": (
        "from medd import hookimpl\n\n@hookimpl\ndef register_classifiers():\n    raise KeyError('late')\n",
        "register_classifiers raised KeyError",
    ),
    "exits": ("import sys\nsys.exit('goodbye')\n", "goodbye"),
}


@pytest.mark.parametrize("name", BAD_PLUGINS)
def test_a_bad_plugin_is_refused_by_one_line_that_names_it(tmp_path: Path, name: str) -> None:
    source, shown = BAD_PLUGINS[name]
    daemon = Daemon(tmp_path / "home")
    (daemon.home / "plugins" / f"{name}.py").write_text(source)
    line = refused(daemon)
    assert name in line
    assert shown in line
