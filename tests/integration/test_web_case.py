"""The page of a case, its pixels, and what readers say there. Over real HTTP."""

import json
import re
import struct
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from medd.dicom.source import lenient
from medd.errors import TransientError
from medd.imaging.isolated import Isolated
from medd.imaging.pixels import load_levels
from medd.queue.base import CLASSIFY
from medd.records import UNSURE, Reason
from medd.registry import bundle as bundles
from medd.store.annotations import find_truths
from medd.store.audit import EventFilter, find_events
from medd.store.inserts import InstanceInserter
from medd.store.retention import Retention, Rules
from medd.store.studies import find_study
from medd.testing import dicom_radiograph, jpeg_radiograph, stub_bundle, write_stub_plugin
from medd_web import decoding, picture
from medd_web.header import describe
from tests.rows import instance_row
from tests.studies import NAMES, padded
from tests.support import in_place
from tests.ward import Ward
from tests.web import BROWSER, running_web, web_settings

STUDY = "1.2.826.0.1.3680043.8.498.1"


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with running_web(web_settings(tmp_path / "home")) as web:
        yield Ward(web, tmp_path)


def get(ward: Ward, study: str = STUDY, more: str = "", **headers: str) -> httpx.Response:
    return ward.web.client.get(f"/case?study={study}{more}", headers=BROWSER | headers)


def words(page: str) -> str:
    """What of a page is text."""
    return " ".join(unescape(re.sub("<[^>]*>", " ", re.sub("(?s)<(dialog|script).*?</\\1>", "", page))).split())


def post(ward: Ward, path: str, htmx: bool = True, **data: object) -> httpx.Response:
    headers = {"HX-Request": "true"} if htmx else {}
    return ward.web.client.post(path, data=data, headers=BROWSER | headers)


def truths(ward: Ward) -> dict[int, dict[str, str]]:
    with ward.database.read() as connection:
        return {truth.instance_id: truth.labels for truth in find_truths(connection)}


def audited(ward: Ward) -> list[tuple[str, str, str, str]]:
    with ward.database.read() as connection:
        found = [(e["action"], e["study"], e["instance"], e["detail"]) for e in find_events(connection, EventFilter())]
    return [event for event in found if not event[0].startswith("server_")][::-1]


# -- what is shown -------------------------------------------------------------------------------------------------


def test_a_finding_is_shown_with_its_probability_threshold_and_model(ward):
    ward.film(1, 0.876, StudyInstanceUID=STUDY, patient_id="P-1", AccessionNumber="A-1")
    page = get(ward).text
    text = words(page)
    assert "Finding PNEUMONIA" in text
    assert "p = 0.876 threshold 0.500" in text
    assert "P-1" in text
    assert "accession A-1" in text
    assert "SYNTHETIC" in text, "the patient's name, from the film itself"
    assert 'data-heat="1"' in page
    assert "Agree a PNEUMONIA" in text
    assert "Disagree d NORMAL" in text


def test_the_case_of_an_image_that_retention_has_deleted_is_shown_with_its_results(ward):
    id_ = ward.film(1, 0.876, StudyInstanceUID=STUDY, patient_id="P-1")
    kept = {what: ward.web.client.get(f"/image/{id_}/{what}").headers["etag"] for what in ("levels", "thumbnail")}
    Retention(ward.database, ward.web.context.spool).run(Rules(images=timedelta(0)))
    answer = get(ward)
    assert answer.status_code == 200
    assert "Finding PNEUMONIA p = 0.876" in words(answer.text)
    for what, etag in kept.items():
        gone = ward.web.client.get(f"/image/{id_}/{what}", headers={"If-None-Match": etag})
        assert gone.status_code == 410
        gone = ward.web.client.get(f"/image/{id_}/{what}")
        assert gone.status_code == 410, "nor from memory"
        assert "its results stay" in gone.json()["detail"]
    assert ward.web.client.get(f"/image/{id_}/heat").status_code == 200
    assert "its bytes were deleted" in ward.web.client.get(f"/case/trail?study={STUDY}", headers=BROWSER).text


def test_below_the_threshold_is_said_so_and_has_no_heat_map(ward):
    id_ = ward.film(1, 0.2, StudyInstanceUID=STUDY)
    page = get(ward).text
    assert "Below the threshold PNEUMONIA p = 0.200 threshold 0.500" in words(page)
    assert "data-heat" not in page
    assert ward.web.client.get(f"/image/{id_}/heat").status_code == 404


def test_what_was_not_assessed_shows_why_and_no_score(ward):
    ward.refuse(ward.film(1, StudyInstanceUID=STUDY))
    text = words(get(ward).text)
    assert "Not assessed unlike what the model was trained on novelty 2.10, above 1.73 refused by stub/1" in text
    assert "it may hold anything" in text
    assert "p =" not in text
    assert "Agree" not in text, "there is nothing to agree with"
    assert "NORMAL PNEUMONIA Cannot tell" in text


def test_what_the_model_is_for_and_not_for_stands_beside_it(ward):
    ward.film(1, 0.9, StudyInstanceUID=STUDY)
    assert "What stub/1 is for Tests of medd; never for people." in words(get(ward).text)


def test_a_model_is_told_of_by_the_figures_it_has(ward, monkeypatch):
    ward.film(1, 0.9, StudyInstanceUID=STUDY)
    for auroc, told in ((0.987, "AUROC 0.987, on 4 images"), (None, "Measured on 4 images")):
        bundle = bundles.read(ward.web.settings.home / "stub-bundle", verify=False)
        changed = bundle.model_copy(update={"evaluation": {"n": 4, "auroc": auroc}})
        monkeypatch.setattr("medd_web.case._read_bundle", lambda *_, changed=changed: changed)
        assert told in words(get(ward).text)


def test_a_flag_is_a_sentence(ward):
    id_ = ward.film(1, StudyInstanceUID=STUDY)
    ward.score(id_, 0.9, flags=("age_outside_training", "made_up"))
    text = words(get(ward).text)
    assert "younger or older than those whom the model learned from" in text
    assert "made up" in text


def test_images_of_one_study_are_one_case(ward):
    ids = [ward.film(seed, p, StudyInstanceUID=STUDY) for seed, p in ((1, 0.1), (2, 0.9), (3, None))]
    page = get(ward).text
    assert f'data-image="{ids[1]}"' in page, "the one that decides comes first"
    assert "1: 0.100 2: 0.900 3: waiting" in words(page)
    assert f'data-image="{ids[0]}"' in get(ward, more=f"&image={ids[0]}").text
    assert f'data-image="{ids[1]}"' in get(ward, more="&image=999").text
    picture_ = ward.web.client.get(f"/image/{ids[2]}/thumbnail")
    assert max(cv2.imdecode(np.frombuffer(picture_.content, np.uint8), -1).shape) == decoding.THUMBNAIL


def test_of_a_study_with_too_many_images_the_one_that_decides_is_among_those_shown(ward, monkeypatch):
    monkeypatch.setattr("medd_web.case.MAX_IMAGES", 2)
    ids = [ward.film(seed, p, StudyInstanceUID=STUDY, size=64) for seed, p in enumerate((0.1, 0.2, 0.3, 0.9))]
    page = get(ward).text
    assert f'data-image="{ids[3]}"' in page
    assert "and 2 more" in words(page)


def test_a_case_is_found_by_what_names_one_of_its_images(ward):
    first = ward.film(1, 0.9, StudyInstanceUID=STUDY, SOPInstanceUID="1.2.3.4")
    assert get(ward, "1.2.3.4").headers["location"] == f"/case?study={STUDY}&image={first}"
    for key in ("nothing", "1.2.3.5", "0" * 64):
        assert get(ward, key).status_code == 404
    for key in ("x" * 201, "%00"):
        assert get(ward, key).status_code == 422


def test_an_image_file_is_a_case_too(ward):
    id_ = ward.receive(jpeg_radiograph(1, size=128), origin="file:ward/1.jpg")
    answer = get(ward, str(id_))
    page = ward.web.client.get(answer.headers["location"], headers=BROWSER)
    assert "No patient ID" in words(page.text)
    assert ward.web.client.get(f"/image/{id_}/levels").status_code == 200


def test_other_studies_of_the_patient_are_listed_newest_first(ward):
    ward.film(1, 0.9, StudyInstanceUID=STUDY, patient_id="P")
    ward.film(2, 0.2, StudyInstanceUID="1.2.2", patient_id="P", minutes_ago=600)
    ward.film(3, StudyInstanceUID="1.2.3", patient_id="P", minutes_ago=60)
    ward.film(4, 0.7, StudyInstanceUID="1.2.4", patient_id="PP")
    page = get(ward).text
    assert re.findall(r"study=(1\.2\.\d)\"", page) == ["1.2.3", "1.2.2"]
    assert "Below 0.200" in words(page)
    ward.fail(ward.film(6, StudyInstanceUID="1.2.2", patient_id="P"))
    page = words(get(ward).text)
    assert "Failed 1 of 2 images failed: tried too often" in page
    assert "Below" not in page.partition("Other studies")[2]
    [row] = ward.web.client.get("/api/v1/studies?status=failed").json()["items"]
    assert (row["place"], row["probability"], row["label"]) == ("overdue", 0.2, None)
    ward.film(5, 0.9, StudyInstanceUID="1.2.5", patient_id=" ")
    assert "Other studies" not in get(ward, "1.2.5").text


def test_studies_that_share_a_placeholder_for_an_id_are_not_listed_as_one_patients(ward, monkeypatch):
    monkeypatch.setattr("medd_web.case.MAX_OTHERS", 2)
    for seed, uid in enumerate((STUDY, "1.2.2", "1.2.3")):
        ward.film(seed, StudyInstanceUID=uid, patient_id="ANONYMOUS", size=64)
    assert 'study=1.2.2"' in get(ward).text
    ward.film(4, StudyInstanceUID="1.2.4", patient_id="ANONYMOUS", size=64)
    page = get(ward).text
    assert "More than 2 studies have this Patient ID: it does not tell one patient from others" in words(page)
    assert not re.findall(r"study=(1\.2\.\d)\"", page)


def test_the_trail_is_that_of_medd_explain(ward):
    ward.film(1, 0.9, StudyInstanceUID=STUDY)
    get(ward)
    text = words(ward.web.client.get(f"/case/trail?study={STUDY}").text)
    assert "received received from CR1@10.0.0.1 over DICOM" in text
    assert "scored stub/1: PNEUMONIA p = 0.900, at or above threshold 0.500" in text
    assert "accessed local from 127.0.0.1: case seen" in text


# -- pixels --------------------------------------------------------------------------------------------------------


def unpack(data: bytes) -> tuple[dict, np.ndarray, np.ndarray]:
    """As viewer.js does."""
    head, length = struct.unpack_from("<II", data)
    about = json.loads(data[8 : 8 + length])
    shown = np.frombuffer(data, np.uint8, about["levels"], (8 + length + 3) // 4 * 4)
    pixels = np.frombuffer(data, f"<u{about['bytes']}", about["rows"] * about["columns"], head)
    return about, shown, pixels.reshape(about["rows"], about["columns"])


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_every_grey_value_is_sent_once_and_whole(ward, tmp_path, bits):
    film = dicom_radiograph(1, size=(100, 131), bits=bits, photometric="MONOCHROME1")
    film.save_as(tmp_path / "same.dcm", enforce_file_format=True)
    expected = load_levels(tmp_path / "same.dcm")
    answer = ward.web.client.get(f"/image/{ward.receive(film)}/levels")
    about, shown, pixels = unpack(answer.content)
    assert_array_equal(pixels, expected.pixels)
    assert_array_equal(shown, expected.shown)
    assert (about["rows"], about["columns"], about["inverse"]) == (100, 131, True)
    assert about["windows"] == [[2 ** (bits - 1), 2**bits]]


def test_a_picture_is_kept_but_asked_about_each_time(ward):
    id_ = ward.film(1, 0.9)
    for what in ("levels", "thumbnail"):
        answer = ward.web.client.get(f"/image/{id_}/{what}")
        assert answer.headers["cache-control"] == "private, no-cache"
        again = {"If-None-Match": f'"other", {answer.headers["etag"]}'}
        known = ward.web.client.get(f"/image/{id_}/{what}", headers=again)
        assert (known.status_code, known.content) == (304, b"")


def test_a_heat_map_is_clear_where_it_is_cold(ward):
    id_ = ward.film(1, 0.9)
    answer = ward.web.client.get(f"/image/{id_}/heat")
    painted = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert painted.shape == (picture.HEAT, picture.HEAT, 4)
    assert (painted[..., 3].min(), painted[..., 3].max()) == (0, 255)


@pytest.mark.parametrize(
    ("damage", "status", "told"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-9000]), 422, "cannot be decoded"),
        (lambda path: path.write_bytes(b"nothing"), 422, "cannot be decoded"),
        (lambda path: path.unlink(), 503, "cannot be read"),
    ],
)
def test_what_cannot_be_shown_says_why_in_a_sentence(ward, damage, status, told):
    id_ = ward.film(1, 0.9, StudyInstanceUID=STUDY)
    [path] = ward.web.context.spool.root.glob("*/*.dcm")
    damage(path)
    for what in ("levels", "thumbnail"):
        answer = ward.web.client.get(f"/image/{id_}/{what}")
        assert answer.status_code == status
        assert told in answer.json()["detail"]
    assert get(ward).status_code == 200, "all else of the case is there"


def test_what_is_too_large_is_refused_before_it_is_decoded(ward, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 1000)
    monkeypatch.setattr(Isolated, "call", lambda _, order: in_place(decoding.make)([order])[0])
    answer = ward.web.client.get(f"/image/{ward.film(1)}/levels")
    assert answer.status_code == 422
    assert "more than 1000 pixels. Received: 256×256" in answer.json()["detail"]


def test_only_some_decode_at_one_time_and_the_rest_come_again(ward, monkeypatch):
    id_ = ward.film(1, 0.9)
    may_end, inside = threading.Event(), threading.Semaphore(0)

    def slow(isolated: Isolated, order: object, call=Isolated.call):
        inside.release()
        assert may_end.wait(30)
        return call(isolated, order)

    monkeypatch.setattr(Isolated, "call", slow)
    statuses: list[int] = []
    ask = lambda: statuses.append(httpx.get(f"{ward.web.url}image/{id_}/levels", timeout=60).status_code)  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(picture.DECODING + picture.WAITING)]
    for thread in threads:
        thread.start()
    for _ in range(picture.DECODING):
        assert inside.acquire(timeout=30)
    answer = None
    for _ in range(1000):  # until the last one waits
        answer = ward.web.client.get(f"/image/{id_}/levels", timeout=60) if not picture._waiting._value else None
        if answer is not None:
            break
        threading.Event().wait(0.01)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert not inside.acquire(blocking=False)
    may_end.set()
    for thread in threads:
        thread.join(60)
    assert statuses == [200] * len(threads)


@pytest.mark.parametrize("id_", ["0", "999", "-1", "9223372036854775808", "-99999999999999999999", "9" * 400, "x"])
def test_an_image_that_is_not_there_is_not_found(ward, id_):
    for what in ("levels", "thumbnail", "heat"):
        assert ward.web.client.get(f"/image/{id_}/{what}").status_code in (404, 422)


# -- what readers do -----------------------------------------------------------------------------------------------


def test_a_reader_agrees_disagrees_cannot_tell_and_takes_it_back(ward):
    id_ = ward.film(1, 0.9, StudyInstanceUID=STUDY)
    side = words(post(ward, "/case/say", image=id_, label="PNEUMONIA", comment=" lower left ").text)
    assert "You say: PNEUMONIA Undo" in side
    assert "local : PNEUMONIA lower left" in side
    assert "Read by local" in side
    assert truths(ward) == {id_: {"local": "PNEUMONIA"}}
    post(ward, "/case/say", image=id_, label="NORMAL")
    assert truths(ward) == {id_: {"local": "NORMAL"}}
    assert "You say: cannot tell" in words(post(ward, "/case/say", image=id_, label=UNSURE).text)
    assert truths(ward) == {}
    side = words(post(ward, "/case/undo", image=id_).text)
    assert "You say" not in side
    assert "local : took it back" in side
    assert truths(ward) == {}
    with ward.database.read() as connection:
        assert find_study(connection, STUDY)["read_by"] is None
    seen = [event for event in audited(ward) if event[0] == "annotated"]
    assert seen == [("annotated", STUDY, str(id_), said) for said in ("PNEUMONIA", "NORMAL", "?", "taken back")]


def test_a_model_of_many_labels_has_a_button_for_each(tmp_path):
    labels = ("NORMAL", "PNEUMONIA", "EFFUSION")
    (tmp_path / "home" / "plugins").mkdir(parents=True)
    write_stub_plugin(tmp_path / "home" / "plugins", stub_bundle(tmp_path / "bundle", labels))
    with running_web(web_settings(tmp_path / "home")) as web:
        ward = Ward(web, tmp_path)
        id_ = ward.film(1, 0.9, StudyInstanceUID=STUDY)
        text = words(get(ward).text)
        assert "Agree a PNEUMONIA NORMAL EFFUSION Cannot tell" in text
        assert "Disagree" not in text, "with what, if there are several?"
        post(ward, "/case/say", image=id_, label="EFFUSION")
        assert truths(ward) == {id_: {"local": "EFFUSION"}}


def test_what_an_earlier_model_said_in_other_labels_cannot_be_agreed_with(ward):
    id_ = ward.film(1, StudyInstanceUID=STUDY)
    ward.score(id_, 0.9, model="old/1", label="OLD", probabilities={"OLD": 0.9, "NEW": 0.1}, findings=("OLD",))
    text = words(get(ward).text)
    assert "Finding OLD" in text
    assert "NORMAL PNEUMONIA Cannot tell" in text
    assert "Agree" not in text
    assert "What old/1 is for" not in text, "its bundle is not here"


def test_without_scripts_the_page_comes_again(ward):
    id_ = ward.film(1, 0.9, StudyInstanceUID=STUDY)
    answer = post(ward, "/case/say?q=P", htmx=False, image=id_, label="NORMAL")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/case?study={STUDY}&q=P&image={id_}")
    assert post(ward, "/case/undo", htmx=False, image=id_).headers["location"].endswith(f"&image={id_}")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ({"image": 1, "label": "FRACTURE"}, 400),
        ({"image": 1, "label": ""}, 422),
        ({"image": 1, "label": "NOR\0MAL"}, 422),
        ({"image": 1, "label": "NORMAL", "comment": "x" * 501}, 422),
        ({"image": 77, "label": "NORMAL"}, 404),
        ({"image": 0, "label": "NORMAL"}, 422),
        ({"label": "NORMAL"}, 422),
    ],
)
def test_what_cannot_be_said_is_not_kept(ward, data, status):
    ward.film(1, 0.9)
    assert post(ward, "/case/say", **data).status_code == status
    assert truths(ward) == {}


def test_read_and_next_leads_to_the_most_urgent_that_is_left(ward):
    for seed, (uid, p) in enumerate((("1.2.1", 0.7), ("1.2.2", 0.9), ("1.2.3", 0.8))):
        ward.film(seed, p, StudyInstanceUID=uid, patient_id=f"P{seed}", size=64)
    answer = post(ward, "/case/read", study="1.2.2")
    assert (answer.status_code, answer.headers["location"]) == (303, "/case?study=1.2.3")
    assert post(ward, "/case/read?q=P2", study="1.2.3").headers["location"] == "/?q=P2"
    with ward.database.read() as connection:
        assert find_study(connection, "1.2.2")["read_by"] == "local"
    answer = post(ward, "/case/read", study="1.2.2", unread=1)
    assert answer.headers["location"] == "/case?study=1.2.2"
    with ward.database.read() as connection:
        assert find_study(connection, "1.2.2")["read_at"] is None
    assert post(ward, "/case/read", study="nothing").status_code == 404
    assert [event[3] for event in audited(ward) if event[0] == "study_read"] == ["", "", "unread"]


def read_by(ward: Ward) -> str | None:
    with ward.database.read() as connection:
        return find_study(connection, STUDY)["read_by"]


def seen_of(page: str) -> set[str]:
    """What the forms of a page send along: how many images it showed."""
    return set(re.findall(r'name="seen" value="(\d+)"', page))


def test_an_image_that_came_after_the_page_was_opened_is_not_read_but_shown(ward):
    ward.film(1, 0.2, StudyInstanceUID=STUDY)
    [seen] = seen_of(get(ward).text)
    late = ward.film(2, 0.9, StudyInstanceUID=STUDY)
    answer = post(ward, "/case/read", study=STUDY, seen=seen)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/case?study={STUDY}&image={late}&late=1")
    assert read_by(ward) is None
    assert not [event for event in audited(ward) if event[0] == "study_read"]
    page = ward.web.client.get(answer.headers["location"], headers=BROWSER).text
    assert "A new image came meanwhile" in words(page)
    assert f'data-image="{late}"' in page
    [seen] = seen_of(page)
    assert post(ward, "/case/read", study=STUDY, seen=seen).headers["location"] == "/"
    assert read_by(ward) == "local"
    assert "A new image" not in words(get(ward).text)


def test_what_is_said_of_one_image_does_not_mark_a_later_one_as_read(ward):
    id_ = ward.film(1, 0.2, StudyInstanceUID=STUDY)
    late = ward.film(2, 0.9, StudyInstanceUID=STUDY)
    side = post(ward, "/case/say", image=id_, label="NORMAL", seen=1).text
    assert "A new image came meanwhile: the study is not read. Show it" in words(side)
    assert f"&amp;image={late}" in side
    assert seen_of(side) == {"1"}, "the page around it shows one image still"
    assert truths(ward) == {id_: {"local": "NORMAL"}}
    assert read_by(ward) is None
    [query] = re.findall('data-query="([^"]+)"', side)
    side = ward.web.client.get(f"/case/side?{unescape(query)}", headers=BROWSER).text
    assert seen_of(side) == {"1"}, "nor does a refresh of the side show the other"
    answer = post(ward, "/case/say", htmx=False, image=id_, label=UNSURE, seen=1)
    assert answer.headers["location"].endswith(f"&image={id_}&late=1")
    assert read_by(ward) is None
    side = post(ward, "/case/say", image=late, label="PNEUMONIA", seen=2).text
    assert "A new image" not in words(side)
    assert read_by(ward) == "local"


def test_a_change_and_its_event_are_kept_together_or_not_at_all(ward, monkeypatch):
    def fail(*_, **__):
        raise TransientError("the disk is full")

    id_ = ward.film(1, 0.9, StudyInstanceUID=STUDY)
    monkeypatch.setattr("medd_web.audit.add_event", fail)
    assert post(ward, "/case/say", image=id_, label="NORMAL").status_code == 503
    assert post(ward, "/case/read", study=STUDY).status_code == 503
    assert ward.web.client.post("/api/v1/annotations", json={"uid": str(id_), "label": "NORMAL"}).status_code == 503
    assert (truths(ward), read_by(ward)) == ({}, None)


def test_only_what_changes_something_is_an_event_and_names_the_study(ward):
    id_ = ward.film(1, 0.9, StudyInstanceUID=STUDY)
    for data in ({}, {}, {"unread": 1}, {"unread": 1}):
        assert post(ward, "/case/read", study=str(id_), **data).status_code == 303
    post(ward, "/case/undo", image=id_)
    assert audited(ward) == [("study_read", STUDY, "", ""), ("study_read", STUDY, "", "unread")]


def test_next_leads_on_from_any_place_of_a_long_list(ward):
    inserter = InstanceInserter(ward.database, CLASSIFY)
    now = datetime.now(UTC)
    inserter.add([instance_row(n, received_at=now - timedelta(minutes=1, seconds=-n / 100)) for n in range(600)])
    inserter.close()
    answer = ward.web.client.get("/case/next?study=1.2.1.550", headers=BROWSER)
    assert answer.headers["location"] == "/case?study=1.2.1.551"
    assert ward.web.client.get("/case/next?study=1.2.1.599", headers=BROWSER).headers["location"] == "/"


def test_next_leads_down_the_list_and_leaves_the_study_where_it_is(ward):
    for seed, (uid, p) in enumerate((("1.2.1", 0.7), ("1.2.2", 0.9), ("1.2.3", 0.8))):
        ward.film(seed, p, StudyInstanceUID=uid, size=64)
    way, at = [], "1.2.2"
    for _ in range(3):
        answer = ward.web.client.get(f"/case/next?study={at}", headers=BROWSER)
        way.append(answer.headers["location"])
        at = way[-1].removeprefix("/case?study=")
    assert way == ["/case?study=1.2.3", "/case?study=1.2.1", "/"]


def test_who_looks_at_a_case_is_on_record_before_it_is_shown_once_for_a_visit(ward):
    id_ = ward.film(1, 0.9, StudyInstanceUID=STUDY)
    get(ward)
    for what in ("levels", "heat", "thumbnail", "levels"):
        ward.web.client.get(f"/image/{id_}/{what}")
    assert audited(ward) == [("case_seen", STUDY, str(id_), "")]
    get(ward)
    assert len(audited(ward)) == 2


@pytest.mark.parametrize(("part", "named"), [("side", True), ("trail", False)])
def test_who_asks_for_a_part_of_the_page_alone_is_on_record_once(ward, part, named):
    id_ = ward.film(1, 0.9, StudyInstanceUID=STUDY)
    for _ in range(2):
        assert ward.web.client.get(f"/case/{part}?study={STUDY}").status_code == 200
    assert audited(ward) == [("case_seen", STUDY, str(id_) if named else "", "")]


def test_the_parts_of_a_page_are_one_visit(ward):
    ward.film(1, 0.9, StudyInstanceUID=STUDY)
    get(ward)
    for part in ("side", "trail"):
        ward.web.client.get(f"/case/{part}?study={STUDY}")
    assert len(audited(ward)) == 1


def test_who_asks_for_the_pixels_alone_is_on_record_too(ward):
    id_ = ward.film(1, 0.9, StudyInstanceUID=STUDY)
    ward.web.client.get(f"/image/{id_}/levels")
    assert audited(ward) == [("case_seen", STUDY, str(id_), "")]


# -- what a peer wrote ---------------------------------------------------------------------------------------------

HOSTILE = "<script>alert(1)</script>'\"{{ 7*191 }}\u202eevil\u2066"


def hostile_film(text: str = HOSTILE):
    film = dicom_radiograph(1, size=64, SpecificCharacterSet="ISO_IR 192", StudyInstanceUID=STUDY)
    with lenient():
        film.PatientName = (text * 3000)[:64_000]
        film.PatientID = film.AccessionNumber = film.StationName = film.Manufacturer = text
        film.PatientComments = film.ImageComments = film.StudyDescription = film.SeriesDescription = text
    return film


def test_what_a_peer_wrote_is_text_everywhere(ward):
    with lenient():
        id_ = ward.receive(hostile_film(), origin=f"file:{HOSTILE}")
    ward.score(id_, 0.9, seed=1)
    ward.web.client.post("/case/say", data={"image": id_, "label": "NORMAL", "comment": HOSTILE}, headers=BROWSER)
    pages = [get(ward).text, ward.web.client.get("/?read=all").text]
    pages += [ward.web.client.get(f"/case/{part}?study={STUDY}").text for part in ("side", "trail")]
    for page in pages:
        assert "<script>alert" not in page
        assert "alert(1)" in page, "it is shown"
        assert not set("\u202e\u2066") & set(page)
        assert "1337" not in page
    assert len(pages[0]) < 60_000, "64 KB are not shown whole"


def test_a_name_is_written_as_people_write_it(tmp_path):
    film = dicom_radiograph(1, size=64, patient_name="Yamada^Tarou=山田^太郎", SpecificCharacterSet="ISO_IR 192")
    film.PatientAge, film.PatientBirthDate, film.PatientSex = "018M", "20240229", "M"
    film.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    facts = dict(describe(tmp_path / "film.dcm"))
    assert facts["Name"] == "Yamada Tarou · 山田 太郎"
    assert facts["Born"] == "2024-02-29"
    assert facts["Sex, age"] == "M · 18 months"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_any_character_set_can_be_read(tmp_path, name):
    charset, value = NAMES[name]
    film = dicom_radiograph(1, size=64, SpecificCharacterSet=charset.split("\\"))
    film[0x00100010] = RawDataElement(Tag(0x00100010), "PN", len(padded(value)), padded(value), 0, False, True)
    with lenient():
        film.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    shown = dict(describe(tmp_path / "film.dcm"))["Name"]
    expected = {
        "cyrillic": "Люкceмбypг",
        "greek": "Διονυσιος",
        "arabic": "قباني لنزار",
        "utf8": "Wang XiaoDong · 王 小東",
    }
    expected |= {"japanese": "Yamada Tarou · 山田 太郎 · やまだ たろう", "latin1_unsaid": "Müller Jörg"}
    expected |= {"korean": "Hong Gildong · 洪 吉洞 · 홍 길동", "gb18030": "Wang XiaoDong · 王 小东"}
    assert shown == expected.get(name, "ﾔﾏﾀﾞ ﾀﾛｳ · 山田 太郎 · やまだ たろう")


def test_a_header_that_cannot_be_read_says_nothing(tmp_path):
    (tmp_path / "film.dcm").write_bytes(b"no DICOM")
    assert describe(tmp_path / "film.dcm") == []
    assert describe(tmp_path / "nowhere.dcm") == []


def test_words_for_every_reason_and_status():
    from medd_web import words as told

    assert all(told.reason(reason) for reason in Reason)
    assert told.reason("of_a_plugin") == "of a plugin"
    assert [told.probability(0.49996, 0.5), told.probability(0.5, 0.5), told.probability(0.2)] == [
        "0.49996",
        "0.500",
        "0.200",
    ]
