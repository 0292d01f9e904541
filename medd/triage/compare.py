"""First come first served and the worklist, on the same studies and the same reading times."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medd.triage import Reading
from medd.triage.cases import HOUR_S, Case, reading_times
from medd.triage.desk import FirstComeFirstServed, MostUrgentFirst, Order, read_all

#: How sure the intervals are.
LEVEL = 0.95
ORDERS = ("fcfs", "worklist")
#: The worklist's figure less that of first come first served.
DIFFERENCE = "difference"
GROUPS = ("positive", "negative", "unknown", "all")
FIGURES = ("mean", "p95", "max")
COLUMNS = ("order", "studies", "n", *(f"{name}_min{end}" for name in FIGURES for end in ("", "_low", "_high")))

Waits = dict[str, dict[str, NDArray[np.float64]]]


@dataclass(frozen=True, slots=True)
class Desk:
    """Who reads, and by which rule."""

    #: How many read, for each of the 24 hours of a day.
    readers: tuple[int, ...]
    #: Mean time that a study takes, seconds.
    reading_s: float
    shape: Reading
    #: The worklist's cap on waiting; None is none.
    max_wait_s: float | None

    def load(self, cases: Sequence[Case]) -> float:
        """Work that comes, as a share of what readers can do; from 1 on they fall behind."""
        span_h = max(1.0, (cases[-1].arrived_s - cases[0].arrived_s) / HOUR_S)
        hours_read = span_h * sum(self.readers) / len(self.readers)
        return len(cases) * self.reading_s / HOUR_S / hours_read


def run(cases: Sequence[Case], desk: Desk, seed: int) -> Waits:
    """How long studies wait to be opened, seconds, by order and group of studies; the seed draws the reading times."""
    times = reading_times(seed, len(cases), desk.reading_s, desk.shape).tolist()
    orders: dict[str, Order] = {"fcfs": FirstComeFirstServed(), "worklist": MostUrgentFirst(desk.max_wait_s)}
    truth = np.array([{True: "positive", False: "negative", None: "unknown"}[case.truth] for case in cases])
    arrived = np.array([case.arrived_s for case in cases])
    waits: Waits = {}
    for name, order in orders.items():
        waited = np.array(read_all(cases, times, desk.readers, order)) - arrived
        waits[name] = {group: waited if group == "all" else waited[truth == group] for group in GROUPS}
    return waits


def rows(runs: Sequence[Waits]) -> Iterator[dict[str, Any]]:
    """The figures of each order and group in minutes: means over the runs, with their intervals."""
    for group in GROUPS:
        counted = [run for run in runs if len(run["fcfs"][group])]
        if not counted:
            continue
        by_order = {order: np.array([_figures(run[order][group]) for run in counted]) for order in ORDERS}
        by_order[DIFFERENCE] = by_order["worklist"] - by_order["fcfs"]
        n = float(np.mean([len(run["fcfs"][group]) for run in runs]))
        for order, values in by_order.items():
            row: dict[str, Any] = {"order": order, "studies": group, "n": round(n, 1)}
            for name, column in zip(FIGURES, values.T, strict=True):
                middle, reach = interval(column)
                low, high = (None, None) if reach is None else (middle - reach, middle + reach)
                row |= {f"{name}_min": middle, f"{name}_min_low": low, f"{name}_min_high": high}
            yield row


def _figures(waited_s: NDArray[np.float64]) -> tuple[float, float, float]:
    minutes = waited_s / 60
    return float(minutes.mean()), float(np.quantile(minutes, 0.95)), float(minutes.max())


def interval(values: NDArray[np.float64]) -> tuple[float, float | None]:
    """The mean of (N,) independent values, and how far its interval of confidence reaches; None for a single value."""
    if len(values) < 2:
        return float(values.mean()), None
    error = float(values.std(ddof=1)) / sqrt(len(values))
    return float(values.mean()), _student((1 + LEVEL) / 2, len(values) - 1) * error


def _student(p: float, freedom: int) -> float:
    """A quantile of Student's t (Hill 1970; Abramowitz & Stegun 26.7.5), right to 1 % from 2 degrees of freedom on."""
    z = NormalDist().inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(freedom) ** power for power, term in enumerate(terms, 1))
