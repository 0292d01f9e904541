"""Models come and go while a real daemon serves."""

import json
from pathlib import Path

import pytest

from medd.testing import cheap_series, stub_bundle
from tests.support import Daemon, RawSender, running, uid_in, wait_until


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    for version in ("2", "3"):
        stub_bundle(tmp_path / "home" / "models" / f"stub-{version}", version=version)
    return Daemon(tmp_path / "home")


def send(daemon: Daemon, count: int, seed: int) -> None:
    with RawSender(daemon.port) as sender:
        sender.associate()
        for film in cheap_series(count, rows=64, columns=64, seed=seed, part10=False):
            assert sender.store(film, uid_in(film)) == (0x0000, "")
        sender.release()


def medd(daemon: Daemon, *arguments: str) -> str:
    done = daemon.medd(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def count(daemon: Daemon, where: str) -> int:
    [(found,)] = daemon.query(f"SELECT count(*) FROM prediction WHERE {where}")
    return int(found)


def test_a_promotion_under_load_loses_no_image_and_does_none_twice(daemon: Daemon) -> None:
    with running(daemon):
        for seed, version in enumerate(("2", "3", "2")):
            send(daemon, 100, seed)
            medd(daemon, "models", "promote", f"stub-{version}")
        send(daemon, 100, 9)
        wait_until(lambda: count(daemon, "current") == 400, timeout_s=120)
        wait_until(lambda: (send(daemon, 1, 10 + count(daemon, "current")), count(daemon, "model = 'stub/2'"))[1] > 0)
        wait_until(lambda: daemon.query("SELECT count(*) FROM job WHERE state <> 'done'") == [(0,)])
        assert daemon.query("SELECT count(*) FROM job WHERE attempts <> 1") == [(0,)]
        assert daemon.query("SELECT max(n) FROM (SELECT count(*) AS n FROM prediction GROUP BY instance_id)") == [(1,)]
    assert "Traceback" not in daemon.log.read_text()


def test_a_candidate_scores_in_the_shadow_and_history_is_scored_again_after_its_promotion(daemon: Daemon) -> None:
    with running(daemon):
        send(daemon, 5, 0)
        wait_until(lambda: count(daemon, "current") == 5)
        medd(daemon, "models", "candidate", "stub-2", "--why", "a trial")
        seeds = iter(range(1, 100))
        wait_until(lambda: (send(daemon, 1, next(seeds)), count(daemon, "shadow"))[1] > 0)
        rows = json.loads(medd(daemon, "results", "--format", "json"))
        assert {row["model"] for row in rows if row["model"]} == {"stub/1"}
        medd(daemon, "models", "promote", "stub/2", "--why", "it did well")
        wait_until(lambda: (send(daemon, 1, next(seeds)), count(daemon, "model = 'stub/2' AND current"))[1] > 0)
        wait_until(lambda: count(daemon, "current") == count(daemon, "NOT shadow"))
        assert "back in the queue for stub/2" in medd(daemon, "rescore", "--since", "1h")
        wait_until(lambda: count(daemon, "current AND model <> 'stub/2'") == 0)
        assert count(daemon, "NOT current AND model = 'stub/1' AND NOT shadow") >= 5, "what was shown is kept"
        assert medd(daemon, "rescore", "--since", "1h") == "0 back in the queue for stub/2\n"


def test_a_champion_that_breaks_does_not_stop_the_daemon(daemon: Daemon) -> None:
    with running(daemon):
        medd(daemon, "models", "promote", "stub-2")
        (daemon.home / "models" / "stub-2" / "stub.json").write_text("damaged")
        send(daemon, 3, 0)
        wait_until(lambda: count(daemon, "model = 'stub/1' AND current") == 3)
    with running(daemon):  # at a start as well
        send(daemon, 3, 1)
        wait_until(lambda: count(daemon, "model = 'stub/1' AND current") == 6)
        events = json.loads(medd(daemon, "models", "show", "stub/2", "--format", "json"))
        assert [event["what"] for event in events] == ["set_aside", "promoted", "registered"]
    assert "model.set_aside" in daemon.log.read_text()


def test_a_model_that_hangs_is_left_and_its_images_are_tried_again(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "home", MEDD_WORKER__STUCK_S="10", MEDD_WORKER__LEASE_S="5")
    stub_bundle(tmp_path / "home" / "stub-bundle", delay_s=3600)
    with running(daemon):
        send(daemon, 3, 0)
        wait_until(lambda: daemon.query("SELECT count(*) FROM job WHERE state = 'running'") == [(3,)])
        before = daemon.children()["work"]
        stub_bundle(tmp_path / "home" / "stub-bundle")  # what the next worker loads
        wait_until(lambda: count(daemon, "current") == 3, timeout_s=60)
        assert daemon.children()["work"] != before
        assert daemon.query("SELECT DISTINCT attempts FROM job") == [(2,)]
    assert "a batch: no end after 10 s: leaving" in daemon.log.read_text()


def test_a_plugin_that_never_returns_when_it_is_told_of_a_result_is_left(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "home", MEDD_WORKER__STUCK_S="10", MEDD_WORKER__LEASE_S="5", MEDD_WORKER__BATCH_SIZE="1")
    once = tmp_path / "once"
    once.touch()
    (daemon.home / "plugins" / "slow.py").write_text(
        "import time\nfrom pathlib import Path\nfrom medd import hookimpl\n\n\n"
        "@hookimpl\ndef prediction_recorded(prediction):\n"
        f"    if Path({str(once)!r}).exists():\n"
        f"        Path({str(once)!r}).unlink()\n"
        "        time.sleep(3600)\n"
    )
    with running(daemon):
        send(daemon, 3, 0)
        wait_until(lambda: count(daemon, "current") == 3, timeout_s=60)
        assert daemon.query("SELECT DISTINCT attempts FROM job") == [(1,)]
    assert "plugin 'slow' in prediction_recorded: no end after 10 s" in daemon.log.read_text()
