"""Studies that a simulation reads: drawn at random, or as they came."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from medd.store.arrivals import find_arrivals
from medd.store.urgency import BANDS, Place
from medd.triage import Reading
from medd.triage.scores import THRESHOLD, Scores

FINDING, UNJUDGED, BELOW = (BANDS.index(place) for place in (Place.FINDING, Place.UNJUDGED, Place.BELOW))
HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class Case:
    """One study as the worklist knows it. Times are seconds since the midnight before the first one."""

    arrived_s: float
    #: Until then it stands among those that nobody has judged.
    scored_s: float
    #: From then on, the column `band` of `study`.
    band: int
    #: In [0, 1]; None where no model judged it.
    probability: float | None
    #: Whether there is something to be found in it; None where nobody knows.
    truth: bool | None


@dataclass(frozen=True, slots=True)
class Source:
    """Studies that come at random and are scored at once."""

    #: Studies an hour, for each of the 24 hours of a day: a Poisson process of that rate.
    rates: tuple[float, ...]
    #: For how long they come.
    days: int
    #: Share of studies with a finding, in [0, 1].
    prevalence: float
    #: What the model says of those with and without.
    scores: Scores
    #: Share of studies that the model refuses to judge, in [0, 1].
    refused: float

    def draw(self, seed: int) -> list[Case]:
        """Studies in the order in which they come."""
        rng = np.random.default_rng([seed, 0])
        counts = rng.poisson(np.tile(np.asarray(self.rates, np.float64), self.days))
        hours = np.repeat(np.arange(len(counts)), counts)
        arrived = np.sort((hours + rng.random(len(hours))) * HOUR_S)
        truth = rng.random(len(arrived)) < self.prevalence
        probability = self.scores.draw(rng, truth)
        judged = rng.random(len(arrived)) >= self.refused
        rows = zip(arrived.tolist(), probability.tolist(), truth.tolist(), judged.tolist(), strict=True)
        return [
            Case(at, at, FINDING if score >= THRESHOLD else BELOW, score, found)
            if is_judged
            else Case(at, at, UNJUDGED, None, found)
            for at, score, found, is_judged in rows
        ]


def replay(connection: Connection, since: datetime) -> list[Case]:
    """Studies as they came, in their order, with the scores that stand now; the first day begins at 0 seconds.

    Truth is what readers said; where none did, what the model decided.
    """
    cases: list[Case] = []
    arrivals = find_arrivals(connection, since)
    if arrivals:  # the hours are those of the day, here
        midnight = arrivals[0].received_at.astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    for one in arrivals:
        arrived = (one.received_at - midnight).total_seconds()
        scored = (one.scored_at - midnight).total_seconds() if one.scored_at else arrived
        truth = one.positive if one.truth is None else one.truth
        cases.append(Case(arrived, max(arrived, scored), one.band, one.probability, truth))
    return cases


def reading_times(seed: int, count: int, mean_s: float, shape: Reading) -> NDArray[np.float64]:
    """How long it takes to read each of `count` studies, seconds."""
    rng = np.random.default_rng([seed, 1])  # another stream than that of the studies
    if shape is Reading.EXPONENTIAL:
        return rng.exponential(mean_s, count)
    if shape is Reading.LOGNORMAL:
        variance = np.log(1 + 0.5**2)  # of the logarithm
        return rng.lognormal(np.log(mean_s) - variance / 2, np.sqrt(variance), count)
    return np.full(count, mean_s)
