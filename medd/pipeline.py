"""The composition root: builds what the daemon runs from the settings. Read this first.

::

    listener ─┐                                    ┌─▶ instance, job
              ├─▶ intake ─▶ spool (bytes) ─▶ database
    inbox ────┘                                    └─▶ worker ─▶ decode ─▶ preprocess ─▶ classifier ─▶ prediction
                                                                                                         outbox
    PACS, folder, … ◀─ report (SR, picture, rows) ◀─ deliverer ◀────────────────────────────────────────────┘
"""

import errno
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

from medd import plugins
from medd.deliver import kinds
from medd.errors import PluginError, SettingsError, TransientError
from medd.ingest import admission
from medd.settings import Settings
from medd.store.database import Database, check_schema
from medd.store.durable import write_once
from medd.store.outbox import Outbox
from medd.store.spool import Spool

# Everything else is imported where it is built: each process and command loads what it needs, which is most of the time
# that it takes to start.
if TYPE_CHECKING:
    from medd.classify.classifier import LoadedModel
    from medd.classify.desk import ModelDesk
    from medd.deliver.stage import Deliverer
    from medd.hookspecs import Service, ServiceSpec
    from medd.ingest.intake import Intake
    from medd.ingest.receiver import Receiver
    from medd.queue.worker import Worker
    from medd.store.retention import Retention

#: The parts of the daemon, each a process. Plugins bring more of them: their services.
STAGES = ("receive", "work", "deliver")


def load_plugins(settings: Settings) -> pluggy.PluginManager:
    """Every plugin, checked.

    Raises:
        PluginError: One cannot be used.
    """
    return plugins.load_plugins(settings.under_home(settings.plugins_dir), builtin=(admission, kinds))


def open_database(settings: Settings) -> Database:
    """The database, with the schema this program is written for.

    Raises:
        SettingsError: The home folder cannot be written, the URL is wrong, or the schema does not fit.
        TransientError: The database is away.
    """
    make_home(settings)
    database = Database(settings.database_url)
    check_schema(database)
    return database


def open_existing_database(settings: Settings) -> Database:
    """The database of a home that is in use, for commands that only look.

    Raises:
        SettingsError: There is no database yet, or its schema does not fit.
        TransientError: The database is away.
    """
    database = Database(settings.database_url)
    if database.file is not None and not database.file.is_file():
        raise SettingsError(f"no database at {database.file}: nothing was received there; --home names another")
    check_schema(database, create=False)
    return database


def make_home(settings: Settings) -> None:
    """Make the home folder.

    Raises:
        SettingsError: It cannot be made or written.
    """
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        probe = settings.home / f".probe-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SettingsError(f"home: {settings.home} cannot be written. Received: {error.strerror}") from error


def node_id(settings: Settings) -> str:
    """A name for this home on this host that outlives restarts: who holds which lease."""
    file = settings.home / "node-id"
    write_once(file, f"{socket.gethostname()[:32]}-{secrets.token_hex(8)}")
    return file.read_text().strip()


def build_intake(settings: Settings, database: Database) -> "Intake":
    """The one door."""
    from medd.ingest.intake import Intake

    spool = open_spool(settings)
    return Intake(database, spool, load_plugins(settings), outbox_of(settings, spool), settings.spool.max_waiting)


def outbox_of(settings: Settings, spool: Spool) -> Outbox:
    """Where results go, and how long a study may wait for company."""
    names = tuple(table.label for table in settings.destination)
    return Outbox(names, settings.study.quiet_s, settings.study.max_wait_s, spool.id)


def open_spool(settings: Settings) -> Spool:
    """Where the bytes lie.

    Raises:
        SettingsError: It cannot be made or written.
        TransientError: The bucket is away.
    """
    wanted, bucket = settings.spool, None
    if wanted.bucket:
        from medd.store.bucket import Bucket

        bucket = Bucket(wanted.bucket, wanted.endpoint)
    spool = Spool(settings.under_home(wanted.path), wanted.min_free_mib, bucket, wanted.cache_mib)
    try:
        spool.prepare()
    except OSError as error:
        if bucket is not None and error.errno == errno.EIO:
            raise TransientError(f"spool: {error.strerror}") from error
        where = f"spool.bucket: {wanted.bucket}" if bucket and not error.filename else f"spool.path: {spool.root}"
        raise SettingsError(f"{where} cannot be written. Received: {error.strerror or error}") from error
    return spool


def build_receiver(settings: Settings) -> "Receiver":
    """The listener, the watched folders and the scheduled pulls, which share one door.

    Raises:
        MeddError: Something of it cannot be built.
    """
    from medd.ingest.commitment import CommitmentDesk
    from medd.ingest.listener import Listener
    from medd.ingest.pull import open_source
    from medd.ingest.receiver import Receiver
    from medd.ingest.schedule import ScheduledPulls
    from medd.ingest.watch import Inbox
    from medd.store.retention import Rounds, Rules

    database = open_database(settings)
    intake = build_intake(settings, database)
    sources = [(pull, open_source(settings, pull.source, intake, database)) for pull in settings.pull]
    pulls = ScheduledPulls(sources, database)
    spool = open_spool(settings)
    desk = CommitmentDesk(database, spool, settings.peer)
    listener = Listener(settings.listener, intake, desk, settings.home)
    inboxes = tuple(Inbox(inbox, settings.under_home(inbox.path), intake) for inbox in settings.inbox)
    retention = Rounds(database, spool, Rules.of(settings.retention))
    address = f"{settings.listener.ae_title}@{settings.listener.host}:{listener.port}"
    return Receiver(intake, listener, inboxes, pulls, retention, address)


def open_retention(settings: Settings) -> "Retention":
    """What deletes what is done with, for a command.

    Raises:
        SettingsError: There is no database yet, or the spool cannot be written.
        TransientError: The database is away.
    """
    from medd.store.retention import Retention

    return Retention(open_existing_database(settings), open_spool(settings))


def load_model(settings: Settings, folder: Path | None = None) -> "tuple[LoadedModel, pluggy.PluginManager]":
    """The classifier of the settings without a database, on its own bundle or the one in `folder`; and the plugins.

    Raises:
        MeddError: A plugin or the model cannot be used.
    """
    from medd.classify.classifier import load
    from medd.registry.registry import find_spec

    manager = load_plugins(settings)
    specs = plugins.classifiers(manager)
    chosen = folder or find_spec(settings.model.classifier, specs).bundle
    if chosen is None:
        raise SettingsError(f"classifier {settings.model.classifier!r} ships no model; name one with --model")
    return load(chosen, specs, threads=settings.worker.threads), manager


def open_models(settings: Settings) -> "ModelDesk":
    """Where the models of the settings' classifier are dealt with.

    Raises:
        MeddError: The database or a plugin cannot be used, or no plugin brings the classifier.
    """
    from medd.classify.desk import ModelDesk
    from medd.registry.registry import find_spec

    manager = load_plugins(settings)
    specs = plugins.classifiers(manager)
    spec = find_spec(settings.model.classifier, specs)
    return ModelDesk(open_database(settings), spec, specs, manager, settings.models_dir)


def build_worker(settings: Settings, index: int | str) -> "Worker":
    """A worker with the champion loaded.

    Args:
        settings: The settings.
        index: Which of this home's worker processes it is; a word for one that is not of the daemon.

    Raises:
        MeddError: The database, a plugin or the model cannot be used.
    """
    from medd.classify.duty import Duty
    from medd.classify.stage import ClassifyStage
    from medd.imaging.isolated import Isolated
    from medd.queue.base import CLASSIFY
    from medd.queue.sql import SqlQueue
    from medd.queue.worker import Worker
    from medd.registry.registry import find_spec

    database, manager, wanted = open_database(settings), load_plugins(settings), settings.worker
    specs = plugins.classifiers(manager)
    mark = settings.home / f"candidate-{index}"
    duty = Duty(database, find_spec(settings.model.classifier, specs), specs, wanted.threads, mark=mark)
    spool = open_spool(settings)
    owner, outbox = f"{node_id(settings)}:{index}", outbox_of(settings, spool)
    queue = SqlQueue(database, owner, wanted.lease_s, wanted.max_attempts, spool.id, outbox)
    decoders = Isolated(
        "medd.classify.prepare:prepare_file", wanted.threads, wanted.decode_timeout_s, wanted.decode_memory_mib
    )
    decoders.start()
    stage = ClassifyStage(duty.champion, spool, queue, manager, decoders.map, duty)
    return Worker(queue, CLASSIFY, stage, batch_size=wanted.batch_size, poll_s=wanted.poll_s)


def has_deliverer(settings: Settings) -> bool:
    """Whether there is anything for a deliverer to do: a destination, or a peer that may ask for storage commitment."""
    return bool(settings.destination or settings.peer)


def build_deliverer(settings: Settings) -> "Deliverer":
    """What sends results to their destinations.

    Raises:
        MeddError: The database, a plugin or a destination cannot be used.
    """
    from medd.deliver.build import build_destinations
    from medd.deliver.commitment import Reporter, planner
    from medd.deliver.objects import ReportObjects, codes_of
    from medd.deliver.stage import Deliverer
    from medd.imaging.isolated import Isolated
    from medd.store.outbox import Deliveries

    database, manager, wanted = open_database(settings), load_plugins(settings), settings.deliver
    destinations = build_destinations(settings, plugins.destinations(manager))
    spool, codes = open_spool(settings), codes_of(plugins.classifiers(manager))
    committing = {name: one.own for name, one in destinations.items() if getattr(one.own, "commitment", False)}
    limits = settings.worker
    pictures = Isolated(
        "medd.deliver.objects:draw", wanted.threads, limits.decode_timeout_s, limits.decode_memory_mib
    )  # started by the first picture: not every destination takes them
    return Deliverer(
        Deliveries(database, f"{node_id(settings)}:deliver", wanted.lease_s, spool.id),
        destinations,
        spool,
        lambda report: ReportObjects(report, codes, pictures.call),
        manager,
        threads=wanted.threads,
        poll_s=wanted.poll_s,
        give_up_after_s=wanted.give_up_after_h * 3600,
        on_sent=planner(database, committing),
        rounds=Reporter(database, spool, settings, committing).run_once,
    )


def find_services(settings: Settings) -> "dict[str, ServiceSpec]":
    """What else runs under `medd serve`, by name.

    Raises:
        PluginError: A plugin cannot be used, or brings a part that is there already.
    """
    found = plugins.services(load_plugins(settings))
    if taken := sorted(found.keys() & set(STAGES)):
        raise PluginError(f"a plugin brings a service of the name of a part of medd. Received: {', '.join(taken)}")
    return found


def build_service(settings: Settings, name: str) -> "Service":
    """A part of the daemon that a plugin brings.

    Raises:
        MeddError: There is none of this name, or it cannot be built.
    """
    found = find_services(settings)
    if name not in found:
        raise SettingsError(f"no part of the daemon has this name. Received: {name}")
    return plugins.build_service(found[name], settings)
