"""`medd backfill` in processes of its own: every film once, whatever is stopped, and live images first."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medd.testing import dicom_radiograph, stub_bundle, write_stub_plugin
from medd.testing.films import cheap_series
from tests.bucket import CREDENTIALS, S3Server
from tests.peers import Dcmqrscp
from tests.ray_cluster import RayCluster
from tests.support import Daemon, running, wait_until

ONCE = "SELECT count(*), count(DISTINCT instance_id) FROM prediction"


def write_films(folder: Path, count: int, size: int = 64, seed: int = 7) -> Path:
    """Films in folders of 500."""
    for number, data in enumerate(cheap_series(count, rows=size, columns=size, seed=seed)):
        file = folder / f"{number // 500:03d}" / f"{number:06d}.dcm"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder


class Archive(Daemon):
    """A home with the stub, and `medd backfill` on it."""

    def __init__(self, tmp_path: Path, delay_s: float = 0, **environment: str) -> None:
        home = tmp_path / "home"
        write_stub_plugin(home / "plugins", stub_bundle(tmp_path / "bundle", delay_s=delay_s))
        # A lease of another process comes back soon; Ray's workers are not to be nicer than the tests.
        super().__init__(home, **({"MEDD_WORKER__LEASE_S": "3", "RAY_worker_niceness": "0"} | environment))

    def begin(self, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "medd", "backfill", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=self.environment, **pipes)

    def scored(self) -> int:
        if not (self.home / "medd.db").exists() or not self.query("SELECT 1 FROM sqlite_master WHERE name = 'job'"):
            return 0
        return self.query("SELECT count(*) FROM prediction")[0][0]


def test_a_folder_is_scored_once_and_its_results_are_not_delivered(tmp_path):
    archive = Archive(tmp_path)
    (archive.home / "medd.toml").write_text('[[destination]]\ntype = "folder"\nformats = ["json"]\n')
    folder = write_films(tmp_path / "films", 30)
    (folder / "again.dcm").write_bytes((folder / "000" / "000003.dcm").read_bytes())
    (folder / "letter.txt").write_text("no image at all")
    done = archive.medd("backfill", str(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("32 films: 31 taken in, 1 not assessed; "), done.stdout
    assert archive.query(ONCE) == [(30, 30)]
    assert archive.query("SELECT count(*) FROM delivery") == [(0,)]
    again = archive.medd("backfill", str(folder))
    assert again.stdout.startswith("32 films: 32 here already; ")
    (archive.home / "backfill.journal").unlink()
    read_again = archive.medd("backfill", str(folder))
    assert read_again.stdout.startswith("32 films: 32 here already; "), "the database decides, not the journal"
    assert archive.query(ONCE) == [(30, 30)]


def test_one_that_is_killed_goes_on_and_one_that_is_stopped_says_so(tmp_path):
    archive = Archive(tmp_path, delay_s=0.3, MEDD_WORKER__BATCH_SIZE="4")
    folder = str(write_films(tmp_path / "films", 60))
    for scored, how in ((4, signal.SIGKILL), (16, signal.SIGTERM)):
        run = archive.begin(folder)
        wait_until(lambda least=scored: archive.scored() >= least, what=f"{scored} films scored")
        run.send_signal(how)
        out, err = run.communicate(timeout=60)
        assert run.returncode in (1, -signal.SIGKILL), err
    assert out.startswith("stopped; the same command goes on: ")
    assert archive.scored() < 60, "nothing was broken off: the test proves nothing"
    assert archive.medd("backfill", folder).returncode == 0
    assert archive.query(ONCE) == [(60, 60)]
    assert archive.query("SELECT count(*) FROM job WHERE state = 'done'") == [(60,)]


def test_what_comes_in_live_does_not_wait_for_the_backfill(tmp_path):
    archive = Archive(tmp_path, delay_s=0.2, MEDD_WORKER__BATCH_SIZE="4")
    folder = str(write_films(tmp_path / "films", 120))
    live = write_films(tmp_path / "live", 1, seed=8)
    with running(archive):
        run = archive.begin(folder)
        wait_until(lambda: archive.scored() >= 8, what="the backfill is at work")
        assert archive.medd("ingest", str(live)).returncode == 0
        taken_in = "(SELECT received_at FROM instance ORDER BY received_at DESC LIMIT 1)"
        mine = "SELECT scored_at FROM prediction JOIN job USING (instance_id) WHERE priority = 0"
        wait_until(lambda: archive.query(mine), what="the live image's result")
        before = f"SELECT count(*) FROM prediction WHERE scored_at > {taken_in} AND scored_at < ({mine})"
        # The batch that each of the two workers had in hand, and one that was just being claimed.
        assert archive.query(before)[0][0] <= 3 * 4
        assert archive.scored() < 121, "the backfill was through already: the test proves nothing"
        assert run.communicate(timeout=120)[0].startswith("120 films: 120 taken in")
    assert archive.query(ONCE) == [(121, 121)]


def test_a_bucket_is_an_archive(tmp_path):
    server = S3Server().start().wait()
    try:
        import boto3

        keys = [CREDENTIALS[f"AWS_{name}"] for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")]
        client = boto3.Session(*keys).client("s3", endpoint_url=server.url, region_name="us-east-1")
        for file in sorted(write_films(tmp_path / "films", 20).rglob("*.dcm")):
            client.put_object(Bucket="films", Key=f"2016/{file.name}", Body=file.read_bytes())
        client.close()
        archive = Archive(tmp_path, AWS_ENDPOINT_URL=server.url, **CREDENTIALS)
        done = archive.medd("backfill", "s3://films/2016")
        assert done.stdout.startswith("20 films: 20 taken in; "), done.stderr
        assert archive.query("SELECT DISTINCT substr(origin, 1, 16) FROM instance") == [("s3://films/2016/",)]
        assert archive.medd("backfill", "s3://films/2016").stdout.startswith("20 films: 20 here already; ")
    finally:
        server.stop()
    away = archive.medd("backfill", "s3://films/2016")
    assert away.returncode == 1
    assert "cannot be listed" in away.stderr
    assert "Traceback" not in away.stderr


@pytest.mark.peers
def test_a_pacs_is_an_archive_where_it_sends_to_us_alone(tmp_path):
    archive = Archive(tmp_path)
    pacs = Dcmqrscp(tmp_path / "peer").start()
    table = '[[peer]]\nname = "{how}"\nhost = "127.0.0.1"\nport = {port}\nae_title = "QRSCP"\nretrieve = "{how}"\n'
    settings = "".join(table.format(how=how, port=pacs.port) for how in ("get", "move"))
    (archive.home / "medd.toml").write_text(settings + '[[destination]]\ntype = "folder"\nformats = ["json"]\n')
    try:
        pacs.hold(dicom_radiograph(number, size=64, StudyDate=f"2016010{number}") for number in range(1, 5))
        done = archive.medd("backfill", "get", "--date", "20160101-20160103")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("3 films: 3 taken in; ")
        again = archive.medd("backfill", "get", "--date", "20160101-20160104")
        assert again.stdout.startswith("1 films: 1 taken in; "), "what was fetched is not asked for again"
        assert archive.query(ONCE) == [(4, 4)]
        assert archive.query("SELECT count(*) FROM delivery") == [(0,)]
        live = archive.medd("backfill", "move", "--date", "20160101")
        assert (live.returncode, "C-MOVE" in live.stderr) == (2, True)
    finally:
        pacs.stop()


def test_what_cannot_be_is_refused_in_a_line(tmp_path):
    archive = Archive(tmp_path)
    for arguments, told in (
        (["/nowhere"], "no file or folder of this name"),
        (["/nowhere", "--date", "20160101"], "no archive of this name"),
        ([str(tmp_path), "--decoders", "2"], "are for files with --engine ray"),
    ):
        refused = archive.medd("backfill", *arguments)
        assert refused.returncode == 2
        assert told in refused.stderr
        assert "Traceback" not in refused.stderr


def on_a_cluster(tmp_path: Path, films: int, kill_at: int, delay_s: float, timeout_s: float) -> None:
    """Backfill on a cluster of three nodes, of which one is killed when so many films are scored."""
    archive = Archive(tmp_path, delay_s, MEDD_WORKER__BATCH_SIZE="8", MEDD_WORKER__LEASE_S="10")
    folder = write_films(tmp_path / "films", films, size=224)
    with RayCluster(nodes=2) as cluster:
        run = archive.begin(str(folder), "--engine", "ray", "--address", cluster.address, "--predictors", "2")
        try:
            wait_until(lambda: archive.scored() >= kill_at, timeout_s, f"{kill_at} films scored")
            cluster.kill_node()
            at_the_kill = archive.scored()
            out, err = run.communicate(timeout=timeout_s)
        finally:
            run.kill()
        print(f"a node killed when {at_the_kill} films were scored; {out}", os.linesep, err)
    assert at_the_kill < films, "the backfill was through already: the test proves nothing"
    assert run.returncode == 0, err
    assert out.startswith(f"{films} films: ")
    assert archive.query(ONCE) == [(films, films)]
    assert archive.query("SELECT count(*), count(DISTINCT sha256) FROM instance WHERE status = 'scored'") == [
        (films, films)
    ]
    assert archive.query("SELECT state, count(*) FROM job GROUP BY state") == [("done", films)]
    assert archive.medd("backfill", str(folder)).stdout.startswith(f"{films} films: {films} here already")


def test_a_node_that_is_killed_loses_and_doubles_nothing(tmp_path):
    on_a_cluster(tmp_path, films=120, kill_at=16, delay_s=0.2, timeout_s=120)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_node_killed_in_the_middle_of_five_thousand_films(tmp_path):
    on_a_cluster(tmp_path, films=5000, kill_at=2000, delay_s=0, timeout_s=1500)
