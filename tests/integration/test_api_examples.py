"""The examples of docs/api.md do what the page says."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from medd.records import UserRole
from medd.store import users
from medd.testing import dicom_radiograph
from tests.integration.test_web_api import Filling
from tests.support import ROOT, require
from tests.web import Web, running_web, web_settings

pytestmark = pytest.mark.peers  # curl and jq are

TEXT = (ROOT / "docs" / "api.md").read_text()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with running_web(web_settings(tmp_path / "home", login=True)) as web:
        filling = Filling(web)
        filling.add(5)
        filling.inserter.close()
        yield web


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_every_example_works_one_after_the_other(web, tmp_path):
    [bash, _curl, _jq] = require("bash", "curl", "jq")
    with web.database.write() as connection:
        users.add_account(connection, "nightly", UserRole.ADMINISTRATOR, None)
        token = users.add_token(connection, "nightly", "test", 1)
    for name, attributes in (("film", {}), ("lateral", {"ViewPosition": "LL"})):
        dicom_radiograph(3, size=64, **attributes).save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
    cv2.imwrite(str(tmp_path / "film.png"), np.random.default_rng(1).integers(0, 256, (300, 300), np.uint8))
    script = "\n".join(blocks("sh")).replace("http://127.0.0.1:8080", web.url.rstrip("/"))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TOKEN": token, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [bash, "-eu", "-o", "pipefail", "-c", script],
        capture_output=True, text=True, cwd=tmp_path, env=environment, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"status": 422' in done.stdout, "the last one is to fail"
    assert '{"file":"film.png","outcome":"received"' in done.stdout
    assert '"outcome":"known"' in done.stdout, "the film came by DICOMweb before"
    assert (tmp_path / "results.csv").read_text().startswith("instance_id,")
    assert len((tmp_path / "annotations.csv").read_text().splitlines()) == 1
    environment |= {"MEDD": web.url.rstrip("/")}
    told = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True,
            timeout=120,
        ).stdout
        for code in blocks("python")
    ]  # fmt: skip
    assert len(told[0].splitlines()) == 8, "every image, page by page"
    assert dicom_radiograph(3, size=64).SOPInstanceUID in told[1]


def test_the_page_names_every_path_there_is_and_no_other(web):
    paths = set(web.client.get("/api/v1/openapi.json").json()["paths"])
    named = set(re.findall(r"(?:GET|POST|DELETE) (/(?:api/v1|dicom-web)[\w/{}-]*)", TEXT))
    assert named == {path for path in paths if path.startswith(("/api/v1", "/dicom-web"))}
    for block in blocks("json"):
        json.loads(block)
    assert shutil.which("curl")
