"""The wheel, built and installed as a user has it: outside the checkout, with a stranger's plugin beside it."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import textwrap
import venv
import zipfile
from pathlib import Path

import cv2
import pytest

from medd.store.database import SCHEMA
from medd.testing import jpeg_radiograph, write_samples
from tests.support import ROOT

#: A plugin as somebody else would publish it: nothing of medd but the marker and the record it returns.
STRANGER = {
    "pyproject.toml": """
        [build-system]
        requires = ["hatchling"]
        build-backend = "hatchling.build"

        [project]
        name = "medd-stranger"
        version = "1.0"
        dependencies = ["medd", "numpy"]

        [project.entry-points.medd]
        stranger = "stranger"

        [tool.hatch.build.targets.wheel]
        packages = ["stranger"]
        """,
    "stranger/__init__.py": """
        from pathlib import Path

        from medd import hookimpl
        from medd.hookspecs import ClassifierSpec


        @hookimpl
        def register_classifiers():
            return [ClassifierSpec("stranger", load="stranger.model:load", bundle=Path(__file__).parent / "bundle")]


        @hookimpl
        def register_commands(app):
            @app.command()
            def greet(name: str) -> None:
                print(f"hello {name}")
        """,
    "stranger/model.py": """
        import numpy as np


        class Brightness:
            def predict(self, batch):
                bright = batch.mean(axis=(1, 2, 3))
                return np.stack([1 - bright, bright], axis=1)


        def load(folder, threads):
            assert (folder / "bundle.json").is_file()
            return Brightness()
        """,
    "stranger/bundle/bundle.json": json.dumps(
        {
            "name": "brightness",
            "version": "3",
            "classifier": "stranger",
            "labels": ["DARK", "BRIGHT"],
            "positive_labels": ["BRIGHT"],
            "threshold": 0.5,
            "preprocess": {"size": 32, "channels": 3},
            "created_at": "2026-01-01T00:00:00Z",
            "files": {},
        }
    ),
}


class Installed:
    """A fresh environment with the two wheels, seen from an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.wheels = folder / "wheels"
        project = folder / "project"
        for name, content in STRANGER.items():
            path = project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(content).lstrip())
        self._run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", self.wheels, ROOT)
        self._run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", self.wheels, project)
        environment = folder / "venv"
        venv.create(environment, symlinks=True)
        self.python = environment / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check", "install"]
        self._run(*pip, "--quiet", "--no-index", "--no-deps", *sorted(self.wheels.glob("*.whl")))
        self.site = next(environment.glob("lib/python*/site-packages"))
        # The dependencies are those of the environment that tests; behind the installed medd, which so goes first.
        # A path file's own lines are paths only: the checkout, which that environment has in a file like this one,
        # does not come with it.
        (self.site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.cwd = folder / "empty"
        self.cwd.mkdir()

    @property
    def medd_wheel(self) -> Path:
        return next(self.wheels.glob("medd-0*.whl"))

    def _run(self, *command: object, **options: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=120, **options)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def run(self, *command: object, home: Path, **environment: str) -> str:
        """Run a program of the environment in an empty folder; returns its output."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MEDD_", "PYTHON"))}
        clean |= {"MEDD_HOME": str(home), **environment}
        program = self.python.with_name(str(command[0]))
        return self._run(program, *command[1:], cwd=self.cwd, env=clean).stdout

    def medd(self, *arguments: object, home: Path, **environment: str) -> str:
        return self.run("medd", *arguments, home=home, **environment)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("wheel"))


def test_wheel_holds_plugins_migrations_and_settings(installed):
    with zipfile.ZipFile(installed.medd_wheel) as wheel:
        names = wheel.namelist()
    shipped = list((ROOT / "migrations" / "versions").glob("*.py"))
    assert shipped
    for path in shipped:
        assert f"medd/migrations/versions/{path.name}" in names
    assert {"medd/migrations/env.py", "medd/config/medd.toml", "medd_pneumonia/__init__.py"} <= set(names)
    bundles = ROOT / "plugins" / "medd_pneumonia" / "bundles"
    for file in bundles.rglob("*.*"):
        assert f"medd_pneumonia/bundles/{file.relative_to(bundles).as_posix()}" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "medd",
        "medd_hl7",
        "medd_pneumonia",
        "medd_transfer",
        "medd_web",
        "medd_webhook",
    }
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_installed_medd_is_the_one_that_runs(installed, tmp_path):
    code = "import medd, medd_pneumonia, stranger; print(medd.__file__, medd_pneumonia.__file__, stranger.__file__)"
    files = [Path(name) for name in installed.run("python", "-c", code, home=tmp_path).split()]
    for file in files:
        assert file.is_relative_to(installed.site)
        assert not file.is_relative_to(ROOT)
    paths = json.loads(installed.run("python", "-c", "import json, sys; print(json.dumps(sys.path))", home=tmp_path))
    assert not [path for path in paths if Path(path) in (ROOT, ROOT / "plugins")]


def test_schema_is_made_from_the_migrations_in_the_wheel(installed, tmp_path):
    assert installed.medd("db", "upgrade", home=tmp_path / "home") == f"schema {SCHEMA}\n"
    assert (tmp_path / "home" / "medd.db").is_file()
    assert json.loads(installed.medd("results", "--format", "json", home=tmp_path / "home")) == []


def test_plugins_of_ours_and_of_strangers_are_found_alike(installed, tmp_path):
    rows = json.loads(installed.medd("plugins", "--format", "json", home=tmp_path))
    classifiers = {row["plugin"]: row["classifiers"].split(", ") for row in rows}
    assert "paper" in classifiers["pneumonia"]
    assert classifiers["stranger"] == ["stranger"]


def test_command_of_a_stranger_is_one_of_ours(installed, tmp_path):
    assert installed.medd("greet", "reader", home=tmp_path) == "hello reader\n"
    shown = installed.medd("--help", home=tmp_path)
    for command in ("greet", "users", "audit", "serve"):
        assert re.search(rf"^  {command}\b", shown, re.MULTILINE)


def test_pages_and_their_parts_are_in_the_wheel(installed):
    with zipfile.ZipFile(installed.medd_wheel) as wheel:
        names = set(wheel.namelist())
    web = ROOT / "plugins" / "medd_web"
    parts = [*web.glob("templates/*"), *(path for path in web.rglob("static/**/*") if path.is_file())]
    assert parts
    assert {f"medd_web/{path.relative_to(web).as_posix()}" for path in parts} <= names


def test_classifier_of_a_stranger_is_used_by_name(installed, tmp_path):
    picture = tmp_path / "film.jpg"
    picture.write_bytes(jpeg_radiograph(1, size=256))
    environment = {"MEDD_MODEL__CLASSIFIER": "stranger"}
    assert "good" in installed.medd("config", "check", home=tmp_path / "home", **environment)
    [row] = json.loads(installed.medd("classify", picture, "--format", "json", home=tmp_path / "home", **environment))
    assert (row["status"], row["model"]) == ("scored", "brightness/3")
    grey = cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE).mean() / 255
    assert row["probabilities"]["BRIGHT"] == pytest.approx(grey, abs=0.01)


def test_shipped_classifier_scores_films(installed, tmp_path):
    if not (ROOT / "plugins" / "medd_pneumonia" / "bundles" / "pneumonia-1").is_dir():
        pytest.skip("the shipped classifier's bundle is not made yet")
    write_samples(tmp_path / "films", 4, size=512)
    rows = json.loads(installed.medd("classify", tmp_path / "films", "--format", "json", home=tmp_path / "home"))
    assert [row["status"] for row in rows] == ["scored"] * 4
    assert {row["model"] for row in rows} == {"pneumonia/1"}
    assert {label for row in rows for label in row["probabilities"]} == {"NORMAL", "PNEUMONIA"}
