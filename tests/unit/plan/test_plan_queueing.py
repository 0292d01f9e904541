"""The queueing formulas against closed forms."""

from math import exp, factorial, inf, log

import pytest

from medd.plan.queueing import Line, erlang_c


def erlang_c_by_sums(servers: int, load: float) -> float:
    """As textbooks write it: fine for few servers."""
    tail = load**servers / factorial(servers) / (1 - load / servers)
    return tail / (sum(load**k / factorial(k) for k in range(servers)) + tail)


@pytest.mark.parametrize("servers", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("utilisation", [0.01, 0.3, 0.8, 0.99])
def test_erlang_c_is_what_its_sums_say(servers, utilisation):
    load = servers * utilisation
    assert erlang_c(servers, load) == pytest.approx(erlang_c_by_sums(servers, load), rel=1e-12)


def test_one_server_makes_wait_whoever_finds_it_busy_and_many_neither_overflow_nor_wait():
    assert erlang_c(1, 0.6) == pytest.approx(0.6)
    assert erlang_c(3, 0) == 0
    assert erlang_c(3, 3) == erlang_c(3, 4) == 1
    assert erlang_c(5000, 2500) == pytest.approx(0, abs=1e-9)
    assert 0 < erlang_c(5000, 4990) < 1


def test_known_waits_of_one_server():
    # M/M/1: ρ / (μ − λ); M/D/1: half of it; D/D/1: none.
    assert Line(8, 0.1).mean_wait_s == pytest.approx(0.8 / (10 - 8))
    assert Line(8, 0.1, service_scv=0).mean_wait_s == pytest.approx(0.8 / (10 - 8) / 2)
    assert Line(8, 0.1, arrival_scv=0, service_scv=0).mean_wait_s == 0


def test_the_wait_of_several_servers_and_its_quantile():
    line = Line(rate=5, service_s=0.5, servers=3)  # M/M/3 with 2.5 erlangs
    waiting = erlang_c_by_sums(3, 2.5)
    assert line.mean_wait_s == pytest.approx(waiting / (6 - 5))
    p95 = line.wait_quantile_s(0.95)
    assert waiting * exp(-(6 - 5) * p95) == pytest.approx(0.05)
    assert p95 == pytest.approx(log(waiting / 0.05))
    assert Line(0.1, 0.5, 3).wait_quantile_s(0.95) == 0  # fewer than 5 % wait at all


def test_a_load_that_rounding_leaves_just_below_saturation_has_no_end_either():
    rounded = Line(0.5323795430433232, 1.8783591763942427)
    assert rounded.utilisation < 1
    assert rounded.mean_wait_s == rounded.wait_quantile_s(0.95) == inf


def test_the_wait_grows_with_the_load_and_has_no_end_from_saturation_on():
    waits = [Line(rate, 0.1, 2, service_scv=0.3).mean_wait_s for rate in (0, 1, 5, 10, 15, 19, 19.99)]
    assert waits == sorted(waits)
    assert waits[0] == 0
    assert waits[-1] > 5
    assert Line(20, 0.1, 2).mean_wait_s == Line(21, 0.1, 2).wait_quantile_s(0.95) == inf
    assert Line(10, 0.1, 2).mean_wait_s > Line(10, 0.1, 3).mean_wait_s
