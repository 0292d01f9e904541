"""TLS for DICOM: the BCP 195 RFC 8996, 9325 Secure Transport Connection Profile (PS3.15 section B.12).

TLS 1.2 or newer; of 1.2 only the cipher suites of RFC 9325 section 4.2, which older profiles (PS3.15 section B.9)
require as well. A listener with a CA wants a certificate of every peer. Towards a peer, its certificate and its host
name are always verified.
"""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from medd.errors import SettingsError
from medd.settings import TlsSettings

#: RFC 9325 section 4.2, in OpenSSL's names. Those of TLS 1.3 are all fit for use and not chosen here.
CIPHER_SUITES = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
)

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
# ASN.1 tags of a certificate's validity (RFC 5280 section 4.1.2.5).
_UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x17, 0x18, 0xA0


def server_context(tls: TlsSettings, home: Path, where: str = "listener.tls") -> ssl.SSLContext:
    """What a listener needs to accept TLS; with `tls.ca` set, only peers whose certificate these have signed.

    Args:
        tls: The table of the settings; its certificate is set.
        home: Where relative paths begin.
        where: The table's name, for messages.

    Raises:
        SettingsError: A file is missing, unreadable or not what it should be; the message names the key.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    if not tls.certificate:
        raise SettingsError(f"{where}.certificate: a listener needs one")
    _load_own(context, tls, home, where)
    if tls.ca:
        _load_trusted(context, tls, home, where)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: TlsSettings, home: Path, where: str = "tls") -> ssl.SSLContext:
    """What it takes to speak TLS with a peer, whose certificate and host name are verified.

    Args:
        tls: The table of the settings; it may be empty.
        home: Where relative paths begin.
        where: The table's name, for messages.

    Raises:
        SettingsError: A file is missing, unreadable or not what it should be; the message names the key.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
    if tls.ca:
        _load_trusted(context, tls, home, where)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if tls.certificate:
        _load_own(context, tls, home, where)
    elif tls.key:
        raise SettingsError(f"{where}.key: a key without a certificate is of no use; set {where}.certificate too")
    return context


def certificate_days_left(tls: TlsSettings, home: Path, where: str = "tls", now: datetime | None = None) -> float:
    """Days until our own certificate, the first of its chain, runs out; negative when it has.

    Args:
        tls: The table of the settings; its certificate is set.
        home: Where relative paths begin.
        where: The table's name, for messages.
        now: By default the clock's.

    Raises:
        SettingsError: The file is missing, unreadable or holds no certificate.
    """
    [own, *_issuers] = _days_left(home / tls.certificate, f"{where}.certificate", now)
    return own


def authority_days_left(tls: TlsSettings, home: Path, where: str = "tls", now: datetime | None = None) -> list[float]:
    """Days until each of the certificates that we trust runs out; negative for those that have.

    Args:
        tls: The table of the settings; its ca is set.
        home: Where relative paths begin.
        where: The table's name, for messages.
        now: By default the clock's.

    Raises:
        SettingsError: The file is missing, unreadable or holds no certificate.
    """
    return _days_left(home / tls.ca, f"{where}.ca", now)


def _days_left(file: Path, setting: str, now: datetime | None) -> list[float]:
    text = _read(file, setting)
    try:
        ends = [_not_after(ssl.PEM_cert_to_DER_cert(block)) for block in _blocks(text)]
    except (ValueError, IndexError, StopIteration) as error:
        raise _not_pem(setting, file, "certificate") from error
    if not ends:
        raise _not_pem(setting, file, "certificate")
    return [(end - (now or datetime.now(UTC))).total_seconds() / 86400 for end in ends]


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join(CIPHER_SUITES))
    # Compression leaks what it compresses, and a peer may make us renegotiate for ever (RFC 9325 sections 3.3, 3.5).
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # Many peers close without close_notify. Nothing can be cut off unseen: DICOM says by itself where a message and an
    # association end. Without this, nothing could be said any more once reading has come to an end.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


def _load_own(context: ssl.SSLContext, tls: TlsSettings, home: Path, where: str) -> None:
    certificate, key = home / tls.certificate, home / (tls.key or tls.certificate)
    key_name = f"{where}.key" if tls.key else f"{where}.certificate"
    if _BEGIN not in _read(certificate, f"{where}.certificate"):
        raise _not_pem(f"{where}.certificate", certificate, "certificate")
    if "PRIVATE KEY-----" not in _read(key, key_name):
        why = "" if tls.key else f"; set {where}.key"
        raise SettingsError(f"{key_name}: {key} holds no private key in PEM{why}")
    asked = []

    def refuse() -> str:  # OpenSSL would ask on the terminal, where a daemon has nobody
        asked.append(True)
        return ""

    try:
        context.load_cert_chain(certificate, key, refuse)
    except ssl.SSLError as error:
        if asked:
            raise SettingsError(f"{key_name}: {key} has a pass phrase; a daemon needs a key without one") from error
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SettingsError(f"{key_name}: {key} is not the key of the certificate {certificate}") from error
        message = f"{where}.certificate: {certificate} cannot be used with {key}. Received: {_reason(error)}"
        raise SettingsError(message) from error


def _load_trusted(context: ssl.SSLContext, tls: TlsSettings, home: Path, where: str) -> None:
    file = home / tls.ca
    if _BEGIN not in _read(file, f"{where}.ca"):
        raise _not_pem(f"{where}.ca", file, "certificate")
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as error:
        raise SettingsError(f"{where}.ca: {file} cannot be used. Received: {_reason(error)}") from error
    # A hospital's issuing CA, or one device's own certificate, may be trusted without the root above it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def _read(file: Path, setting: str) -> str:
    try:
        return file.read_text("ascii", "replace")
    except OSError as error:
        raise SettingsError(f"{setting}: {file} cannot be read. Received: {error.strerror}") from error


def _not_pem(setting: str, file: Path, what: str) -> SettingsError:
    return SettingsError(f"{setting}: {file} holds no {what} in PEM")


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def _blocks(text: str) -> Iterator[str]:
    for part in text.split(_BEGIN)[1:]:
        yield f"{_BEGIN}{part.split(_END)[0]}{_END}\n"


def _not_after(certificate: bytes) -> datetime:
    """The end of a certificate's validity (RFC 5280 section 4.1); Python decodes only those that a peer has shown."""
    _, whole = next(_values(certificate))
    _, to_be_signed = next(_values(whole))
    fields = [field for tag, field in _values(to_be_signed) if tag != _VERSION]
    _serial, _algorithm, _issuer, validity = fields[:4]
    tag, value = list(_values(validity))[1]
    if tag not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError("a certificate's validity is a time")
    text = value.decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year: 50 to 99 are of the 20th century
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _values(data: bytes) -> Iterator[tuple[int, bytes]]:
    """What stands in a constructed value of ASN.1 DER: tag and content of each."""
    position = 0
    while position < len(data):
        tag, length = data[position], data[position + 1]
        position += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[position : position + size], "big")
            position += size
        if position + length > len(data):
            raise ValueError("a value is cut short")
        yield tag, data[position : position + length]
        position += length
