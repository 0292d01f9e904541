"""Which models a worker has loaded: the champion, and a candidate in its shadow, in step with the registry."""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from medd.classify.classifier import LoadedModel, load
from medd.errors import ModelError, ModelUnusable, PluginError, TransientError
from medd.hookspecs import ClassifierSpec
from medd.records import ModelVersion, Role
from medd.registry.registry import champion, check, line_of_duty, set_aside
from medd.store.database import Database
from medd.store.models import find_on_duty

log = logging.getLogger(__name__)

#: A candidate that failed on so many batches in a row is not asked any more.
_FAILURES = 3
#: One over which so many processes ended, one after the other, is not asked any more: once may be a power failure.
_ENDS = 2
#: When a bundle that could not be read is tried again, seconds: the disk may be back.
_AGAIN_S = 60.0


class Duty:
    """The models of one worker. For one thread.

    Args:
        database: Where the registry is.
        spec: The classifier of the settings.
        specs: All that the plugins bring.
        threads: For the network; 0 takes every core.
        look_s: Seconds between looks at the registry.
        mark: A file of this worker's own, there while the candidate is asked: a process that it ended leaves it to the
            next one. The second time in a row the candidate is set aside.

    Attributes:
        champion: What the results come from.
        candidate: What is scored beside it; None without one.

    Raises:
        ModelUnusable: Not one model of the classifier can be used.
        TransientError: The database is away.
    """

    def __init__(
        self,
        database: Database,
        spec: ClassifierSpec,
        specs: Sequence[ClassifierSpec],
        threads: int = 0,
        look_s: float = 1.0,
        mark: Path | None = None,
    ) -> None:
        self._database, self._spec, self._specs, self._threads = database, spec, specs, threads
        self._look_s, self._next_look = look_s, 0.0
        self._failures = 0
        #: What cannot be used, and when it may be tried again.
        self._unusable: dict[str, float] = {}
        self.candidate: LoadedModel | None = None
        self._mark = mark
        #: The candidate over which earlier lives of this worker ended, "name/version digest", a line for each.
        self._ended_over: list[str] = []
        if mark is not None:
            with suppress(OSError, UnicodeDecodeError):
                self._ended_over = mark.read_text().splitlines()
        self._loaded: dict[Role, ModelVersion] = {}
        for version in line_of_duty(database, spec):
            model = self._load(version)
            if model is not None:
                self.champion, self._loaded[Role.CHAMPION] = model, version
                break
        else:
            raise ModelUnusable(f"classifier {spec.name!r}: no model that can be used; the log says why")

    def look(self) -> None:
        """Take over what has changed in the registry; looks there once in `look_s` seconds at most.

        A model that cannot be used is told of and left aside: the one in use goes on. So it does while the database is
        away.
        """
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + self._look_s
        try:
            with self._database.read() as connection:
                wanted = find_on_duty(connection, self._spec.name)
            if (version := wanted.get(Role.CHAMPION)) and not self._has(Role.CHAMPION, version):
                self._change_champion()
        except TransientError as error:
            log.warning("the registry cannot be asked: %s", error, extra={"event": "worker.waiting"})
            return
        self._look_at_candidate(wanted.get(Role.CANDIDATE))

    def _look_at_candidate(self, version: ModelVersion | None) -> None:
        if self._ended_over and (version is None or self._ended_over[-1] != _key(version)):
            # Withdrawn: set again, it is tried again.
            self._unusable.pop(self._ended_over[-1], None)
            self._survived()
        if version is None:
            self._drop_candidate()
        elif not self._has(Role.CANDIDATE, version):
            self._drop_candidate()  # only what was loaded counts as had: the rest is tried again
            self._failures = 0
            if len(self._ended_over) >= _ENDS:
                why = "workers hung or died over it; withdrawn and set again, it is tried once more"
                self._set_aside(version, ModelUnusable(why), math.inf)
                return
            try:
                with self._marked(version):
                    self.candidate = self._load(version)
            except TransientError as error:
                log.warning("the candidate waits: %s", error, extra={"event": "worker.waiting"})
            if self.candidate is not None:
                self._loaded[Role.CANDIDATE] = version
                log.info("in the shadow", extra={"event": "model.in_shadow", "model": version.ref})

    def _drop_candidate(self) -> None:
        self.candidate = None
        if (dropped := self._loaded.pop(Role.CANDIDATE, None)) is not None:
            self._unusable.pop(_key(dropped), None)  # set again, it is asked again, however it failed before

    @contextmanager
    def asking_candidate(self) -> Iterator[None]:
        """The block asks the candidate.

        Raises:
            TransientError: The mark cannot be left; it is not to be asked then.
        """
        with self._marked(self._loaded[Role.CANDIDATE]):
            try:
                yield
            finally:
                self._ended_over = []

    @contextmanager
    def _marked(self, version: ModelVersion) -> Iterator[None]:
        try:
            self._write_mark([*self._ended_over, _key(version)])
        except OSError as error:
            raise TransientError(f"the candidate's mark cannot be left: {error.strerror}") from error
        try:
            yield
        finally:
            with suppress(OSError):
                self._write_mark(self._ended_over)

    def _survived(self) -> None:
        self._ended_over = []
        with suppress(OSError):
            self._write_mark([])

    def _write_mark(self, lines: Sequence[str]) -> None:
        if self._mark is not None and lines:
            self._mark.write_text("\n".join(lines))
        elif self._mark is not None:
            self._mark.unlink(missing_ok=True)

    def _change_champion(self) -> None:
        version = champion(self._database, self._spec)  # where a shipped one lies differs from host to host
        if (model := self._load(version)) is not None:
            self.champion, self._loaded[Role.CHAMPION] = model, version
            log.info("on duty", extra={"event": "model.on_duty", "model": version.ref})

    def candidate_failed(self, error: Exception) -> None:
        """Count a batch on which the candidate failed; one that only fails is not asked any more."""
        self._failures += 1
        version = self._loaded[Role.CANDIDATE]
        fields = {"event": "candidate.failed", "model": version.ref}
        log.warning("the candidate failed: %s", error, extra=fields)
        if self._failures >= _FAILURES:
            self.candidate = None
            self._set_aside(version, error, math.inf)

    def candidate_worked(self) -> None:
        """Forget earlier failures."""
        self._failures = 0

    def _has(self, role: Role, version: ModelVersion) -> bool:
        loaded = self._loaded.get(role)
        if loaded is not None and (loaded.ref, loaded.digest) == (version.ref, version.digest):
            return True
        return self._unusable.get(_key(version), 0) > time.monotonic()

    def _load(self, version: ModelVersion) -> LoadedModel | None:
        try:
            check(version)
            return load(version.path, self._specs, threads=self._threads)
        except (ModelError, PluginError) as error:
            self._set_aside(version, error, time.monotonic() + _AGAIN_S)
            return None

    def _set_aside(self, version: ModelVersion, error: Exception, again_at: float) -> None:
        self._unusable[_key(version)] = again_at
        fields = {"event": "model.set_aside", "model": version.ref}
        log.error("cannot be used and is set aside: %s", error, extra=fields)
        try:
            set_aside(self._database, version, str(error))
        except TransientError:
            log.warning("could not be kept on record", extra=fields)


def _key(version: ModelVersion) -> str:
    return f"{version.ref} {version.digest}"
