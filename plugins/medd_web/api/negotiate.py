"""What form of an answer a program asks for (RFC 9110 section 12.5.1)."""

from collections.abc import Sequence
from typing import NamedTuple


class _Range(NamedTuple):
    kind: str
    quality: float


def choose(accept: str, offers: Sequence[str]) -> str | None:
    """The media type that suits the asker best; of equals the first. None where none of the offers does.

    Args:
        accept: The Accept header; "" takes anything.
        offers: Media types without parameters, the best first.
    """
    ranges = [_read(one) for one in accept.split(",") if one.strip()] or [_Range("*/*", 1.0)]
    best, chosen = 0.0, None
    for offer in offers:
        wildcard = f"{offer.partition('/')[0]}/*"
        # The most specific range that fits an offer says how welcome it is.
        for kind in (offer, wildcard, "*/*"):
            found = [one.quality for one in ranges if one.kind == kind]
            if found:
                if max(found) > best:
                    best, chosen = max(found), offer
                break
    return chosen


def _read(text: str) -> _Range:
    kind, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = min(1.0, max(0.0, float(value)))
            except ValueError:
                quality = 0.0
    return _Range(kind, quality)
