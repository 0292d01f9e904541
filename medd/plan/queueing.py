"""Waiting in a line before several servers: Erlang's formula, and its extension to other distributions."""

from dataclasses import dataclass
from math import inf, log


@dataclass(frozen=True, slots=True)
class Line:
    """A line before equal servers; work is taken in the order in which it came."""

    #: Arrivals, 1/s.
    rate: float
    #: Mean time of service, seconds.
    service_s: float
    servers: int = 1
    #: Variance over squared mean of the times between arrivals: 1 for a Poisson stream, 0 for even intervals.
    arrival_scv: float = 1.0
    #: The same of the times of service: 0 where all are equal.
    service_scv: float = 1.0

    @property
    def utilisation(self) -> float:
        """The share of the time for which a server is busy; from 1 on the line grows without end."""
        return self.rate * self.service_s / self.servers

    @property
    def waiting_share(self) -> float:
        """The share of arrivals that find every server busy (Erlang C), in [0, 1]."""
        return erlang_c(self.servers, self.rate * self.service_s)

    @property
    def mean_wait_s(self) -> float:
        """Mean time in the line, by the approximation of Allen and Cunneen; infinite from a utilisation of 1 on.

        W = C / (cμ − λ) · (c²ₐ + c²ₛ) / 2 (A. O. Allen, "Probability, Statistics, and Queueing Theory with Computer
        Science Applications", 2nd edition, Academic Press 1990). For Poisson arrivals it is exact with exponential
        service (M/M/c) and with one server (M/G/1, Pollaczek and Khinchine).
        """
        if self.utilisation >= 1:
            return inf
        spare = self.servers / self.service_s - self.rate if self.service_s else inf
        if spare <= 0:  # a utilisation that is rounded to just below 1
            return inf
        return self.waiting_share / spare * (self.arrival_scv + self.service_scv) / 2

    def wait_quantile_s(self, share: float) -> float:
        """The wait that so large a share of arrivals does not exceed; infinite from a utilisation of 1 on.

        Whoever waits is taken to wait an exponential time. That is exact for M/M/c, and what heavy traffic tends to
        (J. F. C. Kingman, "The single server queue in heavy traffic", Proc. Cambridge Phil. Soc. 57, 1961).
        """
        mean, waiting = self.mean_wait_s, self.waiting_share
        if mean == inf:
            return inf
        return mean / waiting * log(waiting / (1 - share)) if waiting > 1 - share else 0.0


def erlang_c(servers: int, load: float) -> float:
    """The share of arrivals that have to wait in M/M/c (A. K. Erlang, 1917), in [0, 1].

    Args:
        servers: c ≥ 1.
        load: Arrivals in a mean time of service, erlangs, ≥ 0.
    """
    if load >= servers:
        return 1.0
    blocked = 1.0  # Erlang B by its recursion, which neither overflows nor cancels
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))
