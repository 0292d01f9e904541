"""Drift, with the statistics that real images would give."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from medd.errors import ModelUnusable
from medd.learn.drift import COLUMNS, QUANTITIES, Device, chance, compare, psi
from medd.records import Status
from medd.registry.reference import BINS, Distribution, Reference, distribution, reference
from medd.store.devices import Sighting

RNG = np.random.default_rng(0)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def measured(count: int, *, score: float = 2.0, mean: float = 0.5, std: float = 0.2) -> np.ndarray:
    """(3, count): scores around score / (score + 2), means and standard deviations of so many images."""
    rng = np.random.default_rng(RNG.integers(2**32))
    return np.stack([rng.beta(score, 2, count), rng.normal(mean, 0.05, count), rng.normal(std, 0.02, count)])


REFERENCE = reference(*measured(1500))


def sightings(values: np.ndarray, days: int = 0, **other: Any) -> list[Sighting]:
    fields = {
        "manufacturer": "ACME",
        "station_name": "ROOM1",
        "origin": "dicom://CR1@10.0.0.1",
        "received_at": NOON + timedelta(days=days),
        "status": Status.SCORED,
    } | other
    return [Sighting(**fields, probability=p, input_mean=m, input_std=s) for p, m, s in values.T.tolist()]


def rows(seen: list[Sighting], **options: Any) -> list[dict[str, Any]]:
    return list(compare(seen, REFERENCE, **options))


# Reference


def test_a_reference_holds_a_tenth_of_the_images_in_each_bin():
    found = distribution(np.arange(1000) / 1000)
    assert found.counts == (100,) * BINS
    assert found.edges == pytest.approx(np.arange(1, BINS) / BINS, abs=1e-3)
    assert (found.mean, found.std, found.images) == (pytest.approx(0.4995), pytest.approx(0.2887, abs=1e-3), 1000)


def test_equal_values_share_a_bin():
    found = distribution([0.0] * 50 + [1.0] * 50)
    assert sum(found.counts) == 100
    assert 50 in found.counts
    assert distribution([0.3] * 5).counts == (0, 5)


def test_a_reference_comes_back_from_json_as_it_was():
    assert Reference.model_validate_json(REFERENCE.model_dump_json()) == REFERENCE


@pytest.mark.parametrize("values", [([], [], []), ([0.5], [np.nan], [0.1])])
def test_a_reference_needs_images_and_numbers(values):
    with pytest.raises(ModelUnusable, match="needs images and finite numbers"):
        reference(*values)


@pytest.mark.parametrize(
    ("edges", "counts"), [((0.5,), (1,)), ((0.5, 0.5), (1, 1, 1)), ((0.5,), (0, 0)), ((), (1,)), ((0.5,), (-1, 2))]
)
def test_a_distribution_that_is_none_is_refused(edges, counts):
    with pytest.raises(ValidationError):
        Distribution(edges=edges, counts=counts, mean=0.5, std=0.1)


# Index


def test_the_index_is_zero_for_the_same_and_large_for_another_distribution():
    assert psi([100] * 10, [150] * 10) == pytest.approx(0, abs=1e-4)
    # Of two bins, (o - e) ln(o / e) twice: 0.4 · ln(0.9 / 0.5) + (-0.4) · ln(0.1 / 0.5).
    assert psi([900_000, 100_000], [500_000, 500_000]) == pytest.approx(0.8789, abs=1e-3)
    assert 2 < psi([0] * 9 + [100], [150] * 10) < 10


def test_chance_is_the_quantile_of_chi_squared():
    stats = pytest.importorskip("scipy.stats")
    for bins in (3, 10):
        exact = stats.chi2.ppf(0.999, bins - 1) * (1 / 50 + 1 / 1500)
        assert chance(bins, 50, 1500) == pytest.approx(exact, rel=0.03)


def test_images_like_the_reference_are_almost_never_marked():
    marked = [
        row["marked"] for count in (30, 60, 200) for _ in range(100) for row in rows(sightings(measured(count)))[:1]
    ]
    # Three quantities, 300 devices, with the day as a second chance: about one is expected by FALSE_ALARMS.
    assert sum(marked) <= 4


# Devices and days


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        ("dicom://CR1@10.0.0.1", "CR1"),
        ("dicom://A@B@host", "A@B"),
        ("file:ward 3/new/x.dcm", "file"),
        ("file:x.png", "file"),
    ],
)
def test_a_device_is_maker_station_and_sender(origin, source):
    (seen,) = sightings(measured(1), origin=origin)
    assert Device.of(seen) == Device("ACME", "ROOM1", source)
    assert str(Device.of(seen)) == f"ACME ROOM1 {source}"


def test_a_folder_for_each_patient_makes_no_device_of_each_and_shows_no_name():
    john, jane = (sightings(measured(20), origin=f"file:{name}/1.dcm") for name in ("DOE_JOHN", "ROE_JANE"))
    assert [(row["device"], row["images"]) for row in rows(john + jane)] == [("ACME ROOM1 file", 40)] * 2


@pytest.mark.parametrize(
    ("change", "quantity"), [({"score": 8}, "score"), ({"mean": 0.6}, "input_mean"), ({"std": 0.15}, "input_std")]
)
def test_a_device_whose_images_change_is_marked_for_what_changed(change, quantity):
    old, new = sightings(measured(100)), sightings(measured(100, **change), station_name="ROOM2")
    found = rows(old + new)
    assert [row["device"] for row in found] == ["ACME ROOM2 CR1"] * 2 + ["ACME ROOM1 CR1"] * 2
    assert [(row["marked"], row["state"], row["drifted"]) for row in found] == [
        (True, "drift", [quantity]),
        (True, "drift", [quantity]),
        (False, "steady", []),
        (False, "steady", []),
    ]
    assert found[0][f"{quantity}_psi"] > 0.25 > found[2][f"{quantity}_psi"]


def test_one_bad_day_marks_a_device_that_is_steady_over_all():
    seen = sightings(measured(2000)) + sightings(measured(60, mean=0.6), days=1)
    found = rows(seen)
    assert [(row["day"], row["images"], row["state"]) for row in found] == [
        ("all", 2060, "steady"),
        ("2026-03-01", 2000, "steady"),
        ("2026-03-02", 60, "drift"),
    ]
    assert all(row["marked"] for row in found)


def test_slow_days_are_compared_together():
    seen = [one for day in range(10) for one in sightings(measured(10, mean=0.65), days=day)]
    found = rows(seen)
    assert [row["state"] for row in found] == ["drift"] + ["too_few"] * 10
    assert {row["input_mean_psi"] for row in found[1:]} == {None}
    assert found[1]["input_mean"] == pytest.approx(0.65, abs=0.1)


def test_a_day_is_one_of_utc():
    late = NOON.replace(hour=23, minute=30).astimezone(timezone(timedelta(hours=2)))
    assert [row["day"] for row in rows(sightings(measured(1), received_at=late))] == ["all", "2026-03-01"]


def test_few_images_are_not_guessed_at():
    few = sightings(measured(29, mean=0.9))
    assert {row["state"] for row in rows(few)} == {"too_few"}
    assert {row["state"] for row in rows(few, min_images=20)} == {"drift"}


def test_the_threshold_is_what_is_asked_for():
    seen = sightings(measured(400, mean=0.53))
    assert rows(seen, threshold=0.1)[0]["marked"]
    assert not rows(seen, threshold=2)[0]["marked"]


def test_images_without_a_score_are_counted_and_not_compared():
    nothing = np.full((3, 1), None)
    seen = (
        sightings(measured(40))
        + sightings(nothing, status=Status.NOT_ASSESSED) * 3
        + sightings(nothing, status=Status.PENDING) * 2
    )
    assert [(row["images"], row["not_assessed"], row["state"]) for row in rows(seen)] == [(40, 3, "steady")] * 2


def test_scores_made_before_inputs_were_measured_are_compared_alone():
    values = measured(50).astype(object)
    values[1:] = None
    for row in rows(sightings(values)):
        assert row["state"] == "steady"
        assert (row["input_mean_psi"], row["input_std"]) == (None, None)
        assert row["score_psi"] is not None


def test_nothing_seen_is_no_row():
    assert rows([]) == []


def test_every_row_has_every_column():
    for row in rows(sightings(measured(30))):
        assert list(row) == COLUMNS
        assert [row[f"{name}_reference"] for name in QUANTITIES] == pytest.approx([0.5, 0.5, 0.2], abs=0.02)


def test_drift_needs_nothing_of_the_train_extra():
    code = "import sys, medd.learn.drift; print({'tensorflow', 'keras', 'sklearn', 'scipy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
