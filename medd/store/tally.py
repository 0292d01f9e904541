"""The rows of `study`, kept in the transaction of whatever changes them.

An image that comes in is counted by one upsert. Whatever else changes an instance's status or current prediction calls
`refresh` in the same transaction, which makes the rows anew from what is there.

On PostgreSQL the rows of studies are locked after those of instances and jobs and before those of the outbox, and in
one order, so that no two wait for each other. Whoever holds the row of a study sees all that was committed of its
images; one that is not seen yet is still to be counted by whoever brings it.
"""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from medd.records import UNREPORTED, Status
from medd.store.outbox import study_key
from medd.store.tables import UtcDateTime, instance, study

#: Studies that are made anew in one statement.
_AT_ONCE = 500

# What describes a study comes from the image that decides: a finding before anything else, then the highest
# probability, then the image that came first.
_OF_IMAGE = ("study_instance_uid", "patient_id", "accession_number", "origin", "instance_id")
_OF_SCORE = ("label", "positive", "probability", "threshold", "model")
_COUNTS = ("pending", "scored", "failed", "not_assessed")


def _count_of(status: str) -> str:
    return f"sum(CASE status WHEN '{status}' THEN 1 ELSE 0 END) OVER (PARTITION BY study) AS {status}"


_COUNT_IN = f"""
INSERT INTO study (study, {", ".join(_OF_IMAGE)}, reason, received_at, last_received_at, waiting_since, changed_at,
    {", ".join(_COUNTS)})
VALUES ({{study}}, {", ".join(f"{{{name}}}" for name in _OF_IMAGE)}, {{reason}}, {{received_at}}, {{received_at}},
    {{received_at}}, {{changed_at}}, {{pending}}, 0, {{failed}}, {{not_assessed}})
ON CONFLICT (study) DO UPDATE SET
    {", ".join(f"{name} = study.{name} + excluded.{name}" for name in _COUNTS)},
    reason = CASE WHEN study.pending + excluded.pending > 0 THEN NULL
        WHEN excluded.failed > 0 THEN excluded.reason ELSE study.reason END,
    received_at = CASE WHEN excluded.received_at < study.received_at
        THEN excluded.received_at ELSE study.received_at END,
    last_received_at = CASE WHEN excluded.received_at > study.last_received_at
        THEN excluded.received_at ELSE study.last_received_at END,
    waiting_since = CASE WHEN excluded.received_at < study.waiting_since OR {{is_news}} AND study.read_at IS NOT NULL
        THEN excluded.received_at ELSE study.waiting_since END,
    changed_at = excluded.changed_at,
    read_at = CASE WHEN {{is_news}} THEN NULL ELSE study.read_at END,
    read_by = CASE WHEN {{is_news}} THEN NULL ELSE study.read_by END
"""
_TIMES = ("received_at", "changed_at")
_PARAMETERS = ("study", *_OF_IMAGE, "reason", *_TIMES, "pending", "failed", "not_assessed", "is_news")

_ABSOLUTE = (*_OF_IMAGE, *_OF_SCORE, *_COUNTS, "reason", *_TIMES, "last_received_at")
_MADE = f"""
WITH image AS (
    SELECT i.id AS instance_id, i.study_instance_uid, i.patient_id, i.accession_number, i.origin, i.received_at,
           i.status, i.reason, p.label, p.positive, p.probability, p.threshold, p.model,
           CASE WHEN i.study_instance_uid = '' THEN i.sha256 ELSE i.study_instance_uid END AS study
    FROM instance AS i LEFT JOIN prediction AS p ON p.instance_id = i.id AND p.current
    WHERE {{wanted}}
), ranked AS (
    SELECT study, {", ".join(_OF_IMAGE)}, {", ".join(_OF_SCORE)}, reason AS its_reason,
           row_number() OVER (
               PARTITION BY study
               ORDER BY CASE WHEN positive THEN 0 ELSE 1 END, probability DESC NULLS LAST, instance_id
           ) AS nth,
           max(CASE status WHEN 'failed' THEN reason END) OVER (PARTITION BY study) AS reason_of_failed,
           {", ".join(_count_of(status) for status in _COUNTS)},
           min(received_at) OVER (PARTITION BY study) AS received_at,
           max(received_at) OVER (PARTITION BY study) AS last_received_at, {{changed_at}} AS changed_at
    FROM image
), made AS (
    SELECT ranked.*, CASE WHEN pending > 0 THEN NULL ELSE coalesce(reason_of_failed, its_reason) END AS reason
    FROM ranked WHERE nth = 1
)
"""
_REFRESH = f"""{_MADE}
INSERT INTO study (study, waiting_since, {", ".join(_ABSOLUTE)})
SELECT study, received_at, {", ".join(_ABSOLUTE)} FROM made
WHERE true ORDER BY study
ON CONFLICT (study) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _ABSOLUTE)}
"""
_DIFFERING = f"""{_MADE}
SELECT study.study, study.instance_id FROM study LEFT JOIN made ON made.study = study.study
WHERE study.study IN {{studies}} AND (made.study IS NULL
    OR {" OR ".join(f"study.{name} IS DISTINCT FROM made.{name}" for name in _ABSOLUTE if name != "changed_at")})
ORDER BY study.study
"""
# Each part by its own index, and the second by the digest: by its empty UID it would be looked for among all files.
_OF_STUDIES = """i.id IN (
    SELECT id FROM instance WHERE study_instance_uid IN {studies}
    UNION ALL SELECT id FROM instance WHERE sha256 IN {studies} AND study_instance_uid || '' = '')"""


def count_in_statement(mark: str) -> str:
    """The statement that counts a new instance in; its parameters are those of `counted`.

    Args:
        mark: How the driver marks a parameter, such as ":{}".
    """
    return _COUNT_IN.format(**{name: mark.format(name) for name in _PARAMETERS})


def refresh_statement(mark: str) -> str:
    """The statement that makes one study anew, with the parameters "study" and "changed_at"."""
    studies = f"({mark.format('study')})"
    return _REFRESH.format(wanted=_OF_STUDIES.format(studies=studies), changed_at=mark.format("changed_at"))


def counted(row: dict[str, Any], key: str, instance_id: int, changed_at: Any) -> dict[str, Any]:
    """What the statement that counts a new instance in takes, from its row."""
    status = row["status"]
    return row | {
        "study": key,
        "instance_id": instance_id,
        "changed_at": changed_at,
        "pending": int(status == Status.PENDING),
        "failed": int(status == Status.FAILED),
        "not_assessed": int(status == Status.NOT_ASSESSED),
        # A study that was read is read no more; but no report that a PACS sends back to us makes it so.
        "is_news": row["reason"] not in UNREPORTED,
    }


def refresh(connection: Connection, instance_ids: Collection[int] | None) -> None:
    """Make the studies of these instances anew; with None, of all there are.

    To be called last but for the outbox in the transaction that changed an instance's status or current prediction.
    """
    now = sa.bindparam("changed_at", datetime.now(UTC), UtcDateTime)
    if instance_ids is None:
        connection.execute(sa.text(_REFRESH.format(wanted="true", changed_at=":changed_at")).bindparams(now))
        return
    wanted = _OF_STUDIES.format(studies=":studies")
    statement = sa.text(_REFRESH.format(wanted=wanted, changed_at=":changed_at"))
    statement = statement.bindparams(now, sa.bindparam("studies", expanding=True))
    keys = sorted(lock(connection, instance_ids))
    for start in range(0, len(keys), _AT_ONCE):
        connection.execute(statement, {"studies": keys[start : start + _AT_ONCE]})


def find_differing(connection: Connection, keys: Collection[str]) -> list[tuple[str, int]]:
    """Which of these studies' rows are not what `refresh` would make of them, each with the image that decides."""
    wanted = _OF_STUDIES.format(studies=":studies")
    statement = sa.text(_DIFFERING.format(wanted=wanted, changed_at="NULL", studies=":studies"))
    found = connection.execute(statement.bindparams(sa.bindparam("studies", expanding=True)), {"studies": list(keys)})
    return [(row.study, row.instance_id) for row in found]


def lock(connection: Connection, instance_ids: Collection[int]) -> dict[str, set[int]]:
    """The studies of instances, which nobody else changes from now on, each with those of the instances that it has."""
    found: dict[str, set[int]] = {}
    i = instance.c
    names = sa.select(i.id, i.study_instance_uid, i.sha256).where(i.id.in_(instance_ids))
    for id_, uid, sha256 in connection.execute(names):
        found.setdefault(study_key(uid, sha256), set()).add(id_)
    if connection.dialect.name == "postgresql":
        keys = sorted(found)
        for start in range(0, len(keys), _AT_ONCE):
            mine = study.c.study.in_(keys[start : start + _AT_ONCE])
            in_order = sa.select(study.c.study).where(mine).order_by(sa.collate(study.c.study, "C"))
            connection.execute(in_order.with_for_update())
    return found
