"""The short form of `make fuzz`: the same inputs each time."""

import pytest

from tests.fuzz import runner
from tests.fuzz.__main__ import RAM_DISK, find

INPUTS = {"headers": 120, "pixels": 80, "pdus": 100, "settings": 150, "manifests": 1000, "stow": 80}


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # it warns of what is damaged on purpose
@pytest.mark.parametrize("name", INPUTS)
def test_damaged_input_ends_as_it_should(tmp_path, name):
    report = runner.fuzz(find(name), inputs=INPUTS[name], build=tmp_path / "build", scratch=RAM_DISK)
    assert not report.findings, str(report)
    assert len(report.outcomes) > 1
