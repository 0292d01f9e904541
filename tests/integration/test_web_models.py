"""The models page over real HTTP: what it tells of each model, and who may change what is on duty."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest

from medd.errors import TransientError
from medd.hookspecs import ClassifierSpec
from medd.learn.curves import curves
from medd.learn.evaluate import measure
from medd.records import Annotation, UserRole
from medd.registry import bundle as bundles
from medd.registry.reference import reference
from medd.registry.registry import read_version
from medd.store import users
from medd.store.annotations import annotate
from medd.store.audit import EventFilter, find_events
from medd.store.models import find_on_duty
from medd.store.repository import record_shadow
from medd.testing import stub_bundle
from medd_pneumonia import register_classifiers
from medd_web import audit, passwords
from medd_web.dossier import compile_dossier
from tests.rows import prediction_of
from tests.ward import Ward
from tests.web import Web, running_web, web_settings

SCRIPT = "<script>alert('1')</script>"


def measured(folder: Path, seed: int = 0, **values) -> Path:
    """Give a stub bundle what `medd train` would: figures, curves, a history, a reference."""
    rng = np.random.default_rng(seed)
    truth = rng.random(200) < 0.5
    scores = np.clip(rng.normal(0.3 + 0.4 * truth, 0.2), 0, 1)
    about = bundles.read(folder, verify=False)
    figures = measure(truth, scores, 0.5, [str(n) for n in range(200)], resamples=50)
    (folder / "curves.json").write_text(json.dumps({about.ref: curves(truth, scores)}))
    history = "epoch,accuracy,loss,val_accuracy,val_loss\n1,0.5,0.9,0.5,0.8\n2,0.7,0.6,0.6,0.7\n"
    (folder / "history.csv").write_text(history)
    updates = {
        "evaluation": figures | {"measured_on": "its test part"},
        "reference": reference(scores, rng.normal(0.5, 0.1, 200), rng.normal(0.2, 0.02, 200)),
        "training": {"options": {"epochs": 2}, "data": "films"},
    }
    bundles.write(folder, about.model_copy(update=updates | values))
    return folder


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    """A house with stub/1 on duty; stub/2 is known, and stub/3 lies about."""
    home = tmp_path / "home"
    settings = web_settings(home)
    measured(home / "stub-bundle")
    for number in ("2", "3"):
        measured(stub_bundle(home / "models" / f"stub-{number}", version=number), int(number))
    with running_web(settings) as running:
        running.context.models.find("stub-2", "anna", "made by medd retrain")
        yield running


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def on_duty(web: Web) -> dict[str, str]:
    with web.database.read() as connection:
        return {str(role): model.ref for role, model in find_on_duty(connection, "stub").items()}


def get(web: Web, path: str) -> httpx.Response:
    with web.browser() as browser:
        return browser.get(path)


def post(web: Web, what: str, **data: str) -> httpx.Response:
    with web.browser() as browser:
        return browser.post(f"/models/{what}", data=data)


def test_the_page_tells_who_is_on_duty_since_when_and_what_was_measured(web):
    told = text_of(get(web, "/models").text)
    assert re.search(r"On duty stub/1 since [\d :-]+, by medd: shipped with the plugin", told)
    bundle = bundles.read(web.settings.home / "stub-bundle")
    low, high = bundle.evaluation["ci"]["auroc"]
    assert f"AUROC {bundle.evaluation['auroc']:.3f} ({low:.3f} – {high:.3f})" in told
    assert "measured on 200 held-out images" in told
    assert "No worker is alive." in told
    assert "stub/2 not in use" in told
    assert re.search(r"stub/2 became known anna made by medd retrain", told)
    assert "stub/3" not in told, "nobody has made it known"


def test_promoting_rolling_back_and_the_shadow_go_by_the_desk_and_are_on_record(web):
    done = post(web, "candidate", model="stub/2", why="a trial")
    assert (done.status_code, done.headers["location"]) == (303, "/models?done=candidate")
    assert on_duty(web) == {"champion": "stub/1", "candidate": "stub/2"}
    assert post(web, "withdraw", why="the trial is over").status_code == 303
    assert on_duty(web) == {"champion": "stub/1"}
    done = post(web, "promote", model="stub/2", why="better on our films")
    assert "It is on duty." in get(web, done.headers["location"]).text
    assert on_duty(web) == {"champion": "stub/2"}
    assert "Roll back to stub/1" in get(web, "/models").text
    assert post(web, "rollback", why="it misses findings").status_code == 303
    assert on_duty(web) == {"champion": "stub/1"}
    with web.database.read() as connection:
        events = list(find_events(connection, EventFilter(action="model_changed")))
    assert [(event["detail"], event["outcome"]) for event in events] == [
        ("rollback: it misses findings", "success"),
        ("promote stub/2: better on our films", "success"),
        ("withdraw: the trial is over", "success"),
        ("candidate stub/2: a trial", "success"),
    ]
    told = text_of(get(web, "/models").text)
    assert "stub/1 put on duty again local it misses findings" in told


def test_a_change_needs_a_reason_and_a_model_that_is_known(web):
    assert post(web, "promote", model="stub/2", why="").status_code == 422
    assert post(web, "promote", model="stub/2").status_code == 422
    assert post(web, "promote", model="stub/2", why="x" * 501).status_code == 422
    assert post(web, "promote", model="stub/9", why="because").status_code == 404
    assert post(web, "promote", model=str(web.settings.home / "models" / "stub-3"), why="because").status_code == 404
    assert post(web, "promote", model="stub/2", why="a\0b").status_code in (400, 409, 422)
    assert on_duty(web) == {"champion": "stub/1"}


def test_what_is_refused_says_why_on_the_page(web):
    (web.settings.home / "models" / "stub-2" / "stub.json").write_text("damaged")
    page = post(web, "promote", model="stub/2", why="better")
    assert page.status_code == 409
    assert "altered since the bundle was made" in page.text
    assert "refused" in text_of(page.text), "the history tells of it"
    assert on_duty(web) == {"champion": "stub/1"}
    nothing = post(web, "rollback", why="back")
    assert nothing.status_code == 409
    assert "nothing to go back to" in nothing.text
    with web.database.read() as connection:
        events = list(find_events(connection, EventFilter(action="model_changed")))
    assert [(event["detail"], event["outcome"]) for event in events] == [
        ("rollback: back", "failed"),
        ("promote stub/2: better", "failed"),
    ]


def test_a_change_that_was_made_is_told_though_its_event_is_lost(web, monkeypatch, caplog):
    def lose(*_, **__):
        raise TransientError("the database is locked")

    monkeypatch.setattr(audit, "record", lose)
    assert post(web, "promote", model="stub/2", why="better").status_code == 303
    assert on_duty(web) == {"champion": "stub/2"}
    assert "an event of the audit trail is lost" in caplog.text


def test_a_plugin_that_objects_keeps_a_model_off_duty(tmp_path):
    home = tmp_path / "home"
    settings = web_settings(home)
    stub_bundle(home / "models" / "stub-2", version="2")
    (home / "plugins" / "strict.py").write_text(
        "from medd import hookimpl\nfrom medd.records import Objection\n\n"
        "@hookimpl\ndef review_candidate(candidate, champion):\n"
        f"    return [Objection({SCRIPT!r})]\n"
    )
    with running_web(settings) as web:
        web.context.models.find("stub-2", "anna")
        page = post(web, "promote", model="stub/2", why="better")
        assert page.status_code == 409
        assert "<script>alert" not in page.text
        assert "&lt;script&gt;alert" in page.text
        assert on_duty(web) == {"champion": "stub/1"}


def test_only_administrators_change_what_is_on_duty(tmp_path):
    home = tmp_path / "home"
    stub_bundle(home / "models" / "stub-2", version="2")
    with running_web(web_settings(home, login=True)) as web, ExitStack() as clients:
        web.context.models.find("stub-2", "anna")
        with web.database.write() as connection:
            hashed = passwords.hash_password("four words in a row", "x")
            for name, role in (("otto", UserRole.OPERATOR), ("ada", UserRole.ADMINISTRATOR)):
                users.add_account(connection, name, role, hashed)
        assert web.client.get("/models").status_code == 401
        pages = {}
        for name in ("otto", "ada"):
            pages[name] = clients.enter_context(web.browser())
            assert pages[name].post("/login", data={"name": name, "password": "four words in a row"}).status_code == 303
        for path in ("/models", "/models/stub/2"):
            assert "/models/promote" not in pages["otto"].get(path).text
        assert "/models/promote" in pages["ada"].get("/models/stub/2").text
        change = {"model": "stub/2", "why": "better"}
        for what in ("promote", "rollback", "candidate", "withdraw"):
            assert pages["otto"].post(f"/models/{what}", data=change).status_code == 403
        assert on_duty(web) == {"champion": "stub/1"}
        assert pages["ada"].post("/models/promote", data=change).status_code == 303
        assert on_duty(web) == {"champion": "stub/2"}
        assert "ada: better" in text_of(pages["ada"].get("/models").text)


# -- readers, shadow, drift ----------------------------------------------------------------------------------------


def say(ward: Ward, id_: int, label: str, reader: str = "anna") -> None:
    with ward.database.write() as connection:
        annotate(connection, Annotation(id_, label, reader, datetime.now(UTC)))


def test_readers_and_the_shadow_are_held_against_the_models(web, tmp_path):
    post(web, "candidate", model="stub/2", why="a trial")
    ward = Ward(web, tmp_path)
    ids = [ward.film(seed, probability, size=64) for seed, probability in enumerate((0.9, 0.8, 0.2))]
    with web.database.write() as connection:
        told = [
            prediction_of(id_, probability, model="stub/2", scored_at=datetime.now(UTC))
            for id_, probability in zip(ids, (0.95, 0.1, 0.15), strict=True)
        ]
        record_shadow(connection, told)
    for id_, label in zip(ids, ("PNEUMONIA", "NORMAL", "NORMAL"), strict=True):
        say(ward, id_, label)
    told = text_of(get(web, "/models").text)
    assert "images 3 same side of the threshold 66.7 % a finding only on duty 1 a finding only in the shadow 0" in told
    assert "0 for the one on duty, 1 for this one, of 3 words in all" in told
    assert "stub/1 3 1 1 0 1" in told, "words; both, only the model, only the reader, neither"
    assert "stub/2 3 1 0 0 2" in told


def test_curves_by_readers_words_are_drawn_when_there_are_enough(web, tmp_path):
    ward = Ward(web, tmp_path)
    first = ward.film(0, 0.9, size=64)
    for number in range(29):
        say(ward, first, "PNEUMONIA" if number % 2 else "NORMAL", f"reader-{number}")
    page = get(web, "/models/stub/1").text
    assert page.count("<figcaption>ROC") == 1
    say(ward, first, "PNEUMONIA", "reader-30")
    page = get(web, "/models/stub/1").text
    assert page.count("<figcaption>ROC") == 2
    assert "By 30 words of the last 12 weeks." in text_of(page)


def test_drift_marks_the_device_that_changed(web, tmp_path):
    ward = Ward(web, tmp_path)
    rng = np.random.default_rng(0)
    base = ward.film(0, size=64)
    rows = []
    with web.database.write() as connection:
        columns = connection.exec_driver_sql("SELECT * FROM instance").mappings().one()
        for number in range(80):
            row = dict(columns) | {"id": base + 1 + number, "sha256": hashlib.sha256(str(number).encode()).hexdigest()}
            row["station_name"] = f"ROOM {number % 2}{SCRIPT}"
            names = ", ".join(row)
            marks = ", ".join(f":{name}" for name in row)
            connection.exec_driver_sql(f"INSERT INTO instance ({names}) VALUES ({marks})", row)
            rows.append(row["id"])
    for number, id_ in enumerate(rows):
        mean = 0.5 + 0.3 * (number % 2) + rng.normal(0, 0.05)
        ward.score(id_, float(rng.random()), input_mean=mean, input_std=float(rng.normal(0.2, 0.02)))
    page = get(web, "/models/drift?days=1").text
    assert "<script>alert" not in page
    told = text_of(page)
    assert re.search(r"1 of [23] devices drifted in 1 day\.", told)
    assert told.index("ROOM 1") < told.index("ROOM 0"), "the marked one first"
    assert get(web, "/models/drift?days=400").status_code == 422


# -- one model -----------------------------------------------------------------------------------------------------


def test_a_model_is_shown_with_its_curves_figures_training_and_history(web):
    page = get(web, "/models/stub/2").text
    bundle = bundles.read(web.settings.home / "models" / "stub-2")
    titles = re.findall(r"<figcaption>([^<:]*)", page)
    assert titles == ["Figures", "ROC", "Precision and recall", "Reliability", "Accuracy", "Loss"]
    told = text_of(page)
    assert "200 images of 200 patients: its test part" in told
    assert f"with the finding {bundle.evaluation['confusion']['tp']} {bundle.evaluation['confusion']['fn']}" in told
    assert "Tests of medd; never for people." in told
    assert "options.epochs 2" in told
    assert "made by medd retrain" in told
    assert "style=" not in page
    assert str(web.settings.home) not in page


def test_evaluations_of_other_data_are_shown_beside_those_of_the_bundle(web):
    source, place = web.settings.home / "models" / "stub-2", web.settings.home / "evaluations" / "ward-7"
    place.mkdir(parents=True)
    figures = bundles.read(source).evaluation | {"model": "stub/2", "data": "ward7", "split": "all", "accuracy": 0.7654}
    (place / "evaluation.json").write_text(json.dumps(figures))
    (place / "curves.json").write_bytes((source / "curves.json").read_bytes())
    page = get(web, "/models/stub/2").text
    assert "ward-7" in page
    assert page.count("<figcaption>ROC") == 2
    assert "ward-7" not in get(web, "/models/stub/1").text


def test_a_broken_bundle_is_told_of_and_harms_no_page(web):
    (web.settings.home / "models" / "stub-2" / "bundle.json").write_text("{")
    assert "content:" in text_of(get(web, "/models/stub/2").text)
    told = get(web, "/models")
    assert told.status_code == 200
    assert "bundle.json" in told.text


def test_a_model_that_nobody_knows_is_not_found(web):
    for path in ("/models/stub/9", "/models/other/1", "/models/stub/..%2f..", "/models/STUB/1"):
        assert get(web, path).status_code in (404, 422)


def test_pictures_of_a_bundle_are_those_that_it_was_made_with(web, tmp_path):
    folder = stub_bundle(web.settings.home / "models" / "stub-4", version="4")
    png = b"\x89PNG\r\n\x1a\nnot much of one"
    (folder / "roc.png").write_bytes(png)
    (folder / "page.png").write_text("<html>")
    bundles.write(folder, bundles.read(folder))
    (folder / "late.png").write_bytes(png)
    web.context.models.find("stub-4", "anna")
    found = get(web, "/models/stub/4/plot/roc.png")
    assert (found.content, found.headers["content-type"]) == (png, "image/png")
    for name in ("late.png", "page.png", "stub.json", "..%2f..%2fmedd.db", "none.png"):
        assert get(web, f"/models/stub/4/plot/{name}").status_code in (404, 422)
    assert 'src="/models/stub/4/plot/roc.png"' in get(web, "/models/stub/4").text
    (folder / "roc.png").write_bytes(png + b"altered")
    assert get(web, "/models/stub/4/plot/roc.png").status_code == 404


def test_words_of_a_bundle_are_text(tmp_path):
    home = tmp_path / "home"
    settings = web_settings(home)
    evil = {"intended_use": SCRIPT, "licence": f"{SCRIPT}\u202egnp", "training": {"data": SCRIPT, SCRIPT: [SCRIPT]}}
    measured(home / "stub-bundle", **evil, evaluation={"measured_on": SCRIPT, "accuracy": SCRIPT, "ci": 7, "n": -1})
    (home / "stub-bundle" / "MODEL_CARD.md").write_text(f"# Card\n{SCRIPT}\n\u202e" + "long " * 1000)
    with running_web(settings) as web:
        for path in ("/models", "/models/stub/1"):
            page = get(web, path)
            assert page.status_code == 200
            assert "<script>alert" not in page.text
            assert "\u202e" not in page.text
        assert "# Card" in page.text


# -- what lies on the disk is not trusted --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "told",
    [
        "{", "[]", "7", '{"stub/1": 7}', '{"stub/1": {"roc": 7, "reliability": [7]}}',
        '{"stub/1": {"roc": [[0, 0], [2, 1]], "precision_recall": [["a", 1], [1, 1]]}}',
        '{"stub/1": {"reliability": [{"score": 0.5, "images": 0, "found": 0}]}}',
        '{"stub/1": {"reliability": [{"score": 0.5, "images": 1, "found": 2}]}}',
        "[" * 100_000,
    ],
)  # fmt: skip
def test_curves_that_are_none_are_left_out(tmp_path, told):
    folder = measured(stub_bundle(tmp_path / "stub"))
    (folder / "curves.json").write_text(told)
    model = read_version(folder, verify=False)
    dossier = compile_dossier(model, ClassifierSpec("stub", bundle=folder), tmp_path / "evaluations")
    assert [one.charts for one in dossier.evaluations] == [[]]


def test_the_shipped_model_is_shown_with_its_card_and_curves():
    for spec in register_classifiers():
        dossier = compile_dossier(read_version(spec.bundle, verify=False), spec, Path("/nowhere"))
        [held_out] = dossier.evaluations
        told = [one.name for one in held_out.shares if one.value is not None]
        assert {"accuracy", "AUROC", "sensitivity", "specificity"} <= set(told)
        assert len(held_out.charts) == 3
        assert [one.name for one in held_out.shares if one.name in told and one.low < one.value < one.high] == told
        assert "Not for diagnosis" in dossier.card
        assert len(dossier.training) == 2
