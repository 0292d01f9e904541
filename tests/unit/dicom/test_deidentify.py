"""De-identification, held against what PS3.15 table E.1-1 says of the attributes that matter most."""

import struct
import subprocess
from io import BytesIO

import pytest
from pydicom import DataElement, Dataset, dcmread, uid
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate, get_frame
from pydicom.tag import Tag

from medd.dicom.deidentify import basic_profile, burnt_in, deidentify, deidentify_file
from medd.dicom.jpeg import without_comments_2000
from medd.dicom.part10 import LONG_VRS
from medd.dicom.pseudonyms import Pseudonyms
from medd.errors import InputError, NotAssessable
from medd.imaging.pixels import load
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


def with_element(dataset: Dataset, tag: int, vr: str, value: bytes) -> bytes:
    """A file that holds the attribute in this VR, whatever the Standard has for it."""
    value += b"\0" * (len(value) % 2)
    carrier = "OB" if vr.encode() in LONG_VRS else "LO"  # of the same form, and left alone by pydicom
    dataset[tag] = RawDataElement(Tag(tag), carrier, len(value), value, 0, False, True)
    name = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    return encoded(dataset).replace(name + carrier.encode(), name + vr.encode(), 1)


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


def test_uids_that_are_not_the_standards_are_replaced_whatever_their_root():
    sloppy = "1.2.840.10008.5.1.4.1.1.1.19470229.4711"
    result = cleaned(film(SOPInstanceUID=sloppy, StudyInstanceUID=sloppy))
    assert result.SOPInstanceUID == result.StudyInstanceUID == NAMES.uid(sloppy)
    data = with_element(film(), 0x0008010C, "UI", SECRET.encode())  # Coding Scheme UID
    assert SECRET.encode() not in deidentify_file(data, NAMES, "P1")


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


def test_comments_in_the_tile_parts_of_a_jpeg_2000_stream_and_the_wrapper_go():
    dataset = film(transfer_syntax=uid.JPEG2000Lossless)
    before, frame = dataset.pixel_array, get_frame(dataset.PixelData, 0, number_of_frames=1).rstrip(b"\0")
    comment = b"\xff\x64\x00\x0a\x00\x01SECRET"
    part = frame.index(b"\xff\x90\x00\x0a")
    (length,) = struct.unpack_from(">I", frame, part + 6)
    assert length
    for new in (length + len(comment), 0):
        wrapped = (
            frame[: part + 6] + struct.pack(">I", new) + frame[part + 10 : part + 12] + comment + frame[part + 12 :]
        )
        lengths = b"\xff\x55" + struct.pack(">HBBI", 8, 0, 0x40, new)  # TLM
        wrapped = b"SECRET" + wrapped[:part] + lengths + wrapped[part:] + b"xml SECRET\xff\xd9"
        dataset.PixelData = encapsulate([wrapped])
        result = cleaned(dataset)
        assert b"SECRET" not in result.PixelData
        assert (result.pixel_array == before).all()
        clean = get_frame(result.PixelData, 0, number_of_frames=1).rstrip(b"\0")
        assert clean[-len(frame) + part + 10 :] == frame[part + 10 :]
        assert struct.unpack_from(">I", clean, len(clean) - len(frame) + part + 6) == (length if new else 0,)


def test_a_jpeg_2000_stream_that_is_cut_anywhere_is_refused():
    frame = get_frame(film(transfer_syntax=uid.JPEG2000Lossless).PixelData, 0, number_of_frames=1).rstrip(b"\0")
    for end in [*range(300), *range(300, len(frame) - 2, 50), len(frame) - 1]:
        with pytest.raises(ValueError, match="JPEG 2000"):
            without_comments_2000(frame[:end])


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


@pytest.mark.parametrize("size", [0, 1 << 16])
@pytest.mark.parametrize(
    ("tag", "vr"),
    [
        (0x00540220, "OB"),  # View Code Sequence
        (0x00540220, "UN"),
        (0x00540220, "LO"),
        (0x00180015, "SQ"),  # Body Part Examined
        (0x0020000D, "LO"),  # Study Instance UID
        (0x00081155, "SH"),  # Referenced SOP Instance UID
        (0x00181200, "LO"),  # Date of Last Calibration
        (0x00181200, "UT"),
        (0x00181000, "OB"),  # Device Serial Number
    ],
)
def test_what_is_not_encoded_as_the_standard_has_it_goes(tag, vr, size):
    hidden = struct.pack("<HH2sH", 0x0008, 0x0104, b"LO", 6) + SECRET.encode() + b"\0" * size
    if vr == "SQ":
        hidden = struct.pack("<HHI", 0xFFFE, 0xE000, len(hidden)) + hidden
    if vr.encode() not in LONG_VRS:
        hidden = SECRET.encode()
    data = with_element(film(), tag, vr, hidden)
    assert SECRET.encode() in data
    assert SECRET.encode() not in deidentify_file(data, NAMES, "P1")


def test_a_picture_is_refused_rather_than_changed_by_what_is_encoded_wrongly():
    data = with_element(film(), 0x00281052, "LO", b"-1024")  # Rescale Intercept
    with pytest.raises(InputError, match=r"\(0028,1052\) RescaleIntercept encoded as what it cannot be. Received: LO"):
        deidentify_file(data, NAMES, "P1")


def test_personal_texts_that_the_table_does_not_list_go():
    tags = {
        0x00100033: "LO",  # Patient's Birth Date in Alternative Calendar
        0x00100034: "LO",  # Patient's Death Date in Alternative Calendar
        0x00100212: "UC",  # Strain Description
        0x00281055: "LO",  # Window Center & Width Explanation
        0x00283003: "LO",  # LUT Explanation
        0x00400400: "LT",  # Comments on the Scheduled Procedure Step
        0x0040E001: "ST",  # HL7 Instance Identifier
        0x00402006: "SH",  # Placer Order Number of Imaging Service Request, retired
    }
    dataset = film()
    for tag, vr in tags.items():
        dataset.add_new(tag, vr, SECRET)
    dataset.HumanPerformerCodeSequence = [item(CodeMeaning=SECRET)]
    dataset.PatientBodyMassIndex = "31"
    result = cleaned(dataset)
    assert not set(tags) & set(result.keys())
    assert "HumanPerformerCodeSequence" not in result
    assert "PatientBodyMassIndex" not in result


def test_pixel_data_within_sequences_go():
    dataset = film()
    dataset.ViewCodeSequence[0].PixelData = b"SECRET"
    dataset.ViewCodeSequence[0]["PixelData"].VR = "OW"
    assert "PixelData" not in cleaned(dataset).ViewCodeSequence[0]


#: Kinds of equipment and technique, codes, tables and pixels; neither persons nor free text.
KEPT_TEXTS = """
ASLBolusCutoffTechnique ASLCrusherDescription ASLTechniqueDescription AcquisitionDeviceProcessingCode AcquisitionMode
AlgorithmDescription AlphaPaletteColorLookupTableData ApplicableSafetyStandardDescription ApplicationManufacturer
ApplicationName ApplicationVersion AttenuationCorrectionMethod BlendingLookupTableData BluePaletteColorLookupTableData
CardiacFramingType CodeMeaning CodeValue CodingSchemeDesignator CodingSchemeRegistry CodingSchemeVersion
CollimatorGridName CompressionDescription CompressionLabel CompressionOriginator CompressionRecognitionCode
ConfigurationDescription ConfigurationName ContainerComponentDescription ContrastBolusRoute ConvolutionKernel DCTLabel
DataSetSubtype DeidentificationMethod DetectorLinesOfResponseUsed DetectorManufacturerModelName
DetectorManufacturerName DigitalImageFormatAcquired DimensionDescriptionLabel DimensionIndexPrivateCreator
DisplaySubsystemDescription DisplaySubsystemName DoseModeName DoubleFloatPixelData EnergyWindowName ExtendedCodeValue
ExtendedOffsetTable ExtendedOffsetTableLengths FieldOfViewDescription FilterType FloatPixelData
FunctionalGroupPrivateCreator GreenPaletteColorLookupTableData HardcopyDeviceManufacturer
HardcopyDeviceManufacturerModelName HardcopyDeviceSoftwareVersion ImageFilter ImageGeometryType ImageID ImagedNucleus
InterventionDrugName LargeBluePaletteColorLookupTableData LargeGreenPaletteColorLookupTableData
LargeRedPaletteColorLookupTableData LuminanceResponseDescription ManipulatedImage Manufacturer ManufacturerModelName
ManufacturerRelatedModelGroup MappingResourceName ModalityLUTType ModifyingDeviceManufacturer MultiCoilConfiguration
MultiCoilElementName OriginalImageIdentificationNomenclature OutputPower PVCRejection PaddleDescription PhosphorType
PixelData PixelSpacingCalibrationDescription PlateType PositionReferenceIndicator PostprocessingFunction
PrivateCreatorReference ProcessingFunction PulseSequenceName Radionuclide Radiopharmaceutical RadiopharmaceuticalRoute
ReceiveCoilManufacturerName ReceiveCoilName RecognitionCode ReconstructionDescription ReconstructionMethod
RedPaletteColorLookupTableData Reference RescaleType RespiratorySignalSourceID ScatterCorrectionMethod
SecondaryCaptureDeviceManufacturer SecondaryCaptureDeviceManufacturerModelName SecondaryCaptureDeviceSoftwareVersions
SegmentedAlphaPaletteColorLookupTableData SegmentedBluePaletteColorLookupTableData
SegmentedGreenPaletteColorLookupTableData SegmentedRedPaletteColorLookupTableData SequenceName
SequenceOfCompressedData SoftwareVersions StackID TargetPositionReferenceIndicator TimeSource TransducerData
TransformLabel TransformVersionNumber TransmitCoilManufacturerName TransmitCoilName TriggerSourceOrType TypeOfFilters
VerticesOfThePolygonalOutline VideoImageFormatAcquired
"""


def test_which_attributes_of_text_and_bytes_are_kept():
    kinds = set("AE AS DA DT LO LT OB OD OF OL OV OW PN SH ST TM UC UI UN UR UT".split())
    # A change of pydicom's dictionary or of the table shows here: look at what is new before it is added.
    dataset = Dataset()
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if keyword and vr.split(" or ")[0] in kinds:
            dataset[tag] = DataElement(tag, vr.split(" or ")[0], None)
    before = set(dataset.dir())
    deidentify(dataset, NAMES, "P1")
    kept = {element.keyword for element in dataset if element.VR != "UI" and int(element.tag) not in basic_profile()}
    assert sorted(kept & before) == KEPT_TEXTS.split()


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
