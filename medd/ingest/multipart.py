"""The parts of a multipart body (RFC 2046 section 5.1), as they come: nothing of a part is held but its last bytes."""

from collections.abc import Iterable, Iterator
from email.message import Message

from medd.errors import TransientError

#: What may stand before the first delimiter, and the longest header of a part, bytes.
_MAX_HEADER_BYTES = 1 << 16
#: Fields in the header of a part; more are nobody's who means well.
_MAX_FIELDS = 100


class BadMultipart(TransientError):
    """The body is no multipart body, or ends before its last delimiter: the way here has cut it, or its sender."""


class Part:
    """One part: an iterator over its content, piece by piece.

    Attributes:
        headers: Name in small letters → value.
    """

    def __init__(self, headers: dict[str, str], pieces: Iterator[bytes]) -> None:
        self.headers, self._pieces = headers, pieces

    def __iter__(self) -> "Part":
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)


def parameters_of(value: str) -> tuple[str, dict[str, str]]:
    """A header such as Content-Type (RFC 2045 section 5.1): its value in small letters, and its parameters."""
    message = Message()
    message["Content-Type"] = " ".join(value.split("\n"))
    try:
        found = message.get_params([("", "")], unquote=True)
    except (ValueError, LookupError):  # an encoding (RFC 2231) that is none
        return "", {}
    parameters = {name.lower(): word for name, word in found[1:] if isinstance(word, str)}
    return found[0][0].strip().lower(), parameters


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type names; b"" where it is not multipart or names none."""
    kind, parameters = parameters_of(content_type)
    if not kind.startswith("multipart/"):
        return b""
    return parameters.get("boundary", "").rstrip().encode("latin-1", "replace")


def read_parts(chunks: Iterable[bytes], boundary: bytes) -> Iterator[Part]:
    """The parts of a body.

    Args:
        chunks: The body.
        boundary: As `boundary_of` tells it.

    Yields:
        Each part. What the caller leaves of its content is skipped.

    Raises:
        BadMultipart: The body ends before its last delimiter, or is none that was announced.
    """
    reader = _Reader(chunks, b"\r\n--" + boundary)
    for _ in reader.until_delimiter(_MAX_HEADER_BYTES):  # the preamble, which nobody is to read
        pass
    while not reader.at_end():
        part = Part(reader.read_headers(), reader.until_delimiter())
        yield part
        for _ in part:
            pass


class _Reader:
    def __init__(self, chunks: Iterable[bytes], delimiter: bytes) -> None:
        self._chunks, self._delimiter = iter(chunks), delimiter
        # The first delimiter may stand at the very beginning, where no line ends before it.
        self._data = bytearray(b"\r\n")

    def _more(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise BadMultipart("the multipart body ends before its last delimiter")
        self._data += chunk

    def until_delimiter(self, limit: int = 0) -> Iterator[bytes]:
        """The bytes before the next delimiter, which is taken away."""
        seen = 0
        while True:
            place = self._data.find(self._delimiter)
            if place >= 0:
                end = place + len(self._delimiter)
                while len(self._data) < end + 2:
                    self._more()
                if self._data[end : end + 2] == b"--" or self._data[end] in b"\r \t":
                    break
                place = end  # the line goes on: the delimiter of a part that is multipart itself
            # A delimiter may have begun in what is there.
            safe = place if place >= 0 else len(self._data) - len(self._delimiter) + 1
            if safe > 0:
                piece = bytes(self._data[:safe])
                del self._data[:safe]
                seen += safe
                if limit and seen > limit:
                    raise BadMultipart("the multipart body does not begin with a delimiter")
                yield piece
            if place < 0:
                self._more()
        piece = bytes(self._data[:place])
        del self._data[:end]
        if piece:
            yield piece

    def at_end(self) -> bool:
        """Whether the delimiter was the last."""
        return self._data.startswith(b"--")

    def read_headers(self) -> dict[str, str]:
        """The header of a part; one without any has its empty line right behind the delimiter's."""
        while (place := self._data.find(b"\r\n\r\n")) < 0:
            if len(self._data) > _MAX_HEADER_BYTES:
                break
            self._more()
        if not 0 <= place <= _MAX_HEADER_BYTES:
            raise BadMultipart("the header of a part does not end")
        lines = bytes(self._data[:place]).replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ").split(b"\r\n")[1:]
        del self._data[: place + 4]
        if len(lines) > _MAX_FIELDS:
            raise BadMultipart(f"the header of a part has too many fields. Received: {len(lines)}")
        fields = (line.decode("utf-8", "replace").partition(":") for line in lines)
        return {name.strip().lower(): value.strip() for name, _, value in fields}
