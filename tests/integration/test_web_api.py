"""REST under /api/v1: a real server over real HTTP, on both databases."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from medd.queue.base import CLASSIFY
from medd.records import Annotation, UserRole
from medd.store import users
from medd.store.annotations import annotate
from medd.store.audit import EventFilter, find_events
from medd.store.inserts import InstanceInserter
from medd.store.outbox import Outbox
from medd.store.repository import record_predictions
from medd.store.tables import delivery, instance, job
from medd.store.tally import refresh
from medd_web.api.results import Result
from tests.rows import instance_row, prediction_of
from tests.web import Web, running_web, web_settings

#: What a peer may write into a name, and what runs where somebody does not look.
RUN = ("=HYPERLINK(1)", "+1", "-1+1", "@SUM(1)", "\tx", "\r=1")
STRANGE = ("<script>alert(1)</script>", 'a,"b"\n;c', "\u202eevil")


class Filling:
    """Rows as they come in: every third scored above its threshold, every third below, the others waiting."""

    def __init__(self, web: Web) -> None:
        self.database, self.inserter, self.count = web.database, InstanceInserter(web.database, CLASSIFY), 0

    def add(self, number: int, **values: Any) -> list[int]:
        now, start = datetime.now(UTC), self.count
        self.count += number
        rows = [
            instance_row(one, **{"received_at": now - timedelta(minutes=self.count - one)} | values)
            for one in range(start, self.count)
        ]
        added = self.inserter.add(rows)
        ids = [added[row["sha256"]].id for row in rows]
        scored = [prediction_of(id_, (0.9, 0.2)[id_ % 3 - 1] + id_ / 1_000_000) for id_ in ids if id_ % 3]
        with self.database.write() as connection:
            record_predictions(connection, scored)
            refresh(connection, ids)
        return ids


@pytest.fixture
def web(tmp_path: Path, database_url: str) -> Iterator[Web]:
    with running_web(web_settings(tmp_path / "home", database_url=database_url)) as web:
        yield web


@pytest.fixture
def filling(web: Web) -> Iterator[Filling]:
    made = Filling(web)
    yield made
    made.inserter.close()


def get(web: Web, path: str, **filters: Any) -> Any:
    answer = web.client.get(f"/api/v1/{path}", params=filters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def problem(answer: httpx.Response, status: int) -> str:
    """The detail of a problem, in the form of RFC 9457."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["status"] == status
    assert told["title"]
    return str(told["detail"])


def walk(web: Web, path: str, **filters: Any) -> Iterator[list[dict[str, Any]]]:
    """Every page of a list, by the links that it gives."""
    answer = web.client.get(f"/api/v1/{path}", params=filters)
    while True:
        assert answer.status_code == 200, answer.text
        page = answer.json()
        yield page["items"]
        if page["next"] is None:
            assert "link" not in answer.headers
            return
        assert answer.headers["link"] == f'<{page["next"]}>; rel="next"'
        answer = web.client.get(page["next"])


# Results


def test_results_are_those_of_the_command_line(web, filling):
    filling.add(7)
    environment = os.environ | {"MEDD_HOME": str(web.settings.home), "MEDD_DATABASE__URL": web.settings.database_url}
    for filters in ({}, {"status": "scored", "min_probability": "0.5", "label": "PNEUMONIA", "limit": "2"}):
        options = [word for name, value in filters.items() for word in (f"--{name.replace('_', '-')}", value)]
        command = [sys.executable, "-m", "medd", "results", "--format", "json", *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
        expected = json.loads(done.stdout)
        found = get(web, "results", **filters)["items"]
        assert found == expected
        assert list(found[0]) == list(expected[0])


def test_results_are_filtered(web, filling):
    ids = filling.add(9)
    one = get(web, "results", limit=1)["items"][0]
    assert one["instance_id"] == ids[-1]
    for name, field in (("patient", "patient_id"), ("study", "study_instance_uid")):
        assert [row["instance_id"] for row in get(web, "results", **{name: one[field]})["items"]] == [ids[-1]]
    recent = (datetime.now(UTC) - timedelta(seconds=90)).isoformat()
    assert len(get(web, "results", since=recent)["items"]) == 1
    assert len(get(web, "results", since="2020-01-01")["items"]) == 9
    assert {row["status"] for row in get(web, "results", status="pending")["items"]} == {"pending"}
    assert get(web, "results", status="failed") == {"items": [], "next": None}


NO_FILTERS = (
    "limit=0", "limit=1001", "limit=many", "status=normal", "min_probability=1.01", "min_probability=nan",
    "since=noon", "since=0001-01-01T00:00:00%2B14:00", "patient=%00", "label=" + "x" * 300, "format=xml",
    "stauts=scored", "cursor=", "cursor=x", "cursor=W10", "cursor=%C3%A4", "cursor=WzEsMl0=",
    "cursor=WyIwMDAxLTAxLTAxVDAwOjAwOjAwKzE0OjAwIiwxXQ", "cursor=WyIyMDI2LTAxLTAxVDAwOjAwOjAwWiIsMWU0MDBd",
    "cursor=WyIyMDI2LTAxLTAxVDAwOjAwOjAwWiIsOTIyMzM3MjAzNjg1NDc3NTgwOF0",
)  # fmt: skip


def test_what_is_no_filter_is_refused_and_nothing_is_given(web):
    for query in NO_FILTERS:
        assert problem(web.client.get(f"/api/v1/results?{query}"), 422), query


def test_one_result_by_id_digest_and_uid(web, filling):
    ids = filling.add(2)
    twin = filling.add(2, sop_instance_uid="1.9.9")
    row = get(web, f"results/{ids[0]}")
    assert row["instance_id"] == ids[0]
    assert get(web, f"results/{row['sha256']}") == get(web, f"results/{row['sop_instance_uid']}") == row
    assert "name one by its id" in problem(web.client.get("/api/v1/results/1.9.9"), 409)
    assert get(web, f"results/{twin[0]}")["conflict"] is True
    for unknown in ("999999", "1.2.3.4.5", "0" * 64, "9" * 18, "9" * 19, "%00", "..%2f..%2fetc"):
        assert problem(web.client.get(f"/api/v1/results/{unknown}"), 422 if unknown == "%00" else 404)


# Paging


def test_pages_lose_and_double_nothing_while_images_come_in(web, filling):
    filling.add(150)
    there = [row["instance_id"] for row in get(web, "results", limit=1000)["items"]]
    studies = [row["study"] for row in get(web, "studies", limit=1000)["items"]]
    stop = threading.Event()

    def receive() -> None:
        for _ in range(80):  # or the list might grow faster than it is gone through
            if not stop.is_set():
                filling.add(3)

    sender = threading.Thread(target=receive)
    sender.start()
    try:
        for path, key, expected in (("results", "instance_id", there), ("studies", "study", studies)):
            seen = [row[key] for page in walk(web, path, limit=13) for row in page]
            old = set(expected)  # a new study may be met twice: it moves when it is scored
            assert [one for one in seen if one in old] == expected
    finally:
        stop.set()
        sender.join()


def test_the_link_keeps_filters_and_what_they_meant_at_the_first_page(web, filling):
    filling.add(12)
    first = get(web, "results", since="24h", status="scored", limit=2)
    query = urlsplit(first["next"]).query
    assert "status=scored" in query
    assert "limit=2" in query
    assert "since=24h" not in query
    pages = list(walk(web, "results", since="24h", status="scored", limit=2))
    assert [len(page) for page in pages] == [2, 2, 2, 2]
    assert {row["status"] for page in pages for row in page} == {"scored"}


def test_worklist_stays_as_it_was_at_the_first_page_though_time_passes(web, filling):
    filling.add(30)
    rows = [row for page in walk(web, "studies", limit=4) for row in page]
    assert [row["study"] for row in rows] == [row["study"] for row in get(web, "studies", limit=1000)["items"]]
    assert [row["place"] for row in rows] == ["finding"] * 10 + ["unjudged"] * 10 + ["below"] * 10


# Forms


def read_csv(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


def test_csv_by_name_and_by_accept_is_the_whole_list(web, filling):
    filling.add(1203)
    rows = get(web, "results", limit=1000)["items"]
    table = read_csv(web.client.get("/api/v1/results?format=csv"))
    assert len(table) == 1203, "without a limit it is all there is, in pages that nobody sees"
    assert [int(row["instance_id"]) for row in table[:1000]] == [row["instance_id"] for row in rows]
    assert list(table[0]) == list(Result.model_fields)
    accept = {"Accept": "text/csv, application/json;q=0.5"}
    some = web.client.get("/api/v1/results?limit=3", headers=accept)
    assert [row["sha256"] for row in read_csv(some)] == [row["sha256"] for row in rows[:3]]
    assert some.headers["content-disposition"] == 'attachment; filename="results.csv"'
    more = web.client.get(some.links["next"]["url"], headers=accept)
    assert [row["sha256"] for row in read_csv(more)] == [row["sha256"] for row in rows[3:6]]
    for path in ("studies", "annotations", "models", "jobs"):
        read_csv(web.client.get(f"/api/v1/{path}?format=csv"))


ACCEPTED = (
    ("*/*", "application/json"),
    ("", "application/json"),
    ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json"),
    ("text/*", "text/csv"),
    ("application/json;q=0.2, text/csv;q=0.9", "text/csv"),
    ("text/csv;q=0, */*", "application/json"),
    ("image/png", None),
    ("application/json;q=zero", None),
)


def test_the_form_is_the_one_that_is_accepted(web):
    for accept, form in ACCEPTED:
        answer = web.client.get("/api/v1/results", headers={"Accept": accept})
        if form is None:
            assert problem(answer, 406)
        else:
            assert answer.headers["content-type"].split(";")[0] == form, accept
        assert web.client.get("/api/v1/results?format=json", headers={"Accept": accept}).status_code == 200


def test_a_cell_that_a_spreadsheet_would_run_is_defused_and_nothing_else_is_changed(web, filling):
    hostile = RUN + STRANGE
    for text in hostile:
        filling.add(1, patient_id=text)
    told = [row["patient_id"] for row in get(web, "results")["items"]]
    assert told == list(reversed(hostile)), "JSON runs nowhere"
    cells = [row["patient_id"] for row in read_csv(web.client.get("/api/v1/results?format=csv"))]
    assert cells == [f"'{text}" if text in RUN else text for text in reversed(hostile)]


# Studies


def test_one_study_with_its_images(web, filling):
    filling.add(3, study_instance_uid="1.5.5")
    [image] = filling.add(1, study_instance_uid="")
    study = get(web, "studies/1.5.5")
    assert study["images"] == len(study["results"]) == 3
    assert study["place"] == "finding"
    assert {row["study_instance_uid"] for row in study["results"]} == {"1.5.5"}
    row = get(web, f"results/{image}")
    alone = get(web, f"studies/{row['sha256']}")
    assert alone["results"] == [row]
    assert problem(web.client.get("/api/v1/studies/1.2.3.4.5.6"), 404)


def test_the_worklist_is_filtered(web, filling):
    ids = filling.add(6)
    rows = get(web, "studies")["items"]
    assert len(rows) == 6
    assert [row["study"] for row in get(web, "studies", text=rows[0]["patient_id"])["items"]] == [rows[0]["study"]]
    assert {row["status"] for row in get(web, "studies", status="pending")["items"]} == {"pending"}
    said = web.client.post("/api/v1/annotations", json={"uid": str(ids[0]), "label": "?"})
    assert said.status_code == 201
    assert len(get(web, "studies")["items"]) == 5
    [read] = get(web, "studies", read="yes")["items"]
    assert (read["place"], read["read_by"]) == ("read", "local")
    assert len(get(web, "studies", read="any")["items"]) == 6


# Annotations


def test_saying_what_an_image_shows_and_taking_it_back(web, filling):
    [id_] = filling.add(1)
    said = {"uid": f"{id_}", "label": "normal", "comment": "clear"}
    answer = web.client.post("/api/v1/annotations", json=said)
    assert (answer.status_code, answer.json()) == (
        201,
        {"instance_id": id_, "reader": "local", "new": True, "read": True},
    )
    assert web.client.post("/api/v1/annotations", json=said).json()["new"] is False
    [row] = get(web, "annotations")["items"]
    assert (row["label"], row["reader"], row["comment"], row["counts"]) == ("NORMAL", "local", "clear", True)
    with web.database.write() as connection:
        annotate(connection, Annotation(id_, "PNEUMONIA", "anna", datetime.now(UTC)))
    assert [row["reader"] for row in get(web, "annotations", contradicted=True)["items"]] == ["anna", "local"]
    assert web.client.delete(f"/api/v1/annotations/{row['sha256']}").status_code == 204
    assert get(web, "annotations", contradicted=True)["items"] == []
    assert [row["label"] for row in get(web, "annotations")["items"]] == ["", "PNEUMONIA", "NORMAL"]
    assert problem(web.client.delete(f"/api/v1/annotations/{id_}"), 404) == "you say nothing of this image"
    assert [row["id"] for page in walk(web, "annotations", limit=1) for row in page] == [3, 2, 1]


def test_a_study_with_images_that_were_not_seen_is_not_read_by_saying_something(web, filling):
    first, _ = filling.add(2, study_instance_uid="1.2.9")
    [study] = get(web, "studies")["items"]
    said = {"uid": f"{first}", "label": "NORMAL", "images": 1}
    assert web.client.post("/api/v1/annotations", json=said).json()["read"] is False
    assert [row["label"] for row in get(web, "annotations")["items"]] == ["NORMAL"], "it is kept"
    said |= {"label": "?", "images": study["images"]}
    assert web.client.post("/api/v1/annotations", json=said).json()["read"] is True


NOT_SAID = (
    ({"uid": "1", "label": "GONE"}, 400),
    ({"uid": "99", "label": "NORMAL"}, 404),
    ({"uid": "1.9.9", "label": "NORMAL"}, 409),
    ({"uid": "", "label": "NORMAL"}, 422),
    ({"uid": "1", "label": ""}, 422),
    ({"uid": "1"}, 422),
    ({"uid": "1", "label": "NORMAL", "reader": "somebody else"}, 422),
    ({"uid": "1", "label": "NORMAL", "comment": "\0"}, 422),
    ({"uid": "1", "label": "NORMAL", "comment": "x" * 300}, 422),
    ({"uid": "1", "label": "NORMAL", "images": 0}, 422),
    ({"uid": "1", "label": "NORMAL", "images": 1 << 64}, 422),
    ([], 422),
    ("NORMAL", 422),
)


def test_what_cannot_be_said_is_refused_and_leaves_no_trace(web, filling):
    filling.add(3, sop_instance_uid="1.9.9")
    for said, status in NOT_SAID:
        assert problem(web.client.post("/api/v1/annotations", json=said), status), said
    assert get(web, "annotations")["items"] == []


# Models and jobs


def test_models_are_listed_shown_promoted_and_rolled_back(web):
    from medd.testing import stub_bundle

    stub_bundle(web.settings.models_dir / "other", version="2")
    web.context.models.find("other", "anna", "to try")
    listed = get(web, "models")["items"]
    assert [(row["model"], row["role"]) for row in listed] == [("stub/1", "champion"), ("stub/2", "retired")]
    assert [row["model"] for page in walk(web, "models", limit=1) for row in page] == ["stub/1", "stub/2"]
    one = get(web, "models/stub/2")
    assert one["labels"] == ["NORMAL", "PNEUMONIA"]
    assert [event["what"] for event in one["events"]] == ["registered"]
    assert problem(web.client.post("/api/v1/models/stub/2/promote", json={}), 422)
    assert problem(web.client.post("/api/v1/models/rollback", json={"why": "a try"}), 409)
    done = web.client.post("/api/v1/models/stub/2/promote", json={"why": "better here"})
    assert (done.status_code, done.json()) == (200, {"model": "stub/2"})
    assert get(web, "models/stub/2")["events"][0] | {"at": "", "figures": {}} == {
        "at": "", "what": "promoted", "model": "stub/2", "who": "local", "why": "better here", "figures": {},
    }  # fmt: skip
    back = web.client.post("/api/v1/models/rollback", json={"why": "worse after all"})
    assert (back.status_code, back.json()) == (200, {"model": "stub/1"})
    bundle = web.settings.models_dir / "other" / "bundle.json"
    bundle.write_text(bundle.read_text().replace("Tests", "tests"))
    assert "altered" in problem(web.client.post("/api/v1/models/stub/2/promote", json={"why": "again"}), 409)
    for unknown in ("stub/3", "other/2", "pneumonia/1"):
        assert problem(web.client.get(f"/api/v1/models/{unknown}"), 404)
        assert problem(web.client.post(f"/api/v1/models/{unknown}/promote", json={"why": "x"}), 404)
    # A folder's name is none of a model's here, whoever lays a bundle where.
    for path in ("..%2f..%2fetc/passwd", ".%2fother/2", "other/%2e%2e", "%2fetc/1"):
        assert web.client.get(f"/api/v1/models/{path}").status_code in (404, 422)


def test_dead_jobs_are_listed_counted_and_brought_back(web, filling):
    ids = filling.add(5)
    with web.database.write() as connection:
        connection.execute(job.update().values(state="dead", attempts=5, error="spool: gone"))
        failed = {"status": "failed", "reason": "retries_exhausted"}
        connection.execute(instance.update().where(instance.c.status == "pending").values(**failed))
        Outbox(("pacs",)).open(connection, ids[:3])
        connection.execute(delivery.update().values(state="dead", error="pacs: refused"))
    rows = [row for page in walk(web, "jobs", limit=2) for row in page]
    assert [row["kind"] for row in rows] == ["classify"] * 5 + ["deliver"] * 3
    assert [row["instance_id"] for row in rows[:5]] == sorted(ids, reverse=True)
    assert {row["destination"] for row in rows[5:]} == {"pacs"}
    assert [row["kind"] for page in walk(web, "jobs", limit=2, kind="deliver") for row in page] == ["deliver"] * 3
    assert len(get(web, "jobs", kind="classify")["items"]) == 5
    with web.database.read() as connection:
        [noted, *_] = find_events(connection, EventFilter(action="studies_listed"))
    assert noted["detail"] == "/api/v1/jobs?kind=classify"
    counts = {(row["kind"], row["state"]): row["jobs"] for row in get(web, "jobs/counts")}
    assert counts["classify", "dead"], counts["deliver", "dead"] == (5, 3)

    def retry(**what: list[int]) -> int:
        answer = web.client.post("/api/v1/jobs/retry", json=what)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["back"])

    assert retry(instances=ids[:1]) == 1
    assert retry(deliveries=[rows[-1]["id"]]) == 1
    assert retry(instances=[]) == 0
    assert retry() == 6
    assert get(web, "jobs")["items"] == []
    assert problem(web.client.post("/api/v1/jobs/retry", json={"instances": [0]}), 422)
    assert problem(web.client.post("/api/v1/jobs/retry", json={"instances": [2**63]}), 422)


# Who may


def test_roles_tokens_and_the_audit_trail(tmp_path: Path) -> None:
    with running_web(web_settings(tmp_path / "home", login=True)) as web:
        tokens = {}
        with web.database.write() as connection:
            for name, role in (("rita", "reader"), ("otto", "operator"), ("ada", "administrator")):
                users.add_account(connection, name, UserRole(role), None)
                tokens[name] = {"Authorization": f"Bearer {users.add_token(connection, name, 'test', 1)}"}
        filling = Filling(web)
        [id_] = filling.add(1)
        filling.inserter.close()
        asked: list[tuple[str, str, Any, tuple[int, int, int]]] = [
            ("GET", "results?patient=P0", None, (200, 200, 200)),
            ("GET", "studies/1.2.1.0", None, (200, 200, 200)),
            ("GET", "models", None, (200, 200, 200)),
            ("POST", "annotations", {"uid": str(id_), "label": "?"}, (201, 201, 201)),
            ("POST", "jobs/retry", {}, (403, 200, 200)),
            ("POST", "models/rollback", {"why": "x"}, (403, 403, 409)),
        ]
        for method, path, body, statuses in asked:
            assert problem(web.client.request(method, f"/api/v1/{path}", json=body), 401)
            found = [web.client.request(method, f"/api/v1/{path}", json=body, headers=one) for one in tokens.values()]
            assert tuple(answer.status_code for answer in found) == statuses, path
        with web.database.read() as connection:
            events = list(find_events(connection, EventFilter(account="rita")))[::-1]
        kept = [(row["action"], row["study"], row["detail"]) for row in events if row["outcome"] == "success"]
        assert kept == [
            ("exported", "", "/api/v1/results?patient=P0"),
            ("case_seen", "1.2.1.0", ""),
            ("annotated", "1.2.1.0", "?"),
        ]
        rows = web.client.get("/api/v1/annotations", headers=tokens["ada"]).json()["items"]
        readers = {row["reader"] for row in rows}
        assert readers == {"rita", "otto", "ada"}, "each in his own name"


def test_another_sites_page_cannot_make_a_browser_say_anything(web, filling):
    [id_] = filling.add(1)
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        said = {"uid": str(id_), "label": "NORMAL"}
        assert problem(web.client.post("/api/v1/annotations", json=said, headers=headers), 403)
    plain = web.client.post("/api/v1/annotations", content=json.dumps(said), headers={"Content-Type": "text/plain"})
    assert plain.status_code == 422
    assert get(web, "annotations")["items"] == []


# What explains it


def test_the_document_and_its_page_need_nothing_from_elsewhere(web):
    document = get(web, "openapi.json")
    assert {path for path in document["paths"] if path.startswith("/api/v1")} >= {
        "/api/v1/results", "/api/v1/studies", "/api/v1/annotations", "/api/v1/models", "/api/v1/jobs",
    }  # fmt: skip
    for operations in document["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            assert operation["description"]
            for status, answer in operation["responses"].items():
                assert status < "4" or set(answer["content"]) & {"application/problem+json", "application/dicom+json"}
    assert "HTTPValidationError" not in document["components"]["schemas"]
    shown = web.client.get("/api/v1/docs", headers={"Accept": "text/html"})
    assert shown.status_code == 200
    for path in document["paths"]:
        assert path in shown.text
    assert "<script>" not in shown.text
    assert "style=" not in shown.text
    addresses = set(re.findall(r"\w+://[\w.:]+", shown.text))
    assert all(one.startswith(("dicom://", "dicomweb://", "upload://", web.url.rstrip("/"))) for one in addresses)
