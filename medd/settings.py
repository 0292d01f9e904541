"""All settings, one typed tree: defaults < ``medd.toml`` < ``MEDD_*`` environment < command line.

A key that does not exist is an error, wherever it stands. ``config/medd.toml`` lists every key with its default.
"""

import ipaddress
import os
import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from medd.errors import SettingsError

PREFIX = "MEDD_"
#: Environment variables that are not settings: where to look for them, and a debugging switch.
NOT_SETTINGS = {"MEDD_HOME", "MEDD_CONFIG", "MEDD_TRACE_PLUGINS", "MEDD_REQUIRE_PEERS", "MEDD_FULL"}


def _ae_title(title: str) -> str:
    # PS3.5 section 6.2, VR AE: at most 16 characters of the default repertoire, no backslash or control character.
    title = title.strip()
    if not 1 <= len(title) <= 16 or "\\" in title or not title.isascii() or not title.isprintable():
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return title


AETitle = Annotated[str, AfterValidator(_ae_title)]


class Section(BaseModel):
    """A table of ``medd.toml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TlsSettings(Section):
    """A table ``tls``: TLS 1.2 or newer (PS3.15 section B.12, BCP 195). Relative paths lie in the home folder."""

    #: Our certificate chain, PEM. A listener needs one; towards a peer only where the peer asks for it.
    certificate: str = ""
    #: Its private key, PEM, without a pass phrase; empty where it stands in the same file.
    key: str = ""
    #: Certificates that we trust, PEM. On a listener, peers must then show one that these have signed (mutual TLS);
    #: towards a peer, the system's are trusted where none is named.
    ca: str = ""


class ListenerSettings(Section):
    """``[listener]``: the C-STORE and C-ECHO provider."""

    #: Address to listen on; "0.0.0.0" or "::" for every interface.
    host: str = "127.0.0.1"
    #: TCP port; 0 takes a free one.
    port: int = Field(default=11112, ge=0, le=65535)
    #: Our AE title, compared without case.
    ae_title: AETitle = "MEDD"
    #: Whether a peer must call us by `ae_title`.
    require_called_ae: bool = False
    #: AE titles that may call; empty allows all.
    allowed_calling_ae: tuple[AETitle, ...] = ()
    #: Addresses or networks ("10.1.2.0/24") that may connect; empty allows all.
    allowed_hosts: tuple[str, ...] = ()
    #: Associations at one time; more are rejected as "temporary congestion".
    max_associations: int = Field(default=25, ge=1)
    #: Seconds without a byte from a peer before its association is aborted.
    network_timeout_s: float = Field(default=30, ge=0.001)
    #: Largest dataset accepted, MiB.
    max_object_mib: int = Field(default=2048, ge=1)
    #: Associations at one time from one address; 0 sets no limit of its own.
    max_associations_per_host: int = Field(default=0, ge=0)
    #: Seconds a peer may take from the connection to its association request, the TLS handshake included.
    association_timeout_s: float = Field(default=10, ge=0.001)
    #: Without a certificate, the port speaks DICOM in the clear.
    tls: TlsSettings = TlsSettings()


class InboxSettings(Section):
    """``[[inbox]]``: a watched folder."""

    #: Relative to the home folder, or absolute.
    path: Path = Path("inbox")
    #: Seconds a file must be unchanged before it is taken.
    settle_s: float = Field(default=2, ge=0)
    #: True for network drives, which send no change events.
    poll: bool = False
    #: Seconds between complete rescans, which find what the watcher missed.
    rescan_s: float = Field(default=30, gt=0)
    #: What becomes of a file that was taken: "move" (to done/ or rejected/), "leave" or "delete".
    after: Literal["move", "leave", "delete"] = "move"


class DatabaseSettings(Section):
    """``[database]``: where rows live."""

    #: SQLAlchemy URL; a relative SQLite path is relative to the home folder.
    url: str = "sqlite:///medd.db"


class SpoolSettings(Section):
    """``[spool]``: where the bytes of every instance lie."""

    #: Relative to the home folder, or absolute. Hosts that share it share their work.
    path: Path = Path("spool")
    #: While less is free on its disk, MiB, images are refused for the time being (0xA700); 0 sets no limit.
    min_free_mib: int = Field(default=512, ge=0)
    #: While more images wait to be scored, further ones are refused for the time being; 0 sets no limit.
    max_waiting: int = Field(default=0, ge=0)


class WorkerSettings(Section):
    """``[worker]``: who scores."""

    #: Worker processes.
    processes: int = Field(default=1, ge=1)
    #: Processes that decode, and threads of the network, of each worker; 0 takes every core.
    threads: int = Field(default=0, ge=0)
    #: Seconds that decoding one image may take; what takes longer twice has failed.
    decode_timeout_s: float = Field(default=60, ge=1)
    #: Memory that decoding one image may take, MiB.
    decode_memory_mib: int = Field(default=4096, ge=512)
    #: Images scored together when that many wait; one alone never waits for more.
    batch_size: int = Field(default=32, ge=1)
    #: Seconds after which the work of a worker that fell silent goes to another.
    lease_s: float = Field(default=60, gt=1, le=300)
    #: Tries before a job is dead.
    max_attempts: int = Field(default=5, ge=1)
    #: Seconds after which a worker whose batch does not end is replaced, and its images are tried again.
    stuck_s: float = Field(default=900, ge=10)
    #: Seconds between looks at an empty queue.
    poll_s: float = Field(default=0.2, gt=0)


class StudySettings(Section):
    """``[study]``: when a study is complete enough to be reported."""

    #: Seconds without another result before a study is reported.
    quiet_s: float = Field(default=10, ge=0, le=3600)
    #: Seconds after its first result when it is reported whatever still comes.
    max_wait_s: float = Field(default=60, ge=0, le=3600)


class PeerSettings(Section):
    """``[[peer]]``: a DICOM application entity that is asked for images, or that asks for storage commitment."""

    #: How the command line calls it.
    name: str = Field(min_length=1, max_length=64)
    host: str
    port: int = Field(default=104, ge=1, le=65535)
    #: The peer's AE title.
    ae_title: AETitle
    #: Ours towards it; by default the listener's.
    calling_ae_title: AETitle | None = None
    #: The table, even an empty one, turns TLS on.
    tls: TlsSettings | None = None
    #: Seconds to connect, and without an answer, before it counts as away.
    timeout_s: float = Field(default=30, gt=0)
    #: How `medd pull` fetches images: "move" to our listener, or "get" on the same association.
    retrieve: Literal["get", "move"] = "get"


class DicomWebSettings(Section):
    """``[[dicomweb]]``: a DICOMweb server that is asked for images (QIDO-RS, WADO-RS)."""

    #: How the command line calls it.
    name: str = Field(min_length=1, max_length=64)
    #: The service's root, such as "https://pacs.example/dicom-web".
    url: str
    #: A file that holds the token sent as "Authorization: Bearer …"; relative to the home folder, or absolute.
    token_file: str = ""
    #: Certificates to trust instead of the system's, PEM.
    ca: str = ""
    timeout_s: float = Field(default=30, gt=0)


class PullSettings(Section):
    """``[[pull]]``: images fetched by the daemon on a schedule."""

    #: The peer or DICOMweb server, by name.
    source: str = Field(min_length=1, max_length=64)
    #: Local time of day, "HH:MM", at which it begins.
    at: str = Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    #: How many days back it asks for, today included.
    days: int = Field(default=2, ge=1)
    modalities: tuple[str, ...] = ("CR", "DX")
    #: Studies fetched at most in one run; 0 sets no limit.
    max_studies: int = Field(default=0, ge=0)
    #: Studies a minute at most; 0 sets no limit.
    studies_per_min: float = Field(default=0, ge=0)


class DestinationSettings(BaseModel):
    """``[[destination]]``: where results go. What else it takes, the destination's type says."""

    model_config = ConfigDict(extra="allow", frozen=True)

    #: "pacs", "folder", or what a plugin brings.
    type: str = Field(min_length=1, max_length=64)
    #: Unique; by default the type.
    name: str = Field(default="", max_length=64)

    @property
    def label(self) -> str:
        """How it is called: its name, or its type where it has none."""
        return self.name or self.type


class DeliverSettings(Section):
    """``[deliver]``: how results are sent."""

    #: Studies sent at one time to each destination.
    threads: int = Field(default=2, ge=1)
    #: Seconds after which the work of a deliverer that fell silent goes to another.
    lease_s: float = Field(default=60, gt=1, le=300)
    #: Seconds between looks at an empty outbox.
    poll_s: float = Field(default=0.5, gt=0)
    #: Hours for which a destination that is away is tried before a delivery is dead.
    give_up_after_h: float = Field(default=72, gt=0)


class ModelSettings(Section):
    """``[model]``: which classifier is used."""

    #: A classifier that a plugin brings; which of its versions is on duty stands in the database.
    classifier: str = "pneumonia"


class WebSettings(Section):
    """``[web]``: the reading room in the browser, and the interfaces of other programs."""

    #: Whether `medd serve` runs it.
    enabled: bool = True
    #: Whether who comes must log in. Without it everybody is an administrator, and only this machine can be served.
    login: bool = False
    #: Address to listen on; "0.0.0.0" or "::" for every interface.
    host: str = "127.0.0.1"
    #: TCP port; 0 takes a free one.
    port: int = Field(default=8080, ge=0, le=65535)
    #: Names, besides this host's own and any address, by which browsers may call us.
    allowed_hosts: tuple[str, ...] = ()
    #: Addresses, or networks, of proxies before us, which are believed who calls and whether by https.
    trusted_proxies: tuple[str, ...] = ()
    #: Hours until who logged in must do so again.
    session_h: float = Field(default=12, gt=0, le=720)
    #: Largest request with images, MiB.
    max_upload_mib: int = Field(default=2048, ge=1)
    #: Requests a second from one address over a while; 0 sets no limit.
    max_requests_per_s: float = Field(default=100, ge=0)
    #: A file with a token that gives its bearer `/metrics` and nothing else; relative to the home folder, or absolute.
    metrics_token_file: str = ""
    #: Seconds that the first image in the queue may wait before `/health` says that something is wrong.
    max_queue_age_s: float = Field(default=900, gt=0)
    #: With a certificate, the port speaks https only.
    tls: TlsSettings = TlsSettings()

    @field_validator("host", "allowed_hosts", "trusted_proxies")
    @classmethod
    def _is_guarded(cls, value: Any, info: ValidationInfo) -> Any:
        # By another address, another name or a proxy others than the one before this machine come in.
        near = is_loopback(value) if info.field_name == "host" else not value
        if info.data.get("enabled", True) and not info.data.get("login", True) and not near:
            raise ValueError("only this machine is served without log-in; set web.login = true, see `medd users`")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:  # a name, or "*", would let anybody say whose request his is
            try:
                ipaddress.ip_network(one)
            except ValueError:
                raise ValueError(f"addresses or networks expected. Received: {one}") from None
        return value


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class WorklistSettings(Section):
    """``[worklist]``: in which order studies are read."""

    #: Minutes after which a study that nobody has read goes before all that wait less, whatever its score; 0 sets no
    #: cap, as it should be where nobody marks studies as read.
    max_wait_min: float = Field(default=240, ge=0, le=5_256_000)

    @property
    def max_wait(self) -> timedelta | None:
        """`max_wait_min` as the worklist takes it."""
        return timedelta(minutes=self.max_wait_min) if self.max_wait_min else None


class RetentionSettings(Section):
    """``[retention]``: how long what is done with is kept; 0 keeps it for ever. See `medd purge`."""

    #: Days after its last image when the images of a study are deleted from the spool. What was said of them stays.
    days: float = Field(default=0, ge=0, le=100_000)
    #: While more lies in the spool, MiB, the images of the oldest studies are deleted, but none of the last day.
    max_spool_mib: int = Field(default=0, ge=0)
    #: Days after its last image when all that is known of a study is deleted: images, results, reports.
    results_days: float = Field(default=0, ge=0, le=100_000)


class RetrainSettings(Section):
    """``[retrain]``: what `medd retrain` learns from."""

    #: The base data, in any form that `medd train` takes; relative to the home folder, or absolute. Empty: none.
    data: str = ""
    #: Fewer new labels than this are not worth a training.
    min_labels: int = Field(default=20, ge=0)


class LogSettings(Section):
    """``[log]``: what is told of the work."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    #: "text" for people, "json" for log collectors.
    format: Literal["text", "json"] = "text"


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
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
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
    except Exception as error:  # pydantic-settings' own SettingsError: a list in the environment that is no JSON
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
