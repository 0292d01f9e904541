"""What was scored reaches every destination exactly once, whatever becomes of the deliverer meanwhile."""

import random
import time
from pathlib import Path

import psutil
import pydicom
import pytest

from medd.testing import cheap_series
from tests.peers import OrthancArchive
from tests.support import Daemon, free_port, running, wait_until

pytestmark = pytest.mark.peers

SETTINGS = """
[study]
quiet_s = 0.2
max_wait_s = 5

[deliver]
poll_s = 0.1
lease_s = 5

[[destination]]
type = "pacs"
name = "main"
host = "127.0.0.1"
port = {port}
ae_title = "ORTHANC"

[[destination]]
type = "folder"
formats = ["json", "dicom"]
"""


def deliver(tmp_path: Path, studies: int, kills: int, seed: int) -> None:
    dicom_port = free_port()
    daemon = Daemon(tmp_path / "home")
    (daemon.home / "medd.toml").write_text(SETTINGS.format(port=dicom_port))
    orthanc = OrthancArchive(tmp_path / "orthanc", {"MEDD": daemon.port}, port=dicom_port).start()
    chance = random.Random(seed)
    films = tmp_path / "films"
    films.mkdir()
    for number, data in enumerate(cheap_series(studies, rows=64, columns=64, seed=seed)):
        (films / f"{number:04d}.dcm").write_bytes(data)
    sent_again = 0
    try:
        with running(daemon):
            assert daemon.medd("ingest", str(films)).returncode == 0
            for moment in sorted(chance.sample(range(1, 2 * studies - 2), kills)):
                wait_until(lambda moment=moment: count(daemon, "done") >= moment, 600, f"delivery {moment}")
                time.sleep(chance.uniform(0, 0.05))
                psutil.Process(daemon.children()["deliver"]).kill()
                sent_again += count(daemon, "running")
                wait_until(lambda: "deliver" in daemon.children(), 60, "the deliverer's restart")
            wait_until(lambda: count(daemon, "done") == 2 * studies, 600, "the last delivery")
            assert sent_again > 0, "no kill hit a delivery: the test proves nothing"
            statistics = orthanc.get("/statistics")
            assert statistics["CountStudies"] == studies
            assert statistics["CountSeries"] == statistics["CountInstances"] == 2 * studies, (
                "a report and a picture each"
            )
            folder = daemon.home / "results"
            assert len(list(folder.glob("*.json"))) == studies
            written = [pydicom.dcmread(path, stop_before_pixels=True) for path in folder.glob("*.dcm")]
            assert len({one.SOPInstanceUID for one in written}) == len(written) == 3 * studies
            ours = {one.SOPInstanceUID for one in written}
            theirs = {
                orthanc.get(f"/instances/{id_}/simplified-tags")["SOPInstanceUID"] for id_ in orthanc.get("/instances")
            }
            assert theirs <= ours, "both destinations are sent the same objects"
            assert daemon.query("SELECT count(*), max(number) FROM report") == [(studies, 1)]
    except BaseException:
        print(daemon.log.read_text()[-5000:])
        raise
    finally:
        orthanc.stop()


def count(daemon: Daemon, state: str) -> int:
    return int(daemon.query(f"SELECT count(*) FROM delivery WHERE state = '{state}'")[0][0])


def test_kills_of_the_deliverer_lose_and_double_nothing(tmp_path: Path) -> None:
    deliver(tmp_path, studies=40, kills=3, seed=1)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_five_hundred_studies_and_ten_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    deliver(tmp_path, studies=500, kills=10, seed=2)
