"""Where a request comes from, as far as can be told: this machine or another, through a proxy or
not, a page of ours or of somebody else."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

FORWARDED = (
    *("forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip"),
    *("cf-connecting-ip", "fastly-client-ip", "x-envoy-external-address", "x-original-host"),
)
"""Headers of a proxy, beside all that begin with `x-forwarded-`: who asks through one is not on
this machine, whatever the address says."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_direct(request: HTTPConnection) -> bool:
    """Whether the request comes from this machine through no proxy. HTTP/1.0 is what nginx speaks
    to a server by default, without a header of its own; browsers and our client speak 1.1."""
    if request.client is None or request.scope["http_version"] == "1.0":
        return False
    if any(name in FORWARDED or name.startswith("x-forwarded-") for name in request.headers):
        return False
    return is_loopback(request.client.host)


def is_local(request: HTTPConnection) -> bool:
    """Whether whoever sits at this machine asks: directly, by a name of this machine, and from no
    other site's page."""
    hosts = [f"//{host}" for host in request.headers.getlist("host")]
    named = [*hosts, *request.headers.getlist("origin")]
    return is_direct(request) and all(is_loopback(_host_of(address)) for address in named)


def is_foreign(request: HTTPConnection) -> bool:
    """Whether the browser says that a page of another site, or of another port, asks."""
    return request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin")


def address_of(request: HTTPConnection) -> str:
    """Whom to count the requests of strangers for: the address, of IPv6 the network that one
    customer has."""
    host = request.client.host if request.client else "?"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network(f"{address}/64", strict=False))


def _host_of(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
