"""A full run with distinctive names, and a search for them in all that medd says of its work."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from pydicom import dcmread

from medd.testing import bad_inputs, dicom_radiograph
from tests.support import Daemon, free_port, require, running, wait_until

NAME, PATIENT, ACCESSION, BORN = "Zwiebelturm^Quirina", "PATX-77441", "ACCX-99183", "19370214"
#: In whichever form they might appear.
SECRETS = ("zwiebelturm", "quirina", "patx-77441", "accx-99183", "19370214", "1937-02-14")


def write_films(folder: Path) -> list[Path]:
    """A finding, a film below the threshold, one that is refused, one that cannot be decoded; all of one person."""
    folder.mkdir()
    paths = []
    for number, changes in enumerate(
        ({}, {"opacity": True}, {"BodyPartExamined": "HAND"}, {"Modality": "CT"}, {"ViewPosition": "LL"})
    ):
        film = dicom_radiograph(number, size=256, patient_name=NAME, patient_id=PATIENT, **changes)
        film.AccessionNumber, film.PatientBirthDate = ACCESSION, BORN
        film.PatientComments = f"{NAME} was here"
        paths.append(folder / f"{number}.dcm")
        film.save_as(paths[-1], enforce_file_format=True)
    broken = paths[0].read_bytes()
    (folder / "cut.dcm").write_bytes(broken[: len(broken) // 2].replace(b".1\0", b".7\0", 1))
    film = dcmread(paths[1])
    film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    film.BitsAllocated = 64  # nothing decodes that
    film.save_as(folder / "odd.dcm")
    files = {name: path for name, path in bad_inputs(folder / "bad").items() if path.is_file()}
    for name, path in files.items():
        data = path.read_bytes()
        (folder / "bad" / f"named-{name}").write_bytes(data + f"{NAME} {PATIENT} {BORN}".encode())
    return [*paths, folder / "cut.dcm", folder / "odd.dcm"]


def state_of_processes(daemon: Daemon) -> str:
    """What anybody on the host, or its monitoring, sees of the processes."""
    assert daemon.process is not None
    parent = psutil.Process(daemon.process.pid)
    told = []
    for process in (parent, *parent.children(recursive=True)):
        try:
            told += [*process.cmdline(), str(process.environ()), process.name()]
            told += [thread.read_text() for thread in Path(f"/proc/{process.pid}/task").glob("*/comm")]
        except (psutil.Error, OSError):  # it has just ended
            continue
    return "\n".join(told)


@pytest.mark.peers
@pytest.mark.timeout(900)
def test_nothing_that_medd_says_of_its_work_names_a_patient(tmp_path: Path) -> None:
    (storescu,) = require("storescu")
    home, web = tmp_path / "home", free_port()
    home.mkdir()
    (home / "medd.toml").write_text(
        '[study]\nquiet_s = 0.5\n[log]\nlevel = "DEBUG"\n'
        '[[destination]]\ntype = "folder"\npath = "results"\nformats = ["json", "csv", "dicom"]\n'
        # One that refuses everything, so that failures are told of too.
        f'[[destination]]\ntype = "webhook"\nurl = "http://127.0.0.1:{free_port()}/none"\n'
        "[deliver]\ngive_up_after_h = 0.0001\n"
    )
    paths = write_films(tmp_path / "films")
    daemon = Daemon(home, MEDD_WEB__ENABLED="true", MEDD_WEB__PORT=str(web), MEDD_TRACE_PLUGINS="1")
    said: dict[str, str] = {}
    with running(daemon), httpx.Client(base_url=f"http://127.0.0.1:{web}", trust_env=False, timeout=30) as client:
        command = [storescu, "-aec", "MEDD", "127.0.0.1", str(daemon.port)]
        for path in paths:
            subprocess.run([*command, str(path)], capture_output=True, check=False)
        said["medd ingest"] = text_of(daemon.medd("ingest", str(tmp_path / "films" / "bad")))
        wait_until(lambda: not daemon.query("SELECT 1 FROM job WHERE state IN ('pending', 'running')"), 60, "scores")
        wait_until(lambda: list((home / "results").rglob("*.json")), 60, "a delivery")
        wait_until(lambda: client.get("/health/live").status_code == 200, 60, "the web")
        wait_until(lambda: daemon.query("SELECT 1 FROM delivery WHERE state = 'dead'"), 60, "a dead delivery")
        browser = {"Accept": "text/html"}
        ids = [row[0] for row in daemon.query("SELECT id FROM instance")]
        studies = [row[0] for row in daemon.query("SELECT study FROM study")]
        for study in studies:  # what is asked for is logged at DEBUG, perhaps
            client.get("/case", params={"study": study}, headers=browser)
        for id_ in ids:
            client.get(f"/image/{id_}/levels")
        client.get("/", params={"text": PATIENT}, headers=browser)
        client.get("/api/v1/results", params={"patient": PATIENT})
        client.get("/api/no/such", params={"patient": PATIENT})
        client.post("/dicom-web/studies", content=f"{NAME} {PATIENT}".encode(), headers={"Content-Type": "text/plain"})
        for page in ("/metrics", "/health", "/health/live"):
            said[page] = client.get(page).text
        for arguments in (("queue", "list"), ("queue", "status"), ("doctor",), ("models", "list"), ("config", "show")):
            said[f"medd {' '.join(arguments)}"] = text_of(daemon.medd(*arguments))
        said["medd annotate"] = text_of(daemon.medd("annotate", str(ids[0]), "NORMAL"))
        said["medd purge"] = text_of(daemon.medd("purge", "--older-than", "0d"))
        said["processes"] = state_of_processes(daemon)
        assert daemon.process is not None
        assert daemon.process.stdout is not None
        os.set_blocking(daemon.process.stdout.fileno(), False)
        with contextlib.suppress(BlockingIOError):  # nothing after the ready line
            said["stdout"] = os.read(daemon.process.stdout.fileno(), 1 << 20).decode()
    said["log"] = daemon.log.read_text()
    # The test proves something: the run was a full one, at DEBUG, and the names are where they belong.
    assert daemon.query(f"SELECT count(*) FROM instance WHERE patient_id = '{PATIENT}'")[0][0] >= 5
    assert any(PATIENT in path.read_text() for path in (home / "results").rglob("*.json"))
    assert {status for (status,) in daemon.query("SELECT DISTINCT status FROM instance")} >= {"scored", "not_assessed"}
    for event in ("instance.received", "instance.scored", "instance.not_assessed", "delivery.sent", "delivery.dead"):
        assert f"event={event}" in said["log"], event
    assert " DEBUG " in said["log"]
    assert "medd_" in said["/metrics"]
    found = [
        f"{where}: {line.strip()[:200]}"
        for where, text in said.items()
        for line in text.splitlines()
        if any(secret in line.lower() for secret in SECRETS)
    ]
    assert found == []


def text_of(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def test_the_search_itself_would_find_a_name() -> None:
    assert any(secret in f"{sys.argv[0]} {NAME}".lower() for secret in SECRETS)
