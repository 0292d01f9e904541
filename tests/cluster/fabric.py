"""Hosts without machines: Linux network namespaces on a bridge, each with an address and processes of its own."""

import contextlib
import os
import secrets
import signal
import subprocess
import time

import pytest

from tests.support import require


def _ip(*arguments: str) -> str:
    [program] = require("ip")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


class Host:
    """A network namespace with one cable."""

    def __init__(self, name: str, address: str, cable: str) -> None:
        self.name, self.address, self._cable = name, address, cable

    @property
    def prefix(self) -> tuple[str, ...]:
        """What makes a command run here."""
        return ("ip", "netns", "exec", self.name)

    def cut_off(self) -> None:
        """Pull the cable: packets vanish, connections hang."""
        _ip("link", "set", self._cable, "down")

    def reconnect(self) -> None:
        _ip("link", "set", self._cable, "up")

    def kill(self) -> None:
        """The power fails: every process here is gone."""
        while pids := [int(pid) for pid in _ip("netns", "pids", self.name).split()]:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


class Fabric:
    """A bridge, hosts on it, and us at its first address. Needs root; the test is skipped without."""

    def __init__(self) -> None:
        self._token, self._hosts = secrets.token_hex(3), list[Host]()
        # One of 16,384 private /24 networks: tests that run at the same time do not meet.
        number = secrets.randbelow(1 << 14)
        self._network = f"10.{64 + (number >> 8)}.{number & 255}"
        self._bridge = f"md{self._token}"
        try:
            _ip("link", "add", self._bridge, "type", "bridge")
        except OSError as error:
            if os.environ.get("MEDD_REQUIRE_PEERS") == "1":
                pytest.fail(f"no network namespaces here: {error}")
            pytest.skip(f"no network namespaces here: {error}")
        _ip("address", "add", f"{self._network}.1/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    def host(self, name: str) -> Host:
        """Another host."""
        number = len(self._hosts) + 2
        made = Host(f"{self._bridge}-{name}", f"{self._network}.{number}", f"{self._bridge}h{number}")
        _ip("netns", "add", made.name)
        self._hosts.append(made)
        _ip("link", "add", made._cable, "type", "veth", "peer", "name", "eth0", "netns", made.name)
        _ip("link", "set", made._cable, "master", self._bridge, "up")
        _ip("-n", made.name, "address", "add", f"{made.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", made.name, "link", "set", device, "up")
        return made

    def remove(self) -> None:
        for host in self._hosts:
            host.kill()
            with contextlib.suppress(OSError):
                _ip("link", "delete", host._cable)
            _ip("netns", "delete", host.name)
        _ip("link", "delete", self._bridge)
