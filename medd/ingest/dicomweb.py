"""DICOMweb (PS3.18): QIDO-RS finds studies and series, WADO-RS brings their instances as the server holds them.

The questions are dicomweb-client's. The answers with images are read here: they go into the spool byte for byte and
piece by piece, while the client would decode each, and hold it whole.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from medd.dicom import part10
from medd.errors import InputError, PeerRefused, PluginError, SettingsError, TransientError
from medd.ingest.intake import Intake
from medd.ingest.multipart import boundary_of, read_parts
from medd.ingest.pieces import Arrival
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
from medd.records import InstanceHeader, Reason
from medd.settings import DicomWebSettings

log = logging.getLogger(__name__)
# Both show the address of a question at DEBUG, and with it a patient's id; the client repeats a server's words.
logging.getLogger("urllib3").setLevel(logging.ERROR)
logging.getLogger("dicomweb_client").setLevel(logging.ERROR)

#: Studies asked for at one time.
_PAGE = 200
_CHUNK_BYTES = 1 << 18
#: PS3.6: the keys' tags, as DICOM JSON (PS3.18 Annex F) names them.
_TAGS = {
    "StudyInstanceUID": "0020000D",
    "StudyDate": "00080020",
    "StudyTime": "00080030",
    "ModalitiesInStudy": "00080061",
    "PatientID": "00100020",
    "AccessionNumber": "00080050",
    "NumberOfStudyRelatedInstances": "00201208",
    "SeriesInstanceUID": "0020000E",
    "Modality": "00080060",
    "NumberOfSeriesRelatedInstances": "00201209",
}
#: As stored, whatever that is (PS3.18 section 8.7.3.5.2).
_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'


class DicomWebServer(Source):
    """An archive that speaks DICOMweb.

    Args:
        server: How to reach it.
        home: Where relative paths of the settings begin.
        intake: Where images go.
        limit: The largest object taken, bytes.

    Raises:
        SettingsError: The URL is none, or a file cannot be read.
    """

    def __init__(self, server: DicomWebSettings, home: Path, intake: Intake, limit: int) -> None:
        from dicomweb_client.web import DICOMwebClient

        self.name = server.name
        self._intake, self._limit, self._timeout_s = intake, limit, server.timeout_s
        self._url = server.url.rstrip("/")
        try:
            parts = urlsplit(self._url)
        except ValueError:  # half an IPv6 address
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(
                f"dicomweb {server.name!r}: url: http:// or https:// expected. Received: {server.url!r}"
            )
        self._origin = f"dicomweb://{parts.hostname}"
        self._session = _Session()
        self._session.auth = _Bearer(_read_token(server, home))
        if server.ca:
            ca = home / server.ca
            if not ca.is_file():
                raise SettingsError(f"dicomweb {server.name!r}: ca: no such file. Received: {ca}")
            self._session.verify = str(ca)
        try:
            self._client = DICOMwebClient(self._url, self._session, timeout=server.timeout_s, permissive_uid=True)
        except ValueError as error:
            raise SettingsError(f"dicomweb {server.name!r}: url cannot be used. Received: {server.url!r}") from error
        self._client.set_http_retry_params(retry=False)  # `medd.ingest.pull` does that, for every source alike

    def find(self, query: Query) -> list[FoundStudy]:
        """QIDO-RS for studies, once for each modality, page by page."""
        filters = {
            "StudyInstanceUID": query.study_instance_uid,
            "StudyDate": query.date_range,
            "PatientID": query.patient_id,
            "AccessionNumber": query.accession_number,
        }
        filters = {key: value for key, value in filters.items() if value}
        answers: list[dict[str, str]] = []
        for modality in query.modalities:
            seen: set[str] = set()
            while True:
                page = self._search(
                    self._client.search_for_studies,
                    search_filters=filters | {"ModalitiesInStudy": modality},
                    fields=STUDY_KEYS,
                    limit=_PAGE,
                    offset=len(seen),
                )
                new = {answer.get("StudyInstanceUID", "") for answer in page} - seen
                if not new:  # also a server that knows no offset, and says the same for ever
                    break
                seen |= new
                answers += page
                check_number(answers, self.name)
        return read_studies(answers, query, self.name)

    def find_series(self, study_instance_uid: str, modalities: tuple[str, ...]) -> list[FoundSeries]:
        """QIDO-RS for the series of a study."""
        answers = self._search(
            self._client.search_for_series, study_instance_uid=study_instance_uid, fields=list(SERIES_KEYS)
        )
        check_number(answers, self.name)
        return read_series(answers, study_instance_uid, modalities, self.name)

    def fetch(self, study_instance_uid: str, modalities: tuple[str, ...], tally: Tally) -> bool:
        """WADO-RS for each series (PS3.18 section 10.4)."""
        series = self.find_series(study_instance_uid, modalities)
        for one in tally.begin(series):
            try:
                self._fetch_series(study_instance_uid, one, tally)
            except StudyRefused as error:
                tally.problems.append(str(error))
        return bool(series)

    def _search(self, search: Any, **arguments: Any) -> list[dict[str, str]]:
        with self._failures():
            answers = search(**arguments)
        return [_values(answer) for answer in answers if isinstance(answer, dict)] if isinstance(answers, list) else []

    def _fetch_series(self, study: str, series: FoundSeries, tally: Tally) -> None:
        before, failed_before = len(tally.received), tally.failed
        url = f"{self._url}/studies/{study}/series/{series.series_instance_uid}"
        with (
            self._failures(),
            self._session.get(url, headers={"Accept": _ACCEPT}, stream=True, timeout=self._timeout_s) as response,
        ):
            if response.status_code in (404, 410):
                tally.problems.append(f"the server does not have what it listed (HTTP {response.status_code})")
                return
            response.raise_for_status()
            chunks = response.iter_content(_CHUNK_BYTES)
            boundary = boundary_of(response.headers.get("Content-Type", ""))
            # Some servers send a single instance bare, as one version of the Standard seemed to allow.
            for part in read_parts(chunks, boundary) if boundary else iter((chunks,)):
                self._take(part, study, series.series_instance_uid, tally)
            if response.status_code == 206:
                tally.problems.append("the server gave a part of the series only (HTTP 206)")
        tally.compare(series, len(tally.received) - before + tally.failed - failed_before)

    def _take(self, part: Iterable[bytes], study: str, series: str, tally: Tally) -> None:
        """Take one instance, a file of PS3.10, in."""

        def check(header: InstanceHeader) -> None:
            if (header.study_instance_uid, header.series_instance_uid) != (study, series):
                raise InputError(Reason.UNREADABLE, "it is of a study or series that was not asked for")

        arrival = Arrival(self._intake, self._limit)
        try:
            arrival.receive(part, self._origin, check)
        except InputError as error:
            tally.failed += 1
            log.warning("an instance is refused: %s", error, extra={"event": "store.refused", "peer": self.name})
        except PluginError as error:
            raise TransientError(str(error)) from error
        else:
            assert arrival.header is not None
            tally.received.add(arrival.header.sop_instance_uid)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """What a server or the way to it does wrong, without its address, which may hold a patient's id."""
        try:
            yield
        except requests.HTTPError as error:
            code = error.response.status_code
            message = f"{self.name}: the server answers with HTTP {code}"
            if code in (408, 425, 429) or code >= 500:
                raise TransientError(message) from None
            hint = {401: ": is the token right?", 403: ": is the token right?", 404: ": is the url right?"}.get(
                code, ""
            )
            # Only 401 is said of us; whom we may see, or what the server is able to give, differs from study to study.
            raise (PeerRefused if code == 401 else StudyRefused)(message + hint) from None
        except requests.exceptions.SSLError:
            raise PeerRefused(f"{self.name}: the server's certificate is not trusted; is `ca` right?") from None
        except requests.exceptions.JSONDecodeError:
            raise StudyRefused(f"{self.name}: the server's answer is no DICOM JSON; is the url right?") from None
        except requests.RequestException as error:
            raise TransientError(f"{self.name}: {type(error).__name__}") from None


class _Session(requests.Session):
    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Let the CA of the settings win over the one that the environment names, unlike requests."""
        return super().merge_environment_settings(url, proxies, stream, verify or self.verify, cert)


class _Bearer(requests.auth.AuthBase):
    """Sends the token; and keeps requests from looking for a password in ``~/.netrc``."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _read_token(server: DicomWebSettings, home: Path) -> str:
    if not server.token_file:
        return ""
    file = home / server.token_file
    try:
        token = file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"dicomweb {server.name!r}: token_file: {file} cannot be read") from error
    if not token.isprintable():
        raise SettingsError(f"dicomweb {server.name!r}: token_file: {file} holds more than one line")
    return token


def _values(answer: dict[str, Any]) -> dict[str, str]:
    """An answer's values by keyword; what has not the form of DICOM JSON is left out."""
    values = {}
    for key, tag in _TAGS.items():
        element = answer.get(tag)
        given = element.get("Value") if isinstance(element, dict) else None
        if isinstance(given, list):
            values[key] = part10.clean("\\".join(str(one) for one in given if isinstance(one, str | int)))
    return values
