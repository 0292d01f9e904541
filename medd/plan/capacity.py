"""From what a film costs to the hosts that so many films a day need, and where those saturate.

Each host has a receiver and a worker on the same cores. A worker is a server that takes what waits, up to a batch: the
more there is, the larger the batch and the less a film costs. Host by host these are the servers of one line
(`medd.plan.queueing`), as all claim from one queue. The database, which commits one after the other, is shared by all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log

from medd.errors import SettingsError
from medd.plan.costs import Costs
from medd.plan.queueing import Line

DAY_S = 86_400
#: Of what a film waits, so large a share is not above the figures called p95.
SHARE = 0.95
#: More hosts than this are no plan.
MAX_HOSTS = 10_000
#: The stages in which a host can be full; the last is shared.
LIMITS = ("receive", "worker", "database")


@dataclass(frozen=True, slots=True)
class Demand:
    """What comes, and how soon it is to be scored."""

    films_per_day: float
    #: The busiest hour against the mean of the day.
    peak_factor: float = 3.0
    #: From a film's first byte to its result, seconds, which 95 of 100 films are to keep in the busiest hour.
    wait_s: float = 60.0
    #: As `Line.arrival_scv`.
    arrival_scv: float = 1.0

    @property
    def rate(self) -> float:
        """Films a second in the busiest hour."""
        return self.films_per_day / DAY_S * self.peak_factor


@dataclass(frozen=True, slots=True)
class Stage:
    """How one stage stands in the busiest hour; times in seconds."""

    name: str
    #: What a film costs there.
    cost_s: float
    #: The share of what the stage can do.
    utilisation: float
    #: The wait before it; None where it does not queue by itself.
    wait_mean_s: float | None = None
    wait_p95_s: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """So many hosts of one kind under a demand."""

    hosts: int
    cores: int
    stages: tuple[Stage, ...]
    #: From a film's first byte to its result, seconds.
    mean_s: float
    #: The same, of 95 of 100 films: the sum of what they keep in each stage.
    p95_s: float
    #: Of that, from the film's row in the database to the end of its batch.
    worked_mean_s: float
    worked_p95_s: float
    #: Films a second at which the first stage is full.
    saturates_at: float
    #: Which that is; one of `LIMITS`.
    bound: str
    #: The share of all cores that is busy.
    cores_busy: float
    #: Films that a worker takes at once, on the mean.
    batch: float

    @property
    def is_stable(self) -> bool:
        """Whether the line ends."""
        return self.mean_s < inf

    def stage(self, name: str) -> Stage:
        """One of the stages."""
        return next(stage for stage in self.stages if stage.name == name)


def assess(costs: Costs, demand: Demand, cores: int, hosts: int) -> Plan:
    """How `hosts` hosts of `cores` cores each stand under a demand."""
    rate, mine = demand.rate, demand.rate / hosts
    receive = Line(rate, 1 / costs.receive_rate, hosts, demand.arrival_scv)
    database = Line(rate, costs.insert_s + costs.commit_s, 1, demand.arrival_scv)
    free = cores - mine * costs.receive_cpu_s
    batch, worker = _worker(costs, demand, free, hosts)
    full = {
        "receive": hosts * costs.receive_rate,
        "worker": hosts * worker_saturation(costs, cores),
        "database": 1 / database.service_s,
    }
    bound = min(LIMITS, key=full.__getitem__)
    parts = {"decode": costs.decode_s / cores, "predict": costs.predict_s / cores, "commit": costs.commit_s}
    stages = (
        _stage("receive", receive),
        *(Stage(name, cost_s, mine * cost_s) for name, cost_s in parts.items()),
        _stage("worker", worker),
        _stage("database", database),
    )
    others = (receive, database)
    poll_s = costs.poll_s * max(0.0, 1 - worker.utilisation)
    worked_mean_s = poll_s / 2 + worker.mean_wait_s + batch * worker.service_s
    # Whichever worker is free takes the whole line: who waited long shares a batch with all that came meanwhile, or
    # since a worker last came by, which of so many busy ones takes an exponential time.
    gathered_s = min(worker.wait_quantile_s(SHARE), -log(1 - SHARE) * batch * worker.service_s / hosts)
    large = min(costs.batch_size, max(batch, 1 + rate * gathered_s))
    worked_p95_s = poll_s * SHARE + worker.wait_quantile_s(SHARE) + batch_s(costs, large, free)
    return Plan(
        hosts,
        cores,
        stages,
        costs.receive_one_s + worked_mean_s + sum(line.mean_wait_s for line in others),
        costs.receive_one_s + worked_p95_s + sum(line.wait_quantile_s(SHARE) for line in others),
        worked_mean_s,
        worked_p95_s,
        full[bound],
        bound,
        mine * (costs.receive_cpu_s + costs.decode_s + costs.predict_s) / cores,
        batch,
    )


def choose(costs: Costs, demand: Demand, cores: int) -> Plan:
    """The fewest hosts that keep the wished-for wait.

    Raises:
        SettingsError: No number of hosts does; the message says why.
    """

    def keeps(hosts: int) -> bool:
        return assess(costs, demand, cores, hosts).p95_s <= demand.wait_s

    few, enough = 0, 1
    while not keeps(enough):
        if enough >= MAX_HOSTS:
            raise SettingsError(_why_none(costs, demand, cores))
        few, enough = enough, min(2 * enough, MAX_HOSTS)
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if keeps(middle) else (middle, enough)
    return assess(costs, demand, cores, enough)


def _why_none(costs: Costs, demand: Demand, cores: int) -> str:
    most = assess(costs, demand, cores, MAX_HOSTS)
    if not most.is_stable:
        return (
            f"no number of hosts: the {most.bound} takes {most.saturates_at:.3g} films a second at most, however many "
            f"there are. Received: {demand.rate:.3g} in the busiest hour"
        )
    return f"no number of hosts: a film alone takes {most.p95_s:.3g} s. Received: --wait-s {demand.wait_s:g}"


def batch_s(costs: Costs, batch: float, cores: float) -> float:
    """How long a worker takes for a batch, seconds: a straight line through a film alone and a full batch.

    One film is decoded by one core, however many there are. Where the receiver leaves no core, it takes for ever.
    """
    if cores <= 0:
        return inf
    alone_s = costs.decode_one_s * max(1.0, 1 / cores) + costs.commit_one_s
    alone_s += costs.predict_one_s * max(1.0, costs.cores / cores)
    if costs.batch_size == 1:
        return alone_s
    full_s = costs.batch_size * ((costs.decode_s + costs.predict_s) / cores + costs.commit_s)
    return alone_s + (batch - 1) * max(0.0, full_s - alone_s) / (costs.batch_size - 1)


def worker_saturation(costs: Costs, cores: int) -> float:
    """Films a second at which one host's worker is always busy with full batches, its receiver on the same cores."""

    def busy(rate: float) -> float:
        return rate * batch_s(costs, costs.batch_size, cores - rate * costs.receive_cpu_s) / costs.batch_size

    high = costs.batch_size / batch_s(costs, costs.batch_size, cores)
    if costs.receive_cpu_s:
        high = min(high, cores / costs.receive_cpu_s * (1 - 1e-9))
    return _root(lambda rate: 1 - busy(rate), 0.0, high)


def _worker(costs: Costs, demand: Demand, free: float, hosts: int) -> tuple[float, Line]:
    """The mean batch, and the line of films before workers that take so many at once, on `free` cores of each host."""

    def line(batch: float) -> Line:
        service_s = batch_s(costs, batch, free) / batch
        return Line(demand.rate, service_s, hosts, demand.arrival_scv, costs.decode_scv)

    # A worker finds one film and what has gathered behind it.
    batch = _root(lambda batch: 1 + demand.rate / hosts * line(batch).mean_wait_s - batch, 1.0, costs.batch_size)
    return batch, line(batch)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that falls comes to 0, or the end of the range that is nearer to it."""
    if falling(high) >= 0:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return high


def _stage(name: str, line: Line) -> Stage:
    return Stage(name, line.service_s, line.utilisation, line.mean_wait_s, line.wait_quantile_s(SHARE))
