"""HL7 v2 over MLLP (HL7 2.5.1 implementation guide, Appendix C; IHE ITI TF-2 Appendix C.2.1)."""

import socket
import ssl
import time
from collections.abc import Collection, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from medd.deliver.destination import Destination, Objects, Sent
from medd.dicom.tls import client_context
from medd.errors import PeerRefused, TransientError
from medd.records import StudyReport
from medd.settings import Settings as MeddSettings
from medd.settings import TlsSettings
from medd_hl7.message import build, control_id, read_acknowledgement

_START, _END = b"\x0b", b"\x1c\r"
#: An answer has a few hundred bytes; more than this is none.
_LONGEST = 1 << 16


class Hl7Destination(Destination):
    """Sends ORU^R01 and waits for the acknowledgement."""

    kind = "hl7"

    class Settings(BaseModel):
        """Where to, and what both sides are called."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        host: str
        port: int = Field(default=2575, ge=1, le=65535)
        #: The table, even an empty one, turns TLS on.
        tls: TlsSettings | None = None
        timeout_s: float = Field(default=10, gt=0, le=600)
        sending_application: str = "MEDD"
        sending_facility: str = ""
        receiving_application: str = ""
        receiving_facility: str = ""
        #: MSH-11: "P" production, "T" training, "D" debugging.
        processing_id: str = Field(default="P", pattern="^[PTD]$")

    def __init__(self, name: str, own: Any, settings: MeddSettings) -> None:
        super().__init__(name, own, settings)
        self._tls = None if own.tls is None else client_context(own.tls, settings.home)

    def send(self, report: StudyReport, objects: Objects, known: Collection[str]) -> Iterator[Sent]:
        """Send it once."""
        if report.sop_instance_uid in known:
            return
        message = build(
            report,
            sending=(self.own.sending_application, self.own.sending_facility),
            receiving=(self.own.receiving_application, self.own.receiving_facility),
            patient_name=objects.patient_name(),
            processing_id=self.own.processing_id,
        )
        try:
            answer = self._exchange(message.encode())
            code = read_acknowledgement(answer, control_id(report))
        except ssl.SSLCertVerificationError as error:
            # As with a PACS: an expired one is renewed, and all that waits is still to be sent then.
            raise TransientError(f"{self.name}: its certificate is not trusted: {error.verify_message}") from error
        except (OSError, ValueError) as error:
            what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise TransientError(f"{self.name}: no acknowledgement: {what}") from error
        if code not in ("AA", "CA"):
            # Not the text that comes with it, which may name the patient.
            raise PeerRefused(f"{self.name}: answered with {code[:2]}")
        yield Sent(report.sop_instance_uid, answer=code)

    def _exchange(self, message: bytes) -> str:
        """Send a message and give the answer.

        Raises:
            OSError: The peer is away, or falls silent.
            ValueError: The answer is no message.
        """
        deadline = time.monotonic() + self.own.timeout_s
        with socket.create_connection((self.own.host, self.own.port), timeout=self.own.timeout_s) as plain:
            connection = self._tls.wrap_socket(plain, server_hostname=self.own.host) if self._tls else plain
            with connection:
                connection.sendall(_START + message + _END)
                answer = b""
                while _END not in answer:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise TimeoutError(None, "the answer takes too long")
                    connection.settimeout(left)
                    received = connection.recv(4096)
                    if not received:
                        raise ValueError("the connection was closed")
                    answer += received
                    if len(answer) > _LONGEST:
                        raise ValueError("the answer does not end")
        return answer.split(_END)[0].removeprefix(_START).decode("utf-8", "replace")
