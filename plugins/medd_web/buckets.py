"""How often something may be done, and by whom: token buckets."""

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from fastapi import Request


class Buckets:
    """Token buckets: each key may do `size` things at once, and later `per_s` more a second.

    Thread-safe; forgets keys that are full again, and the oldest beyond `keys` of them.
    """

    def __init__(
        self, size: float, per_s: float, *, keys: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._size, self._per_s, self._keys, self._clock = size, per_s, keys, clock
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: Hashable) -> float:
        """Take one; returns 0.0, or the seconds after which there is one again."""
        with self._lock:
            now = self._clock()
            level, at = self._levels.pop(key, (self._size, now))
            level = min(self._size, level + (now - at) * self._per_s)
            wait = 0.0 if level >= 1 else (1 - level) / self._per_s
            self._levels[key] = (level if wait else level - 1, now)
            while len(self._levels) > self._keys:
                self._levels.popitem(last=False)
            return wait

    def give_back(self, key: Hashable) -> None:
        """Undo a `take`."""
        with self._lock:
            if key in self._levels:
                level, at = self._levels[key]
                self._levels[key] = (min(self._size, level + 1), at)


class LoginGuard:
    """How often it may be tried to log in.

    Each user from each address a few times at once and then once a minute: nobody is locked out for ever. From one
    address, whatever the name: a list of names and one password comes to nothing. And each user from all addresses
    together, or many machines would guess as one; but from where he has logged in before he is not held up by what
    strangers do elsewhere, so that they cannot lock him out.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._pairs = Buckets(5, 1 / 60, clock=clock)
        self._addresses = Buckets(30, 1 / 10, clock=clock)
        self._strangers = Buckets(20, 1 / 60, clock=clock)

    def take(self, name: str, address: str, *, familiar: bool) -> float:
        """Begin a try; returns 0.0, or the seconds after which there may be one."""
        wanted = self._wanted(name, address, familiar)
        for taken, (buckets, key) in enumerate(wanted):
            if wait := buckets.take(key):
                for earlier, its_key in wanted[:taken]:
                    earlier.give_back(its_key)
                return wait
        return 0.0

    def give_back(self, name: str, address: str, *, familiar: bool) -> None:
        """The try succeeded: it is not counted."""
        for buckets, key in self._wanted(name, address, familiar):
            buckets.give_back(key)

    def _wanted(self, name: str, address: str, familiar: bool) -> list[tuple[Buckets, Hashable]]:
        wanted: list[tuple[Buckets, Hashable]] = [(self._pairs, (name, address)), (self._addresses, address)]
        return wanted if familiar else [*wanted, (self._strangers, name)]


def address_of(request: Request) -> str:
    """Whose request it is; of IPv6 the network of 64 bits, as one caller has all of it."""
    return network_of(request.client.host) if request.client else ""


def network_of(host: str) -> str:
    """An address as `address_of` gives it."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return host if address.is_loopback else str(ipaddress.ip_network(f"{host}/64", strict=False))
    return host
