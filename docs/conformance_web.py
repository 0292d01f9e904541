"""The part of the conformance statement on DICOMweb (PS3.18)."""

# ruff: noqa: E501 - prose, as wide as the other documents

from dicomtext import status, table

from medd.ingest import pdu
from medd.settings import DicomWebSettings, ListenerSettings, WebSettings
from medd_web import bodies


def dicomweb() -> str:
    """Both sides of it."""
    timeout_s = DicomWebSettings.model_fields["timeout_s"].default
    object_mib = ListenerSettings.model_fields["max_object_mib"].default
    request_mib = WebSettings.model_fields["max_upload_mib"].default
    reasons = [
        (status(pdu.OUT_OF_RESOURCES), "disk or database is away or full, or the object is larger than allowed"),
        (status(pdu.DATASET_DOES_NOT_MATCH_SOP_CLASS), "it is of another study than the path names"),
        (
            status(pdu.CANNOT_UNDERSTAND),
            "not readable as DICOM, cut off, or without SOP Class or Instance UID; what cannot be named stands in "
            "Other Failures Sequence (0008,119A)",
        ),
    ]
    answers = [
        ("200", "all instances are stored; what is no chest radiograph too, it is recorded as not assessed"),
        ("202", "some are stored"),
        ("400", "none is stored: the body is no multipart body, or breaks off"),
        ("401, 403", "who sends has not logged in, or is no operator"),
        ("406, 415", "the answer cannot be had as asked; another media type is sent"),
        ("408", "no byte came for too long"),
        ("409", "none is stored, for reasons that will not pass, or mixed ones"),
        ("413", "none is stored: object or request is too large"),
        ("503", "none is stored: too many senders, the database is away, or too many images wait; `Retry-After`"),
        ("507", "none is stored: the disk is full; `Retry-After`"),
    ]
    return f"""
### 3.6 DICOMweb (PS3.18)

#### User agent

QIDO-RS for studies and series, with the keys above; WADO-RS for series, `multipart/related; type="application/dicom";
transfer-syntax=*`. HTTP/1.1 over TLS or in the clear; a bearer token from a file. Time-out {timeout_s:g} s.

#### Origin server: STOW-RS (PS3.18 section 10.5)

POST to `/dicom-web/studies` and `/dicom-web/studies/{{study}}`, with the extra `web`. HTTP/1.1 over TLS or in the clear; a
bearer token, or a session, of a user with the role operator.

- Taken: `multipart/related; type="application/dicom"` with a file of PS3.10 in each part, and a single file as
  `application/dicom`, with a length or in chunks; every SOP class in every transfer syntax. Metadata apart from bulk data
  (`application/dicom+json`, `application/dicom+xml`) is not.
- Each part is admitted as by RECEIVER (3.3) while it comes in, and is safe on disk, bytes and row, before the next is
  read. The same dataset again is the same instance, also where it came by C-STORE.
- At most {object_mib} MiB for an object (`listener.max_object_mib`), {request_mib} MiB (`web.max_upload_mib`) and {bodies.MAX_PARTS} parts for a
  request, {bodies.SLOTS} requests at one time, {bodies.SILENCE_S} s without a byte.
- The answer is the Store Instances Response Module (table I.1-1) as `application/dicom+json`, or as
  `application/dicom+xml` where that is preferred. Nothing is coerced, so there is no Warning Reason (0008,1196); nothing can
  be retrieved, so Retrieve URL (0008,1190) is empty.

{table(("Failure Reason (0008,1197)", "when"), reasons)}
{table(("status of HTTP", "when"), answers)}
"""
