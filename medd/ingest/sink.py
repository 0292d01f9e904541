"""Where the dataset of a message goes while it comes in."""

from medd.store.spool import SpoolWriter


class Sink:
    """Where a dataset goes: the spool, or memory where there is no writer.

    When that fails, or there is more than the limit, it goes nowhere, so that the peer can finish and be answered.
    """

    def __init__(self, writer: SpoolWriter | None, limit: int) -> None:
        self.writer, self.failure = writer, ""
        self.data = bytearray()
        self._limit = limit

    def write(self, data: memoryview) -> None:
        """Add what came next."""
        if self.failure:
            return
        if (len(self.data) if self.writer is None else self.writer.size) + len(data) > self._limit:
            self.failure = f"object is larger than {self._limit >> 20} MiB"
        elif self.writer is None:
            self.data += data
        else:
            try:
                self.writer.write(data)
            except OSError as error:
                self.failure = f"spool: {error.strerror}"
        if self.failure:
            self.discard()

    def discard(self) -> None:
        """Forget it all. Harmless when it was published."""
        self.data.clear()
        if self.writer is not None:
            self.writer.discard()
