"""Every error that medd raises on purpose.

::

    MeddError                 expected: one line on stderr, never a traceback
    ├── SettingsError         the call or the settings are wrong (exit code 2)
    │   └── SchemaOutOfDate   the database is older or newer than the program
    ├── PluginError           a plugin is broken, misnamed or missing (exit code 2)
    ├── InputError            this input can never be processed: buried or refused, not retried
    │   └── NotAssessable     the input is sound but nothing the model may judge: recorded as "not_assessed"
    ├── TransientError        may pass by itself: retried with backoff
    │   ├── PeerBusy          a peer has no place for us at this moment
    │   └── Casualty          a process died over this input: retried once
    ├── PeerRefused           a peer says no for good: not retried by itself
    └── ModelError
        ├── ModelUnusable     a bundle is unreadable, incomplete or altered
        └── GateRefused       a model may not go on duty: no better than the one there, or a plugin objects

Messages name the file or the UID and the reason, and end with what was found: "… Received: …".
"""

from typing import Any


class MeddError(Exception):
    """The root: whatever derives from it is expected, and is shown as one line."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as it is, whatever its constructor takes: it may be raised in one process and read in another."""
        return _restore, (type(self), self.args, vars(self))


def _restore(kind: type[MeddError], args: tuple[Any, ...], values: dict[str, Any]) -> MeddError:
    error = kind.__new__(kind)
    error.args = args
    vars(error).update(values)
    return error


class SettingsError(MeddError):
    """The command line, ``medd.toml`` or the environment is wrong. Mend it and start again."""


class SchemaOutOfDate(SettingsError):
    """The database schema does not fit this version of medd. The message says which command mends it."""


class PluginError(MeddError):
    """A plugin cannot be used. The message names it; remove or mend it and start again."""


class InputError(MeddError):
    """An input is broken. It stays on record with the reason; sending it again will not help.

    Attributes:
        reason: One word of the vocabulary in `medd.records.Reason`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NotAssessable(InputError):
    """An input is sound, but not a thing the model may judge (a lateral view, a colour photograph)."""


class TransientError(MeddError):
    """The surroundings failed (disk, database, network). The work is tried again later."""


class PeerBusy(TransientError):
    """A peer lives and rejects our association for the time being: too many are open."""


class Casualty(TransientError):
    """A process died, or was killed, over this input. Twice is no coincidence."""


class PeerRefused(MeddError):
    """A peer does not take what we send, or us, and will not later: an unknown AE title, a SOP class, a bad key.

    Mend the settings, here or there; `medd queue retry` then tries again.
    """


class ModelError(MeddError):
    """A model cannot be used as asked."""


class ModelUnusable(ModelError):
    """A bundle is unreadable, incomplete, or its files do not have the digests it states."""


class GateRefused(ModelError):
    """A model may not go on duty. The message says why; the one on duty stays."""
