"""Images and the work on them: from the door to the worker."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path


class Status(StrEnum):
    """Where one instance stands, as `medd results` shows it."""

    #: Safe on disk, not scored yet.
    PENDING = "pending"
    #: A model gave its probabilities.
    SCORED = "scored"
    #: No model judged it, and `reason` says why. This is never "normal".
    NOT_ASSESSED = "not_assessed"
    #: Work on it failed for good; `reason` and the job's error say why. Retryable by `medd queue retry`.
    FAILED = "failed"


class Reason(StrEnum):
    """Why an instance is "not_assessed" or "failed"."""

    #: The object holds no image (a waveform, an encapsulated PDF, raw data).
    NOT_AN_IMAGE = "not_an_image"
    #: A structured report, presentation state or key object: about images, not one.
    REPORT_OBJECT = "report_object"
    #: An image of another kind than projection radiography (CT, MR, US, …).
    NOT_A_RADIOGRAPH = "not_a_radiograph"
    #: A radiograph of another part of the body.
    NOT_CHEST = "not_chest"
    #: A lateral or decubitus view; the models here know frontal views.
    LATERAL_VIEW = "lateral_view"
    #: Derived from another image (ImageType DERIVED\\SECONDARY, a screenshot, a processed copy).
    DERIVED_IMAGE = "derived_image"
    #: More than one frame.
    MULTI_FRAME = "multi_frame"
    #: Real colour, as a photograph has.
    COLOUR_IMAGE = "colour_image"
    #: Fewer pixels on a side than a radiograph can have.
    TOO_SMALL = "too_small"
    #: More pixels than the limit; not decoded.
    TOO_LARGE = "too_large"
    #: One single grey value, or nearly so.
    BLANK_IMAGE = "blank_image"
    #: Nothing like the images that the model was trained on.
    UNFAMILIAR = "unfamiliar"
    #: Damaged, truncated, or of an encoding that nobody here decodes.
    UNREADABLE = "unreadable"
    #: A plugin refused it; the message says more.
    REFUSED_BY_PLUGIN = "refused_by_plugin"
    #: The work failed more often than it is retried.
    RETRIES_EXHAUSTED = "retries_exhausted"


#: What is no radiograph at all: a report of the study does not speak of it, and it alone makes none. Our own objects,
#: sent back to us by a PACS that forwards everything, are among it.
UNREPORTED = frozenset((Reason.NOT_AN_IMAGE, Reason.REPORT_OBJECT, Reason.NOT_A_RADIOGRAPH, Reason.DERIVED_IMAGE))


class MediaType(StrEnum):
    """How the bytes of an instance are encoded."""

    DICOM = "application/dicom"
    JPEG = "image/jpeg"
    PNG = "image/png"
    TIFF = "image/tiff"


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """What is known of one image without decoding its pixels.

    Text is decoded by the object's own Specific Character Set (0008,0005), stripped of padding; an absent or empty
    attribute is ``""``, an absent number ``None``. For JPEG, PNG and TIFF only `media_type` is set.
    """

    media_type: MediaType
    #: (0008,0016) SOP Class UID.
    sop_class_uid: str = ""
    #: (0008,0018) SOP Instance UID.
    sop_instance_uid: str = ""
    #: (0020,000E) Series Instance UID.
    series_instance_uid: str = ""
    #: (0020,000D) Study Instance UID.
    study_instance_uid: str = ""
    #: (0002,0010) Transfer Syntax UID.
    transfer_syntax_uid: str = ""
    #: (0010,0020) Patient ID. Never logged.
    patient_id: str = field(default="", repr=False)  # what is shown in a trace or an error names nobody
    #: (0008,0050) Accession Number.
    accession_number: str = field(default="", repr=False)
    #: (0008,0060) Modality: CR, DX, RG, …
    modality: str = ""
    #: (0018,0015) Body Part Examined.
    body_part_examined: str = ""
    #: (0018,5101) View Position: PA, AP, LL, …
    view_position: str = ""
    #: (0020,0020) Patient Orientation, first value: the direction in which rows run.
    patient_orientation: str = ""
    #: (0008,0008) Image Type.
    image_type: tuple[str, ...] = ()
    #: (0028,0004) Photometric Interpretation.
    photometric_interpretation: str = ""
    #: (0028,0002) Samples per Pixel.
    samples_per_pixel: int | None = None
    #: (0028,0010) Rows, pixels.
    rows: int | None = None
    #: (0028,0011) Columns, pixels.
    columns: int | None = None
    #: (0028,0008) Number of Frames.
    number_of_frames: int | None = None
    #: Whether (7FE0,0010) Pixel Data, or its float forms, are there.
    has_pixel_data: bool = False
    #: (0008,1030) Study Description.
    study_description: str = ""
    #: (0008,103E) Series Description.
    series_description: str = ""
    #: (0018,1030) Protocol Name.
    protocol_name: str = ""
    #: (0010,0040) Patient's Sex: M, F, O.
    patient_sex: str = ""
    #: (0010,1010) Patient's Age, as DICOM writes it: 004Y, 018M.
    patient_age: str = ""
    #: (0008,0070) Manufacturer.
    manufacturer: str = ""
    #: (0008,1010) Station Name.
    station_name: str = ""
    #: (0008,0020) Study Date, YYYYMMDD.
    study_date: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `admit_instance` says of a header: accepted, or not assessed for a named reason."""

    #: None accepts.
    reason: Reason | None = None
    #: One sentence more, for the reader; free of patient data.
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Instance:
    """One image as it lies in the spool and in the database."""

    #: Row id in this database.
    id: int
    #: SHA-256 of the dataset's bytes (DICOM, without the file meta group) or of the whole file, in hex.
    sha256: str
    #: Where the bytes lie.
    path: Path
    media_type: MediaType
    #: "dicom://AE@host", "dicomweb://…", "upload://USER@host/NAME" or "file:relative/path".
    origin: str
    received_at: datetime
    sop_instance_uid: str = ""
    study_instance_uid: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work, claimed by one worker for the time of a lease."""

    id: int
    #: What is to be done: "classify".
    kind: str
    #: The instance it is about.
    instance_id: int
    #: How often it has been claimed, this time included: 1 at the first try.
    attempts: int
    #: Proof that the claim is still ours: a job that was lost and claimed again has another token.
    lease_token: str
    #: Lower goes first: 0 for what comes in live.
    priority: int = 0
