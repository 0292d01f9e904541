"""Several hosts, one system: whichever dies or is cut off, nothing is lost or doubled."""

from pathlib import Path

import pytest

from tests.cluster import rounds

pytestmark = pytest.mark.peers


def test_a_receiver_that_dies_and_a_worker_that_is_cut_off_cost_nothing(tmp_path: Path) -> None:
    report = rounds.run(tmp_path, rounds=2, only=("receiver killed", "worker cut off"))
    print(report)
    assert set(report.recovery) == {"receiver killed", "worker cut off"}


@pytest.mark.full
@pytest.mark.timeout(2 * 3600)
def test_twenty_rounds_of_every_fault_cost_nothing(tmp_path: Path) -> None:
    report = rounds.run(tmp_path, rounds=20)
    print(report)
    assert len(report.recovery) == 6


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_second_worker_nearly_doubles_what_is_done(tmp_path: Path) -> None:
    one, two = rounds.speedup(tmp_path)
    print(f"one worker {one:.1f} results/s, two {two:.1f}")
    assert two >= 1.8 * one
