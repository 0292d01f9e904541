"""The objects before other people's judges: dciodvfy of dicom3tools, dsrdump and dcmpschk of DCMTK."""

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, uid

from medd.deliver.objects import KINDS, ReportObjects
from medd.records import Reason, Status
from tests.studies import CODES, NAMES, film, film_bytes, image, prediction, report
from tests.support import require

pytestmark = pytest.mark.peers

#: What DCMTK says of character sets that it knows no more of. What is in them is compared by its bytes elsewhere.
_UNCHECKED = (
    "The VR checker does not support this Specific Character Set",
    "Reading unknown/unsupported SpecificCharacterSet",
)


def run(*command: str) -> str:
    """Run a judge that has to be content, and give all it says."""
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    said = (done.stdout + done.stderr).decode("latin-1")
    assert done.returncode == 0, said
    return said


def judge(folder: Path, objects: ReportObjects) -> dict[str, list[Dataset]]:
    """Hold every object against the Standard."""
    dciodvfy, dsrdump, dcmpschk = require("dciodvfy", "dsrdump", "dcmpschk")
    made = {kind: list(objects.make(kind)) for kind in KINDS}
    for kind, ones in made.items():
        for number, one in enumerate(ones):
            path = folder / f"{kind}{number}.dcm"
            one.save_as(path, enforce_file_format=True)
            said = run(dciodvfy, "-new", str(path))
            assert [line for line in said.splitlines() if line.startswith("Error") or "Laterality" in line] == []
            if kind == "sr":
                said = run(dsrdump, str(path))
                complaints = [line for line in said.splitlines() if line.startswith(("W:", "E:", "F:"))]
                assert [line for line in complaints if not any(one in line for one in _UNCHECKED)] == []
                assert "Comprehensive 3D SR Document" in said
            if kind == "gsps":
                said = run(dcmpschk, str(path))
                # The name is the image's, and its checker takes the groups of a name in UTF-8 for an error.
                complaints = [line for line in said.splitlines() if "Affected attribute" in line]
                assert [line for line in complaints if "PatientName" not in line] == []
                assert "Test passed" in said or complaints
    return made


def one_image(folder: Path, **attributes: Any) -> ReportObjects:
    return ReportObjects(report(image(folder, film(**attributes), prediction())), CODES)


def test_study_with_everything_in_it(tmp_path):
    lateral, failed = film(view="PA", SOPInstanceUID="1.2.3.1"), film(modality="CR", SOPInstanceUID="1.2.3.2")
    said = prediction(2, 0.12, flags=("age_outside_training",), model="größe/1")
    three = {"NORMAL": 0.1, "BACTERIA": 0.5, "VIRUS": 0.4}
    many = prediction(5, 0.9, label="BACTERIA", probabilities=three, findings=("BACTERIA", "VIRUS"))
    images = (
        image(tmp_path, film(), prediction()),
        image(tmp_path, film(modality="CR", photometric="MONOCHROME1"), said, instance_id=2),
        image(tmp_path, lateral, reason=Reason.LATERAL_VIEW, detail="View Position is LL", instance_id=3),
        image(tmp_path, failed, reason=Reason.RETRIES_EXHAUSTED, status=Status.FAILED, instance_id=4),
        image(tmp_path, film(SOPInstanceUID="1.2.3.4"), many, instance_id=5),
    )
    made = judge(tmp_path, ReportObjects(report(*images, number=2, predecessor="2.25.7"), CODES))
    assert {kind: len(ones) for kind, ones in made.items()} == {"sr": 1, "sc": 3, "gsps": 3}


def test_code_longer_than_a_code_value(tmp_path):
    codes = {"PNEUMONIA": ("1234567890123456-A", "99LONG", "Pneumonia")}
    judge(tmp_path, ReportObjects(report(image(tmp_path, film(), prediction())), codes))


def test_study_of_one_image_that_cannot_be_referred_to(tmp_path):
    lost = film(SeriesInstanceUID=None)
    about = replace(image(tmp_path, lost, prediction(), like=film()), series_instance_uid="")
    judge(tmp_path, ReportObjects(report(about), CODES))


def test_study_of_one_image_that_was_not_assessed(tmp_path):
    judge(tmp_path, ReportObjects(report(image(tmp_path, film(), reason=Reason.UNFAMILIAR, detail="far")), CODES))


@pytest.mark.parametrize("script", [script for script in NAMES if script != "latin1_unsaid"])
def test_names_in_every_script(tmp_path, script):
    charset, name = NAMES[script]
    judge(tmp_path, ReportObjects(report(image(tmp_path, film_bytes(name, charset), prediction())), CODES))


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.JPEGLSLossless,
        uid.JPEGBaseline8Bit,
    ],
)
def test_every_kind_of_transfer_syntax(tmp_path, syntax):
    judge(tmp_path, one_image(tmp_path, transfer_syntax=syntax, bits=8))


@pytest.mark.parametrize(
    "attributes",
    [
        {"SpecificCharacterSet": None},
        {"StudyDate": None, "StudyTime": None, "StudyID": None, "ReferringPhysicianName": None},
        {"PatientID": None, "PatientBirthDate": None, "PatientSex": None},
        {"PixelSpacing": None, "ImagerPixelSpacing": None, "WindowCenter": None, "PatientOrientation": None},
        {"modality": "CR", "photometric": "MONOCHROME1"},
        {"TimezoneOffsetFromUTC": "+0900"},
        {"PatientComments": "Line\r\nline", "OtherPatientIDs": ["A", "B"]},
    ],
    ids=str,
)
def test_odd_sources(tmp_path, attributes):
    judge(tmp_path, one_image(tmp_path, **attributes))
