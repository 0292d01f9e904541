"""Readers at a desk, who take one study after the other from a list in some order: a simulation event by event.

Who reads a study finishes it, and no reader who is there is idle while one waits.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from medd.store.urgency import overdue_before, urgency_of
from medd.triage.cases import HOUR_S, UNJUDGED, Case

#: What happens at one moment, in this order.
_ENDED, _SCORED, _CAME, _HOUR = range(4)


class Order(Protocol):
    """The studies that wait, by their numbers, and which of them is read next."""

    def put(self, number: int, case: Case, now_s: float) -> None:
        """A study has come, or has been scored while it waits."""

    def take(self, now_s: float) -> int | None:
        """The study that is read next; None where none waits."""


class FirstComeFirstServed:
    """The longest waiting first."""

    def __init__(self) -> None:
        self._waiting: deque[int] = deque()

    def put(self, number: int, case: Case, now_s: float) -> None:
        """A study has come; scores change nothing."""
        if now_s <= case.arrived_s:
            self._waiting.append(number)

    def take(self, now_s: float) -> int | None:
        """The longest waiting."""
        return self._waiting.popleft() if self._waiting else None


class MostUrgentFirst:
    """As the worklist has it, by `medd.store.urgency`.

    Args:
        max_wait_s: What waits longer goes before everything else; None or 0 is no cap.
    """

    def __init__(self, max_wait_s: float | None) -> None:
        self._max_wait_s = max_wait_s
        self._by_arrival: list[tuple[float, int]] = []
        self._by_urgency: list[tuple[Any, int]] = []
        #: Of each study that waits, where it stands now; what else the lists hold of it is stale.
        self._waiting: dict[int, Any] = {}

    def put(self, number: int, case: Case, now_s: float) -> None:
        """A study has come, or has been scored while it waits."""
        if number in self._waiting or now_s <= case.arrived_s:
            is_scored = now_s >= case.scored_s
            band, probability = (case.band, case.probability) if is_scored else (UNJUDGED, None)
            self._waiting[number] = urgency = urgency_of(band, probability, case.arrived_s)
            heapq.heappush(self._by_urgency, (urgency, number))
            if now_s <= case.arrived_s:
                heapq.heappush(self._by_arrival, (case.arrived_s, number))

    def take(self, now_s: float) -> int | None:
        """The longest waiting if it is overdue, else the most urgent."""
        if not self._waiting:
            return None
        while self._by_arrival[0][1] not in self._waiting:
            heapq.heappop(self._by_arrival)
        arrived_s, number = self._by_arrival[0]
        before = overdue_before(now_s, self._max_wait_s)
        if before is None or arrived_s >= before:
            while self._waiting.get(self._by_urgency[0][1]) != self._by_urgency[0][0]:
                heapq.heappop(self._by_urgency)
            number = self._by_urgency[0][1]
        del self._waiting[number]
        return number


def read_all(cases: Sequence[Case], reading_s: Sequence[float], readers: Sequence[int], order: Order) -> list[float]:
    """When a reader opens each study, seconds.

    Args:
        cases: The studies.
        reading_s: How long each takes to be read.
        readers: How many read, for each of the 24 hours of a day; one of them at least is not 0.
        order: Which study is read next.
    """
    events = [(case.arrived_s, _CAME, number) for number, case in enumerate(cases)]
    events += [(case.scored_s, _SCORED, number) for number, case in enumerate(cases) if case.scored_s > case.arrived_s]
    if len(set(readers)) > 1:
        events.append((0.0, _HOUR, 0))
    heapq.heapify(events)
    opened = [0.0] * len(cases)
    busy, left = 0, len(cases)
    while left:
        now_s, what, number = heapq.heappop(events)
        if what == _ENDED:
            busy -= 1
        elif what == _HOUR:
            heapq.heappush(events, (now_s + HOUR_S, _HOUR, 0))
        else:
            order.put(number, cases[number], now_s)
        there = readers[int(now_s // HOUR_S) % 24]
        while busy < there and (taken := order.take(now_s)) is not None:
            opened[taken] = now_s
            heapq.heappush(events, (now_s + reading_s[taken], _ENDED, taken))
            busy, left = busy + 1, left - 1
    return opened
