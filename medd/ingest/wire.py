"""One connection, in the clear or under TLS: its time-outs, its handshake, its end."""

import contextlib
import socket
import ssl
import struct
import time


class PeerGone(Exception):
    """The peer closed the connection or fell silent."""


class HandshakeFailed(Exception):
    """The peer and we do not come to terms about TLS; the message says why, for the log."""


# What OpenSSL calls it, and what an operator can do something with.
_WHY = {
    "WRONG_VERSION_NUMBER": "the peer speaks no TLS, and this port nothing else",
    "HTTP_REQUEST": "the peer speaks HTTP without TLS",
    "UNSUPPORTED_PROTOCOL": "the peer offers no TLS 1.2 or newer",
    "VERSION_TOO_LOW": "the peer offers no TLS 1.2 or newer",
    "NO_SHARED_CIPHER": "the peer offers no cipher suite of BCP 195",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer shows no certificate, and listener.tls.ca asks for one",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not know who signed our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the peer does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the peer says that our certificate has expired",
}


def set_timeout(connection: socket.socket, seconds: float) -> None:
    """Limit how long one read or write may wait; what runs out is BlockingIOError or TimeoutError.

    In the clear the kernel times the socket: Python's own time-outs cost a poll() before each read. Under TLS they must
    be Python's, as its SSL objects go on reading when the kernel's time-out has run out.
    """
    if isinstance(connection, ssl.SSLSocket):
        connection.settimeout(seconds)
        return
    interval = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)


def shake_hands(connection: ssl.SSLSocket, deadline: float) -> None:
    """The TLS handshake, in the thread of the association: whoever stalls it stalls himself.

    Args:
        connection: Wrapped, but not yet shaken hands with.
        deadline: When it must be over, by `time.monotonic`.

    Raises:
        HandshakeFailed: There is none between the two of us.
        PeerGone: The peer closed the connection or is too slow.
    """
    try:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        connection.do_handshake()
    except TimeoutError:
        raise PeerGone("no TLS handshake in time") from None
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        raise PeerGone("connection closed by the peer in the TLS handshake") from None
    except ssl.SSLCertVerificationError as error:
        raise HandshakeFailed(f"the peer's certificate is not accepted: {error.verify_message}") from None
    except ssl.SSLError as error:
        reason = error.reason or str(error)
        raise HandshakeFailed(_WHY.get(reason, reason.replace("_", " ").lower())) from None


def shut(connection: socket.socket, how: int) -> None:
    """Wake the thread that waits for this connection; called from another one."""
    with contextlib.suppress(OSError):
        # Not SSLSocket's own: that one drops the keys, and what the thread still says would go out in the clear.
        socket.socket.shutdown(connection, how)


def close(connection: socket.socket) -> None:
    """Close a connection; under TLS the peer is told that this is the end (close_notify), not an attack."""
    if isinstance(connection, ssl.SSLSocket):
        with contextlib.suppress(OSError, ValueError):
            connection.settimeout(0)  # says so, and does not wait for the peer's
            connection.unwrap()
    connection.close()
