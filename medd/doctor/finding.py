"""What a check of ``medd doctor`` says."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from medd.settings import Settings


class State(StrEnum):
    """How it stands."""

    #: As it should be.
    OK = "OK"
    #: It works; somebody should look before it does not.
    WARN = "WARN"
    #: It does not work, or images will be refused or stay unassessed.
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line."""

    state: State
    #: What was looked at.
    name: str
    #: What was found; never anything of a patient.
    found: str
    #: What to do about it; "" where it is nothing.
    advice: str = ""


Check = Callable[[Settings], Iterable[Finding]]
