"""Damage to bytes, by a seed: flips, lengths, cuts, splices, doublings, words."""

import random
import re
from collections.abc import Callable, Sequence

#: Lengths, counts and sizes at which parsers break.
INTEGERS = (0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 63, 64, 65, 127, 128, 255, 256, 1023, 4095, 4096, 32767, 32768)
INTEGERS += (65534, 65535, 65536, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
#: Longer ones teach nothing that shorter ones do not, and cost time.
MAX_BYTES = 1 << 18
_NUMBER = re.compile(rb"\d+")


def words_of(text: str) -> tuple[bytes, ...]:
    r"""What stands between blanks, each as in a literal of bytes: a blank itself is \x20."""
    return tuple(one.encode().decode("unicode_escape").encode("latin-1") for one in text.split())


def damage(rng: random.Random, data: bytes, other: bytes, words: Sequence[bytes] = ()) -> bytes:
    """`data` after a few changes; some take a piece of `other`, or one of `words`."""
    changed = bytearray(data or b"\0")
    for _ in range(1 + min(int(rng.expovariate(0.6)), 7)):
        rng.choice(_CHANGES)(rng, changed, other, words)
        if not changed:
            changed += other[:16] or b"\0"
    return bytes(changed[:MAX_BYTES])


def place(rng: random.Random, size: int) -> int:
    """A place in `size` bytes; every second time near the beginning, where headers are."""
    end = min(size, 600) if rng.random() < 0.5 else size
    return rng.randrange(end) if end else 0


def integer(rng: random.Random, size: int = 0) -> bytes:
    """A number of 1, 2 or 4 bytes that is at the edge of something."""
    size = size or rng.choice((1, 2, 4))
    value = rng.choice(INTEGERS) + rng.choice((0, 0, 0, -1, 1))
    return (value & ((1 << 8 * size) - 1)).to_bytes(size, rng.choice(("little", "big")))


def _flip(rng: random.Random, data: bytearray, _other: bytes, _words: Sequence[bytes]) -> None:
    data[place(rng, len(data))] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, data: bytearray, _other: bytes, _words: Sequence[bytes]) -> None:
    data[place(rng, len(data))] = rng.randrange(256)


def _number(rng: random.Random, data: bytearray, _other: bytes, _words: Sequence[bytes]) -> None:
    value, at = integer(rng), place(rng, len(data))
    data[at : at + len(value)] = value


def _add(rng: random.Random, data: bytearray, _other: bytes, _words: Sequence[bytes]) -> None:
    """Raise or lower a byte a little: off by one."""
    at = place(rng, len(data))
    data[at] = (data[at] + rng.randint(-4, 4)) % 256


def _digits(rng: random.Random, data: bytearray, _other: bytes, _words: Sequence[bytes]) -> None:
    """Another number where one is written out."""
    found = list(_NUMBER.finditer(data, 0, 8192))
    if found:
        one = rng.choice(found)
        data[one.start() : one.end()] = rng.choice((b"%d" % rng.choice(INTEGERS), b"-1", b"1e999", b"nan", b"", b"0.5"))


def _cut(rng: random.Random, data: bytearray, _other: bytes, _words: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data)) :]


def _remove(rng: random.Random, data: bytearray, _other: bytes, _words: Sequence[bytes]) -> None:
    at = place(rng, len(data))
    del data[at : at + _span(rng)]


def _insert(rng: random.Random, data: bytearray, _other: bytes, _words: Sequence[bytes]) -> None:
    at = place(rng, len(data))
    data[at:at] = rng.randbytes(_span(rng)) if rng.random() < 0.5 else bytes((rng.randrange(256),)) * _span(rng)


def _double(rng: random.Random, data: bytearray, _other: bytes, _words: Sequence[bytes]) -> None:
    at = place(rng, len(data))
    piece = data[at : at + _span(rng)]
    data[at:at] = piece * rng.choice((1, 1, 2, 10, 100))


def _splice(rng: random.Random, data: bytearray, other: bytes, _words: Sequence[bytes]) -> None:
    if other:
        data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]


def _borrow(rng: random.Random, data: bytearray, other: bytes, _words: Sequence[bytes]) -> None:
    if other:
        at, there, size = place(rng, len(data)), place(rng, len(other)), _span(rng)
        data[at : at + rng.choice((0, size))] = other[there : there + size]


def _word(rng: random.Random, data: bytearray, _other: bytes, words: Sequence[bytes]) -> None:
    if words:
        word, at = rng.choice(words), place(rng, len(data))
        data[at : at + rng.choice((0, len(word)))] = word


def _span(rng: random.Random) -> int:
    return rng.choice((1, 1, 2, 4, 8, 16, 64, 256, 4096))


_CHANGES: tuple[Callable[[random.Random, bytearray, bytes, Sequence[bytes]], None], ...] = (
    *(_flip, _set, _number, _number, _add, _digits, _cut, _remove, _insert, _double, _splice, _borrow),
    *(_word, _word, _word),
)
