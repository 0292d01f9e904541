"""Users, sessions, tokens and the audit trail, on both databases."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from medd.errors import SettingsError
from medd.records import AuditOutcome, UserRole
from medd.store import users
from medd.store.audit import COLUMNS, Event, EventFilter, add_event, find_events, was_seen_from
from medd.store.database import Database
from medd.store.tables import account, audit, session, token

READER, ADMINISTRATOR = UserRole.READER, UserRole.ADMINISTRATOR


@pytest.fixture
def ann(database: Database) -> str:
    with database.write() as connection:
        return users.add_account(connection, " Ann ", READER, "hash")


def in_write(database: Database, function, *arguments, **named):
    with database.write() as connection:
        return function(connection, *arguments, **named)


def in_read(database: Database, function, *arguments, **named):
    with database.read() as connection:
        return function(connection, *arguments, **named)


# Users


def test_a_name_is_one_user_however_it_is_written(database, ann):
    assert ann == "ann"
    found = in_read(database, users.find_account, "ANN")
    assert (found.name, found.role, found.password, found.disabled) == ("ann", READER, "hash", False)
    with pytest.raises(SettingsError, match="there is a user of this name"):
        in_write(database, users.add_account, "ANN", ADMINISTRATOR, None)
    assert in_read(database, users.find_account, "bob") is None


@pytest.mark.parametrize("name", ["", "a b", "-x", "an\nn", "änn", "x" * 65, "a/b", "<b>", "a'b"])
def test_a_name_that_could_be_taken_for_something_else_is_refused(database, name):
    with pytest.raises(SettingsError, match="a user's name has"):
        in_write(database, users.add_account, name, READER, None)


def test_a_user_who_is_not_there_cannot_be_changed(database):
    with pytest.raises(SettingsError, match="there is no user"):
        in_write(database, users.change_account, "bob", role=ADMINISTRATOR)


def test_who_could_set_things_right_is_counted(database, ann):
    assert in_read(database, users.count_administrators) == 0
    in_write(database, users.change_account, "ann", role=ADMINISTRATOR)
    assert in_read(database, users.count_administrators) == 1
    in_write(database, users.change_account, "ann", disabled=True)
    assert in_read(database, users.count_administrators) == 0
    in_write(database, users.add_account, "robot", ADMINISTRATOR, None)
    assert in_read(database, users.count_administrators) == 0, "it has no password"


def test_users_are_listed_with_what_they_hold(database, ann):
    in_write(database, users.open_session, ann, "hash", 1, "here")
    in_write(database, users.add_token, ann, "script", None)
    in_write(database, users.add_token, ann, "old", -1)
    [row] = in_read(database, users.list_accounts)
    assert (row["name"], row["role"], row["password"], row["disabled"]) == ("ann", "reader", True, False)
    assert (row["sessions"], row["tokens"]) == (1, 1)
    assert "hash" not in str(row)


# Sessions


def test_a_session_is_known_by_what_the_browser_holds_and_by_nothing_in_the_database(database, ann):
    value = in_write(database, users.open_session, ann, "hash", 1, "10.0.0.1")
    assert in_read(database, users.find_session, value) == ("ann", READER)
    with database.read() as connection:
        [row] = connection.execute(session.select()).all()
    assert value not in str(row)
    assert in_read(database, users.find_session, row.digest) is None
    for other in ("", "x", value[:-1], "\udcff"):
        assert in_read(database, users.find_session, other) is None


def test_a_session_ends_by_itself_and_is_forgotten(database, ann):
    value = in_write(database, users.open_session, ann, "hash", 1, "")
    past = {"expires_at": datetime.now(UTC) - timedelta(seconds=1)}
    in_write(database, lambda connection: connection.execute(session.update().values(**past)))
    assert in_read(database, users.find_session, value) is None
    other = in_write(database, users.open_session, ann, "hash", 1, "")
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(session)) == 1
    assert in_read(database, users.find_session, other) is not None


def test_the_role_of_a_session_is_that_of_now(database, ann):
    value = in_write(database, users.open_session, ann, "hash", 1, "")
    in_write(database, users.change_account, ann, role=ADMINISTRATOR)
    assert in_read(database, users.find_session, value) == ("ann", ADMINISTRATOR)


@pytest.mark.parametrize("change", [{"password": "other"}, {"disabled": True}])
def test_sessions_end_with_the_password_and_with_the_user(database, ann, change):
    value = in_write(database, users.open_session, ann, "hash", 1, "")
    in_write(database, users.change_account, "Ann", **change)
    assert in_read(database, users.find_session, value) is None
    in_write(database, users.change_account, "ann", disabled=False)
    assert in_read(database, users.find_session, value) is None


def test_a_hash_that_is_renewed_logs_nobody_out(database, ann):
    value = in_write(database, users.open_session, ann, "hash", 1, "")
    in_write(database, users.renew_hash, ann, "hash", "newer")
    assert in_read(database, users.find_session, value) is not None
    assert in_read(database, users.find_account, ann).password == "newer"


def test_a_password_that_was_changed_since_it_was_looked_at_opens_nothing(database, ann):
    in_write(database, users.change_account, ann, password="other")
    assert in_write(database, users.open_session, ann, "hash", 1, "") is None
    assert not in_write(database, users.renew_hash, ann, "hash", "newer")
    assert in_read(database, users.find_account, ann).password == "other"
    in_write(database, users.change_account, ann, disabled=True)
    assert in_write(database, users.open_session, ann, "other", 1, "") is None


def test_tokens_do_not_come_back_with_the_user(database, ann):
    value = in_write(database, users.add_token, ann, "script", None)
    in_write(database, users.change_account, ann, password="other")
    assert in_read(database, users.count_tokens, "Ann") == 1
    in_write(database, users.change_account, ann, disabled=True)
    in_write(database, users.change_account, ann, disabled=False)
    assert in_read(database, users.find_token, value) is None


def test_logging_out_ends_one_session_and_logging_out_everywhere_all(database, ann):
    first, second, third = (in_write(database, users.open_session, ann, "hash", 1, "") for _ in range(3))
    in_write(database, users.close_session, first)
    assert in_read(database, users.find_session, first) is None
    assert in_read(database, users.find_session, second) is not None
    in_write(database, users.close_sessions, ann)
    assert in_read(database, users.find_session, third) is None


# Tokens


def test_a_token_is_shown_once_and_kept_nowhere(database, ann):
    value = in_write(database, users.add_token, "ANN", "script", 1)
    assert value.startswith("medd_")
    assert in_read(database, users.find_token, value) == ("ann", READER)
    with database.read() as connection:
        assert value not in str(connection.execute(token.select()).all())
    [row] = in_read(database, users.list_tokens, "ann")
    assert set(row) == {"id", "account", "name", "created_at", "expires_at"}


def test_a_token_ends_by_itself_by_being_revoked_and_with_its_user(database, ann):
    late, revoked, kept = (
        in_write(database, users.add_token, ann, name, days) for name, days in (("a", 1), ("b", None), ("c", None))
    )
    past = token.update().where(token.c.name == "a").values(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    in_write(database, lambda connection: connection.execute(past))
    [number] = [row["id"] for row in in_read(database, users.list_tokens) if row["name"] == "b"]
    assert in_write(database, users.revoke_token, number) == "ann"
    assert [in_read(database, users.find_token, value) is None for value in (late, revoked, kept)] == [
        True,
        True,
        False,
    ]
    in_write(database, users.change_account, ann, disabled=True)
    assert in_read(database, users.find_token, kept) is None
    in_write(database, users.change_account, ann, disabled=False)
    assert in_read(database, users.find_token, kept) is None, "it must not come back to life"
    with pytest.raises(SettingsError, match="there is no token"):
        in_write(database, users.revoke_token, number)


def test_a_user_has_one_token_of_a_name(database, ann):
    in_write(database, users.add_token, ann, "script", None)
    with pytest.raises(SettingsError, match="ann has a token of this name"):
        in_write(database, users.add_token, ann, "script", None)
    with pytest.raises(SettingsError, match="there is no user"):
        in_write(database, users.add_token, "bob", "script", None)
    for purpose in ("", "x" * 65, "a\nb"):
        with pytest.raises(SettingsError, match="a token's name has"):
            in_write(database, users.add_token, ann, purpose, None)


# The audit trail


def test_events_are_found_newest_first_by_who_what_which_and_when(database):
    with database.write() as connection:
        for n in range(5):
            add_event(connection, Event("ann" if n % 2 else "bob", f"action{n}", study=f"1.{n}", address="10.0.0.1"))
    found = in_read(database, lambda c: list(find_events(c, EventFilter())))
    assert [row["action"] for row in found] == [f"action{n}" for n in (4, 3, 2, 1, 0)]
    assert tuple(found[0]) == COLUMNS

    def actions(**wanted: object) -> list[str]:
        return [row["action"] for row in in_read(database, lambda c: list(find_events(c, EventFilter(**wanted))))]

    assert actions(account="ann") == ["action3", "action1"]
    assert actions(action="action2") == ["action2"]
    assert actions(study="1.4") == ["action4"]
    assert actions(limit=2) == ["action4", "action3"]
    assert actions(before=found[1]["id"], limit=2) == ["action2", "action1"]
    assert actions(since=datetime.now(UTC) + timedelta(minutes=1)) == []
    assert len(actions(since=datetime.now(UTC) - timedelta(minutes=1))) == 5


def test_whatever_was_sent_can_be_kept(database):
    nasty = "a\0b\udcff<script>" + "x" * 70_000
    with database.write() as connection:
        add_event(connection, Event(nasty, "refused", AuditOutcome.REFUSED, nasty, nasty, nasty, nasty))
    [row] = in_read(database, lambda c: list(find_events(c, EventFilter())))
    assert row["detail"].startswith("a�b?<script>xxx")
    assert len(row["detail"]) == 500
    assert len(row["study"]) == 64


def test_from_where_a_user_has_come_before_is_known(database):
    with database.write() as connection:
        add_event(connection, Event("ann", "logged_in", address="10.0.0.1"))
        add_event(connection, Event("ann", "logged_in", AuditOutcome.REFUSED, "10.0.0.2"))
        add_event(connection, Event("bob", "logged_in", address="10.0.0.3"))

    def known(address: str) -> bool:
        return in_read(database, was_seen_from, "ann", "logged_in", address, 30)

    assert [known(f"10.0.0.{n}") for n in (1, 2, 3)] == [True, False, False]
    past = audit.update().values(at=datetime.now(UTC) - timedelta(days=31))
    in_write(database, lambda connection: connection.execute(past))
    assert not known("10.0.0.1")


def test_the_database_refuses_roles_and_outcomes_that_nobody_knows(database):
    from sqlalchemy.exc import IntegrityError

    now = datetime.now(UTC)
    with pytest.raises(IntegrityError):
        in_write(database, lambda c: c.execute(account.insert().values(name="x", role="god", created_at=now)))
    with pytest.raises(IntegrityError):
        in_write(
            database,
            lambda c: c.execute(audit.insert().values(at=now, account="", address="", action="x", outcome="maybe")),
        )
