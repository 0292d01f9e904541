"""Query and retrieve (PS3.4 Annex C, Study Root): C-FIND, then C-GET on the same association or C-MOVE to our listener.

Images of a C-GET go into the spool as they were sent, undecoded, and are answered by the rules of the listener.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from pydicom import Dataset
from pynetdicom import _config, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from medd.dicom import part10
from medd.dicom.network import associate
from medd.errors import InputError, PeerRefused, PluginError, TransientError
from medd.ingest import pdu
from medd.ingest.intake import Intake
from medd.ingest.query import (
    SERIES_KEYS,
    STUDY_KEYS,
    FoundSeries,
    FoundStudy,
    Query,
    Source,
    StudyRefused,
    Tally,
    check_number,
    read_series,
    read_studies,
)
from medd.settings import ListenerSettings, PeerSettings
from medd.store import pulled
from medd.store.database import Database

log = logging.getLogger(__name__)
# To show it, pynetdicom would decode every answer, whether or not somebody logs; and patients are in them.
_config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False

#: What a C-GET may bring: CR; DX for presentation and for processing; secondary capture, plain and multi-frame; RF.
STORAGE_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.1.1",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.7.2",
    "1.2.840.10008.5.1.4.1.1.7.3",
    "1.2.840.10008.5.1.4.1.1.12.2",
)
#: Each in a context of its own, so that every object comes as the peer holds it (PS3.8 section 9.3.2.2). The plain ones
#: stand first: a peer that looks no further than the first context of a class must find one it can always serve.
TRANSFER_SYNTAXES = (
    part10.EXPLICIT_VR_LITTLE_ENDIAN,
    part10.IMPLICIT_VR_LITTLE_ENDIAN,
    "1.2.840.10008.1.2.2",  # Explicit VR Big Endian
    "1.2.840.10008.1.2.1.99",  # Deflated
    "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.4.50",  # JPEG Baseline
    "1.2.840.10008.1.2.4.51",  # JPEG Extended
    "1.2.840.10008.1.2.4.57",  # JPEG Lossless
    "1.2.840.10008.1.2.4.70",  # JPEG Lossless, first-order prediction
    "1.2.840.10008.1.2.4.80",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.81",  # JPEG-LS Near-Lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.201",  # High-Throughput JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.202",  # High-Throughput JPEG 2000 with RPCL Options Lossless
    "1.2.840.10008.1.2.4.203",  # High-Throughput JPEG 2000
)
#: A peer need not say a word while it moves (PS3.4 section C.4.2.2), and pynetdicom tells us of an object only when it
#: is whole: how long a series may take by C-MOVE, and an object by C-GET, seconds.
PATIENCE_S = 600.0

_FIND = str(StudyRootQueryRetrieveInformationModelFind)
_GET = str(StudyRootQueryRetrieveInformationModelGet)
_MOVE = str(StudyRootQueryRetrieveInformationModelMove)
_NAMES = {_FIND: "C-FIND", _GET: "C-GET", _MOVE: "C-MOVE"}

_FIND_PENDING = (0xFF00, 0xFF01)
_SUCCESS = 0x0000
_CANCELLED = 0xFE00
_MOVE_DESTINATION_UNKNOWN = 0xA801
#: What a peer says of us, and will of every study: SOP Class not supported, Not authorized (PS3.7 section C.5).
_ABOUT_US = (0x0122, 0x0124, _MOVE_DESTINATION_UNKNOWN)


class DicomPeer(Source):
    """An archive that speaks DIMSE.

    Args:
        peer: How to reach it.
        listener: Our listener's settings: its AE title is ours, and where a C-MOVE sends to.
        tls: An `ssl.SSLContext`, or None.
        intake: Where images go.
        database: Tells what a C-MOVE brought to the listener.
    """

    def __init__(
        self, peer: PeerSettings, listener: ListenerSettings, tls: Any, intake: Intake, database: Database
    ) -> None:
        self.name = peer.name
        self._peer, self._listener, self._tls = peer, listener, tls
        self._intake, self._database = intake, database

    def find(self, query: Query) -> list[FoundStudy]:
        """C-FIND at the level STUDY, once for each modality, as the key takes a single value (PS3.4 C.2.2.2.1)."""
        identifier = _identifier("STUDY", STUDY_KEYS)
        identifier.StudyInstanceUID = query.study_instance_uid
        identifier.StudyDate = query.date_range
        identifier.PatientID = query.patient_id
        identifier.AccessionNumber = query.accession_number
        answers: list[dict[str, str]] = []
        with self._associate(_FIND) as association:
            for modality in query.modalities:
                identifier.ModalitiesInStudy = modality
                try:
                    more = self._ask(association, identifier)
                except StudyRefused:
                    # The key is optional for a peer. One that refuses it instead of passing it over is asked without.
                    identifier.ModalitiesInStudy = ""
                    answers = self._ask(association, identifier)
                    break
                answers += more
                if more and not any(answer.get("ModalitiesInStudy") for answer in more):
                    break  # it does not know the key, and has told us all studies already
        return read_studies(answers, query, self.name)

    def find_series(self, study_instance_uid: str, modalities: tuple[str, ...]) -> list[FoundSeries]:
        """C-FIND at the level SERIES."""
        with self._associate(_FIND) as association:
            return self._find_series(association, study_instance_uid, modalities)

    def fetch(self, study_instance_uid: str, modalities: tuple[str, ...], tally: Tally) -> bool:
        """C-FIND for the series, then C-GET or C-MOVE for each, on one association."""
        if self._peer.retrieve == "move":
            with self._associate(_FIND, _MOVE) as association:
                series = self._find_series(association, study_instance_uid, modalities)
                association.dimse_timeout = max(PATIENCE_S, self._peer.timeout_s)
                for one in tally.begin(series):
                    self._move(association, study_instance_uid, one, tally)
            return bool(series)
        taker = _Taker(self._peer, self._listener.max_object_mib << 20, self._intake, study_instance_uid, tally)
        with self._associate(_FIND, _GET, taker=taker) as association:
            series = self._find_series(association, study_instance_uid, modalities)
            association.dimse_timeout = max(PATIENCE_S, self._peer.timeout_s)
            for one in tally.begin(series):
                taker.series = one.series_instance_uid
                self._get(association, study_instance_uid, one, tally)
                if taker.broken is not None:
                    raise taker.broken
        return bool(series)

    # Requests ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def _associate(self, *services: str, taker: "_Taker | None" = None) -> Iterator[Association]:
        contexts = [build_context(service) for service in services]
        handlers, roles = [], []
        if taker is not None:
            contexts += [build_context(name, syntax) for name in STORAGE_CLASSES for syntax in TRANSFER_SYNTAXES]
            handlers = [
                (evt.EVT_C_STORE, taker.take),
                (evt.EVT_DIMSE_SENT, taker.count),
                (evt.EVT_PDU_RECV, taker.cut),
            ]
            roles = [build_role(name, scp_role=True) for name in STORAGE_CLASSES]
        title = self._listener.ae_title
        opened = associate(self._peer, title, contexts, tls=self._tls, handlers=handlers, negotiation=roles)
        with opened as association:
            accepted = {context.abstract_syntax for context in association.accepted_contexts}
            missing = ", ".join(_NAMES[service] for service in services if service not in accepted)
            if missing:
                other = "get" if self._peer.retrieve == "move" else "move"
                raise PeerRefused(f'{self.name}: does not offer {missing}; try retrieve = "{other}", or ask its keeper')
            try:
                yield association
            except RuntimeError as error:  # pynetdicom's word for an association that is gone
                raise TransientError(f"{self.name}: the association is gone") from error

    def _ask(self, association: Association, identifier: Dataset) -> list[dict[str, str]]:
        answers: list[dict[str, str]] = []
        for status, answer in association.send_c_find(identifier, _FIND):
            code = status.get("Status")
            if code in _FIND_PENDING:
                answers.append(_values(answer))
                check_number(answers, self.name)
            elif code != _SUCCESS:
                raise self._failure("C-FIND", code)
        return answers

    def _find_series(
        self, association: Association, study_instance_uid: str, modalities: tuple[str, ...]
    ) -> list[FoundSeries]:
        identifier = _identifier("SERIES", SERIES_KEYS)
        identifier.StudyInstanceUID = study_instance_uid
        return read_series(self._ask(association, identifier), study_instance_uid, modalities, self.name)

    def _get(self, association: Association, study: str, series: FoundSeries, tally: Tally) -> None:
        before, failed_before = len(tally.received), tally.failed
        request = _series_identifier(study, series)
        final = Dataset()
        for status, _ in association.send_c_get(request, _GET):
            final = status
        self._judge("C-GET", final, tally)
        # The peer's count holds what we refused, and what it could not even send.
        tally.failed = max(tally.failed, failed_before + _count(final, "Failed"))
        given = len(tally.received) - before + tally.failed - failed_before
        tally.compare(series, given)
        if given < _count(final, "Completed"):
            tally.problems.append("the peer says that it sent images, but fewer came")

    def _move(self, association: Association, study: str, series: FoundSeries, tally: Tally) -> None:
        title = self._listener.ae_title
        before = self._arrived(study, series)
        request = _series_identifier(study, series)
        final = Dataset()
        for status, _ in association.send_c_move(request, title, _MOVE):
            final = status
        arrived = self._arrived(study, series)
        failed = _count(final, "Failed")
        tally.failed += failed
        problems = len(tally.problems)
        self._judge("C-MOVE", final, tally)
        # What lies here already may have come another day.
        if not arrived or (len(tally.problems) > problems and arrived == before and not _count(final, "Completed")):
            tally.problems[problems:] = [
                f"nothing arrived at our listener (C-MOVE answered with {final.Status:#06x}): is `medd serve` running,"
                f" and does the peer know {title} with our address and port {self._listener.port}?"
            ]
            return
        tally.received |= arrived
        tally.compare(series, len(arrived) + failed)
        if len(arrived) < _count(final, "Completed"):
            tally.problems.append("the peer says that it sent more images than arrived at our listener")

    def _arrived(self, study: str, series: FoundSeries) -> set[str]:
        with self._database.read() as connection:
            return pulled.find_images(connection, study).get(series.series_instance_uid, set())

    def _judge(self, operation: str, final: Dataset, tally: Tally) -> None:
        code = final.get("Status")
        if code is None or code in _ABOUT_US:
            raise self._failure(operation, code)
        # Also a warning: the counts that would tell of what are optional.
        if code != _SUCCESS:
            tally.problems.append(f"{operation} answered with {code:#06x}")

    def _failure(self, operation: str, code: int | None) -> TransientError | PeerRefused:
        """What a status says (PS3.4 sections C.4.1.1.4, C.4.2.1.5, C.4.3.1.4; PS3.7 Annex C)."""
        if code is None:
            return TransientError(f"{self.name}: goes away, or does not answer, during {operation}")
        if code == _MOVE_DESTINATION_UNKNOWN:
            return PeerRefused(
                f"{self.name}: does not know where {self._listener.ae_title} is (0xa801, Move Destination unknown);"
                f' enter the AE title with our address and port {self._listener.port} there, or set retrieve = "get"'
            )
        if code >> 8 == 0xA7 or code >> 12 == 0xC or code == _CANCELLED:
            return TransientError(f"{self.name}: {operation} answered with {code:#06x}; ask for less, or later")
        kind = PeerRefused if code in _ABOUT_US else StudyRefused
        return kind(f"{self.name}: {operation} answered with {code:#06x}")


class _Taker:
    """Takes the images of a C-GET; nothing that was not asked for, however it comes to be sent."""

    def __init__(self, peer: PeerSettings, limit: int, intake: Intake, study: str, tally: Tally) -> None:
        self._peer, self._limit, self._intake, self._study, self._tally = peer, limit, intake, study, tally
        self._origin = f"dicom://{peer.ae_title}@{peer.host}"
        #: The series that is asked for now.
        self.series = ""
        #: Our own failure, which the next image would meet as well.
        self.broken: TransientError | None = None
        #: Why the image in hand is refused; empty where pynetdicom refuses it without asking us.
        self._why = ""

    def take(self, event: evt.Event) -> int:
        """Handle EVT_C_STORE; success only when bytes and row are safe on disk."""
        request = event.request
        sop_class, sop_instance = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        try:
            status, self._why = self._store(
                request.DataSet, sop_class, sop_instance, str(event.context.transfer_syntax)
            )
        except Exception:  # pynetdicom would answer, and tell nobody
            log.exception("an image of a C-GET cannot be taken", extra={"event": "store.failed"})
            status, self._why = pdu.CANNOT_UNDERSTAND, "an unexpected failure"
        if status == pdu.SUCCESS:
            self._tally.received.add(sop_instance)
        return status

    def count(self, event: evt.Event) -> None:
        """Handle EVT_DIMSE_SENT: every refusal passes here, also of an object in a context that is none."""
        if not isinstance(event.message, C_STORE_RSP):
            return
        status = event.message.command_set.Status
        why, self._why = self._why or "its presentation context is not one that was accepted", ""
        if status != pdu.SUCCESS:
            self._tally.failed += 1
            fields = {"event": "store.refused", "peer": self._peer.name, "reason": f"{status:#06x}"}
            log.warning("an image of a C-GET is refused: %s", why, extra=fields)

    def cut(self, event: evt.Event) -> None:
        """Handle EVT_PDU_RECV: of an object that is too large no more is held than shows that it is.

        pynetdicom gathers an object in memory, in the thread that calls this.
        """
        message = event.assoc.dimse.message
        data = message.data_set if message is not None else None
        if data is not None and data.tell() > self._limit:
            data.seek(self._limit + 1)
            data.truncate()

    def _store(self, dataset: BytesIO, sop_class: str, sop_instance: str, syntax: str) -> tuple[int, str]:
        if self.broken is not None:
            return pdu.OUT_OF_RESOURCES, str(self.broken)
        writer = self._intake.begin(part10.encode_file_meta(sop_class, sop_instance, syntax, self._peer.ae_title))
        try:
            with dataset.getbuffer() as data:
                if len(data) > self._limit:
                    return pdu.OUT_OF_RESOURCES, f"object is larger than {self._limit >> 20} MiB"
                writer.write(data)
            header = self._intake.read_header(writer, syntax)
            if (sop_class, sop_instance) != (header.sop_class_uid, header.sop_instance_uid):
                return pdu.DATASET_DOES_NOT_MATCH_SOP_CLASS, "UIDs of dataset and command differ"
            if (header.study_instance_uid, header.series_instance_uid) != (self._study, self.series):
                return pdu.DATASET_DOES_NOT_MATCH_SOP_CLASS, "it is of a study or series that was not asked for"
            self._intake.receive_dataset(writer, header, self._origin)
        except InputError as error:
            return pdu.CANNOT_UNDERSTAND, str(error)
        except (TransientError, PluginError) as error:
            self.broken = TransientError(str(error))
            return pdu.OUT_OF_RESOURCES, str(error)
        except OSError as error:
            self.broken = TransientError(f"spool: {error.strerror}")
            return pdu.OUT_OF_RESOURCES, str(self.broken)
        finally:
            writer.discard()
        return pdu.SUCCESS, ""


def _identifier(level: str, keys: list[str] | tuple[str, ...]) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for key in keys:
        setattr(identifier, key, None if key.startswith("NumberOf") else "")
    return identifier


def _series_identifier(study: str, series: FoundSeries) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "SERIES"
    identifier.StudyInstanceUID = study
    identifier.SeriesInstanceUID = series.series_instance_uid
    return identifier


def _values(answer: Dataset | None) -> dict[str, str]:
    """An answer's values by keyword, read from the bytes: pydicom would warn of odd ones, and quote them."""
    values: dict[str, str] = {}
    for key in (*STUDY_KEYS, *SERIES_KEYS) if answer is not None else ():
        element = answer.get_item(key)  # type: ignore[union-attr]
        raw = getattr(element, "value", None)
        if isinstance(raw, bytes):
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError:
                text = raw.decode("latin-1")
            values[key] = part10.clean(text)
    return values


def _count(final: Dataset, what: str) -> int:
    # (0000,1020) to (0000,1023): optional in a final response.
    return int(final.get(f"NumberOf{what}Suboperations") or 0)
