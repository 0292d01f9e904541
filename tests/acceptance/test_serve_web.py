"""`medd serve` and its web server: it comes with the daemon, and never takes it down."""

import contextlib
import os
import re
import signal
import socket
import textwrap
import time
from pathlib import Path

import httpx
import pytest

from medd.testing import cheap_series
from tests.support import Daemon, RawSender, free_port, running, uid_in, wait_until


def with_web(home: Path, *arguments: str, **environment: str) -> Daemon:
    return Daemon(home, *arguments, **({"MEDD_WEB__ENABLED": "true", "MEDD_WEB__PORT": "0"} | environment))


def address(daemon: Daemon) -> str:
    """Where the log says that the web pages are, last."""
    found = wait_until(lambda: re.findall(r"web-0 is ready: reading room at (\S+)", daemon.log.read_text()))
    return str(found[-1])


def get(url: str) -> int:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, trust_env=False, timeout=10).status_code
    return 0


def send_one(daemon: Daemon) -> None:
    with RawSender(daemon.port) as sender:
        sender.associate()
        [film] = cheap_series(1, rows=64, columns=64, part10=False)
        assert sender.store(film, uid_in(film)) == (0x0000, "")
        sender.release()


def test_the_web_server_comes_with_the_daemon_tells_its_address_and_starts_again(tmp_path):
    with running(with_web(tmp_path / "home")) as daemon:
        first = address(daemon)
        assert get(first + "login") == 303
        assert set(daemon.children()) == {"receive", "work", "web"}
        os.kill(daemon.children()["web"], signal.SIGKILL)
        wait_until(lambda: address(daemon) != first and get(address(daemon) + "login") == 303, 60)
        send_one(daemon)
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 10
        assert get(first) == 0
    assert "Traceback" not in daemon.log.read_text()
    actions = [action for [action] in daemon.query("SELECT action FROM audit ORDER BY id")]
    assert actions == ["server_started", "server_started", "server_stopped"]


def test_a_port_that_is_taken_costs_no_image_and_is_waited_for(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = with_web(tmp_path / "home", MEDD_WEB__PORT=str(port)).start()
        try:
            wait_until(lambda: f"127.0.0.1 port {port} cannot be bound" in daemon.log.read_text())
            send_one(daemon)
            wait_until(lambda: daemon.query("SELECT count(*) FROM results WHERE status = 'scored'") == [(1,)])
        except BaseException:
            daemon.kill()
            raise
    with contextlib.ExitStack() as stack:
        stack.callback(daemon.stop)
        wait_until(lambda: get(f"http://127.0.0.1:{port}/login") == 303, 60)
        assert "Traceback" not in daemon.log.read_text()


def test_the_web_server_can_be_a_program_of_its_own(tmp_path):
    with running(Daemon(tmp_path / "home", "--only", "receive")) as receiver:
        port = free_port()
        web = with_web(tmp_path / "home", "--only", "web", MEDD_WEB__PORT=str(port)).start(ready=False)
        assert web.process is not None
        assert web.process.stdout is not None
        try:
            assert web.process.stdout.readline() == f"ready: reading room at http://127.0.0.1:{port}/\n"
            assert get(f"http://127.0.0.1:{port}/login") == 303
            send_one(receiver)
        finally:
            assert web.stop() == 0


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"MEDD_WEB__HOST": "0.0.0.0"}, "web.host: .*set web.login = true"),
        ({"MEDD_WEB__HOST": "::"}, "web.host: .*set web.login = true"),
        ({"MEDD_WEB__HOST": "medd.hospital.example"}, "web.host: .*set web.login = true"),
        ({"MEDD_WEB__ALLOWED_HOSTS": '["medd.hospital.example"]'}, "web.allowed_hosts: .*set web.login = true"),
        ({"MEDD_WEB__TRUSTED_PROXIES": '["10.0.0.1"]'}, "web.trusted_proxies: .*set web.login = true"),
    ],
)
def test_what_would_let_strangers_in_is_refused_at_the_start(tmp_path, environment, shown):
    daemon = with_web(tmp_path / "home", **environment)
    done = daemon.medd("serve")
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("medd: ")]
    assert len(lines) == 1
    assert re.search(shown, lines[0])
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "::1"])
def test_this_machine_alone_needs_no_log_in(tmp_path, host):
    assert with_web(tmp_path / "home", MEDD_WEB__HOST=host).medd("config", "check").returncode == 0


def test_with_log_in_every_address_may_be_served(tmp_path):
    daemon = with_web(tmp_path / "home", MEDD_WEB__HOST="0.0.0.0", MEDD_WEB__LOGIN="true")
    with running(daemon):
        url = address(daemon).replace("0.0.0.0", "127.0.0.1")
        assert get(url + "login") == 200
        assert get(url + "account") == 401
    assert "nobody can log in as administrator yet" in daemon.log.read_text()


SERVICE = """
    import threading

    from medd import hookimpl
    from medd.hookspecs import ServiceSpec


    class Noter:
        name = "a noter"

        def __init__(self, settings):
            self._file, self._stop = settings.home / "noted", threading.Event()

        def run(self):
            self._file.write_text("running")
            self._stop.wait()
            self._file.write_text("stopped")

        def stop(self):
            self._stop.set()


    @hookimpl
    def register_services():
        return [ServiceSpec("note", build="medd_plugins_dir.noter:Noter")]
    """


def test_a_strangers_service_runs_beside_ours(tmp_path):
    home = tmp_path / "home"
    daemon = Daemon(home)
    (home / "plugins" / "noter.py").write_text(textwrap.dedent(SERVICE))
    with running(daemon):
        wait_until(lambda: (home / "noted").exists() and (home / "noted").read_text() == "running")
        assert "note" in daemon.children()
        assert daemon.stop() == 0
    assert (home / "noted").read_text() == "stopped"
    assert "note-0 is ready: a noter" in daemon.log.read_text()


def test_a_service_of_the_name_of_a_part_is_refused_at_the_start(tmp_path):
    daemon = Daemon(tmp_path / "home")
    service = textwrap.dedent(SERVICE).replace('"note", build="medd_plugins_dir.noter:Noter"', '"work", build="x:y"')
    (daemon.home / "plugins" / "noter.py").write_text(service)
    done = daemon.medd("serve")
    assert (done.returncode, "a service of the name of a part" in done.stderr) == (2, True)


def test_services_that_cannot_start_cost_no_image_and_are_tried_again(tmp_path):
    daemon = with_web(tmp_path / "home", MEDD_WEB__TLS__CERTIFICATE="nowhere.pem")
    (daemon.home / "plugins" / "noter.py").write_text(textwrap.dedent(SERVICE).replace(":Noter", ":Nobody"))
    told = (
        r"web\.tls\.certificate: .*nowhere\.pem cannot be read",
        "service 'note': medd_plugins_dir.noter:Nobody cannot be imported",
    )
    with running(daemon):
        for said in told:
            wait_until(lambda said=said: len(re.findall(said, daemon.log.read_text())) > 1)
        send_one(daemon)
        wait_until(lambda: daemon.query("SELECT count(*) FROM results WHERE status = 'scored'") == [(1,)])
        assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()
