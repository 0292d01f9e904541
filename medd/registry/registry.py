"""Which bundle is on duty for a classifier."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from medd.errors import ModelUnusable, SettingsError
from medd.hookspecs import ClassifierSpec
from medd.records import ModelVersion
from medd.registry import bundle as bundles
from medd.store.database import Database
from medd.store.repository import find_champion, put_champion


def find_spec(name: str, specs: Sequence[ClassifierSpec]) -> ClassifierSpec:
    """The classifier that ``[model] classifier`` names.

    Raises:
        SettingsError: No plugin brings it.
    """
    for spec in specs:
        if spec.name == name:
            return spec
    known = ", ".join(spec.name for spec in specs) or "none"
    raise SettingsError(f"model.classifier: no plugin brings {name!r}; there are: {known}")


def champion_folder(database: Database, spec: ClassifierSpec) -> Path:
    """The bundle on duty; where none is, the one that the classifier's plugin ships goes on duty.

    Raises:
        ModelUnusable: There is neither, or the shipped one is broken.
        TransientError: The database is away.
    """
    with database.read() as connection:
        on_duty = find_champion(connection, spec.name)
    if spec.bundle is None:
        if on_duty is None:
            raise ModelUnusable(f"classifier {spec.name!r} has no model: its plugin ships none; train one")
        return on_duty.path
    shipped = bundles.read(spec.bundle, verify=False)
    if on_duty is not None and on_duty.ref != shipped.ref:
        return on_duty.path
    digest = bundles.description_digest(spec.bundle)
    if on_duty is None or on_duty.digest != digest:
        version = ModelVersion(shipped.name, shipped.version, spec.name, digest, spec.bundle)
        with database.write() as connection:
            put_champion(connection, version, datetime.now(UTC))
    # Where a plugin lies differs from host to host and after an upgrade: its own word goes before the database's.
    return spec.bundle
