"""What was told of a short while ago and need not be told of again."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable


class Lately:
    """Remembers keys for a while, the newest of them. Thread-safe.

    Args:
        seconds: For how long.
        keys: How many at most.
        clock: Seconds that never go back.
    """

    def __init__(self, seconds: float, keys: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._keys, self._clock = seconds, keys, clock
        self._at: OrderedDict[Hashable, float] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        """Whether a key was added within the last seconds."""
        with self._lock:
            at = self._at.get(key)
            return at is not None and self._clock() - at < self._seconds

    def add(self, key: Hashable) -> None:
        """Remember a key from now on."""
        with self._lock:
            self._at.pop(key, None)
            self._at[key] = self._clock()
            while len(self._at) > self._keys:
                self._at.popitem(last=False)
