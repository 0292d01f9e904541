"""The DICOM objects of a report, made from the images where they lie when a destination asks for them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medd.dicom.findings import Code, captions
from medd.dicom.picture import secondary_capture
from medd.dicom.presentation import presentation_state
from medd.dicom.report import structured_report
from medd.dicom.source import BROKEN, lenient, raw_value, read_source
from medd.errors import Casualty, InputError, MeddError, TransientError
from medd.hookspecs import ClassifierSpec
from medd.imaging.overlay import capture
from medd.imaging.pixels import load
from medd.records import PATIENT_CONFLICT, ImageResult, MediaType, Prediction, Reason, Status, StudyReport

#: The kinds of objects there are.
KINDS = ("sr", "sc", "gsps")


def codes_of(specs: Iterable[ClassifierSpec]) -> dict[str, Code]:
    """Label → code, by what the plugins say; of two that name one label, the first counts."""
    found: dict[str, Code] = {}
    for spec in specs:
        for label, code in spec.codes.items():
            found.setdefault(label, code)
    return found


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture that is to be drawn."""

    path: Path
    media_type: MediaType
    prediction: Prediction
    lines: tuple[str, ...]


def draw(wanted: Drawing) -> NDArray[np.uint8]:
    """The picture, (height, width, 3) uint8 RGB; what `medd.imaging.isolated` calls.

    Raises:
        InputError: The image cannot be decoded.
        TransientError: The disk cannot be read now.
    """
    return capture(load(wanted.path, wanted.media_type), wanted.prediction, wanted.lines)


class ReportObjects:
    """What `medd.deliver.destination.Objects` asks for. For one thread.

    Args:
        report: What is known of the study.
        codes: Label → code; see `codes_of`.
        drawn: `draw`, or what asks another process for it and gives errors as results.
    """

    def __init__(self, report: StudyReport, codes: Mapping[str, Code], drawn: Callable[[Drawing], Any] = draw) -> None:
        self._report, self._codes, self._drawn = report, codes, drawn
        self._sources: dict[int, Dataset] | None = None

    def make(self, kind: str) -> Sequence[Dataset]:
        """The objects of a kind, in the order of the images.

        "sr" is one report, "sc" and "gsps" have one object for each scored image that allows it. Image files (JPEG,
        PNG, TIFF) and images without Study Instance UID have no study to put an object into, so there is none.

        Raises:
            InputError: A scored image cannot be read any more, or the images are not all of one patient and study.
            TransientError: The disk cannot be read now.
        """
        if kind not in KINDS:
            raise ValueError(f"kind: one of {', '.join(KINDS)} expected. Received: {kind!r}")
        # Without it those of different patients would have one series, and no archive could file them.
        if not self._report.study_instance_uid or not (sources := self._read_sources()):
            return ()
        try:
            return self._make(kind, sources)
        except BROKEN as error:  # what pydicom raises when an attribute that is needed turns out to be damaged
            # Not what it says: pydicom quotes values.
            found = type(error).__name__
            message = f"study {self._report.study_instance_uid}: an image's header is damaged. Received: {found}"
            raise InputError(Reason.UNREADABLE, message) from error

    def _make(self, kind: str, sources: Mapping[int, Dataset]) -> Sequence[Dataset]:
        if kind == "sr":
            images = tuple(image for image in self._report.images if image.media_type is MediaType.DICOM)
            return (structured_report(replace(self._report, images=images), sources, self._codes),)
        make = self._picture if kind == "sc" else self._state
        made = [
            make(sources[image.instance_id], image, image.prediction)
            for image in self._report.images
            if image.instance_id in sources and image.status is Status.SCORED and image.prediction is not None
        ]
        return tuple(one for one in made if one is not None)

    def patient_name(self) -> str:
        """(0010,0010) Patient's Name of the first image that can be read, decoded.

        "" where that has none or its character set does not have its bytes, and for image files.

        Raises:
            InputError: As `make`.
            TransientError: As `make`.
        """
        with lenient():
            first = next(iter(self._read_sources().values()), None)
            try:
                return "" if first is None else str(first.get("PatientName", ""))
            except BROKEN:  # bytes that its character set does not have
                return ""

    def _picture(self, source: Dataset, image: ImageResult, prediction: Prediction) -> Dataset:
        lines = self._lines(prediction)
        drawing = Drawing(image.path, image.media_type, prediction, lines)
        pixels = self._drawn(drawing)
        if isinstance(pixels, Casualty):
            pixels = self._drawn(drawing)
        if isinstance(pixels, Casualty):  # twice is no coincidence
            raise InputError(Reason.UNREADABLE, f"{image.path.name}: no picture: {pixels}")
        if isinstance(pixels, MeddError):
            raise pixels
        return secondary_capture(source, image, prediction, pixels, ". ".join(lines[:-1]))

    def _state(self, source: Dataset, image: ImageResult, prediction: Prediction) -> Dataset | None:
        return presentation_state(source, image, prediction, self._lines(prediction))

    def _lines(self, prediction: Prediction) -> tuple[str, ...]:
        return captions(prediction, self._codes)

    def _read_sources(self) -> dict[int, Dataset]:
        """Instance id → header. What nobody scored may be damaged, or missing: it is reported by what is known of it.

        So is what came so long before a late image that its bytes were deleted, its picture was sent in its time; and
        what lies on another host.
        """
        if self._sources is not None:
            return self._sources
        sources: dict[int, Dataset] = {}
        missing: TransientError | None = None
        for image in self._report.images:
            if image.media_type is not MediaType.DICOM or not image.has_bytes:
                continue
            try:
                with lenient():
                    sources[image.instance_id] = read_source(image.path)
            except InputError:
                if image.status is Status.SCORED:
                    raise
            except TransientError as error:
                if image.status is Status.SCORED:
                    raise
                missing = error  # refused at another host's door, it has no job that would say where it lies
        if missing is not None and not sources:
            raise missing
        _check_patient(self._report, sources.values())
        self._sources = sources
        return sources


def _check_patient(report: StudyReport, sources: Iterable[Dataset]) -> None:
    """Refuse to put into one study what is of several patients, or of another study: somebody has to look at it.

    Compared by bytes, without padding. An image without Patient ID is no image of a patient who has one; but many
    devices leave out the issuer, which then contradicts none.
    """
    patients, issuers, studies = set(), set(), set()
    for source in sources:
        patients.add(raw_value(source, "PatientID"))
        issuers.add(raw_value(source, "IssuerOfPatientID"))
        studies.add(raw_value(source, "StudyInstanceUID").decode("ascii", "replace"))
    issuers.discard(b"")
    if len(patients) > 1 or len(issuers) > 1:
        message = f"study {report.study_instance_uid}: its images name different patients; nothing is delivered"
        counted = f"{len(patients)} Patient IDs (0010,0020) of {len(issuers)} issuers (0010,0021)"
        raise InputError(PATIENT_CONFLICT, f"{message}. Received: {counted}")
    if studies - {report.study_instance_uid}:
        message = f"study {report.study_instance_uid}: an image is of another study; nothing is delivered"
        raise InputError(PATIENT_CONFLICT, f"{message}. Received: {len(studies)} Study Instance UIDs")
