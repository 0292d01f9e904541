"""What readers say, on SQLite and on PostgreSQL."""

from pathlib import Path

import pytest

from medd.errors import SettingsError
from medd.learn.corrections import merge
from medd.learn.manifest import Sample
from medd.queue.base import CLASSIFY
from medd.records import UNSURE
from medd.registry.annotate import Said, annotate, read_file, withdraw
from medd.store.annotations import find_truths, list_annotations
from medd.store.database import Database
from medd.store.inserts import InstanceInserter
from medd.store.spool import Spool
from medd.store.studies import find_study
from medd.testing import stub_bundle
from medd.testing.stub_plugin import spec
from tests.rows import instance_row


class Ward:
    """Instances 1 to 4, and readers who look at them."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.spec = database, spec(stub_bundle(folder / "bundle"))
        inserter = InstanceInserter(database, CLASSIFY)
        rows = [instance_row(number) for number in range(4)] + [instance_row(4, sop_instance_uid="1.2.3.3")]
        for row in rows:
            inserter.add([row])
        inserter.close()

    def say(self, uid: str, label: str, reader: str = "anna") -> int:
        return annotate(self.database, self.spec, [Said(uid, label, reader)])

    def withdraw(self, uid: str, reader: str = "anna") -> bool:
        return withdraw(self.database, uid, reader)

    def read_by(self, study: str) -> str | None:
        with self.database.read() as connection:
            return find_study(connection, study)["read_by"]

    def learned(self, folder: Path) -> dict[str, str]:
        """What a retraining would learn of the instances, by their SHA-256, were they its base data."""
        base = [Sample(folder / str(n), "BASE", f"P{n}", instance_row(n)["sha256"]) for n in range(5)]
        for sample in base:
            sample.path.write_bytes(b"no DICOM object")
        sides = {sample.sha256[:16]: "test" if n == 4 else "train" for n, sample in enumerate(base)}
        with self.database.read() as connection:
            merged = merge(base, find_truths(connection), sides, Spool(folder))
        assert merged.problems == []
        return {sample.sha256: sample.label for sample in merged.samples}

    def truths(self) -> dict[int, dict[str, str]]:
        with self.database.read() as connection:
            return {truth.instance_id: truth.labels for truth in find_truths(connection)}

    def listed(self, **options: bool) -> list[tuple]:
        with self.database.read() as connection:
            rows = list(list_annotations(connection, **options))
        return [(r["instance_id"], r["label"], r["reader"], r["counts"], r["contradicted"]) for r in rows]


@pytest.fixture
def ward(database: Database, tmp_path: Path) -> Ward:
    return Ward(database, tmp_path)


def test_an_image_is_named_by_its_uid_its_bytes_or_its_id(ward):
    assert ward.say("1.2.3.0", "NORMAL") == 1
    assert ward.say(instance_row(1)["sha256"].upper(), "PNEUMONIA") == 1
    assert ward.say("3", "pneumonia") == 1
    assert ward.truths() == {1: {"anna": "NORMAL"}, 2: {"anna": "PNEUMONIA"}, 3: {"anna": "PNEUMONIA"}}


def test_the_same_said_twice_is_said_once(ward):
    assert [ward.say("1", "NORMAL"), ward.say("1", "NORMAL"), ward.say("1", "NORMAL", "ben")] == [1, 0, 1]
    assert len(ward.listed()) == 2


def test_of_a_reader_the_newest_counts_and_the_history_is_kept(ward):
    for label in ("NORMAL", "PNEUMONIA", "NORMAL"):
        assert ward.say("1", label) == 1
    assert ward.truths() == {1: {"anna": "NORMAL"}}
    assert [row[3] for row in ward.listed()] == [True, False, False]


def test_readers_who_disagree_contradict_each_other_until_one_thinks_again(ward):
    ward.say("1", "NORMAL", "anna")
    ward.say("1", "PNEUMONIA", "ben")
    ward.say("2", "NORMAL", "ben")
    with ward.database.read() as connection:
        assert [truth.is_contradicted for truth in find_truths(connection)] == [True, False]
    assert {row[0] for row in ward.listed(contradicted=True)} == {1}
    ward.say("1", "NORMAL", "ben")
    with ward.database.read() as connection:
        assert not any(truth.is_contradicted for truth in find_truths(connection))


def test_what_was_taken_back_is_history_and_no_truth(ward):
    ward.say("1", "NORMAL", "anna")
    ward.say("1", "PNEUMONIA", "ben")
    assert ward.withdraw("1", "ben")
    assert ward.truths() == {1: {"anna": "NORMAL"}}
    assert ward.listed() == [
        (1, "", "ben", False, False),
        (1, "PNEUMONIA", "ben", False, False),
        (1, "NORMAL", "anna", True, False),
    ]
    assert ward.say("1", "PNEUMONIA", "ben") == 1, "said again, it counts again"
    assert ward.truths() == {1: {"anna": "NORMAL", "ben": "PNEUMONIA"}}


def test_nothing_said_is_nothing_to_take_back(ward):
    assert not ward.withdraw("1")
    ward.say("1", "NORMAL", "ben")
    assert not ward.withdraw("1", "anna")
    assert [ward.withdraw("1", "ben"), ward.withdraw("1", "ben")] == [True, False]
    with pytest.raises(SettingsError, match="no instance of this UID"):
        ward.withdraw("9.9.9")
    with pytest.raises(SettingsError, match="1 to 64 characters"):
        ward.withdraw("1", "")


def test_who_cannot_tell_contradicts_nobody_and_takes_an_earlier_word_back(ward):
    ward.say("1", "NORMAL", "anna")
    assert ward.say("1", UNSURE, "ben") == 1
    with ward.database.read() as connection:
        assert not any(truth.is_contradicted for truth in find_truths(connection))
    assert ward.say("1", UNSURE, "anna") == 1
    assert ward.truths() == {}
    assert [row[1:4] for row in ward.listed()] == [
        ("?", "anna", False),
        ("?", "ben", False),
        ("NORMAL", "anna", False),
    ]


def test_who_says_something_has_read_the_study_until_all_is_taken_back(ward):
    assert ward.read_by("1.2.1.0") is None
    ward.say("1", UNSURE, "anna")
    assert ward.read_by("1.2.1.0") == "anna"
    ward.say("1", "NORMAL", "ben")
    ward.withdraw("1", "anna")
    assert ward.read_by("1.2.1.0") == "anna", "she has read it all the same, and ben's word stands"
    ward.withdraw("1", "ben")
    assert ward.read_by("1.2.1.0") is None
    assert ward.read_by("1.2.1.1") is None


def test_a_retraining_learns_neither_what_was_taken_back_nor_from_who_cannot_tell(ward, tmp_path):
    for uid in ("1", "2", "3"):
        ward.say(uid, "PNEUMONIA")
    ward.withdraw("1")
    ward.say("2", UNSURE)
    ward.say("4", UNSURE)
    labels = ["BASE", "BASE", "PNEUMONIA", "BASE", "BASE"]
    assert ward.learned(tmp_path) == {instance_row(n)["sha256"]: label for n, label in enumerate(labels)}


@pytest.mark.parametrize(
    ("uid", "label", "message"),
    [
        ("9.9.9", "NORMAL", r"no instance of this UID.*Received: 9\.9\.9"),
        ("77", "NORMAL", r"no instance of this UID, SHA-256 or id\. Received: 77"),
        ("1", "FRACTURE", r"has NORMAL, PNEUMONIA\. Received: 'FRACTURE'"),
        ("1.2.3.3", "NORMAL", r"several instances have this UID; name one by its id\. Received: 4, 5"),
        ("", "NORMAL", "no instance is named"),
        ("\udcff", "NORMAL", r"UTF-8 without NUL is needed\. Received: '\\udcff'"),
        ("1", "NOR\0MAL", r"UTF-8 without NUL is needed\. Received: 'NOR\\x00MAL'"),
    ],
)
def test_what_cannot_be_kept_is_said_in_one_sentence(ward, uid, label, message):
    with pytest.raises(SettingsError, match=message):
        ward.say(uid, label)


def test_many_at_once_are_kept_all_or_none(ward, tmp_path):
    table = tmp_path / "said.csv"
    table.write_text("uid,label,reader\n1.2.3.0,NORMAL,\n2,PNEUMONIA,ben\n1.2.3.2,NORMAL,ben\n")
    assert annotate(ward.database, ward.spec, read_file(table, "anna")) == 3
    assert ward.truths() == {1: {"anna": "NORMAL"}, 2: {"ben": "PNEUMONIA"}, 3: {"ben": "NORMAL"}}
    table.write_text("uid,label\n1.2.3.0,PNEUMONIA\nnowhere,NORMAL\n")
    with pytest.raises(SettingsError, match=r"said\.csv, line 3: no instance"):
        annotate(ward.database, ward.spec, read_file(table, "anna"))
    assert ward.truths()[1] == {"anna": "NORMAL"}


def test_file_with_a_nul_is_refused_with_its_line(ward, tmp_path):
    table = tmp_path / "said.csv"
    table.write_text("uid,label,comment\n1,NORMAL,\n2,NORMAL,a\0b\n")
    with pytest.raises(SettingsError, match=r"said\.csv, line 3: .* Received: 'a\\x00b'"):
        annotate(ward.database, ward.spec, read_file(table, "anna"))
    assert ward.truths() == {}


def test_a_file_without_the_columns_is_refused(tmp_path):
    (tmp_path / "said.csv").write_text("image,label\n1,NORMAL\n")
    with pytest.raises(SettingsError, match=r"the columns uid and label are needed\. Received: \['image', 'label'\]"):
        read_file(tmp_path / "said.csv", "anna")
    with pytest.raises(SettingsError, match="cannot be read as CSV"):
        read_file(tmp_path / "nowhere.csv", "anna")
