"""What came from which device, and what a model said of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from medd.records import Status
from medd.store.tables import instance, prediction


@dataclass(frozen=True, slots=True)
class Sighting:
    """One instance, by where it came from and what was measured of it."""

    manufacturer: str
    station_name: str
    #: "dicom://AE@host" or "file:relative/path".
    origin: str
    received_at: datetime
    status: Status
    #: Of a finding, in [0, 1]; None where the model has not scored it.
    probability: float | None
    #: Of the decoded image, in [0, 1]; None where they were not measured.
    input_mean: float | None
    input_std: float | None


def find_sightings(connection: Connection, model: str, since: datetime) -> Iterator[Sighting]:
    """Every instance received since a moment, with what one model version said of it, one after the other.

    Args:
        connection: To the database.
        model: "name/version". Its predictions count whether they were shown or made in the shadow.
        since: The moment.
    """
    its = (prediction.c.instance_id == instance.c.id) & (prediction.c.model == model)
    statement = (
        sa.select(
            instance.c.manufacturer,
            instance.c.station_name,
            instance.c.origin,
            instance.c.received_at,
            instance.c.status,
            prediction.c.probability,
            prediction.c.input_mean,
            prediction.c.input_std,
        )
        .select_from(instance.outerjoin(prediction, its))
        .where(instance.c.received_at >= since)
    )
    for row in connection.execution_options(yield_per=1000).execute(statement):
        yield Sighting(*row)
