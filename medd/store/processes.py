"""Signs of life: every process of a daemon keeps a row, so that others can tell, on any host, whether it lives.

What is seen is the process and its main loop, and no more: one that lives and gets nothing done shows in the age of the
queue.
"""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from medd import __version__
from medd.errors import TransientError
from medd.store.clock import from_now
from medd.store.database import Database
from medd.store.tables import UtcDateTime, process

#: Seconds between signs, and after how many without one a process counts as gone: two may be late.
BEAT_S = 10.0
SILENT_S = 35.0
#: Rows of processes that were killed, or whose host is gone, are kept for so long.
FORGET_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Process:
    """One process as others see it."""

    node: str
    stage: str
    number: int
    version: str
    doing: str
    started_at: datetime
    #: Seconds since its last sign of life.
    silent_s: float

    @property
    def is_alive(self) -> bool:
        """Whether it has given a sign lately."""
        return self.silent_s <= SILENT_S


def find_processes(database: Database) -> list[Process]:
    """Every process that has not ended in order, by stage.

    Raises:
        TransientError: The database is away.
    """
    p = process.c
    now = sa.type_coerce(from_now(database, 0), UtcDateTime)
    columns = sa.select(p.node, p.stage, p.number, p.version, p.doing, p.started_at, p.beat_at, now)
    with database.read() as connection:
        rows = connection.execute(columns.order_by(p.stage, p.node, p.number)).all()
    return [
        Process(node, stage, number, version, doing, started_at, max(0.0, (at - beat_at).total_seconds()))
        for node, stage, number, version, doing, started_at, beat_at, at in rows
    ]


class Pulse:
    """Gives signs of life while a block runs, from a thread of its own; a database that is away delays nobody.

    Args:
        database: Where.
        node: The home folder's name among hosts.
        stage: Which part of the daemon.
        number: Which one of several.
        is_alive: Asked before each sign; where it says no, none is given.
        doing: What the process works with now.
    """

    def __init__(
        self,
        database: Database,
        node: str,
        stage: str,
        number: int = 0,
        *,
        is_alive: Callable[[], bool] = lambda: True,
        doing: Callable[[], str] = lambda: "",
    ) -> None:
        self._database, self._is_alive, self._doing = database, is_alive, doing
        self._key: dict[str, Any] = {"node": node, "stage": stage, "number": number}
        self._started_at = datetime.now(UTC)
        self._stop, self._guard = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def __enter__(self) -> "Pulse":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with self._guard, contextlib.suppress(TransientError):  # else its row tells that it fell silent, which is true
            self._leave()
        self._database.close()

    def beat(self) -> None:
        """Give one sign, and forget who gave none for a week.

        Raises:
            TransientError: The database is away.
        """
        now = from_now(self._database, 0)
        told: dict[str, Any] = {
            "version": __version__,
            "doing": self._doing()[:400],
            "started_at": self._started_at,
            "beat_at": now,
        }
        with self._database.write() as connection:
            insert = (sqlite if self._database.is_sqlite else postgresql).insert(process).values(self._key | told)
            connection.execute(insert.on_conflict_do_update(index_elements=list(self._key), set_=told))
            connection.execute(process.delete().where(process.c.beat_at < from_now(self._database, -FORGET_S)))

    def _leave(self) -> None:
        mine = [process.c[name] == value for name, value in self._key.items()]
        with self._database.write() as connection:
            connection.execute(process.delete().where(*mine))

    def _run(self) -> None:
        while True:
            with self._guard:
                if self._stop.is_set():
                    return
                if self._is_alive():
                    with contextlib.suppress(TransientError):  # whoever works with it says so; the next one is soon
                        self.beat()
            self._stop.wait(BEAT_S)
