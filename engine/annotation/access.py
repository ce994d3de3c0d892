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
from collections.abc import Callable, Collection
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
    session: str = ""
    """Hash of the session; empty for whoever is at the machine and has none."""

    @property
    def is_local(self) -> bool:
        """Whether they are let in without having signed in."""
        return not self.session

    def need(self, role: str) -> None:
        """Go on only with this role or a higher one.

        Raises:
            RefusedError: the visitor's is lower.
        """
        if self.annotator.role not in ROLES[ROLES.index(role) :]:
            raise RefusedError(403, "role", f"this is for {role}s; you are {self.annotator.role}")

    def need_all_datasets(self) -> None:
        """Go on only for those who see all datasets.

        Raises:
            RefusedError: the visitor sees some.
        """
        if sight_of(self.annotator).datasets is not None:
            raise RefusedError(403, "datasets", "this is about all datasets; you see some of them")


@dataclass(frozen=True, slots=True)
class Sight:
    """What somebody sees."""

    datasets: frozenset[int] | None
    """Ids of those whose tasks and images they see; None: all."""
    dashboard: bool
    """Whether they see the dashboard, which is about all datasets."""

    def includes(self, dataset_id: int) -> bool:
        """Whether they see this dataset."""
        return self.datasets is None or dataset_id in self.datasets


def sight_of(annotator: Annotator) -> Sight:
    """What the annotator sees: admins everything, others what their datasets and role allow."""
    if annotator.role == "admin":
        return Sight(None, dashboard=True)
    if annotator.datasets is None:
        return Sight(None, dashboard=annotator.role != "annotator")
    return Sight(frozenset(annotator.datasets), dashboard=False)


class Access:
    """Sign-ins of one server."""

    def __init__(self, catalog: Catalog, *, local: str | None = None) -> None:
        """
        Args:
            local: name of whoever is at the machine and has not signed in, as long as no people
                are entered; None: everybody signs in. Only for servers that nothing but this
                machine can reach.
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
        return session, Visitor(annotator, csrf_token(session), hashed(session))

    def sign_out(self, session: str) -> None:
        """End a session."""
        self._catalog.sign_ins.end(hashed(session))

    def visitor(self, session: str | None, *, is_local: bool = False) -> Visitor:
        """Who has the session.

        Args:
            is_local: whoever is at this machine asks; they may need none.

        Raises:
            RefusedError: nobody, or not any more.
        """
        if session:
            annotator = self._catalog.sign_ins.find(hashed(session))
            if annotator is not None:
                return Visitor(annotator, csrf_token(session), hashed(session))
        if is_local and (person := self._at_the_machine()) is not None:
            return Visitor(person, self._local_csrf)
        raise RefusedError(401, "not_signed_in", "sign in with the link you were given")

    def still_there(self, sessions: Collection[str]) -> dict[str, Annotator]:
        """Who has these sessions, by `Visitor.session`; those that are over are left out."""
        found = self._catalog.sign_ins.find_all([hash_ for hash_ in sessions if hash_])
        person = self._at_the_machine() if "" in sessions else None
        return found if person is None else {**found, "": person}

    def _at_the_machine(self) -> Annotator | None:
        """Asked anew each time: people may have been entered since."""
        people = self._catalog.annotators
        if self._local is None or people.has_people(besides=self._local):
            return None
        return people.find(self._local) or people.get_or_create(self._local, role="admin")


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
    """So many requests at once, and so many a second from then on. Each name is counted apart."""

    burst: float
    a_second: float
    name: str = ""


class RateLimits:
    """Token buckets by name; in memory, so they begin anew with the server."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}
        """What is left, and when that was so."""

    def spend(self, name: str, rate: Rate) -> None:
        """Count one request of whoever has the name.

        Raises:
            RefusedError: there have been too many.
        """
        now = self._clock()
        with self._lock:
            left, since = self._buckets.pop((rate.name, name), (rate.burst, now))
            left = min(rate.burst, left + (now - since) * rate.a_second)
            enough = left >= 1
            self._buckets[rate.name, name] = (left - 1 if enough else left, now)
            while len(self._buckets) > MAX_BUCKETS:
                del self._buckets[next(iter(self._buckets))]
        if not enough:
            raise RefusedError(429, "too_many", "too many requests; wait a moment")
