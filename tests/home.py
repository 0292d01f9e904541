"""A home folder, and the command line run on it within the tests' own process."""

import json
import sys
from pathlib import Path

import pytest

from medd.cli import main as cli
from medd.store.database import Database
from medd.testing import stub_bundle, write_stub_plugin
from tests.schema import open_new


class Home:
    """A home folder with the stub classifier, and the command line run on it."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self._monkeypatch, self._capsys = path, monkeypatch, capsys
        path.mkdir()
        write_stub_plugin(path / "plugins", stub_bundle(path / "stub-bundle"))
        monkeypatch.setenv("MEDD_HOME", str(path))
        monkeypatch.setenv("MEDD_MODEL__CLASSIFIER", "stub")

    def medd(self, *arguments: object, code: int = 0) -> tuple[str, str]:
        """Run a command, expect its exit code, and return what it wrote to stdout and stderr."""
        self._capsys.readouterr()
        self._monkeypatch.setattr(sys, "argv", ["medd", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        written = self._capsys.readouterr()
        assert (end.value.code or 0) == code, f"{written.out}\n{written.err}"
        return written.out, written.err

    def refused(self, *arguments: object, code: int = 2) -> str:
        """Run a command that fails, and return its one line on stderr."""
        out, err = self.medd(*arguments, code=code)
        assert out == ""
        assert err.startswith("medd: ")
        assert err.count("\n") == 1
        return err

    def json(self, *arguments: object) -> list[dict]:
        return json.loads(self.medd(*arguments, "--format", "json")[0])

    def database(self) -> Database:
        return open_new(self.path / "medd.db")
