"""ORU^R01, unsolicited observation (HL7 2.5.1, chapter 7), of one report."""

import re
from datetime import UTC, datetime
from decimal import Decimal

from medd import DISCLAIMER
from medd.dicom.findings import comparison_of, digits_of, finding_of
from medd.records import ImageResult, StudyReport

#: HL7 2.5.1, section 2.7.1: how the separators are written inside a field.
_ESCAPES = {"|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\\": "\\E\\", "\r": "\\X0D\\", "\n": "\\X0A\\"}


def escape(text: str) -> str:
    """A text as part of a field; other control characters, which nothing needs, are left out."""
    return "".join(_ESCAPES.get(c, c) for c in text if c in "\r\n" or c.isprintable())


def control_id(report: StudyReport) -> str:
    """MSH-10: 20 characters, the same for the same report, by which a receiver knows a repetition."""
    return report.sop_instance_uid[-20:]


def build(
    report: StudyReport,
    *,
    sending: tuple[str, str],
    receiving: tuple[str, str],
    patient_name: str = "",
    processing_id: str = "P",
) -> str:
    r"""The message; its segments end with a carriage return.

    Args:
        report: What is known of the study.
        sending: Our application and facility.
        receiving: Theirs.
        patient_name: As DICOM writes it, "family^given^middle^prefix^suffix".
        processing_id: "P" production, "T" training, "D" debugging.
    """
    when = _time(report.created_at)
    parts = [escape(part) for part in patient_name.split("=")[0].split("^")[:5]]
    # DICOM's fourth and fifth are prefix and suffix (PS3.5 section 6.2.1), HL7's suffix and prefix (XPN).
    name = "^".join(parts[:3] + (parts[:2:-1] if len(parts) == 5 else ["", *parts[3:]] if parts[3:] else []))
    accession, study = escape(report.accession_number), escape(report.study_instance_uid)
    ends = "|".join(map(escape, (*sending, *receiving)))
    control = f"ORU^R01^ORU_R01|{control_id(report)}|{processing_id}|2.5.1"
    segments = [
        f"MSH|^~\\&|{ends}|{when}||{control}|||AL|NE||UNICODE UTF-8",
        f"PID|1||{escape(report.patient_id)}||{name}",
        # OBR-25: "P", as nobody has verified it.
        f"OBR|1|{accession}|{accession}|MEDD^AI classification of radiographs^99MEDD|||{when}{'|' * 15}{when}|||P",
    ]
    observations = [("ST", "113014^DICOM Study^DCM", study, "")] if study else []
    for image in report.images:
        observations += _observations(image)
    for number, (kind, what, value, unit) in enumerate(observations, 1):
        segments.append(f"OBX|{number}|{kind}|{what}|{number}|{value}|{unit}|||||P|||{when}")
    segments.append(f"NTE|1||{escape(DISCLAIMER)}")
    return "\r".join(segments) + "\r"


def _observations(image: ImageResult) -> list[tuple[str, str, str, str]]:
    which = escape(image.sop_instance_uid or image.sha256)
    one = image.prediction
    told = [("ST", "MEDD-IMAGE^Image^99MEDD", which, "")]
    if one is None:
        why = f"not assessed: {image.reason or 'still waiting'}"
        return [*told, ("ST", "MEDD-STATUS^Assessment^99MEDD", escape(why), "")]
    finding, digits = finding_of(one, {}), digits_of(one)

    def percent(probability: float) -> str:
        return f"{Decimal(f'{probability:.{digits}f}').scaleb(2):f}"

    told += [
        # Never the label of what is no finding: below the threshold is all that is known then.
        ("ST", "MEDD-FINDING^Finding^99MEDD", escape(finding.label), ""),
        ("NM", "MEDD-PROBABILITY^Probability of the finding^99MEDD", percent(finding.probability), "%"),
    ]
    if finding.one_of_many:
        told.append(("NM", "MEDD-TOTAL^Probability of all findings^99MEDD", percent(one.probability), "%"))
    told += [
        ("NM", "MEDD-THRESHOLD^Threshold^99MEDD", percent(one.threshold), "%"),
        ("ST", "MEDD-COMPARISON^Beside the threshold^99MEDD", comparison_of(one), ""),
        ("ST", "MEDD-MODEL^Model^99MEDD", escape(one.model), ""),
    ]
    return told + [("ST", "MEDD-FLAG^To be doubted^99MEDD", escape(flag), "") for flag in one.flags]


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y%m%d%H%M%S+0000")


def read_acknowledgement(message: str, expected: str) -> str:
    """MSA-1 of an answer (HL7 2.5.1, section 2.14.8): the code.

    Raises:
        ValueError: It is no acknowledgement of the message `expected`.
    """
    for segment in re.split(r"[\r\n]+", message):
        fields = segment.split("|")
        if fields[0] == "MSA" and len(fields) > 2:
            if fields[2] != expected:
                raise ValueError("acknowledges another message")
            return fields[1]
    raise ValueError("holds no MSA segment")
