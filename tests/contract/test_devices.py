"""Drift from the database to the command line, on SQLite and on PostgreSQL."""

import inspect
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from medd.cli import drift as command
from medd.cli import main as cli
from medd.learn.drift import MIN_IMAGES, THRESHOLD
from medd.queue.base import CLASSIFY
from medd.records import Status
from medd.registry import bundle as bundles
from medd.registry.reference import reference
from medd.store.database import Database
from medd.store.devices import find_sightings
from medd.store.inserts import InstanceInserter
from medd.store.repository import record_predictions
from medd.testing import stub_bundle, write_stub_plugin
from tests.rows import EPOCH, instance_row, prediction_of


def add(database: Database, rows: list[dict]) -> list[int]:
    inserter = InstanceInserter(database, CLASSIFY)
    try:
        added = inserter.add(rows)
    finally:
        inserter.close()
    return [added[row["sha256"]].id for row in rows]


def record(database: Database, *made) -> None:
    with database.write() as connection:
        record_predictions(connection, made)


def statistics(count: int, mean: float) -> np.ndarray:
    """(3, count): score, input mean, input std."""
    rng = np.random.default_rng(count)
    return np.stack([rng.beta(2, 2, count), rng.normal(mean, 0.05, count), rng.normal(0.2, 0.02, count)])


@pytest.fixture
def home(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose stub model has a reference."""
    folder = stub_bundle(tmp_path / "stub-bundle")
    measured = reference(*statistics(1000, 0.5))
    bundles.write(folder, bundles.read(folder).model_copy(update={"reference": measured}))
    write_stub_plugin(tmp_path / "plugins", folder)
    monkeypatch.setenv("MEDD_HOME", str(tmp_path))
    monkeypatch.setenv("MEDD_MODEL__CLASSIFIER", "stub")
    monkeypatch.setenv("MEDD_DATABASE__URL", database.engine.url.render_as_string(hide_password=False))
    return tmp_path


@pytest.fixture
def filled(home: Path, database: Database) -> Path:
    """Forty images from each of two rooms within the hour, those of the second too bright, and some from years ago."""
    now = datetime.now(UTC)
    for first, room, mean, moment in ((0, "ROOM1", 0.5, now), (100, "ROOM2", 0.7, now), (200, "ROOM3", 0.9, EPOCH)):
        numbers = range(first, first + 40)
        ids = add(
            database,
            [
                instance_row(
                    n, station_name=room, received_at=moment - timedelta(microseconds=n), status=Status.PENDING
                )
                for n in numbers
            ],
        )
        values = statistics(40, mean).T.tolist()
        made = [prediction_of(i, p, input_mean=m, input_std=s) for i, (p, m, s) in zip(ids, values, strict=True)]
        record(database, *made)
    return home


def medd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0):
    monkeypatch.setattr(sys, "argv", ["medd", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main()
    written = capsys.readouterr()
    assert (end.value.code or 0) == code, written
    return written


def test_everything_received_since_is_seen_with_what_that_model_said(database):
    ids = add(
        database,
        [
            instance_row(1),
            instance_row(2, manufacturer="", station_name="", origin="file:in/x.png"),
            instance_row(3, received_at=EPOCH - timedelta(days=1)),
        ],
    )
    record(database, prediction_of(ids[0], 0.25, input_mean=0.5, input_std=0.125), prediction_of(ids[2], 0.5))
    record(database, prediction_of(ids[0], 0.75, "other/1"), prediction_of(ids[1], 0.75, "other/1"))
    with database.read() as connection:
        found = sorted(find_sightings(connection, "stub/1", EPOCH), key=lambda seen: seen.received_at)
    assert [(one.manufacturer, one.station_name, one.origin) for one in found] == [
        ("ACME", "ROOM1", "dicom://CR1@10.0.0.1"),
        ("", "", "file:in/x.png"),
    ]
    assert [(one.probability, one.input_mean, one.input_std) for one in found] == [(0.25, 0.5, 0.125), (None,) * 3]
    assert found[0].received_at == EPOCH + timedelta(seconds=1)


def test_the_device_that_drifted_comes_first_and_is_marked(filled, monkeypatch, capsys):
    rows = json.loads(medd(monkeypatch, capsys, "drift", "--format", "json").out)
    assert {row["station_name"]: row["marked"] for row in rows} == {"ROOM2": True, "ROOM1": False}
    assert [row["day"] for row in rows[:2]] == ["all", f"{datetime.now(UTC):%Y-%m-%d}"]
    assert (rows[0]["device"], rows[0]["images"], rows[0]["drifted"]) == ("ACME ROOM2 CR1", 40, ["input_mean"])


def test_the_table_names_the_devices_that_drifted(filled, monkeypatch, capsys):
    told = medd(monkeypatch, capsys, "drift").out
    assert "1 of 2 devices drifted, compared with 1000 held-out images of stub/1\n! ACME ROOM2 CR1\n" in told
    assert "drift" in told
    assert "steady" in told


def test_time_threshold_and_fewest_images_can_be_chosen(filled, monkeypatch, capsys):
    old = json.loads(medd(monkeypatch, capsys, "drift", "--since", "2025-01-01", "--format", "json").out)
    assert {row["station_name"] for row in old if row["marked"]} == {"ROOM2", "ROOM3"}
    for options in (("--threshold", "9"), ("--min-images", "41")):
        assert "0 of 2 devices drifted" in medd(monkeypatch, capsys, "drift", *options).out


def test_the_commands_defaults_are_those_of_the_module():
    defaults = {name: option.default for name, option in inspect.signature(command.drift).parameters.items()}
    assert (defaults["threshold"], defaults["min_images"]) == (THRESHOLD, MIN_IMAGES)


def test_a_model_without_a_reference_says_so(home, monkeypatch, capsys):
    stub_bundle(home / "old", version="0")
    told = medd(monkeypatch, capsys, "drift", "--model", str(home / "old"), code=1)
    assert told.err == "medd: stub/0: its bundle has nothing to compare with; `medd train` writes it today\n"


def test_nothing_received_is_no_error(home, monkeypatch, capsys):
    assert medd(monkeypatch, capsys, "drift", "--format", "json").out == "[]\n"
