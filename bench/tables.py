"""The command line and the Markdown tables of every benchmark."""

import argparse
import os
import platform
import statistics
import sys
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil


def arguments(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one small round, to see that it runs")
    parser.add_argument("--output", type=Path, metavar="FILE", help="append the table to FILE")
    parser.add_argument(
        "--scratch", type=Path, default=Path(tempfile.gettempdir()), help="folder on a real disk (default: %(default)s)"
    )
    return parser


def machine(scratch: Path) -> str:
    """The machine in one line, as a table needs it to mean anything."""
    cpu = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    mounts = sorted(psutil.disk_partitions(all=True), key=lambda mount: len(mount.mountpoint))
    disk = next((m.fstype for m in reversed(mounts) if scratch.resolve().is_relative_to(m.mountpoint)), "unknown")
    if disk == "tmpfs":
        print("bench: the scratch folder is in memory: syncing to disk costs nothing there", file=sys.stderr)
    return f"{os.cpu_count()} cores of {cpu}, {disk}, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}"


def spread(values: list[float], digits: int = 0) -> str:
    """Median and range: "480 (455–501)"."""
    middle, low, high = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low}–{high})" if len(values) > 1 else middle


def ratio(mine: list[float], theirs: list[float]) -> str:
    """The median of the rounds' ratios: what slows a whole round down hits both."""
    return f"{statistics.median(a / b for a, b in zip(mine, theirs, strict=True)):.2f}×"


def report(title: str, note: str, header: list[str], rows: list[list[str]], output: Path | None) -> None:
    """Print a Markdown table, and append it to `output`."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    text = f"## {title}\n\n{note}\n\n{table}\n"
    print(text)
    if output:
        with output.open("a") as file:
            file.write(text + "\n")
