"""What crosses a stage border: frozen records and the words for their states."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any


def is_storable(text: str) -> bool:
    """Whether every database takes a text: it encodes as UTF-8 and holds no NUL, which PostgreSQL refuses."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:  # what a terminal or a file name said in other bytes
        return False


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

#: Why a study is not reported whose images are not all of one patient. No instance is "failed" by it.
PATIENT_CONFLICT = "patient_conflict"


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


@dataclass(frozen=True, slots=True)
class Attachment:
    """Something that explains a prediction."""

    #: Unique within the prediction: "heat" is Grad-CAM.
    name: str
    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one model version said of one instance."""

    instance_id: int
    #: "name/version".
    model: str
    #: The label shown to people.
    label: str
    #: Whether `probability` reached `threshold`.
    positive: bool
    #: Probability of the positive class, in [0, 1]: the sum over the bundle's positive labels.
    probability: float
    #: Probability of each label, in [0, 1], summing to 1.
    probabilities: Mapping[str, float]
    #: In [0, 1]; from the bundle.
    threshold: float
    #: Digest of the PreprocessSpec the image went through.
    preprocess_digest: str
    #: UTC.
    scored_at: datetime
    #: The labels that count as findings: the bundle's positive ones. Empty on predictions of before it was recorded.
    findings: tuple[str, ...] = ()
    #: Words that say what to doubt about it, such as an age that the model was not trained on.
    flags: tuple[str, ...] = ()
    #: Mean and standard deviation of the decoded image, in [0, 1].
    input_mean: float | None = None
    input_std: float | None = None
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageResult:
    """One image of a study as a report tells of it."""

    instance_id: int
    sha256: str
    media_type: MediaType
    #: Where the bytes lie.
    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    status: Status
    #: Why it was not assessed or failed, and one sentence more.
    reason: Reason | None = None
    detail: str | None = None
    #: None where no model judged it.
    prediction: Prediction | None = None
    received_at: datetime | None = None
    #: Whether retention has deleted its bytes, or is about to.
    is_purged: bool = False


@dataclass(frozen=True, slots=True)
class StudyReport:
    """What is known of one study at one time: what destinations are sent.

    The same results make the same report, to the last byte and UID; whatever changes makes a new one, which names the
    one before it.
    """

    #: (0020,000D) Study Instance UID; "" for an image file, which is a study of its own.
    study_instance_uid: str
    #: Which report of this study it is: 1 for the first.
    number: int
    #: SOP Instance UID of its SR; the other objects derive theirs from their image and prediction.
    sop_instance_uid: str
    #: SOP Instance UID of the SR that it replaces; "" for the first.
    predecessor: str
    #: When the newest of the results was made.
    created_at: datetime
    #: Never logged.
    patient_id: str = field(repr=False)
    accession_number: str = field(repr=False)
    images: tuple[ImageResult, ...]


class DeliveryState(StrEnum):
    """Where the delivery of a study to a destination stands; a row of ``delivery``."""

    #: Waits: for the study to be quiet, for the destination, for its turn.
    PENDING = "pending"
    #: A deliverer has claimed it.
    RUNNING = "running"
    #: The destination has all there is.
    DONE = "done"
    #: Given up, and why stands in ``error``. `medd queue retry` brings it back.
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery, claimed by one deliverer for the time of a lease."""

    id: int
    #: Study Instance UID, or the SHA-256 of an image file.
    study: str
    #: Name of the destination.
    destination: str
    #: Raised by each change of the study.
    revision: int
    #: How often it has been tried since it last worked, this time included.
    attempts: int
    lease_token: str


class Role(StrEnum):
    """What a model version does for its classifier."""

    #: On duty: what it says is the result. One at most.
    CHAMPION = "champion"
    #: Scores the same images in the shadow: recorded, never shown. One at most.
    CANDIDATE = "candidate"
    #: Known, and not in use: it was on duty, or never was.
    RETIRED = "retired"


class ModelChange(StrEnum):
    """What was done to a model version; a row of ``model_event``."""

    REGISTERED = "registered"
    SET_CANDIDATE = "set_candidate"
    WITHDRAWN = "withdrawn"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    #: A promotion or a retraining was refused.
    REFUSED = "refused"
    #: A worker could not use it, and goes on with the one it had.
    SET_ASIDE = "set_aside"


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """One thing that was done to a model version."""

    at: datetime
    classifier: str
    #: "name/version"; "" where a retraining was refused before there was one.
    model: str
    what: ModelChange
    who: str
    why: str
    #: The figures it was decided by, as JSON has them.
    figures: Mapping[str, Any]


#: The label of an annotation by which a reader takes back what he or she said before.
WITHDRAWN = ""
#: The label of an annotation by which a reader who has looked cannot tell. No model has a label of this name.
UNSURE = "?"


@dataclass(frozen=True, slots=True)
class Annotation:
    """What a reader says the truth of an instance is."""

    instance_id: int
    #: A label of a model, `UNSURE` or `WITHDRAWN`. Only the first is ever learned from.
    label: str
    reader: str
    at: datetime
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a plugin does not want a candidate to go on duty."""

    #: One sentence.
    reason: str


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One bundle as the registry knows it."""

    name: str
    version: str
    #: The classifier plugin that loads it.
    classifier: str
    #: SHA-256 of the bundle's description, which holds the digests of its files.
    digest: str
    path: Path
    role: Role = Role.RETIRED

    @property
    def ref(self) -> str:
        """The model as results name it: "name/version"."""
        return f"{self.name}/{self.version}"


class UserRole(StrEnum):
    """What a user of the web pages and their interfaces may do. Each may also do what those above it may."""

    #: See studies and results, and say what the truth is.
    READER = "reader"
    #: Bring images, and deal with failed work.
    OPERATOR = "operator"
    #: Promote models, and read the audit trail.
    ADMINISTRATOR = "administrator"


class AuditOutcome(StrEnum):
    """What became of what somebody wanted to do."""

    SUCCESS = "success"
    #: He may not, or did not prove who he is.
    REFUSED = "refused"
    #: He may, and it did not work.
    FAILED = "failed"
