"""The schema. ``migrations/`` builds the same one step by step; a test holds the two equal.

Words and rules that the database can hold are held by it: states by CHECK, "once" by UNIQUE.
"""

from medd.store.tables.base import Id, UtcDateTime, metadata
from medd.store.tables.delivery import commitment, delivery, pulled, report, sent
from medd.store.tables.images import annotation, attachment, instance, job, prediction, purged
from medd.store.tables.models import model_event, model_version
from medd.store.tables.processes import process
from medd.store.tables.studies import study
from medd.store.tables.view import RESULTS_VIEW, results
from medd.store.tables.web import account, audit, session, token

__all__ = [
    "RESULTS_VIEW",
    "Id",
    "UtcDateTime",
    "account",
    "annotation",
    "attachment",
    "audit",
    "commitment",
    "delivery",
    "instance",
    "job",
    "metadata",
    "model_event",
    "model_version",
    "prediction",
    "process",
    "pulled",
    "purged",
    "report",
    "results",
    "sent",
    "session",
    "study",
    "token",
]
