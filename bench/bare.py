"""The least that durable receiving takes, in a process of its own. Called by stages.py: bare.py FOLDER PORT [URL].

For each message: its length in 8 bytes and its bytes are read from the socket, written to a file that is synced, a row
is committed, and one byte answers. SQLite, or the PostgreSQL of URL.
"""

import os
import socket
import sqlite3
import struct
import sys
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path

_SCHEMA = "CREATE TABLE IF NOT EXISTS image (id INTEGER PRIMARY KEY, size INTEGER NOT NULL)"


def committer(folder: Path, url: str) -> Callable[[int, int], None]:
    """What commits a row, on a connection of its own."""
    if url:
        import psycopg

        server = psycopg.connect(url, autocommit=True)
        return lambda number, size: server.execute("INSERT INTO image VALUES (%s, %s)", (number, size)) and None
    database = sqlite3.connect(folder / "rows.db", isolation_level=None, timeout=60)
    database.execute("PRAGMA synchronous = FULL")
    return lambda number, size: database.execute("INSERT INTO image VALUES (?, ?)", (number, size)) and None


def prepare(folder: Path, url: str) -> None:
    if url:
        import psycopg

        with psycopg.connect(url, autocommit=True) as server:
            server.execute("DROP TABLE IF EXISTS image")
            server.execute(_SCHEMA)
        return
    database = sqlite3.connect(folder / "rows.db")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(_SCHEMA)
    database.close()


def serve(connection: socket.socket, folder: Path, url: str, numbers: "count[int]") -> None:
    commit = committer(folder, url)
    buffer = memoryview(bytearray(1 << 18))
    while header := connection.recv(8, socket.MSG_WAITALL):
        (size,) = struct.unpack(">Q", header)
        number, left = next(numbers), size
        file = os.open(folder / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        while left:
            got = connection.recv_into(buffer[: min(left, len(buffer))])
            os.write(file, buffer[:got])
            left -= got
        os.fsync(file)
        os.close(file)
        commit(number, size)
        connection.sendall(b"\0")


def main() -> None:
    folder, port, url = Path(sys.argv[1]), int(sys.argv[2]), "".join(sys.argv[3:])
    prepare(folder, url)
    numbers = count(1)
    with socket.create_server(("127.0.0.1", port), backlog=64) as server:
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve, args=(connection, folder, url, numbers), daemon=True).start()


if __name__ == "__main__":
    main()
