"""``medd purge``."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from medd.cli.common import Config, Home, parse_since, user_name
from medd.errors import SettingsError


def purge(
    older_than: Annotated[
        str, typer.Option(metavar="TIME", help="Delete images of studies whose last image is older, such as 90d.")
    ] = "",
    max_spool_mib: Annotated[
        int, typer.Option(min=0, help="Delete images of the oldest studies until no more is left; 0: no limit.")
    ] = 0,
    results_older_than: Annotated[
        str, typer.Option(metavar="TIME", help="Delete all that is known of studies whose last image is older.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    home: Home = None,
    config: Config = None,
) -> None:
    """Delete what is done with, as asked; without an option as [retention] says.

    Never what waits, failed, is undelivered, annotated by a reader, or promised by a storage commitment. Results
    outlive their images: only --results-older-than deletes them.
    """
    from medd import pipeline, settings
    from medd.store.retention import Rules

    loaded = settings.load(home, config)
    rules = Rules(
        _age(older_than, "--older-than"),
        max_spool_mib << 20 if max_spool_mib else None,
        _age(results_older_than, "--results-older-than"),
    )
    if rules == Rules() and (rules := Rules.of(loaded.retention)) == Rules():
        raise SettingsError("nothing says what is to go: name --older-than or another option, or set [retention]")
    outcome = pipeline.open_retention(loaded).run(rules, account=user_name(), dry_run=dry_run)
    print(f"{'would delete' if dry_run else 'deleted'}: {outcome}")


def _age(text: str, name: str) -> timedelta | None:
    if not text:
        return None
    return max(datetime.now(UTC) - parse_since(text, name), timedelta(0))
