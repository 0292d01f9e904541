"""The deliverer: rests a destination that is away, goes on with the others, gives up what is refused."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pluggy
import pytest
import sqlalchemy as sa
from pydantic import BaseModel

from medd import hookimpl, hookspecs, settings
from medd.deliver.destination import Destination, Objects, Sent
from medd.deliver.stage import Deliverer
from medd.errors import InputError, PeerRefused, TransientError
from medd.queue.base import CLASSIFY
from medd.records import Reason, StudyReport
from medd.store.inserts import InstanceInserter
from medd.store.outbox import Deliveries, Outbox
from medd.store.repository import record_predictions
from medd.store.tables import delivery, sent
from tests.rows import instance_row, prediction_of
from tests.schema import open_new
from tests.support import wait_until


class Recorder(Destination):
    """Takes what it is told to take, and fails as it is told to fail."""

    kind = "recorder"
    Settings = BaseModel

    def __init__(self, name: str, behave: Callable[[StudyReport], None] = lambda _report: None) -> None:
        super().__init__(name, None, settings.load())
        self.behave = behave
        self.received: list[tuple[str, int]] = []
        self.tries: list[float] = []

    def send(self, report: StudyReport, objects: Objects, known: Collection[str]) -> Iterator[Sent]:
        self.tries.append(time.monotonic())
        for part in ("a", "b"):
            name = f"{report.sop_instance_uid}.{part}"
            if name not in known:
                yield Sent(name)
            if part == "a":
                self.behave(report)
        self.received.append((report.study_instance_uid, report.number))


class Listener:
    """A plugin that is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    @hookimpl
    def delivery_sent(self, delivery: Any, report: StudyReport) -> None:
        self.told.append((delivery.destination, report.number))


class Spool:
    def path(self, sha256: str, media_type: str) -> Path:
        return Path(sha256)

    def bring_all(self, paths: Sequence[Path]) -> list[OSError | None]:
        return [None] * len(paths)


class Site:
    """A database with scored studies, and a deliverer for them."""

    def __init__(self, folder: Path, *destinations: Recorder) -> None:
        self.database = open_new(folder / "medd.db")
        self.destinations = {one.name: one for one in destinations}
        self.outbox = Outbox(tuple(self.destinations), 0, 60)
        self.listener = Listener()
        self.objects: Callable[[StudyReport], Any] = lambda _report: None
        self.manager = pluggy.PluginManager("medd")
        self.manager.add_hookspecs(hookspecs)
        self.manager.register(self.listener)

    def receive(self, number: int, **values: Any) -> int:
        inserter = InstanceInserter(self.database, CLASSIFY, outbox=self.outbox)
        row = instance_row(number, **values)
        added = inserter.add([row])[row["sha256"]]
        inserter.close()
        return added.id

    def score(self, *ids: int) -> None:
        with self.database.write() as connection:
            record_predictions(connection, [prediction_of(id_) for id_ in ids])
            self.outbox.open(connection, ids)

    @contextmanager
    def delivering(self, lease_s: float = 60, **options: Any) -> Iterator[Deliverer]:
        self.deliverer = deliverer = Deliverer(
            Deliveries(self.database, "site", lease_s),
            self.destinations,
            Spool(),
            self.objects,
            self.manager,
            poll_s=0.02,
            **options,
        )
        thread = threading.Thread(target=deliverer.run)
        thread.start()
        try:
            yield deliverer
        finally:
            deliverer.stop()
            thread.join(20)
            assert not thread.is_alive()

    def states(self) -> dict[tuple[str, str], str]:
        d = delivery.c
        with self.database.read() as connection:
            return {
                (study, to): state
                for study, to, state in connection.execute(sa.select(d.study, d.destination, d.state))
            }

    def errors(self) -> list[str]:
        with self.database.read() as connection:
            return list(connection.scalars(sa.select(delivery.c.error).where(delivery.c.error.is_not(None))))


def fail(error: Exception, times: int = 1000) -> Callable[[StudyReport], None]:
    left = [times]

    def behave(_report: StudyReport) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise error

    return behave


def test_every_destination_gets_every_study_and_plugins_are_told(tmp_path):
    first, second = Recorder("first"), Recorder("second")
    site = Site(tmp_path, first, second)
    site.score(site.receive(1), site.receive(2))
    with site.delivering():
        wait_until(lambda: set(site.states().values()) == {"done"})
    assert sorted(first.received) == sorted(second.received) == [("1.2.1.1", 1), ("1.2.1.2", 1)]
    assert sorted(site.listener.told) == [("first", 1)] * 2 + [("second", 1)] * 2
    with site.database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(sent)) == 8


def test_a_destination_that_is_away_rests_and_holds_nobody_up(tmp_path):
    away, well = Recorder("away", fail(TransientError("away: no answer"), 3)), Recorder("well")
    site = Site(tmp_path, away, well)
    site.score(*(site.receive(number) for number in range(1, 9)))
    with site.delivering(threads=2):
        wait_until(lambda: len(well.received) == 8)
        assert len(away.tries) <= 4, "it is not asked again and again for each study"
        wait_until(lambda: set(site.states().values()) == {"done"}, 60)
    assert sorted(away.received) == sorted(well.received)
    pauses = [later - earlier for earlier, later in zip(away.tries, away.tries[1:], strict=False)]
    assert max(pauses) > 0.9, "it was left alone for a while"
    assert site.errors() == []


def test_what_was_acknowledged_before_a_failure_is_not_sent_again(tmp_path):
    flaky = Recorder("flaky", fail(TransientError("flaky: the association was lost"), 1))
    site = Site(tmp_path, flaky)
    site.score(site.receive(1))
    with site.delivering():
        wait_until(lambda: set(site.states().values()) == {"done"}, 30)
    with site.database.read() as connection:
        names = list(connection.scalars(sa.select(sent.c.object).order_by(sent.c.object)))
    assert [name.rsplit(".", 1)[1] for name in names] == ["a", "b"]


@pytest.mark.parametrize("error", [PeerRefused("it knows us not"), InputError(Reason.UNREADABLE, "no such file")])
def test_what_is_refused_is_dead_at_once_with_the_reason(tmp_path, error):
    site = Site(tmp_path, Recorder("strict", fail(error)))
    site.score(site.receive(1))
    with site.delivering():
        wait_until(lambda: set(site.states().values()) == {"dead"})
    assert site.errors() == [str(error)]
    assert len(site.destinations["strict"].tries) == 1


def test_what_is_refused_while_its_study_changes_is_not_said_to_be_given_up(tmp_path, caplog):
    def behave(_report: StudyReport) -> None:
        if len(site.destinations["strict"].tries) == 1:
            site.score(site.receive(2, study_instance_uid="1.2.9", patient_id="P"))
        raise PeerRefused("it knows us not")

    site = Site(tmp_path, Recorder("strict", behave))
    site.score(site.receive(1, study_instance_uid="1.2.9", patient_id="P"))
    with caplog.at_level(logging.WARNING), site.delivering():
        wait_until(lambda: set(site.states().values()) == {"dead"})
    assert [record.event for record in caplog.records] == ["delivery.retry", "delivery.dead"]
    assert len(site.destinations["strict"].tries) == 2


def test_what_fails_for_too_long_is_given_up(tmp_path):
    site = Site(tmp_path, Recorder("away", fail(TransientError("away"))))
    site.score(site.receive(1))
    with site.delivering(give_up_after_s=1.5):
        wait_until(lambda: set(site.states().values()) == {"dead"}, 60)
    assert len(site.destinations["away"].tries) > 1


def test_a_slow_destination_holds_no_quick_one_up(tmp_path):
    slow, quick = Recorder("slow", lambda _report: time.sleep(0.5)), Recorder("quick")
    site = Site(tmp_path, slow, quick)
    site.score(*(site.receive(number) for number in range(1, 21)))
    with site.delivering(threads=2):
        wait_until(lambda: len(quick.received) == 20)
        assert len(slow.received) < 15


def test_an_image_that_is_not_on_our_disk_rests_no_destination(tmp_path):
    class Missing:
        def make(self, kind: str) -> list[Any]:
            raise TransientError("spool: no such file")

        def patient_name(self) -> str:
            raise TransientError("spool: no such file")

    class Asker(Recorder):
        def send(self, report: StudyReport, objects: Objects, known: Collection[str]) -> Iterator[Sent]:
            if report.study_instance_uid != "1.2.1.9":
                objects.make("sr")
            yield from super().send(report, objects, known)

    asker = Asker("asker")
    site = Site(tmp_path, asker)
    site.objects = lambda _report: Missing()
    site.score(*(site.receive(number) for number in range(1, 10)))
    with site.delivering():
        wait_until(lambda: site.states()["1.2.1.9", "asker"] == "done", 5, "the study whose images are there")


def test_what_had_nothing_to_send_wakes_no_destination_that_rests(tmp_path):
    class Choosy(Recorder):
        def send(self, report: StudyReport, objects: Objects, known: Collection[str]) -> Iterator[Sent]:
            if report.study_instance_uid.endswith(".1"):
                yield from super().send(report, objects, known)

    away = Choosy("away", fail(TransientError("away")))
    site = Site(tmp_path, away)
    site.score(*(site.receive(number) for number in range(1, 6)))
    with site.delivering():
        time.sleep(4)
    assert len(away.tries) <= 3, "after 1 and 2 more seconds"


def test_what_a_plugin_yields_before_its_bug_is_kept(tmp_path):
    buggy = Recorder("buggy", fail(KeyError("bug"), 1))  # type: ignore[arg-type]
    site = Site(tmp_path, buggy)
    site.score(site.receive(1))
    with site.delivering():
        wait_until(lambda: set(site.states().values()) == {"done"}, 30)
        with site.database.read() as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(sent)) == 2
    assert len(buggy.tries) == 2


def test_what_is_being_sent_is_finished_before_the_end_and_taken_by_nobody_else(tmp_path):
    slow = Recorder("slow", lambda _report: time.sleep(2.5))
    site = Site(tmp_path, slow)
    site.score(site.receive(1))
    with site.delivering(lease_s=1):
        wait_until(lambda: slow.tries)
        other = Deliveries(site.database, "other", lease_s=1)
        stopper = threading.Timer(0.2, site.deliverer.stop)
        stopper.start()
        time.sleep(1.8)
        assert other.recover() == 0
    assert set(site.states().values()) == {"done"}


def test_a_destination_with_a_bug_harms_no_other_study(tmp_path):
    def behave(report: StudyReport) -> None:
        if report.study_instance_uid == "1.2.1.1":
            raise KeyError("bug")

    buggy = Recorder("buggy", behave)
    site = Site(tmp_path, buggy)
    site.score(site.receive(1), site.receive(2))
    with site.delivering():
        wait_until(lambda: site.states().get(("1.2.1.2", "buggy")) == "done")
        wait_until(site.errors)
    assert site.errors() == ["unexpected: KeyError"]
    assert site.states()["1.2.1.1", "buggy"] == "pending"


def test_a_study_with_an_image_that_still_waits_is_not_sent_before_its_time(tmp_path):
    recorder = Recorder("one")
    site = Site(tmp_path, recorder)
    site.outbox = Outbox(("one",), 0, 1.5)
    first = site.receive(1, study_instance_uid="1.2.9", patient_id="P")
    second = site.receive(2, study_instance_uid="1.2.9", patient_id="P")
    site.score(first)
    with site.delivering():
        time.sleep(0.7)
        assert recorder.received == []
        site.score(second)
        wait_until(lambda: recorder.received)
        assert recorder.received == [("1.2.9", 1)], "one report of both"
    late = Site(tmp_path, recorder)
    late.outbox = Outbox(("one",), 0, 1)
    late.score(late.receive(3, study_instance_uid="1.2.10", patient_id="P"))
    late.receive(4, study_instance_uid="1.2.10", patient_id="P")
    with late.delivering():
        wait_until(lambda: len(recorder.received) == 2)
    assert recorder.received[1] == ("1.2.10", 1), "sent when it was due, although an image still waits"


def test_images_of_different_patients_are_never_sent(tmp_path):
    recorder = Recorder("one")
    site = Site(tmp_path, recorder)
    site.score(site.receive(1, study_instance_uid="1.2.9"), site.receive(2, study_instance_uid="1.2.9"))
    with site.delivering():
        wait_until(lambda: set(site.states().values()) == {"dead"})
    assert recorder.tries == []
    assert "different patients" in site.errors()[0]


def test_a_study_of_which_there_is_nothing_to_say_is_done(tmp_path):
    recorder = Recorder("one")
    site = Site(tmp_path, recorder)
    with site.database.write() as connection:
        connection.execute(
            sa.text(Outbox.statement(":{}")),
            site.outbox.rows(["1.2.3"])
            and [{name: str(value) for name, value in row.items()} for row in site.outbox.rows(["1.2.3"])],
        )
    with site.delivering():
        wait_until(lambda: set(site.states().values()) == {"done"})
    assert recorder.tries == []
