"""Sends events to webhooks: signed, only to addresses that are allowed, and again after failures.

A request follows the Standard Webhooks specification (https://www.standardwebhooks.com): headers
`webhook-id` (of the event, the same in each attempt), `webhook-timestamp` (Unix seconds) and
`webhook-signature`, `v1,` and the base64 of HMAC-SHA256 over `ID.TIMESTAMP.BODY`, by the key whose
base64 is in the secret after `whsec_`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import random
import secrets
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

import httpx

from engine.core.errors import DataEngineError
from storage.catalog import Catalog, CatalogError, Parcel

log = logging.getLogger(__name__)

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

SECRET_START = "whsec_"  # noqa: S105  # the start of all secrets
RETRY_SECONDS = (5.0, 60.0, 600.0, 3600.0, 6 * 3600.0, 24 * 3600.0)
"""Pauses between the attempts, each up to a tenth longer."""
POST_SECONDS = 10.0
"""How long an attempt may take, with the look-up of the name."""
CLAIM_SECONDS = 60.0
AT_ONCE = 16
LOOK_SECONDS = 5.0
"""How often a server looks for deliveries that are due."""
MAX_URL = 2000
GONE = 410
_EMBEDS_V4 = ip_network("64:ff9b::/96")
"""IPv6 addresses of IPv4 ones (RFC 6052)."""


class RefusedAddressError(DataEngineError):
    """Nothing is sent to this address. Give another one, or allow its network in the settings."""


def new_secret() -> str:
    """A fresh key for signatures."""
    return SECRET_START + base64.b64encode(secrets.token_bytes(24)).decode()


def signature(secret: str, event_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`."""
    key = base64.b64decode(secret.removeprefix(SECRET_START))
    signed = f"{event_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def parts_of(url: str) -> SplitResult:
    """The parts of a webhook's URL.

    Raises:
        RefusedAddressError: it is not an absolute http or https URL without user and fragment.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise RefusedAddressError(f"this is no URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise RefusedAddressError("a webhook's address begins with https:// or http:// and a host")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise RefusedAddressError("a webhook's address has no user, password or fragment")
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise RefusedAddressError(f"a webhook's address is plain ASCII, at most {MAX_URL} long")
    return parts


def address_of(url: str, allowed: Sequence[Network] = ()) -> str:
    """The address to connect to: the first one of the host's name.

    Raises:
        RefusedAddressError: `parts_of` refuses the URL, or the name has an address inside a network
            that is neither public nor allowed.
        OSError: the name cannot be looked up now.
    """
    parts = parts_of(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    addresses = [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    for address in addresses:
        if not _may_reach(address, allowed):
            raise RefusedAddressError(
                f"{parts.hostname} is {address}, which is not public; a network is allowed by "
                "`[page] webhook_networks` in dataengine.toml"
            )
    return str(addresses[0])


def _may_reach(address: Address, allowed: Sequence[Network]) -> bool:
    inner = _inner(address)
    if any(one in network for one in (address, inner) for network in allowed):
        return True
    return inner.is_global and not inner.is_multicast and not inner.is_reserved


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for; else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _EMBEDS_V4:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo or address


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Of an attempt. `is_final`: trying again would not help."""

    status: int | None = None
    error: str | None = None
    is_final: bool = False

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver has accepted the event."""
        return self.status is not None and 200 <= self.status < 300


class WebhookSender:
    """Sends what waits in the catalog; several servers may do so at once. Thread-safe."""

    def __init__(self, catalog: Catalog, allowed: Sequence[Network] = ()) -> None:
        """`allowed`: networks that are not public, which webhooks may be in."""
        self._catalog, self.allowed = catalog, tuple(allowed)
        self._wake, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Send from now on, in a thread."""
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what it has not sent waits in the catalog."""
        self._over.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def wake(self) -> None:
        """Look now: something was queued."""
        self._wake.set()

    def send_due(self) -> int:
        """Try all deliveries that are due once; returns their number.

        Raises:
            CatalogError: the catalog does not answer.
        """
        number = 0
        while parcels := self._catalog.webhooks.claim(CLAIM_SECONDS, limit=AT_ONCE):
            number += len(parcels)
            outcomes = asyncio.run(self._post_all(parcels))
            for parcel, outcome in zip(parcels, outcomes, strict=True):
                self._note(parcel, outcome)
        return number

    def _run(self) -> None:
        while not self._over.is_set():
            self._wake.clear()
            try:
                self.send_due()
            except CatalogError as error:
                log.warning("webhooks wait: %s", error)
            self._wake.wait(LOOK_SECONDS)

    async def _post_all(self, parcels: Sequence[Parcel]) -> list[Outcome]:
        return await asyncio.gather(*(self._post(parcel) for parcel in parcels))

    async def _post(self, parcel: Parcel) -> Outcome:
        try:
            async with asyncio.timeout(POST_SECONDS):
                address = await asyncio.to_thread(address_of, parcel.url, self.allowed)
                return Outcome(status=await self._send(parcel, address))
        except RefusedAddressError as error:
            return Outcome(error=str(error), is_final=True)
        except TimeoutError:
            return Outcome(error=f"no answer within {POST_SECONDS:g} seconds")
        except (httpx.HTTPError, OSError) as error:
            return Outcome(error=f"{type(error).__name__}: {error}"[:300])

    async def _send(self, parcel: Parcel, address: str) -> int:
        """Send it to this address, whatever the host's name means by now; returns the status. The
        answer's body is not read, and redirects are not followed."""
        url = httpx.URL(parcel.url)
        body = json.dumps(parcel.delivery.payload, separators=(",", ":")).encode()
        now = int(self._catalog.now().timestamp())
        event_id = parcel.delivery.event_id
        headers = {
            "Host": url.netloc.decode(),
            "Content-Type": "application/json",
            "User-Agent": "open-data-engine",
            "webhook-id": event_id,
            "webhook-timestamp": str(now),
            "webhook-signature": signature(parcel.secret, event_id, now, body),
        }
        async with (
            httpx.AsyncClient(trust_env=False, timeout=POST_SECONDS) as client,
            client.stream(
                "POST",
                url.copy_with(host=address),
                content=body,
                headers=headers,
                extensions={"sni_hostname": url.host},
            ) as answer,
        ):
            return answer.status_code

    def _note(self, parcel: Parcel, outcome: Outcome) -> None:
        delivery = parcel.delivery
        is_last = outcome.is_final or delivery.attempts >= len(RETRY_SECONDS)
        pause = None if is_last else RETRY_SECONDS[delivery.attempts] * random.uniform(1, 1.1)
        if outcome.status == GONE:  # the receiver wants no more
            self._catalog.webhooks.pause(delivery.webhook_id, True)
            pause = None
        self._catalog.webhooks.tried(
            delivery.id,
            is_delivered=outcome.is_delivered,
            status=outcome.status,
            error=outcome.error,
            retry_seconds=pause,
        )
        if not outcome.is_delivered and pause is None:
            told = outcome.error or f"status {outcome.status}"
            log.warning("webhook %d: %s given up: %s", delivery.webhook_id, delivery.event, told)
