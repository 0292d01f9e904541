"""``medd simulate``."""

import csv
import io
import json
import sys
from datetime import UTC, datetime, timedelta

import pytest

from medd.cli import main as cli
from medd.queue.base import CLASSIFY
from medd.store.inserts import InstanceInserter
from medd.store.repository import record_predictions
from medd.store.tally import refresh
from tests.rows import instance_row, prediction_of
from tests.schema import open_new

SHORT = ("--days", 1, "--seeds", 3)


@pytest.fixture
def medd(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MEDD_HOME", str(tmp_path))

    def call(*arguments: object, code: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["medd", "simulate", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        written = capsys.readouterr()
        assert (end.value.code or 0) == code, written
        return written.out, written.err

    return call


def found(text: str) -> dict[tuple[str, str], dict]:
    return {(row["studies"], row["order"]): row for row in json.loads(text)}


def test_findings_are_read_sooner_by_the_worklist(medd):
    rows = found(medd(*SHORT, "--format", "json")[0])
    assert rows["positive", "worklist"]["mean_min"] < rows["positive", "fcfs"]["mean_min"]
    assert rows["positive", "difference"]["mean_min_high"] < 0
    assert rows["all", "fcfs"]["n"] == pytest.approx(288, rel=0.2)
    assert found(medd(*SHORT, "--format", "json")[0]) == rows, "the same seeds say the same"


def test_forms_hold_the_same_figures(medd):
    rows = json.loads(medd(*SHORT, "--format", "json")[0])
    table = list(csv.DictReader(io.StringIO(medd(*SHORT, "--format", "csv")[0])))
    assert [{name: str(value) for name, value in row.items()} for row in rows] == table
    shown, err = medd(*SHORT)
    assert err == ""
    assert "12 studies an hour for 1 day, 10.0% with a finding; sensitivity 0.969, specificity 0.965" in shown
    assert "cap 240 min, 3 runs" in shown
    assert f"{rows[0]['mean_min']:.1f} ({rows[0]['mean_min_low']:.1f} – {rows[0]['mean_min_high']:.1f})" in shown


def test_cap_comes_from_the_settings_and_0_is_none(medd, monkeypatch):
    busy = (*SHORT, "--rate", 14, "--format", "json", "--sensitivity", 0.9, "--specificity", 0.9)
    longest = [found(medd(*busy, *options)[0])["all", "worklist"]["max_min"] for options in ((), ("--max-wait-min", 0))]
    monkeypatch.setenv("MEDD_WORKLIST__MAX_WAIT_MIN", "60")
    longest.append(found(medd(*busy)[0])["all", "worklist"]["max_min"])
    assert longest[2] < longest[0] <= longest[1]


def test_single_run_has_no_interval(medd):
    row = found(medd("--days", 1, "--seeds", 1, "--format", "json")[0])["all", "fcfs"]
    assert row["mean_min_low"] is row["mean_min_high"] is None
    assert "1 run\n" in medd("--days", 1, "--seeds", 1)[0]


def test_readers_who_cannot_keep_up_are_told_of(medd):
    assert "readers fall behind: more work comes than they can do (load 1." in medd(*SHORT, "--rate", 18)[1]


def test_hours_of_the_day_are_taken_one_by_one(medd):
    day = ",".join("12" if 8 <= hour < 24 else "0" for hour in range(24))
    shift = ",".join("2" if not 1 <= hour < 8 else "0" for hour in range(24))
    rows = found(medd(*SHORT, "--rate", day, "--readers", shift, "--format", "json")[0])
    assert rows["all", "fcfs"]["n"] == pytest.approx(192, rel=0.2)
    assert rows["all", "fcfs"]["max_min"] < 120


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "1,2"], "--rate: a number, or 24 with commas between"),
        (["--rate", "nan"], "--rate: a number"),
        (["--rate", "-1"], "--rate: a number"),
        (["--rate", "0"], "not all of them 0"),
        (["--rate", "many"], "Received: 'many'"),
        (["--readers", "1.5"], "--readers: a whole number"),
        (["--rate", "0.000001", "--days", "1"], "too few for a single study"),
        (["--model", "nobody/1"], "neither a bundle's folder nor NAME/VERSION"),
        (["--since", "24h"], "no database at"),
        (["--since", "often"], "--since: 30m, 24h, 7d"),
    ],
)
def test_calls_that_make_no_sense_are_one_line(medd, options, message):
    out, err = medd(*options, code=2)
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


def test_what_came_is_replayed(medd, tmp_path):
    database = open_new(tmp_path / "medd.db")
    assert "nothing has come since" in medd("--since", "24h", code=2)[1]
    inserter = InstanceInserter(database, CLASSIFY)
    start = datetime.now(UTC) - timedelta(hours=10)
    rows = [instance_row(n, received_at=start + timedelta(minutes=n)) for n in range(200)]
    ids = [inserter.add([row])[row["sha256"]].id for row in rows]
    inserter.close()
    with database.write() as connection:
        scored = [
            prediction_of(id_, 0.9 if n % 8 == 7 else 0.1, scored_at=start + timedelta(minutes=n, seconds=2))
            for n, id_ in enumerate(ids[:190])
        ]
        record_predictions(connection, scored)
        refresh(connection, ids)
    database.close()
    rows = found(medd("--since", "24h", "--reading-min", 1.5, "--seeds", 3, "--format", "json")[0])
    assert {group: rows[group, "fcfs"]["n"] for group in ("positive", "negative", "unknown", "all")} == {
        "positive": 23,
        "negative": 167,
        "unknown": 10,
        "all": 200,
    }
    assert rows["positive", "worklist"]["mean_min"] < 5 < rows["positive", "fcfs"]["mean_min"]
    assert "200 studies as they came; load 1.5" in medd("--since", "24h", "--reading-min", 1.5, "--seeds", 2)[0]


def test_waits_are_drawn(medd, tmp_path):
    pytest.importorskip("matplotlib")
    pictures = [tmp_path / name for name in ("one.png", "two.png")]
    for picture in pictures:
        medd(*SHORT, "--output", picture)
    assert pictures[0].read_bytes()[:4] == b"\x89PNG"
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert "No such file" in medd(*SHORT, "--output", tmp_path / "no" / "folder.png", code=2)[1]


def test_without_matplotlib_the_picture_is_refused_before_the_work(medd, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    err = medd(*SHORT, "--output", tmp_path / "one.png", code=2)[1]
    assert "pip install 'medd[train]'" in err
    medd(*SHORT)
