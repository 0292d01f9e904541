"""De-identification, held against what PS3.15 table E.1-1 says of the attributes that matter most."""

import subprocess
from io import BytesIO

import pytest
from pydicom import Dataset, dcmread, uid
from pydicom.encaps import encapsulate, get_frame

from medd.dicom.deidentify import basic_profile, burnt_in, deidentify, deidentify_file
from medd.dicom.pseudonyms import Pseudonyms
from medd.errors import InputError, NotAssessable
from medd.imaging import load
from medd.testing import dicom_radiograph
from tests.support import require

NAMES = Pseudonyms(b"k" * 32)
SECRET = "SECRET"

#: Table E.1-1 by heart: the column "Basic Prof.".
TABLE = """
X    PatientAge PatientWeight PatientSize PatientAddress PatientTelephoneNumbers PatientComments OtherPatientIDs
X    OtherPatientIDsSequence OtherPatientNames EthnicGroup Occupation AdditionalPatientHistory IssuerOfPatientID
X    PatientBirthTime PatientMotherBirthName MilitaryRank MedicalRecordLocator PatientReligiousPreference
X    StudyDescription SeriesDescription ImageComments DerivationDescription InstitutionAddress RetrieveAETitle
X    InstitutionalDepartmentName PerformingPhysicianName PhysiciansOfRecord NameOfPhysiciansReadingStudy
X    RequestingPhysician RequestAttributesSequence PerformedProcedureStepStartDate PerformedProcedureStepID
X    OriginalAttributesSequence DigitalSignaturesSequence DataSetTrailingPadding IconImageSequence AdmissionID
X    PlateID CassetteID GeneratorID GantryID DateOfSecondaryCapture TimezoneOffsetFromUTC AcquisitionComments
Z    PatientName PatientBirthDate PatientSex AccessionNumber StudyID StudyDate StudyTime ReferringPhysicianName
Z/D  PatientID ContentDate ContentTime ContrastBolusAgent
X/Z  AcquisitionDate AcquisitionTime AcquisitionContextSequence ReferencedStudySequence RequestedProcedureDescription
X/D  SeriesDate SeriesTime InstanceCreationDate ProtocolName DetectorID DateOfLastDetectorCalibration
X/Z/D InstitutionName StationName OperatorsName DeviceSerialNumber InstanceCreationTime AcquisitionDateTime
X/Z/U* ReferencedImageSequence SourceImageSequence
U    StudyInstanceUID SeriesInstanceUID SOPInstanceUID FrameOfReferenceUID ReferencedSOPInstanceUID DeviceUID
U    InstanceCreatorUID IrradiationEventUID SynchronizationFrameOfReferenceUID
D    PersonName
"""


def film(**attributes) -> Dataset:
    return dicom_radiograph(1, size=64, **attributes)


def encoded(dataset: Dataset) -> bytes:
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def cleaned(dataset: Dataset) -> Dataset:
    return dcmread(BytesIO(deidentify_file(encoded(dataset), NAMES, "P1")))


def item(**attributes) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


@pytest.mark.parametrize("line", TABLE.strip().splitlines())
def test_the_librarys_table_is_that_of_the_standard(line):
    from pydicom.datadict import tag_for_keyword

    code, *keywords = line.split()
    assert {keyword: basic_profile().get(tag_for_keyword(keyword)) for keyword in keywords} == dict.fromkeys(
        keywords, code
    )


def test_no_secret_survives_wherever_it_stands():
    texts = dict.fromkeys(
        "PatientAddress PatientComments OtherPatientNames StudyDescription SeriesDescription InstitutionName "
        "StationName OperatorsName ReferringPhysicianName AccessionNumber StudyID ImageComments ProtocolName "
        "DetectorID PatientID PerformingPhysicianName AdmissionID DeviceSerialNumber PatientTelephoneNumbers".split(),
        SECRET,
    )
    dataset = film(patient_name=f"{SECRET}^EVA", **texts)
    dataset.file_meta.SourceApplicationEntityTitle = SECRET
    dataset.preamble = SECRET.encode().ljust(128, b"\0")
    dataset.RequestAttributesSequence = [item(RequestedProcedureDescription=SECRET)]
    # In sequences that stay, down to the second level.
    inner = item(PatientName=SECRET, OperatorsName=SECRET, CodeMeaning="kept")
    inner.private_block(0x0011, SECRET, create=True).add_new(1, "LO", SECRET)
    dataset.ViewCodeSequence[0].ViewModifierCodeSequence = [inner]
    dataset.private_block(0x0009, SECRET, create=True).add_new(1, "LO", SECRET)
    dataset.add_new(0x60003000, "OB", SECRET.encode())
    dataset.add_new(0x60000022, "LO", SECRET)  # Overlay Description
    dataset.add_new(0x50003000, "OB", SECRET.encode())
    dataset.add_new(0x00189999, "LO", SECRET)  # no attribute of the Standard that pydicom knows
    dataset.DateOfGainCalibration, dataset.IssuerOfAccessionNumberSequence = (
        "20240229",
        [item(LocalNamespaceEntityID=SECRET)],
    )
    data = encoded(dataset)
    assert data.count(SECRET.encode()) > 25
    result = deidentify_file(data, NAMES, "P1")
    assert SECRET.encode() not in result
    assert b"2024" not in result  # nor any date
    [kept] = dcmread(BytesIO(result)).ViewCodeSequence[0].ViewModifierCodeSequence
    assert (kept.CodeMeaning, kept.PatientName) == ("kept", "")


def test_what_the_result_says_of_itself():
    result = cleaned(film())
    assert (result.PatientName, result.PatientID) == ("P1", "P1")
    assert result.PatientIdentityRemoved == "YES"
    assert "PS3.15" in result.DeidentificationMethod
    assert len(result.DeidentificationMethod) <= 64
    [code] = result.DeidentificationMethodCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("113100", "DCM")
    assert result.LongitudinalTemporalInformationModified == "REMOVED"


def test_what_the_picture_and_the_training_need_stays():
    before = film(transfer_syntax=uid.JPEGLSLossless)
    result = cleaned(before)
    kept = (
        "SOPClassUID Modality Rows Columns BitsStored WindowCenter WindowWidth PhotometricInterpretation PixelSpacing "
        "ViewPosition BodyPartExamined Manufacturer ManufacturerModelName ImageType BurnedInAnnotation PixelData"
    )
    assert {name: result[name].value for name in kept.split()} == {name: before[name].value for name in kept.split()}


def test_dates_and_required_attributes_of_a_plain_film_are_emptied_or_gone():
    result = cleaned(film(AcquisitionDateTime="20240102030405", OperatorsName="X"))
    for required in ("StudyDate", "StudyTime", "PatientBirthDate", "PatientSex", "AccessionNumber", "ContentDate"):
        assert result[required].is_empty, required
    for optional in (
        "SeriesDate",
        "PatientAge",
        "AcquisitionDateTime",
        "InstitutionName",
        "OperatorsName",
        "StationName",
    ):
        assert optional not in result
    assert result["AcquisitionContextSequence"].is_empty


def test_an_enhanced_object_keeps_dummies_where_its_iod_asks_for_a_value():
    dataset = film(DeviceSerialNumber=SECRET, AcquisitionDateTime="20240102030405", ContentDate="20240102")
    dataset.SourceImageSequence = [
        item(ReferencedSOPClassUID=uid.EnhancedXAImageStorage, ReferencedSOPInstanceUID="1.2.3")
    ]
    dataset.SOPClassUID = uid.EnhancedXAImageStorage
    deidentify(dataset, NAMES, "P1")
    assert dataset.DeviceSerialNumber == "ANONYMIZED"
    assert dataset.AcquisitionDateTime == "19000101000000"
    assert dataset.ContentDate == "19000101"
    [source] = dataset.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == NAMES.uid("1.2.3")
    assert source.ReferencedSOPClassUID == uid.EnhancedXAImageStorage


def test_uids_are_replaced_alike_in_every_object_and_reference():
    one, two = film(), film(view="PA")
    two.FrameOfReferenceUID = one.SOPInstanceUID
    first, second = cleaned(one), cleaned(two)
    assert first.StudyInstanceUID == second.StudyInstanceUID != one.StudyInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert second.FrameOfReferenceUID == first.SOPInstanceUID == first.file_meta.MediaStorageSOPInstanceUID


def test_what_the_standard_names_keeps_its_uid():
    dataset = film(FrameOfReferenceUID="1.2.840.10008.1.4.1.1", IrradiationEventUID=["1.2.3", "1.2.4"])
    dataset.ViewCodeSequence[0].CodingSchemeUID = "2.16.840.1.113883.6.96"
    deidentify(dataset, NAMES, "P1")
    assert dataset.FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"  # Talairach brain atlas
    assert dataset.ViewCodeSequence[0].CodingSchemeUID == "2.16.840.1.113883.6.96"  # SNOMED CT
    assert list(dataset.IrradiationEventUID) == [NAMES.uid("1.2.3"), NAMES.uid("1.2.4")]


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
        uid.JPEGBaseline8Bit,
    ],
)
def test_the_picture_is_the_same_in_every_transfer_syntax(tmp_path, syntax):
    data = encoded(film(transfer_syntax=syntax, bits=8 if syntax == uid.JPEGBaseline8Bit else 12))
    (tmp_path / "before.dcm").write_bytes(data)
    (tmp_path / "after.dcm").write_bytes(deidentify_file(data, NAMES, "P1"))
    assert dcmread(tmp_path / "after.dcm").file_meta.TransferSyntaxUID == syntax
    assert (load(tmp_path / "before.dcm") == load(tmp_path / "after.dcm")).all()


def test_the_meta_group_is_a_new_one():
    dataset = film()
    dataset.file_meta.SourceApplicationEntityTitle = SECRET
    dataset.file_meta.PrivateInformationCreatorUID, dataset.file_meta.PrivateInformation = "1.2.3", b"SECRET"
    meta = cleaned(dataset).file_meta
    assert {element.keyword for element in meta} == {
        "FileMetaInformationGroupLength",
        "FileMetaInformationVersion",
        "MediaStorageSOPClassUID",
        "MediaStorageSOPInstanceUID",
        "TransferSyntaxUID",
        "ImplementationClassUID",
        "ImplementationVersionName",
    }


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGLSLossless])
def test_comments_inside_compressed_frames_go(syntax):
    dataset = film(transfer_syntax=syntax, bits=8)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    comment = b"\xff\xfe\x00\x08SECRET"
    dataset.PixelData = encapsulate([frame[:2] + comment + frame[2:]])
    result = cleaned(dataset)
    assert get_frame(result.PixelData, 0, number_of_frames=1).rstrip(b"\0") == frame.rstrip(b"\0")


def test_comments_in_a_jpeg_2000_header_go():
    dataset = film(transfer_syntax=uid.JPEG2000Lossless)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    size_end = 4 + int.from_bytes(frame[4:6], "big")  # behind SOC and SIZ
    comment = b"\xff\x64\x00\x0a\x00\x01SECRET"
    dataset.PixelData = encapsulate([frame[:size_end] + comment + frame[size_end:]])
    data = encoded(dataset)
    assert b"SECRET" in data
    assert b"SECRET" not in deidentify_file(data, NAMES, "P1")


def test_an_object_that_says_that_text_is_burnt_in_is_refused():
    with pytest.raises(NotAssessable, match="burnt in"):
        deidentify_file(encoded(film(BurnedInAnnotation="YES")), NAMES, "P1")


@pytest.mark.parametrize(
    "kind", [uid.SecondaryCaptureImageStorage, uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage]
)
@pytest.mark.parametrize(("says", "refused"), [("NO", False), (None, True), ("", True), ("YES", True)])
def test_a_secondary_capture_has_to_say_that_no_text_is_burnt_in(says, refused, kind):
    dataset = film(BurnedInAnnotation=says, SOPClassUID=kind)
    assert bool(burnt_in(dataset)) is refused
    assert bool(burnt_in(dataset, secondary_captures=True)) is (says == "YES")


def test_a_value_that_nobody_can_read_goes():
    dataset = film()
    data = encoded(dataset)
    at = data.index(b"DS\x02\x0060")  # KVP
    broken = deidentify_file(data[: at + 4] + b"S?" + data[at + 6 :], NAMES, "P1")
    assert b"DS\x02\0S?" not in broken
    assert "KVP" not in dcmread(BytesIO(broken))


@pytest.mark.parametrize("data", [b"", b"SECRET" * 100])
def test_what_cannot_be_read_is_refused_without_quoting_it(data):
    with pytest.raises(InputError) as refusal:
        deidentify_file(data, NAMES, "P1")
    assert "SECRETSECRET" not in str(refusal.value)


@pytest.mark.parametrize("kind", [uid.VLEndoscopicImageStorage, uid.ComputedRadiographyImageStorage])
def test_other_objects_need_not_say_whether_text_is_burnt_in(kind):
    assert burnt_in(film(BurnedInAnnotation=None, SOPClassUID=kind)) == ""


@pytest.mark.peers
@pytest.mark.parametrize("modality", ["CR", "DX"])
def test_dciodvfy_finds_no_error_in_what_comes_out(tmp_path, modality):
    [dciodvfy] = require("dciodvfy")
    path = tmp_path / "film.dcm"
    path.write_bytes(deidentify_file(encoded(film(modality=modality)), NAMES, "P1"))
    said = subprocess.run([dciodvfy, "-new", path], capture_output=True, text=True, check=False)
    assert [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")] == []
    assert modality in said.stdout + said.stderr  # it knew what it looked at
