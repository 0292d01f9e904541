"""medd's receiver and the bare loop of bare.py, on SQLite or PostgreSQL, sent the same bytes by the same sender."""

import os
import secrets
import socket
import struct
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import images
import psycopg
from peers import Medd, Receiver


class Bare(Receiver):
    """bare.py."""

    name = "bare"
    #: Of a PostgreSQL database of its own; none for SQLite.
    url = ""

    def command(self) -> list[str]:
        return [sys.executable, str(Path(__file__).with_name("bare.py")), str(self.home), str(self.port), *self._url()]

    def _url(self) -> list[str]:
        return [self.url.replace("+psycopg", "")] if self.url else []

    def count(self) -> int:
        return sum(path.name.isdigit() for path in self.home.iterdir())

    def send(self, messages: list[bytes]) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for message in messages:
                sock.sendall(struct.pack(">Q", len(message)))
                sock.sendall(message)
                if sock.recv(1) != b"\0":
                    sys.exit("bench: the bare loop failed")


class MeddOn(Medd):
    """medd's receiver, on SQLite or the PostgreSQL of `url`."""

    url = ""

    def environment(self) -> dict[str, str]:
        return super().environment() | ({"MEDD_DATABASE__URL": self.url} if self.url else {})

    def count(self) -> int:
        if not self.url:
            return super().count()
        with psycopg.connect(self.url.replace("+psycopg", "")) as server:
            found = server.execute("SELECT count(*) FROM instance").fetchone()
            return int(found[0]) if found else 0

    def send(self, messages: list[bytes]) -> None:
        images.send_all(self.port, messages)


@contextmanager
def empty_database(server: str) -> Iterator[str]:
    """A database of its own on a server."""
    name = f"medd_{secrets.token_hex(4)}"
    plain = server.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield server.rpartition("/")[0] + "/" + name
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def messages_of(paths: list[Path], scratch: Path) -> list[bytes]:
    """What is sent, to both: the PDUs of a C-STORE-RQ for each file."""
    with MeddOn(scratch) as receiver:
        return images.messages(receiver.port, paths)


def rate(kind: "type[Bare] | type[MeddOn]", server: str, messages: list[bytes], senders: int, scratch: Path) -> float:
    """Images a second from so many senders, each on one connection; `server` is the URL of a PostgreSQL, if any."""
    with ExitStack() as stack:
        receiver = kind(scratch, senders)
        if server:
            receiver.url = stack.enter_context(empty_database(server))
        stack.enter_context(receiver)
        os.sync()
        began = time.perf_counter()
        with ThreadPoolExecutor(senders) as pool:
            list(pool.map(lambda first: receiver.send(messages[first::senders]), range(senders)))
        seconds = time.perf_counter() - began
        if receiver.count() != len(messages):
            sys.exit(f"bench: {receiver.name} holds {receiver.count()} of {len(messages)} images")
    return len(messages) / seconds
