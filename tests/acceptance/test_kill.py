"""What was answered with success survives `kill -9` of any part at any moment, and is scored once."""

from pathlib import Path

import pytest

from tests.acceptance import chaos

pytestmark = pytest.mark.peers


def test_kills_while_storescu_sends_lose_and_double_nothing(tmp_path: Path, database_url: str) -> None:
    report = chaos.run(tmp_path, database_url, rounds=3, images=60, seed=2, kills_per_round=1)
    print(report)
    assert report.kills == {"receive": 1, "work": 1, "daemon": 1}
    assert report.cut_off + report.claimed_again > 0, "no kill hit an association or a job: the test proves nothing"


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_twenty_rounds_of_five_hundred_images_lose_and_double_nothing(tmp_path: Path, database_url: str) -> None:
    report = chaos.run(tmp_path, database_url, rounds=20, images=500, seed=1, kills_per_round=3)
    print(report)
    assert report.kills == {"receive": 20, "work": 20, "daemon": 20}
    assert report.images == 10_000
