"""What the commands share: options, the shape of the output, times."""

import csv
import getpass
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from medd.errors import SettingsError

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


def user_name() -> str:
    """Who is at the command line."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def parse_since(text: str) -> datetime:
    """A moment: "30m", "24h" or "7d" ago, or an ISO 8601 date or time (UTC where it names no zone).

    Raises:
        SettingsError: It is neither.
    """
    if match := re.fullmatch(r"(\d{1,6})([mhd])", text):
        unit = {"m": "minutes", "h": "hours", "d": "days"}[match[2]]
        try:
            return datetime.now(UTC) - timedelta(**{unit: int(match[1])})
        except OverflowError:
            return datetime.min.replace(tzinfo=UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"--since: 30m, 24h, 7d or an ISO 8601 time expected. Received: {text!r}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def plain(value: Any) -> Any:
    """A value as JSON has it; times as RFC 3339 in UTC."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value


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
        values = {name: plain(value) for name, value in row.items()}
        if writer:
            cells = (values.get(name) for name in columns)
            writer.writerow([_cell(json.dumps(cell) if isinstance(cell, dict | list) else cell) for cell in cells])
        elif style is Format.JSONL:
            out.write(json.dumps(values) + "\n")
        else:
            out.write(("[" if count == 0 else ",") + "\n  " + json.dumps(values))
        count += 1
    if style is Format.JSON:
        out.write("\n]\n" if count else "[]\n")
    return count


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # A spreadsheet runs a cell that begins so as a formula, and a peer chooses what stands in some of them.
    value = f"'{value}" if value.startswith(("=", "+", "-", "@", "\t")) else value
    return value.encode("utf-8", "backslashreplace").decode()  # a file's name may be no UTF-8


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
