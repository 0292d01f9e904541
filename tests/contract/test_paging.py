"""Going through lists page by page while rows come in: what was there at the first page comes once, in order."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from medd.queue.base import CLASSIFY
from medd.records import Annotation
from medd.store import annotations
from medd.store.inserts import InstanceInserter
from medd.store.repository import ResultFilter, find_results, record_predictions
from medd.store.studies import After, WorklistFilter, find_worklist, mark_read
from medd.store.tally import refresh
from tests.rows import EPOCH, instance_row, prediction_of

NOW, CAP = EPOCH + timedelta(seconds=100), timedelta(seconds=70)


class Filling:
    """Instances that come in, some of them at the same moment, some scored, some read."""

    def __init__(self, database):
        self.database, self.inserter, self.count = database, InstanceInserter(database, CLASSIFY), 0
        self.random = random.Random(7)

    def add(self, number):
        rows = []
        for _ in range(number):
            self.count += 1
            # Several in one second, and not in the order in which they are committed.
            at = EPOCH + timedelta(seconds=self.random.randrange(100))
            rows.append(instance_row(self.count, received_at=at))
        ids = [one.id for one in self.inserter.add(rows).values()]
        scored = [prediction_of(id_, self.random.choice([0.1, 0.5, 0.5, 0.9])) for id_ in ids[: number * 2 // 3]]
        with self.database.write() as connection:
            record_predictions(connection, scored)
            refresh(connection, ids)
            for one in range(self.count - number + 1, self.count + 1, 5):
                mark_read(connection, f"1.2.1.{one}", "anna", EPOCH + timedelta(seconds=one % 7))


@pytest.fixture
def filling(database):
    made = Filling(database)
    made.add(60)
    yield made
    made.inserter.close()


def pages(fetch, place_of, filling, size=7):
    """Every row, page by page, while more come in behind the back of who turns the pages."""
    rows, place = [], None
    while found := fetch(place, size):
        rows += found
        assert len(found) <= size
        place = place_of(found[-1])
        filling.add(3)
        if len(found) < size:
            break
    return rows


def keep_order(rows, wanted, key):
    """What was there at the beginning, each once and in the same order, whatever came in between."""
    seen = [key(row) for row in rows]
    assert len(set(seen)) == len(seen)
    assert [one for one in seen if one in set(wanted)] == wanted


def test_results_page_by_page(database, filling):
    def fetch(after, limit, **filters):
        with database.read() as connection:
            return list(find_results(connection, ResultFilter(limit=limit, after=after, **filters)))

    def place_of(row):
        return row["received_at"], row["instance_id"]

    def key(row):
        return row["instance_id"]

    there = fetch(None, None)
    assert len(there) == 60
    keep_order(pages(fetch, place_of, filling), [key(row) for row in there], key)
    for filters in ({"label": "PNEUMONIA"}, {"min_probability": 0.5}, {"since": EPOCH + timedelta(seconds=40)}):
        there = fetch(None, None, **filters)
        assert len(there) > 7
        found = pages(lambda after, limit, f=filters: fetch(after, limit, **f), place_of, filling)
        keep_order(found, [key(row) for row in there], key)


@pytest.mark.parametrize("read", [False, True, None])
@pytest.mark.parametrize("cap", [CAP, None])
def test_worklist_page_by_page(database, filling, read, cap):
    def fetch(after, limit):
        with database.read() as connection:
            return find_worklist(connection, WorklistFilter(read=read), NOW, cap, limit, after=after)

    there = fetch(None, 1000)
    assert len(there) > 7
    if read is None and cap:
        assert {row["place"] for row in there} == {"overdue", "finding", "unjudged", "below", "read"}
    found = pages(fetch, After.of, filling)
    keep_order(found, [row["study"] for row in there], lambda row: row["study"])


def test_annotations_page_by_page(database, filling):
    at = datetime(2026, 1, 2, tzinfo=UTC)

    def say(instance_id, label, reader):
        with database.write() as connection:
            annotations.annotate(connection, Annotation(instance_id, label, reader, at))

    for id_ in range(1, 21):
        say(id_, "NORMAL", "anna")
        say(id_, "PNEUMONIA" if id_ % 2 else "NORMAL", "bert")

    def fetch(before, limit, contradicted=False):
        with database.read() as connection:
            listed = annotations.list_annotations(connection, contradicted=contradicted, before=before, limit=limit)
            return list(listed)

    there = [row["id"] for row in fetch(None, None)]
    assert there == sorted(there, reverse=True)
    assert len(there) == 40
    rows, place = [], None
    while found := fetch(place, 7):
        rows += found
        place = found[-1]["id"]
        say(50 - len(rows) // 7, "NORMAL", "carl")
    assert [row["id"] for row in rows] == there
    disputed = fetch(None, None, contradicted=True)
    assert {row["instance_id"] for row in disputed} == set(range(1, 21, 2))
    assert fetch(disputed[4]["id"], 5, contradicted=True) == disputed[5:10]
