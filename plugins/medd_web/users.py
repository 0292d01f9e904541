"""``medd users`` and ``medd audit``.

A password never stands on a command line, where every user of the machine could read it: it is asked for, or read from
a file.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medd.cli.common import Config, Format, Home, open_made_database, user_name, write_rows
from medd.errors import SettingsError
from medd.records import UserRole

if TYPE_CHECKING:
    from sqlalchemy import Connection

users = typer.Typer(no_args_is_help=True)
token = typer.Typer(no_args_is_help=True)
users.add_typer(token, name="token", help="What programs show instead of a password.")

_Name = Annotated[str, typer.Argument(help="The user's name.", show_default=False)]
_PasswordFile = Annotated[
    Path | None,
    typer.Option("--password-file", help='A file with the password in its first line; "-" for standard input.'),
]
_USERS = ("name", "role", "password", "disabled", "sessions", "tokens", "created_at")
_TOKENS = ("id", "account", "name", "created_at", "expires_at")


@users.command()
def add(
    name: _Name,
    role: Annotated[UserRole, typer.Option(help="What the user may do.")] = UserRole.READER,
    password_file: _PasswordFile = None,
    no_password: Annotated[bool, typer.Option("--no-password", help="A program, which has tokens only.")] = False,
    home: Home = None,
    config: Config = None,
) -> None:
    """Add a user."""
    from medd.store.users import add_account
    from medd.store.users import user_name as checked

    kept = checked(name)
    hashed = None if no_password else _hashed(kept, password_file)
    with _changing(home, config, "user_changed", f"added {kept} as {role}", may_make=True) as connection:
        add_account(connection, kept, role, hashed)
    print(f"{kept} is a user with the role {role}")


@users.command("list")
def show(
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Show the users."""
    from medd.store.users import list_accounts

    with _looking(home, config) as connection:
        rows = list_accounts(connection)
    write_rows(rows, _USERS, style, _USERS)


@users.command()
def role(name: _Name, role: UserRole, home: Home = None, config: Config = None) -> None:
    """Give a user another role."""
    _change(name, "role_changed", f"{role} for", home, config, role=role)
    print(f"{name} has the role {role} from now on")


@users.command()
def password(
    name: _Name,
    password_file: _PasswordFile = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Take all tokens of the user back as well.")] = False,
    home: Home = None,
    config: Config = None,
) -> None:
    """Give a user another password, and log him out everywhere."""
    from medd.store import users as store

    hashed = _hashed(name, password_file)
    what = f"another password for {name}" + (", no token any more" if tokens else "")
    with _changing(home, config, "user_changed", what) as connection:
        store.change_account(connection, name, password=hashed)
        if tokens:
            store.revoke_tokens(connection, name)
        left = store.count_tokens(connection, name)
    print(f"{name} has another password from now on")
    if left:
        print(f"{left} of {name}'s tokens still hold; `--tokens` takes them back")


@users.command()
def disable(name: _Name, home: Home = None, config: Config = None) -> None:
    """Let a user in no more, and take all tokens of the user back. Nobody is ever deleted."""
    _change(name, "user_changed", "disabled", home, config, disabled=True)
    print(f"{name} is let in no more")


@users.command()
def enable(name: _Name, home: Home = None, config: Config = None) -> None:
    """Let a user in again who was disabled."""
    _change(name, "user_changed", "enabled", home, config, disabled=False)
    print(f"{name} is let in again")


@token.command("add")
def add_token(
    name: _Name,
    purpose: Annotated[str, typer.Option("--for", help="What it is for.")] = "api",
    days: Annotated[float, typer.Option(min=0, help="Days for which it holds; 0 until it is revoked.")] = 365,
    home: Home = None,
    config: Config = None,
) -> None:
    """Make a token for a user's program, and show it, this once."""
    from medd.store import users as store

    with _changing(home, config, "token_changed", f"made {purpose!r} for {name}") as connection:
        made = store.add_token(connection, name, purpose, days or None)
    print(made)


@token.command("list")
def list_tokens(
    style: Annotated[Format, typer.Option("--format", help="The form.")] = Format.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Show the tokens; what they are is not kept."""
    from medd.store import users as store

    with _looking(home, config) as connection:
        rows = store.list_tokens(connection)
    write_rows(rows, _TOKENS, style, _TOKENS)


@token.command()
def revoke(
    id_: Annotated[int, typer.Argument(metavar="ID", help="As `list` shows it.")],
    home: Home = None,
    config: Config = None,
) -> None:
    """Take a token back."""
    from medd.store import users as store

    with _changing(home, config, "token_changed", f"revoked number {id_}") as connection:
        whose = store.revoke_token(connection, id_)
    print(f"token {id_} of {whose} is revoked")


class AuditFormat(StrEnum):
    """How events are written."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    XML = "xml"


def audit(
    since: Annotated[str | None, typer.Option(help="30m, 24h, 7d or an ISO 8601 time.")] = None,
    user: Annotated[str | None, typer.Option(help="Only what this user did.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this, such as case_seen.")] = None,
    study: Annotated[str | None, typer.Option(help="Only what was done with this study.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="No more than these, the newest.")] = None,
    style: Annotated[
        AuditFormat, typer.Option("--format", help="The form; xml: DICOM audit messages (PS3.15 A.5), one a line.")
    ] = AuditFormat.TABLE,
    home: Home = None,
    config: Config = None,
) -> None:
    """Show who saw which case on the web pages and changed what, newest first."""
    from medd.rows import parse_since
    from medd.store.audit import COLUMNS, EventFilter, find_events

    wanted = EventFilter(parse_since(since) if since else None, user, action, study, None, limit)
    with _changing(home, config, "audit_read", ""):
        pass
    with _looking(home, config) as connection:
        events = find_events(connection, wanted)
        if style is AuditFormat.XML:
            _need_the_extra()
            from medd_web.audit_log import as_message

            for event in events:
                print(as_message(event, "medd"))
        else:
            shown = ("at", "account", "address", "action", "outcome", "study", "detail")
            write_rows(events, COLUMNS, Format(style), shown)


def _change(name: str, action: str, what: str, home: Path | None, config: Path | None, **values: object) -> None:
    from medd.store.users import change_account, count_administrators

    with _changing(home, config, action, f"{what} {name}") as connection:
        before = count_administrators(connection)
        change_account(connection, name, **values)
        if before and not count_administrators(connection):
            print("medd: now nobody is an administrator who can log in", file=sys.stderr)


@contextmanager
def _changing(
    home: Path | None, config: Path | None, action: str, detail: str, *, may_make: bool = False
) -> "Iterator[Connection]":
    """A transaction that leaves an event."""
    from medd import pipeline, settings
    from medd.store.audit import Event, add_event

    loaded = settings.load(home, config)
    database = open_made_database(home, loaded) if may_make else pipeline.open_existing_database(loaded)
    try:
        with database.write() as connection:
            yield connection
            add_event(connection, Event(user_name(), action, detail=detail))
    finally:
        database.close()


@contextmanager
def _looking(home: Path | None, config: Path | None) -> "Iterator[Connection]":
    from medd import pipeline, settings

    database = pipeline.open_existing_database(settings.load(home, config))
    try:
        with database.read() as connection:
            yield connection
    finally:
        database.close()


def _hashed(name: str, file: Path | None) -> str:
    _need_the_extra()
    from medd_web.passwords import hash_password

    return hash_password(_read_password(file), name)


def _read_password(file: Path | None) -> str:
    if file is None:
        if not sys.stdin.isatty():
            raise SettingsError("there is no terminal to ask for the password; give it by --password-file")
        import getpass

        first = getpass.getpass("Password: ")
        if first != getpass.getpass("Again: "):
            raise SettingsError("the two differ")
        return first
    try:
        text = sys.stdin.readline() if str(file) == "-" else file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--password-file: {file} cannot be read. Received: {error}") from error
    return text.split("\n", 1)[0].rstrip("\r")


def _need_the_extra() -> None:
    from medd_web import is_installed

    if not is_installed():
        raise SettingsError("the extra is not installed; install it with: pip install 'medd[web]'")
