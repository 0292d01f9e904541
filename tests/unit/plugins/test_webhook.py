"""The webhook, against a real web server."""

import hashlib
import hmac
import http.server
import json
import threading
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from medd import settings
from medd.errors import PeerRefused, SettingsError, TransientError
from medd_webhook.destination import WebhookDestination
from tests.support import free_port
from tests.unit.deliver.conftest import report  # noqa: F401


class Server(http.server.ThreadingHTTPServer):
    """Answers as it is told and remembers what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.headers_to_send = 204, {}
        self.received: list[tuple[dict[str, str], bytes]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((dict(self.headers), body))
        self.send_response(self.server.status)
        for name, value in self.server.headers_to_send.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def webhook(tmp_path, port: int, **keys: object) -> WebhookDestination:
    own = WebhookDestination.Settings(url=f"http://127.0.0.1:{port}/hook", timeout_s=5, **keys)
    return WebhookDestination("hook", own, settings.load(tmp_path))


def send(made: WebhookDestination, report, known=()) -> list:  # noqa: F811
    return list(made.send(report, None, known))  # type: ignore[arg-type]


def test_a_report_is_posted_once_and_signed(tmp_path, server, report):  # noqa: F811
    (tmp_path / "secret").write_text("s3cret\n")
    made = webhook(tmp_path, server.server_port, secret_file="secret")
    [taken] = send(made, report)
    assert send(made, report, {taken.object}) == []
    [(headers, body)] = server.received
    assert json.loads(body)["report"] == headers["X-Medd-Report"] == report.sop_instance_uid
    expected = hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    assert headers["X-Medd-Signature"] == f"sha256={expected}"
    send(made, report)
    assert server.received[0][1] == server.received[1][1], "a repetition is the same to the byte"


@pytest.mark.parametrize(
    ("status", "error"),
    [(500, TransientError), (503, TransientError), (429, TransientError), (400, PeerRefused), (401, PeerRefused)],
)
def test_an_answer_tells_whether_it_may_pass(tmp_path, server, report, status, error):  # noqa: F811
    server.status = status
    with pytest.raises(error, match=str(status)):
        send(webhook(tmp_path, server.server_port), report)


def test_a_redirection_is_not_followed(tmp_path, server, report):  # noqa: F811
    server.status, server.headers_to_send = 302, {"Location": f"http://127.0.0.1:{server.server_port}/other"}
    with pytest.raises(PeerRefused, match="302"):
        send(webhook(tmp_path, server.server_port), report)
    assert len(server.received) == 1


def test_a_server_that_is_away_is_waited_for(tmp_path, report):  # noqa: F811
    with pytest.raises(TransientError, match="no answer"):
        send(webhook(tmp_path, free_port()), report)


def test_a_secret_that_is_missing_or_empty_is_refused_at_start(tmp_path):
    with pytest.raises(SettingsError, match="secret_file"):
        webhook(tmp_path, 1, secret_file="secret")
    (tmp_path / "secret").write_text("\n")
    with pytest.raises(SettingsError, match="empty"):
        webhook(tmp_path, 1, secret_file="secret")


def test_a_server_without_tls_or_with_a_strange_certificate_is_waited_for(tmp_path, server, report):  # noqa: F811
    own = WebhookDestination.Settings(url=f"https://127.0.0.1:{server.server_port}/", timeout_s=2)
    with pytest.raises(TransientError, match="no TLS"):
        send(WebhookDestination("hook", own, settings.load(tmp_path)), report)


def test_certificates_that_are_missing_are_refused_at_start(tmp_path):
    with pytest.raises(SettingsError, match=r"ca: .*ca\.pem is no file"):
        webhook(tmp_path, 1, ca="ca.pem")


def test_only_web_addresses_are_taken():
    with pytest.raises(ValidationError):
        WebhookDestination.Settings(url="file:///etc/passwd")
