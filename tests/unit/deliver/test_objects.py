import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread, uid
from pydicom.tag import Tag
from pynetdicom.dsutils import encode

from medd import plugins
from medd.deliver.objects import KINDS, ReportObjects, codes_of
from medd.dicom.source import lenient
from medd.errors import Casualty, InputError, TransientError
from medd.hookspecs import ClassifierSpec
from medd.imaging.isolated import Isolated
from medd.records import PATIENT_CONFLICT, MediaType, Reason, Status
from tests.studies import CODES, NAMES, film, film_bytes, image, padded, prediction, report, saved

#: Those whose bytes hang on the character set (PS3.5 section 6.1.2.2).
TEXT_VRS = ("LO", "LT", "PN", "SH", "ST", "UC", "UT", "CS")


def all_objects(tmp_path: Path, source: Dataset | bytes, **changes: object) -> dict[str, Dataset]:
    """One object of each kind of a study of one scored image."""
    like = changes.pop("like", None)
    objects = ReportObjects(report(image(tmp_path, source, prediction(**changes), like=like)), CODES)
    return {kind: one for kind in KINDS for one in objects.make(kind)}


@pytest.mark.parametrize("script", NAMES)
def test_name_of_the_patient_is_byte_for_byte_as_sent(tmp_path, script):
    charset, name = NAMES[script]
    made = all_objects(tmp_path, film_bytes(name, charset))
    source = dcmread(tmp_path / "1.dcm")
    assert set(made) == set(KINDS)
    for one in made.values():
        data = saved(one)
        element = b"\x10\x00\x10\x00PN" + len(padded(name)).to_bytes(2, "little") + padded(name)
        assert data.count(element) == 1
        # As pynetdicom sends it, to a peer that takes explicit VR and to one that takes implicit VR alone.
        assert padded(name) in encode(one, False, True)
        assert name.rstrip(b"=") in encode(one, True, True)  # pydicom leaves out an empty last component
        again = dcmread(tmp_path / "1.dcm")
        assert again.get("SpecificCharacterSet") == one.get("SpecificCharacterSet")
        assert str(one.PatientName) == str(source.PatientName)


@pytest.mark.parametrize("script", NAMES)
def test_what_is_not_copied_is_ascii(tmp_path, script):
    charset, name = NAMES[script]
    made = all_objects(tmp_path, film_bytes(name, charset), flags=("too_old_×",), model="größe/1")
    for one in made.values():
        texts = {element.tag: str(element.value) for element in one.iterall() if element.VR in TEXT_VRS}
        assert [tag for tag, text in texts.items() if not text.isascii() and tag != Tag("PatientName")] == []


def test_same_report_gives_the_same_bytes(tmp_path):
    one, two = all_objects(tmp_path, film()), all_objects(tmp_path, film())
    assert {kind: saved(made) for kind, made in one.items()} == {kind: saved(made) for kind, made in two.items()}


def test_new_model_version_gives_new_objects_in_the_same_series(tmp_path):
    one, two = all_objects(tmp_path, film()), all_objects(tmp_path, film(), model="pneumonia/2")
    for kind in ("sc", "gsps"):
        assert one[kind].SOPInstanceUID != two[kind].SOPInstanceUID
        assert one[kind].SeriesInstanceUID == two[kind].SeriesInstanceUID


def test_pictures_do_not_change_when_a_late_image_comes_before_them(tmp_path):
    late = film(3, view="PA", SOPInstanceUID="1.2.3.4")
    first = image(tmp_path, film(), prediction())
    alone = ReportObjects(report(first), CODES)
    joined = ReportObjects(report(image(tmp_path, late, prediction(2), instance_id=2), first, number=2), CODES)
    for kind in ("sc", "gsps"):
        [before] = alone.make(kind)
        assert saved(before) == saved(joined.make(kind)[1])


def test_objects_are_in_the_study_of_the_image_and_in_series_of_their_own(tmp_path):
    source = film()
    made = all_objects(tmp_path, source)
    assert {one.StudyInstanceUID for one in made.values()} == {source.StudyInstanceUID}
    assert len({one.SeriesInstanceUID for one in made.values()} | {source.SeriesInstanceUID}) == 4
    assert len({one.SOPInstanceUID for one in made.values()} | {source.SOPInstanceUID}) == 4
    for one in made.values():
        for keyword in ("PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyDate", "AccessionNumber"):
            assert one[keyword].value == source[keyword].value
        assert (one.Manufacturer, one.file_meta.TransferSyntaxUID) == ("medd", uid.ExplicitVRLittleEndian)


def test_times_are_those_of_the_result_and_in_the_zone_of_the_image(tmp_path):
    made = all_objects(tmp_path, film(TimezoneOffsetFromUTC="+0530"))
    assert made["sc"].ContentTime == made["gsps"].PresentationCreationTime == "083405.000678"
    assert (made["sr"].ContentDate, made["sr"].ContentTime) == ("20260102", "083406.000000")
    assert {one.TimezoneOffsetFromUTC for one in made.values()} == {"+0530"}


def test_zone_of_the_host_changes_nothing(tmp_path, monkeypatch):
    made = []
    for zone in ("UTC", "Asia/Tokyo"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        made.append({kind: saved(one) for kind, one in all_objects(tmp_path, film()).items()})
    monkeypatch.undo()
    time.tzset()
    assert made[0] == made[1]


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
        uid.RLELossless,
    ],
)
def test_every_transfer_syntax_gives_the_same_patient_and_study(tmp_path, syntax):
    physician = Dataset()
    physician.PersonIdentificationCodeSequence, physician.InstitutionName = [], "Krankenhaus"
    study = {"ReferringPhysicianIdentificationSequence": [physician], "PregnancyStatus": 4, "PatientWeight": "12.5"}
    expected = all_objects(tmp_path, film(**study))
    source = film(**study, transfer_syntax=syntax)
    made = all_objects(tmp_path, source)
    for kind in KINDS:
        for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "PatientWeight", *study):
            assert made[kind][keyword] == expected[kind][keyword]
    assert made["sc"].SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_odd_sources_are_copied_as_they_are_and_what_is_missing_is_empty(tmp_path):
    odd = film(
        SpecificCharacterSet=None,
        PatientID=None,
        PatientBirthDate=None,
        StudyDate=None,
        StudyID=None,
        ReferringPhysicianName=None,
        InstanceNumber=None,
        PatientOrientation=None,
        WindowCenter=None,
        PixelSpacing=None,
        ImagerPixelSpacing=None,
    )
    odd.private_block(0x0011, "ACME", create=True).add_new(1, "LO", "private")
    data = saved(odd).replace(b"PatientSex", b"")
    sex = b"\x10\x00\x40\x00CS\x02\x00"
    at = data.index(sex) + len(sex)
    data = data[:at] + b"?!" + data[at + 2 :]
    made = all_objects(tmp_path, data, like=odd)
    assert set(made) == set(KINDS)
    for one in made.values():
        assert "SpecificCharacterSet" not in one
        for keyword in ("PatientID", "PatientBirthDate", "StudyDate", "StudyID", "ReferringPhysicianName"):
            assert keyword in one
            assert not one[keyword].value
        assert b"\x10\x00\x40\x00CS\x02\x00?!" in saved(one)
        assert b"private" not in saved(one)


def test_unknown_character_set_and_invalid_uid_are_passed_on(tmp_path):
    odd = film(SeriesInstanceUID="1.2.33")
    data = saved(odd).replace(b"ISO_IR 192", b"ISO-IR 999").replace(b"1.2.33", b"1.2.03")
    made = all_objects(tmp_path, data, like=odd)
    with lenient():
        assert made["gsps"].ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.03"
        for one in made.values():
            assert b"ISO-IR 999" in saved(one)


def test_images_of_two_patients_are_never_delivered_together(tmp_path):
    first = image(tmp_path, film(), prediction())
    second = image(tmp_path, film(view="PA", patient_id="SECRET-7"), prediction(2), instance_id=2)
    objects = ReportObjects(report(first, second), CODES)
    for kind in KINDS:
        with pytest.raises(InputError, match="name different patients") as caught:
            objects.make(kind)
        assert caught.value.reason == PATIENT_CONFLICT
        assert "SECRET" not in str(caught.value)
        assert "SYN-0003" not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changed", [{"PatientID": None}, {"IssuerOfPatientID": "ELSEWHERE"}])
def test_image_without_the_same_identity_is_another_patients(tmp_path, changed):
    first = image(tmp_path, film(IssuerOfPatientID="HERE"), prediction())
    second = image(tmp_path, film(**({"IssuerOfPatientID": "HERE"} | changed)), prediction(2), instance_id=2)
    with pytest.raises(InputError, match="different patients"):
        ReportObjects(report(first, second), CODES).make("sr")


def test_device_that_leaves_out_who_issued_the_patient_id_contradicts_none(tmp_path):
    first = image(tmp_path, film(), prediction())
    second = image(tmp_path, film(view="PA", IssuerOfPatientID="HERE"), prediction(2), instance_id=2)
    assert [len(ReportObjects(report(first, second), CODES).make(kind)) for kind in KINDS] == [1, 2, 2]


def test_image_without_a_study_has_no_objects(tmp_path):
    lost = replace(report(image(tmp_path, film(StudyInstanceUID=None), prediction())), study_instance_uid="")
    assert [list(ReportObjects(lost, CODES).make(kind)) for kind in KINDS] == [[], [], []]


def test_image_of_another_study_is_never_delivered(tmp_path):
    objects = ReportObjects(report(image(tmp_path, film(), prediction()), study="1.2.3"), CODES)
    with pytest.raises(InputError, match="another study"):
        objects.make("sr")


def test_padding_makes_no_other_patient(tmp_path):
    first = image(tmp_path, film(patient_id="SYN-003"), prediction())
    data = saved(film(patient_id="SYN-003", view="PA")).replace(b"SYN-003 ", b"SYN-003\0")
    second = image(tmp_path, data, prediction(2), instance_id=2)
    assert len(ReportObjects(report(first, second), CODES).make("gsps")) == 2


def test_image_files_have_no_objects(tmp_path):
    photo = replace(image(tmp_path, film(), prediction()), media_type=MediaType.JPEG)
    objects = ReportObjects(report(photo), CODES)
    assert [list(objects.make(kind)) for kind in KINDS] == [[], [], []]


def test_not_assessed_image_has_a_report_and_no_picture(tmp_path):
    objects = ReportObjects(report(image(tmp_path, film(), reason=Reason.LATERAL_VIEW, detail="LL")), CODES)
    assert [len(objects.make(kind)) for kind in KINDS] == [1, 0, 0]


def test_damaged_image_that_nobody_scored_is_reported_beside_the_others(tmp_path):
    damaged = image(tmp_path, b"damaged", reason=Reason.UNREADABLE, instance_id=2, like=film(view="PA"))
    objects = ReportObjects(report(damaged, image(tmp_path, film(), prediction())), CODES)
    [made] = objects.make("sr")
    assert len(made.ContentSequence) > 0
    assert len(objects.make("sc")) == 1


def test_an_image_that_nobody_scored_and_that_is_not_there_is_reported_beside_the_others(tmp_path):
    refused = image(tmp_path, film(), reason=Reason.LATERAL_VIEW, instance_id=2)
    refused.path.unlink()
    objects = ReportObjects(report(refused, image(tmp_path, film(SOPInstanceUID="1.2.3.98"), prediction())), CODES)
    assert [len(objects.make(kind)) for kind in KINDS] == [1, 1, 1]
    with pytest.raises(TransientError):  # nothing is there at all: the disk may come back
        ReportObjects(report(refused), CODES).make("sr")


def test_a_picture_drawn_in_a_process_of_its_own_is_the_same_and_one_that_ends_it_holds_no_report_up(tmp_path):
    told = report(image(tmp_path, film(), prediction()))
    apart = Isolated("medd.deliver.objects:draw", 1)
    try:
        [made] = ReportObjects(told, CODES, apart.call).make("sc")
    finally:
        apart.close()
    assert saved(made) == saved(ReportObjects(told, CODES).make("sc")[0])
    tries: list[object] = []

    def dies(drawing: object) -> Casualty:
        tries.append(drawing)
        return Casualty("did not finish")

    objects = ReportObjects(told, CODES, dies)
    with pytest.raises(InputError, match="no picture"):
        objects.make("sc")
    assert len(tries) == 2
    assert [len(objects.make(kind)) for kind in ("sr", "gsps")] == [1, 1]


def test_damaged_image_that_was_scored_is_an_input_error(tmp_path):
    scored = image(tmp_path, b"damaged", prediction())
    with pytest.raises(InputError, match=r"1\.dcm"):
        ReportObjects(report(scored), CODES).make("sr")


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_damaged_headers_raise_nothing_but_input_errors(tmp_path, syntax, monkeypatch):
    monkeypatch.setattr("medd.deliver.objects.load", lambda *_: np.zeros((64, 64), np.float32))
    source = film(transfer_syntax=syntax, ReferringPhysicianIdentificationSequence=[Dataset()])
    whole = saved(source)
    random = np.random.default_rng(0)
    outcomes = set()
    for _ in range(40):
        data = bytearray(whole)
        for place in random.integers(132, len(whole) - len(source.PixelData), 2):
            data[place] = random.integers(256)
        objects = ReportObjects(report(image(tmp_path, bytes(data), prediction(), like=source)), CODES)
        for kind in KINDS:
            try:
                outcomes.add(bool(objects.make(kind)))
            except InputError as error:
                outcomes.add(str(error.reason))
    assert outcomes >= {True, PATIENT_CONFLICT}


def test_image_that_is_gone_may_come_back(tmp_path):
    scored = image(tmp_path, film(), prediction())
    scored.path.unlink()
    with pytest.raises(TransientError):
        ReportObjects(report(scored), CODES).make("sr")


@pytest.mark.parametrize("size", [(64, 64), (2000, 1600), (1500, 1000), (400, 1000)])
def test_picture_is_of_a_sensible_size_with_text_beneath(tmp_path, size):
    source = film(size=size)
    made = all_objects(tmp_path, source)["sc"]
    assert 512 <= made.Columns <= 1024
    assert made.Rows <= 1024
    picture = made.pixel_array
    # The film above is coloured where it is hot; the text below is light on black, in the headline's colour and grey.
    assert (np.ptp(picture[: made.Rows // 3 * 2].astype(int), axis=2) > 20).any()
    band = picture[-int(0.1 * made.Columns) :]
    assert 0.01 < (band.max(axis=2) > 100).mean() < 0.4


def test_below_threshold_shows_no_heat(tmp_path):
    made = all_objects(tmp_path, film(), probability=0.2)["sc"]
    film_part = made.pixel_array[: made.Rows // 3 * 2].astype(int)
    assert np.ptp(film_part, axis=2).max() == 0
    assert "BELOW threshold" in made.ImageComments
    assert "NORMAL" not in made.ImageComments


def test_another_code_with_other_words_makes_another_picture(tmp_path):
    said = prediction(label="肺炎", probabilities={"NORMAL": 0.069, "肺炎": 0.931}, findings=("肺炎",))
    one = report(image(tmp_path, film(), said))
    for kind in ("sc", "gsps"):
        [plain] = ReportObjects(one, {}).make(kind)
        [named] = ReportObjects(one, {"肺炎": CODES["PNEUMONIA"]}).make(kind)
        assert plain.SOPInstanceUID != named.SOPInstanceUID


def test_kind_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one of sr, sc, gsps"):
        ReportObjects(report(image(tmp_path, film(), prediction())), CODES).make("pdf")


def test_failed_image_makes_the_report_partial(tmp_path):
    failed = image(tmp_path, film(), reason=Reason.RETRIES_EXHAUSTED, status=Status.FAILED)
    assert ReportObjects(report(failed), CODES).make("sr")[0].CompletionFlag == "PARTIAL"


def test_shipped_classifiers_name_their_findings_by_snomed_ct():
    codes = codes_of(plugins.classifiers(plugins.load_plugins()))
    assert codes["PNEUMONIA"] == ("233604007", "SCT", "Pneumonia")
    assert {codes[label][1] for label in ("PNEUMONIA", "BACTERIA", "VIRUS")} == {"SCT"}
    assert "NORMAL" not in codes


def test_first_code_of_a_label_counts():
    specs = [ClassifierSpec("a", codes={"X": ("1", "S", "one")}), ClassifierSpec("b", codes={"X": ("2", "S", "two")})]
    assert codes_of(specs) == {"X": ("1", "S", "one")}


def test_scored_again_is_another_object(tmp_path):
    one = all_objects(tmp_path, film())["sc"]
    two = all_objects(tmp_path, film(), scored_at=prediction().scored_at + timedelta(seconds=1))["sc"]
    assert one.SOPInstanceUID != two.SOPInstanceUID


def test_a_patients_name_is_decoded_by_its_own_character_set(tmp_path):
    charset, name = NAMES["cyrillic"]
    made = ReportObjects(report(image(tmp_path, film_bytes(name, charset), prediction(), like=film())), CODES)
    assert made.patient_name() == name.decode("iso8859_5")


def test_an_image_that_is_not_there_is_no_nameless_patient(tmp_path):
    gone = image(tmp_path, film(), prediction())
    gone.path.unlink()
    with pytest.raises(TransientError):
        ReportObjects(report(gone), CODES).patient_name()


def test_a_late_image_of_a_study_whose_first_image_was_deleted_by_age_is_reported_with_both(tmp_path):
    first = replace(image(tmp_path, film(), prediction()), has_bytes=False)
    first.path.unlink()
    late = film(SOPInstanceUID="1.2.3.99")
    second = image(tmp_path, late, prediction(2), instance_id=2)
    objects = ReportObjects(report(first, second), CODES)
    (sr,) = objects.make("sr")
    assert {first.sop_instance_uid, "1.2.3.99"} <= {str(e.value) for e in sr.iterall() if e.VR == "UI"}
    assert len(objects.make("sc")) == 1
