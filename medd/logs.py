"""One line per event: a sentence, the event's name, and ids of ours. Never a patient's name or id."""

import json
import logging
import sys
import time
from typing import Any

#: Keys that a log call may pass in ``extra``; they are shown behind the sentence.
FIELDS = ("event", "instance", "job", "delivery", "destination", "model", "peer", "reason", "count")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    given = record.__dict__
    return {name: given[name] for name in FIELDS if name in given}


def printable(text: object) -> str:
    """Text from outside made safe for one log line: control characters are shown as escapes, length is bounded."""
    shown = str(text)
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return shown if len(shown) <= 300 else shown[:300] + "…"


class TextFormatter(logging.Formatter):
    """``2026-11-22T10:00:00.123Z INFO worker: sentence [event=… job=…]``."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Format one record on one line; a traceback follows only where a bug is logged."""
        fields = " ".join(f"{k}={printable(v)}" for k, v in _fields(record).items())
        stamp = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{record.msecs:03.0f}Z"
        line = f"{stamp} {record.levelname} {record.name}: {printable(record.getMessage())}"
        line += f" [{fields}]" if fields else ""
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Format one record as JSON."""
        entry = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{record.msecs:03.0f}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def configure(level: str, style: str) -> None:
    """Send everything to stderr. pynetdicom and alembic are kept to warnings: their lines name peers and data."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    # Nothing shows them, and they are looked up for every line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("pynetdicom", "pydicom", "alembic", "watchdog", "fsevents"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
