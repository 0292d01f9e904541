"""Figures for Prometheus and the state of health, over real HTTP."""

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from pynetdicom import AE, build_context
from pynetdicom.sop_class import Verification

from medd import __version__
from medd.pipeline import node_id
from medd.records import Annotation, Reason, UserRole
from medd.settings import DestinationSettings, ListenerSettings
from medd.store import users
from medd.store.annotations import annotate
from medd.store.outbox import Deliveries, Outbox
from medd.store.processes import Pulse
from medd.store.tables import instance, job, process
from medd.testing import dicom_radiograph
from medd_web import health, watch
from tests.support import PostgresServer, wait_until
from tests.ward import Ward
from tests.web import Web, running_web, web_settings


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered: each question is asked anew."""
    get = watch.Remembered.get

    def fresh(self):
        self.forget()
        return get(self)

    monkeypatch.setattr(watch.Remembered, "get", fresh)


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with running_web(web_settings(tmp_path / "home")) as web:
        yield Ward(web, tmp_path)


Figures = dict[str, dict[tuple[str, ...], float]]


def figures(web: Web) -> Figures:
    """Every sample by its name and the values of its labels, in the order of their names."""
    answer = web.client.get("/metrics")
    assert answer.status_code == 200
    found: Figures = {}
    for family in parse(answer.text):
        assert family.documentation, f"{family.name} has no HELP"
        for sample in family.samples:
            labels = tuple(sample.labels[name] for name in sorted(sample.labels))
            assert labels not in found.setdefault(sample.name, {}), f"{sample.name} {labels} is there twice"
            found[sample.name][labels] = sample.value
    return found


def test_metrics_of_an_empty_house(ward):
    found = figures(ward.web)
    assert found["medd_database_up"] == {(): 1}
    assert next(iter(found["medd_build_info"]))[1] == __version__
    assert found["medd_images_received_total"] == {(): 0}
    assert found["medd_queue_jobs"] == {("dead",): 0, ("pending",): 0, ("rescore",): 0, ("running",): 0}
    assert found["medd_queue_oldest_seconds"] == {(): 0}
    assert found["medd_processes"] == {("deliver",): 0, ("receive",): 0, ("work",): 0}
    assert "medd_latency_seconds" not in found
    assert found["process_resident_memory_bytes"][()] > 1e6
    assert found["medd_disk_free_bytes"][("spool",)] > 0


def test_metrics_count_what_happened_since_they_were_asked_for_first(ward):
    ward.web.context.models.known()
    assert figures(ward.web)["medd_images_received_total"] == {(): 0}
    first = ward.film(1, 0.9)
    ward.film(2, 0.1)
    ward.refuse(ward.film(3), Reason.LATERAL_VIEW)
    ward.film(4, minutes_ago=2)
    dead = ward.film(5)
    with ward.database.write() as connection:
        connection.execute(job.update().where(job.c.instance_id == dead).values(state="dead"))
        gone = {"status": "failed", "reason": Reason.RETRIES_EXHAUSTED}
        connection.execute(instance.update().where(instance.c.id == dead).values(**gone))
        annotate(connection, Annotation(first, "NORMAL", "anna", datetime.now(UTC)))
    Pulse(ward.database, "ward-1", "work").beat()
    found = figures(ward.web)
    assert found["medd_images_received_total"] == {(): 4}, "one came two minutes ago"
    assert found["medd_images_finished_total"] == {
        ("", "scored"): 2,
        ("lateral_view", "not_assessed"): 1,
        ("retries_exhausted", "failed"): 1,
    }
    assert found["medd_predictions_total"] == {("stub/1", "false"): 2}
    assert found["medd_annotations_total"] == {(): 1}
    assert found["medd_queue_jobs"][("pending",)] == found["medd_queue_jobs"][("dead",)] == 1
    assert 120 <= found["medd_queue_oldest_seconds"][()] < 180
    assert found["medd_processes"][("work",)] == 1
    assert set(found["medd_latency_seconds"]) == {("50", "scored"), ("95", "scored"), ("99", "scored")}


def test_counters_never_fall_whatever_becomes_of_rows(ward):
    ward.web.context.models.known()
    assert figures(ward.web)["medd_predictions_total"] == {("stub/1", "false"): 0}
    ids = [ward.film(seed, 0.9) for seed in range(4)]
    assert figures(ward.web)["medd_images_received_total"] == {(): 4}
    with ward.database.write() as connection:
        connection.execute(job.delete().where(job.c.instance_id.in_(ids[:2])))
        connection.execute(instance.delete().where(instance.c.id.in_(ids[:2])))
    ward.refuse(ids[2])
    found = figures(ward.web)
    assert found["medd_images_received_total"] == {(): 4}
    assert found["medd_images_finished_total"] == {("", "scored"): 4, ("unfamiliar", "not_assessed"): 1}
    assert found["medd_predictions_total"] == {("stub/1", "false"): 4}


def test_what_is_older_than_a_day_is_counted_for_good():
    begin = datetime.now(UTC)
    rows = [begin + timedelta(hours=hour) for hour in range(1, 24 * 30, 6)]

    def ask(since: datetime, until: datetime) -> Counter[tuple[str, ...]]:
        return Counter({("received",): sum(since <= at < until for at in rows if at > now - timedelta(days=5))})

    now = begin
    counts, told = watch.Counts(ask), []
    for hour in range(0, 24 * 30, 3):  # whatever is older than five days is deleted meanwhile
        now = begin + timedelta(hours=hour)
        told.append(counts.get(now)["received",])
    assert told == sorted(told)
    assert told[-1] == sum(at <= now for at in rows)


def test_metrics_of_models_readers_and_devices(ward):
    ward.web.context.models.known()
    first = ward.film(1, 0.9)
    with ward.database.write() as connection:
        annotate(connection, Annotation(first, "NORMAL", "anna", datetime.now(UTC)))
        annotate(connection, Annotation(first, "PNEUMONIA", "ben", datetime.now(UTC)))
    found = figures(ward.web)
    assert found["medd_model_info"] == {("stub", "stub/1", "champion"): 1}
    assert found["medd_reader_agreement_ratio"] == {("stub/1",): 0.5}
    assert found["medd_reader_words"] == {("stub/1",): 2}
    assert found["medd_drift_devices"] == {("marked",): 0, ("steady",): 0}, "the stub's bundle has no reference"


def test_metrics_of_deliveries(tmp_path):
    settings = web_settings(tmp_path / "home")
    settings = settings.model_copy(update={"destination": (DestinationSettings(type="folder", name="main"),)})
    with running_web(settings) as web:
        ward = Ward(web, tmp_path)
        ids = [ward.film(seed, 0.9) for seed in range(3)]
        with web.database.write() as connection:
            Outbox(("main",), quiet_s=0, max_wait_s=0).open(connection, ids)
        deliveries = Deliveries(web.database, "me")
        first, second = deliveries.claim("main", 2)
        deliveries.retry(first, "away", 60)
        deliveries.bury(second, "refused")
        found = figures(web)
    states = {state: count for (_, state), count in found["medd_deliveries"].items()}
    assert states == {"pending": 2, "failing": 1, "running": 0, "dead": 1}
    assert found["medd_delivered_objects_total"] == {("main",): 0}
    assert list(found["medd_delivery_overdue_seconds"]) == [("main",)]


def test_metrics_hold_nothing_of_a_patient_and_no_uid(ward):
    id_ = ward.receive(dicom_radiograph(1, size=64, patient_name="GEHEIM^KARLA", patient_id="GEHEIM-77"))
    ward.score(id_, 0.9)
    with ward.database.write() as connection:
        annotate(connection, Annotation(id_, "NORMAL", "dr. geheim", datetime.now(UTC)))
    text = ward.web.client.get("/metrics").text
    assert "geheim" not in text.lower()
    assert not re.search(r"\d+(\.\d+){5,}", text), "a UID"
    assert "10.0.0.1" not in text


def test_whoever_asks_for_openmetrics_gets_it(ward):
    kind = "application/openmetrics-text; version=1.0.0"
    answer = ward.web.client.get("/metrics", headers={"Accept": kind})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert "medd_images_received" in {family.name for family in parse_openmetrics(answer.text)}


# -- who may read them ---------------------------------------------------------------------------------------------


def test_the_token_of_the_metrics_opens_them_and_nothing_else(tmp_path):
    home = tmp_path / "home"
    settings = web_settings(home, login=True, metrics_token_file="metrics-token")
    (home / "metrics-token").write_text("a long secret\n")
    with running_web(settings) as web:
        with web.database.write() as connection:
            users.add_account(connection, "rita", UserRole.READER, None)
            token = users.add_token(connection, "rita", "a program", None)

        def ask(path: str, shown: str | None) -> int:
            headers = {"Authorization": f"Bearer {shown}".strip()} if shown is not None else {}
            return web.client.get(path, headers=headers).status_code

        assert ask("/metrics", None) == 401
        assert ask("/metrics", "wrong") == ask("/metrics", "") == 401
        assert ask("/metrics", "a long secret") == 200
        assert ask("/operations", "a long secret") == ask("/api/v1/results", "a long secret") == 401
        assert ask("/metrics", token) == 200
        (home / "metrics-token").unlink()
        assert ask("/metrics", "a long secret") == 503
        (home / "metrics-token").write_text("")
        assert ask("/metrics", "") == 401, "an empty file lets nobody in"
        assert web.client.get("/health").status_code == 503
        assert web.client.get("/health/live").status_code == 200


# -- health --------------------------------------------------------------------------------------------------------


def states(web: Web) -> tuple[int, dict[str, str]]:
    answer = web.client.get("/health")
    return answer.status_code, {one["name"]: one["state"] for one in answer.json()["checks"]}


def found_of(web: Web, name: str) -> str:
    [told] = [one["found"] for one in web.client.get("/health").json()["checks"] if one["name"] == name]
    return str(told)


@pytest.fixture
def alive(ward: Ward) -> Ward:
    """A ward whose receiver and worker give signs of life, on another host."""
    ward.web.context.models.known()
    Pulse(ward.database, "elsewhere", "receive").beat()
    Pulse(ward.database, "elsewhere", "work", doing=lambda: "stub/1").beat()
    return ward


def test_all_is_well(alive):
    status, found = states(alive.web)
    assert status == 200
    assert found.pop("spool") in ("ok", "warn"), "this machine's disk may be nearly full"
    assert found == dict.fromkeys(("database", "queue", "receive", "work", "model"), "ok")


def test_a_queue_that_grows_old_is_a_failure(alive):
    first = alive.film(1, minutes_ago=14)
    assert states(alive.web)[1]["queue"] == "ok"
    alive.wait(first, 16)
    assert states(alive.web)[0] == 503
    assert "longer than 900 s" in found_of(alive.web, "queue")


def test_what_was_given_up_is_a_warning(alive):
    id_ = alive.film(1)
    with alive.database.write() as connection:
        connection.execute(job.update().where(job.c.instance_id == id_).values(state="dead"))
    status, found = states(alive.web)
    assert (status, found["queue"]) == (200, "warn")


def test_a_worker_that_fell_silent_is_a_failure_unless_another_lives(alive):
    Pulse(alive.database, "third-host", "work", doing=lambda: "stub/1").beat()
    with alive.database.write() as connection:
        gone = process.c.node == "elsewhere"
        connection.execute(process.update().where(gone).values(beat_at=datetime.now(UTC) - timedelta(minutes=2)))
    status, found = states(alive.web)
    assert (status, found["work"], found["receive"]) == (503, "warn", "fail")
    assert found_of(alive.web, "work") == "1 alive, 1 silent"


def test_a_port_that_has_no_place_left_is_busy_and_lives(tmp_path):
    entity = AE("MEDD")
    entity.maximum_associations = 1
    entity.add_supported_context(Verification)
    server = entity.start_server(("127.0.0.1", 0), block=False)
    port = server.server_address[1]
    listener = ListenerSettings(port=port)
    settings = web_settings(tmp_path / "home").model_copy(update={"listener": listener})
    with running_web(settings) as web:
        Pulse(web.database, node_id(settings), "receive").beat()
        holder = entity.associate("127.0.0.1", port, [build_context(Verification)])
        assert states(web)[1]["port"] == "warn"
        holder.release()
    server.shutdown()


def test_a_spool_that_cannot_be_written_is_a_failure(alive, monkeypatch):
    monkeypatch.setattr(alive.web.context.spool, "root", Path("/proc/none"))
    assert states(alive.web)[1]["spool"] == "fail"
    assert found_of(alive.web, "spool") == "cannot be written"


def test_a_full_disk_is_a_failure(alive, monkeypatch):
    room = watch.Disk("spool", 500 << 20, 1 << 40)
    monkeypatch.setattr(watch.Watch, "disks", lambda self: [room])
    assert states(alive.web)[1]["spool"] == "fail"


def test_a_check_that_hangs_is_told_of_in_time_and_not_asked_twice(alive, monkeypatch):
    asked, go_on = [], threading.Event()
    monkeypatch.setattr(health, "LIMIT_S", 0.3)

    def hang(self):
        asked.append(1)
        go_on.wait(30)
        return health.Check("spool", health.State.OK, "")

    monkeypatch.setattr(health.Health, "_try_spool", hang)
    try:
        assert states(alive.web)[1]["spool"] == states(alive.web)[1]["spool"] == "fail"
        assert asked == [1]
    finally:
        go_on.set()
    wait_until(lambda: states(alive.web)[1]["spool"] == "ok")


def test_health_tells_strangers_nothing_of_this_house(alive):
    alive.film(1)
    text = json.dumps(alive.web.client.get("/health").json())
    for secret in (str(alive.web.settings.home), "elsewhere", "stub", "127.0.0.1", "medd.db"):
        assert secret not in text


@pytest.mark.peers
def test_a_database_that_is_away_is_told_of_and_so_is_its_return(tmp_path):
    server = PostgresServer()
    try:
        server.start()
        with running_web(web_settings(tmp_path / "home", database_url=server.url())) as web:
            web.context.models.known()
            assert states(web)[1]["database"] == "ok"
            server.stop()
            assert states(web)[0] == 503
            assert states(web)[1]["database"] == "fail"
            assert web.client.get("/health/live").json() == {"status": "ok"}
            down = figures(web)
            assert down["medd_database_up"] == {(): 0}
            assert down["medd_disk_free_bytes"][("spool",)] > 0
            assert "medd_queue_jobs" not in down
            assert web.client.get("/operations").status_code == 503
            server.start()
            wait_until(lambda: states(web)[1]["database"] == "ok")
            assert figures(web)["medd_database_up"] == {(): 1}
    finally:
        server.remove()
