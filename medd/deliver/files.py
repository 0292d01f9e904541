"""Results into a folder, for whatever picks them up there."""

import contextlib
import csv
import json
import os
import secrets
from collections.abc import Callable, Collection, Iterator
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydicom import Dataset, dcmwrite

from medd import DISCLAIMER
from medd.deliver.destination import Destination, Objects, Sent
from medd.deliver.rows import COLUMNS, as_dict, as_row
from medd.errors import TransientError
from medd.records import StudyReport
from medd.rows import csv_cells


class FolderDestination(Destination):
    """``[[destination]] type = "folder"``: a file for each report, named by the report's UID."""

    kind = "folder"

    class Settings(BaseModel):
        """A folder, and what is written there."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        #: Relative to the home folder, or absolute; an absolute one has to be there: it may be a share to be mounted.
        path: Path = Path("results")
        #: "json" and "csv": the rows of `medd results`; "dicom": the objects that a PACS is sent.
        formats: tuple[Literal["json", "csv", "dicom"], ...] = Field(default=("json",), min_length=1)

    def send(self, report: StudyReport, objects: Objects, known: Collection[str]) -> Iterator[Sent]:
        """Write what is not there yet."""
        makers: dict[str, Callable[[], bytes]] = {}
        if "json" in self.own.formats:
            makers[f"{report.sop_instance_uid}.json"] = lambda: _json(report)
        if "csv" in self.own.formats:
            makers[f"{report.sop_instance_uid}.csv"] = lambda: _csv(report)
        if "dicom" in self.own.formats:
            for one in (one for kind in ("sr", "sc", "gsps") for one in objects.make(kind)):
                makers[f"{one.SOPInstanceUID}.dcm"] = partial(_part10, one)
        folder = self.settings.under_home(self.own.path)
        for name, make in makers.items():
            if name not in known:
                self._write(folder / name, make())
                yield Sent(name, answer="written")

    def _write(self, file: Path, content: bytes) -> None:
        """Whole or not at all: whoever watches the folder never sees half a file."""
        part = file.with_name(f".{file.name}-{secrets.token_hex(4)}.part")
        try:
            if not self.own.path.is_absolute():
                file.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            # They hold patients' ids: for the owner and his group.
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            part.replace(file)
            folder = os.open(file.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # else a power failure forgets the name of what was acknowledged
            finally:
                os.close(folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise TransientError(f"{self.name}: {file.parent} cannot be written: {error.strerror}") from error


def _json(report: StudyReport) -> bytes:
    return json.dumps(as_dict(report), indent=2).encode() + b"\n"


def _csv(report: StudyReport) -> bytes:
    out = StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow([*COLUMNS, "disclaimer"])
    for image in report.images:
        row = as_row(report, image)
        writer.writerow([*csv_cells(row, COLUMNS), DISCLAIMER])
    return out.getvalue().encode("utf-8", "backslashreplace")


def _part10(dataset: Dataset) -> bytes:
    out = BytesIO()
    dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()
