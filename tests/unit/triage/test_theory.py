"""Simulated waits against what queueing theory proves of them."""

from math import factorial

import numpy as np
import pytest

from medd.triage import Reading
from medd.triage.cases import FINDING, Source
from medd.triage.compare import Desk, _student, interval, rows, run
from medd.triage.scores import Scores

stats = pytest.importorskip("scipy.stats")

RATE, READING_S = 12.0, 240.0
#: Load of one reader.
RHO = RATE * READING_S / 3600
PERFECT = Scores(1.0, 1.0)
SEEDS, DAYS = 12, 90
#: The first days begin with nobody waiting.
WARM_UP_S = 2 * 86_400


def mean_waits(source: Source, desk: Desk) -> dict[tuple[str, str], np.ndarray]:
    """Mean wait of each run, seconds, by order, and by truth or by what the model says."""
    found: dict[tuple[str, str], list[float]] = {}
    for seed in range(SEEDS):
        cases = source.draw(seed)
        late = np.array([one.arrived_s > WARM_UP_S for one in cases])
        ill = np.array([one.truth for one in cases])
        flagged = np.array([one.band == FINDING for one in cases])
        groups = {"all": late, "ill": ill, "well": ~ill, "flagged": flagged, "not flagged": ~flagged}
        for order, waits in run(cases, desk, seed).items():
            for group, members in groups.items():
                found.setdefault((order, group), []).append(float(waits["all"][late & members].mean()))
    return {key: np.array(values) for key, values in found.items()}


def agrees(values: np.ndarray, theory: float) -> bool:
    """Whether theory lies in the interval of the runs, of 99.9 %, and that interval is narrow enough to say so."""
    reach = stats.t.ppf(0.9995, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    assert reach < 0.15 * theory, f"too few runs to tell: {reach:.1f} of {theory:.1f}"
    return abs(values.mean() - theory) < reach


def desk(readers: int = 1, shape: Reading = Reading.EXPONENTIAL, factor: float = 1) -> Desk:
    return Desk((readers,) * 24, READING_S * factor, shape, None)


def source(prevalence: float = 0.2, scores: Scores = PERFECT) -> Source:
    return Source((RATE,) * 24, DAYS, prevalence, scores, 0.0)


def second_moment(shape: Reading) -> float:
    """E[S²]."""
    return READING_S**2 * {Reading.EXPONENTIAL: 2, Reading.LOGNORMAL: 1.25, Reading.FIXED: 1}[shape]


@pytest.mark.parametrize("shape", list(Reading))
def test_one_reader_waits_as_pollaczek_and_khinchine_say(shape):
    """W = λE[S²] / 2(1 - ρ); for exponential times that is M/M/1: ρ/(1 - ρ) of a reading time."""
    found = mean_waits(source(), desk(shape=shape))
    theory = RATE / 3600 * second_moment(shape) / 2 / (1 - RHO)
    if shape is Reading.EXPONENTIAL:
        assert theory == pytest.approx(RHO / (1 - RHO) * READING_S)
    assert agrees(found["fcfs", "all"], theory)
    assert agrees(found["worklist", "all"], theory), "no order changes the mean over all"


def test_several_readers_wait_as_erlang_says():
    """M/M/c: W = C(c, a) / (cμ - λ), a = λ/μ, C by Erlang's formula."""
    readers, factor = 3, 3
    offered = RHO * factor
    free = sum(offered**k / factorial(k) for k in range(readers))
    all_busy = offered**readers / factorial(readers) * readers / (readers - offered)
    theory = all_busy / (free + all_busy) / (readers - offered) * READING_S * factor
    assert agrees(mean_waits(source(), desk(readers, factor=factor))["fcfs", "all"], theory)


@pytest.mark.parametrize("shape", [Reading.EXPONENTIAL, Reading.LOGNORMAL])
def test_two_classes_wait_as_cobham_says(shape):
    """Cobham 1954, non-preemptive: W₁ = W₀/(1 - ρ₁), W₂ = W₀/((1 - ρ₁)(1 - ρ)), W₀ = λE[S²]/2."""
    prevalence = 0.2
    found = mean_waits(source(prevalence), desk(shape=shape))
    residual = RATE / 3600 * second_moment(shape) / 2
    urgent = residual / (1 - RHO * prevalence)
    assert agrees(found["worklist", "ill"], urgent)
    assert agrees(found["worklist", "well"], urgent / (1 - RHO))
    assert agrees(found["fcfs", "ill"], residual / (1 - RHO))


def test_errors_of_the_model_mix_the_classes_and_scores_near_the_threshold_mend_some_of_it():
    prevalence, scores = 0.2, Scores(0.8, 0.9)
    found = mean_waits(source(prevalence, scores), desk())
    flagged = prevalence * scores.sensitivity + (1 - prevalence) * (1 - scores.specificity)
    first = RATE / 3600 * second_moment(Reading.EXPONENTIAL) / 2 / (1 - RHO * flagged)
    second = first / (1 - RHO)
    assert agrees(found["worklist", "flagged"], first)
    assert agrees(found["worklist", "not flagged"], second)
    # Who is missed still scores higher than most who have nothing, and waits less than the rest of the second class.
    by_class = scores.sensitivity * first + (1 - scores.sensitivity) * second
    assert first < found["worklist", "ill"].mean() < 0.8 * by_class


def test_cap_of_nothing_is_first_come_first_served():
    capped = Desk((1,) * 24, READING_S, Reading.LOGNORMAL, 1e-9)
    waits = run(source().draw(0)[:3000], capped, 0)
    # Who comes to a reader who is free is overdue by no time at all; all others are.
    assert np.allclose(waits["worklist"]["all"], waits["fcfs"]["all"])


def test_scores_have_the_area_that_follows_from_them():
    rng, scores = np.random.default_rng(0), Scores(0.9, 0.8)
    truth = np.arange(40_000) % 2 == 0
    drawn = scores.draw(rng, truth)
    area = stats.mannwhitneyu(drawn[truth], drawn[~truth]).statistic / (truth.sum() * (~truth).sum())
    assert scores.auroc == pytest.approx(area, abs=0.005)


def test_interval_is_students():
    values = np.array([1.0, 2.0, 4.0, 7.0, 7.5])
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    middle, reach = interval(values)
    assert (middle - reach, middle + reach) == pytest.approx((low, high), abs=0.002)
    assert interval(values[:1]) == (1.0, None)
    for freedom in range(2, 60):
        assert _student(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.01)


def test_difference_is_that_of_the_same_studies():
    runs = [run(source().draw(seed)[:400], desk(), seed) for seed in range(4)]
    by = {(row["order"], row["studies"]): row for row in rows(runs)}
    assert set(by) == {(order, group) for order in ("fcfs", "worklist", "difference")
                       for group in ("positive", "negative", "all")}  # fmt: skip
    for group in ("positive", "negative", "all"):
        told = by["difference", group]
        for figure in ("mean_min", "p95_min", "max_min"):
            assert told[figure] == pytest.approx(by["worklist", group][figure] - by["fcfs", group][figure])
            assert told[f"{figure}_low"] <= told[figure] <= told[f"{figure}_high"]
