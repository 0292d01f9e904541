"""Models on duty and on trial, and the readers' words that they learn from."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any


class Role(StrEnum):
    """What a model version does for its classifier."""

    #: On duty: what it says is the result. One at most.
    CHAMPION = "champion"
    #: Scores the same images in the shadow: recorded, never shown. One at most.
    CANDIDATE = "candidate"
    #: Known, and not in use: it was on duty, or never was.
    RETIRED = "retired"


class ModelChange(StrEnum):
    """What was done to a model version; a row of ``model_event``."""

    REGISTERED = "registered"
    SET_CANDIDATE = "set_candidate"
    WITHDRAWN = "withdrawn"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    #: A promotion or a retraining was refused.
    REFUSED = "refused"
    #: A worker could not use it, and goes on with the one it had.
    SET_ASIDE = "set_aside"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One bundle as the registry knows it."""

    name: str
    version: str
    #: The classifier plugin that loads it.
    classifier: str
    #: SHA-256 of the bundle's description, which holds the digests of its files.
    digest: str
    path: Path
    role: Role = Role.RETIRED

    @property
    def ref(self) -> str:
        """The model as results name it: "name/version"."""
        return f"{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """One thing that was done to a model version."""

    at: datetime
    classifier: str
    #: "name/version"; "" where a retraining was refused before there was one.
    model: str
    what: ModelChange
    who: str
    why: str
    #: The figures it was decided by, as JSON has them.
    figures: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a plugin does not want a candidate to go on duty."""

    #: One sentence.
    reason: str


#: The label of an annotation by which a reader takes back what he or she said before.
WITHDRAWN = ""
#: The label of an annotation by which a reader who has looked cannot tell. No model has a label of this name.
UNSURE = "?"


@dataclass(frozen=True, slots=True)
class Annotation:
    """What a reader says the truth of an instance is."""

    instance_id: int
    #: A label of a model, `UNSURE` or `WITHDRAWN`. Only the first is ever learned from.
    label: str
    reader: str
    at: datetime
    comment: str = ""
