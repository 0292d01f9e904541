"""What the commands share: options, the shape of the output, times."""

import csv
import getpass
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from medd.errors import SettingsError
from medd.rows import csv_cells, parse_since, plain

if TYPE_CHECKING:
    from medd.settings import Settings
    from medd.store.database import Database

__all__ = ["Config", "Format", "Home", "open_made_database", "parse_since", "plain", "user_name", "write_rows"]

Home = Annotated[
    Path | None,
    typer.Option("--home", help="The home folder; else MEDD_HOME, else ./medd-home.", show_default=False),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="The settings file; else medd.toml in the home folder.", show_default=False),
]


class Format(StrEnum):
    """How rows are written."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


def open_made_database(home: Path | None, loaded: "Settings") -> "Database":
    """The database, made where it is not there yet; but only in a home that somebody named.

    Whoever types a command in another folder than the daemon's would else make an empty home there, and be told that
    all is well.

    Args:
        home: The option `--home`.
        loaded: The settings.

    Raises:
        SettingsError: There is none, and nobody named the home; or as `medd.pipeline.open_database`.
    """
    from medd import pipeline

    if home is not None or "MEDD_HOME" in os.environ:
        return pipeline.open_database(loaded)
    if not loaded.home.is_dir():
        raise SettingsError(f"no home at {loaded.home}: --home or MEDD_HOME names one")
    return pipeline.open_existing_database(loaded)


def user_name() -> str:
    """Who is at the command line."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def write_rows(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    style: Format,
    shown: Sequence[str],
    out: IO[str] | None = None,
) -> int:
    """Write rows as they come; returns how many.

    Args:
        rows: The rows.
        columns: All their columns, for CSV.
        style: The form.
        shown: The columns of the table form, which has to fit a screen.
        out: Where to; standard output by default.
    """
    out = out or sys.stdout
    count = 0
    if style is Format.TABLE:
        return _write_table(rows, shown, out)
    writer = csv.writer(out) if style is Format.CSV else None
    if writer:
        writer.writerow(columns)
    for row in rows:
        if writer:
            writer.writerow(csv_cells(row, columns))
        else:
            line = json.dumps({name: plain(value) for name, value in row.items()})
            out.write(f"{line}\n" if style is Format.JSONL else ("[" if count == 0 else ",") + f"\n  {line}")
        count += 1
    if style is Format.JSON:
        out.write("\n]\n" if count else "[]\n")
    return count


def _write_table(rows: Iterable[Mapping[str, Any]], shown: Sequence[str], out: IO[str]) -> int:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out, width=None if out.isatty() else 240)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in shown:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_table_cell(row.get(name))) for name in shown))
    console.print(table)
    return table.row_count


def _table_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return "".join(character if character.isprintable() else "�" for character in text)
