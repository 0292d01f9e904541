"""Events as the messages of DICOM (PS3.15 section A.5)."""

from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest
from pydicom.sr._concepts_dict import concepts

from medd.records import AuditOutcome
from medd_web.actions import CODES, MEANINGS, Action
from medd_web.audit_log import as_message

AT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
ROW = {
    "id": 1, "at": AT, "account": "ann", "address": "10.1.2.3", "action": "case_seen", "outcome": "success",
    "study": "1.2.3", "instance": "1.2.3.4", "detail": "", "patient_id": "P1",
}  # fmt: skip


def parse(**changed: object) -> ElementTree.Element:
    line = as_message(ROW | changed, "medd")
    assert "\n" not in line
    return ElementTree.fromstring(line)


def test_every_action_has_codes_of_dicom_and_their_meanings():
    standard = {code: meaning for one in concepts["DCM"].values() for code, (meaning, _) in one.items()}
    assert CODES.keys() == set(Action)
    assert {code for codes in CODES.values() for code in codes[:2]} - {""} <= MEANINGS.keys()
    assert {code: standard[code] for code in MEANINGS} == MEANINGS


def test_who_saw_which_case_is_told_as_dicom_has_it():
    message = parse()
    identification = message.find("EventIdentification")
    assert identification.attrib == {
        "EventActionCode": "R",
        "EventDateTime": "2026-01-02T03:04:05.678Z",
        "EventOutcomeIndicator": "0",
    }
    assert identification.find("EventID").attrib == {
        "csd-code": "110103",
        "codeSystemName": "DCM",
        "originalText": "DICOM Instances Accessed",
    }
    person, process = message.findall("ActiveParticipant")
    assert (person.get("UserID"), person.get("UserIsRequestor")) == ("ann", "true")
    assert (person.get("NetworkAccessPointID"), person.get("NetworkAccessPointTypeCode")) == ("10.1.2.3", "2")
    assert (process.get("UserID"), process.get("UserIsRequestor")) == ("medd", "false")
    assert message.find("AuditSourceIdentification").get("AuditSourceID") == "medd"
    study, patient = message.findall("ParticipantObjectIdentification")
    assert study.get("ParticipantObjectID") == "1.2.3"
    assert (study.get("ParticipantObjectTypeCode"), study.get("ParticipantObjectTypeCodeRole")) == ("2", "3")
    assert study.find("ParticipantObjectIDTypeCode").get("csd-code") == "110180"
    assert study.find("ParticipantObjectDescription/SOPClass/Instance").get("UID") == "1.2.3.4"
    assert (patient.get("ParticipantObjectID"), patient.get("ParticipantObjectTypeCode")) == ("P1", "1")


def test_elements_come_in_the_order_of_the_schema():
    order = [element.tag for element in parse()]
    assert order == [
        "EventIdentification",
        "ActiveParticipant",
        "ActiveParticipant",
        "AuditSourceIdentification",
        "ParticipantObjectIdentification",
        "ParticipantObjectIdentification",
    ]
    assert [element.tag for element in parse(detail="x").find("EventIdentification")] == [
        "EventID",
        "EventTypeCode",
        "EventOutcomeDescription",
    ]


@pytest.mark.parametrize(("outcome", "indicator"), [("success", "0"), ("refused", "4"), ("failed", "8")])
def test_outcomes_are_graded(outcome, indicator):
    assert parse(outcome=AuditOutcome(outcome)).find("EventIdentification").get("EventOutcomeIndicator") == indicator


def test_a_refused_log_in_names_nobody_whom_nobody_knows():
    message = parse(action="logged_in", outcome="refused", account="", study="", instance="", patient_id=None)
    assert message.find("EventIdentification/EventTypeCode").get("originalText") == "Login"
    assert message.find("ActiveParticipant").get("UserID") == "unknown"
    assert message.findall("ParticipantObjectIdentification") == []


def test_reading_the_trail_names_the_trail():
    message = parse(action="audit_read", study="", instance="", patient_id=None)
    log = message.find("ParticipantObjectIdentification")
    assert log.find("ParticipantObjectName").text == "Security Audit Log"
    assert log.get("ParticipantObjectTypeCodeRole") == "13"


def test_what_a_patient_is_called_stays_text():
    nasty = "<script>alert('x')</script>\"&\x00\x1b\u202e" + "x" * 70000
    message = parse(patient_id=nasty, detail=nasty)
    patient = message.findall("ParticipantObjectIdentification")[1].get("ParticipantObjectID")
    assert patient.startswith("<script>alert('x')</script>\"&���xxx")
    assert message.find("EventIdentification/EventOutcomeDescription").text.startswith("<script>")
    assert message.findall(".//script") == []


def test_an_action_of_a_plugin_is_told_in_its_own_words():
    kind = parse(action="coffee_made").find("EventIdentification/EventTypeCode")
    assert kind.attrib == {"csd-code": "coffee_made", "codeSystemName": "99MEDD", "originalText": "coffee made"}
