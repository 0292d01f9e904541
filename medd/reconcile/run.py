"""All checks, in the order in which one mends what the next looks at."""

from collections.abc import Callable, Iterator
from pathlib import Path

from medd.reconcile import files, studies, work
from medd.reconcile.check import Check, Scope

CHECKS: tuple[Callable[[Scope], Check], ...] = (
    work.strays,
    files.spool,
    work.jobs,
    work.predictions,
    work.leases,
    files.images,
    studies.studies,
    studies.deliveries,
)


def reconcile(scope: Scope, journal: Path | None = None) -> Iterator[Check]:
    """Make every check, one after the other.

    Args:
        scope: What is looked at, and whether it is mended.
        journal: Of `medd load`: what was answered with success.

    Raises:
        MeddError: The database is away, the spool cannot be read, or the journal is none.
    """
    for check in CHECKS:
        yield check(scope)
    if journal is not None:
        yield files.journal(scope, journal)
