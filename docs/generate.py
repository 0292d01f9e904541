"""Writes the pages of `PAGES` from the code; a test checks that they are up to date."""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import typer
from conformance import conformance

from medd import hookspecs
from medd.cli.main import app
from medd.hookspecs import ClassifierSpec, Service, ServiceSpec
from medd.records import Reason, Status

DOCS = Path(__file__).parent
NOTE = "<!-- Made by `make docs` from the code; change that. -->\n"


def commands(command: object, path: str) -> Iterator[tuple[str, object]]:
    """Every visible command below a click command, with its full name."""
    if not hasattr(command, "list_commands"):
        yield path, command
        return
    context = command.make_context(path, [], resilient_parsing=True)  # type: ignore[attr-defined]
    for name in command.list_commands(context):
        child = command.get_command(context, name)  # type: ignore[attr-defined]
        if not child.hidden:
            yield from commands(child, f"{path} {name}")


def cli() -> str:
    """The command line's reference."""
    codes = "Exit codes: 0 done, 1 the work failed for some input, 2 the call or settings are wrong."
    text = f"# Command line\n\n{NOTE}\n{codes}\n"
    for name, command in commands(typer.main.get_command(app), "medd"):
        context = command.make_context(name, [], resilient_parsing=True)  # type: ignore[attr-defined]
        context.terminal_width = context.max_content_width = 100
        text += f"\n## {name}\n\n```\n{command.get_help(context)}\n```\n"  # type: ignore[attr-defined]
    return text


def hooks() -> str:
    """The plugin author's reference."""
    text = f"# Hooks\n\n{NOTE}\n{inspect.getdoc(hookspecs)}\n"
    for name, function in inspect.getmembers(hookspecs, inspect.isfunction):
        if hasattr(function, "medd_spec"):
            # Records by the name that plugins import.
            signature = re.sub(r"(medd\.records)\.\w+\.", r"\1.", str(inspect.signature(function)))
            text += f"\n## {name}\n\n`{name}{signature}`\n\n{inspect.getdoc(function)}\n"
    for record in (ClassifierSpec, ServiceSpec, Service):
        text += f"\n## {record.__name__}\n\n```python\n{inspect.getsource(record)}```\n"
    for title, words in (("Status", Status), ("Reason", Reason)):
        text += f"\n## {title}\n\n```python\n{inspect.getsource(words)}```\n"
    return text


PAGES = {"cli.md": cli, "conformance.md": conformance, "hooks.md": hooks}


def stale() -> list[str]:
    """Pages that are not what the code says."""
    return [name for name, page in PAGES.items() if not (DOCS / name).exists() or (DOCS / name).read_text() != page()]


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(f"out of date, run `make docs`: {', '.join(stale())}" if stale() else 0)
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
