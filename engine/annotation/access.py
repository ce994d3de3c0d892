"""Access control: sign-in links, sessions, CSRF tokens, roles, rate limits.

Tokens are 256 random bits; the catalog stores only their SHA-256. A sign-in link works once. The
CSRF token of a session is a keyed hash of its cookie, so the server stores only the hash.
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
"""Each role includes the rights of those before it."""

COOKIE = "dataengine_session"
SESSION_SECONDS = 14 * 24 * 3600.0
LINK_SECONDS = 7 * 24 * 3600.0

LOCAL = "local"
"""Name of the annotator that users of this machine are while no sign-in is required."""

SCRIPT = "script:"
"""Before the hash of an API token in `Visitor.session`."""

MAX_BUCKETS = 10_000
"""Rate limits kept in memory; the oldest are dropped."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who makes a request, and the CSRF token that their requests must carry."""

    annotator: Annotator
    csrf: str
    session: str = ""
    """Hash of the session, or of the API token after SCRIPT; empty for the local user."""

    @property
    def is_local(self) -> bool:
        """Whether they are admitted without a sign-in."""
        return not self.session

    @property
    def is_script(self) -> bool:
        """Whether they sign their requests with an API token."""
        return self.session.startswith(SCRIPT)

    def need_person(self) -> None:
        """Check that the visitor has signed in, so that a stolen API token makes no other tokens.

        Raises:
            RefusedError: they use an API token.
        """
        if self.is_script:
            raise RefusedError(403, "script", "API tokens may not do this; sign in with a link")

    def need(self, role: str) -> None:
        """Check that the visitor has this role or a higher one.

        Raises:
            RefusedError: the visitor's role is lower.
        """
        if self.annotator.role not in ROLES[ROLES.index(role) :]:
            raise RefusedError(403, "role", f"this is for {role}s; you are {self.annotator.role}")

    def need_all_datasets(self) -> None:
        """Check that the visitor sees all datasets.

        Raises:
            RefusedError: the visitor sees only some.
        """
        if sight_of(self.annotator).datasets is not None:
            raise RefusedError(403, "datasets", "this covers all datasets; you see only some")


@dataclass(frozen=True, slots=True)
class Sight:
    """What an annotator may see."""

    datasets: frozenset[int] | None
    """Ids of the datasets whose tasks and images they see; None: all."""
    dashboard: bool
    """Whether they see the dashboard, which covers all datasets."""

    def includes(self, dataset_id: int) -> bool:
        """Whether they see this dataset."""
        return self.datasets is None or dataset_id in self.datasets


def sight_of(annotator: Annotator) -> Sight:
    """What the annotator may see: admins everything, others what datasets and role allow."""
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
            local: name of the local user who has not signed in, as long as the catalog has no
                other person; None: everybody signs in. Only for servers that only this machine
                can reach.
        """
        self._catalog, self._local = catalog, local
        self._local_csrf = secrets.token_urlsafe(32)

    def sign_in(self, token: str) -> tuple[str, Visitor]:
        """Use up the token of a sign-in link.

        Returns:
            The value of the session's cookie, and the visitor.

        Raises:
            RefusedError: the token is wrong, used or expired.
        """
        annotator = self._catalog.annotators.take_token(hashed(token))
        if annotator is None:
            self._catalog.audit.add("sign_in_refused")
            raise RefusedError(401, "bad_link", "this link was used or expired; ask for a new one")
        session = secrets.token_urlsafe(32)
        self._catalog.sign_ins.start(annotator.id, hashed(session), SESSION_SECONDS)
        self._catalog.audit.add("sign_in", annotator.name, annotator_id=annotator.id)
        return session, Visitor(annotator, csrf_token(session), hashed(session))

    def sign_out(self, session: str) -> None:
        """End a session."""
        self._catalog.sign_ins.end(hashed(session))

    def visitor(self, session: str | None, *, is_local: bool = False) -> Visitor:
        """The visitor of a session.

        Args:
            is_local: the request comes from the local user, who may need no session.

        Raises:
            RefusedError: there is no such session, or it has ended.
        """
        if session:
            annotator = self._catalog.sign_ins.find(hashed(session))
            if annotator is not None:
                return Visitor(annotator, csrf_token(session), hashed(session))
        if is_local and (person := self._local_annotator()) is not None:
            return Visitor(person, self._local_csrf)
        raise RefusedError(401, "not_signed_in", "sign in with your link")

    def script(self, token: str) -> Visitor:
        """The visitor of an API token. Browsers do not send such a token by themselves, so it needs
        no CSRF token beside it.

        Raises:
            RefusedError: the token is wrong, expired or revoked.
        """
        annotator = self._catalog.api_tokens.use(hashed(token))
        if annotator is None:
            raise RefusedError(401, "bad_token", "this API token is wrong, expired or revoked")
        return Visitor(annotator, "", SCRIPT + hashed(token))

    def find_active(self, sessions: Collection[str]) -> dict[str, Annotator]:
        """The annotators of these sessions, by `Visitor.session`, without ended sessions."""
        scripts = [one.removeprefix(SCRIPT) for one in sessions if one.startswith(SCRIPT)]
        people = [one for one in sessions if one and not one.startswith(SCRIPT)]
        by_token = self._catalog.api_tokens.find_all(scripts) if scripts else {}
        found = self._catalog.sign_ins.find_all(people)
        found |= {SCRIPT + hash_: who for hash_, who in by_token.items()}
        person = self._local_annotator() if "" in sessions else None
        return found if person is None else {**found, "": person}

    def _local_annotator(self) -> Annotator | None:
        """Read anew each time: people may have been added since."""
        people = self._catalog.annotators
        if self._local is None or people.has_people(besides=self._local):
            return None
        return people.find(self._local) or people.get_or_create(self._local, role="admin")


def hashed(token: str) -> str:
    """The stored hash of a token, which is random: no salt and no slow hash is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


def csrf_token(session: str) -> str:
    """The CSRF token of a session."""
    return hmac.new(session.encode(), b"csrf", hashlib.sha256).hexdigest()


def check_csrf(visitor: Visitor, given: str | None) -> None:
    """Check that a request that changes something carries the visitor's token, which other sites
    cannot know.

    Raises:
        RefusedError: the token is missing or wrong.
    """
    if given is None or not hmac.compare_digest(given.encode(), visitor.csrf.encode()):
        raise RefusedError(403, "csrf", "the page is out of date; load it again")


def new_link_token(catalog: Catalog, annotator: Annotator) -> str:
    """Make a token for a one-time sign-in link; an earlier token stops working."""
    token = secrets.token_urlsafe(32)
    catalog.annotators.set_token(annotator.id, hashed(token), LINK_SECONDS)
    return token


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests allowed at once, and per second after that. Each name is counted separately."""

    burst: float
    a_second: float
    name: str = ""


class RateLimits:
    """Token buckets by name, in memory: a restart of the server resets them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}
        """Tokens left, and the time in seconds when they were counted."""

    def spend(self, name: str, rate: Rate) -> None:
        """Count one request under this name.

        Raises:
            RefusedError: there were too many.
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
