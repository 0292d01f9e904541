"""A bundle: one model version on disk, complete and immutable.

A folder with ``bundle.json`` and the files it names, each with its SHA-256: the weights for serving
(``model.onnx``), the Keras model for further training (``model.keras``), and whatever else belongs to it.
"""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medd.errors import ModelUnusable
from medd.imaging.preprocess import PreprocessSpec
from medd.registry.reference import Reference

DESCRIPTION = "bundle.json"


class Calibration(BaseModel):
    """Platt's map of the summed probability of the findings (Platt 1999), on its log-odds: a line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slope: float = Field(gt=0)
    intercept: float = 0.0

    def apply(self, probability: NDArray[np.floating]) -> NDArray[np.float64]:
        """Calibrate (N,) probabilities in [0, 1]; their order stays."""
        p = np.clip(np.asarray(probability, np.float64), 1e-7, 1 - 1e-7)
        return np.asarray(1 / (1 + np.exp(-(self.slope * np.log(p / (1 - p)) + self.intercept))))


class Gate(BaseModel):
    """What is too unlike the training to be judged: "not assessed"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: The largest novelty that is judged; see `medd.classify.classifier.Scores`.
    threshold: float = Field(ge=0)


class Bundle(BaseModel):
    """What ``bundle.json`` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Name of the model, as in "name/version".
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    #: The classifier plugin that loads it.
    classifier: str
    #: In the order of the network's outputs.
    labels: tuple[str, ...] = Field(min_length=2)
    #: The labels that count as a finding; their probabilities are summed.
    positive_labels: tuple[str, ...] = Field(min_length=1)
    #: An image is positive when its summed probability is at or above this; in [0, 1].
    threshold: float = Field(ge=0, le=1)
    preprocess: PreprocessSpec
    #: How the classifier's probabilities become those that are shown; None: as they are.
    calibration: Calibration | None = None
    #: None: every image is judged.
    gate: Gate | None = None
    #: Youngest and oldest patient of the training, years; None where that is not known.
    age_years: tuple[float, float] | None = None
    #: What `medd drift` compares later images with; None: older than that.
    reference: Reference | None = None
    #: What was measured when it was made: metrics, intervals, and the data they were measured on.
    evaluation: dict[str, Any] = Field(default_factory=dict)
    #: How it was trained: data, split digest, hyper-parameters, seed.
    training: dict[str, Any] = Field(default_factory=dict)
    #: Licence of the weights and credit for the data.
    licence: str = ""
    #: What it is for and not for, in a sentence or two.
    intended_use: str = ""
    created_at: datetime
    #: Relative path → SHA-256 in hex.
    files: dict[str, str]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels are not unique")
        unknown = set(self.positive_labels) - set(self.labels)
        if unknown or set(self.positive_labels) == set(self.labels):
            raise ValueError("positive_labels must be some, not all, of the labels")
        return self

    @property
    def ref(self) -> str:
        """The model as results name it: "name/version"."""
        return f"{self.name}/{self.version}"


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(folder: Path, *, verify: bool = True) -> Bundle:
    """Read a bundle and, with `verify`, compare every file with its digest.

    Raises:
        ModelUnusable: The description is missing or wrong, or a file is missing or altered.
    """
    try:
        bundle = Bundle.model_validate_json((folder / DESCRIPTION).read_bytes())
    except OSError as error:
        raise ModelUnusable(f"{folder}: no readable {DESCRIPTION}. Received: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelUnusable(f"{folder / DESCRIPTION}: {where or 'content'}: {first['msg']}") from error
    if verify:
        for name, expected in bundle.files.items():
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()):
                raise ModelUnusable(f"{folder}: file name leads out of the bundle. Received: {name!r}")
            try:
                found = file_digest(path)
            except OSError as error:
                raise ModelUnusable(f"{path}: cannot be read. Received: {error.strerror}") from error
            if found != expected:
                raise ModelUnusable(f"{path}: altered since the bundle was made. Received: sha256 {found}")
    return bundle


def description_digest(folder: Path) -> str:
    """SHA-256 of ``bundle.json``, which covers every file by its digest."""
    return file_digest(folder / DESCRIPTION)


def write(folder: Path, bundle: Bundle) -> Bundle:
    """Write ``bundle.json`` beside the files already in `folder`, with their digests filled in."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != DESCRIPTION)
    complete = bundle.model_copy(update={"files": {name: file_digest(folder / name) for name in names}})
    (folder / DESCRIPTION).write_text(complete.model_dump_json(indent=2) + "\n")
    return complete
