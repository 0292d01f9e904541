"""Where people deal with models: what ``medd models`` and ``medd retrain`` share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pluggy

from medd.classify.classifier import load
from medd.errors import ModelUnusable, SettingsError
from medd.hookspecs import ClassifierSpec
from medd.records import ModelVersion
from medd.registry import bundle as bundles
from medd.registry import changes, registry
from medd.registry.changes import Change
from medd.registry.find import find_folder
from medd.store.database import Database
from medd.store.models import find_model, find_models


@dataclass(frozen=True, slots=True)
class ModelDesk:
    """The models of one classifier."""

    database: Database
    #: The classifier of the settings.
    spec: ClassifierSpec
    #: All that the plugins bring.
    specs: Sequence[ClassifierSpec]
    manager: pluggy.PluginManager
    #: Where bundles lie that were made here.
    models_dir: Path

    def champion(self) -> ModelVersion:
        """What is on duty; of a broken one what its workers go on with.

        Raises:
            ModelUnusable: There is none.
        """
        return registry.find_usable(self.database, self.spec)

    def find(self, wanted: str, who: str, why: str = "") -> ModelVersion:
        """The model that a person means; one that is not known yet is registered.

        Args:
            wanted: "name/version", a bundle's folder, or the name of one in `models_dir`.
            who: By whom it is registered.
            why: And why.

        Raises:
            ModelUnusable: It is broken.
            SettingsError: There is none, or no plugin brings its classifier.
        """
        registry.check_text(wanted)
        registry.champion(self.database, self.spec)
        with self.database.read() as connection:
            known = find_model(connection, wanted)
        if known is not None:
            return known
        inside = self.models_dir / wanted
        try:
            folder = inside if inside.is_dir() else find_folder(wanted, self.specs, self.models_dir)
        except OSError as error:
            raise SettingsError(f"model {wanted!r}: {error.strerror}") from error
        return changes.register(self.database, folder, self.specs, Change(who, why))

    def try_out(self, model: ModelVersion) -> None:
        """Load a model and let it score one grey image.

        Raises:
            ModelUnusable: It cannot.
        """
        if model.classifier != self.spec.name:
            raise ModelUnusable(f"{model.ref}: is for the classifier {model.classifier!r}, not {self.spec.name!r}")
        registry.check(model)
        loaded = load(model.path, self.specs, threads=1)
        loaded.predict(np.full((1, *loaded.bundle.preprocess.input_shape), 0.5, np.float32))

    def promote(self, wanted: str, who: str, why: str) -> ModelVersion:
        """Put a model on duty after a trial; raises as `find`, `try_out` and `medd.registry.changes.promote`.

        One that cannot be used is kept on record as refused, and the champion stays.
        """
        model = self.find(wanted, who, why)
        try:
            self.try_out(model)
        except ModelUnusable as error:
            changes.refuse(self.database, model.classifier, model.ref, Change(who, str(error)))
            raise
        changes.promote(self.database, model, self.manager, Change(who, why))
        return model

    def known(self) -> list[ModelVersion]:
        """Every model of the classifier, in the order in which they became known."""
        registry.champion(self.database, self.spec)
        with self.database.read() as connection:
            return find_models(connection, self.spec.name)

    def rows(self) -> list[dict[str, Any]]:
        """Every model of the classifier with its role and figures, as ``medd models list`` shows them."""
        return [describe(model) for model in self.known()]


def describe(model: ModelVersion) -> dict[str, Any]:
    """A model's role and figures, as ``medd models list`` shows them."""
    row: dict[str, Any] = {"model": model.ref, "role": str(model.role), "path": str(model.path)}
    row["digest"] = model.digest
    try:
        bundle = bundles.read(model.path)
    except ModelUnusable as error:
        return row | dict.fromkeys(("created_at", "threshold", "accuracy", "auroc")) | {"unusable": str(error)}
    measured = {name: bundle.evaluation.get(name) for name in ("accuracy", "auroc")}
    return row | {"created_at": bundle.created_at, "threshold": bundle.threshold, **measured, "unusable": None}
