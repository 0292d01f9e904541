"""Bytes and changed PDUs at a listener that runs, over a real socket; then it must still take an echo and a film."""

import errno
import random
import socket
import struct

from medd.dicom.part10 import split_file
from medd.ingest.listener import Listener
from medd.settings import ListenerSettings
from tests.fuzz.craft import SCORED, file, film
from tests.fuzz.door import Door
from tests.fuzz.elements import vary
from tests.fuzz.mutate import damage, integer
from tests.fuzz.objects import odd_objects
from tests.fuzz.target import Broken, Outcome, Target
from tests.support import (
    DX,
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    RawSender,
    associate_rq,
    command_set,
    decode_command_set,
    pdata,
)

CR = "1.2.840.10008.5.1.4.1.1.1"
_CONTEXTS = {
    1: (CR, (EXPLICIT,)),
    3: (VERIFICATION, (IMPLICIT,)),
    5: (DX, (IMPLICIT, EXPLICIT)),
    7: ("1.2.3", (IMPLICIT,)),
}
_RELEASE, _ABORT = struct.pack(">BxII", 5, 4, 0), struct.pack(">BxII", 7, 4, 0)
_NAMES = {2: "accepted", 3: "rejected", 4: "answered", 6: "released", 7: "aborted"}
#: Seconds without an answer after the last byte: nobody needs that long, on however busy a machine.
_PATIENCE_S = 60.0
_WORDS = (
    *(struct.pack(">BxI", kind, length) for kind in (1, 4, 5, 7) for length in (0, 4, 6, 1 << 31)),
    *(struct.pack(">BxH", kind, 4) for kind in (0x10, 0x20, 0x30, 0x40, 0x50, 0x51, 0x54, 0x55)),
    *(struct.pack("<HHI", 0, number, 2) for number in (0x0100, 0x0110, 0x0800, 0x0900, 0x1000)),
    *(b"\x01\x00", b"\x30\x00", b"\x01\x80", b"\xff\x0f", b"\x30\x01", b"\x01\x01", b"1.2.840.10008.1.1", CR.encode()),
    *(b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n\r\n", b"1.2.840.10008.1.20.1", b"MEDD            "),
)


def split_pdus(data: bytes) -> list[bytes]:
    """The PDUs of a stream, as far as their lengths are true."""
    found, position = [], 0
    while position + 6 <= len(data):
        end = position + 6 + int.from_bytes(data[position + 2 : position + 6], "big")
        found.append(data[position:end])
        position = end
    return [*found, data[position:]] if data[position:] else found


class Pdus(Target):
    DICTIONARY = _WORDS

    def seeds(self) -> list[bytes]:
        rq, echo = associate_rq(_CONTEXTS), pdata((3, 3, command_set(0x30, 1, VERIFICATION)))
        store = command_set(1, 2, CR, "2.25.7", has_dataset=True)
        datasets = [d[split_file(d)[0] :] for _, expected, d in odd_objects() if expected == SCORED and len(d) < 20_000]
        film = datasets[0]
        halves = pdata((1, 0, film[:1000])) + pdata((1, 2, film[1000:]))
        streams = [rq + pdata((1, 3, store)) + pdata((1, 2, one)) + _RELEASE for one in datasets[:40]]
        streams += [
            rq + echo + _RELEASE,
            rq + _ABORT,
            rq,
            rq + echo + echo + pdata((1, 3, store)) + _ABORT,
            b"",
            _RELEASE,
        ]
        streams += [
            rq + pdata((1, 3, store)) + halves + _RELEASE,
            rq + pdata((1, 3, store), (1, 2, film)) + echo + _RELEASE,
        ]
        streams += [
            rq + pdata((1, 1, store[:20]), (1, 3, store[20:]), (1, 2, film)),
            rq + rq,
            echo,
            b"\x16\x03\x01\x02\x00",
        ]
        for field_ in (0x0FFF, 0x0130, 0x0100, 0x8001, 0x8030, 0x0020, 0x0140):
            streams.append(rq + pdata((1, 3, command_set(field_, 3, CR, "2.25.8"))) + echo + _RELEASE)
        return streams

    def open(self) -> None:
        self._door = Door(self.folder)
        settings = ListenerSettings(port=0, network_timeout_s=_PATIENCE_S, association_timeout_s=_PATIENCE_S)
        self._listener = Listener(settings, self._door.intake)
        self._listener.start()
        sound = file(film())
        self._film = sound[split_file(sound)[0] :]

    def close(self) -> None:
        self._listener.stop()
        self._door.close()

    def change(self, rng: random.Random, data: bytes, other: bytes) -> bytes:
        what = rng.random()
        if what < 0.35:
            return damage(rng, data, other, _WORDS)
        pdus, others = split_pdus(data), split_pdus(other)
        if not pdus or not others:
            return damage(rng, data or other, other, _WORDS)
        at = rng.randrange(len(pdus))
        if what < 0.5:  # in another order, or one of another stream
            pdus.insert(rng.randrange(len(pdus) + 1), rng.choice(others))
        elif what < 0.6:
            del pdus[at]
        elif what < 0.9 or len(pdus[at]) < 12:  # what one holds; mostly with a length that is true
            body = damage(rng, pdus[at][6:] or b"\0", others[0], _WORDS)
            length = struct.pack(">I", len(body)) if rng.random() < 0.8 else integer(rng, 4)
            pdus[at] = pdus[at][:2] + length + body
        else:  # the dataset of a value, as an object
            sound = bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, 0)
            changed = vary(rng, sound + pdus[at][12:], sound + self._film)[len(sound) :]
            pdus[at] = pdata((pdus[at][10], pdus[at][11], changed))
        return b"".join(pdus)

    def run(self, data: bytes) -> Outcome:
        with socket.create_connection(("127.0.0.1", self._listener.port), timeout=_PATIENCE_S) as peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answers = b""
            try:
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
                while more := peer.recv(1 << 16):
                    answers += more
            except OSError as error:  # it may hang up at any moment, but not fall silent
                if error.errno not in (errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE):
                    raise
        return self._judge(answers)

    def _judge(self, answers: bytes) -> Outcome:
        words = []
        for pdu in split_pdus(answers):
            if pdu[0] not in _NAMES or len(pdu) < 6:
                raise Broken(f"an answer that is none: {pdu[:20].hex()}")
            word = _NAMES[pdu[0]]
            if pdu[0] == 4:
                values = decode_command_set(pdu[12:])
                word += f" {int.from_bytes(values.get(0x0900, b''), 'little'):04x}"
            words.append(word)
        kinds = words[-1] if words else "closed without a word"
        return Outcome(f"last {kinds}", " ".join(words)[:100])

    def check(self) -> None:
        """No association is left over; an echo and a film are taken."""
        with RawSender(self._listener.port, {1: (CR, (EXPLICIT,)), 3: (VERIFICATION, (IMPLICIT,))}) as sender:
            accepted = sender.associate()
            if {result for result, _ in accepted.values()} != {0}:
                raise Broken(f"an association is refused: {accepted}")
            if (status := sender.echo()) != 0:
                raise Broken(f"an echo is answered {status:04x}")
            answer = sender.store(self._film, "2.25.7", sop_class=CR)
            if answer != (0, ""):
                raise Broken(f"a sound film is answered {answer}")
            sender.release()


TARGET = Pdus
