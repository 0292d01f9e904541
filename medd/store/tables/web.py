"""Who may use the web pages and their interfaces, and what they did there."""

from sqlalchemy import Boolean, CheckConstraint, Column, ForeignKey, Index, String, Table, Text, UniqueConstraint, false

from medd.records import AuditOutcome, UserRole
from medd.store.tables.base import Id, UtcDateTime, metadata, one_of

#: The users. None is ever deleted: their names stand in annotations and in the audit trail. ("user" is a word of SQL.)
account = Table(
    "account",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    #: Hashed by argon2; NULL for programs, which have tokens only.
    Column("password", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("disabled", Boolean, nullable=False, server_default=false()),
    CheckConstraint(one_of("role", UserRole), name="role"),
)

#: Who is logged in. What the browser holds cannot be made from what stands here.
session = Table(
    "session",
    metadata,
    #: SHA-256 of the cookie's value, which is random.
    Column("digest", String(64), primary_key=True),
    Column("account", String(64), ForeignKey(account.c.name, ondelete="CASCADE"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("address", Text, nullable=False),
    Index(None, "account"),
    Index(None, "expires_at"),
)

#: What programs show instead of a password.
token = Table(
    "token",
    metadata,
    Column("id", Id, primary_key=True),
    Column("account", String(64), ForeignKey(account.c.name, ondelete="CASCADE"), nullable=False),
    #: What it is for.
    Column("name", String(64), nullable=False),
    #: SHA-256 of the token, which is random.
    Column("digest", String(64), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    #: NULL: never.
    Column("expires_at", UtcDateTime),
    UniqueConstraint("account", "name"),
)

#: Who saw which case and changed what (PS3.15 section A.5). Nothing here is ever changed or deleted.
audit = Table(
    "audit",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    #: Who did it: an account's name, "local" where nobody logs in, or the operating system's user of a command;
    #: "" where nobody is known by the name that was given.
    Column("account", String(64), nullable=False),
    #: From where; "" at this machine's command line.
    Column("address", Text, nullable=False),
    #: A word of `medd_web.audit.Action`, or of a plugin's own.
    Column("action", String(32), nullable=False),
    Column("outcome", String(8), nullable=False),
    #: Of whom, as in the table `study`.
    Column("study", String(64), nullable=False, server_default=""),
    #: Which image: its id, UID or digest.
    Column("instance", String(64), nullable=False, server_default=""),
    Column("detail", Text, nullable=False, server_default=""),
    CheckConstraint(one_of("outcome", AuditOutcome), name="outcome"),
    Index(None, "at"),
    Index(None, "account", "action", "at"),
    Index(None, "study", "id"),
)
