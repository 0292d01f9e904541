"""`medd plan`: from kept costs, and measured here."""

import json
from pathlib import Path

import pytest

from medd.errors import SettingsError
from medd.plan import costs as kept
from medd.plan.costs import Costs
from medd.plan.measure import Effort, measure
from medd.settings import Settings, WorkerSettings
from tests.home import Home

COSTS = Costs(
    machine="made up",
    cores=2,
    measured_at="2026-01-01T00:00:00Z",
    model="stub/1",
    size=2048,
    transfer_syntax="explicit",
    film_bytes=float(1 << 23),
    row_bytes=2048,
    receive_one_s=0.03,
    receive_rate=40,
    receive_cpu_s=0.01,
    decode_one_s=0.05,
    decode_s=0.05,
    decode_scv=0.01,
    predict_one_s=0.003,
    predict_s=0.002,
    commit_one_s=0.005,
    commit_s=0.001,
    insert_s=0.002,
    batch_size=32,
    poll_s=0.2,
)


@pytest.fixture
def costs(tmp_path: Path) -> str:
    kept.write(COSTS, tmp_path / "costs.json")
    return str(tmp_path / "costs.json")


def test_a_plan_from_kept_costs_names_the_hosts_the_limit_and_the_disk(home: Home, costs: str):
    out, _ = home.medd("plan", "--costs", costs, "--films-per-day", 5_000_000, "--format", "json")
    told = json.loads(out)
    assert told["films_per_s_at_peak"] == pytest.approx(173.6, abs=0.1)
    assert told["hosts"] == 6
    assert told["bound"] == "worker"
    assert told["p95_s"] < 60
    assert told["saturates_at_films_per_day"] > 5_000_000
    assert told["disk_gib_kept"] == pytest.approx(365 * told["disk_gib_per_day"])
    assert told["disk_gib_per_day"] == pytest.approx(5e6 * ((1 << 23) + 2048) / (1 << 30))
    assert [row["stage"] for row in told["stages"]] == ["receive", "decode", "predict", "commit", "worker", "database"]
    assert told["measured"] == COSTS.model_dump()


def test_too_few_hosts_are_told_as_such(home: Home, costs: str):
    wanted = ("plan", "--costs", costs, "--films-per-day", 5_000_000, "--hosts", 1)
    out, _ = home.medd(*wanted, code=1)
    assert "no end" in out
    assert "the worker is full first" in out
    out, _ = home.medd(*wanted, "--format", "json", code=1)
    assert json.loads(out)["mean_s"] is None
    assert "a film alone takes" in home.refused("plan", "--costs", costs, "--wait-s", 0.01)


PAGER = """
from pathlib import Path

from medd import hookimpl

@hookimpl
def instance_received(instance):
    Path(__file__).with_name("heard").write_text("a film")

@hookimpl
def explain_prediction(prediction):
    Path(__file__).with_name("heard").write_text("a finding")
"""


def test_what_films_cost_is_measured_with_the_real_stages_and_no_plugin_hears_of_them(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    site = tmp_path_factory.mktemp("site")
    (site / "pager.py").write_text(PAGER)
    (site / "pager-1.dist-info").mkdir()
    (site / "pager-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: pager\nVersion: 1\n")
    (site / "pager-1.dist-info" / "entry_points.txt").write_text("[medd]\npager = pager\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site))
    # The home is not made: whose it is to be is not ours to say.
    wanted = Settings(home=tmp_path / "not" / "yet", worker=WorkerSettings(threads=1))
    found = measure(wanted, 128, "rle", Effort(films=4, repeat_s=0.05))
    assert found.transfer_syntax == "rle"
    assert found.cores == 1
    assert found.model == "pneumonia/1"
    assert 0 < found.film_bytes < 128 * 128 * 3
    assert 500 < found.row_bytes < 20_000
    assert found.commit_s < found.commit_one_s
    assert list(tmp_path.iterdir()) == []
    assert not (site / "heard").exists()


def test_the_model_to_be_measured_can_be_named(home: Home, tmp_path: Path):
    assert "bundle.json" in home.refused("plan", "--model", tmp_path, code=1)


def test_a_disk_without_room_for_the_measurement_is_named():
    with pytest.raises(SettingsError, match="no room for a scratch folder"):
        measure(Settings(home=Path("/proc/medd-home")), 128, "rle", Effort(films=1))
