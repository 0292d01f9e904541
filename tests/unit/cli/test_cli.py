import csv
import io
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import pytest
import sqlalchemy as sa

from medd import DISCLAIMER, __version__
from medd.cli.common import Format, parse_since, write_rows
from medd.errors import SettingsError
from medd.imaging.overlay import LONGEST, NARROWEST
from medd.queue.base import CLASSIFY
from medd.store.database import SCHEMA
from medd.store.inserts import InstanceInserter
from medd.store.repository import RESULT_COLUMNS, record_predictions
from medd.store.studies import mark_read
from medd.store.tables import instance, job
from medd.store.tally import refresh
from medd.testing import EXPECTED_REASONS, bad_inputs, stub_bundle, write_samples
from tests.home import Home
from tests.rows import instance_row, prediction_of
from tests.support import ROOT

HEAVY = ("tensorflow", "keras", "onnxruntime", "cv2", "sklearn", "matplotlib")


@pytest.fixture
def filled(home: Home) -> Home:
    """A home with three scored instances, one dead job and one that waits."""
    database = home.database()
    inserter = InstanceInserter(database, CLASSIFY)
    now = datetime.now(UTC)
    ages = [timedelta(days=9), timedelta(hours=5), timedelta(minutes=4), timedelta(minutes=3), timedelta(minutes=2)]
    ids = [inserter.add([instance_row(n, received_at=now - age)]) for n, age in enumerate(ages)]
    ids = [one.id for added in ids for one in added.values()]
    inserter.close()
    with database.write() as connection:
        record_predictions(connection, [prediction_of(ids[n], p) for n, p in enumerate((0.2, 0.9, 0.6))])
        connection.execute(job.update().where(job.c.instance_id.in_(ids[:3])).values(state="done"))
        dead = job.update().where(job.c.instance_id == ids[3])
        connection.execute(dead.values(state="dead", attempts=5, error="spool: gone"))
        failed = instance.update().where(instance.c.id == ids[3])
        connection.execute(failed.values(status="failed", reason="retries_exhausted"))
        refresh(connection, ids)
    database.close()
    return home


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
        timeout=60,
    )


# What is imported


def imported(command: str, *arguments: str) -> set[str]:
    """The top-level modules that a command has loaded when it ends."""
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('LOADED', *{name.split('.')[0] for name in sys.modules}))\n"
        f"sys.argv = {['medd', *arguments]!r}\n{command}\n"
    )
    done = python(code)
    assert "LOADED" in done.stdout, done.stderr
    return set(done.stdout.split("LOADED")[1].split())


def test_help_loads_nothing_heavy():
    loaded = imported("from medd.cli.main import main; main()", "--help")
    assert "typer" in loaded
    assert not loaded & {*HEAVY, "pydicom", "pynetdicom", "sqlalchemy", "alembic", "numpy", "pydantic", "rich"}


def test_results_load_neither_network_nor_decoder(filled):
    loaded = imported("from medd.cli.main import main; main()", "results", "--home", str(filled.path))
    assert "sqlalchemy" in loaded
    assert not loaded & set(HEAVY)


def test_receiver_loads_neither_network_nor_decoder(tmp_path):
    code = (
        "import medd.supervisor, medd.pipeline, medd.ingest.listener\n"
        "from medd import settings\n"
        f"loaded = settings.load(home=medd.pipeline.Path({str(tmp_path / 'home')!r}))\n"
        "loaded = loaded.model_copy(update={'listener': settings.ListenerSettings(port=0)})\n"
        "receiver = medd.pipeline.build_receiver(loaded)\n"
        "receiver.start(); receiver.stop()"
    )
    loaded = imported(code)
    assert "pynetdicom" in loaded
    assert not loaded & set(HEAVY)


def test_only_plugins_that_ship_with_medd_are_loaded_without_a_network():
    loaded = imported("from medd.plugins import load_plugins, classifiers; classifiers(load_plugins())")
    assert "medd_pneumonia" in loaded
    assert not loaded & set(HEAVY)


# Calls that are wrong


def test_version_is_shown(home):
    assert home.medd("--version")[0] == f"medd {__version__}\n"


def test_help_says_what_it_is_not():
    done = subprocess.run([sys.executable, "-m", "medd", "--help"], capture_output=True, text=True, check=True)
    assert DISCLAIMER in " ".join(done.stdout.split())


def test_unknown_command_is_a_wrong_call(home):
    assert "No such command" in home.medd("diagnose", code=2)[1]


def test_unknown_setting_is_one_line(home, monkeypatch):
    (home.path / "medd.toml").write_text("[listener]\nprt = 1\n")
    assert "listener.prt: no such setting" in home.refused("results")
    assert "listener.prt: no such setting" in home.refused("config", "check")


def test_commands_that_look_need_a_database_and_make_none(home):
    for command in (["results"], ["worklist"], ["queue", "status"], ["queue", "list"], ["queue", "retry"]):
        assert "no database at" in home.refused(*command)
    assert "no database at" in home.refused("db", "check")
    assert not (home.path / "medd.db").exists()


def test_schema_that_does_not_fit_names_the_command(filled):
    database = filled.database()
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0000'"))
    database.close()
    assert "medd db upgrade" in filled.refused("results")


def test_file_that_is_no_database_is_one_line(home):
    (home.path / "medd.db").write_bytes(b"no database at all " * 100)
    assert "file is not a database" in home.refused("results")


def test_wrong_moment_is_a_wrong_call(filled):
    for text in ("yesterday", "24", "-1h", "2026-13-01"):
        assert "--since" in filled.medd("results", f"--since={text}", code=2)[1]


def test_broken_plugin_is_one_line(home):
    (home.path / "plugins" / "broken.py").write_text("raise RuntimeError('no licence')")
    assert "broken.py raised at import" in home.refused("plugins")


def test_classifier_that_nobody_brings_is_one_line(home, monkeypatch):
    monkeypatch.setenv("MEDD_MODEL__CLASSIFIER", "oracle")
    assert "no plugin brings 'oracle'; there are: " in home.refused("config", "check")
    assert "no plugin brings 'oracle'" in home.refused("classify", ROOT)


# Moments


def test_moments_are_understood():
    now = datetime.now(UTC)
    for text, ago in (("30m", 30 * 60), ("24h", 24 * 3600), ("7d", 7 * 86400)):
        assert abs((now - parse_since(text)).total_seconds() - ago) < 5
    assert parse_since("2026-01-02") == datetime(2026, 1, 2, tzinfo=UTC)
    assert parse_since("2026-01-02T03:04:05+02:00") == datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)
    assert parse_since("999999d") == datetime.min.replace(tzinfo=UTC)
    with pytest.raises(SettingsError, match="Received: 'noon'"):
        parse_since("noon")


# Results


def test_results_have_the_keys_that_outsiders_script_against(filled):
    rows = filled.json("results")
    assert len(rows) == 5
    documented = (
        "instance_id sop_instance_uid series_instance_uid study_instance_uid patient_id accession_number origin "
        "sha256 received_at status reason model label positive probability probabilities threshold scored_at"
    ).split()
    assert set(documented) <= set(rows[0])
    scored = next(row for row in rows if row["probability"] == 0.9)
    assert (scored["status"], scored["label"], scored["positive"], scored["model"]) == (
        "scored",
        "PNEUMONIA",
        True,
        "stub/1",
    )
    assert scored["scored_at"] == "2026-01-02T03:04:05.678Z"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", scored["received_at"])


def test_formats_tell_the_same(filled):
    as_json = filled.json("results")
    lines = filled.medd("results", "--format", "jsonl")[0].splitlines()
    assert [json.loads(line) for line in lines] == as_json
    table = list(csv.DictReader(io.StringIO(filled.medd("results", "--format", "csv")[0])))
    assert tuple(table[0]) == RESULT_COLUMNS
    for row, cells in zip(as_json, table, strict=True):
        for name, value in row.items():
            shown = json.dumps(value) if isinstance(value, dict) else "" if value is None else str(value)
            assert cells[name] == shown
    text = filled.medd("results")[0]
    for row in as_json:
        assert row["patient_id"] in text
        assert row["status"] in text


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ([], [4, 3, 2, 1, 0]),
        (["--since", "24h"], [4, 3, 2, 1]),
        (["--since", "10m", "--limit", "1"], [4]),
        (["--label", "PNEUMONIA"], [2, 1]),
        (["--min-probability", "0.9"], [1]),
        (["--patient", "P0"], [0]),
        (["--study", "1.2.1.3"], [3]),
        (["--status", "failed"], [3]),
        (["--status", "pending"], [4]),
    ],
    ids=str,
)
def test_results_are_filtered(filled, options, numbers):
    assert [row["patient_id"] for row in filled.json("results", *options)] == [f"P{number}" for number in numbers]


def test_nothing_found_is_no_error(filled):
    assert filled.json("results", "--patient", "nobody") == []
    assert filled.medd("results", "--patient", "nobody", "--format", "jsonl")[0] == ""
    assert filled.medd("results", "--patient", "nobody", "--format", "csv")[0].count("\n") == 1
    filled.medd("results", "--patient", "nobody")


def test_worklist_is_most_urgent_first_and_says_what_it_is_not(filled, monkeypatch):
    def order(*options: str) -> list[tuple[str, str]]:
        return [(row["patient_id"], row["place"]) for row in filled.json("worklist", *options)]

    urgent = [("P2", "finding"), ("P3", "unjudged"), ("P4", "unjudged")]
    assert order() == [("P1", "overdue"), *urgent]
    assert order("--since", "30d") == [("P0", "overdue"), ("P1", "overdue"), *urgent]
    monkeypatch.setenv("MEDD_WORKLIST__MAX_WAIT_MIN", "0")
    assert order("--since", "30d") == [("P1", "finding"), *urgent, ("P0", "below")]
    assert DISCLAIMER in filled.medd("worklist")[0]


def test_worklist_leaves_out_what_was_read(filled):
    database = filled.database()
    with database.write() as connection:
        mark_read(connection, "1.2.1.2", "anna", datetime.now(UTC))
    database.close()
    assert [row["patient_id"] for row in filled.json("worklist")] == ["P1", "P3", "P4"]
    assert [row["place"] for row in filled.json("worklist", "--all")] == ["overdue", "unjudged", "unjudged", "read"]


def test_a_study_of_which_an_image_failed_has_no_label_but_for_a_finding(filled):
    def labels() -> dict[str, str | None]:
        return {row["patient_id"]: row["label"] for row in filled.json("worklist", "--since", "30d")}

    assert labels() == {"P0": "NORMAL", "P1": "PNEUMONIA", "P2": "PNEUMONIA", "P3": None, "P4": None}
    database = filled.database()
    for scored in ("1.2.1.0", "1.2.1.1"):
        with database.write() as connection:
            connection.execute(instance.update().where(instance.c.patient_id == "P3").values(study_instance_uid=scored))
            connection.execute(sa.text("DELETE FROM study"))
            refresh(connection, None)
        assert labels()["P0"] == (None if scored == "1.2.1.0" else "NORMAL")
        assert labels()["P1"] == "PNEUMONIA"
    database.close()


def test_columns_of_the_worklist_stand_where_scripts_look_for_them(filled):
    header = filled.medd("worklist", "--format", "csv")[0].splitlines()[0]
    assert header == (
        "received_at,study_instance_uid,patient_id,accession_number,origin,images,status,label,positive,probability,"
        "threshold,reason,model,place"
    )
    keys = "study_instance_uid patient_id accession_number received_at images status reason label positive probability"
    assert " ".join(filled.json("worklist")[0]) == f"{keys} threshold model origin place"


def write_csv(*values: object) -> list[str]:
    out = io.StringIO()
    write_rows([{"a": value} for value in values], ["a"], Format.CSV, ["a"], out)
    return [row[0] for row in csv.reader(io.StringIO(out.getvalue()))][1:]


def test_cells_that_a_spreadsheet_would_run_are_defused():
    hostile = ["=cmd|'/c calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1"]
    assert write_csv(*hostile) == [f"'{cell}" for cell in hostile]
    assert write_csv("P1", "a=b", -1, 0.5, "", None) == ["P1", "a=b", "-1", "0.5", "", ""]


def test_name_that_is_no_utf8_can_be_written_in_every_form():
    for style in Format:
        out = io.StringIO()
        write_rows([{"path": "r\udcf6ntgen.dcm"}], ["path"], style, ["path"], out)
        out.getvalue().encode("utf-8")


def test_table_cannot_be_used_to_steer_the_terminal():
    out = io.StringIO()
    write_rows([{"a": "x\x1b[31m\r\n[bold]y"}], ["a"], Format.TABLE, ["a"], out)
    assert "\x1b" not in out.getvalue()
    assert "[bold]y" in out.getvalue()


# Classify


def test_samples_are_classified(home, tmp_path):
    samples = write_samples(tmp_path / "samples", 4, size=256)
    rows = home.json("classify", tmp_path / "samples")
    assert [row["path"] for row in rows] == [str(path) for path in samples]
    assert {row["status"] for row in rows} == {"scored"}
    for row in rows:
        assert row["label"] in row["probabilities"]
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert row["positive"] == (row["probability"] >= row["threshold"])
        assert row["model"] == "stub/1"
    assert rows[0]["patient_id"].startswith("SYN-")
    assert rows[2]["patient_id"] == ""  # a JPEG
    assert not (home.path / "medd.db").exists()


def test_bad_inputs_each_say_why_and_the_rest_goes_on(home, tmp_path):
    files = {name: path for name, path in bad_inputs(tmp_path / "bad").items() if path.is_file()}
    out, err = home.medd("classify", *files.values(), "--format", "json", code=1)
    rows = {Path(row["path"]).name: row for row in json.loads(out)}
    assert {name: row["reason"] for name, row in rows.items()} == {name: EXPECTED_REASONS[name] for name in files}
    for name, row in rows.items():
        assert row["status"] == ("scored" if row["reason"] is None else "not_assessed")
        assert (row["label"] is None) == (row["reason"] is not None)
        assert (f"{files[name]}: {row['reason']}" in err) == (row["reason"] is not None)
    assert "Traceback" not in err


def test_missing_file_is_a_failure_for_some_input(home, tmp_path):
    [sample] = write_samples(tmp_path, 1, size=256)
    out, err = home.medd("classify", tmp_path / "missing.dcm", sample, "--format", "json", code=1)
    assert [row["status"] for row in json.loads(out)] == ["not_assessed", "scored"]
    assert "missing.dcm: unreadable" in err


def test_refused_kinds_alone_are_no_failure(home, tmp_path):
    files = bad_inputs(tmp_path)
    home.medd("classify", files["hand.dcm"], files["report.dcm"])


def test_empty_folder_is_a_wrong_call(home, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no files found" in home.refused("classify", tmp_path / "empty")


def test_classification_is_written_to_a_file(home, tmp_path):
    write_samples(tmp_path / "samples", 2, size=256)
    out, _ = home.medd("classify", tmp_path / "samples", "--format", "csv", "--output", tmp_path / "rows.csv")
    assert out == ""
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["scored", "scored"]


def test_overlay_is_the_picture_with_its_label_beneath(home, tmp_path):
    write_samples(tmp_path / "samples", 3, size=(300, 200))
    bad = bad_inputs(tmp_path / "bad")
    home.medd("classify", tmp_path / "samples", bad["text.dcm"], "--overlay", tmp_path / "overlay", code=1)
    pictures = sorted((tmp_path / "overlay").iterdir())
    assert [picture.name for picture in pictures] == [
        "0000-0001-clear-dx16.png",
        "0001-0002-opacity-cr12.png",
        "0002-0003-clear-film.png",
    ]
    for path in pictures:
        picture = cv2.imread(str(path))
        assert picture.shape[0] <= LONGEST
        assert NARROWEST < picture.shape[1] < picture.shape[0]
        band = picture[-70:].astype(int)
        assert 0 < (band > 100).mean() < 0.5  # text on black


def test_other_bundle_can_be_named(home, tmp_path):
    write_samples(tmp_path / "samples", 1, size=256)
    other = stub_bundle(tmp_path / "other", ("CLEAR", "ODD"), version="2")
    [row] = home.json("classify", tmp_path / "samples", "--model", other)
    assert (row["model"], sorted(row["probabilities"])) == ("stub/2", ["CLEAR", "ODD"])
    assert "bundle.json" in home.refused("classify", tmp_path / "samples", "--model", tmp_path, code=1)


def test_classifier_that_raises_is_one_line(home, tmp_path):
    write_samples(tmp_path / "samples", 1, size=256)
    code = "def load(folder, threads):\n    raise OSError('no such device')\n"
    (home.path / "plugins" / "stub_plugin.py").write_text(
        "from pathlib import Path\nfrom medd import hookimpl\nfrom medd.hookspecs import ClassifierSpec\n"
        f"BUNDLE = Path({str(home.path / 'stub-bundle')!r})\n{code}\n@hookimpl\ndef register_classifiers():\n"
        "    return [ClassifierSpec('stub', 'medd_plugins_dir.stub_plugin:load', '', BUNDLE)]\n"
    )
    assert "no such device" in home.refused("classify", tmp_path / "samples", code=1)


# Ingest and the queue


def test_ingest_takes_in_once(home, tmp_path):
    write_samples(tmp_path / "samples", 4, size=256)
    assert home.medd("ingest", tmp_path / "samples")[0] == "4 received\n"
    assert home.medd("ingest", tmp_path / "samples")[0] == "4 already there\n"
    assert len(list((tmp_path / "samples").iterdir())) == 4  # they stay where they are
    assert {row["origin"].split("/")[0] for row in home.json("results")} == {"file:samples"}


def test_ingest_says_what_was_refused(home, tmp_path):
    files = bad_inputs(tmp_path / "bad")
    out, err = home.medd("ingest", files["hand.dcm"], files["text.dcm"], tmp_path / "missing", code=1)
    assert out == "2 not assessed, 1 failed\n"
    assert "hand.dcm: not assessed, not_chest: body part HAND" in err
    assert "text.dcm: not assessed, unreadable" in err
    assert "missing: cannot be read. Received: No such file or directory" in err


def test_ingest_of_nothing_is_a_failure(home, tmp_path):
    (tmp_path / "empty").mkdir()
    assert home.medd("ingest", tmp_path / "empty", code=1)[0] == "no files found\n"


def test_queue_shows_its_states(filled):
    rows = filled.json("queue", "status")
    assert {row["state"]: row["jobs"] for row in rows if row["kind"] == "classify"} == {
        "pending": 1,
        "running": 0,
        "done": 3,
        "dead": 1,
    }


def test_dead_jobs_are_listed_and_brought_back(filled):
    [dead] = filled.json("queue", "list")
    assert (dead["attempts"], dead["error"], dead["sop_instance_uid"]) == (5, "spool: gone", "1.2.3.3")
    assert filled.medd("queue", "retry", 999)[0] == "0 back in the queue\n"
    assert filled.medd("queue", "retry", dead["instance_id"])[0] == "1 back in the queue\n"
    assert filled.json("queue", "list") == []
    assert [row["patient_id"] for row in filled.json("results", "--status", "pending")] == ["P4", "P3"]


# Settings, plugins, schema


def test_settings_in_force_are_shown(home, monkeypatch):
    monkeypatch.setenv("MEDD_LISTENER__PORT", "104")
    monkeypatch.setenv("MEDD_DATABASE__URL", "postgresql+psycopg://medd:s3cret@host/medd")
    shown = {row["key"]: row["value"] for row in home.json("config", "show")}
    assert shown["listener.port"] == 104
    assert shown["home"] == str(home.path)
    assert "s3cret" not in json.dumps(shown)


def test_good_settings_are_good(home):
    assert home.medd("config", "check")[0] == "settings and plugins are good\n"


def test_plugins_are_shown(home):
    rows = {row["plugin"]: row["classifiers"] for row in home.json("plugins")}
    assert rows["stub_plugin"] == "stub"
    assert "pneumonia" in rows


def test_schema_is_made_and_checked(home):
    assert home.medd("db", "upgrade")[0] == f"schema {SCHEMA}\n"
    assert home.medd("db", "upgrade")[0] == f"schema {SCHEMA}\n"
    assert home.medd("db", "check")[0] == f"schema {SCHEMA}\n"


def test_home_that_cannot_be_written_is_one_line(home, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in home.refused("db", "upgrade", "--home", tmp_path / "file" / "home")


def test_reader_that_goes_away_is_no_error(filled):
    command = f"{sys.executable} -m medd results --home {filled.path} --format jsonl | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
