"""Whom a path means."""

from typing import Annotated

import sqlalchemy as sa
from fastapi import HTTPException, Path
from sqlalchemy import Connection

from medd.store.annotations import find_instances
from medd.store.outbox import study_key
from medd.store.tables import instance
from medd_web.api.listing import Word

#: An instance id, a SHA-256 in hex, or a SOP Instance UID.
Key = Annotated[Word, Path(description="Instance id, SHA-256 in hex, or SOP Instance UID.", examples=["17"])]


def find_one(connection: Connection, key: str) -> int:
    """The instance that a key names.

    Raises:
        HTTPException: There is none (404), or there are several of this UID (409).
    """
    found = find_instances(connection, key)
    if not found:
        raise HTTPException(404, "no instance of this UID, SHA-256 or id")
    if len(found) > 1:
        raise HTTPException(409, f"several instances have this UID; name one by its id: {', '.join(map(str, found))}")
    return found[0]


def study_of(connection: Connection, instance_id: int) -> str:
    """The key of an instance's study, as in the table ``study``."""
    columns = sa.select(instance.c.study_instance_uid, instance.c.sha256).where(instance.c.id == instance_id)
    return study_key(*connection.execute(columns).one())
