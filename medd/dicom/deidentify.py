"""De-identification by the Basic Application Level Confidentiality Profile (PS3.15 section E.2, table E.1-1).

What is done with which attribute stands in the library's table, dicom-anonymizer's copy of E.1-1. The walk is ours: the
library's own does not descend into sequences that stay, keeps removed dates as dummies and gives UIDs that change from
run to run. Stricter than the profile: what the Standard does not know goes, whole overlays and curves go, and of what
the table does not list every date, person's name, age, AE title, address and free text, and whatever is not about the
picture and how it was taken. What a value is, the Standard's dictionary says, not the file. Pixels are not looked at.
"""

import warnings
from functools import cache
from io import BytesIO
from typing import Any

from pydicom import DataElement, Dataset, Sequence, dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataset import FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from medd import __version__
from medd.dicom import part10
from medd.dicom.frames import PIXELS, clean_pixels
from medd.dicom.pseudonyms import Pseudonyms
from medd.errors import InputError, NotAssessable
from medd.records import Reason

#: The edition of PS3.15 whose table is used, as dicom-anonymizer calls it.
TABLE = "dicomfields_2026c"
#: (0012,0064) De-identification Method Code Sequence, PS3.16 CID 7050.
PROFILE = ("113100", "DCM", "Basic Application Confidentiality Profile")

#: Table E.1-1's codes as dicom-anonymizer calls them.
_CODES = {
    "D_TAGS": "D",
    "Z_TAGS": "Z",
    "X_TAGS": "X",
    "U_TAGS": "U",
    "Z_D_TAGS": "Z/D",
    "X_Z_TAGS": "X/Z",
    "X_D_TAGS": "X/D",
    "X_Z_D_TAGS": "X/Z/D",
    "X_Z_U_STAR_TAGS": "X/Z/U*",
}
#: SOP classes whose IODs do not require what is "X unless required": CR, DX, MG, IO, SC, XA, RF. In others it gets a
#: dummy.
_CLASSIC = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("1 1.1 1.1.1 1.2 1.2.1 1.3 1.3.1 7 12.1 12.2").split()
)
#: And below it those of several frames.
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
#: Of what the table does not list: dates, persons, addresses, and texts in which anything may stand.
_REMOVED_VRS = frozenset("AE AS DA DT LT PN ST TM UC UR UT".split())
#: Groups about the picture and how it was taken.
_PICTURE_GROUPS = frozenset((0x0008, 0x0018, 0x0020, 0x0028, 0x0050, 0x0054, 0x2050, 0x5200, 0x7FE0))
#: And one about the patient alone.
_PATIENT_GROUP = 0x0010
#: Without what stands here the picture would be another one, or none.
_DECISIVE_GROUPS = frozenset((0x0028, 0x7FE0))
#: Of what the table does not list, all that is kept of other groups: numbers and terms.
_PLAIN_VRS = frozenset("AT CS DS FD FL IS SL SS SV UL US UV".split())
#: Not in the table, and never asked for by an image: which single piece of equipment it was, names and
#: explanations that people type in, and bytes that are no pixels.
_REMOVED = frozenset(
    "AcquisitionProtocolName CoefficientsSDDN CoefficientsSDHN CoefficientsSDVN DeviceID DisplayWindowLabelVector "
    "EventTimerNames FrameLabel FrameLabelVector FrameOfInterestDescription GridID ICCProfile InstructionText "
    "IssuerOfAccessionNumberSequence LongitudinalTemporalOffsetFromEvent LUTExplanation NTPSourceAddress "
    "PriorRecordKey ProtocolElementName RecordKey ReferenceLocationLabel StageName SystemStatusComment TargetLabel "
    "TestResultComment ViewName WindowCenterWidthExplanation".split()
)
#: UIDs that name a kind of thing, not a thing.
_GENERAL_UIDS = frozenset(
    "CodingSchemeUID ContextUID MappingResourceUID ContextGroupExtensionCreatorUID PrivateInformationCreatorUID".split()
)
_DUMMIES: dict[str, Any] = {
    **dict.fromkeys("AE CS LO LT PN SH ST UC UT".split(), "ANONYMIZED"),
    **dict.fromkeys("DS IS".split(), "0"),
    **dict.fromkeys("FD FL SL SS SV UL US UV".split(), 0),
    **dict.fromkeys("OB OD OF OL OV OW UN".split(), b"\0" * 8),
    "AS": "000Y",
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    "UR": "http://anonymized.invalid",
}


@cache
def basic_profile() -> dict[int, str]:
    """Table E.1-1: tag → the action of its column "Basic Prof.", for all but repeating groups."""
    from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector

    table = dicom_anonymization_database_selector(TABLE)
    pairs = ((tag, code) for name, code in _CODES.items() for tag in table[name])
    # Overlays and curves, the repeating groups, have four numbers there; `_action` removes them altogether.
    return {tag[0] << 16 | tag[1]: code for tag, code in pairs if len(tag) == 2}


def deidentify_file(data: bytes, pseudonyms: Pseudonyms, patient: str, *, secondary_captures: bool = False) -> bytes:
    """De-identify a DICOM file.

    Args:
        data: A Part 10 file, or a dataset without meta group.
        pseudonyms: Replace UIDs.
        patient: Replaces the patient's name and ID: a pseudonym.
        secondary_captures: Take Secondary Captures also when they do not say that no text is burnt in.

    Returns:
        A Part 10 file in the same transfer syntax, with a preamble and meta group that know nothing of the old ones.

    Raises:
        NotAssessable: Text is, or may well be, burnt into its pixels.
        InputError: It cannot be read as DICOM, or its compressed pixels are damaged.
    """
    try:
        offset, syntax = part10.split_file(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's remarks quote the values they are about
            dataset = dcmread(BytesIO(part10.encode_file_meta("", "", syntax) + data[offset:]))
            if why := burnt_in(dataset, secondary_captures=secondary_captures):
                raise NotAssessable(Reason.NOT_AN_IMAGE, why)
            deidentify(dataset, pseudonyms, patient)
            clean_pixels(dataset, UID(syntax))
            return _encode(dataset, UID(syntax))
    except InputError:
        raise
    except Exception as error:  # damaged bytes bring out anything; its text may quote a value, so only its kind is told
        raise InputError(Reason.UNREADABLE, f"cannot be de-identified. Received: {type(error).__name__}") from None


def _encode(dataset: Dataset, syntax: UID) -> bytes:
    dataset.preamble = b"\0" * 128
    meta = dataset.file_meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = UID(part10.IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = part10.IMPLEMENTATION_VERSION_NAME
    written = BytesIO()
    dataset.save_as(written, enforce_file_format=True)
    return written.getvalue()


def deidentify(dataset: Dataset, pseudonyms: Pseudonyms, patient: str) -> None:
    """De-identify a dataset in place, to the last sequence; its pixels are as they were.

    Raises:
        InputError: What decides its picture is encoded as what it cannot be.
    """
    required = str(dataset.get("SOPClassUID", "")) not in _CLASSIC
    _walk(dataset, pseudonyms, required)
    dataset.PatientName = dataset.PatientID = patient  # "Z" and "Z/D" allow a dummy
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = f"medd {__version__}: PS3.15 Basic Profile"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = PROFILE
    dataset.DeidentificationMethodCodeSequence = [code]
    dataset.LongitudinalTemporalInformationModified = "REMOVED"


def burnt_in(dataset: Dataset, *, secondary_captures: bool = False) -> str:
    """Why an object is expected to show its patient's name in its pixels; "" where nothing says so."""
    says = str(dataset.get("BurnedInAnnotation") or "").upper()
    if says == "YES":
        return "it says that text is burnt in (0028,0301)"
    sop_class = str(dataset.get("SOPClassUID", ""))
    is_capture = sop_class == _SECONDARY_CAPTURE or sop_class.startswith(f"{_SECONDARY_CAPTURE}.")
    if says != "NO" and is_capture and not secondary_captures:
        return "it is a Secondary Capture that does not say that no text is burnt in (0028,0301)"
    return ""


def _walk(dataset: Dataset, pseudonyms: Pseudonyms, required: bool) -> None:
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:  # pydicom raises anything for a value that is none of its VR: nobody can say what it holds
            del dataset[tag]
            continue
        action = _action(element, required)
        if action == "X":
            del dataset[tag]
        elif action == "Z":
            element.value = Sequence() if element.VR == "SQ" else None
        elif action == "D":
            _replace(element, pseudonyms)
        elif action == "U":
            _rename(element, pseudonyms)
        elif element.VR == "SQ":
            for item in element.value:
                _walk(item, pseudonyms, required)
                for keyword in PIXELS:  # of an icon, or of nobody knows what
                    item.pop(keyword, None)


def _action(element: DataElement, required: bool) -> str:
    """What to do: "X" remove, "Z" empty, "D" replace, "U" another UID, or "K" keep, and look into its items.

    Args:
        element: The attribute.
        required: Whether its IOD may ask for what is otherwise removed.
    """
    tag, vr = element.tag, element.VR
    if tag.is_private or tag.group < 8 or not _is_known(tag):
        return "X"
    if vr not in _vrs(tag):  # it is not what it says, and might be anything
        if tag.group in _DECISIVE_GROUPS:
            message = f"{tag} {element.keyword} encoded as what it cannot be. Received: {vr}"
            raise InputError(Reason.UNREADABLE, message)
        return "X"
    if vr in ("DS", "IS") and any(isinstance(value, str) for value in _values(element)):
        return "X"  # a number that is none may be a name
    code = basic_profile().get(int(tag), "")
    if code == "X/Z":
        return "Z"  # which suits every IOD, also where the attribute need not be there
    if code == "X/Z/U*":
        return "K" if required else "X"  # the UIDs in its items are "U"
    if code:
        return code[-1] if required else code[0]
    if vr in _REMOVED_VRS or tag.group == _PATIENT_GROUP or element.keyword in _REMOVED:
        return "X"
    if tag.group not in _PICTURE_GROUPS and vr not in _PLAIN_VRS:
        return "X"
    if vr == "UI":
        is_general = element.keyword in _GENERAL_UIDS or "ClassUID" in element.keyword
        return "K" if is_general and all(UID(uid).is_valid for uid in _values(element)) else "U"
    return "K"


def _values(element: DataElement) -> list[Any]:
    if element.is_empty:
        return []
    return list(element.value) if element.VM > 1 else [element.value]


def _is_known(tag: BaseTag) -> bool:
    """Whether the Standard knows it; of the repeating groups it knows overlays and curves, and both are to go."""
    return dictionary_has_tag(tag) and bool(keyword_for_tag(tag))


def _vrs(tag: BaseTag) -> set[str]:
    """The VRs that the Standard has for it; two or three of them in one string where it cannot be told yet which."""
    vr = dictionary_VR(tag)
    return {vr, *vr.split(" or ")}


def _replace(element: DataElement, pseudonyms: Pseudonyms) -> None:
    if element.VR == "SQ":
        for item in element.value:
            for inner in list(item):
                if inner.tag.is_private:
                    del item[inner.tag]
                else:
                    _replace(inner, pseudonyms)
    elif element.VR == "UI":
        _rename(element, pseudonyms)
    elif element.VR in _DUMMIES:
        element.value = _DUMMIES[element.VR]
    else:
        element.value = None


def _rename(element: DataElement, pseudonyms: Pseudonyms) -> None:
    # What the Standard itself names by a UID is nobody's. The root does not tell: some devices make their own under it.
    uids = [str(uid) for uid in _values(element)]
    new = [uid if UID(uid).name != uid else pseudonyms.uid(uid) for uid in uids]
    if new:
        element.value = new if len(new) > 1 else new[0]
