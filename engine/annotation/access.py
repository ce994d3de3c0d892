"""Who may do what: sign-in links, sessions, CSRF tokens, roles, rates.

Tokens are 256 random bits; the catalog has their SHA-256 only. A sign-in link works once. The CSRF
token of a session is a keyed hash of its cookie, so that the server keeps no more than the hash.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.annotation.errors import RefusedError
from storage.catalog import Annotator, Catalog

ROLES = ("annotator", "reviewer", "admin")
"""Each may do what those before it may."""

COOKIE = "dataengine_session"
SESSION_SECONDS = 14 * 24 * 3600.0
LINK_SECONDS = 7 * 24 * 3600.0

MAX_BUCKETS = 10_000
"""Rate limits that are remembered; the oldest are forgotten."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who makes a request, and the CSRF token that their requests have to carry."""

    annotator: Annotator
    csrf: str
    is_local: bool = False

    def need(self, role: str) -> None:
        """Go on only with this role or a higher one.

        Raises:
            RefusedError: the visitor's is lower.
        """
        if self.annotator.role not in ROLES[ROLES.index(role) :]:
            raise RefusedError(403, "role", f"this is for {role}s; you are {self.annotator.role}")


class Access:
    """Sign-ins of one server."""

    def __init__(self, catalog: Catalog, *, local: Annotator | None = None) -> None:
        """
        Args:
            local: who visitors are that have not signed in; None: nobody. Only for servers that
                nothing but this machine can reach.
        """
        self._catalog, self._local = catalog, local
        self._local_csrf = secrets.token_urlsafe(32)

    def sign_in(self, token: str) -> tuple[str, Visitor]:
        """Use up the token of a sign-in link.

        Returns:
            The value of the session's cookie, and who it is.

        Raises:
            RefusedError: the token is wrong, used or has run out.
        """
        annotator = self._catalog.annotators.take_token(hashed(token))
        if annotator is None:
            self._catalog.audit.add("sign_in_refused")
            raise RefusedError(
                401, "bad_link", "this link was used or has run out; ask for a new one"
            )
        session = secrets.token_urlsafe(32)
        self._catalog.sign_ins.start(annotator.id, hashed(session), SESSION_SECONDS)
        self._catalog.audit.add("sign_in", annotator.name, annotator_id=annotator.id)
        return session, Visitor(annotator, csrf_token(session))

    def sign_out(self, session: str) -> None:
        """End a session."""
        self._catalog.sign_ins.end(hashed(session))

    def visitor(self, session: str | None) -> Visitor:
        """Who has the session.

        Raises:
            RefusedError: nobody, or not any more.
        """
        if session:
            annotator = self._catalog.sign_ins.find(hashed(session))
            if annotator is not None:
                return Visitor(annotator, csrf_token(session))
        if self._local is not None:
            return Visitor(self._local, self._local_csrf, is_local=True)
        raise RefusedError(401, "not_signed_in", "sign in with the link you were given")


def hashed(token: str) -> str:
    """What the catalog keeps of a token. It is random, so no salt and no slow hash is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


def csrf_token(session: str) -> str:
    """The CSRF token of a session."""
    return hmac.new(session.encode(), b"csrf", hashlib.sha256).hexdigest()


def check_csrf(visitor: Visitor, given: str | None) -> None:
    """A request that changes something has to carry the visitor's token, which other sites cannot
    know.

    Raises:
        RefusedError: it does not.
    """
    if given is None or not hmac.compare_digest(given.encode(), visitor.csrf.encode()):
        raise RefusedError(403, "csrf", "the page is out of date; load it again")


def new_link_token(catalog: Catalog, annotator: Annotator) -> str:
    """A fresh token for a one-time sign-in link; an earlier one stops working."""
    token = secrets.token_urlsafe(32)
    catalog.annotators.set_token(annotator.id, hashed(token), LINK_SECONDS)
    return token


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests at once, and so many a second from then on."""

    burst: float
    a_second: float


class RateLimits:
    """Token buckets by name; in memory, so they begin anew with the server."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}
        """What is left, and when that was so."""

    def spend(self, name: str, rate: Rate) -> None:
        """Count one request.

        Raises:
            RefusedError: there have been too many.
        """
        now = self._clock()
        with self._lock:
            left, since = self._buckets.pop(name, (rate.burst, now))
            left = min(rate.burst, left + (now - since) * rate.a_second)
            enough = left >= 1
            self._buckets[name] = (left - 1 if enough else left, now)
            while len(self._buckets) > MAX_BUCKETS:
                del self._buckets[next(iter(self._buckets))]
        if not enough:
            raise RefusedError(429, "too_many", "too many requests; wait a moment")
