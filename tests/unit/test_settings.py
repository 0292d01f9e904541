import tomllib
from pathlib import Path

import pytest

from medd import settings
from medd.errors import SettingsError
from medd.store.database import Database
from tests.support import ROOT


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def write(home: Path, text: str) -> None:
    (home / "medd.toml").write_text(text)


# Precedence


def test_defaults_hold_where_nothing_is_said(home):
    loaded = settings.load(home)
    assert (loaded.listener.ae_title, loaded.listener.port, loaded.listener.host) == ("MEDD", 11112, "127.0.0.1")
    assert loaded.home == home
    assert loaded.database_url == f"sqlite:///{home}/medd.db"
    assert [inbox.path for inbox in loaded.inbox] == [Path("inbox")]


def test_environment_wins_over_file_and_file_over_defaults(home, monkeypatch):
    write(home, "[listener]\nport = 1\nae_title = 'FILE'\n[worker]\nbatch_size = 3\n")
    monkeypatch.setenv("MEDD_LISTENER__PORT", "2")
    monkeypatch.setenv("MEDD_LOG__LEVEL", "DEBUG")
    loaded = settings.load(home)
    assert (loaded.listener.port, loaded.listener.ae_title, loaded.listener.host) == (2, "FILE", "127.0.0.1")
    assert (loaded.worker.batch_size, loaded.worker.processes) == (3, 1)
    assert loaded.log.level == "DEBUG"


def test_command_line_wins_over_everything(home, monkeypatch):
    monkeypatch.setenv("MEDD_PLUGINS_DIR", "from-environment")
    assert settings.load(home, plugins_dir=Path("given")).plugins_dir == Path("given")


def test_home_comes_from_the_environment_unless_given(home, monkeypatch):
    monkeypatch.setenv("MEDD_HOME", str(home / "there"))
    assert settings.load().home == home / "there"
    assert settings.load(home).home == home


def test_home_is_made_absolute(home, monkeypatch):
    monkeypatch.chdir(home)
    assert settings.load(Path("here")).home == home / "here"
    assert settings.load().home == home / "medd-home"


def test_file_named_by_option_or_environment_is_read_instead_of_the_homes(home, monkeypatch):
    write(home, "[listener]\nport = 1\n")
    (home / "other.toml").write_text("[listener]\nport = 2\n")
    (home / "third.toml").write_text("[listener]\nport = 3\n")
    monkeypatch.setenv("MEDD_CONFIG", str(home / "third.toml"))
    assert settings.load(home).listener.port == 3
    assert settings.load(home, home / "other.toml").listener.port == 2


def test_lists_and_tables_come_from_the_environment_as_json(home, monkeypatch):
    monkeypatch.setenv("MEDD_INBOX", '[{"path": "a"}, {"path": "/b", "after": "leave"}]')
    monkeypatch.setenv("MEDD_LISTENER__ALLOWED_CALLING_AE", '["CR1", "CR2"]')
    loaded = settings.load(home)
    assert [(inbox.path, inbox.after) for inbox in loaded.inbox] == [(Path("a"), "move"), (Path("/b"), "leave")]
    assert loaded.listener.allowed_calling_ae == ("CR1", "CR2")


def test_absolute_database_path_stays(home):
    write(home, "[database]\nurl = 'sqlite:////var/lib/medd.db'\n")
    assert settings.load(home).database_url == "sqlite:////var/lib/medd.db"


# Errors


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour = 'red'", "colour: no such setting"),
        ("[listener]\nprt = 1", "listener.prt: no such setting"),
        ("[lisener]\nport = 1", "lisener: no such setting"),
        ("[[inbox]]\npath = 'a'\nquiet = 1", "inbox.0.quiet: no such setting"),
        ("home = '/x'", "home: set it by --home or MEDD_HOME"),
        ("[listener]\nport = 'DICOM'", "listener.port: .* Received: 'DICOM'"),
        ("[listener]\nport = 70000", "listener.port: .* Received: 70000"),
        ("[listener]\nae_title = 'A TITLE THAT IS TOO LONG'", "listener.ae_title: .*1 to 16"),
        ("[listener]\nae_title = ''", "listener.ae_title"),
        ("[listener]\nae_title = 'A\\\\B'", "listener.ae_title"),
        ("[worker]\nlease_s = 1", "worker.lease_s"),
        ("[worker]\nprocesses = 0", "worker.processes"),
        ("[[inbox]]\nafter = 'burn'", "inbox.0.after: .* Received: 'burn'"),
        ("[log]\nlevel = 'LOUD'", "log.level"),
        ("[web]\nenabled = false\nhost = '0.0.0.0'", "web.host: .*set web.login = true"),  # `--only web` serves it
        ("[listener\nport = 1", "cannot be read as TOML"),
        ("listener = 5", "listener"),
    ],
)
def test_wrong_file_is_refused_by_name(home, text, named):
    write(home, text)
    with pytest.raises(SettingsError, match=named) as refusal:
        settings.load(home)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("MEDD_COLOUR", "red", "environment MEDD_COLOUR: no such setting"),
        ("MEDD_LISTENER__PRT", "1", "MEDD_LISTENER__PRT"),
        ("MEDD_LISTENER__PORT", "DICOM", "listener.port: .* Received: 'DICOM'"),
        ("MEDD_INBOX", "no json", "environment: .*inbox"),
        ("MEDD_LISTENER", "no json", "environment: .*listener"),
    ],
)
def test_wrong_environment_is_refused_by_name(home, monkeypatch, name, value, named):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=named):
        settings.load(home)


def test_every_fault_is_named_at_once(home):
    write(home, "[listener]\nport = -1\nprt = 1\n")
    with pytest.raises(SettingsError, match=r"listener\.port: .*; listener\.prt: "):
        settings.load(home)


def test_named_file_that_is_missing_is_an_error(home):
    with pytest.raises(SettingsError, match=r"nowhere\.toml"):
        settings.load(home, home / "nowhere.toml")


def test_variables_of_the_test_suite_are_no_settings(home, monkeypatch):
    for name in ("MEDD_REQUIRE_PEERS", "MEDD_FULL", "MEDD_TRACE_PLUGINS"):
        monkeypatch.setenv(name, "1")
    settings.load(home)


# What people see


def test_settings_are_shown_by_dotted_keys(home):
    flat = settings.flatten(settings.load(home))
    assert flat["listener.port"] == 11112
    assert flat["inbox[0].path"] == "inbox"
    assert flat["listener.allowed_hosts"] == []
    assert flat["home"] == str(home)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://medd:s3cret@host/medd",
        "postgresql+psycopg://medd:s3cret%40x@host:5432/medd",
        "postgresql+psycopg://medd:x@s3cret@host/medd",
        "postgresql+psycopg://medd:x/s3cret@host/medd",
        "postgresql+psycopg://host/medd?user=medd&password=s3cret",
    ],
)
def test_password_is_hidden(home, monkeypatch, url):
    monkeypatch.setenv("MEDD_DATABASE__URL", url)
    loaded = settings.load(home)
    shown = settings.flatten(loaded)["database.url"]
    assert "s3cret" not in shown
    assert "***" in shown
    assert "host" in shown
    assert loaded.database_url == url


def test_shipped_file_names_every_key_with_its_default(home):
    file = ROOT / "config" / "medd.toml"
    in_file = _flatten(tomllib.loads(file.read_text("utf-8")))
    defaults = settings.flatten(settings.load(home))
    del defaults["home"]
    assert in_file == defaults
    assert settings.flatten(settings.load(home, file)) == settings.flatten(settings.load(home))


def test_shipped_file_explains_every_key():
    lines = (ROOT / "config" / "medd.toml").read_text("utf-8").splitlines()
    keys = [place for place, line in enumerate(lines) if "=" in line and not line.startswith("#")]
    # A key without a comment of its own is named by the one of its table.
    unexplained = [lines[place] for place in keys if not lines[place - 1].startswith(("#", "["))]
    assert unexplained == []


def test_example_files_are_good_settings(home):
    for file in sorted((ROOT / "config").glob("*.toml")):
        settings.load(home, file)


def _flatten(table: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for place, inner in enumerate(value):
                flat |= _flatten(inner, f"{prefix}{key}[{place}].")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def test_a_file_nested_too_deep_is_one_line(home):
    (home / "medd.toml").write_text("a = " + "[" * 3000)
    with pytest.raises(SettingsError, match="cannot be read as TOML"):
        settings.load(home)


def test_a_url_that_is_none_is_one_line():
    with pytest.raises(SettingsError, match="not a database URL"):
        Database("http://[::1")


@pytest.mark.parametrize("seconds", ["1e300", "inf", "nan"])
def test_seconds_are_bounded(home, seconds):
    (home / "medd.toml").write_text(f"[listener]\nassociation_timeout_s = {seconds}\n")
    with pytest.raises(SettingsError, match=r"listener\.association_timeout_s"):
        settings.load(home)
