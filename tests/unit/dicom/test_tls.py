"""What of the settings becomes a TLS context, and how what is wrong there is named."""

import shutil
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from medd.dicom.tls import CIPHER_SUITES, authority_days_left, certificate_days_left, client_context, server_context
from medd.errors import SettingsError
from medd.settings import TlsSettings
from tests.certificates import Authority

pytestmark = pytest.mark.peers

#: RFC 9325 section 4.2.
RECOMMENDED = {
    f"ECDHE-{key}-{suite}" for key in ("RSA", "ECDSA") for suite in ("AES128-GCM-SHA256", "AES256-GCM-SHA384")
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("tls"), key="ec")
    made.issue("own")
    made.issue("other")
    made.encrypt(made.folder / "own.key")
    whole = (made.folder / "own.pem").read_text() + (made.folder / "own.key").read_text()
    (made.folder / "both.pem").write_text(whole)
    (made.folder / "text.pem").write_text("no certificate at all\n")
    damaged = (made.folder / "own.pem").read_text().splitlines()
    (made.folder / "damaged.pem").write_text("\n".join([*damaged[:3], damaged[0], *damaged[3:]]) + "\n")
    return made


CONTEXTS = pytest.mark.parametrize("make", [server_context, client_context])


@CONTEXTS
def test_a_context_speaks_tls_1_2_or_newer_with_the_suites_of_bcp_195_only(
    authority: Authority, make: Callable[..., ssl.SSLContext]
) -> None:
    context = make(TlsSettings(certificate="own.pem", key="own.key"), authority.folder)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    offered = {suite["name"] for suite in context.get_ciphers() if suite["protocol"] != "TLSv1.3"}
    assert offered == set(CIPHER_SUITES) == RECOMMENDED
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_a_listener_asks_for_a_certificate_where_a_ca_is_set(authority: Authority) -> None:
    own = TlsSettings(certificate="both.pem")
    assert server_context(own, authority.folder).verify_mode == ssl.CERT_NONE
    mutual = own.model_copy(update={"ca": "ca.pem"})
    assert server_context(mutual, authority.folder).verify_mode == ssl.CERT_REQUIRED


def test_a_peer_is_verified_by_the_ca_named_or_by_the_systems(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.folder / "other.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(authority.folder / "none"))
    named = client_context(TlsSettings(ca="ca.pem"), authority.folder)
    systems = client_context(TlsSettings(), authority.folder)
    for context in (named, systems):
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname
    assert [dict(name[0] for name in one["subject"]) for one in named.get_ca_certs()] == [{"commonName": "ca"}]  # type: ignore[index, misc]
    assert named.cert_store_stats()["x509"] == systems.cert_store_stats()["x509"] == 1


@CONTEXTS
@pytest.mark.parametrize(
    ("settings", "key", "why"),
    [
        ({"certificate": "absent.pem", "key": "own.key"}, "certificate", "cannot be read"),
        ({"certificate": "own.pem", "key": "absent.key"}, "key", "cannot be read"),
        ({"certificate": "own.pem", "key": "own.key", "ca": "absent.pem"}, "ca", "cannot be read"),
        ({"certificate": "."}, "certificate", "cannot be read"),
        ({"certificate": "text.pem", "key": "own.key"}, "certificate", "no certificate"),
        ({"certificate": "damaged.pem", "key": "own.key"}, "certificate", "cannot be used"),
        ({"certificate": "own.pem"}, "certificate", "no private key"),
        ({"certificate": "own.pem", "key": "own.pem"}, "key", "no private key"),
        ({"certificate": "own.pem", "key": "other.key"}, "key", "is not the key of"),
        ({"certificate": "own.pem", "key": "own.encrypted"}, "key", "pass phrase"),
        ({"certificate": "both.pem", "ca": "text.pem"}, "ca", "no certificate"),
        ({"certificate": "both.pem", "ca": "damaged.pem"}, "ca", "cannot be used"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_one_line_that_names_the_key(
    authority: Authority, make: Callable[..., ssl.SSLContext], settings: dict[str, str], key: str, why: str
) -> None:
    with pytest.raises(SettingsError, match=why) as raised:
        make(TlsSettings(**settings), authority.folder, "some.tls")
    assert str(raised.value).startswith(f"some.tls.{key}: ")
    assert "\n" not in str(raised.value)


def test_a_listener_without_a_certificate_and_a_key_without_one_are_refused(authority: Authority) -> None:
    with pytest.raises(SettingsError, match=r"listener\.tls\.certificate"):
        server_context(TlsSettings(ca="ca.pem"), authority.folder)
    with pytest.raises(SettingsError, match=r"tls\.key"):
        client_context(TlsSettings(key="own.key"), authority.folder)


def test_days_left_are_those_of_our_own_certificate_whatever_stands_behind_it(authority: Authority) -> None:
    long, _ = authority.issue("long", days=20000)  # beyond 2050: another form of time
    short, _ = authority.issue("short", days=3)
    chain = authority.folder / "chain.pem"
    chain.write_text(long.read_text() + "a comment between\n" + short.read_text())
    now = datetime.now(UTC)

    def left(name: str) -> float:
        return certificate_days_left(TlsSettings(certificate=name), authority.folder, now=now)

    assert left("long.pem") == pytest.approx(20000, abs=0.01)
    assert left("short.pem") == pytest.approx(3, abs=0.01)
    assert left("chain.pem") == left("long.pem")
    later = now + timedelta(days=4)
    assert certificate_days_left(TlsSettings(certificate="short.pem"), authority.folder, now=later) < 0
    trusted = authority_days_left(TlsSettings(ca="chain.pem"), authority.folder, now=now)
    assert trusted == [left("long.pem"), left("short.pem")]


@pytest.mark.parametrize("name", ["text.pem", "absent.pem", "damaged.pem", "own.key"])
def test_days_left_of_what_is_no_certificate_are_an_error_of_the_settings(authority: Authority, name: str) -> None:
    with pytest.raises(SettingsError, match=r"some\.tls\.certificate"):
        certificate_days_left(TlsSettings(certificate=name), authority.folder, "some.tls")
    with pytest.raises(SettingsError, match=r"some\.tls\.ca"):
        authority_days_left(TlsSettings(ca=name), authority.folder, "some.tls")


def test_absolute_paths_are_taken_as_they_are(authority: Authority, tmp_path: Path) -> None:
    shutil.copy(authority.folder / "both.pem", tmp_path / "elsewhere.pem")
    server_context(TlsSettings(certificate=str(tmp_path / "elsewhere.pem")), authority.folder)
