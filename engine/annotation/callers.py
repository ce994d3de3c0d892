"""Where a request comes from, as far as it shows: this machine or another, through a proxy or not,
from our pages or another site's."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

FORWARDED = (
    *("forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip"),
    *("cf-connecting-ip", "fastly-client-ip", "x-envoy-external-address", "x-original-host"),
)
"""Headers of a proxy, beside all that begin with `x-forwarded-`: a request through a proxy is not
from this machine, whatever its address."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_direct(request: HTTPConnection) -> bool:
    """Whether the request comes from this machine without a proxy. nginx by default speaks HTTP/1.0
    and adds no header; browsers and our client speak 1.1."""
    if request.client is None or request.scope["http_version"] == "1.0":
        return False
    if any(name in FORWARDED or name.startswith("x-forwarded-") for name in request.headers):
        return False
    return is_loopback(request.client.host)


def is_local(request: HTTPConnection) -> bool:
    """Whether the request comes from the user who started this server: directly, by a name of this
    machine, not from another site's page, and as the same user or root, where the system shows."""
    if not is_direct(request):
        return False
    hosts = [f"//{host}" for host in request.headers.getlist("host")]
    named = [*hosts, *request.headers.getlist("origin")]
    return all(is_loopback(_host_of(address)) for address in named) and _is_by_this_user(request)


def is_foreign(request: HTTPConnection) -> bool:
    """Whether the browser says that the request comes from a page of another site or port."""
    return request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin")


def address_of(request: HTTPConnection) -> str:
    """What to count requests without a sign-in by: the address; for IPv6 the /64 network, which is
    one customer's."""
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


def _is_by_this_user(request: HTTPConnection) -> bool:
    """Whether this user or root owns the other end of a local connection; True outside Linux."""
    if request.client is None or request.scope["server"] is None:
        return False
    ends = tuple(request.client), tuple(request.scope["server"])
    owners = {owner for *found, owner in _connections(request.client.port) if tuple(found) == ends}
    return owners <= {os.getuid(), 0} if owners else True


def _connections(port: int) -> Iterator[tuple[tuple[str, int], tuple[str, int], int]]:
    """The connections from a port: its end, the other end, and the user who owns its end."""
    for name in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net", name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, here, there, *_, user = line.split()[:8]
            if here.endswith(f":{port:04X}"):
                yield _end(here), _end(there), int(user)


def _end(text: str) -> tuple[str, int]:
    """Parse an address and port of /proc/net/tcp, whose words are in the processor's order."""
    address, _, port = text.partition(":")
    data = bytes.fromhex(address)
    if sys.byteorder == "little":
        data = b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))
    found = ipaddress.ip_address(data)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found), int(port, 16)
