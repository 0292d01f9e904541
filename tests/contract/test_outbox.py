"""The outbox and the reports that are made of it, on SQLite and on PostgreSQL."""

import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from medd.deliver.destination import Sent
from medd.errors import InputError
from medd.queue.base import CLASSIFY
from medd.queue.sql import SqlQueue
from medd.records import Delivery, DeliveryState, Reason, Status, StudyReport
from medd.store.database import Database
from medd.store.inserts import InstanceInserter
from medd.store.outbox import Deliveries, Outbox, count_deliveries, list_dead_deliveries
from medd.store.reports import acknowledged, make_report, record_sent
from medd.store.repository import record_predictions, set_not_assessed
from medd.store.tables import UtcDateTime, delivery, instance, job
from tests.rows import instance_row, prediction_of

STUDY = "1.2.1.1"


class Paths:
    """A spool that is never looked into."""

    def path(self, sha256: str, media_type: str) -> Path:
        return Path("spool") / sha256


class Ward:
    """A worker and a deliverer on one database."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self.database, self.outbox = database, outbox
        self.deliveries = Deliveries(database, "ward:deliver", lease_s=30)

    def receive(self, number: int, **values: object) -> int:
        inserter = InstanceInserter(self.database, CLASSIFY, outbox=self.outbox)
        row = instance_row(number, **values)
        added = inserter.add([row])[row["sha256"]]
        inserter.close()
        return added.id

    def score(self, *ids: int, **values: object) -> None:
        with self.database.write() as connection:
            record_predictions(connection, [prediction_of(id_, **values) for id_ in ids])
            self.outbox.open(connection, ids)

    def refuse(self, id_: int, reason: Reason) -> None:
        with self.database.write() as connection:
            set_not_assessed(connection, id_, reason, "why")
            self.outbox.open(connection, [id_])

    def claim(self, *names: str, limit: int = 10) -> list[Delivery]:
        return [one for name in names or self.outbox.destinations for one in self.deliveries.claim(name, limit)]

    def finish(self, claimed: Delivery) -> bool:
        with self.database.write() as connection:
            return self.deliveries.finish(connection, claimed)

    def report(self, study: str = STUDY) -> StudyReport | None:
        with self.database.write() as connection:
            return make_report(connection, study, Paths())

    def states(self) -> dict[tuple[str, str], tuple[str, int]]:
        d = delivery.c
        with self.database.read() as connection:
            rows = connection.execute(sa.select(d.study, d.destination, d.state, d.revision))
            return {(row.study, row.destination): (row.state, row.revision) for row in rows}


@pytest.fixture
def ward(database: Database) -> Ward:
    return Ward(database, Outbox(("pacs", "folder"), quiet_s=0, max_wait_s=60))


def patient(ward: Ward, database: Database, quiet_s: float, max_wait_s: float = 60) -> Ward:
    return Ward(database, Outbox(ward.outbox.destinations, quiet_s, max_wait_s))


def test_a_result_opens_its_study_once_for_each_destination(ward):
    ids = [ward.receive(number, study_instance_uid=STUDY) for number in (1, 2)]
    assert ward.states() == {}, "received is not scored"
    ward.score(*ids)
    assert ward.states() == {(STUDY, "pacs"): ("pending", 1), (STUDY, "folder"): ("pending", 1)}


def test_what_is_rolled_back_opens_nothing(ward):
    id_ = ward.receive(1)
    with suppress(RuntimeError), ward.database.write() as connection:
        ward.outbox.open(connection, [id_])
        raise RuntimeError
    assert ward.states() == {}


def test_without_a_destination_nothing_is_opened(database):
    ward = Ward(database, Outbox())
    ward.score(ward.receive(1))
    assert ward.states() == {}


def test_an_image_without_a_study_is_a_study_of_its_own(ward):
    first, second = (ward.receive(number, study_instance_uid="", sop_instance_uid="") for number in (1, 2))
    ward.score(first, second)
    keys = {study for study, _ in ward.states()}
    assert keys == {instance_row(1)["sha256"], instance_row(2)["sha256"]}
    made = ward.report(instance_row(1)["sha256"])
    assert made is not None
    assert [image.instance_id for image in made.images] == [first]
    assert made.study_instance_uid == ""


@pytest.mark.parametrize(
    ("reason", "opened"),
    [
        (Reason.LATERAL_VIEW, True),
        (Reason.NOT_CHEST, True),
        (Reason.REPORT_OBJECT, False),
        (Reason.DERIVED_IMAGE, False),
        (Reason.NOT_A_RADIOGRAPH, False),
        (Reason.NOT_AN_IMAGE, False),
    ],
)
def test_a_radiograph_that_is_refused_at_the_door_is_told_of_and_no_other_object(ward, reason, opened):
    ward.receive(1, status=Status.NOT_ASSESSED, reason=reason)
    assert (ward.states() != {}) is opened
    made = ward.report()
    assert (made is not None) is opened
    if made is not None:
        assert [(image.status, image.reason, image.prediction) for image in made.images] == [
            (Status.NOT_ASSESSED, reason, None)
        ]


def test_a_job_that_is_given_up_is_told_of(ward):
    id_ = ward.receive(1)
    queue = SqlQueue(ward.database, "worker", max_attempts=1, outbox=ward.outbox)
    [job] = queue.claim(CLASSIFY, 1)
    queue.retry(job, "no luck")
    assert (STUDY, "pacs") in ward.states()
    made = ward.report()
    assert made is not None
    assert [(image.instance_id, image.status) for image in made.images] == [(id_, Status.FAILED)]


def test_a_study_is_claimed_when_it_has_been_quiet(ward, database):
    ward = patient(ward, database, 0.4)
    ward.score(ward.receive(1))
    assert ward.claim() == []
    time.sleep(0.6)
    assert {one.destination for one in ward.claim()} == {"pacs", "folder"}


def test_each_image_keeps_a_study_waiting_but_not_beyond_the_limit(ward, database):
    ward = patient(ward, database, quiet_s=20, max_wait_s=3)
    ward.score(ward.receive(1, study_instance_uid=STUDY))
    time.sleep(0.4)
    ward.score(ward.receive(2, study_instance_uid=STUDY))
    assert ward.claim() == [], "not due yet"
    time.sleep(3)
    assert [one.revision for one in ward.claim()] == [1, 1], "due 3 s after the first, whatever came since"


def test_only_what_is_asked_for_is_claimed_and_the_longest_waiting_first(ward):
    ids = [ward.receive(number) for number in range(1, 5)]
    for id_ in ids:
        ward.score(id_)
    first = ward.claim("pacs", limit=2)
    assert [one.study for one in first] == ["1.2.1.1", "1.2.1.2"]
    assert [one.study for one in ward.claim("pacs")] == ["1.2.1.3", "1.2.1.4"]
    assert ward.claim("pacs") == []
    assert len(ward.claim("folder")) == 4


def test_several_deliverers_never_claim_the_same(ward):
    for number in range(1, 41):
        ward.score(ward.receive(number))
    found: list[int] = []
    guard = threading.Lock()

    def deliver(number: int) -> None:
        deliveries = Deliveries(ward.database, f"host:{number}")
        while claimed := deliveries.claim("pacs", 3):
            with guard:
                found.extend(one.id for one in claimed)

    threads = [threading.Thread(target=deliver, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(set(found)) == 40


def test_a_late_image_opens_a_finished_study_again(ward):
    ward.score(ward.receive(1, study_instance_uid=STUDY))
    [claimed] = ward.claim("pacs")
    assert ward.finish(claimed)
    assert ward.states()[STUDY, "pacs"] == ("done", 1)
    ward.score(ward.receive(2, study_instance_uid=STUDY))
    assert ward.states()[STUDY, "pacs"] == ("pending", 2)
    assert ward.states()[STUDY, "folder"] == ("pending", 1), "nobody has tried that one yet"


def test_an_image_that_comes_while_its_study_is_sent_sends_it_once_more(ward):
    ward.score(ward.receive(1, study_instance_uid=STUDY))
    [claimed] = ward.claim("pacs")
    ward.score(ward.receive(2, study_instance_uid=STUDY))
    assert ward.states()[STUDY, "pacs"] == ("running", 2)
    assert ward.claim("pacs") == [], "nobody else may send it meanwhile"
    assert ward.finish(claimed)
    assert ward.states()[STUDY, "pacs"] == ("pending", 2)
    [again] = ward.claim("pacs")
    assert again.attempts == 1
    assert ward.finish(again)
    assert ward.states()[STUDY, "pacs"] == ("done", 2)


def test_a_claim_of_a_deliverer_that_died_comes_back(ward):
    ward.score(ward.receive(1))
    silent = Deliveries(ward.database, "host:1", lease_s=0.3)
    [lost] = silent.claim("pacs", 1)
    assert ward.deliveries.recover() == 0
    silent.extend([lost])
    time.sleep(0.5)
    assert ward.deliveries.recover() == 1
    [again] = ward.claim("pacs")
    assert again.attempts == 2
    assert not ward.finish(lost), "a stale claim changes nothing"
    assert ward.states()[STUDY, "pacs"][0] == "running"
    assert ward.finish(again)


def test_a_deliverer_that_starts_again_takes_its_own_claims_back_at_once(ward):
    ward.score(ward.receive(1))
    ward.claim("pacs")
    assert Deliveries(ward.database, "other").recover(own=True) == 0
    assert Deliveries(ward.database, "ward:deliver").recover(own=True) == 1


def test_a_failure_that_may_pass_waits_and_tells_for_how_long_it_has_failed(ward):
    ward.score(ward.receive(1))
    [claimed] = ward.claim("pacs")
    assert ward.deliveries.failing_s(claimed) == 0
    ward.deliveries.retry(claimed, "away", 0.3)
    assert ward.claim("pacs") == []
    time.sleep(0.5)
    [again] = ward.claim("pacs")
    assert again.attempts == 2
    assert 0.4 < ward.deliveries.failing_s(again) < 30
    assert ward.finish(again)
    with ward.database.read() as connection:
        assert connection.execute(sa.select(delivery.c.error, delivery.c.failing_since)).first() == (None, None)


def test_a_delivery_that_only_waited_was_not_tried(ward):
    ward.score(ward.receive(1))
    [claimed] = ward.claim("pacs")
    assert 55 < ward.deliveries.due_in_s(claimed) <= 60
    ward.deliveries.wait(claimed, 0)
    assert [one.attempts for one in ward.claim("pacs")] == [1]


def test_what_is_dead_says_why_and_comes_back_when_it_is_told_to(ward):
    for number in (1, 2):
        ward.score(ward.receive(number))
    for claimed in ward.claim("pacs"):
        ward.deliveries.bury(claimed, "SOP class refused")
    with ward.database.read() as connection:
        assert count_deliveries(connection)[DeliveryState.DEAD] == 2
        newest, oldest = list_dead_deliveries(connection, 10)
    assert (newest["study"], newest["error"]) == ("1.2.1.2", "SOP class refused")
    assert ward.claim("pacs") == []
    assert ward.deliveries.revive([oldest["id"]]) == 1
    assert [one.study for one in ward.claim("pacs")] == [STUDY]
    assert ward.deliveries.revive() == 1


def test_a_late_image_brings_a_dead_delivery_back(ward):
    ward.score(ward.receive(1, study_instance_uid=STUDY))
    [claimed] = ward.claim("pacs")
    ward.deliveries.bury(claimed, "refused")
    ward.score(ward.receive(2, study_instance_uid=STUDY))
    assert ward.states()[STUDY, "pacs"] == ("pending", 2)


def test_an_image_that_comes_while_its_study_is_refused_is_tried(ward):
    ward.score(ward.receive(1, study_instance_uid=STUDY))
    [claimed] = ward.claim("pacs")
    ward.score(ward.receive(2, study_instance_uid=STUDY))
    assert not ward.deliveries.bury(claimed, "refused")
    assert ward.states()[STUDY, "pacs"] == ("pending", 2)
    [again] = ward.claim("pacs")
    assert (again.attempts, ward.deliveries.failing_s(again)) == (1, 0)
    assert not ward.deliveries.bury(claimed, "refused"), "it is not this claim's any more"
    assert ward.deliveries.bury(again, "refused")
    assert ward.states()[STUDY, "pacs"] == ("dead", 2)


def test_what_ends_its_deliverer_each_time_goes_behind_the_others_and_is_dead_in_the_end(ward):
    for number in (1, 2):
        ward.score(ward.receive(number))
    lives = [ward.claim("pacs", limit=1)[0]]
    for _ in range(3):
        assert ward.deliveries.recover(own=True) == 1
        lives += ward.claim("pacs", limit=1)
    assert [one.study for one in lives] == [STUDY, "1.2.1.2", STUDY, "1.2.1.2"]
    assert ward.claim("pacs") == [], "both wait"
    with ward.database.write() as connection:
        d = delivery.c
        connection.execute(delivery.update().where(d.study == STUDY).values(available_at=datetime.now(UTC)))
    [last] = ward.claim("pacs", limit=1)
    assert last.attempts == 3
    assert ward.deliveries.recover(own=True, give_up_after_s=0) == 0
    assert ward.states()[STUDY, "pacs"][0] == "dead"


@pytest.mark.parametrize("own", [True, False], ids=["at a start", "in the middle of work"])
def test_a_clock_that_was_put_back_holds_no_delivery_up(ward, own):
    ward.score(ward.receive(1))
    with ward.database.write() as connection:
        ahead = datetime.now(UTC) + timedelta(days=300)
        connection.execute(delivery.update().values(available_at=ahead))
    assert ward.claim() == []
    ward.deliveries.recover(own=own)
    assert len(ward.claim()) == 2


def test_a_claim_that_is_not_held_any_more_is_not_extended_with_its_neighbours(ward):
    ward.score(ward.receive(1), ward.receive(2))
    deliveries = Deliveries(ward.database, "host:1", lease_s=0.5)
    first, second = deliveries.claim("pacs", 2)
    for _ in range(3):
        time.sleep(0.3)
        deliveries.extend([first])
    assert deliveries.recover() == 1
    assert [one.id for one in ward.claim("pacs")] == [second.id]


def test_a_deliverer_leaves_what_lies_in_another_spool_to_others(ward):
    ward.outbox = Outbox(("pacs",), 0, 60, "attic")
    ward.score(ward.receive(1))
    assert ward.claim("pacs") == []
    assert len(Deliveries(ward.database, "other", spool="attic").claim("pacs", 10)) == 1


def test_what_is_for_a_destination_that_is_gone_waits_and_costs_nothing(ward):
    gone = Outbox(("gone",), 0, 60)
    with ward.database.write() as connection:
        statement = sa.text(gone.statement(":{}")).bindparams(
            *(sa.bindparam(name, type_=UtcDateTime) for name in ("available_at", "due_by"))
        )
        connection.execute(statement, gone.rows([f"1.2.9.{number}" for number in range(3000)]))
    ward.score(ward.receive(1))
    assert len(ward.claim()) == 2
    if ward.database.is_sqlite:
        with ward.database.read() as connection:
            plan = connection.execute(
                sa.text(
                    "EXPLAIN QUERY PLAN SELECT id FROM delivery WHERE state = 'pending' AND destination = 'pacs'"
                    " AND spool = '' AND available_at <= '2027' ORDER BY available_at, id LIMIT 4"
                )
            ).all()
        assert "SEARCH delivery USING INDEX ix_delivery_pending" in str(plan)
    assert count_of(ward, "gone") == 3000


def test_history_whose_rescoring_dies_opens_nothing(ward):
    id_ = ward.receive(1)
    queue = SqlQueue(ward.database, "worker", max_attempts=1, outbox=ward.outbox)
    [job] = queue.claim(CLASSIFY, 1)
    with ward.database.write() as connection:
        queue.finish(connection, [job])
        record_predictions(connection, [prediction_of(id_)])
    assert queue.rescore(CLASSIFY, "stub/2") == 1
    [again] = queue.claim(CLASSIFY, 1)
    queue.retry(again, "no luck")
    assert ward.states() == {}


def count_of(ward: Ward, destination: str) -> int:
    return sum(1 for _, to in ward.states() if to == destination)


# Reports --------------------------------------------------------------------------------------------------------------


def test_the_same_results_make_the_same_report(ward):
    ids = [ward.receive(number, study_instance_uid=STUDY, patient_id="P") for number in (1, 2)]
    ward.score(*ids)
    first, second = ward.report(), ward.report()
    assert first == second
    assert first is not None
    assert (first.number, first.predecessor, first.patient_id) == (1, "", "P")
    assert first.sop_instance_uid.startswith("2.25.")
    assert len(first.sop_instance_uid) <= 64
    assert [image.prediction.probability for image in first.images if image.prediction] == [0.75, 0.75]


def test_an_image_whose_bytes_lie_in_another_spool_has_none_here(ward):
    ids = [ward.receive(number, study_instance_uid=STUDY, patient_id="P") for number in (1, 2)]
    ward.score(*ids)
    with ward.database.write() as connection:
        connection.execute(job.update().where(job.c.instance_id == ids[0]).values(spool="attic"))
        made = [make_report(connection, STUDY, Paths(), here) for here in (None, "", "attic")]
    told = [{image.instance_id: image.has_bytes for image in one.images} for one in made if one is not None]
    assert told == [{ids[0]: True, ids[1]: True}, {ids[0]: False, ids[1]: True}, {ids[0]: True, ids[1]: False}]
    assert {one.number for one in made if one is not None} == {1}, "they say the same"


def test_whatever_changes_makes_a_new_report_that_names_the_one_before(ward):
    first_id = ward.receive(1, study_instance_uid=STUDY, patient_id="P")
    ward.score(first_id)
    first = ward.report()
    second_id = ward.receive(2, study_instance_uid=STUDY, patient_id="P")
    second = ward.report()
    ward.score(second_id, probability=0.25)
    third = ward.report()
    ward.score(first_id, model="stub/2")
    fourth = ward.report()
    made = [one for one in (first, second, third, fourth) if one is not None]
    assert [one.number for one in made] == [1, 2, 3, 4]
    assert [one.predecessor for one in made] == ["", *(one.sop_instance_uid for one in made[:-1])]
    assert len({one.sop_instance_uid for one in made}) == 4


def test_a_result_that_was_there_before_comes_back_as_a_report_of_its_own(ward):
    id_ = ward.receive(1)
    ward.score(id_)
    first = ward.report()
    ward.refuse(id_, Reason.UNFAMILIAR)
    second = ward.report()
    ward.score(id_)
    third = ward.report()
    assert first is not None
    assert second is not None
    assert third is not None
    assert third.predecessor == second.sop_instance_uid
    assert third.sop_instance_uid != first.sop_instance_uid


def test_images_of_different_patients_in_one_study_make_no_report(ward):
    ward.score(ward.receive(1, study_instance_uid=STUDY), ward.receive(2, study_instance_uid=STUDY))
    with pytest.raises(InputError, match="different patients") as refusal:
        ward.report()
    assert "P1" not in str(refusal.value)


def test_two_deliverers_make_one_report_of_the_same_study(ward):
    ward.score(*(ward.receive(number, study_instance_uid=STUDY, patient_id="P") for number in range(1, 6)))
    made: list[StudyReport | None] = []
    threads = [threading.Thread(target=lambda: made.append(ward.report())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert all(one == made[0] for one in made)


def test_a_study_uid_that_looks_like_a_digest_is_found_all_the_same(ward):
    odd = "1" * 64
    ward.score(ward.receive(1, study_instance_uid=odd))
    made = ward.report(odd)
    assert made is not None
    assert made.study_instance_uid == odd


def test_a_study_that_nobody_knows_makes_no_report(ward):
    assert ward.report("1.2.3.4.5") is None


def test_what_a_destination_has_acknowledged_is_kept_once(ward):
    ward.score(ward.receive(1))
    with ward.database.write() as connection:
        for answer in ("0x0000", "0x0111"):
            record_sent(connection, STUDY, 1, "pacs", [Sent("2.25.1", "1.2.840", answer), Sent("2.25.2")])
    with ward.database.read() as connection:
        assert acknowledged(connection, STUDY, "pacs") == {"2.25.1", "2.25.2"}
        assert acknowledged(connection, STUDY, "folder") == set()
        assert connection.scalar(sa.text("SELECT answer FROM sent WHERE object = '2.25.1'")) == "0x0000"


def test_history_that_is_gone_takes_nothing_of_the_outbox_with_it(ward):
    ward.score(ward.receive(1))
    with ward.database.write() as connection:
        connection.execute(instance.delete())
    assert ward.report() is None
    assert len(ward.claim()) == 2
