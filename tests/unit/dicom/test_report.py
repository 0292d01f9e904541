from dataclasses import replace
from typing import Any

import pytest
from pydicom import Dataset

from medd import DISCLAIMER
from medd.dicom.derived import plain
from medd.dicom.findings import captions, code_of, finding_of, lines_of, private_code
from medd.dicom.report import structured_report
from medd.dicom.source import read_source
from medd.records import ImageResult, Reason, Status
from tests.studies import CODES, film, image, prediction, report

Code = tuple[str, str]


def code(item: Dataset) -> Code:
    return item.CodeValue, item.CodingSchemeDesignator


def name(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning)


def value(item: Dataset) -> Any:
    if item.ValueType == "CODE":
        return code(item.ConceptCodeSequence[0])
    if item.ValueType == "NUM":
        number = item.MeasuredValueSequence[0]
        return float(number.NumericValue), number.MeasurementUnitsCodeSequence[0].CodeValue
    if item.ValueType == "IMAGE":
        return item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    return item.get("TextValue", item.get("UID"))


def children(item: Dataset) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for one in item.ContentSequence:
        found.setdefault(name(one), []).append(one)
    return found


def make(*images: ImageResult, codes: Any = CODES, **about: Any) -> Dataset:
    sources = {one.instance_id: read_source(one.path) for one in images}
    return structured_report(report(*images, **about), sources, codes)


def groups(made: Dataset) -> list[dict[str, list[Any]]]:
    [measurements] = children(made)["Imaging Measurements"]
    found = [children(one) for one in measurements.ContentSequence]
    return [{key: [value(one) for one in items] for key, items in group.items()} for group in found]


def texts(made: Dataset) -> str:
    return " ".join(str(e.value) for e in made.iterall() if e.keyword in ("TextValue", "CodeMeaning", "CodeValue"))


def test_finding_is_named_with_its_certainty_site_threshold_and_algorithm(tmp_path):
    source = film()
    [group] = groups(make(image(tmp_path, source, prediction(flags=("age_outside_training",)))))
    assert group["Finding"] == [("233604007", "SCT")]
    assert group["Finding Site"] == [("39607008", "SCT")]
    assert group["Certainty of Finding"] == [(93.1, "%")]
    assert group["Threshold Value"] == [(48.49, "%")]
    assert group["Comparison with the threshold"] == [("AT_OR_ABOVE", "99MEDD")]
    assert group["Label of the model"] == ["PNEUMONIA"]
    assert (group["Algorithm Name"], group["Algorithm Version"]) == (["pneumonia"], ["1"])
    parameters = ["threshold=0.4849", "preprocess=0123abcd", "flags=age_outside_training"]
    assert group["Algorithm Parameters"] == parameters
    assert group["Source of Measurement"] == [source.SOPInstanceUID]
    assert "To be doubted: age_outside_training" in group["Comment"]


def test_below_threshold_is_said_to_be_just_that(tmp_path):
    made = make(image(tmp_path, film(), prediction(probability=0.12)))
    [group] = groups(made)
    assert "Finding" not in group, "to who does not know our codes it would say that it is there"
    assert group["Target finding"] == [("233604007", "SCT")]
    assert group["Certainty of Finding"] == [(12.0, "%")]
    assert group["Comparison with the threshold"] == [("BELOW", "99MEDD")]
    assert "normal" not in texts(made).lower()


def test_not_assessed_image_says_why_and_names_no_finding(tmp_path):
    made = make(image(tmp_path, film(), reason=Reason.LATERAL_VIEW, detail="View Position is LL × 2"))
    [group] = groups(made)
    assert "Finding" not in group
    assert "Certainty of Finding" not in group
    assert group["Assessment"] == [("NOT_ASSESSED", "99MEDD")]
    assert group["Reason"] == [("LATERAL_VIEW", "99MEDD")]
    [told] = group["Comment"]
    assert told.startswith("Not assessed (lateral view): View Position is LL x 2.")
    assert "normal" not in texts(made).lower()
    assert "pneumonia" not in texts(made).lower()


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_code_of_its_own(reason):
    assert len(private_code(reason)[0]) <= 16
    assert len({private_code(one)[0] for one in Reason}) == len(Reason)


def test_every_image_has_its_entry_and_its_place_in_the_evidence(tmp_path):
    images = (
        image(tmp_path, film(), prediction()),
        image(tmp_path, film(view="PA"), reason=Reason.UNFAMILIAR, instance_id=2),
        image(tmp_path, film(modality="CR"), prediction(3, 0.1), instance_id=3),
    )
    made = make(*images)
    assert len(groups(made)) == 3
    [study] = made.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == made.StudyInstanceUID
    named = {
        one.SeriesInstanceUID: {item.ReferencedSOPInstanceUID for item in one.ReferencedSOPSequence}
        for one in study.ReferencedSeriesSequence
    }
    expected: dict[str, set[str]] = {}
    for one in images:
        expected.setdefault(one.series_instance_uid, set()).add(one.sop_instance_uid)
    assert named == expected


def test_report_of_images_that_cannot_be_referred_to_has_no_evidence(tmp_path):
    made = make(replace(image(tmp_path, film(), prediction()), series_instance_uid=""))
    assert "CurrentRequestedProcedureEvidenceSequence" not in made
    assert "Source of Measurement" not in groups(made)[0]


def test_report_is_made_by_a_device_and_verified_by_nobody(tmp_path):
    made = make(image(tmp_path, film(), prediction()))
    assert (made.CompletionFlag, made.PreliminaryFlag, made.VerificationFlag) == (
        "COMPLETE",
        "PRELIMINARY",
        "UNVERIFIED",
    )
    root = {
        key: [value(one) for one in items] for key, items in children(made).items() if key != "Imaging Measurements"
    }
    assert root["Observer Type"] == [("121007", "DCM")]
    assert root["Device Observer Name"] == ["medd"]
    assert root["Comment"] == [DISCLAIMER]
    assert made.ContentTemplateSequence[0].TemplateIdentifier == "1500"


def test_report_names_the_one_it_replaces(tmp_path):
    one = image(tmp_path, film(), prediction())
    first = make(one)
    second = make(one, number=2, predecessor=str(first.SOPInstanceUID))
    assert "PredecessorDocumentsSequence" not in first
    assert second.InstanceNumber == 2
    [series] = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    assert series.SeriesInstanceUID == first.SeriesInstanceUID == second.SeriesInstanceUID
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID


@pytest.mark.parametrize("status", [Status.FAILED, Status.PENDING])
def test_report_with_work_left_is_partial(tmp_path, status):
    left = image(tmp_path, film(view="PA"), status=status, instance_id=2)
    assert make(image(tmp_path, film(), prediction()), left).CompletionFlag == "PARTIAL"


def test_label_without_a_code_has_a_private_one(tmp_path):
    label = "Größe > 5"
    said = prediction(label=label, probabilities={"NORMAL": 0.069, label: 0.931}, findings=(label,))
    made = make(image(tmp_path, film(), said))
    [group] = groups(made)
    assert group["Finding"][0][1] == "99MEDD"
    assert group["Label of the model"][0].isascii()
    assert made.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99MEDD"


# -- which finding -------------------------------------------------------------------------------------------------

THREE = {"NORMAL": 0.1, "BACTERIA": 0.5, "VIRUS": 0.4}
BOTH = ("BACTERIA", "VIRUS")


def test_of_several_findings_the_largest_is_named_with_its_own_probability(tmp_path):
    said = prediction(probability=0.9, label="BACTERIA", probabilities=THREE, findings=BOTH)
    [group] = groups(
        make(image(tmp_path, film(), said), codes={"BACTERIA": ("53084003", "SCT", "Bacterial pneumonia")})
    )
    assert group["Finding"] == [("53084003", "SCT")]
    assert group["Certainty of Finding"] == [(50.0, "%")]
    assert group["Summed probability of all findings of the model"] == [(90.0, "%")]


def test_of_several_findings_below_the_threshold_the_largest_is_named():
    scores = {"NORMAL": 0.7, "BACTERIA": 0.1, "VIRUS": 0.2}
    finding = finding_of(prediction(probability=0.3, label="NORMAL", probabilities=scores, findings=BOTH), {})
    assert (finding.label, finding.probability, finding.one_of_many) == ("VIRUS", 0.2, True)


def test_among_many_labels_whose_sums_are_alike_the_finding_is_the_models():
    scores = {f"VIEW {number}": 0.05 for number in range(16)} | {"NODULE": 0.05, "MASS": 0.05, "NORMAL": 0.1}
    said = prediction(probability=0.1, label="NORMAL", probabilities=scores, findings=("NODULE", "MASS"))
    finding = finding_of(said, {"VIEW 3": ("1", "S", "a view")})
    assert (finding.label, finding.probability, finding.one_of_many) == ("NODULE", 0.05, True)


def test_of_a_saturated_model_the_finding_is_named_not_what_else_adds_up():
    said = prediction(probability=0.0, label="NORMAL", probabilities={"NORMAL": 1.0, "LATERAL": 0.0, "PNEUMONIA": 0.0})
    assert finding_of(said, {"LATERAL": ("1", "S", "a view")}).label == "PNEUMONIA"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (prediction(findings=()), ("PNEUMONIA", 0.931, False)),
        (prediction(probability=0.2, findings=()), ("PNEUMONIA", 0.2, False)),
        (prediction(probability=0.9, label="VIRUS", probabilities=THREE, findings=()), ("VIRUS", 0.4, True)),
        (
            prediction(
                probability=0.2,
                label="NORMAL",
                probabilities={"NORMAL": 0.4, "LATERAL": 0.4, "PNEUMONIA": 0.2},
                findings=(),
            ),
            ("PNEUMONIA", 0.2, False),
        ),
        (
            prediction(probability=0.2, label="NORMAL", probabilities={"NORMAL": 0.8, "X": 0.1, "Y": 0.1}, findings=()),
            ("the finding", 0.2, False),
        ),
    ],
)
def test_predictions_of_before_findings_were_recorded_name_what_is_known(said, expected):
    finding = finding_of(said, CODES)
    assert (finding.label, finding.probability, finding.one_of_many) == expected


def test_codes_are_found_without_regard_to_case():
    assert code_of("Pneumonia", CODES) == CODES["PNEUMONIA"]


@pytest.mark.parametrize(
    "given",
    [
        ("1", "A-SCHEME-TOO-LONG", "Finding"),
        ("1", "99GRÖSSE", "Finding"),
        ("größe", "99X", "Finding"),
        ("", "99X", "Finding"),
        ("1", "", "Finding"),
        ("1\\2", "99X", "Finding"),
    ],
)
def test_what_is_no_code_is_replaced_by_one_of_our_own_never_changed(given):
    assert code_of("Pneumonia", {"Pneumonia": given}) == ("PNEUMONIA", "99MEDD", "Pneumonia")


def test_long_codes_that_begin_alike_stay_apart(tmp_path):
    value = "1234567890123456-A"
    made = make(image(tmp_path, film(), prediction()), codes={"PNEUMONIA": (value, "99LONG", "Pneumonia")})
    items = [item for item in made.iterall() if item.keyword == "ConceptCodeSequence"]
    assert value in [item.value[0].get("LongCodeValue") for item in items]
    assert value[:16] not in [item.value[0].get("CodeValue") for item in items]


# -- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Größe × 2 – Œdème…", "Grosse x 2 - OEdeme..."),
        ("肺炎", "<U+80BA><U+708E>"),
        ("a\\b＼c\n\x00d", "a/b/c d"),
        ("?", "?"),
    ],
)
def test_what_ascii_does_not_have_is_spelt_and_never_lost(text, expected):
    assert plain(text) == expected


@pytest.mark.parametrize(
    ("codes", "expected"),
    [({"肺炎": ("233604007", "SCT", "Pneumonia")}, "Pneumonia   p = 0.931"), ({}, "<U+80BA><U+708E>   p = 0.931")],
)
def test_label_in_other_letters_is_shown_by_what_its_code_means(codes, expected):
    said = prediction(label="肺炎", probabilities={"NORMAL": 0.069, "肺炎": 0.931}, findings=("肺炎",))
    assert captions(said, codes)[0].startswith(expected)


def test_what_is_to_be_doubted_stands_above_what_it_is_not_for():
    said = captions(prediction(flags=("age_outside_training",)), CODES)
    assert said[2:] == ("To be doubted: age_outside_training", DISCLAIMER)


def test_what_is_just_below_a_threshold_does_not_read_like_the_threshold():
    said = prediction(probability=0.48489)
    line = lines_of(said, finding_of(said, CODES))[0]
    assert line == "PNEUMONIA   p = 0.48489, BELOW threshold 0.48490"
