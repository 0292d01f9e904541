"""The web server's port, and who may come."""

import ipaddress
from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from medd.settings.base import Section, TlsSettings


class WebSettings(Section):
    """``[web]``: the reading room in the browser, and the interfaces of other programs."""

    #: Whether `medd serve` runs it; `medd serve --only web` does in any case.
    enabled: bool = True
    #: Whether who comes must log in. Without it everybody is an administrator, and only this machine can be served.
    login: bool = False
    #: Address to listen on; "0.0.0.0" or "::" for every interface.
    host: str = "127.0.0.1"
    #: TCP port; 0 takes a free one.
    port: int = Field(default=8080, ge=0, le=65535)
    #: Names, besides this host's own and any address, by which browsers may call us.
    allowed_hosts: tuple[str, ...] = ()
    #: Addresses, or networks, of proxies before us, which are believed who calls and whether by https.
    trusted_proxies: tuple[str, ...] = ()
    #: Hours until who logged in must do so again.
    session_h: float = Field(default=12, gt=0, le=720)
    #: Largest request with images, MiB.
    max_upload_mib: int = Field(default=2048, ge=1)
    #: Requests a second from one address over a while; 0 sets no limit.
    max_requests_per_s: float = Field(default=100, ge=0)
    #: A file with a token that gives its bearer `/metrics` and nothing else; relative to the home folder, or absolute.
    metrics_token_file: str = ""
    #: Seconds that the first image in the queue may wait before `/health` says that something is wrong.
    max_queue_age_s: float = Field(default=900, gt=0, le=86_400)
    #: With a certificate, the port speaks https only.
    tls: TlsSettings = TlsSettings()

    @field_validator("host", "allowed_hosts", "trusted_proxies")
    @classmethod
    def _is_guarded(cls, value: Any, info: ValidationInfo) -> Any:
        # By another address, another name or a proxy others than the one before this machine come in. `enabled` says
        # nothing of that: `medd serve --only web` serves whatever it is.
        near = is_loopback(value) if info.field_name == "host" else not value
        if not info.data.get("login", True) and not near:
            raise ValueError("only this machine is served without log-in; set web.login = true, see `medd users`")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:  # a name, or "*", would let anybody say whose request his is
            try:
                ipaddress.ip_network(one)
            except ValueError:
                raise ValueError(f"addresses or networks expected. Received: {one}") from None
        return value


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
