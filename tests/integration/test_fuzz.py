"""The short form of `make fuzz`: the same inputs each time."""

import os
import threading

import pytest

from medd.errors import InputError
from tests.fuzz import runner
from tests.fuzz.__main__ import RAM_DISK, find
from tests.fuzz.target import Outcome, Target, outcome_of

INPUTS = {"headers": 120, "pixels": 80, "pdus": 100, "settings": 150, "manifests": 1000, "stow": 80}


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # it warns of what is damaged on purpose
@pytest.mark.parametrize("name", INPUTS)
def test_damaged_input_ends_as_it_should(tmp_path, name):
    report = runner.fuzz(find(name), inputs=INPUTS[name], build=tmp_path / "build", scratch=RAM_DISK)
    assert not report.findings, str(report)
    assert len(report.outcomes) > 1


class Faulty(Target):
    """Does what no target may."""

    def seeds(self) -> list[bytes]:
        return [b"raise", b"loop", b"refuse"]

    def run(self, data: bytes) -> Outcome:
        if data == b"raise":
            raise KeyError(data)
        while data == b"loop":
            pass
        return outcome_of(InputError("unreadable", "of 7 bytes"))


class Deadly(Target):
    def seeds(self) -> list[bytes]:
        return [b"deadly"]

    def run(self, data: bytes) -> Outcome:
        os.abort()


class Hanging(Deadly):
    def run(self, data: bytes) -> Outcome:
        threading.Event().wait()
        return Outcome("never")


def test_what_is_raised_and_what_does_not_end_is_found_and_can_be_replayed(tmp_path, monkeypatch):
    monkeypatch.setattr(Faulty, "LIMIT_S", 0.3)
    report = runner.fuzz(Faulty, inputs=6, build=tmp_path)
    (raised, file), (slow, _) = sorted(report.findings.items())
    assert raised.startswith("KeyError in test_fuzz.py:")
    assert slow.startswith("TooSlow in test_fuzz.py:")
    assert report.outcomes["InputError unreadable"] >= 1
    with pytest.raises(KeyError):
        runner.replay(Faulty, tmp_path.joinpath(file))


@pytest.mark.parametrize(("kind", "told"), [(Deadly, "ends the process, exit code -6"), (Hanging, "hangs")])
def test_what_ends_or_holds_its_process_is_found_with_its_input(tmp_path, monkeypatch, kind, told):
    monkeypatch.setattr(runner, "SILENCE_S", 6)
    report = runner.merge(runner.supervised(kind, seed=1, seconds=0.1, build=tmp_path))
    [(found, file)] = report.findings.items()
    assert found == runner.shape(told)
    assert (tmp_path / file).read_bytes()
