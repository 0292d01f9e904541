"""The audit trail for those who read it: as a page, and as the messages of DICOM (PS3.15 section A.5.1)."""

from collections.abc import Mapping
from typing import Annotated, Any
from xml.etree import ElementTree

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse

from medd.errors import SettingsError
from medd.records import AuditOutcome
from medd.rows import parse_since, plain
from medd.store.audit import EventFilter, find_events
from medd_web.actions import CODES, MEANINGS, Action
from medd_web.audit import record
from medd_web.auth import User, administrator
from medd_web.context import get_context, page

#: Events on a page.
_PAGE = 100
#: EventOutcomeIndicator: success, minor failure, serious failure.
_INDICATORS = {AuditOutcome.SUCCESS: "0", AuditOutcome.REFUSED: "4", AuditOutcome.FAILED: "8"}

router = APIRouter()


@router.get("/audit")
def show(
    request: Request,
    user: Annotated[User, Depends(administrator)],
    account: Annotated[str, Query(max_length=64)] = "",
    action: Annotated[str, Query(max_length=32)] = "",
    study: Annotated[str, Query(max_length=64)] = "",
    since: Annotated[str, Query(max_length=32)] = "",
    before: Annotated[int | None, Query(ge=1, lt=1 << 62)] = None,
) -> HTMLResponse:
    """Who saw which case and changed what, newest first."""
    context = get_context(request)
    asked = {"account": account.strip(), "action": action, "study": study.strip(), "since": since.strip()}
    fault = ""
    try:
        moment = parse_since(asked["since"], "since") if asked["since"] else None
    except SettingsError as error:
        moment, fault = None, str(error)
    record(context, request, user, Action.AUDIT_READ, detail=" ".join(f"{k}={v}" for k, v in asked.items() if v))
    wanted = EventFilter(
        moment, asked["account"] or None, asked["action"] or None, asked["study"] or None, before, _PAGE + 1
    )
    with context.database.read() as connection:
        events = list(find_events(connection, wanted))
    older = events[_PAGE - 1]["id"] if len(events) > _PAGE else None
    shown: dict[str, Any] = {
        "events": events[:_PAGE],
        "older": older,
        "asked": asked,
        "actions": list(Action),
        "fault": fault,
    }
    return page(request, "audit.html", **shown)


def as_message(event: Mapping[str, Any], source: str) -> str:
    """An event as an AuditMessage of PS3.15 section A.5.1, on one line.

    Args:
        event: A row of `find_events`.
        source: By what name this installation is known.
    """
    id_, kind, action = CODES.get(event["action"], ("110100", "", "E"))
    message = ElementTree.Element("AuditMessage")
    identification = _add(
        message,
        "EventIdentification",
        EventActionCode=action,
        EventDateTime=plain(event["at"]),
        EventOutcomeIndicator=_INDICATORS[AuditOutcome(event["outcome"])],
    )
    _add_code(identification, "EventID", id_)
    if kind:
        _add_code(identification, "EventTypeCode", kind)
    else:
        # What we say ourselves, where DICOM has no word.
        _add(
            identification, "EventTypeCode", **{"csd-code": event["action"]}, codeSystemName="99MEDD",
            originalText=event["action"].replace("_", " "),
        )  # fmt: skip
    if event["detail"]:
        _add(identification, "EventOutcomeDescription").text = _xml(event["detail"])
    where = {"NetworkAccessPointID": event["address"], "NetworkAccessPointTypeCode": "2"} if event["address"] else {}
    _add(message, "ActiveParticipant", UserID=event["account"] or "unknown", UserIsRequestor="true", **where)
    process = _add(message, "ActiveParticipant", UserID=source, UserIsRequestor="false")
    _add_code(process, "RoleIDCode", "110150")
    origin = _add(message, "AuditSourceIdentification", AuditSourceID=source)
    _add(origin, "AuditSourceTypeCode", **{"csd-code": "4"})  # an application server
    if event["study"]:
        study = _add_object(message, event["study"], type_code="2", role="3")
        _add_code(study, "ParticipantObjectIDTypeCode", "110180")
        _add(study, "ParticipantObjectName").text = _xml(event["study"])
        if event["instance"]:
            description = _add(study, "ParticipantObjectDescription")
            sop_class = _add(description, "SOPClass", NumberOfInstances="1")
            _add(sop_class, "Instance", UID=event["instance"])
    if event["patient_id"]:
        patient = _add_object(message, event["patient_id"], type_code="1", role="1")
        _add_rfc3881(patient, "2", "Patient Number")
        _add(patient, "ParticipantObjectName")
    if event["action"] == Action.AUDIT_READ:
        log = _add_object(message, "/audit", type_code="2", role="13")
        _add_rfc3881(log, "12", "URI")
        _add(log, "ParticipantObjectName").text = "Security Audit Log"
    return ElementTree.tostring(message, encoding="unicode")


def _add(parent: ElementTree.Element, name: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, name, {key: _xml(value) for key, value in attributes.items()})


def _add_code(parent: ElementTree.Element, name: str, code: str) -> None:
    _add(parent, name, **{"csd-code": code}, codeSystemName="DCM", originalText=MEANINGS[code])


def _add_rfc3881(parent: ElementTree.Element, code: str, meaning: str) -> None:
    _add(parent, "ParticipantObjectIDTypeCode", **{"csd-code": code}, codeSystemName="RFC-3881", originalText=meaning)


def _add_object(message: ElementTree.Element, id_: str, *, type_code: str, role: str) -> ElementTree.Element:
    return _add(
        message,
        "ParticipantObjectIdentification",
        ParticipantObjectID=id_,
        ParticipantObjectTypeCode=type_code,
        ParticipantObjectTypeCodeRole=role,
    )


def _xml(text: str) -> str:
    # XML has no way to write most control characters.
    return "".join(character if character.isprintable() else "�" for character in text)
