"""Bodies and headers of STOW-RS requests, at a web server that runs, over a real socket."""

import json
import random
import socket
from contextlib import ExitStack, suppress
from xml.etree import ElementTree

from tests.fuzz.craft import SCORED, file, film
from tests.fuzz.elements import vary
from tests.fuzz.mutate import damage, words_of
from tests.fuzz.objects import odd_objects
from tests.fuzz.target import Broken, Outcome, Target, shape
from tests.web import running_web, web_settings

_RELATED = b'multipart/related; type="application/dicom"; boundary=XX'
_PART = b"Content-Type: application/dicom\r\n\r\n"
_WORDS = words_of(
    r"""
    \r\n--XX\r\n \r\n--XX--\r\n --XX --XX-- \r\n\r\n \r\n \n \r -- \x20\t \0 " ; type= boundary= *0*=utf-8''% =?
    application/dicom multipart/mixed application/dicom+xml application/json */*;q=0 ;q=nan Content-Length:\x207
    %00 %ff ..%2f /1.2.3 2.25.71 /2.25.71
    """
)
_WORDS += (_RELATED, _PART, b"boundary=" + b"B" * 300, b"X: y\r\n" * 101)
_DOCUMENTED = {200, 202, 307, 400, 404, 405, 406, 409, 413, 415, 422}
#: Seconds without an answer after the last byte: nobody needs that long, on however busy a machine.
_PATIENCE_S = 60.0


def multipart(*contents: bytes) -> bytes:
    return b"".join(b"--XX\r\n" + _PART + one + b"\r\n" for one in contents) + b"--XX--\r\n"


def request(body: bytes, path: bytes = b"", kind: bytes = _RELATED, accept: bytes = b"application/dicom+json") -> bytes:
    """An input: three lines, and the body."""
    return b"\n".join((path, kind, accept, body))


class Stow(Target):
    """An input is the path behind /dicom-web/studies, Content-Type, Accept, each in a line, and the body."""

    DICTIONARY = _WORDS
    REFRESH = 10_000

    def seeds(self) -> list[bytes]:
        films = [data for _, expected, data in odd_objects() if expected == SCORED and len(data) < 15_000][::5]
        sound = films[0]
        made = [request(multipart(one)) for one in films]
        made += [request(multipart(*films[:3])), request(multipart(sound, b"no object", films[1]))]
        made += [request(multipart(sound), accept=b"application/dicom+xml"), request(multipart(sound), b"/2.25.71")]
        made += [request(multipart(sound), b"/2.25.72"), request(sound, kind=b"application/dicom"), request(b"")]
        made += [request(b"preamble\r\n" + multipart(sound) + b"epilogue"), request(multipart(multipart(sound)))]
        return made

    def open(self) -> None:
        self._stack = ExitStack()
        web = self._stack.enter_context(running_web(web_settings(self.folder / "home")))
        self._port = int(web.url.rstrip("/").rpartition(":")[2])
        self._sound = file(film())

    def close(self) -> None:
        self._stack.close()

    def change(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        what, lines = rng.random(), data.split(b"\n", 3)
        if what < 0.4 or len(lines) < 4:
            return damage(rng, data, other, _WORDS)
        if what < 0.6:  # one of the lines
            at = rng.randrange(3)
            lines[at] = damage(rng, lines[at] or b"/", other.split(b"\n")[at % 2], _WORDS)
        elif what < 0.8:  # the frame of the parts
            lines[3] = damage(rng, lines[3][:200], lines[3][-200:], _WORDS) + lines[3][200:]
        else:  # an object
            parts = lines[3].split(_PART)
            at = rng.randrange(len(parts))
            parts[at] = vary(rng, parts[at] or b"\0", other)
            lines[3] = _PART.join(parts)
        return b"\n".join(lines)

    def run(self, data: bytes) -> Outcome:
        path, kind, accept, body = [*data.split(b"\n", 3), b"", b"", b""][:4]
        head = b"POST /dicom-web/studies%b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" % path.replace(
            b" ", b""
        )
        head += b"Content-Type: %b\r\nAccept: %b\r\nContent-Length: %d\r\n\r\n" % (kind, accept, len(body))
        answer = b""
        with socket.create_connection(("127.0.0.1", self._port), timeout=_PATIENCE_S) as peer:
            with suppress(ConnectionError):  # it need not read all of what it refuses
                peer.sendall(head + body)
            with suppress(ConnectionError):
                while more := peer.recv(1 << 16):
                    answer += more
        return self._judge(answer)

    def _judge(self, answer: bytes) -> Outcome:
        head, _, content = answer.partition(b"\r\n\r\n")
        words = head.split(b" ", 2)
        if len(words) < 3 or not words[1].isdigit():
            return Outcome("no answer", is_kept=True)
        status = int(words[1])
        if status not in _DOCUMENTED:
            raise Broken(f"HTTP {status}: {content[:200].decode(errors='replace')}")
        if b"json" in head:
            told = json.loads(content)
            detail = str(told.get("detail", "")) or " ".join(f"{k} {len(v.get('Value', ()))}" for k, v in told.items())
        elif b"xml" in head:
            detail = " ".join(one.get("keyword", "") for one in ElementTree.fromstring(content))
        else:
            detail = content[:80].decode(errors="replace")
        return Outcome(f"HTTP {status}", shape(detail))

    def check(self) -> None:
        outcome = self.run(request(multipart(self._sound)))
        if outcome.kind != "HTTP 200":
            raise Broken(f"a sound film is answered {outcome}")


TARGET = Stow
