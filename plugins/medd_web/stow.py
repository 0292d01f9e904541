"""DICOMweb in: the origin server of STOW-RS (PS3.18 section 10.5).

Each part of a request passes the door of C-STORE while it comes in, and is an instance before the next part is read.
The answer tells of every one, with the statuses that C-STORE would have given.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from medd.errors import InputError, PluginError, TransientError
from medd.ingest.multipart import BadMultipart, boundary_of, parameters_of, read_parts
from medd.ingest.pdu import CANNOT_UNDERSTAND, DATASET_DOES_NOT_MATCH_SOP_CLASS, OUT_OF_RESOURCES
from medd.ingest.pieces import Arrival, TooLarge
from medd.records import InstanceHeader, Reason
from medd.store.outbox import study_key
from medd_web import dicom_json
from medd_web.api.listing import Word
from medd_web.api.negotiate import choose
from medd_web.api.schema import problems
from medd_web.auth import User, operator
from medd_web.bodies import MAX_PARTS, RETRY_S, Body, is_disk_full, note_images, work_off
from medd_web.context import Context, get_context

router = APIRouter(prefix="/dicom-web", tags=["dicomweb"])
log = logging.getLogger(__name__)

DICOM = "application/dicom"
_FORMS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "application/dicom+json": dicom_json.as_json,
    "application/dicom+xml": dicom_json.as_xml,
    "application/json": dicom_json.as_json,
    "application/xml": dicom_json.as_xml,
}


class _OtherStudy(InputError):
    """An object is of another study than the path names."""


@dataclass
class Report:
    """What became of the parts of a request."""

    #: (0008,1150) and (0008,1155) of each instance that is stored.
    stored: list[tuple[str, str]] = field(default_factory=list)
    #: Images by study.
    studies: Counter[str] = field(default_factory=Counter)
    #: And of each that is not, with why (0008,1197).
    failed: list[tuple[str, str, int]] = field(default_factory=list)
    #: Why others failed of which nobody knows what they are.
    unknown: list[int] = field(default_factory=list)
    #: What the request is answered with if nothing was stored: the statuses of the failures.
    statuses: set[int] = field(default_factory=set)

    def fail(self, header: InstanceHeader | None, reason: int, status: int) -> None:
        """Note a failure."""
        self.statuses.add(status)
        if header is not None and header.sop_class_uid and header.sop_instance_uid:
            self.failed.append((header.sop_class_uid, header.sop_instance_uid, reason))
        else:
            self.unknown.append(reason)

    @property
    def status(self) -> int:
        """Of HTTP (PS3.18 table 10.5.3-1)."""
        if not self.statuses:
            return 200
        if self.stored:
            return 202
        later = self.statuses & {503, 507}  # what may pass goes before what will not
        return min(later or self.statuses) if later or len(self.statuses) == 1 else 409

    def module(self) -> dict[str, Any]:
        """The Store Instances Response Module (PS3.18 table I.1-1). No URL says where it may be had: not from here."""
        module: dict[str, Any] = {"RetrieveURL": None}
        if self.failed:
            module["FailedSOPSequence"] = [
                {"ReferencedSOPClassUID": kind, "ReferencedSOPInstanceUID": uid, "FailureReason": reason}
                for kind, uid, reason in self.failed
            ]
        if self.stored:
            module["ReferencedSOPSequence"] = [
                {"ReferencedSOPClassUID": kind, "ReferencedSOPInstanceUID": uid, "RetrieveURL": None}
                for kind, uid in self.stored
            ]
        if self.unknown:
            module["OtherFailuresSequence"] = [{"FailureReason": reason} for reason in self.unknown]
        return module


def store_parts(context: Context, parts: Iterable[Iterable[bytes]], origin: str, study: str, report: Report) -> None:
    """Take every part in that can be, and note what became of it.

    Raises:
        BadMultipart: The body is none.
        HTTPException, ClientDisconnect: It broke off.
    """
    limit = context.settings.listener.max_object_mib << 20
    away = 0

    def check(header: InstanceHeader) -> None:
        if not (header.sop_class_uid and header.sop_instance_uid):
            raise InputError(Reason.UNREADABLE, "SOP Class or SOP Instance UID is missing")
        if study and header.study_instance_uid != study:
            raise _OtherStudy(Reason.UNREADABLE, "it is of another study than the path names")

    for number, part in enumerate(parts):
        arrival = Arrival(context.intake, limit)
        if number == MAX_PARTS:
            report.fail(None, OUT_OF_RESOURCES, 413)
            return
        try:
            if away:  # each would have to wait for the same time-out
                arrival.name(part)
                report.fail(arrival.header, OUT_OF_RESOURCES, away)
                continue
            receipt = arrival.receive(part, origin, check)
            assert arrival.header is not None
            report.stored.append((arrival.header.sop_class_uid, arrival.header.sop_instance_uid))
            report.studies[study_key(arrival.header.study_instance_uid, receipt.sha256)] += 1
        except (BadMultipart, HTTPException, ClientDisconnect):
            report.fail(arrival.header, CANNOT_UNDERSTAND, 400)
            raise
        except InputError as error:
            reason, status = CANNOT_UNDERSTAND, 409
            if isinstance(error, TooLarge):
                reason, status = OUT_OF_RESOURCES, 413
            elif isinstance(error, _OtherStudy):
                reason = DATASET_DOES_NOT_MATCH_SOP_CLASS
            _refuse(arrival, report, reason, status, error)
        except PluginError as error:
            _refuse(arrival, report, OUT_OF_RESOURCES, 503, error)
        except TransientError as error:
            away = 507 if is_disk_full(error) else 503
            _refuse(arrival, report, OUT_OF_RESOURCES, away, error)


def _refuse(arrival: Arrival, report: Report, reason: int, status: int, error: Exception) -> None:
    report.fail(arrival.header, reason, status)
    log.warning("an instance is refused: %s", error, extra={"event": "store.refused", "reason": f"{reason:#06x}"})


def _store(context: Context, boundary: bytes, origin: str, study: str, body: Body) -> Report:
    report = Report()
    try:
        parts: Iterable[Iterable[bytes]] = read_parts(body, boundary) if boundary else (body,)
        store_parts(context, parts, origin, study, report)
        for _ in body:  # what stands behind the last part
            pass
    except (BadMultipart, HTTPException, ClientDisconnect) as error:
        if not report.stored:
            raise (HTTPException(400, str(error)) if isinstance(error, BadMultipart) else error) from None
        if 400 not in report.statuses:  # what is stored must be told of, and that there was more
            report.fail(None, CANNOT_UNDERSTAND, 400)
    if not (report.stored or report.statuses):
        raise HTTPException(400, "the body has no part")
    return report


_REQUEST = {
    "requestBody": {
        "required": True,
        "content": {
            'multipart/related; type="application/dicom"': {"schema": {"type": "string", "format": "binary"}},
            DICOM: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_ANSWER = {
    "application/dicom+json": {
        "schema": {"type": "object"},
        "example": {
            "00081190": {"vr": "UR"},
            "00081199": {
                "vr": "SQ",
                "Value": [
                    {
                        "00081150": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.1.1"]},
                        "00081155": {"vr": "UI", "Value": ["1.2.826.0.1.3680043.8.498.17"]},
                        "00081190": {"vr": "UR"},
                    }
                ],
            },
        },
    },
    "application/dicom+xml": {"schema": {"type": "string"}},
}
_TOLD = {
    202: "Some are stored; which are not, and why, is told.",
    409: "None is stored, for reasons that will not pass.",
    413: "None is stored: too large.",
    503: "None is stored, and none refused: try again after `Retry-After`.",
    507: "None is stored: the disk is full.",
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    **problems(
        s400="The body is no multipart body, or ends too early.",
        s406="Neither JSON nor XML is accepted.",
        s415="Only application/dicom is taken.",
        s408="No byte came for too long.",
    ),
    **{status: {"description": why, "content": _ANSWER} for status, why in _TOLD.items()},
    200: {"description": "All are stored: bytes and rows are safe on disk.", "content": _ANSWER},
}
_SAME = dict[str, Any](responses=_RESPONSES, openapi_extra=_REQUEST, response_class=Response)


@router.post("/studies", summary="STOW-RS: store instances", **_SAME)
async def store(
    request: Request,
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(operator)],
) -> Response:
    """Store instances (PS3.18 section 10.5). The same bytes again are the same instance."""
    return await _answer(request, context, user, "")


@router.post("/studies/{study}", summary="STOW-RS: store instances of one study", **_SAME)
async def store_of_study(
    request: Request,
    study: Annotated[Word, Path(description="Study Instance UID; instances of other studies are refused.")],
    context: Annotated[Context, Depends(get_context)],
    user: Annotated[User, Depends(operator)],
) -> Response:
    """Store instances of one study (PS3.18 section 10.5)."""
    return await _answer(request, context, user, study)


async def _answer(request: Request, context: Context, user: User, study: str) -> Response:
    form = choose(request.headers.get("accept", ""), list(_FORMS))
    if form is None:
        raise HTTPException(406, "application/dicom+json or application/dicom+xml can be had")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "the body is to be sent as it is, not compressed", {"Accept-Encoding": "identity"})
    boundary = _boundary(request.headers.get("content-type", ""))
    origin = f"dicomweb://{user.name}@{request.client.host if request.client else ''}"
    report = await work_off(request, partial(_store, context, boundary, origin, study))
    if report.studies:
        await run_in_threadpool(note_images, context, request, user, report.studies, "STOW-RS")
    headers = {"Retry-After": str(RETRY_S)} if report.status in (503, 507) else {}
    return Response(_FORMS[form](report.module()), report.status, headers, form)


def _boundary(content_type: str) -> bytes:
    """What divides the parts; b"" where the body is a single object.

    Raises:
        HTTPException: Something else than application/dicom is sent (415), or nothing divides the parts (400).
    """
    kind, parameters = parameters_of(content_type)
    if kind == DICOM:
        return b""
    if kind != "multipart/related" or parameters.get("type", DICOM).lower() != DICOM:
        accepted = f'multipart/related; type="{DICOM}"'
        raise HTTPException(415, f"{accepted} is taken", {"Accept-Post": accepted})
    if not (boundary := boundary_of(content_type)):
        raise HTTPException(400, "the Content-Type names no boundary")
    return boundary
