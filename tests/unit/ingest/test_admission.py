from dataclasses import replace

import pytest

from medd.ingest.admission import admit_instance
from medd.records import InstanceHeader, MediaType, Reason

#: A frontal chest film with every attribute that the gate looks at.
FILM = InstanceHeader(
    media_type=MediaType.DICOM,
    sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
    modality="DX",
    body_part_examined="CHEST",
    view_position="PA",
    patient_orientation="L",
    image_type=("ORIGINAL", "PRIMARY", ""),
    rows=2048,
    columns=2048,
    number_of_frames=None,
    has_pixel_data=True,
)

ACCEPTED = [
    {},
    {"modality": "CR"},
    {"modality": "RG"},
    {"view_position": "AP"},
    {"view_position": ""},
    {"patient_orientation": ""},
    {"patient_orientation": "R"},
    {"body_part_examined": ""},
    {"body_part_examined": "THORAX"},
    {"body_part_examined": "CHEST_TO_ABDOMEN"},
    {"body_part_examined": "CHESTABDPELVIS"},
    {"body_part_examined": "RIBS"},
    {"body_part_examined": "LUNG"},
    {"body_part_examined": "WHOLE BODY"},
    {"number_of_frames": 1},
    {"image_type": ()},
    {"image_type": ("DERIVED", "PRIMARY")},  # what every DX For Presentation is
    {"image_type": ("ORIGINAL", "SECONDARY")},
]

REFUSED = [
    ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.33", "has_pixel_data": False}, Reason.REPORT_OBJECT),
    ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.11.1", "has_pixel_data": False}, Reason.REPORT_OBJECT),
    ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.59"}, Reason.REPORT_OBJECT),
    ({"modality": "SR"}, Reason.REPORT_OBJECT),
    ({"modality": "PR"}, Reason.REPORT_OBJECT),
    ({"modality": "KO"}, Reason.REPORT_OBJECT),
    ({"has_pixel_data": False}, Reason.NOT_AN_IMAGE),
    ({"rows": 0}, Reason.NOT_AN_IMAGE),
    ({"columns": None}, Reason.NOT_AN_IMAGE),
    ({"modality": "CT"}, Reason.NOT_A_RADIOGRAPH),
    ({"modality": "MR"}, Reason.NOT_A_RADIOGRAPH),
    ({"modality": "US"}, Reason.NOT_A_RADIOGRAPH),
    ({"modality": "MG"}, Reason.NOT_A_RADIOGRAPH),
    ({"modality": "OT"}, Reason.NOT_A_RADIOGRAPH),
    ({"modality": ""}, Reason.NOT_A_RADIOGRAPH),
    ({"number_of_frames": 2}, Reason.MULTI_FRAME),
    ({"image_type": ("DERIVED", "SECONDARY", "OTHER")}, Reason.DERIVED_IMAGE),
    ({"body_part_examined": "HAND"}, Reason.NOT_CHEST),
    ({"body_part_examined": "ABDOMEN"}, Reason.NOT_CHEST),
    ({"body_part_examined": "SKULL"}, Reason.NOT_CHEST),
    ({"view_position": "LL"}, Reason.LATERAL_VIEW),
    ({"view_position": "RL"}, Reason.LATERAL_VIEW),
    ({"view_position": "LATERAL"}, Reason.LATERAL_VIEW),
    ({"view_position": "LLD"}, Reason.LATERAL_VIEW),
    ({"view_position": "", "patient_orientation": "A"}, Reason.LATERAL_VIEW),
    ({"view_position": "", "patient_orientation": "P"}, Reason.LATERAL_VIEW),
    # Several faults: the most general one is named.
    ({"modality": "CT", "body_part_examined": "HAND", "number_of_frames": 9}, Reason.NOT_A_RADIOGRAPH),
    ({"has_pixel_data": False, "modality": "ECG"}, Reason.NOT_AN_IMAGE),
]


@pytest.mark.parametrize("values", ACCEPTED, ids=str)
def test_frontal_chest_film_is_admitted(values):
    assert admit_instance(replace(FILM, **values)).reason is None


@pytest.mark.parametrize(("values", "reason"), REFUSED, ids=str)
def test_what_is_certainly_none_is_refused_by_name(values, reason):
    assert admit_instance(replace(FILM, **values)).reason is reason


@pytest.mark.parametrize("kind", [MediaType.JPEG, MediaType.PNG, MediaType.TIFF])
def test_picture_is_admitted_as_its_header_says_nothing(kind):
    assert admit_instance(InstanceHeader(kind)).reason is None


def test_detail_says_what_was_found():
    assert "HAND" in admit_instance(replace(FILM, body_part_examined="HAND")).detail
    assert "missing" in admit_instance(replace(FILM, modality="")).detail
    assert "12 frames" in admit_instance(replace(FILM, number_of_frames=12)).detail
    assert "A" in admit_instance(replace(FILM, view_position="", patient_orientation="A")).detail
