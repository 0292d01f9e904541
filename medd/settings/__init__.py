"""All settings, one typed tree: defaults < ``medd.toml`` < ``MEDD_*`` environment < command line.

A key that does not exist is an error, wherever it stands. ``config/medd.toml`` lists every key with its default.
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from medd.errors import SettingsError
from medd.settings.base import AETitle, TlsSettings
from medd.settings.results import DeliverSettings, DestinationSettings, StudySettings, WorklistSettings
from medd.settings.sources import DicomWebSettings, InboxSettings, ListenerSettings, PeerSettings, PullSettings
from medd.settings.web import WebSettings, is_loopback
from medd.settings.work import (
    DatabaseSettings,
    LogSettings,
    ModelSettings,
    RetentionSettings,
    RetrainSettings,
    SpoolSettings,
    WorkerSettings,
)

__all__ = [
    "AETitle",
    "DestinationSettings",
    "DicomWebSettings",
    "InboxSettings",
    "ListenerSettings",
    "PeerSettings",
    "PullSettings",
    "RetentionSettings",
    "Settings",
    "TlsSettings",
    "WebSettings",
    "WorklistSettings",
    "flatten",
    "is_loopback",
    "load",
]

PREFIX = "MEDD_"
#: Environment variables that are not settings: where to look for them, and a debugging switch.
NOT_SETTINGS = {"MEDD_HOME", "MEDD_CONFIG", "MEDD_TRACE_PLUGINS", "MEDD_REQUIRE_PEERS", "MEDD_FULL"}


class Settings(BaseSettings):
    """The whole tree. Built by `load`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    #: Holds everything the daemon writes.
    home: Path = Path("medd-home")
    #: Folder of plugin files, relative to the home folder.
    plugins_dir: Path = Path("plugins")
    listener: ListenerSettings = ListenerSettings()
    inbox: tuple[InboxSettings, ...] = (InboxSettings(),)
    database: DatabaseSettings = DatabaseSettings()
    spool: SpoolSettings = SpoolSettings()
    worker: WorkerSettings = WorkerSettings()
    study: StudySettings = StudySettings()
    destination: tuple[DestinationSettings, ...] = ()
    deliver: DeliverSettings = DeliverSettings()
    peer: tuple[PeerSettings, ...] = ()
    dicomweb: tuple[DicomWebSettings, ...] = ()
    pull: tuple[PullSettings, ...] = ()
    model: ModelSettings = ModelSettings()
    web: WebSettings = WebSettings()
    worklist: WorklistSettings = WorklistSettings()
    retention: RetentionSettings = RetentionSettings()
    retrain: RetrainSettings = RetrainSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes before what `load` read from the file; the command line is merged in by `load`."""
        return env_settings, init_settings

    def under_home(self, path: Path) -> Path:
        """A path of the settings, made absolute: relative ones lie in the home folder."""
        return self.home / path

    @property
    def models_dir(self) -> Path:
        """Where bundles lie that were made here."""
        return self.home / "models"

    @property
    def database_url(self) -> str:
        """The database's URL with a relative SQLite path made absolute."""
        url = self.database.url
        prefix = "sqlite:///"
        if url.startswith(prefix) and not url.startswith(prefix + "/"):
            return prefix + str(self.home / url.removeprefix(prefix))
        return url


def load(home: Path | None = None, config: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings.

    Args:
        home: The home folder; else ``MEDD_HOME``, else ``medd-home`` here.
        config: The file; else ``MEDD_CONFIG``, else ``medd.toml`` in the home folder if there is one.
        overrides: Top-level keys from the command line; they win over file and environment.

    Raises:
        SettingsError: An unknown key, a bad value, or a file that cannot be read.
    """
    home = (home or Path(os.environ.get("MEDD_HOME", "medd-home"))).expanduser().absolute()
    named = config or (Path(os.environ["MEDD_CONFIG"]) if "MEDD_CONFIG" in os.environ else None)
    file = named or home / "medd.toml"
    values: dict[str, Any] = {}
    if named or file.is_file():
        try:
            values = tomllib.loads(file.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise SettingsError(f"{file}: cannot be read as TOML. Received: {error}") from error
    if "home" in values:
        raise SettingsError(f"{file}: home: set it by --home or MEDD_HOME, not in the file")
    known = Settings.model_fields
    for name in sorted(os.environ):
        is_setting = name.startswith(PREFIX) and name not in NOT_SETTINGS
        if is_setting and name.removeprefix(PREFIX).split("__")[0].lower() not in known:
            raise SettingsError(f"environment {name}: no such setting")
    try:
        settings = Settings(**(values | {"home": home}))
        return settings.model_copy(update={"home": home} | overrides)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(problem, file) for problem in error.errors())) from error
    except (ValueError, RecursionError) as error:  # what is no JSON, or is nested beyond reason, in the environment
        raise SettingsError(f"environment: {error}") from error


def _explain(problem: Any, file: Path) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "settings"
    if problem["type"] == "extra_forbidden":
        return f"{key}: no such setting (in {file} or MEDD_{key.upper().replace('.', '__')})"
    received = problem.get("input")
    return f"{key}: {problem['msg']}. Received: {received!r}"


def flatten(settings: Settings) -> dict[str, Any]:
    """Every setting by its dotted key, as JSON has it; without the password of the database."""
    flat: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{prefix}.{key}" if prefix else key, inner)
        elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
            for place, inner in enumerate(value):
                add(f"{prefix}[{place}]", inner)
        else:
            flat[prefix] = value

    add("", settings.model_dump(mode="json"))
    # Up to the last "@", as people forget to escape the one in their password; it may stand among the options too.
    url = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", flat["database.url"])
    flat["database.url"] = re.sub(r"(?i)([?&]password=)[^&]*", r"\1***", url)
    return flat
