"""Under load, whatever goes wrong: nothing that was answered with success is lost, doubled or stuck."""

from pathlib import Path

import pytest

from tests.chaos import rounds
from tests.chaos.faults import ALWAYS, ON_A_DISK, POSTGRESQL

pytestmark = pytest.mark.peers

#: In the short form each database has its own part of the faults; the long one has them all on both.
SHORT = {
    "sqlite": ["kill_worker", "fill_disk", "lock_database"],
    "postgresql": ["kill_receiver", "stop_database", "step_clock"],
}


@pytest.mark.parametrize("kind", SHORT)
def test_a_few_faults_lose_double_and_stick_nothing(tmp_path: Path, kind: str) -> None:
    report = rounds.run(tmp_path, kind, rounds=1, faults_per_round=3, seed=1, rate=10, only=SHORT[kind])
    print(report)
    assert report.answered > 0
    # Where nothing can be mounted there is no disk to fill.
    assert report.recovery.keys() >= set(SHORT[kind]) - {fault.__name__ for fault in ON_A_DISK}


@pytest.mark.full
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("kind", SHORT)
def test_twenty_four_rounds_of_every_fault_lose_double_and_stick_nothing(tmp_path: Path, kind: str) -> None:
    report = rounds.run(tmp_path, kind, rounds=24, faults_per_round=3, seed=1, rate=100)
    print(f"{report}\n\n{report.table()}")
    wanted = {fault.__name__ for fault in (*ALWAYS, *ON_A_DISK, *(POSTGRESQL if kind == "postgresql" else ()))}
    assert report.recovery.keys() == wanted
