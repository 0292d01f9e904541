"""What is said of images, and how it is sent: from the worker to the destinations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from medd.records.images import MediaType, Reason, Status

#: Why a study is not reported whose images are not all of one patient. No instance is "failed" by it.
PATIENT_CONFLICT = "patient_conflict"


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
    #: Whether its bytes are to be had here: not where retention has deleted them, or is about to, nor on another host.
    has_bytes: bool = True


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
