"""How rows are written for people and programs, and how they name a moment: the same everywhere."""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
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
