"""What people do in the browser reaches the processes of a real daemon."""

import contextlib
import re
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from medd.testing import cheap_series, stub_bundle
from tests.support import Daemon, RawSender, running, uid_in, wait_until
from tests.web import BROWSER

HOOK = """
[study]
quiet_s = 0.2
max_wait_s = 2

[worker]
max_attempts = 1

[deliver]
poll_s = 0.1

[[destination]]
type = "webhook"
name = "triage"
url = "http://127.0.0.1:{port}/medd"
"""


def with_web(home: Path, *arguments: str) -> Daemon:
    return Daemon(home, *arguments, MEDD_WEB__ENABLED="true", MEDD_WEB__PORT="0")


@contextlib.contextmanager
def browser(daemon: Daemon) -> Iterator[httpx.Client]:
    """Somebody at a browser, on the pages of a daemon."""
    found = wait_until(lambda: re.findall(r"web-0 is ready: reading room at (\S+)", daemon.log.read_text()))
    url = str(found[-1])
    headers = BROWSER | {"Origin": url.rstrip("/")}
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30, follow_redirects=True) as client:
        yield client


def send(daemon: Daemon, count: int, seed: int = 0) -> None:
    with RawSender(daemon.port) as sender:
        sender.associate()
        for film in cheap_series(count, rows=64, columns=64, seed=seed, part10=False):
            assert sender.store(film, uid_in(film)) == (0x0000, "")
        sender.release()


def count(daemon: Daemon, what: str) -> int:
    [(found,)] = daemon.query(f"SELECT count(*) FROM {what}")
    return int(found)


def checks(client: httpx.Client) -> tuple[int, dict[str, str]]:
    answer = client.get("/health")
    return answer.status_code, {one["name"]: one["state"] for one in answer.json()["checks"]}


class Hook:
    """A receiver of results that may refuse them."""

    def __init__(self) -> None:
        self.status = 403
        self.received: list[bytes] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if hook.status == 200:
                    hook.received.append(body)
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.close()


def test_what_was_given_up_is_mended_and_brought_back(tmp_path: Path, hook: Hook) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "medd.toml").write_text(HOOK.format(port=hook.port))
    with running(Daemon(home, "--only", "receive")) as daemon:
        send(daemon, 2)
    [(sha256,)] = daemon.query("SELECT sha256 FROM instance ORDER BY id LIMIT 1")
    [file] = (home / "spool").glob(f"*/{sha256}.dcm")
    whole = file.read_bytes()
    file.write_bytes(whole[:-100] + bytes(100))
    with running(with_web(home)) as daemon, browser(daemon) as client:
        wait_until(lambda: count(daemon, "job WHERE state = 'dead'") == 1)
        wait_until(lambda: count(daemon, "delivery WHERE state = 'dead'") == 2)
        page = client.get("/operations").text
        assert "is not what was received: it is damaged" in page
        assert "delivery to triage" in page
        wait_until(lambda: checks(client)[1].get("queue") == "warn")

        file.write_bytes(whole)
        [(id_,)] = daemon.query("SELECT instance_id FROM job WHERE state = 'dead'")
        assert client.post("/operations/retry", data={"what": "jobs", "id": id_}).status_code == 200
        wait_until(lambda: count(daemon, "instance WHERE status = 'scored'") == 2)

        hook.status = 200
        wait_until(lambda: count(daemon, "delivery WHERE state IN ('pending', 'running')") == 0)
        client.post("/operations/retry", data={"what": "deliveries", "destination": "triage"})
        wait_until(lambda: count(daemon, "delivery WHERE state = 'done'") == 2)
        assert len(hook.received) == 2
        wait_until(lambda: checks(client) == (200, dict.fromkeys(checks(client)[1], "ok")))
        page = client.get("/operations").text
        assert "delivery to triage" not in page
    actions = daemon.query("SELECT account, detail FROM audit WHERE action = 'work_retried' ORDER BY id")
    assert actions == [("local", f"jobs: {id_}"), ("local", "deliveries: all to triage")]


def test_a_promotion_and_a_rollback_reach_a_running_worker(tmp_path: Path) -> None:
    home = tmp_path / "home"
    stub_bundle(home / "models" / "stub-2", version="2")
    daemon = with_web(home)
    with running(daemon), browser(daemon) as client:
        send(daemon, 1)
        wait_until(lambda: count(daemon, "prediction WHERE model = 'stub/1'") == 1)
        assert daemon.medd("models", "register", "stub-2").returncode == 0

        done = client.post("/models/promote", data={"model": "stub/2", "why": "it did well in the trial"})
        assert (done.status_code, done.url.path) == (200, "/models")
        assert "It is on duty." in done.text
        seeds = iter(range(1, 100))
        wait_until(lambda: (send(daemon, 1, next(seeds)), count(daemon, "prediction WHERE model = 'stub/2'"))[1] > 0)
        assert daemon.query("SELECT role FROM model_version WHERE version = '2'") == [("champion",)]

        assert "Roll back to stub/1" in client.get("/models").text
        client.post("/models/rollback", data={"why": "findings are missed"})
        before = count(daemon, "prediction WHERE model = 'stub/1'")
        wait_until(
            lambda: (send(daemon, 1, next(seeds)), count(daemon, "prediction WHERE model = 'stub/1'"))[1] > before
        )
        # A sign of life says which model a worker has loaded.
        wait_until(lambda: daemon.query("SELECT doing FROM process WHERE stage = 'work'") == [("stub/1",)])
        assert "The worker has it loaded." in client.get("/models").text
    events = daemon.query("SELECT what, model, who, why FROM model_event ORDER BY id DESC LIMIT 2")
    assert events == [
        ("rolled_back", "stub/1", "local", "findings are missed"),
        ("promoted", "stub/2", "local", "it did well in the trial"),
    ]
    assert count(daemon, "audit WHERE action = 'model_changed'") == 2


def test_health_tells_that_no_worker_lives_and_that_one_does_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    daemon = with_web(home, "--only", "receive,web")
    with running(daemon), browser(daemon) as client:
        wait_until(lambda: checks(client)[1].get("port") == "ok")
        status, found = checks(client)
        assert status == 503
        assert (found["work"], found["model"]) == ("fail", "fail")
        assert (found["database"], found["receive"], found["spool"]) == ("ok", "ok", "ok")
        worker = Daemon(home, "--only", "work").start()
        try:
            wait_until(lambda: checks(client)[0] == 200)
            assert checks(client)[1]["model"] == "ok"
            worker.kill()
            # What would be seen after half a minute of silence is made to be seen now.
            _age_signs_of(daemon, "work")
            wait_until(lambda: checks(client)[1]["work"] == "fail")
            assert checks(client)[0] == 503
            assert client.get("/health/live").status_code == 200
        finally:
            if worker.process is not None:
                worker.stop()


def _age_signs_of(daemon: Daemon, stage: str) -> None:
    with contextlib.closing(sqlite3.connect(daemon.home / "medd.db", timeout=30)) as connection, connection:
        connection.execute("UPDATE process SET beat_at = '2026-01-01T00:00:00.000000Z' WHERE stage = ?", (stage,))
