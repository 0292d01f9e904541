"""From costs and a demand to hosts."""

from bisect import bisect_right
from heapq import heapreplace
from math import inf
from pathlib import Path

import numpy as np
import pytest

from medd.errors import SettingsError
from medd.plan import costs as kept
from medd.plan.capacity import Demand, Plan, assess, batch_s, choose, worker_saturation
from medd.plan.costs import Costs
from medd.plan.queueing import Line

COSTS = Costs(
    machine="made up",
    cores=2,
    measured_at="2026-01-01T00:00:00Z",
    model="stub/1",
    size=2048,
    transfer_syntax="j2k",
    film_bytes=5e6,
    row_bytes=2000,
    receive_one_s=0.02,
    receive_rate=60,
    receive_cpu_s=0.01,
    decode_one_s=0.8,
    decode_s=1.0,
    decode_scv=0.01,
    predict_one_s=0.003,
    predict_s=0.002,
    commit_one_s=0.005,
    commit_s=0.001,
    insert_s=0.002,
    batch_size=32,
    poll_s=0.2,
)


def changed(**values: object) -> Costs:
    return Costs.model_validate(COSTS.model_dump() | values)


def at(rate: float, cores: int = 2, hosts: int = 1, costs: Costs = COSTS) -> Plan:
    """So many films a second."""
    return assess(costs, Demand(films_per_day=rate * 86_400, peak_factor=1), cores, hosts)


def test_of_images_one_by_one_the_worker_is_one_line_of_that_theory():
    one = changed(batch_size=1, receive_cpu_s=0, poll_s=0)
    plan = at(0.6, costs=one)
    service_s = 0.8 + 0.003 + 0.005
    assert plan.stage("worker").cost_s == pytest.approx(service_s)
    line = Line(0.6, service_s, 1, service_scv=0.01)
    assert plan.stage("worker").wait_mean_s == pytest.approx(line.mean_wait_s)
    assert plan.stage("worker").wait_p95_s == pytest.approx(line.wait_quantile_s(0.95))
    assert worker_saturation(one, 2) == pytest.approx(1 / service_s)


def test_a_batch_costs_what_was_measured_at_both_ends_and_never_less_than_one_film():
    assert batch_s(COSTS, 1, 2) == pytest.approx(0.8 + 0.003 + 0.005)
    assert batch_s(COSTS, 32, 2) == pytest.approx(32 * (1.002 / 2 + 0.001))
    assert batch_s(COSTS, 32, 1000) == pytest.approx(batch_s(COSTS, 1, 1000))
    assert batch_s(COSTS, 1, 0.5) > batch_s(COSTS, 1, 1)


def test_when_nothing_comes_a_film_takes_its_own_time_and_half_a_look_at_the_queue():
    plan = at(1e-9)
    assert plan.mean_s == pytest.approx(0.02 + 0.1 + 0.808, rel=1e-6)
    assert plan.batch == pytest.approx(1)
    assert all(stage.utilisation < 1e-6 for stage in plan.stages)


def simulated(costs: Costs, rate: float, cores: int, hosts: int, films: int = 8000) -> tuple[float, float]:
    """Mean and 95 % quantile of the time from a film's row to the end of its batch, by the model's own assumptions.

    Films come at random; a free worker takes the line, up to a batch, and is busy with it for `batch_s`.
    """
    came = np.random.default_rng(1).exponential(1 / rate, films).cumsum().tolist()
    free = cores - rate / hosts * costs.receive_cpu_s
    busy_s = [0.0, *(batch_s(costs, batch, free) for batch in range(1, costs.batch_size + 1))]
    done, idle_from, first = np.empty(films), [0.0] * hosts, 0
    while first < films:
        start = max(idle_from[0], came[first])
        end = bisect_right(came, start, first, min(films, first + costs.batch_size))
        done[first:end] = start + busy_s[end - first]
        heapreplace(idle_from, start + busy_s[end - first])
        first = end
    took = (done - np.array(came))[films // 20 :]
    return float(took.mean()), float(np.quantile(took, 0.95))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("hosts", [1, 4, 16])
@pytest.mark.parametrize("decode_s", [1.0, 0.05], ids=["slow", "fast"])
def test_the_times_are_near_those_of_a_simulation_and_the_p95_hardly_below(decode_s: float, hosts: int, share: float):
    costs = changed(decode_one_s=0.9 * decode_s, decode_s=decode_s, poll_s=0)
    rate = share * hosts * worker_saturation(costs, 2)
    plan = at(rate, 2, hosts, costs)
    mean_s, p95_s = simulated(costs, rate, 2, hosts)
    assert 0.8 < plan.worked_mean_s / mean_s < 1.5
    assert 0.87 < plan.worked_p95_s / p95_s < 2


def test_the_receiver_takes_its_cores_from_the_worker():
    full = worker_saturation(COSTS, 2)
    assert full * (1.002 / (2 - full * 0.01) + 0.001) == pytest.approx(1)
    assert full < worker_saturation(changed(receive_cpu_s=0), 2)
    greedy = changed(receive_cpu_s=10)
    assert worker_saturation(greedy, 2) < 0.2
    assert not at(0.3, costs=greedy).is_stable


def test_waits_grow_with_the_load_up_to_saturation_and_fall_with_cores_and_hosts():
    full = at(1).saturates_at
    for figure in ("mean_s", "p95_s", "batch", "cores_busy"):
        values = [getattr(at(full * share), figure) for share in (0.01, 0.1, 0.3, 0.6, 0.9, 0.99)]
        assert values == sorted(values)
        assert all(value < inf for value in values)
    assert at(full * 1.01).mean_s == inf
    assert at(1, cores=4).mean_s < at(1).mean_s
    assert at(1.5, hosts=2).mean_s < at(1.5).mean_s
    assert at(full * 0.999).stage("worker").utilisation == pytest.approx(0.999, abs=0.01)


def test_what_is_full_first_bounds_it():
    assert at(1).bound == "worker"
    assert at(1, costs=changed(receive_rate=0.5)).bound == "receive"
    assert at(1, hosts=200).bound == "database"
    assert at(1, hosts=200).saturates_at == pytest.approx(1 / 0.003)


def test_the_fewest_hosts_that_keep_the_wait_are_chosen():
    demand = Demand(films_per_day=10_000_000 / 365, peak_factor=10, wait_s=20)
    plan = choose(COSTS, demand, cores=2)
    assert plan.p95_s <= 20 < assess(COSTS, demand, 2, plan.hosts - 1).p95_s
    assert choose(COSTS, Demand(10), 2).hosts == 1
    counts = [choose(COSTS, Demand(films, wait_s=30), 2).hosts for films in (1e3, 1e4, 1e5, 1e6)]
    assert counts == sorted(counts)


def test_what_no_number_of_hosts_can_do_is_said_with_its_reason():
    with pytest.raises(SettingsError, match=r"a film alone takes 1\.02 s\. Received: --wait-s 0\.5"):
        choose(COSTS, Demand(1000, wait_s=0.5), 2)
    with pytest.raises(SettingsError, match="the database takes 333 films a second at most"):
        choose(COSTS, Demand(100_000_000, wait_s=60), 64)


def test_costs_are_read_as_they_were_written_and_anything_else_is_refused(tmp_path: Path):
    file = tmp_path / "costs.json"
    kept.write(COSTS, file)
    assert kept.read(file) == COSTS
    for text, told in (
        ("{}", "machine Field required"),
        ("[1", "JSON"),
        (file.read_text().replace("60.0", "0"), "greater"),
    ):
        wrong = tmp_path / "wrong.json"
        wrong.write_text(text)
        with pytest.raises(SettingsError, match=told):
            kept.read(wrong)
    with pytest.raises(SettingsError, match="No such file"):
        kept.read(tmp_path / "none.json")
