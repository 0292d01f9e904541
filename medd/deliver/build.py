"""Destinations, built from the settings."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from medd.deliver.destination import Destination
from medd.errors import SettingsError
from medd.settings import Settings


def build_destinations(settings: Settings, kinds: Mapping[str, type[Any]]) -> dict[str, Destination]:
    """Every ``[[destination]]``, by name.

    Args:
        settings: All settings.
        kinds: What the plugins bring, by type.

    Raises:
        SettingsError: A type that nobody brings, a name that is taken, or a key that its type does not take.
    """
    built: dict[str, Destination] = {}
    for place, table in enumerate(settings.destination):
        where = f"destination[{place}]"
        kind = kinds.get(table.type)
        if kind is None:
            raise SettingsError(f"{where}.type: one of {', '.join(sorted(kinds))} expected. Received: {table.type!r}")
        if table.label in built:
            raise SettingsError(f"{where}.name: there is one called {table.label!r} already; give each its name")
        own = dict(table.model_extra or {})
        if "name" in kind.Settings.model_fields:
            own["name"] = table.label
        try:
            checked = kind.Settings(**own)
        except ValidationError as error:
            raise SettingsError("; ".join(f"{where}.{_explain(problem)}" for problem in error.errors())) from error
        built[table.label] = kind(table.label, checked, settings)
    return built


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{key}: no such setting"
    return f"{key}: {problem['msg']}"  # not what was received: it may be a secret
