"""Every step of a case, on SQLite and on PostgreSQL."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from medd.errors import SettingsError
from medd.queue.base import CLASSIFY
from medd.queue.sql import SqlQueue
from medd.records import UNSURE, WITHDRAWN, Annotation, AuditOutcome, Reason, Status
from medd.store.annotations import annotate
from medd.store.audit import Event, add_event
from medd.store.commitments import Commitments
from medd.store.database import Database
from medd.store.inserts import InstanceInserter
from medd.store.outbox import Deliveries, Outbox
from medd.store.reports import make_report, record_sent
from medd.store.repository import record_predictions, record_shadow, set_not_assessed
from medd.store.spool import Spool
from medd.store.studies import mark_read
from medd.store.tables import commitment, instance, pulled, sent
from medd.store.trail import Step, What, find_case, find_steps
from tests.rows import EPOCH, instance_row, prediction_of
from tests.studies import heat

LATE = EPOCH + timedelta(days=1)


class Taken:
    """An object that a destination took."""

    def __init__(self, uid: str) -> None:
        self.object, self.sop_class_uid, self.answer = uid, "1.2.840.10008.5.1.4.1.1.88.34", "0x0000"


class Site:
    """Images come in, are worked on, and their results are delivered to "main"."""

    def __init__(self, database: Database, folder) -> None:
        self.database, self.spool = database, Spool(folder)
        self.outbox = Outbox(("main",), quiet_s=0)
        self.queue = SqlQueue(database, "worker", 60, 3, "", self.outbox)

    def receive(self, number: int, **values) -> int:
        inserter = InstanceInserter(self.database, CLASSIFY, outbox=self.outbox)
        row = instance_row(number, **values)
        added = inserter.add([row])[row["sha256"]].id
        inserter.close()
        return added

    def score(self, id_: int, probability: float = 0.75, **values) -> None:
        jobs = self.queue.claim(CLASSIFY, 10)
        with self.database.write() as connection:
            self.queue.finish(connection, jobs)
            record_predictions(connection, [prediction_of(id_, probability, **values)])
            self.outbox.open(connection, [id_])

    def deliver(self, *uids: str) -> None:
        deliveries = Deliveries(self.database, "deliverer")
        [claimed] = deliveries.claim("main", 1)
        with self.database.write() as connection:
            made = make_report(connection, claimed.study, self.spool)
            record_sent(connection, claimed.study, made.number, "main", [Taken(uid) for uid in uids])
            deliveries.finish(connection, claimed)

    def say(self, id_: int, label: str, reader: str = "anna", hours: int = 0, comment: str = "") -> None:
        at = LATE + timedelta(hours=hours)
        with self.database.write() as connection:
            assert annotate(connection, Annotation(id_, label, reader, at, comment))

    def steps(self, key: object) -> list[Step]:
        with self.database.read() as connection:
            return find_steps(connection, find_case(connection, str(key)))

    def told(self, key: object) -> list[tuple[str, str]]:
        return [(str(step.what), step.told) for step in self.steps(key)]


@pytest.fixture
def site(database: Database, tmp_path) -> Site:
    return Site(database, tmp_path)


def test_a_case_is_told_from_the_modality_to_the_answer_of_the_archive(site):
    id_ = site.receive(1)
    site.score(id_, flags=("age_outside_training",), input_mean=0.5, input_std=0.25, attachments=(heat(),))
    site.deliver("1.9.1", "1.9.2")
    steps = site.steps("1.2.1.1")
    assert [str(step.what) for step in steps] == [
        *("received", "admitted", "preprocessed", "scored", "report", "delivered", "delivered"),
    ]
    received, admitted, preprocessed, scored, report, first, _ = steps
    assert received.told == "received from CR1@10.0.0.1 over DICOM"
    assert (received.at, received.facts["station_name"], received.facts["sha256"]) == (
        *(EPOCH + timedelta(seconds=1), "ROOM1"),
        instance_row(1)["sha256"],
    )
    assert admitted.at == received.at
    assert (
        preprocessed.told == "decoded and preprocessed by spec 0123456789abcdef; mean 0.500, standard deviation 0.250"
    )
    assert scored.told == "stub/1: PNEUMONIA p = 0.750, at or above threshold 0.500; age outside training"
    assert scored.at == prediction_of(1).scored_at
    assert scored.facts["probabilities"] == {"NORMAL": 0.25, "PNEUMONIA": 0.75}
    assert (scored.facts["flags"], scored.facts["attachments"]) == (["age_outside_training"], ["heat"])
    assert (report.facts["number"], report.instance_id) == (1, None)
    assert first.told == "main took 1.9.1 of report 1 and answered 0x0000"
    assert first.at > report.at
    assert {step.instance_id for step in steps} == {id_, None}


@pytest.mark.parametrize("key", ["1.2.1.1", "1.2.3.1", instance_row(1)["sha256"], "1"])
def test_a_case_is_named_by_study_image_bytes_or_id(site, key):
    site.receive(1)
    assert [step.what for step in site.steps(key)] == [What.RECEIVED, What.ADMITTED, What.WAITING]


@pytest.mark.parametrize("key", ["9.9.9", "77", "", "a\0b", "\udcff", "f" * 64])
def test_a_case_that_is_not_there_is_said_so(site, key):
    with pytest.raises(SettingsError, match="no study or instance"):
        site.steps(key)


def test_an_image_is_told_alone_and_a_study_with_all_its_images(site):
    first = site.receive(1)
    second = site.receive(2, study_instance_uid="1.2.1.1")
    assert {step.instance_id for step in site.steps(second)} == {second}
    assert {step.instance_id for step in site.steps("1.2.1.1")} == {first, second}


def test_an_image_file_is_a_case_of_its_own(site):
    none = dict.fromkeys(("sop_instance_uid", "study_instance_uid", "series_instance_uid", "patient_id"), "")
    for number in (1, 2):
        site.receive(number, origin=f"file:ward/{number}.png", media_type="image/png", **none)
    [received, *_] = site.steps(instance_row(2)["sha256"])
    assert received.told == "received from the file ward/2.png"
    assert len({step.instance_id for step in site.steps(instance_row(2)["sha256"])}) == 1


def test_below_the_threshold_is_said_to_be_below_and_never_normal(site):
    site.score(site.receive(1), 0.2)
    assert ("scored", "stub/1: PNEUMONIA p = 0.200, BELOW threshold 0.500") in site.told(1)


def test_what_is_refused_at_the_door_is_told_with_its_reason_and_time(site):
    refused = {"status": Status.NOT_ASSESSED, "reason": Reason.LATERAL_VIEW, "detail": "view position LL"}
    id_ = site.receive(1, **refused)
    site.say(id_, "NORMAL")
    assert site.told(1)[:3] == [
        ("received", "received from CR1@10.0.0.1 over DICOM"),
        ("not_assessed", "not assessed: lateral_view: view position LL"),
        ("annotated", "anna says NORMAL"),
    ]
    assert site.steps(1)[1].at == EPOCH + timedelta(seconds=1)


def test_what_a_model_refuses_names_the_model_and_stands_after_what_it_follows_from(site):
    id_ = site.receive(1)
    site.score(id_)
    with site.database.write() as connection:
        set_not_assessed(connection, id_, Reason.UNFAMILIAR, "novelty 2", "stub/2")
    told = site.told(1)
    assert told[3:5] == [
        ("scored", "stub/1: PNEUMONIA p = 0.750, at or above threshold 0.500 (no longer shown)"),
        ("not_assessed", "not assessed by stub/2: unfamiliar: novelty 2"),
    ]
    assert site.steps(1)[4].at is None


def test_what_waits_and_what_was_given_up_say_why(site):
    site.receive(1)
    for tries in range(3):
        [job] = site.queue.claim(CLASSIFY, 1)
        if tries == 0:
            assert site.told(1)[-1] == ("waiting", "is being scored")
        site.queue.retry(job, "the disk is away")
        with site.database.write() as connection:
            connection.execute(sa.text("UPDATE job SET available_at = NULL"))
        if tries == 0:
            assert site.told(1)[-1] == ("waiting", "waits to be scored; tried 1 times: the disk is away")
    assert site.told(1)[2] == ("failed", "given up after 3 tries: the disk is away")


def test_the_shadow_is_told_apart_from_what_was_shown(site):
    id_ = site.receive(1)
    site.score(id_, 0.2)
    with site.database.write() as connection:
        record_shadow(connection, [prediction_of(id_, 0.9, model="stub/2", preprocess_digest="f" * 16)])
    told = site.told(1)
    assert ("scored", "stub/1: PNEUMONIA p = 0.200, BELOW threshold 0.500") in told
    shadow = "in the shadow, shown to nobody: stub/2: PNEUMONIA p = 0.900, at or above threshold 0.500"
    assert ("shadow", shadow) in told
    assert len([step for step in told if step[0] == "preprocessed"]) == 2


def test_what_readers_said_took_back_and_could_not_tell_is_all_there(site):
    id_ = site.receive(1)
    site.say(id_, "NORMAL", comment="clear")
    site.say(id_, UNSURE, "ben", hours=1)
    site.say(id_, WITHDRAWN, hours=2)
    said = [(step.told, step.at) for step in site.steps(1) if step.what is What.ANNOTATED]
    assert said == [
        ("anna says NORMAL: clear", LATE),
        ("ben cannot tell", LATE + timedelta(hours=1)),
        ("anna takes back what was said", LATE + timedelta(hours=2)),
    ]


def test_a_delivery_that_waits_fails_or_is_given_up_is_told_last(site):
    site.score(site.receive(1))
    assert site.told(1)[-1] == ("delivery", "to be sent to main")
    deliveries = Deliveries(site.database, "deliverer")
    [claimed] = deliveries.claim("main", 1)
    assert site.told(1)[-1] == ("delivery", "is being sent to main")
    deliveries.retry(claimed, "main cannot be reached", 0)
    assert site.told(1)[-1] == ("delivery", "to be sent to main; tried 1 times: main cannot be reached")
    [claimed] = deliveries.claim("main", 1)
    deliveries.bury(claimed, "main refuses")
    assert site.told(1)[-1] == ("delivery", "given up: not sent to main; tried 2 times: main refuses")


def test_storage_commitment_of_both_directions_is_told(site):
    site.score(site.receive(1))
    site.deliver("1.9.1", "1.9.2")
    with site.database.write() as connection:
        for uid, kept in (("1.9.1", True), ("1.9.2", False)):
            connection.execute(sent.update().where(sent.c.object == uid).values(committed=kept))
    commitments = Commitments(site.database)
    commitments.offer("1.5.1", "CR1", [("1.2.840.10008.5.1.4.1.1.1", "1.2.3.1")])
    commitments.offer("1.5.2", "CR1", [("1.2.840.10008.5.1.4.1.1.1", "1.2.3.99")])
    with site.database.write() as connection:
        commitments.plan(connection, "main", [("1.2.3", "1.9.1"), ("1.2.3", "1.9.2")])
        connection.execute(commitment.update().values(created_at=LATE))
    told = site.told(1)
    assert ("delivered", "main took 1.9.1 of report 1 and answered 0x0000; it keeps it (storage commitment)") in told
    assert any("does NOT keep it" in step for _, step in told)
    assert [step for what, step in told if what == "commitment"] == [
        "CR1 asked us to keep 1 images; not answered yet",
        "main was asked to keep 2 objects; not answered yet",
    ]


def test_storage_commitment_about_one_of_many_images_is_found(site):
    for number in range(40):
        site.receive(number, study_instance_uid="1.2.1.1", received_at=EPOCH)
    commitments = Commitments(site.database)
    commitments.offer("1.5.1", "CR1", [("1.2.840.10008.5.1.4.1.1.1", "1.2.3.39")])
    commitments.offer("1.5.2", "CR1", [("1.2.840.10008.5.1.4.1.1.1", "1.2.3.40")])
    with site.database.write() as connection:
        connection.execute(commitment.update().values(created_at=LATE))
    asked = [step.facts["transaction_uid"] for step in site.steps("1.2.1.1") if step.what is What.COMMITMENT]
    assert asked == ["1.5.1"]


def test_an_uploaded_image_is_told_as_such(site):
    site.receive(1, origin="upload://anna@10.0.0.9/chest.png")
    assert ("received", "received from anna@10.0.0.9/chest.png, uploaded") in site.told(1)


def test_who_has_read_and_seen_a_case_is_told(site):
    id_ = site.receive(1)
    with site.database.write() as connection:
        mark_read(connection, "1.2.1.1", "anna", LATE)
        for action, outcome in (("case_seen", "success"), ("annotated", "success"), ("exported", "failed")):
            event = Event("ben", action, AuditOutcome(outcome), "10.0.0.9", "1.2.1.1", str(id_))
            add_event(connection, event)
        add_event(connection, Event("ben", "case_seen", study="1.2.1.2"))
    told = site.told("1.2.1.1")
    assert ("read", "read by anna") in told
    accessed = [words for what, words in told if what == "accessed"]
    assert accessed == ["ben from 10.0.0.9: case seen", "ben from 10.0.0.9: exported (failed)"]


def test_what_was_fetched_from_an_archive_is_told_first(site):
    site.receive(1)
    row = {"source": "archive", "study_instance_uid": "1.2.1.1", "modalities": "CR", "images": 1, "failed": 2}
    with site.database.write() as connection:
        before = EPOCH - timedelta(minutes=1)
        connection.execute(pulled.insert().values(**row, at=before, listed=3, complete=False, error="one is missing"))
    first = site.steps(1)[0]
    assert (first.what, first.told) == (What.FETCHED, "fetched from archive: 1 images, 2 failed")
    assert first.facts["error"] == "one is missing"


def test_no_step_is_lost_where_two_images_share_a_uid(site):
    site.receive(1)
    site.receive(2, sop_instance_uid="1.2.3.1", study_instance_uid="1.2.1.1")
    assert len({step.instance_id for step in site.steps("1.2.3.1")}) == 2
    with site.database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(instance)) == 2
