"""The interfaces against their own OpenAPI document, with whatever a generator finds in it."""

import subprocess
import sys
from pathlib import Path

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medd.records import UserRole
from medd.store import users
from medd.testing import cheap_series, stub_bundle
from tests.integration.test_web_api import Filling
from tests.web import running_web, web_settings

#: What the form of a value does not say: a cursor is one of ours, a moment is one.
NOT_IN_THE_SCHEMA = "positive_data_acceptance"


def test_no_request_that_the_document_allows_or_forbids_is_a_server_error_or_answered_otherwise(tmp_path: Path) -> None:
    with running_web(web_settings(tmp_path / "home", login=True)) as web:
        with web.database.write() as connection:
            users.add_account(connection, "ada", UserRole.ADMINISTRATOR, None)
            token = users.add_token(connection, "ada", "test", 1)
        filling = Filling(web)
        filling.add(9)
        filling.inserter.close()
        stub_bundle(web.settings.models_dir / "other", version="2")
        web.context.models.find("other", "ada")
        options = ["--header", f"Authorization: Bearer {token}", "--exclude-path-regex", "^/dicom-web"]
        options += ["--checks", "all", "--exclude-checks", NOT_IN_THE_SCHEMA, "--max-examples", "12"]
        options += ["--generation-deterministic"]
        options += ["--no-color", "--request-timeout", "60", "--warnings", "off"]
        program = str(Path(sys.executable).with_name("schemathesis"))
        done = subprocess.run(
            [program, "run", f"{web.url}api/v1/openapi.json", *options],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            timeout=280,
        )
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr


_FILM = next(cheap_series(1, rows=16, columns=16))
_PIECES = st.sampled_from(
    [b"--XX", b"--XX--", b"\r\n", b"\r\n\r\n", b"--", b"Content-Type: application/dicom", b":", _FILM, _FILM[:400],
     b"\0" * 128 + b"DICM", b"\x08\x00\x16\x00UI", b"\xff\xd8\xff", b"II*\0", b"--XXX\r\n\r\n"]
)  # fmt: skip
_PATHS = ("dicom-web/studies", "dicom-web/studies/1.2", "upload")
_BODIES = st.lists(_PIECES | st.binary(max_size=40), max_size=12).map(b"".join)
_TYPES = st.sampled_from(
    [
        'multipart/related; type="application/dicom"; boundary=XX',
        "multipart/form-data; boundary=XX",
        "application/dicom",
        'multipart/related; boundary="XX"; boundary*0=a',
    ]
) | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)


def test_no_body_is_a_server_error(tmp_path: Path) -> None:
    with running_web(web_settings(tmp_path / "home")) as web, httpx.Client(base_url=web.url, trust_env=False) as client:

        @settings(max_examples=100, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
        @given(
            body=_BODIES, kind=_TYPES, path=st.sampled_from(["dicom-web/studies", "dicom-web/studies/1.2", "upload"])
        )
        def check(body: bytes, kind: str, path: str) -> None:
            answer = client.post(path, content=body, headers={"Content-Type": kind})
            assert answer.status_code in (200, 202, 400, 409, 415, 422), (answer.status_code, answer.text)

        check()
        assert not list((web.context.spool.root / "incoming").iterdir())
        with web.database.read() as connection:
            stored = connection.exec_driver_sql("SELECT sha256, media_type FROM instance").all()
        assert all(web.context.spool.path(*row).is_file() for row in stored)
