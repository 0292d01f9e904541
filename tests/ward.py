"""A ward behind a web server: films in the spool, results as a worker would have recorded them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import sqlalchemy as sa
from pydicom import Dataset

from medd.records import Attachment, Reason, Status
from medd.store.repository import record_predictions, set_not_assessed
from medd.store.tables import instance, job
from medd.store.tally import refresh
from medd.testing import dicom_radiograph
from medd.testing.phantom import lung_field
from tests.rows import prediction_of
from tests.web import Web


def heat_map(seed: int, grid: int = 16) -> Attachment:
    """A heat map with one warm place, somewhere in the lungs."""
    inside = cv2.resize(lung_field(seed, size=256).astype(np.float32), (grid, grid), interpolation=cv2.INTER_AREA)
    places = np.argwhere(inside > 0.8)
    row, column = places[np.random.default_rng(seed).integers(len(places))]
    rows, columns = np.mgrid[:grid, :grid]
    warm = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 6) * np.clip(inside + 0.2, 0, 1)
    return Attachment(
        "heat", "image/png", cv2.imencode(".png", (warm / warm.max() * 255).astype(np.uint8))[1].tobytes()
    )


class Ward:
    """What comes in, and what is said of it."""

    def __init__(self, web: Web, folder: Path) -> None:
        self.web, self.database, self._folder = web, web.database, folder
        self._count = 0

    def receive(self, film: Dataset | bytes, origin: str = "dicom://CR1@10.0.0.1", **columns: Any) -> int:
        """An image by the one door; returns its id. `columns` of its row are then set, such as `received_at`."""
        self._count += 1
        path = self._folder / f"film-{self._count}"
        if isinstance(film, bytes):
            path.write_bytes(film)
        else:
            film.save_as(path, enforce_file_format=True)
        id_ = self.web.context.intake.receive_file(path, origin).instance_id
        path.unlink()
        if columns:
            with self.database.write() as connection:
                connection.execute(instance.update().where(instance.c.id == id_).values(**columns))
                refresh(connection, [id_])
        return id_

    def film(self, seed: int, probability: float | None = None, *, minutes_ago: float = 0, **attributes: Any) -> int:
        """A synthetic film, received so long ago and, where a probability is given, scored."""
        wanted = {"size": 256, "opacity": (probability or 0) >= 0.5} | attributes
        id_ = self.receive(dicom_radiograph(seed, **wanted))
        if minutes_ago:
            self.wait(id_, minutes_ago)
        if probability is not None:
            self.score(id_, probability, seed=seed)
        return id_

    def wait(self, id_: int, minutes: float) -> None:
        """Have an image received so long ago."""
        at = datetime.now(UTC) - timedelta(minutes=minutes)
        with self.database.write() as connection:
            connection.execute(instance.update().where(instance.c.id == id_).values(received_at=at))
            connection.execute(sa.text("DELETE FROM study"))
            refresh(connection, None)

    def score(self, id_: int, probability: float, *, seed: int | None = None, **values: Any) -> None:
        """A result, as the worker records it; with a heat map where there is a seed."""
        attachments = (heat_map(seed),) if seed is not None else ()
        said = {
            "scored_at": datetime.now(UTC),
            "attachments": attachments,
            "input_mean": 0.5,
            "input_std": 0.2,
        } | values
        with self.database.write() as connection:
            self._finish(connection, id_)
            record_predictions(connection, [prediction_of(id_, probability, **said)])
            refresh(connection, [id_])

    def refuse(self, id_: int, reason: Reason = Reason.UNFAMILIAR, detail: str = "novelty 2.10, above 1.73") -> None:
        """A model refuses an image."""
        with self.database.write() as connection:
            self._finish(connection, id_)
            set_not_assessed(connection, id_, reason, detail, "stub/1")
            refresh(connection, [id_])

    def fail(self, id_: int) -> None:
        """An image was tried too often."""
        with self.database.write() as connection:
            values = {"status": Status.FAILED, "reason": Reason.RETRIES_EXHAUSTED}
            connection.execute(instance.update().where(instance.c.id == id_).values(values))
            refresh(connection, [id_])

    @staticmethod
    def _finish(connection: sa.Connection, id_: int) -> None:
        connection.execute(job.update().where(job.c.instance_id == id_).values(state="done"))
