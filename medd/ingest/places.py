"""Who is connected: associations have places, within the limits; who has proposed none yet has to be quick."""

import threading
from collections import Counter
from typing import TYPE_CHECKING

from medd.settings import ListenerSettings

if TYPE_CHECKING:
    from medd.ingest.association import Association

#: Connections that have not been accepted as an association. Beyond that, the one that waits longest has to go.
MAX_UNASSOCIATED = 128


class Places:
    """The connections of a listener. Safe to use from many threads at once."""

    def __init__(self, settings: ListenerSettings) -> None:
        self._limit, self._limit_per_host = settings.max_associations, settings.max_associations_per_host
        self._guard = threading.Lock()
        self._open: set[Association] = set()
        #: Those that have proposed nothing yet, in the order in which they came.
        self._waiting: dict[Association, None] = {}
        self._accepted: dict[Association, str] = {}

    def enter(self, newcomer: "Association") -> "Association | None":
        """Note a connection.

        Returns:
            One that has to go for it: of the host with the most that have proposed no association, the eldest. So many
            silent sockets keep nobody out who does propose one, least of all from another host.
        """
        with self._guard:
            evicted = None
            if len(self._waiting) >= MAX_UNASSOCIATED:
                [(crowd, _)] = Counter(one.peer for one in self._waiting).most_common(1)
                evicted = next(one for one in self._waiting if one.peer == crowd)
                del self._waiting[evicted]
            self._open.add(newcomer)
            self._waiting[newcomer] = None
            return evicted

    def leave(self, association: "Association") -> None:
        """Forget a connection."""
        with self._guard:
            self._open.discard(association)
            self._waiting.pop(association, None)
            self._accepted.pop(association, None)

    def reserve(self, association: "Association") -> str:
        """Give an association a place.

        Returns:
            Why there is none; empty where there was one.
        """
        with self._guard:
            if len(self._accepted) >= self._limit:
                return f"{self._limit} associations are open already"
            host = association.peer
            if self._limit_per_host and list(self._accepted.values()).count(host) >= self._limit_per_host:
                return f"{self._limit_per_host} associations from this address are open already"
            self._waiting.pop(association, None)
            self._accepted[association] = host
        return ""

    def vacate(self, association: "Association") -> None:
        """Free the place of an association that is over, though its connection is not."""
        with self._guard:
            self._accepted.pop(association, None)

    def all(self) -> "list[Association]":
        """Every connection there is."""
        with self._guard:
            return list(self._open)
