"""The view of another user of the machine on a running `dataengine up`."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx

from flows.services.s3_security import CERTIFICATE, KEY, write_security
from tests.production.running import processes_of

LISTENS = "0A"
FOREIGN = "https://foreign.example"
PATHS = ("/", "/dataengine/kept", "/buckets/dataengine/kept", "/dir/assign", "/status")
METHODS = ("GET", "PUT", "POST", "DELETE")


def open_ports(root: Path) -> dict[int, tuple[str, str]]:
    """By port: the address, as hexadecimal digits of Linux, and the command of each listening
    process of the workspace."""
    found = {}
    for pid, command in processes_of(root).items():
        held = _sockets(pid)
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                _, here, _, state, *_ = words = line.split()
                if state == LISTENS and words[9] in held:
                    address, _, port = here.partition(":")
                    found[int(port, 16)] = (address, command)
    return found


def _sockets(pid: int) -> set[str]:
    """The inode numbers of a process's sockets."""
    links = set()
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.add(str(handle.readlink()))
        except OSError:  # closed meanwhile
            continue
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}


def knocks(port: int, certificates: Path) -> Iterator[httpx.Response]:
    """All answers to requests without a key, over HTTP, TLS, and TLS with a forged certificate like
    the servers' own."""
    write_security(certificates, "127.0.0.1")
    certified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    certified.check_hostname, certified.verify_mode = False, ssl.CERT_NONE
    certified.load_cert_chain(certificates / CERTIFICATE, certificates / KEY)
    for scheme, verify in (("http", False), ("https", False), ("https", certified)):
        with httpx.Client(verify=verify, headers={"Origin": FOREIGN}, timeout=5) as client:
            for method in METHODS:
                for path in PATHS:
                    try:
                        yield client.request(method, f"{scheme}://127.0.0.1:{port}{path}")
                    except httpx.TransportError:
                        continue
