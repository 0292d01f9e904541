"""Files uploaded in the browser, and by programs that speak its forms."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from medd.records import UserRole
from medd.store import users
from medd.store.audit import EventFilter, find_events
from medd.store.tables import instance
from medd.testing import cheap_series, dicom_radiograph, jpeg_radiograph
from tests.web import Web, running_web, web_settings

NASTY = '"><script>alert(1)</script>\u202e.dcm'


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with running_web(web_settings(tmp_path / "home")) as web:
        yield web


def upload(web: Web, *files: tuple[str, bytes], **options: Any) -> httpx.Response:
    return web.client.post("/upload", files=[("files", (name, data)) for name, data in files], **options)


def rows(web: Web) -> list[Any]:
    with web.database.read() as connection:
        return list(connection.execute(sa.select(instance).order_by(instance.c.id)))


def films() -> dict[str, bytes]:
    grey = np.random.default_rng(1).integers(0, 256, (300, 300), np.uint8)
    dicom = BytesIO()
    dicom_radiograph(1, size=64).save_as(dicom, enforce_file_format=True)
    encoded = {f"film{ending}": cv2.imencode(ending, grey)[1].tobytes() for ending in (".png", ".tif")}
    return {"film": dicom.getvalue(), "film.jpg": jpeg_radiograph(2), **encoded}


def test_every_kind_of_file_is_taken_in_and_told_of(web):
    kinds = films()
    answer = upload(web, *kinds.items())
    assert answer.status_code == 200, answer.text
    told = answer.json()["files"]
    assert [(one["file"], one["outcome"], one["status"]) for one in told] == [
        (name, "received", "pending") for name in kinds
    ]
    found = {row.origin: row for row in rows(web)}
    assert set(found) == {f"upload://local@127.0.0.1/{name}" for name in kinds}
    assert [row.media_type for row in found.values()] == ["application/dicom", "image/jpeg", "image/png", "image/tiff"]
    for one in told:
        assert web.client.get(one["link"]).status_code == 200
        assert (
            web.client.get(f"/api/v1/studies/{one['study']}").json()["results"][0]["instance_id"] == one["instance_id"]
        )
    again = upload(web, *kinds.items()).json()["files"]
    assert [one["outcome"] for one in again] == ["known"] * 4
    assert len(rows(web)) == 4
    with web.database.read() as connection:
        events = [row["study"] for row in find_events(connection, EventFilter(action="images_received"))]
    assert len(events) == 8


def test_what_is_no_image_is_refused_with_its_reason_and_the_others_are_taken(web):
    [good] = cheap_series(1, rows=64, columns=64)
    answer = upload(web, ("notes.txt", b"hello"), ("empty.dcm", b""), ("cut.dcm", good[:-500]), ("good.dcm", good))
    assert answer.status_code == 200
    told = answer.json()["files"]
    assert [one["outcome"] for one in told] == ["refused", "refused", "refused", "received"]
    assert "neither a DICOM object nor a JPEG, PNG or TIFF" in told[0]["text"]
    assert "truncated" in told[2]["text"]
    assert len(rows(web)) == 1
    assert upload(web, ("notes.txt", b"hello")).status_code == 422
    lateral = BytesIO()
    dicom_radiograph(3, size=64, ViewPosition="LL").save_as(lateral, enforce_file_format=True)
    [one] = upload(web, ("lateral.dcm", lateral.getvalue())).json()["files"]
    assert (one["outcome"], one["status"], one["text"]) == (
        "received", "not_assessed", "not assessed: a lateral or decubitus view",
    )  # fmt: skip


def test_a_form_without_scripts_shows_what_became_of_each_file_as_text(web):
    [good] = cheap_series(1, rows=64, columns=64)
    with web.browser() as browser:
        empty = browser.get("/upload")
        assert empty.status_code == 200
        assert 'enctype="multipart/form-data"' in empty.text
        shown = browser.post("/upload", files=[("files", (NASTY, good)), ("files", ("a.txt", b"no"))])
    assert shown.status_code == 200
    assert "<script>alert" not in shown.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown.text
    assert "\u202e" not in shown.text
    assert "Research use only" in shown.text
    [row] = rows(web)
    assert row.origin == "upload://local@127.0.0.1/script>%E2%80%AE.dcm", "behind the last slash"
    assert not [path for path in web.settings.home.rglob("*") if "script" in path.name], "a name is never a path"


FORM = "multipart/form-data; boundary=XX"
PART = b'--XX\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n'
NO_FORMS = (
    (b"", FORM, 400),
    (b"--XX--", FORM, 400),
    (PART % b"a" + b"cut", FORM, 400),
    (PART % b"" + b"\r\n--XX--", FORM, 400),
    (b"--XX\r\n\r\nno file\r\n--XX--", FORM, 400),
    (b"files=x", "application/x-www-form-urlencoded", 415),
    (b"--XX--", "multipart/related; boundary=XX", 415),
    (b"--XX--", "multipart/form-data", 415),
    (b"", "", 415),
)


def test_what_is_no_form_with_files_is_refused(web):
    for content, kind, status in NO_FORMS:
        answer = web.client.post("/upload", content=content, headers={"Content-Type": kind})
        assert answer.status_code == status, (content, kind, answer.text)
    assert rows(web) == []


def test_a_form_that_breaks_off_tells_what_was_taken(web):
    [good] = cheap_series(1, rows=64, columns=64)
    body = PART % b"good.dcm" + good + b"\r\n" + PART % b"cut.dcm" + good[:1000]
    answer = web.client.post("/upload", content=body, headers={"Content-Type": FORM})
    told = answer.json()["files"]
    assert [(one["file"], one["outcome"]) for one in told] == [("good.dcm", "received"), ("cut.dcm", "failed")]
    assert len(rows(web)) == 1


def test_a_full_disk_is_told_for_every_file_and_another_try_is_worth_it(tmp_path):
    settings = web_settings(tmp_path / "home")
    full = settings.spool.model_copy(update={"min_free_mib": 1 << 40})
    with running_web(settings.model_copy(update={"spool": full})) as web:
        answer = upload(web, *[(str(number), data) for number, data in enumerate(cheap_series(3, rows=64, columns=64))])
        assert answer.status_code == 507
        assert int(answer.headers["retry-after"]) > 0
        assert [one["outcome"] for one in answer.json()["files"]] == ["failed"] * 3
        assert rows(web) == []


def test_operators_upload_and_readers_do_not(tmp_path):
    with running_web(web_settings(tmp_path / "home", login=True)) as web:
        [data] = cheap_series(1, rows=64, columns=64)
        statuses = {}
        for name, role in (("rita", "reader"), ("otto", "operator")):
            with web.database.write() as connection:
                users.add_account(connection, name, UserRole(role), None)
                token = users.add_token(connection, name, "test", 1)
            headers = {"Authorization": f"Bearer {token}"}
            statuses[name] = upload(web, ("film.dcm", data), headers=headers).status_code
        assert statuses == {"rita": 403, "otto": 200}
        assert upload(web, ("film.dcm", data)).status_code == 401
        assert [row.origin for row in rows(web)] == ["upload://otto@127.0.0.1/film.dcm"]


def test_another_sites_form_uploads_nothing(web):
    [data] = cheap_series(1, rows=64, columns=64)
    assert upload(web, ("a", data), headers={"Origin": "https://evil.example"}).status_code == 403
    assert rows(web) == []
