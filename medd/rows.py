"""How rows are written for people and programs, read from tables, and name a moment: everywhere the same."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from medd.errors import SettingsError

#: A spreadsheet runs a cell that begins so as a formula (OWASP, "CSV Injection"), and peers choose some of them.
_RUN_BY_SPREADSHEETS = ("=", "+", "-", "@", "\t", "\r", "\n")


def parse_since(text: str, name: str = "--since") -> datetime:
    """A moment: "30m", "24h" or "7d" ago, or an ISO 8601 date or time (UTC where it names no zone).

    Args:
        text: The moment.
        name: What it was given as, for the message.

    Raises:
        SettingsError: It is neither.
    """
    if match := re.fullmatch(r"([0-9]{1,6})([mhd])", text):
        unit = {"m": "minutes", "h": "hours", "d": "days"}[match[2]]
        try:
            return datetime.now(UTC) - timedelta(**{unit: int(match[1])})
        except OverflowError:
            return datetime.min.replace(tzinfo=UTC)
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # the latter: before the year 1, or after 9999, in UTC
        raise SettingsError(f"{name}: 30m, 24h, 7d or an ISO 8601 time expected. Received: {text!r}") from None


def plain(value: Any) -> Any:
    """A value as JSON has it; times as RFC 3339 in UTC."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value


def read_csv(table: Path, columns: Iterable[str], *, exact: bool = False) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV in UTF-8, each with the number of its last line; what a row does not have is "".

    Args:
        table: The file.
        columns: Those that it must have.
        exact: No others, and in this order.

    Raises:
        SettingsError: It cannot be read, or lacks a column.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, restval="")
            found = tuple(rows.fieldnames or ())
            if found != tuple(columns) if exact else not set(columns) <= set(found):
                wanted = " and ".join(columns)
                raise SettingsError(f"{table}: the columns {wanted} are needed. Received: {rows.fieldnames}")
            for row in rows:
                yield rows.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"{table}: cannot be read as CSV. Received: {error}") from error


def csv_cells(row: Mapping[str, Any], columns: Iterable[str]) -> list[Any]:
    """The cells of a row for `csv.writer`."""
    return [_cell(plain(row.get(name))) for name in columns]


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        value = json.dumps(value)
    if not isinstance(value, str):
        return value
    value = f"'{value}" if value.startswith(_RUN_BY_SPREADSHEETS) else value
    return value.encode("utf-8", "backslashreplace").decode()  # a file's name may be no UTF-8
