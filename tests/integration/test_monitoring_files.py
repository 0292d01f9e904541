"""The dashboard and the alert rules that are shipped ask for figures that there are."""

import json
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as parse

from medd.records import Annotation, Reason
from medd.settings import DestinationSettings
from medd.store.annotations import annotate
from medd.store.outbox import Outbox
from medd.store.processes import Pulse
from medd.store.reports import record_sent
from tests.support import ROOT, require
from tests.ward import Ward
from tests.web import running_web, web_settings

DASHBOARD = ROOT / "config" / "grafana-dashboard.json"
ALERTS = ROOT / "config" / "prometheus-alerts.yml"
#: Of Prometheus itself, not of ours.
THEIRS = {"up"}
#: What Prometheus gives every sample.
THEIR_LABELS = {"job", "instance"}
FUNCTIONS = {
    "sum", "max", "min", "by", "without", "on", "ignoring", "and", "or", "vector", "increase", "rate", "delta", "time",
    "predict_linear", "label_values",
}  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The metrics of a house in which everything has happened."""
    folder = tmp_path_factory.mktemp("house")
    settings = web_settings(folder / "home").model_copy(
        update={"destination": (DestinationSettings(type="folder", name="main"),)}
    )
    with running_web(settings) as web:
        web.context.models.known()
        ward = Ward(web, folder)
        first = ward.film(1, 0.9)
        ward.refuse(ward.film(2), Reason.UNFAMILIAR)
        with web.database.write() as connection:
            annotate(connection, Annotation(first, "NORMAL", "anna", datetime.now(UTC)))
            Outbox(("main",)).open(connection, [first])
            uid = connection.exec_driver_sql("SELECT study_instance_uid FROM instance").scalar()
            taken = [SimpleNamespace(object="1.2.9", sop_class_uid="", answer="0x0000")]
            record_sent(connection, str(uid), 1, "main", taken)
        Pulse(web.database, "ward-1", "work").beat()
        return web.client.get("/metrics").text


@pytest.fixture(scope="module")
def labels(text: str) -> dict[str, set[str]]:
    """The labels of every sample, by its name."""
    found: dict[str, set[str]] = {}
    for family in parse(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def panels() -> list[dict[str, Any]]:
    return json.loads(DASHBOARD.read_text())["panels"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"]
    for rule in rules():
        yield rule["alert"], rule["expr"]


def without_texts(expression: str) -> str:
    return re.sub(r'"[^"]*"', '""', expression)


def names_in(expression: str) -> set[str]:
    """Every word outside of braces, brackets and lists of labels that is no function."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", without_texts(expression))
    bare = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"label_values\((\w*),\s*\w+\)", r"\1", bare)
    return set(re.findall(r"\b[a-z_]\w*", bare)) - FUNCTIONS


def labels_in(expression: str) -> set[str]:
    bare = without_texts(expression)
    matched = {name for part in re.findall(r"\{([^}]*)\}", bare) for name in re.findall(r"(\w+)\s*[=!]", part)}
    listed = {
        name
        for part in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", bare)
        for name in re.findall(r"\w+", part)
    }
    return (matched | listed) - THEIR_LABELS


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_a_query_asks_for_figures_and_labels_that_there_are(where, expression, labels):
    names = names_in(expression) - THEIRS
    assert names <= set(labels), f"{where}: {names - set(labels)}"
    known = set().union(*(labels[name] for name in names)) if names else set()
    assert labels_in(expression) <= known, f"{where}: {labels_in(expression) - known}"


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_legend_names_labels_that_its_query_leaves(panel, labels):
    for target in panel["targets"]:
        used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        grouped = re.findall(r"\bby \(([^)]*)\)", target["expr"])
        left = {name.strip() for name in grouped[0].split(",")} if grouped else None
        if left is None:
            left = set().union(*(labels[name] for name in names_in(target["expr"]))) | THEIR_LABELS
        assert used <= left, panel["title"]


def test_the_dashboard_is_one_that_grafana_takes():
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["schemaVersion"] >= 36
    assert dashboard["uid"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids) > 15
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)\}?", DASHBOARD.read_text())) - {"__all"} <= names
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        mine = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & mine, f"{panel['title']} lies upon another panel"
        cells |= mine
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_every_alert_says_what_it_is_and_how_bad():
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found) > 10
    for rule in found:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
    told = (ROOT / "docs" / "operations.md").read_text()
    assert [rule["alert"] for rule in found if f"`{rule['alert']}`" not in told] == []


def test_the_metrics_are_told_of_in_the_manual(labels):
    told = (ROOT / "docs" / "operations.md").read_text()
    ours = {name for name in labels if name.startswith("medd_")}
    assert sorted(name for name in ours if f"`{name}`" not in told) == []


@pytest.mark.peers
def test_prometheus_itself_finds_nothing_amiss(text, tmp_path: Path):
    [promtool] = require("promtool")
    checked = subprocess.run([promtool, "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    linted = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stderr) == (0, "")
