"""`medd load` against real receivers and into folders."""

import hashlib
import io
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pynetdicom import AE, evt
from typer.testing import CliRunner

from medd.cli.main import app
from medd.dicom.part10 import encode_file_meta
from medd.errors import SettingsError
from medd.load.aim import Scp, find_target
from medd.load.images import SYNTAXES, Images, Mix
from medd.settings import Settings
from tests.support import DX, EXPLICIT, Daemon, free_port, running


@pytest.fixture
def stalling_scp():
    """A receiver that takes a second for its tenth image, and no time for the others; its port."""
    seen = Counter()

    def store(event):
        seen["images"] += 1
        if seen["images"] == 10:
            time.sleep(1.0)
        return 0x0000 if seen["images"] % 20 else 0xA700

    entity = AE("STALL")
    entity.add_supported_context(DX, EXPLICIT)
    port = free_port()
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    yield port
    server.shutdown()


def load(*arguments: object) -> tuple[int, dict]:
    done = CliRunner().invoke(app, ["load", *map(str, arguments), "--format", "json"])
    assert done.stdout, done.output
    return done.exit_code, json.loads(done.stdout)


@pytest.mark.parametrize("name", SYNTAXES)
def test_images_of_every_transfer_syntax_can_be_decoded(name: str) -> None:
    images = list(Images(Mix(size=97, transfer_syntax=name, seed=3, images_per_study=2)).make(3))
    decoded = []
    for one in images:
        meta = encode_file_meta(one.sop_class_uid, one.sop_instance_uid, one.transfer_syntax_uid)
        decoded.append(pydicom.dcmread(io.BytesIO(meta + one.dataset)))
    assert [ds.SOPInstanceUID for ds in decoded] == [one.sop_instance_uid for one in images]
    assert len({ds.SOPInstanceUID for ds in decoded}) == 3
    assert [ds.StudyInstanceUID == decoded[0].StudyInstanceUID for ds in decoded] == [True, True, False]
    [plain] = Images(Mix(size=97, seed=3)).make(1)
    film = np.frombuffer(plain.dataset[-97 * 97 * 2 :], "<u2").reshape(97, 97)[1:].astype(float)
    pixels = decoded[0].pixel_array[1:].astype(float) * (4095 / 255 if name == "jpeg" else 1)
    assert np.abs(pixels - film).max() <= (250 if name == "jpeg" else 0)


def test_a_daemon_gets_each_image_once_and_the_journal_says_which(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    with running(Daemon(tmp_path / "home", "--only", "receive")) as daemon:
        target = f"MEDD@127.0.0.1:{daemon.port}"
        wanted = ("--count", 60, "--size", 64, "--senders", 3, "--seed", 5, "--bad", 0.3, "--per-association", 7)
        code, report = load(target, *wanted, "--journal", journal)
        assert code == 0, report
        assert report["images"] == report["answered"] == 60
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        kinds = Counter(line["status"] for line in lines)
        assert kinds["0x0000"] == report["success"]
        assert report["refused"] == {word: count for word, count in kinds.items() if word != "0x0000"}
        taken = {line["sha256"]: line for line in lines if line["status"] == "0x0000"}
        rows = dict(daemon.query("SELECT sha256, sop_instance_uid FROM instance"))
        assert rows == {sha256: line["uid"] for sha256, line in taken.items()}
        assert 5 < sum(bool(line["bad"]) for line in lines) < 35
        assert load(target, *wanted)[1]["success"] == report["success"]
        assert len(daemon.query("SELECT id FROM instance")) == len(rows), "the same seed gives the same images"


def test_a_stall_shows_in_the_latencies_of_all_images_that_were_due_meanwhile(stalling_scp: int) -> None:
    code, report = load(f"STALL@127.0.0.1:{stalling_scp}", "--count", 60, "--rate", 40, "--size", 32)
    assert code == 0
    assert report["refused"] == {"0xA700": 3}
    assert report["success"] == 57
    assert report["latency_ms"]["max"] >= 1000
    assert report["latency_ms"]["p50"] > 100 > report["service_ms"]["p50"]


def test_what_is_refused_for_the_time_being_is_sent_again(stalling_scp: int) -> None:
    code, report = load(f"STALL@127.0.0.1:{stalling_scp}", "--count", 40, "--size", 32, "--retry-s", 30)
    assert (code, report["success"], report["sent_again"]) == (0, 40, 2)


def test_images_that_nobody_answers_make_exit_code_1(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    code, report = load(f"X@127.0.0.1:{free_port()}", "--count", 3, "--size", 32, "--journal", journal)
    assert code == 1
    assert report["unanswered"] == {"connection refused": 3}
    assert [json.loads(line)["status"] for line in journal.read_text().splitlines()] == [None] * 3


def test_a_folder_gets_whole_files(tmp_path: Path) -> None:
    code, report = load(tmp_path, "--count", 12, "--size", 32, "--transfer-syntax", "deflated")
    assert (code, report["success"]) == (0, 12)
    assert len({pydicom.dcmread(path).SOPInstanceUID for path in tmp_path.glob("*.dcm")}) == 12
    assert not list(tmp_path.glob("*.part"))


def test_ctrl_c_ends_it_with_the_report(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    command = [sys.executable, "-m", "medd", "load", str(tmp_path), "--count", "0", "--rate", "100", "--size", "32"]
    with subprocess.Popen([*command, "--format", "json", "--journal", str(journal)], stdout=subprocess.PIPE) as running:
        while not journal.exists() or journal.stat().st_size < 500:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=30)
    report = json.loads(out)
    assert running.returncode == 0
    assert report["images"] == report["success"] == len(journal.read_text().splitlines()) > 0


def test_only_this_machine_is_sent_to_unless_the_host_is_named(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        peer=[{"name": "archive", "host": "192.0.2.7", "port": 104, "ae_title": "PACS"}],
        listener={"port": 11119},
        destination=[{"type": "folder", "path": "out"}],
    )
    (tmp_path / "inbox").mkdir()
    for target, host in (
        ("PACS@192.0.2.7:104", "192.0.2.7"),
        ("archive", "192.0.2.7"),
        ("MEDD@localhost:11119", "localhost"),  # this home's own receiver, which delivers
        (str(tmp_path / "inbox"), str(tmp_path / "inbox")),
    ):
        for named in ("", "127.0.0.1", "archive"):
            with pytest.raises(SettingsError, match="--yes-send-to"):
                find_target(settings, target, named, 1)
        assert find_target(settings, target, host, 1)
    other = find_target(settings, "MEDD@[::1]:11112", "", 1)
    assert isinstance(other, Scp)
    assert other.address == ("::1", 11112)
    for nothing in ("nobody", "A@b", "MEDD@127.0.0.1:99999", str(tmp_path / "missing")):
        with pytest.raises(SettingsError):
            find_target(settings, nothing, "", 1)


def test_digests_of_the_journal_are_of_the_datasets_as_sent(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    load(tmp_path, "--count", 2, "--size", 32, "--seed", 9, "--journal", journal)
    made = [hashlib.sha256(one.dataset).hexdigest() for one in Images(Mix(size=32, seed=9)).make(2)]
    assert [json.loads(line)["sha256"] for line in journal.read_text().splitlines()] == made
