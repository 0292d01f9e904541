"""The rows of `study`, and the worklist made of them, on SQLite and on PostgreSQL."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from medd.queue.base import CLASSIFY
from medd.queue.sql import SqlQueue
from medd.records import UNREPORTED, WITHDRAWN, Annotation, Reason, Status
from medd.store import annotations
from medd.store.database import Database
from medd.store.inserts import InstanceInserter
from medd.store.outbox import study_key
from medd.store.repository import record_predictions, set_not_assessed
from medd.store.studies import (
    WorklistFilter,
    count_worklist,
    find_study,
    find_worklist,
    follow_annotations,
    mark_read,
    mark_unread,
    signature,
)
from medd.store.tables import instance, job, prediction, study
from medd.store.tally import refresh
from tests.rows import EPOCH, instance_row, prediction_of

LATERAL = {"status": Status.NOT_ASSESSED, "reason": Reason.LATERAL_VIEW}
NOW = EPOCH + timedelta(hours=1)


def add_one(database: Database, number: int, probability: float | None = None, **values: object) -> int:
    """Add an instance, scored when a probability is given; returns its id."""
    inserter = InstanceInserter(database, CLASSIFY)
    row = instance_row(number, **values)
    id_ = inserter.add([row])[row["sha256"]].id
    inserter.close()
    if probability is not None:
        record(database, prediction_of(id_, probability))
    return id_


def record(database: Database, *made) -> None:
    with database.write() as connection:
        record_predictions(connection, made)
        refresh(connection, [one.instance_id for one in made])


def worklist(database: Database, limit: int = 100, offset: int = 0, **wanted: object) -> list[dict]:
    with database.read() as connection:
        return find_worklist(connection, WorklistFilter(**wanted), NOW, None, limit, offset)


def patients(database: Database, **wanted: object) -> list[str]:
    return [row["patient_id"] for row in worklist(database, **wanted)]


def read(database: Database, key: str, reader: str = "anna", at: datetime = NOW) -> bool:
    with database.write() as connection:
        return mark_read(connection, key, reader, at)


def row_of(database: Database, key: str) -> dict | None:
    with database.read() as connection:
        return find_study(connection, key)


# ---- Order ------------------------------------------------------------------------------------------------------


def test_findings_come_first_then_the_unjudged_then_what_is_below_the_threshold(database):
    add_one(database, 1, 0.1)
    add_one(database, 2, 0.6)
    add_one(database, 3)
    add_one(database, 4, 0.95)
    add_one(database, 5, status=Status.NOT_ASSESSED, reason=Reason.LATERAL_VIEW)
    add_one(database, 6, status=Status.FAILED, reason=Reason.RETRIES_EXHAUSTED)
    add_one(database, 7, 0.4)
    rows = [(row["patient_id"], row["status"], row["probability"]) for row in worklist(database)]
    assert rows == [
        ("P4", "scored", 0.95),
        ("P2", "scored", 0.6),
        ("P3", "pending", None),
        ("P5", "not_assessed", None),
        ("P6", "failed", None),
        ("P7", "scored", 0.4),
        ("P1", "scored", 0.1),
    ]


def test_study_stands_at_its_worst_image(database):
    add_one(database, 1, 0.7)
    for number, probability in ((2, 0.1), (3, 0.8), (4, 0.3)):
        add_one(database, number, probability, study_instance_uid="1.2.1.9", patient_id="P9")
    rows = worklist(database)
    assert [(row["patient_id"], row["probability"], row["images"]) for row in rows] == [("P9", 0.8, 3), ("P1", 0.7, 1)]
    assert rows[0]["label"] == "PNEUMONIA"
    assert rows[0]["positive"] is True
    assert rows[0]["received_at"] == EPOCH + timedelta(seconds=2)


def test_study_that_is_not_judged_completely_goes_before_the_negatives(database):
    add_one(database, 1, 0.45)
    for number, status, reason in ((2, Status.PENDING, None), (4, Status.FAILED, Reason.RETRIES_EXHAUSTED)):
        add_one(database, number, 0.1, study_instance_uid=f"1.2.1.{number}", patient_id=f"S{number}")
        add_one(database, number + 1, study_instance_uid=f"1.2.1.{number}", status=status, reason=reason, patient_id="")
    rows = [(row["patient_id"], row["status"], row["images"]) for row in worklist(database)]
    assert rows == [("S2", "pending", 2), ("S4", "failed", 2), ("P1", "scored", 1)]


def test_refused_image_beside_a_scored_one_does_not_raise_its_study(database):
    add_one(database, 1, 0.2, study_instance_uid="1.2.1.1")
    lateral = {"status": Status.NOT_ASSESSED, "reason": Reason.LATERAL_VIEW}
    add_one(database, 2, study_instance_uid="1.2.1.1", **lateral)
    [row] = worklist(database)
    assert (row["status"], row["label"], row["images"]) == ("scored", "NORMAL", 2)


def test_images_without_a_study_stand_alone(database):
    for number, probability in ((1, 0.3), (2, 0.9), (3, 0.6)):
        add_one(database, number, probability, study_instance_uid="", patient_id="")
    rows = worklist(database)
    assert [(row["probability"], row["images"]) for row in rows] == [(0.9, 1), (0.6, 1), (0.3, 1)]


def test_worklist_shows_a_finding_before_a_higher_probability_that_is_none(database):
    same = {"study_instance_uid": "1.2.3"}
    ids = [add_one(database, n, **same) for n in (1, 2)]
    record(database, prediction_of(ids[0], 0.85, "new/1", threshold=0.9, positive=False, label="NORMAL"))
    record(database, prediction_of(ids[1], 0.5, threshold=0.3, positive=True, label="PNEUMONIA"))
    add_one(database, 3, 0.1, status="pending")
    first = worklist(database)[0]
    assert (first["study_instance_uid"], first["label"], first["probability"]) == ("1.2.3", "PNEUMONIA", 0.5)


def test_worklist_keeps_to_its_time_and_length(database):
    for number in range(1, 5):
        add_one(database, number, number / 10)
    assert len(worklist(database, limit=2)) == 2
    later = worklist(database, since=EPOCH + timedelta(seconds=3))
    assert [row["patient_id"] for row in later] == ["P4", "P3"]


def test_each_study_says_why_it_stands_where_it_stands(database):
    add_one(database, 1, 0.9)
    add_one(database, 2)
    add_one(database, 3, 0.1)
    add_one(database, 4, 0.8)
    assert read(database, "1.2.1.4")
    rows = [(row["patient_id"], row["place"]) for row in worklist(database, read=None)]
    assert rows == [("P1", "finding"), ("P2", "unjudged"), ("P3", "below"), ("P4", "read")]


def test_nothing_waits_longer_than_the_cap_for_what_is_more_urgent(database):
    for number, probability in ((1, 0.1), (2, 0.9), (3, None), (4, 0.2), (5, 0.8)):
        add_one(database, number, probability)
    with database.read() as connection:
        at = EPOCH + timedelta(seconds=13)
        rows = find_worklist(connection, WorklistFilter(), at, timedelta(seconds=10), 10)
        assert [(row["patient_id"], row["place"]) for row in rows] == [
            ("P1", "overdue"),
            ("P2", "overdue"),
            ("P5", "finding"),
            ("P3", "unjudged"),
            ("P4", "below"),
        ]


def test_pages_show_every_study_once_and_in_one_order(database):
    for number in range(30):
        add_one(database, number, number % 7 / 7, received_at=EPOCH + timedelta(seconds=number % 5))
        if number % 4 == 0:
            read(database, f"1.2.1.{number}", at=EPOCH + timedelta(seconds=number % 3))
    at, cap = EPOCH + timedelta(seconds=12), timedelta(seconds=10)
    for shown in (False, True, None):
        wanted = WorklistFilter(read=shown)
        with database.read() as connection:
            whole = find_worklist(connection, wanted, at, cap, 100)
            assert count_worklist(connection, wanted) == len(whole) == {False: 22, True: 8, None: 30}[shown]
            assert count_worklist(connection, wanted, at_most=5) == 5
            for size in (1, 4, 7):
                pages = [find_worklist(connection, wanted, at, cap, size, start) for start in range(0, 35, size)]
                assert [row for page in pages for row in page] == whole


# ---- Filters ----------------------------------------------------------------------------------------------------


def test_studies_are_found_by_the_beginning_of_what_people_know_of_them(database):
    add_one(database, 1, patient_id="Müller%1", accession_number="X_1", study_instance_uid="1.2.3")
    add_one(database, 2, patient_id="Müller%12", accession_number="X-2", study_instance_uid="1.2.34")
    add_one(database, 3, patient_id="Mull", accession_number="x_1", study_instance_uid="")
    for text, found in {
        "Müller%1": [1, 2],
        "Müller%12": [2],
        "M": [1, 2, 3],
        "X": [1, 2],
        "X_": [1],
        "x": [3],
        "1.2.3": [1],
        instance_row(3)["sha256"]: [3],
        "%": [],
        "_": [],
        "üller": [],
        "\0": [],
        "\ud800": [],
        "'; DROP TABLE study; --": [],
    }.items():
        rows = [int(row["instance_id"]) for row in worklist(database, text=text)]
        assert (text, rows) == (text, found)


def test_many_that_match_and_few_are_found_alike(database, monkeypatch):
    for number in range(12):
        add_one(database, number, number / 12)
    few = [patients(database, text="P1"), patients(database, text="P"), patients(database)]
    monkeypatch.setattr("medd.store.studies._MANY", 3)
    assert [patients(database, text="P1"), patients(database, text="P"), patients(database)] == few
    assert sorted(few[0]) == ["P1", "P10", "P11"]


def test_studies_are_filtered_by_status_and_origin(database):
    add_one(database, 1, 0.9)
    add_one(database, 2, origin="file:a.png")
    add_one(database, 3, **LATERAL)
    add_one(database, 4, status=Status.FAILED, reason=Reason.RETRIES_EXHAUSTED)
    assert [patients(database, status=status) for status in Status] == [["P2"], ["P1"], ["P3"], ["P4"]]
    assert patients(database, origin="file:a.png") == ["P2"]
    assert patients(database, status=Status.SCORED, origin="file:a.png") == []


def test_late_image_of_an_old_study_is_received_since_then(database):
    add_one(database, 1, study_instance_uid="1.2.3")
    add_one(database, 2)
    add_one(database, 50, study_instance_uid="1.2.3")
    [row] = worklist(database, since=EPOCH + timedelta(seconds=40))
    assert (row["study"], row["images"], row["received_at"]) == ("1.2.3", 2, EPOCH + timedelta(seconds=1))


# ---- Reading ----------------------------------------------------------------------------------------------------


def test_study_that_was_read_leaves_the_list_until_an_image_comes_late(database):
    add_one(database, 1, 0.9, study_instance_uid="1.2.3")
    assert read(database, "1.2.3", "anna")
    assert not read(database, "1.2.3", "bert"), "who read it first stays"
    assert not read(database, "no such study")
    [row] = worklist(database, read=True)
    assert (row["read_by"], row["read_at"], row["place"]) == ("anna", NOW, "read")
    assert worklist(database) == []
    add_one(database, 90, study_instance_uid="1.2.3")
    [row] = worklist(database)
    assert (row["read_by"], row["read_at"], row["place"]) == (None, None, "finding")
    assert row["waiting_since"] == EPOCH + timedelta(seconds=90), "it waits since the image that nobody has seen"
    assert row["received_at"] == EPOCH + timedelta(seconds=1)


@pytest.mark.parametrize("reason", sorted(UNREPORTED))
def test_our_own_report_sent_back_by_an_archive_makes_nobody_read_a_study_again(database, reason):
    add_one(database, 1, 0.9, study_instance_uid="1.2.3")
    read(database, "1.2.3")
    add_one(database, 2, study_instance_uid="1.2.3", status=Status.NOT_ASSESSED, reason=reason)
    row = row_of(database, "1.2.3")
    assert (row["read_by"], row["images"], row["waiting_since"]) == ("anna", 2, EPOCH + timedelta(seconds=1))


def test_score_that_comes_after_the_reading_wakes_nobody(database):
    id_ = add_one(database, 1)
    read(database, "1.2.1.1")
    record(database, prediction_of(id_, 0.9))
    row = row_of(database, "1.2.1.1")
    assert (row["read_by"], row["status"]) == ("anna", "scored")


def test_study_can_be_put_back(database):
    add_one(database, 1, 0.9)
    read(database, "1.2.1.1")
    with database.write() as connection:
        assert mark_unread(connection, "1.2.1.1")
        assert not mark_unread(connection, "1.2.1.1")
    assert patients(database) == ["P1"]


def say(database: Database, *said: tuple[int, str, str]) -> None:
    with database.write() as connection:
        new = [Annotation(id_, label, reader, NOW) for id_, label, reader in said]
        follow_annotations(connection, [one for one in new if annotations.annotate(connection, one)])


def test_annotated_study_is_read_and_waits_again_when_nothing_stands_any_more(database):
    one, two = (add_one(database, n, study_instance_uid="1.2.3") for n in (1, 2))
    file = add_one(database, 3, study_instance_uid="")
    say(database, (two, "NORMAL", "bert"), (file, "?", "anna"))
    assert row_of(database, "1.2.3")["read_by"] == "bert"
    assert row_of(database, instance_row(3)["sha256"])["read_by"] == "anna"
    say(database, (one, "PNEUMONIA", "anna"))
    say(database, (two, WITHDRAWN, "bert"))
    assert row_of(database, "1.2.3")["read_at"] == NOW, "anna's word stands"
    say(database, (one, WITHDRAWN, "anna"), (file, WITHDRAWN, "anna"))
    assert row_of(database, "1.2.3")["read_at"] is None
    assert len(worklist(database)) == 2


def test_annotations_of_one_call_mark_all_their_studies(database):
    ids = [add_one(database, n) for n in range(1, 6)]
    say(database, *((id_, "NORMAL", "anna") for id_ in reversed(ids)))
    assert worklist(database) == []


# ---- Changes ----------------------------------------------------------------------------------------------------


def test_signature_changes_with_every_change_and_with_nothing_else(database):
    seen = []

    def look(changed: bool = True) -> None:
        with database.read() as connection:
            found = signature(connection)
        assert (found not in seen) == changed
        seen.append(found)

    look()
    ids = [add_one(database, n) for n in range(1, 80)]
    look()
    look(changed=False)
    record(database, prediction_of(ids[0], 0.5))
    look()
    record(database, prediction_of(ids[1], 0.5))
    look()
    say(database, (ids[2], "NORMAL", "anna"))
    look()
    with database.write() as connection:
        mark_unread(connection, "1.2.1.3")
    look()
    worklist(database)
    look(changed=False)


def test_change_that_is_committed_later_than_a_younger_one_is_seen(database):
    for number in (1, 2):
        add_one(database, number)
    with database.read() as connection:
        before = signature(connection)
    with database.write() as connection:
        early = datetime.now(UTC) - timedelta(seconds=5)
        connection.execute(study.update().where(study.c.study == "1.2.1.1").values(changed_at=early))
    with database.read() as connection:
        assert signature(connection) != before


def test_changes_are_seen_after_a_clock_was_put_back(database):
    ids = [add_one(database, n) for n in range(70)]
    with database.write() as connection:
        connection.execute(study.update().values(changed_at=datetime.now(UTC) + timedelta(hours=1)))
    with database.read() as connection:
        before = signature(connection)
    record(database, prediction_of(ids[3], 0.5))
    with database.read() as connection:
        assert signature(connection) != before


# ---- The same rows, whatever happened ---------------------------------------------------------------------------


def recompute(database: Database) -> dict[str, dict]:
    """What the rows of `study` should say, worked out image by image."""
    with database.read() as connection:
        images = connection.execute(sa.select(instance).order_by(instance.c.id)).mappings().all()
        scores = connection.execute(sa.select(prediction).where(prediction.c.current)).mappings()
        by_image = {one["instance_id"]: one for one in scores}
    groups: dict[str, list] = {}
    for image in images:
        groups.setdefault(study_key(image["study_instance_uid"], image["sha256"]), []).append(image)
    expected = {}
    for key, members in groups.items():
        scored = [one for one in members if one["id"] in by_image]
        positive = [one for one in scored if by_image[one["id"]]["positive"]]
        if chosen := positive or scored:
            decides = max(chosen, key=lambda one: (by_image[one["id"]]["probability"], -one["id"]))
        else:
            decides = members[0]
        counts = {str(status): sum(one["status"] == status for one in members) for status in Status}
        standing = next((status for status in ("pending", "failed", "scored") if counts[status]), "not_assessed")
        score = by_image.get(decides["id"], dict.fromkeys(("label", "positive", "probability", "threshold", "model")))
        band = 0 if positive else 2 if standing == "scored" else 1
        reasons = [one["reason"] for one in members if one["status"] == standing]
        expected[key] = counts | {
            "study": key,
            **{name: decides[name] for name in ("study_instance_uid", "patient_id", "accession_number", "origin")},
            "instance_id": decides["id"],
            **{name: score[name] for name in ("label", "positive", "probability", "threshold", "model")},
            "images": len(members),
            "status": standing,
            "band": band,
            "rank": 1.0 if score["probability"] is None else -score["probability"],
            "reason": reasons[0] if standing in ("failed", "not_assessed") else None,
            "received_at": min(one["received_at"] for one in members),
            "last_received_at": max(one["received_at"] for one in members),
        }
    return expected


def kept(database: Database) -> dict[str, dict]:
    """What they say."""
    apart = ("waiting_since", "changed_at", "read_at", "read_by")
    with database.read() as connection:
        rows = connection.execute(sa.select(study)).mappings().all()
    return {row["study"]: {name: row[name] for name in row if name not in apart} for row in rows}


class Hospital:
    """Whatever can happen to images, at random."""

    def __init__(self, database: Database, seed: int, first: int = 0, studies: int = 4) -> None:
        self.database, self.random, self.number, self.studies = database, random.Random(seed), first, studies
        self.inserter = InstanceInserter(database, CLASSIFY)
        self.queue = SqlQueue(database, f"worker-{seed}", max_attempts=2)
        self.rows: list[dict] = []
        self.version = 1

    def arrive(self) -> None:
        rows = []
        for _ in range(self.random.randint(1, 5)):
            self.number += 1
            kind = self.random.random()
            reason = self.random.choice((Reason.LATERAL_VIEW, Reason.NOT_CHEST, Reason.REPORT_OBJECT))
            values = {} if kind < 0.75 else {"status": Status.NOT_ASSESSED, "reason": reason}
            uid = self.random.choice(["", *(f"1.2.{n}" for n in range(self.studies))])
            at = EPOCH + timedelta(seconds=self.number + self.random.randint(-3, 3))
            rows.append(instance_row(self.number, study_instance_uid=uid, received_at=at, **values))
        self.inserter.add(rows)
        self.rows += rows

    def arrive_again(self) -> None:
        """Sent twice, some of it after it failed, and in one commit with what is new."""
        if self.rows:
            again = self.random.sample(self.rows, min(4, len(self.rows)))
            self.number += 1
            new = instance_row(self.number, study_instance_uid=f"1.2.{self.random.randrange(self.studies)}")
            self.inserter.add([*again, new])
            self.rows.append(new)

    def work(self) -> None:
        """As `ClassifyStage` commits."""
        jobs = self.queue.claim(CLASSIFY, self.random.randint(1, 6))
        outcomes = {one: self.random.choice(("scored", "scored", "refused", "failed")) for one in jobs}
        settled = [one for one, outcome in outcomes.items() if outcome != "failed"]
        with self.database.write() as connection:
            ours = self.queue.finish(connection, settled)
            settled = [one for one in settled if one.id in ours]
            model = f"stub/{self.version}"
            scores = [round(self.random.random(), 1) for _ in settled]
            made = [
                prediction_of(one.instance_id, score, model)
                for one, score in zip(settled, scores, strict=True)
                if outcomes[one] == "scored"
            ]
            record_predictions(connection, made)
            for one in settled:
                if outcomes[one] == "refused":
                    set_not_assessed(connection, one.instance_id, Reason.UNFAMILIAR, "", model)
            refresh(connection, [one.instance_id for one in settled])
        for one, outcome in outcomes.items():
            if outcome == "failed":
                self.queue.retry(one, "no memory")
        with self.database.write() as connection:
            connection.execute(job.update().where(job.c.state == "pending").values(available_at=None))

    def die(self) -> None:
        """A worker that dies with its work in hand."""
        self.queue.claim(CLASSIFY, 2)
        self.queue.recover(CLASSIFY, own=True)

    def retry(self) -> None:
        self.queue.revive(CLASSIFY)

    def rescore(self) -> None:
        self.version += 1
        self.queue.rescore(CLASSIFY, f"stub/{self.version}")

    def anything(self) -> None:
        happens = (self.arrive, self.arrive, self.arrive_again, self.work, self.work, self.work, self.die)
        self.random.choice((*happens, self.retry, self.rescore))()


@pytest.fixture
def hospital(database: Database, request: pytest.FixtureRequest) -> Iterator[Hospital]:
    made = Hospital(database, getattr(request, "param", 1))
    yield made
    made.inserter.close()


@pytest.mark.parametrize("hospital", range(5), indirect=True)
def test_rows_say_what_the_images_say_whatever_happened_to_them(hospital):
    statuses, bands = set(), set()
    for _ in range(60):
        hospital.anything()
        rows = kept(hospital.database)
        assert rows == recompute(hospital.database)
        statuses |= {row["status"] for row in rows.values()}
        bands |= {row["band"] for row in rows.values()}
    assert statuses == set(Status)
    assert bands == {0, 1, 2}


def test_all_rows_made_anew_are_the_rows_that_were_kept(hospital):
    for _ in range(30):
        hospital.anything()
    before = kept(hospital.database)
    with hospital.database.write() as connection:
        connection.execute(study.delete())
        refresh(connection, None)
    assert kept(hospital.database) == before


def test_many_at_once_count_every_image_and_wait_for_nobody_in_a_circle(database):
    """Receivers, workers and readers on the same four studies: a worker's look at a study must not lose an image."""

    def live(seed: int) -> None:
        mine = Hospital(database, seed, first=seed * 10_000)
        for _ in range(25):
            mine.random.choice((mine.arrive, mine.arrive, mine.arrive_again, mine.work, mine.work, mine.retry))()
            with database.write() as connection:
                follow = [Annotation(id_, "NORMAL", "anna", NOW) for id_ in annotated(connection, mine)]
                follow_annotations(connection, follow)
        mine.inserter.close()

    def annotated(connection, mine: Hospital) -> list[int]:
        ids = connection.scalars(sa.select(instance.c.id).order_by(instance.c.id.desc()).limit(6)).all()
        return mine.random.sample(ids, len(ids))

    deadlocks = sa.text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(live, range(1, 5))) == [None] * 4
    expected, rows = recompute(database), kept(database)
    assert {key: row["images"] for key, row in rows.items()} == {key: row["images"] for key, row in expected.items()}
    with database.write() as connection:
        refresh(connection, None)
    # Who came first among images that nobody judged may be seen otherwise by two receivers, until the study is scored.
    image = ("instance_id", "patient_id", "accession_number", "origin", "reason", "changed_at")
    judged = {key for key, row in rows.items() if row["probability"] is not None}
    assert judged
    anew = kept(database)
    assert {key: rows[key] for key in judged} == {key: anew[key] for key in judged}
    without = [
        {key: {n: v for n, v in row.items() if n not in image} for key, row in some.items()} for some in (rows, anew)
    ]
    assert without[0] == without[1]
    if not database.is_sqlite:
        with database.write() as connection:
            connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))
        with database.read() as connection:
            assert connection.scalar(deadlocks) == 0


def test_worker_that_looked_before_an_image_came_does_not_lose_it(database):
    if database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    id_ = add_one(database, 1, study_instance_uid="1.2.3")
    with ThreadPoolExecutor(1) as other, database.write() as connection:
        record_predictions(connection, [prediction_of(id_, 0.9)])
        connection.execute(sa.select(instance.c.id)).all()
        other.submit(add_one, database, 2, study_instance_uid="1.2.3").result(30)
        refresh(connection, [id_])
    row = row_of(database, "1.2.3")
    assert (row["images"], row["pending"], row["scored"], row["probability"]) == (2, 1, 1, 0.9)


def test_image_that_comes_while_a_worker_holds_its_study_waits_and_is_counted(database):
    if database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    id_ = add_one(database, 1, study_instance_uid="1.2.3")
    with ThreadPoolExecutor(1) as other:
        with database.write() as connection:
            record_predictions(connection, [prediction_of(id_, 0.9)])
            refresh(connection, [id_])
            late = other.submit(add_one, database, 2, study_instance_uid="1.2.3")
        late.result(30)
    row = row_of(database, "1.2.3")
    assert (row["images"], row["pending"], row["scored"]) == (2, 1, 1)


# ---- Plans ------------------------------------------------------------------------------------------------------


def test_list_is_read_in_the_order_of_indices(database, monkeypatch):
    """However many studies there are, SQLite sorts only those few that are not overdue."""
    if not database.is_sqlite:
        pytest.skip("the other one plans by statistics")
    asked = []

    def listen(connection, cursor, statement, parameters, context, many):
        if "ORDER BY" in statement:
            asked.append((statement, parameters))

    for number in (1, 2, 3):
        add_one(database, number, 0.9)
    sa.event.listen(database.engine, "before_cursor_execute", listen)
    with database.read() as connection:
        find_worklist(connection, WorklistFilter(), NOW, None, 10)
        cap = NOW - EPOCH
        find_worklist(connection, WorklistFilter(), NOW, cap, 10)
        monkeypatch.setattr("medd.store.studies._MANY", 2)
        find_worklist(connection, WorklistFilter(), NOW, cap, 10)
    sa.event.remove(database.engine, "before_cursor_execute", listen)
    used = []
    with database.read() as connection:
        for statement, parameters in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            steps = [row.detail for row in plan]
            used.append((steps[0].split("INDEX ")[1].split(" (")[0], any("TEMP B-TREE" in step for step in steps)))
    overdue = ("ix_study_waiting", False)
    assert used == [
        ("ix_study_unread", False),
        overdue,
        ("ix_study_waiting", True),
        overdue,
        ("ix_study_unread", False),
    ]


def test_rows_are_made_anew_without_a_look_at_all_files(database):
    if not database.is_sqlite:
        pytest.skip("the other one plans by statistics")
    ids = [add_one(database, number, study_instance_uid=uid) for number, uid in ((1, ""), (2, ""), (3, "1.2.3"))]
    asked = []

    def listen(connection, cursor, statement, parameters, context, many):
        asked.append((statement, parameters))

    sa.event.listen(database.engine, "before_cursor_execute", listen)
    with database.write() as connection:
        refresh(connection, ids)
    sa.event.remove(database.engine, "before_cursor_execute", listen)
    [(statement, parameters)] = [one for one in asked if "WITH image" in one[0]]
    with database.read() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        looked = [row.detail for row in plan if "SEARCH instance" in row.detail or "SCAN i" in row.detail]
    assert looked == [
        "SEARCH instance USING COVERING INDEX ix_instance_study_instance_uid (study_instance_uid=?)",
        "SEARCH instance USING INDEX sqlite_autoindex_instance_1 (sha256=?)",
    ]
