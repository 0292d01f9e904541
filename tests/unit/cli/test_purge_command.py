"""``medd purge``."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medd import pipeline, settings
from medd.cli.main import app
from medd.errors import SettingsError
from medd.records import Status
from medd.store.inserts import InstanceInserter
from tests.rows import instance_row


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with an image of 30 days ago that nobody assesses."""
    loaded = settings.load(tmp_path)
    database, spool = pipeline.open_database(loaded), pipeline.open_spool(loaded)
    row = instance_row(1, received_at=datetime.now(UTC) - timedelta(days=30))
    row |= {"status": Status.NOT_ASSESSED, "reason": "not_an_image"}
    spool.path(row["sha256"], row["media_type"]).write_bytes(b"x" * row["size"])
    inserter = InstanceInserter(database, "classify", spool.id)
    inserter.add([row])
    inserter.close()
    database.close()
    return tmp_path


def purge(home: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["purge", "--home", str(home), *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def files(home: Path) -> int:
    return len(list(home.glob("spool/??/*")))


def test_a_dry_run_deletes_nothing_and_says_the_same(home):
    told = purge(home, "--older-than", "7d", "--dry-run")
    assert told.startswith("would delete: 1 images")
    assert files(home) == 1
    assert purge(home, "--older-than", "7d").removeprefix("deleted") == told.removeprefix("would delete")
    assert files(home) == 0


def test_without_an_option_the_settings_say_what_goes(home):
    (home / "medd.toml").write_text("[retention]\ndays = 7\nresults_days = 20\n")
    assert "all of 1 studies" in purge(home)


def test_what_is_younger_stays(home):
    assert purge(home, "--older-than", "60d").startswith("deleted: 0 images")
    assert files(home) == 1


def test_nothing_is_deleted_where_nothing_says_what(home):
    with pytest.raises(SettingsError, match="--older-than"):
        CliRunner().invoke(app, ["purge", "--home", str(home)], catch_exceptions=False)
    assert files(home) == 1
