"""``medd doctor``: is everything there that the daemon will need? Looks, tries, and changes nothing that stays."""

from collections.abc import Iterator

from medd.doctor import codecs, data, host, network, web
from medd.doctor.finding import Check, Finding, State
from medd.errors import MeddError
from medd.settings import Settings

#: In the order in which they are shown: what the rest stands on comes first.
CHECKS: tuple[tuple[str, Check], ...] = (
    ("settings", data.check_settings),
    ("plugins", data.check_plugins),
    ("home", host.check_home),
    ("spool", host.check_spool),
    ("database folder", host.check_database_folder),
    ("inbox", host.check_inboxes),
    ("file system", host.check_file_system),
    ("disk", host.check_disk),
    ("fsync", host.check_fsync),
    ("inotify", host.check_inotify),
    ("clock", host.check_clock),
    ("database", data.check_database),
    ("model", data.check_models),
    ("decoder", codecs.check_decoders),
    ("ae title", network.check_ae_title),
    ("listener", network.check_listener),
    ("tls", network.check_tls),
    ("web", web.check_web),
    ("peer", network.check_peers),
    ("dicomweb", network.check_dicomweb),
)


def examine(settings: Settings, checks: tuple[tuple[str, Check], ...] = CHECKS) -> Iterator[Finding]:
    """Make every check, whatever comes of the others."""
    for name, check in checks:
        try:
            yield from check(settings)
        except MeddError as error:
            yield Finding(State.FAIL, name, str(error))
        except Exception as error:  # a check that stumbles has found something, too, and must not keep the rest back
            found = " ".join(f"{type(error).__name__}: {error}".split())
            yield Finding(State.FAIL, name, found, "nobody has thought of this: look there, and report it")


__all__ = ["CHECKS", "Finding", "State", "examine"]
