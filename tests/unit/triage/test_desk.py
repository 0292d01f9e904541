"""Who is read next, event by event, against brute force."""

import random

import pytest

from medd.store.urgency import urgency_of
from medd.triage import Reading
from medd.triage.cases import BELOW, FINDING, HOUR_S, UNJUDGED, Case, Source, reading_times
from medd.triage.desk import FirstComeFirstServed, MostUrgentFirst, read_all
from medd.triage.scores import Scores

ALWAYS = (1,) * 24


def case(arrived: float, probability: float | None = None, scored: float | None = None) -> Case:
    band = UNJUDGED if probability is None else FINDING if probability >= 0.5 else BELOW
    return Case(arrived, arrived if scored is None else scored, band, probability, None)


def opened(cases: list[Case], reading_s: float = 10, max_wait_s: float | None = None, **options: object) -> list[float]:
    options = {"readers": ALWAYS, "order": MostUrgentFirst(max_wait_s)} | options
    return read_all(cases, [reading_s] * len(cases), **options)


def test_who_comes_first_is_read_first():
    assert opened([case(0), case(1), case(2)], order=FirstComeFirstServed()) == [0, 10, 20]


def test_the_surest_finding_is_read_next_and_nobody_is_interrupted():
    assert opened([case(0, 0.1), case(1, 0.2), case(2, 0.6), case(3, 0.9), case(4)]) == [0, 40, 20, 10, 30]


def test_what_waits_longer_than_the_cap_goes_first():
    assert opened([case(0, 0.1), case(1, 0.2), case(2, 0.9), case(3, 0.9)], max_wait_s=15) == [0, 20, 10, 30]


def test_study_rises_and_falls_when_it_is_scored():
    waits = case(1)
    rises, falls = case(2, 0.9, scored=5), case(0.5, 0.1, scored=5)
    assert opened([case(0, 0.9), falls, waits, rises]) == [0, 30, 20, 10]
    early = [case(0, 0.9), case(0.5, 0.1, scored=15), case(1, 0.9, scored=25), case(2)]
    assert opened(early) == [0, 10, 20, 30], "until it is scored it stands by its arrival"


def test_score_that_comes_after_the_reading_changes_nothing():
    assert opened([case(0, 0.9, scored=50), case(1, 0.9, scored=60)]) == [0, 10]


def test_readers_come_and_go_by_the_hour_and_finish_what_they_hold():
    readers = (0, 2, 1, *(0,) * 21)
    cases = [case(0)] * 5
    # Two begin at 1 h and at 1.9 h; they end at 2.8 h, when one of the two has gone: the fifth is read then.
    assert opened(cases, 0.9 * HOUR_S, readers=readers) == pytest.approx(
        [HOUR_S, HOUR_S, 1.9 * HOUR_S, 1.9 * HOUR_S, 2.8 * HOUR_S]
    )
    assert opened(cases, 1.1 * HOUR_S, readers=readers)[2:] == pytest.approx([2.1 * HOUR_S, 25 * HOUR_S, 25 * HOUR_S])


def brute_force(cases, reading_s, readers, max_wait_s) -> list[float]:
    """Looks at every study that waits, each time a reader is free."""
    free, waiting, found = [0.0] * readers, set(range(len(cases))), [0.0] * len(cases)
    while waiting:
        reader = min(range(readers), key=lambda one: free[one])
        now = max(free[reader], min(cases[one].arrived_s for one in waiting))
        here = [one for one in waiting if cases[one].arrived_s <= now]

        def key(one: int, now: float = now):
            it = cases[one]
            scored = it.scored_s <= now
            urgency = urgency_of(it.band if scored else UNJUDGED, it.probability if scored else None, it.arrived_s)
            is_overdue = max_wait_s is not None and it.arrived_s < now - max_wait_s
            return (0, it.arrived_s, one) if is_overdue else (1, urgency, one)

        taken = min(here, key=key)
        waiting.remove(taken)
        found[taken], free[reader] = now, now + reading_s[taken]
    return found


@pytest.mark.parametrize("seed", range(8))
def test_order_is_that_of_looking_at_everything_each_time(seed):
    rng = random.Random(seed)
    cases, now = [], 0.0
    for _ in range(300):
        now += rng.expovariate(1 / 30)
        probability = rng.choice([None, rng.random(), rng.random()])
        cases.append(case(now, probability, now + rng.choice([0, 0, rng.uniform(0, 200)])))
    times = [rng.expovariate(1 / 55) for _ in cases]
    cap = rng.choice([None, 100.0, 400.0, 2000.0])
    readers = rng.randint(1, 3)
    found = read_all(cases, times, (readers,) * 24, MostUrgentFirst(cap))
    assert found == brute_force(cases, times, readers, cap)


def test_same_seed_draws_the_same_studies_and_another_seed_others():
    source = Source((5.0,) * 24, 2, 0.3, Scores(0.9, 0.8), 0.1)
    assert source.draw(1) == source.draw(1) != source.draw(2)
    assert reading_times(1, 9, 60, Reading.LOGNORMAL).tolist() == reading_times(1, 9, 60, Reading.LOGNORMAL).tolist()


def test_studies_are_drawn_as_often_and_scored_as_well_as_was_asked():
    rates = (0.0,) * 6 + (20.0,) * 12 + (5.0,) * 6
    cases = Source(rates, 200, 0.25, Scores(0.9, 0.8), 0.1).draw(0)
    assert len(cases) == pytest.approx(200 * sum(rates), rel=0.02)
    hours = [int(one.arrived_s // HOUR_S) % 24 for one in cases]
    assert min(hours) == 6
    assert sum(hour < 18 for hour in hours) / len(cases) == pytest.approx(240 / 270, abs=0.01)
    judged = [one for one in cases if one.band != UNJUDGED]
    assert len(judged) / len(cases) == pytest.approx(0.9, abs=0.01)
    ill, well = ([one for one in judged if one.truth is truth] for truth in (True, False))
    assert len(ill) / len(judged) == pytest.approx(0.25, abs=0.01)
    assert sum(one.band == FINDING for one in ill) / len(ill) == pytest.approx(0.9, abs=0.01)
    assert sum(one.band == BELOW for one in well) / len(well) == pytest.approx(0.8, abs=0.01)
    assert all((one.probability >= 0.5) == (one.band == FINDING) for one in judged)


@pytest.mark.parametrize(("shape", "spread"), [(Reading.LOGNORMAL, 0.5), (Reading.EXPONENTIAL, 1), (Reading.FIXED, 0)])
def test_reading_times_have_their_mean_and_spread(shape, spread):
    times = reading_times(0, 200_000, 240, shape)
    assert times.mean() == pytest.approx(240, rel=0.01)
    assert times.std() == pytest.approx(240 * spread, rel=0.02, abs=1e-9)
