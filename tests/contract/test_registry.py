"""Which model is on duty, and what people do to models, on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from medd import hookimpl
from medd.errors import GateRefused, ModelUnusable, SettingsError
from medd.plugins import load_plugins
from medd.records import ModelChange, ModelVersion, Objection, Role
from medd.registry import changes, registry
from medd.registry.changes import Change
from medd.store.database import Database
from medd.store.models import find_events, find_models, find_on_duty
from medd.testing import stub_bundle
from medd.testing.stub_plugin import spec

WARD = Change("ward", "a test")


class House:
    """A registry whose plugin ships "stub/1"."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.folder = database, folder
        self.spec = spec(stub_bundle(folder / "shipped"))
        self.manager = load_plugins()
        registry.champion(database, self.spec)

    def register(self, version: str, **options) -> ModelVersion:
        folder = stub_bundle(self.folder / f"stub-{version}", version=version, **options)
        return changes.register(self.database, folder, [self.spec], WARD)

    def promote(self, model: ModelVersion) -> None:
        changes.promote(self.database, model, self.manager, WARD)

    def rollback(self) -> ModelVersion:
        return changes.rollback(self.database, "stub", self.manager, WARD)

    def on_duty(self) -> dict[str, str]:
        with self.database.read() as connection:
            return {str(role): model.ref for role, model in find_on_duty(connection, "stub").items()}

    def events(self) -> list[tuple[str, str]]:
        with self.database.read() as connection:
            return [(event.what.value, event.model) for event in reversed(find_events(connection, "stub"))]


@pytest.fixture
def house(database: Database, tmp_path: Path) -> Iterator[House]:
    return House(database, tmp_path)


def test_shipped_model_goes_on_duty_where_none_is_and_that_is_kept_on_record(house):
    assert house.on_duty() == {"champion": "stub/1"}
    registry.champion(house.database, house.spec)
    assert house.events() == [("promoted", "stub/1")]


def test_registered_model_is_known_and_not_used(house):
    house.register("2")
    house.register("2")
    assert house.on_duty() == {"champion": "stub/1"}
    assert house.events()[1:] == [("registered", "stub/2")]


def test_promotion_and_rollback_say_who_when_and_why(house):
    house.promote(house.register("2"))
    house.promote(house.register("3"))
    assert house.on_duty() == {"champion": "stub/3"}
    assert house.rollback().ref == "stub/2"
    assert house.rollback().ref == "stub/1"
    assert house.on_duty() == {"champion": "stub/1"}
    with pytest.raises(SettingsError, match="nothing to go back to"):
        house.rollback()
    with house.database.read() as connection:
        last, *_ = find_events(connection, "stub", kinds=(ModelChange.ROLLED_BACK,))
    assert (last.who, last.why, last.model, last.figures["replaced"]) == ("ward", "a test", "stub/1", "stub/2")
    assert last.at.tzinfo is not None


def test_promoting_the_champion_changes_nothing(house):
    model = house.register("2")
    house.promote(model)
    before = house.events()
    house.promote(model)
    assert house.events() == before


def test_model_that_somebody_else_promotes_meanwhile_does_not_replace_itself(house):
    model = house.register("2")

    def be_faster(candidate):
        changes.promote(house.database, candidate, load_plugins(), WARD)

    house.manager.register(SimpleNamespace(review_candidate=hookimpl(be_faster)), "faster")
    house.promote(model)
    assert house.events().count(("promoted", "stub/2")) == 1
    assert house.rollback().ref == "stub/1"


def test_model_replaces_no_other_champion_than_the_one_it_was_compared_with(house):
    two, three = house.register("2"), house.register("3")
    house.promote(two)
    with pytest.raises(GateRefused, match=r"to replace stub/1, which is not on duty\. Received: stub/2"):
        changes.promote(house.database, three, house.manager, WARD, expected="stub/1")
    assert house.on_duty() == {"champion": "stub/2"}
    assert house.events()[-1] == ("refused", "stub/3")
    changes.promote(house.database, three, house.manager, WARD, expected="stub/2")
    assert house.on_duty() == {"champion": "stub/3"}


def test_model_that_came_back_by_rollback_can_be_left_again(house):
    two = house.register("2")
    house.promote(two)
    house.rollback()
    house.promote(two)
    assert house.rollback().ref == "stub/1"


def test_one_candidate_at_a_time(house):
    for version in ("2", "3"):
        changes.set_candidate(house.database, house.register(version), WARD)
    assert house.on_duty() == {"champion": "stub/1", "candidate": "stub/3"}
    assert ("withdrawn", "stub/2") in house.events()
    assert changes.withdraw(house.database, "stub", WARD).ref == "stub/3"
    assert house.on_duty() == {"champion": "stub/1"}
    with pytest.raises(SettingsError, match="no candidate"):
        changes.withdraw(house.database, "stub", WARD)


def test_promoted_candidate_is_no_candidate_any_more(house):
    model = house.register("2")
    changes.set_candidate(house.database, model, WARD)
    house.promote(model)
    assert house.on_duty() == {"champion": "stub/2"}
    with pytest.raises(SettingsError, match="on duty already"):
        changes.set_candidate(house.database, model, WARD)


def test_name_and_version_stand_for_the_same_bytes_for_ever(house):
    model = house.register("2")
    stub_bundle(house.folder / "other", version="2", threshold=0.9)
    with pytest.raises(ModelUnusable, match="immutable"):
        changes.register(house.database, house.folder / "other", [house.spec], WARD)
    stub_bundle(model.path, version="2", threshold=0.9)
    for change in (house.promote, lambda one: changes.set_candidate(house.database, one, WARD)):
        with pytest.raises(ModelUnusable, match=r"altered since stub/2 was registered"):
            change(model)
    assert house.on_duty() == {"champion": "stub/1"}


def test_damaged_bundle_is_refused_and_the_champion_stays(house):
    model = house.register("2")
    (model.path / "stub.json").write_text("{}")
    with pytest.raises(ModelUnusable, match=r"stub\.json: altered"):
        house.promote(model)
    with pytest.raises(ModelUnusable, match=r"stub\.json: altered"):
        changes.register(house.database, model.path, [house.spec], WARD)
    assert house.on_duty() == {"champion": "stub/1"}


def test_bundle_of_an_unknown_classifier_is_refused(house, tmp_path):
    with pytest.raises(SettingsError, match="no plugin brings its classifier"):
        changes.register(house.database, stub_bundle(tmp_path / "two", version="2"), [], WARD)


def test_any_objection_of_a_plugin_keeps_a_model_off_duty(house):
    asked = []

    def object_to(candidate, champion):
        asked.append((candidate.ref, champion.ref))
        return [Objection("too new")]

    house.manager.register(SimpleNamespace(review_candidate=hookimpl(object_to)), "careful")
    with pytest.raises(GateRefused, match="stub/2: refused: too new"):
        house.promote(house.register("2"))
    assert asked == [("stub/2", "stub/1")]
    assert house.on_duty() == {"champion": "stub/1"}
    assert house.events()[-1] == ("refused", "stub/2")


def test_plugin_that_fails_to_answer_keeps_a_model_off_duty(house):
    def fail(candidate):
        raise RuntimeError(candidate.ref)

    house.manager.register(SimpleNamespace(review_candidate=hookimpl(fail)), "broken")
    with pytest.raises(GateRefused, match="plugin 'broken' failed: RuntimeError"):
        house.promote(house.register("2"))


def test_plugins_are_told_of_promotion_and_rollback(house):
    told = []
    house.manager.register(SimpleNamespace(model_promoted=hookimpl(lambda model: told.append(model.ref))), "ear")
    house.promote(house.register("2"))
    house.rollback()
    assert told == ["stub/2", "stub/1"]


def test_line_of_duty_leads_back_to_the_shipped_model(house):
    house.promote(house.register("2"))
    house.promote(house.register("3"))
    line = registry.line_of_duty(house.database, house.spec)
    assert [model.ref for model in line] == ["stub/3", "stub/2", "stub/1"]
    (line[0].path / "bundle.json").unlink()
    assert registry.find_usable(house.database, house.spec).ref == "stub/2"


def test_bundle_that_is_whole_but_not_what_was_registered_is_not_usable(house):
    model = house.register("2")
    house.promote(model)
    stub_bundle(model.path, version="2", threshold=0.9)
    assert registry.find_usable(house.database, house.spec).ref == "stub/1"


def test_what_cannot_be_used_is_kept_on_record_once(house):
    model = house.register("2")
    for _ in range(3):
        registry.set_aside(house.database, model, "no such file")
    assert [what for what, ref in house.events() if ref == "stub/2"] == ["registered", "set_aside"]


def test_models_of_two_classifiers_do_not_meet(house, tmp_path):
    from dataclasses import replace

    from medd.store.models import put_model, set_role
    from tests.rows import EPOCH

    other = replace(registry.read_version(stub_bundle(tmp_path / "o", name="other")), classifier="other")
    with house.database.write() as connection:
        put_model(connection, other, EPOCH)
        set_role(connection, other, Role.CHAMPION)
    assert house.on_duty() == {"champion": "stub/1"}
    with house.database.read() as connection:
        assert [model.ref for model in find_models(connection)] == ["stub/1", "other/1"]
        assert [model.ref for model in find_models(connection, "other")] == ["other/1"]
