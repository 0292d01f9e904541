"""Who may use the web pages: users, their sessions, and the tokens of their programs.

Sessions and tokens are random and 256 bits long; only their SHA-256 is kept, which nobody can turn back, so that who
reads the database, or a copy of it, cannot go in with what he finds.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from medd.errors import SettingsError
from medd.records import UserRole
from medd.store.tables import account, session, token

#: By which tokens are known, also to programs that look for such in what is published.
TOKEN_PREFIX = "medd_"
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True)
class Account:
    """A user as the database knows it."""

    name: str
    role: UserRole
    #: Hashed; None where there is none.
    password: str | None
    disabled: bool
    created_at: datetime


def user_name(name: str) -> str:
    """A name as it is kept: in lower case, so that "Mueller" and "mueller" are not two people.

    Raises:
        SettingsError: It has signs that a name may not have.
    """
    kept = name.strip().lower()
    if not _NAME.fullmatch(kept):
        raise SettingsError(f"a user's name has 1 to 64 of a-z, 0-9 and . _ @ -. Received: {name!r}")
    return kept


def add_account(connection: Connection, name: str, role: UserRole, password: str | None) -> str:
    """Add a user with a password's hash, or None; returns the name as it is kept.

    Raises:
        SettingsError: There is one of this name, or the name is none.
    """
    values = {"name": user_name(name), "role": role, "password": password, "created_at": datetime.now(UTC)}
    try:
        connection.execute(account.insert().values(**values))
    except IntegrityError:
        raise SettingsError(f"there is a user of this name. Received: {name}") from None
    return str(values["name"])


def find_account(connection: Connection, name: str) -> Account | None:
    """The user of this name, also one who is disabled."""
    columns = sa.select(account.c.name, account.c.role, account.c.password, account.c.disabled, account.c.created_at)
    row = connection.execute(columns.where(account.c.name == name.strip().lower())).first()
    return Account(row.name, UserRole(row.role), row.password, row.disabled, row.created_at) if row else None


def list_accounts(connection: Connection) -> list[dict[str, Any]]:
    """Every user, with how many sessions and tokens he has that still hold."""
    now = datetime.now(UTC)
    sessions = sa.select(sa.func.count()).where(session.c.account == account.c.name, session.c.expires_at > now)
    tokens = sa.select(sa.func.count()).where(token.c.account == account.c.name, _holds(now))
    statement = sa.select(
        account.c.name,
        account.c.role,
        account.c.password.is_not(None).label("password"),
        account.c.disabled,
        sessions.scalar_subquery().label("sessions"),
        tokens.scalar_subquery().label("tokens"),
        account.c.created_at,
    )
    return [dict(row._mapping) for row in connection.execute(statement.order_by(account.c.name))]


def change_account(connection: Connection, name: str, **values: Any) -> None:
    """Set columns of a user: `role`, `password` (hashed) or `disabled`.

    Whoever is logged in by the old password, or is disabled, is logged out. Who is disabled loses his tokens for good:
    they would come back to life with him.

    Raises:
        SettingsError: There is none of this name.
    """
    kept = name.strip().lower()
    if not connection.execute(account.update().where(account.c.name == kept).values(**values)).rowcount:
        raise SettingsError(f"there is no user of this name. Received: {name}")
    if "password" in values or values.get("disabled"):
        close_sessions(connection, kept)
    if values.get("disabled"):
        revoke_tokens(connection, kept)


def renew_hash(connection: Connection, name: str, checked: str, hashed: str) -> bool:
    """Keep another hash of the same password, unless the password is another than was `checked`; nobody is logged out.

    Returns:
        Whether it is kept.
    """
    same = (account.c.name == name) & (account.c.password == checked)
    return bool(connection.execute(account.update().where(same).values(password=hashed)).rowcount)


def count_administrators(connection: Connection) -> int:
    """How many could log in and set things right."""
    able = (account.c.role == UserRole.ADMINISTRATOR) & ~account.c.disabled & account.c.password.is_not(None)
    return int(connection.scalar(sa.select(sa.func.count()).select_from(account).where(able)) or 0)


# -- sessions ------------------------------------------------------------------------------------------------------


def open_session(connection: Connection, name: str, checked: str, hours: float, address: str) -> str | None:
    """Log a user in; sessions that have run out are forgotten.

    Args:
        connection: A transaction that writes.
        name: The user.
        checked: The hash against which his password was held.
        hours: How long the session holds.
        address: Where the user is.

    Returns:
        What the browser is to hold; None where he has another password by now, or is disabled.
    """
    able = (account.c.name == name) & (account.c.password == checked) & ~account.c.disabled
    # Locked: whoever changes the password at this moment waits, and then ends this session too.
    if connection.execute(sa.select(account.c.name).where(able).with_for_update()).first() is None:
        return None
    now, value = datetime.now(UTC), secrets.token_urlsafe(32)
    connection.execute(session.delete().where(session.c.expires_at <= now))
    values = {"account": name, "created_at": now, "expires_at": now + timedelta(hours=hours), "address": address}
    connection.execute(session.insert().values(digest=_digest(value), **values))
    return value


def find_session(connection: Connection, value: str) -> tuple[str, UserRole] | None:
    """Name and role of whoever is logged in by what his browser holds."""
    wanted = (session.c.digest == _digest(value)) & (session.c.expires_at > datetime.now(UTC))
    return _find_holder(connection, session, wanted)


def close_session(connection: Connection, value: str) -> None:
    """Log out."""
    connection.execute(session.delete().where(session.c.digest == _digest(value)))


def close_sessions(connection: Connection, name: str) -> None:
    """Log a user out everywhere."""
    connection.execute(session.delete().where(session.c.account == name))


# -- tokens --------------------------------------------------------------------------------------------------------


def add_token(connection: Connection, name: str, purpose: str, days: float | None) -> str:
    """Give a user a token; returns it, which is kept nowhere.

    Raises:
        SettingsError: There is no such user, or he has one of this name.
    """
    known = find_account(connection, name)
    if known is None:
        raise SettingsError(f"there is no user of this name. Received: {name}")
    if not 1 <= len(purpose) <= 64 or not purpose.isprintable():
        raise SettingsError(f"a token's name has 1 to 64 printable characters. Received: {purpose!r}")
    now, value = datetime.now(UTC), TOKEN_PREFIX + secrets.token_urlsafe(32)
    values = {"account": known.name, "name": purpose, "digest": _digest(value), "created_at": now}
    try:
        until = None if days is None else now + timedelta(days=days)
        connection.execute(token.insert().values(expires_at=until, **values))
    except IntegrityError:
        raise SettingsError(f"{known.name} has a token of this name. Received: {purpose}") from None
    return value


def find_token(connection: Connection, value: str) -> tuple[str, UserRole] | None:
    """Name and role of the user whose token it is."""
    return _find_holder(connection, token, (token.c.digest == _digest(value)) & _holds(datetime.now(UTC)))


def list_tokens(connection: Connection, name: str | None = None) -> list[dict[str, Any]]:
    """Every token, or those of a user, without the token itself."""
    statement = sa.select(token.c.id, token.c.account, token.c.name, token.c.created_at, token.c.expires_at)
    if name is not None:
        statement = statement.where(token.c.account == name.strip().lower())
    return [dict(row._mapping) for row in connection.execute(statement.order_by(token.c.id))]


def revoke_token(connection: Connection, id_: int) -> str:
    """Take a token back; returns whose it was.

    Raises:
        SettingsError: There is none of this id.
    """
    whose = connection.scalar(sa.select(token.c.account).where(token.c.id == id_))
    if whose is None:
        raise SettingsError(f"there is no token of this id. Received: {id_}")
    connection.execute(token.delete().where(token.c.id == id_))
    return str(whose)


def revoke_tokens(connection: Connection, name: str) -> int:
    """Take all tokens of a user back; returns how many."""
    return connection.execute(token.delete().where(token.c.account == name.strip().lower())).rowcount


def count_tokens(connection: Connection, name: str) -> int:
    """How many tokens of a user hold."""
    wanted = (token.c.account == name.strip().lower()) & _holds(datetime.now(UTC))
    return int(connection.scalar(sa.select(sa.func.count()).select_from(token).where(wanted)) or 0)


def _find_holder(
    connection: Connection, table: sa.Table, wanted: sa.ColumnElement[bool]
) -> tuple[str, UserRole] | None:
    columns = sa.select(account.c.name, account.c.role).join_from(table, account, table.c.account == account.c.name)
    row = connection.execute(columns.where(wanted, ~account.c.disabled)).first()
    return (row.name, UserRole(row.role)) if row else None


def _holds(now: datetime) -> sa.ColumnElement[bool]:
    return token.c.expires_at.is_(None) | (token.c.expires_at > now)


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()
