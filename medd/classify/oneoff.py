"""Scoring files at once, without daemon and without database: `medd classify`."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pluggy
from numpy.typing import NDArray

from medd import plugins
from medd.classify.classifier import Input, LoadedModel, prepare
from medd.dicom.findings import Code, captions
from medd.dicom.headers import age_in_years, inspect_file
from medd.errors import InputError, NotAssessable, TransientError
from medd.imaging.overlay import capture
from medd.imaging.pixels import load
from medd.imaging.preprocess import PreprocessSpec
from medd.records import InstanceHeader, MediaType, Prediction, Reason, Status

BATCH_SIZE = 32

#: The keys of a row: those of `medd results`, without what only the database knows.
COLUMNS = (
    "path sop_instance_uid series_instance_uid study_instance_uid patient_id accession_number status "
    "reason model label positive probability probabilities threshold scored_at flags"
).split()


@dataclass(frozen=True, slots=True)
class Judged:
    """One file with what became of it."""

    path: Path
    header: InstanceHeader
    #: (H, W) float32 in [0, 1]; None when it could not be decoded, or was not to be kept.
    image: NDArray[np.float32] | None
    prediction: Prediction | None
    reason: str | None = None
    #: Why, in a sentence.
    detail: str = ""

    @property
    def failed(self) -> bool:
        """Whether the file itself is at fault, rather than outside what the model may judge."""
        return self.reason == Reason.UNREADABLE

    def row(self) -> dict[str, Any]:
        """As `medd classify --format json` shows it."""
        made = self.prediction
        values = {
            "path": str(self.path),
            "sop_instance_uid": self.header.sop_instance_uid,
            "series_instance_uid": self.header.series_instance_uid,
            "study_instance_uid": self.header.study_instance_uid,
            "patient_id": self.header.patient_id,
            "accession_number": self.header.accession_number,
            "status": str(Status.SCORED if made else Status.NOT_ASSESSED),
            "reason": self.reason,
        }
        scores = ("model", "label", "positive", "probability", "probabilities", "threshold", "scored_at", "flags")
        return values | {name: getattr(made, name) if made else None for name in scores}


@dataclass(frozen=True, slots=True)
class _Opened:
    judged: Judged
    #: None where there is nothing to score.
    input: Input | None = None


def classify_files(
    paths: Iterable[Path], model: LoadedModel, manager: pluggy.PluginManager, *, keep_images: bool = False
) -> Iterator[Judged]:
    """Score files, in the order they come; one that cannot be scored says why and the others go on.

    Args:
        paths: The files.
        model: What scores them.
        manager: The plugins, which may refuse an image by its header.
        keep_images: Hand out the decoded images too; a batch of them in full size takes up to gigabytes.
    """
    spec = model.bundle.preprocess
    remaining = iter(paths)
    with ThreadPoolExecutor(os.cpu_count() or 1) as decoders:
        while chunk := list(islice(remaining, BATCH_SIZE)):
            opened = list(decoders.map(lambda path: _open(path, manager, spec, keep_images), chunk))
            yield from _score(opened, model)


def draw(image: NDArray[np.float32], prediction: Prediction, codes: Mapping[str, Code]) -> NDArray[np.uint8]:
    """The picture that a PACS is sent: image, heat map, finding, probability and threshold, as figure 4 of the article.

    Args:
        image: (H, W) float32 in [0, 1].
        prediction: What the model said of it.
        codes: Label → code.

    Returns:
        (height, width, 3) uint8, BGR as OpenCV writes it.
    """
    return np.ascontiguousarray(capture(image, prediction, captions(prediction, codes))[..., ::-1])


def _open(path: Path, manager: pluggy.PluginManager, spec: PreprocessSpec, keep_image: bool) -> _Opened:
    header = InstanceHeader(MediaType.DICOM)
    try:
        header = inspect_file(path)
        verdict = plugins.admit(manager, header)
        if verdict.reason is not None:
            return _Opened(Judged(path, header, None, None, verdict.reason, verdict.detail))
        image = load(path, header.media_type)
        made = prepare(image, spec, age_in_years(header.patient_age))
        return _Opened(Judged(path, header, image if keep_image else None, None), made)
    except InputError as error:
        return _Opened(Judged(path, header, None, None, error.reason, str(error)))
    except OSError as error:
        detail = f"cannot be read. Received: {error.strerror}"
        return _Opened(Judged(path, header, None, None, Reason.UNREADABLE, detail))
    except TransientError as error:
        return _Opened(Judged(path, header, None, None, Reason.UNREADABLE, str(error)))


def _score(opened: Sequence[_Opened], model: LoadedModel) -> Iterator[Judged]:
    inputs = [one.input for one in opened if one.input is not None]
    verdicts = iter(model.judge(inputs, [0] * len(inputs)) if inputs else ())
    for one in opened:
        if one.input is None:
            yield one.judged
            continue
        verdict = next(verdicts)
        if isinstance(verdict, NotAssessable):
            yield replace(one.judged, reason=verdict.reason, detail=str(verdict))
        else:
            yield replace(one.judged, prediction=verdict)
