"""``medd doctor``, as it is typed."""

import json

import pytest

from tests.home import Home
from tests.support import free_port


@pytest.fixture
def ward(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home whose port nobody uses."""
    monkeypatch.setenv("MEDD_LISTENER__PORT", str(free_port()))
    return home


def test_a_home_in_order_gives_one_line_for_each_finding_and_exit_code_0(ward):
    out, err = ward.medd("doctor")
    lines = out.splitlines()
    assert err == ""
    assert len(lines) > 25
    assert all(line.split()[0] in ("OK", "WARN") for line in lines)
    assert sum("decodes to the known pixels" in line for line in lines) == 16


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom leaves the socket open
def test_json_says_the_same_and_a_failure_is_exit_code_1(ward):
    (ward.path / "medd.toml").write_text(
        f'[[peer]]\nname = "away"\nhost = "127.0.0.1"\nport = {free_port()}\nae_title = "AWAY"\n'
    )
    out, _ = ward.medd("doctor", code=1)
    [line] = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert line.split()[:3] == ["FAIL", "peer", "away"]
    assert " -> " in line
    rows = json.loads(ward.medd("doctor", "--format", "json", code=1)[0])
    assert {tuple(row) for row in rows} == {("state", "name", "found", "advice")}
    assert [row["name"] for row in rows if row["state"] == "FAIL"] == ["peer away"]


def test_wrong_settings_are_exit_code_2_and_one_line(ward):
    (ward.path / "medd.toml").write_text("nonsense = 1\n")
    assert "nonsense" in ward.refused("doctor")
