"""Connections that ask nothing, take nothing, or are too many: closed, so that they hold no place of others.

uvicorn counts every connection against its limit and waits without end for a first request, for the rest of a request's
head, and for a client to read.
"""

import asyncio
import ipaddress
import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from medd_web.buckets import network_of

log = logging.getLogger(__name__)

#: Seconds for the head of a request to come, and for a TLS handshake.
HEAD_S = 10.0
#: Seconds in which a client takes no byte of its answer until it counts as gone.
SILENCE_S = 30.0
#: Connections from one address, or IPv6 network, at one time; a trusted proxy may have all.
MAX_PER_ADDRESS = 100


class Loop(asyncio.SelectorEventLoop):
    """An event loop that does not wait a minute for who begins no TLS handshake."""

    async def create_server(self, *args: Any, **options: Any) -> Any:
        """As the base's."""
        if options.get("ssl"):
            options["ssl_handshake_timeout"] = HEAD_S
        return await super().create_server(*args, **options)


def protocol_for(trusted_proxies: Iterable[str]) -> type[H11Protocol]:
    """The protocol of one server, whose connections are counted together."""
    trusted = [ipaddress.ip_network(one) for one in trusted_proxies]
    open_: Counter[str] = Counter()

    class Guarded(H11Protocol):
        _address = ""
        _head: asyncio.TimerHandle | None = None
        _reading: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._address = network_of(self.client[0]) if self.client else ""
            open_[self._address] += 1
            if open_[self._address] > MAX_PER_ADDRESS and not self._is_trusted():
                told = {"event": "web.connections", "peer": self._address}
                log.warning("a connection was closed: there are %d from its address", MAX_PER_ADDRESS, extra=told)
                transport.abort()
                return
            self._head = self.loop.call_later(HEAD_S, transport.abort)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:  # a head is complete
                _cancel(self._head)
                self._head = None
            elif self._head is None:
                self._head = self.loop.call_later(HEAD_S, self.transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            _cancel(self._head)
            _cancel(self._reading)
            open_[self._address] -= 1
            if open_[self._address] <= 0:
                del open_[self._address]
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._look_in(self.transport.get_write_buffer_size())

        def resume_writing(self) -> None:
            _cancel(self._reading)
            super().resume_writing()

        def _look_in(self, waiting: int) -> None:
            self._reading = self.loop.call_later(SILENCE_S, self._look, waiting)

        def _look(self, before: int) -> None:
            waiting = self.transport.get_write_buffer_size()
            if waiting >= before:
                self.transport.abort()
            else:
                self._look_in(waiting)

        def _is_trusted(self) -> bool:
            try:
                address = ipaddress.ip_address(self.client[0] if self.client else "")
            except ValueError:
                return False
            return any(address in network for network in trusted)

    return Guarded


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
