"""When studies came, when they were scored, and what is known of them: what `medd simulate` replays."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from medd.records import UNSURE, WITHDRAWN
from medd.store.tables import annotation, instance, prediction, study


@dataclass(frozen=True, slots=True)
class Arrival:
    """One study."""

    received_at: datetime
    #: When a model first judged the image that decides; None where none did.
    scored_at: datetime | None
    #: As in `study`.
    band: int
    probability: float | None
    positive: bool | None
    #: Whether a reader said that an image of it shows a finding; None where none has spoken.
    truth: bool | None


def find_arrivals(connection: Connection, since: datetime) -> list[Arrival]:
    """The studies that came since a moment, in their order."""
    s, p = study.c, prediction.c
    first = sa.select(sa.func.min(p.scored_at)).where((p.instance_id == s.instance_id) & ~p.shadow).scalar_subquery()
    columns = sa.select(s.study, s.received_at, first.label("scored_at"), s.band, s.probability, s.positive)
    rows = connection.execute(columns.where(s.received_at >= since).order_by(s.received_at, s.instance_id)).all()
    said = _said(connection)
    return [
        Arrival(row.received_at, row.scored_at, row.band, row.probability, row.positive, said.get(row.study))
        for row in rows
    ]


def _said(connection: Connection) -> dict[str, bool]:
    """What readers said of studies: of each reader and image the last word, and one finding is enough."""
    a, i, p = annotation.c, instance.c, prediction.c
    newest = sa.select(sa.func.max(a.id)).group_by(a.instance_id, a.reader)
    key = sa.case((i.study_instance_uid == "", i.sha256), else_=i.study_instance_uid)
    words = (
        sa.select(key, a.label, p.findings)
        .select_from(annotation.join(instance).join(prediction, (p.instance_id == i.id) & p.current))
        .where(a.id.in_(newest), a.label.not_in((WITHDRAWN, UNSURE)))
    )
    found: dict[str, bool] = {}
    for study_key, label, findings in connection.execute(words):
        if findings:  # a prediction of before they were recorded has none
            found[study_key] = found.get(study_key, False) or label in findings
    return found
