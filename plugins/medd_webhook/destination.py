"""A POST of JSON for each report, signed with a shared secret."""

import hashlib
import hmac
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import requests
from pydantic import BaseModel, ConfigDict, Field, HttpUrl

from medd.deliver.destination import Destination, Objects, Sent
from medd.deliver.rows import as_dict
from medd.errors import PeerRefused, SettingsError, TransientError
from medd.records import StudyReport
from medd.settings import Settings as MeddSettings

#: What may pass: the server's own failures, "try later" and "too many".
_TRANSIENT = (408, 425, 429)


def sign(secret: bytes, body: bytes) -> str:
    """The header ``X-Medd-Signature``: HMAC-SHA-256 (RFC 2104) of the body's bytes, in hex."""
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


class WebhookDestination(Destination):
    """Posts the JSON of a report: the keys of `medd results`, with the disclaimer.

    The same report always has the same body and the same ``X-Medd-Report``, by which a receiver knows a repetition.
    """

    kind = "webhook"

    class Settings(BaseModel):
        """Where to, and how it is signed."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        #: Redirections are not followed.
        url: HttpUrl
        #: A file with the secret of the signature; relative to the home folder, or absolute. Empty: unsigned.
        secret_file: str = ""
        #: Certificates to trust instead of the public ones that come with requests (certifi), PEM.
        ca: str = ""
        timeout_s: float = Field(default=10, gt=0, le=600)

    def __init__(self, name: str, own: Any, settings: MeddSettings) -> None:
        super().__init__(name, own, settings)
        self._secret = b""
        if own.secret_file:
            file = settings.under_home(Path(own.secret_file))
            try:
                self._secret = file.read_bytes().strip()
            except OSError as error:
                raise SettingsError(f"destination {name!r}: secret_file: {file}: {error.strerror}") from error
            if not self._secret:
                raise SettingsError(f"destination {name!r}: secret_file: {file} is empty")
        self._trust: str | bool = True
        if own.ca:
            bundle = settings.under_home(Path(own.ca))
            if not bundle.is_file():
                raise SettingsError(f"destination {name!r}: ca: {bundle} is no file")
            self._trust = str(bundle)

    def send(self, report: StudyReport, objects: Objects, known: Collection[str]) -> Iterator[Sent]:
        """Post it once."""
        if report.sop_instance_uid in known:
            return
        body = json.dumps(as_dict(report)).encode()
        headers = {"Content-Type": "application/json", "X-Medd-Report": report.sop_instance_uid}
        if self._secret:
            headers["X-Medd-Signature"] = sign(self._secret, body)
        try:
            with requests.Session() as session:
                session.trust_env = False  # no proxy and no password that happens to be set for somebody else
                # What it answers beyond the status is never read.
                with session.post(
                    str(self.own.url),
                    data=body,
                    headers=headers,
                    timeout=self.own.timeout_s,
                    allow_redirects=False,
                    verify=self._trust,
                    stream=True,
                ) as answer:
                    pass
        except requests.exceptions.SSLError as error:
            why = "its certificate is not trusted" if "CERTIFICATE_VERIFY_FAILED" in str(error) else "no TLS"
            raise TransientError(f"{self.name}: {why}") from error
        except requests.RequestException as error:
            raise TransientError(f"{self.name}: no answer: {type(error).__name__}") from error
        if answer.status_code in _TRANSIENT or answer.status_code >= 500:
            raise TransientError(f"{self.name}: answered with {answer.status_code}")
        if not answer.ok or answer.is_redirect:
            raise PeerRefused(f"{self.name}: answered with {answer.status_code}")
        yield Sent(report.sop_instance_uid, answer=str(answer.status_code))
