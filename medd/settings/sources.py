"""Where images come from: the port, folders, and the archives that are asked."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from medd.settings.base import AETitle, Section, TlsSettings


class ListenerSettings(Section):
    """``[listener]``: the C-STORE and C-ECHO provider."""

    #: Address to listen on; "0.0.0.0" or "::" for every interface.
    host: str = "127.0.0.1"
    #: TCP port; 0 takes a free one.
    port: int = Field(default=11112, ge=0, le=65535)
    #: Our AE title, compared without case.
    ae_title: AETitle = "MEDD"
    #: Whether a peer must call us by `ae_title`.
    require_called_ae: bool = False
    #: AE titles that may call; empty allows all.
    allowed_calling_ae: tuple[AETitle, ...] = ()
    #: Addresses or networks ("10.1.2.0/24") that may connect; empty allows all.
    allowed_hosts: tuple[str, ...] = ()
    #: Associations at one time; more are rejected as "temporary congestion".
    max_associations: int = Field(default=25, ge=1)
    #: Seconds without a byte from a peer before its association is aborted.
    network_timeout_s: float = Field(default=30, ge=0.001, le=86_400)
    #: Largest dataset accepted, MiB.
    max_object_mib: int = Field(default=2048, ge=1)
    #: Associations at one time from one address; 0 sets no limit of its own.
    max_associations_per_host: int = Field(default=0, ge=0)
    #: Seconds a peer may take from the connection to its association request, the TLS handshake included.
    association_timeout_s: float = Field(default=10, ge=0.001, le=86_400)
    #: Without a certificate, the port speaks DICOM in the clear.
    tls: TlsSettings = TlsSettings()


class InboxSettings(Section):
    """``[[inbox]]``: a watched folder."""

    #: Relative to the home folder, or absolute.
    path: Path = Path("inbox")
    #: Seconds a file must be unchanged before it is taken.
    settle_s: float = Field(default=2, ge=0, le=86_400)
    #: True for network drives, which send no change events.
    poll: bool = False
    #: Seconds between complete rescans, which find what the watcher missed.
    rescan_s: float = Field(default=30, gt=0, le=86_400)
    #: What becomes of a file that was taken: "move" (to done/ or rejected/), "leave" or "delete".
    after: Literal["move", "leave", "delete"] = "move"


class PeerSettings(Section):
    """``[[peer]]``: a DICOM application entity that is asked for images, or that asks for storage commitment."""

    #: How the command line calls it.
    name: str = Field(min_length=1, max_length=64)
    host: str
    port: int = Field(default=104, ge=1, le=65535)
    #: The peer's AE title.
    ae_title: AETitle
    #: Ours towards it; by default the listener's.
    calling_ae_title: AETitle | None = None
    #: The table, even an empty one, turns TLS on.
    tls: TlsSettings | None = None
    #: Seconds to connect, and without an answer, before it counts as away.
    timeout_s: float = Field(default=30, gt=0, le=600)
    #: How `medd pull` fetches images: "move" to our listener, or "get" on the same association.
    retrieve: Literal["get", "move"] = "get"


class DicomWebSettings(Section):
    """``[[dicomweb]]``: a DICOMweb server that is asked for images (QIDO-RS, WADO-RS)."""

    #: How the command line calls it.
    name: str = Field(min_length=1, max_length=64)
    #: The service's root, such as "https://pacs.example/dicom-web".
    url: str
    #: A file that holds the token sent as "Authorization: Bearer …"; relative to the home folder, or absolute.
    token_file: str = ""
    #: Certificates to trust instead of the system's, PEM.
    ca: str = ""
    timeout_s: float = Field(default=30, gt=0, le=600)


class PullSettings(Section):
    """``[[pull]]``: images fetched by the daemon on a schedule."""

    #: The peer or DICOMweb server, by name.
    source: str = Field(min_length=1, max_length=64)
    #: Local time of day, "HH:MM", at which it begins.
    at: str = Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    #: How many days back it asks for, today included.
    days: int = Field(default=2, ge=1)
    modalities: tuple[str, ...] = ("CR", "DX")
    #: Studies fetched at most in one run; 0 sets no limit.
    max_studies: int = Field(default=0, ge=0)
    #: Studies a minute at most; 0 sets no limit.
    studies_per_min: float = Field(default=0, ge=0)
