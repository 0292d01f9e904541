"""Everything about a training run but the data: a recipe."""

import re
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from medd.errors import SettingsError
from medd.imaging.preprocess import PreprocessSpec
from medd.learn.augment import Augmentation


class OptimizerOptions(BaseModel):
    """How the weights are moved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: "adam", the article's, or "adamw" (Loshchilov & Hutter 2019), whose weight decay is a step of its own.
    name: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0)
    #: "constant", or "cosine": a linear rise over the first tenth, then half a cosine down to nothing.
    schedule: Literal["constant", "cosine"] = "constant"
    #: Of "adamw".
    weight_decay: float = Field(default=0, ge=0)
    #: Each gradient's largest norm; 0 does not clip.
    clip_norm: float = Field(default=0, ge=0)
    #: The network that is kept is the moving average of the weights, with this momentum; 0 keeps the weights.
    average: float = Field(default=0, ge=0, lt=1)


class TrainOptions(BaseModel):
    """A recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: The classifier to train, as a plugin registers it.
    network: str = "paper"
    #: What the network's ``build`` takes beside the shape, the labels, the head and the dropout.
    network_options: dict[str, Any] = Field(default_factory=dict)
    #: Name of the bundle; empty: the network's.
    name: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9_-]*)?$")
    #: Its version; by default the time, UTC.
    version: str = Field(
        default_factory=lambda: datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"), pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
    )
    #: The label that is no finding; every other one counts as positive.
    negative: str = "NORMAL"
    #: A regular expression searched for in each file's stem: its first group splits a label into finer ones for the
    #: training, whose probabilities are summed again in the model. Empty: the labels as they are.
    sublabels: str = ""
    #: The article's 20 epochs of 326 batches of 16.
    epochs: int = Field(default=20, ge=1)
    #: Batches in an epoch; more than the data hold repeats them.
    steps_per_epoch: int = Field(default=326, ge=1)
    batch_size: int = Field(default=16, ge=1)
    #: Show every label equally often, however many images it has.
    balanced: bool = False
    #: Of the weights, the order and the augmentation; and of the split, unless `split_seed` says another.
    seed: int = Field(default=0, ge=0, lt=2**32)
    split_seed: int | None = Field(default=None, ge=0, lt=2**32)
    optimizer: OptimizerOptions = OptimizerOptions()
    #: What the network computes in while it learns. Its weights are float32, and so is whatever judges and serves it.
    #: "bfloat16" is faster where the processor has it (AVX-512 BF16, AMX, GPUs), and much slower elsewhere.
    precision: Literal["float32", "bfloat16"] = "float32"
    label_smoothing: float = Field(default=0, ge=0, lt=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    #: Of two labels; more are always a softmax.
    head: Literal["sigmoid", "softmax"] = "sigmoid"
    #: Epochs before the network's ``thaw`` is called, which lets a pretrained backbone move.
    frozen_epochs: int = Field(default=0, ge=0)
    #: Stop after this many epochs without a lower validation loss; 0 never stops early.
    patience: int = Field(default=0, ge=0)
    #: The weights that are kept: those of the epoch with the lowest validation loss, or the last.
    keep: Literal["best", "last"] = "best"
    preprocess: PreprocessSpec = PreprocessSpec()
    augmentation: Augmentation = Augmentation()
    #: The threshold is the highest that finds this share of the validation part's findings.
    sensitivity: float = Field(default=0.95, gt=0, le=1)
    #: Share of findings among the images for which the probabilities are calibrated.
    prevalence: float = Field(default=0.5, gt=0, lt=1)
    #: Share of the validation part that the gate for unfamiliar images may refuse; 0 leaves the gate out.
    refusals: float = Field(default=0.015, ge=0, lt=0.5)
    #: An image, or a folder of such, of a kind that the gate must refuse, as adults where children were learned. They
    #: take no part in the training of the network.
    outliers: Path | None = None
    #: Youngest and oldest patient of the data, years; others are flagged.
    age_years: tuple[float, float] | None = None
    #: Written into the bundle.
    licence: str = ""
    intended_use: str = "Research use only. Not for diagnosis."

    @field_validator("outliers", mode="before")
    @classmethod
    def _empty_is_none(cls, where: Any) -> Any:
        return where or None

    @field_validator("outliers")
    @classmethod
    def _outliers_need_a_gate(cls, where: Path | None, known: ValidationInfo) -> Path | None:
        if where and not known.data.get("refusals", 1):
            raise ValueError("refusals = 0 leaves out the gate that would refuse them")
        return where

    @field_validator("sublabels")
    @classmethod
    def _one_group(cls, pattern: str) -> str:

        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        if pattern and groups != 1:
            raise ValueError("a regular expression with one group is needed")
        return pattern

    @property
    def bundle_name(self) -> str:
        """`name`, or the network's."""
        return self.name or self.network


def read_options(recipe: Path | None, given: Mapping[str, Any]) -> TrainOptions:
    """Put the options together: defaults < the recipe < what is given.

    Args:
        recipe: A TOML file whose keys are those of `TrainOptions`.
        given: The same keys, tables as mappings; None where nothing is said.

    Raises:
        SettingsError: The file cannot be read, or a key or value is wrong.
    """
    values: dict[str, Any] = {}
    if recipe is not None:
        try:
            values = tomllib.loads(recipe.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{recipe}: cannot be read as TOML. Received: {error}") from error
    for key, value in given.items():
        if isinstance(value, Mapping):
            said = {name: one for name, one in value.items() if one is not None}
            stated = values.get(key, {})
            values[key] = stated | said if isinstance(stated, dict) else stated
        elif value is not None:
            values[key] = value
    try:
        return TrainOptions(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SettingsError(f"{where}: {first['msg']}. Received: {first['input']!r}") from error
