"""``medd annotate``, ``medd models``, ``medd rescore`` and ``medd retrain``, as they are typed."""

import json
from pathlib import Path

import pytest

from medd.errors import SettingsError
from medd.registry.find import find_folder
from medd.testing import cheap_series, stub_bundle
from tests.home import Home


@pytest.fixture
def ward(home: Home, tmp_path: Path) -> Home:
    """A home with three films that wait."""
    for number, film in enumerate(cheap_series(3, rows=64, columns=64)):
        (tmp_path / f"film{number}.dcm").write_bytes(film)
        home.medd("ingest", tmp_path / f"film{number}.dcm")
    return home


def roles(home: Home) -> dict[str, str]:
    return {row["model"]: row["role"] for row in home.json("models", "list")}


def events(home: Home) -> list[tuple[str, str, str, str]]:
    return [(row["what"], row["model"], row["who"], row["why"]) for row in home.json("models", "show")]


def test_annotate_takes_one_and_says_whether_it_is_new(ward):
    uid = ward.json("results")[0]["sop_instance_uid"]
    assert ward.medd("annotate", uid, "pneumonia", "--reader", "anna")[0] == "1 recorded, 0 known already\n"
    assert ward.medd("annotate", uid, "PNEUMONIA", "--reader", "anna")[0] == "0 recorded, 1 known already\n"
    assert ward.medd("annotate", uid, "NORMAL", "--reader", "ben")[0] == "1 recorded, 0 known already\n"
    rows = ward.json("annotations", "--contradicted")
    assert {(row["label"], row["reader"], row["contradicted"]) for row in rows} == {
        ("PNEUMONIA", "anna", True),
        ("NORMAL", "ben", True),
    }


def test_annotate_takes_many_from_a_file(ward, tmp_path):
    shas = [row["sha256"] for row in ward.json("results")]
    (tmp_path / "said.csv").write_text("uid,label\n" + "".join(f"{sha256},NORMAL\n" for sha256 in shas))
    assert ward.medd("annotate", "--from", tmp_path / "said.csv")[0] == "3 recorded, 0 known already\n"
    assert len(ward.json("annotations")) == 3
    assert ward.json("annotations", "--contradicted") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("1.2.3", "NORMAL"), "no instance of this UID, SHA-256 or id. Received: 1.2.3"),
        (("1", "FRACTURE"), "no label of the model on duty, which has NORMAL, PNEUMONIA. Received: 'FRACTURE'"),
        (("1",), "UID and LABEL are needed, or --from FILE"),
        ((), "UID and LABEL are needed, or --from FILE"),
    ],
)
def test_annotate_says_in_a_line_what_is_wrong(ward, arguments, message):
    assert message in ward.refused("annotate", *arguments)


def test_models_go_on_duty_and_back_with_who_and_why(home, tmp_path):
    folder = stub_bundle(tmp_path / "two", version="2")
    assert roles(home) == {"stub/1": "champion"}
    assert home.medd("models", "register", folder, "--who", "anna")[0] == "stub/2 is known\n"
    assert home.medd("models", "candidate", "stub/2", "--who", "anna")[0] == "stub/2 scores in the shadow\n"
    assert roles(home) == {"stub/1": "champion", "stub/2": "candidate"}
    assert home.medd("models", "withdraw", "--who", "anna")[0] == "stub/2 is withdrawn\n"
    assert home.medd("models", "promote", "stub/2", "--who", "ben", "--why", "better")[0] == "stub/2 is on duty\n"
    assert roles(home) == {"stub/1": "retired", "stub/2": "champion"}
    assert home.medd("models", "rollback", "--who", "ben", "--why", "worse")[0] == "stub/1 is on duty\n"
    assert events(home) == [
        ("rolled_back", "stub/1", "ben", "worse"),
        ("promoted", "stub/2", "ben", "better"),
        ("withdrawn", "stub/2", "anna", ""),
        ("set_candidate", "stub/2", "anna", ""),
        ("registered", "stub/2", "anna", ""),
        ("promoted", "stub/1", "medd", "shipped with the plugin"),
    ]
    assert "nothing to go back to" in home.refused("models", "rollback")


def test_a_model_in_the_home_is_named_by_its_folder(home):
    stub_bundle(home.path / "models" / "stub-7", version="7")
    home.medd("models", "promote", "stub-7")
    assert roles(home)["stub/7"] == "champion"


def test_who_is_the_user_unless_another_is_named(home, tmp_path, monkeypatch):
    monkeypatch.setenv("LOGNAME", "carla")
    home.medd("models", "promote", stub_bundle(tmp_path / "two", version="2"))
    assert events(home)[0][2] == "carla"


def test_a_broken_bundle_is_refused_by_one_line_and_the_champion_stays(home, tmp_path):
    folder = stub_bundle(tmp_path / "two", version="2")
    home.medd("models", "register", folder)
    (folder / "stub.json").write_text("damaged")
    assert "stub.json: altered" in home.refused("models", "promote", "stub/2", code=1)
    assert roles(home) == {"stub/1": "champion", "stub/2": "retired"}
    assert events(home)[0][:2] == ("refused", "stub/2")
    [row] = [row for row in home.json("models", "list") if row["model"] == "stub/2"]
    assert "altered" in row["unusable"]


def test_a_bundle_that_loads_but_cannot_score_is_refused(home, tmp_path):
    folder = stub_bundle(tmp_path / "two", version="2")
    about = json.loads((folder / "bundle.json").read_text())
    about["labels"] = ["NORMAL", "PNEUMONIA", "COVID"]
    (folder / "bundle.json").write_text(json.dumps(about))
    assert "one row per image expected" in home.refused("models", "promote", folder, code=1)
    assert roles(home)["stub/1"] == "champion"


def test_an_unknown_model_is_refused_by_one_line(home):
    assert "'stub/9'" in home.refused("models", "promote", "stub/9")
    assert "no model of this name and version" in home.refused("models", "show", "stub/9")


NO_UTF8 = "\udcff"


@pytest.mark.parametrize(
    "arguments",
    [
        ("annotate", NO_UTF8, "NORMAL"),
        ("annotate", "1", "NORMAL", "--reader", NO_UTF8),
        ("annotate", "1", "NORMAL", "--comment", NO_UTF8),
        ("models", "promote", "stub/1", "--who", NO_UTF8),
        ("models", "rollback", "--why", NO_UTF8),
        ("models", "promote", NO_UTF8),
        ("models", "show", NO_UTF8),
    ],
)
def test_what_is_no_text_is_refused_by_one_line(ward, arguments):
    assert "text in UTF-8 without NUL is needed" in ward.refused(*arguments)


def test_name_that_no_file_system_takes_is_refused_by_one_line(home):
    assert "File name too long" in home.refused("models", "promote", "m" * 300)
    with pytest.raises(SettingsError, match="File name too long"):
        find_folder("m" * 300, [], home.path)


def test_rescore_says_how_many_come_back(ward):
    assert ward.medd("rescore")[0] == "0 back in the queue for stub/1\n"  # they wait already
    assert "--since" in ward.refused("rescore", "--since", "yesterday")


def test_retrain_without_data_says_where_to_name_them(home):
    assert "set retrain.data" in home.refused("retrain")
