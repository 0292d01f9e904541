"""The parts of a multipart body (RFC 2046 section 5.1), as they come: nothing of a part is held but its last bytes."""

from collections.abc import Iterable, Iterator
from email.message import Message

from medd.errors import TransientError

#: What may stand before the first delimiter, and the longest header of a part, bytes.
_MAX_HEADER_BYTES = 1 << 16


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type names; b"" where it is not multipart or names none."""
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary("") if message.get_content_maintype() == "multipart" else ""
    return boundary.encode("latin-1", "replace")


def read_parts(chunks: Iterable[bytes], boundary: bytes) -> Iterator[Iterator[bytes]]:
    """The content of each part, without its headers.

    Args:
        chunks: The body.
        boundary: As `boundary_of` tells it.

    Yields:
        The pieces of a part. What the caller leaves of them is skipped.

    Raises:
        TransientError: The body ends before its last delimiter, or is none that was announced.
    """
    reader = _Reader(chunks, b"\r\n--" + boundary)
    for _ in reader.until_delimiter(_MAX_HEADER_BYTES):  # the preamble, which nobody is to read
        pass
    while not reader.at_end():
        reader.skip_headers()
        part = reader.until_delimiter()
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
            raise TransientError("the multipart body ends before its last delimiter")
        self._data += chunk

    def until_delimiter(self, limit: int = 0) -> Iterator[bytes]:
        """The bytes before the next delimiter, which is taken away."""
        seen = 0
        while (place := self._data.find(self._delimiter)) < 0:
            # A delimiter may have begun in what is there.
            safe = len(self._data) - len(self._delimiter) + 1
            if safe > 0:
                piece = bytes(self._data[:safe])
                del self._data[:safe]
                seen += safe
                if limit and seen > limit:
                    raise TransientError("the multipart body does not begin with a delimiter")
                yield piece
            self._more()
        piece = bytes(self._data[:place])
        del self._data[: place + len(self._delimiter)]
        if piece:
            yield piece

    def at_end(self) -> bool:
        """Whether the delimiter was the last."""
        while len(self._data) < 2:
            self._more()
        return self._data.startswith(b"--")

    def skip_headers(self) -> None:
        # A part without headers has its empty line right behind the delimiter's.
        while (place := self._data.find(b"\r\n\r\n")) < 0:
            if len(self._data) > _MAX_HEADER_BYTES:
                raise TransientError("the header of a part does not end")
            self._more()
        del self._data[: place + 4]
