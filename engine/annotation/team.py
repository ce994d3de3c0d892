"""The people of a workspace: who they are, what they may do, their links and API tokens. Every
change is an entry of the audit log."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta

from engine.annotation.access import (
    LINK_SECONDS,
    LOCAL,
    ROLES,
    Visitor,
    hashed,
    new_link_token,
    sight_of,
)
from engine.annotation.errors import RefusedError, invalid, not_found
from engine.annotation.own_day import MAKING
from engine.annotation.team_schemas import (
    Assigned,
    Assignment,
    AuditView,
    Invitation,
    MadeToken,
    NewPerson,
    NewToken,
    PersonView,
    Rights,
    TeamView,
    TokenView,
)
from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
    Annotator,
    AnnotatorKind,
    AnnotatorWork,
    ApiToken,
    BadNameError,
    Catalog,
    DatasetNotFoundError,
    NotFoundError,
)
from storage.own_tasks import OwnTasks

DAY = 24 * 3600.0
TOKEN_START = "ode_"  # noqa: S105  # makes a leaked token recognisable
AUDITED = 200
"""Entries of the audit log that are shown."""


class Team:
    """One per server. Thread-safe. `by` is the admin who makes a change."""

    def __init__(self, catalog: Catalog, queue: AnnotationQueue) -> None:
        self._catalog, self._queue = catalog, queue
        self._own = OwnTasks(catalog, catalog.now)

    def view(self, by: Visitor) -> TeamView:
        """All people, tokens and datasets."""
        datasets = {one.id: one.name for one in self._catalog.datasets.all()}
        reserved = self._queue.reserved()
        work, active = self._queue.by_annotator(), self._catalog.sign_ins.active()
        people = [one for one in self._catalog.annotators.all() if self._is_managed(one)]
        names = {one.id: one.name for one in people}
        return TeamView(
            people=[
                PersonView(
                    id=one.id,
                    name=one.name,
                    role=one.role,  # type: ignore[arg-type]  # pydantic checks it
                    datasets=None
                    if one.datasets is None
                    else [datasets[each] for each in one.datasets if each in datasets],
                    state="active" if one.disabled_at is None else "disabled",
                    is_signed_in=one.id in active and one.disabled_at is None,
                    is_self=one.id == by.annotator.id,
                    last_seen=work.get(one.id, AnnotatorWork()).last_seen,
                    reserved=reserved.get(one.id, 0),
                )
                for one in people
            ],
            tokens=[
                self._token_view(one, names[one.annotator_id])
                for one in self._catalog.api_tokens.all()
                if one.annotator_id in names
            ],
            datasets=sorted(datasets.values()),
        )

    def invite(self, by: Visitor, given: NewPerson) -> Invitation:
        """Add a person, with a sign-in link.

        Raises:
            RefusedError: the name is taken or not allowed, there is no such dataset, or the first
                person would not be an admin.
        """
        dataset_ids = self._dataset_ids(given.datasets)
        if self._catalog.annotators.find(given.name) is not None or given.name == LOCAL:
            raise RefusedError(409, "exists", f"the name {given.name!r} is taken; choose another")
        if by.is_local and given.role != "admin":
            raise invalid(
                "the first person must be an admin: after that everybody signs in with a link"
            )
        try:
            person = self._catalog.annotators.get_or_create(given.name, role=given.role)
        except BadNameError as error:
            raise invalid(str(error)) from error
        self._catalog.annotators.set_datasets(person.id, dataset_ids)
        self._log(by, "annotator_added", person, role=given.role, datasets=given.datasets)
        return self._invitation(person)

    def invite_again(self, by: Visitor, person_id: int) -> Invitation:
        """Make a new sign-in link; an earlier one stops working.

        Raises:
            RefusedError: no such person, or they are disabled.
        """
        person = self._person(person_id)
        if person.disabled_at is not None:
            raise RefusedError(409, "disabled", f"{person.name} is disabled; enable them first")
        self._log(by, "annotator_invited", person)
        return self._invitation(person)

    def set_rights(self, by: Visitor, person_id: int, given: Rights) -> None:
        """Change a person's role and datasets.

        Raises:
            RefusedError: no such person or dataset, or it is the admin's own role.
        """
        person = self._person(person_id)
        dataset_ids = self._dataset_ids(given.datasets)
        if person.id == by.annotator.id and given.role != person.role:
            raise _own()
        self._catalog.annotators.set_role(person.id, given.role)
        self._catalog.annotators.set_datasets(person.id, dataset_ids)
        self._log(by, "annotator_changed", person, role=given.role, datasets=given.datasets)

    def disable(self, by: Visitor, person_id: int) -> None:
        """Sign a person out everywhere, and revoke their link and tokens. Their work stays; tasks
        that wait for them become everybody's.

        Raises:
            RefusedError: no such person, or it is the admin.
        """
        person = self._person(person_id)
        if person.id == by.annotator.id:
            raise _own()
        disable(self._catalog, self._queue, person)
        self._log(by, "annotator_removed", person)

    def enable(self, by: Visitor, person_id: int) -> None:
        """Let a disabled person sign in again, with a new link.

        Raises:
            RefusedError: no such person.
        """
        person = self._person(person_id)
        self._catalog.annotators.enable(person.id)
        self._log(by, "annotator_enabled", person)

    def assign(self, by: Visitor, person_id: int, given: Assignment) -> Assigned:
        """Keep open tasks of stages 1 and 2 for a person; nobody else is given them.

        Raises:
            RefusedError: no such person or dataset, they are disabled or do not see it, or no task
                is left for it.
        """
        person = self._person(person_id)
        if person.disabled_at is not None:
            raise RefusedError(409, "disabled", f"{person.name} is disabled; enable them first")
        (dataset_id,) = self._dataset_ids([given.dataset]) or [0]
        if not sight_of(person).includes(dataset_id):
            raise invalid(f"{person.name} does not see {given.dataset!r}; change their datasets")
        limit = given.images
        if given.share is not None:
            waiting = self._own.waiting_by_dataset(person.id, MAKING, unreserved=True)
            limit = max(1, round(given.share * waiting.get(dataset_id, 0)))
        tasks = self._queue.reserve(
            person.id, dataset_id, kinds=MAKING, limit=limit, image_ids=given.image_ids
        )
        if not tasks:
            raise RefusedError(
                409, "none", f"no task of {given.dataset!r} waits that is not kept for somebody"
            )
        self._log(by, "assigned", person, dataset=given.dataset, tasks=tasks)
        return Assigned(tasks=tasks)

    def take_back(self, by: Visitor, person_id: int, dataset: str) -> Assigned:
        """Let everybody take the open tasks of a dataset that are kept for a person.

        Raises:
            RefusedError: no such person or dataset.
        """
        person = self._person(person_id)
        (dataset_id,) = self._dataset_ids([dataset]) or [0]
        tasks = self._queue.unreserve(annotator_id=person.id, dataset_id=dataset_id)
        self._log(by, "taken_back", person, dataset=dataset, tasks=tasks)
        return Assigned(tasks=tasks)

    def make_token(self, by: Visitor, given: NewToken) -> MadeToken:
        """Make an API token of a person.

        Raises:
            RefusedError: no such person, or they are disabled.
        """
        person = self._person(given.person_id)
        if person.disabled_at is not None:
            raise RefusedError(409, "disabled", f"{person.name} is disabled; enable them first")
        token, stored = make_token(self._catalog, person, given.name, given.days)
        self._log(by, "token_made", person, token=given.name, days=given.days)
        return MadeToken(token=token, view=self._token_view(stored, person.name))

    def revoke_token(self, by: Visitor, token_id: int) -> None:
        """Revoke an API token.

        Raises:
            RefusedError: no such token.
        """
        found = [one for one in self._catalog.api_tokens.all() if one.id == token_id]
        if not found or not self._catalog.api_tokens.drop(token_id):
            raise not_found(f"no API token {token_id}")
        person = self._catalog.annotators.get(found[0].annotator_id)
        self._log(by, "token_revoked", person, token=found[0].name)

    def audit(self) -> list[AuditView]:
        """The latest entries of the audit log, newest first."""
        names = {one.id: one.name for one in self._catalog.annotators.all()}
        return [
            AuditView(
                at=one.at,
                who=None if one.annotator_id is None else names.get(one.annotator_id),
                action=one.action,
                subject=one.subject,
                detail=one.detail,
            )
            for one in self._catalog.audit.latest(AUDITED)
        ]

    def _is_managed(self, one: Annotator) -> bool:
        """Whether it is a person who signs in: no simulation, no erased or local one."""
        if one.kind != AnnotatorKind.PERSON or one.name == LOCAL or one.role not in ROLES:
            return False
        return not self._catalog.annotators.is_erased(one.id)

    def _person(self, person_id: int) -> Annotator:
        try:
            found = self._catalog.annotators.get(person_id)
        except NotFoundError as error:
            raise not_found(f"no person {person_id}") from error
        if not self._is_managed(found):
            raise not_found(f"no person {person_id}")
        return found

    def _dataset_ids(self, names: Sequence[str] | None) -> list[int] | None:
        try:
            found = self._catalog.datasets
            return None if names is None else [found.get(name).id for name in names]
        except DatasetNotFoundError as error:
            raise invalid(str(error)) from error

    def _invitation(self, person: Annotator) -> Invitation:
        token = new_link_token(self._catalog, person)
        expires = self._catalog.now() + timedelta(seconds=LINK_SECONDS)
        return Invitation(name=person.name, token=token, expires_at=expires)

    def _token_view(self, token: ApiToken, person: str) -> TokenView:
        return TokenView(
            id=token.id,
            person=person,
            name=token.name,
            created_at=token.created_at,
            expires_at=token.expires_at,
            used_at=token.used_at,
            is_expired=token.expires_at <= self._catalog.now(),
        )

    def _log(self, by: Visitor, action: str, person: Annotator, **detail: object) -> None:
        self._catalog.audit.add(action, person.name, annotator_id=by.annotator.id, **detail)


def disable(catalog: Catalog, queue: AnnotationQueue, person: Annotator) -> None:
    """Keep a person from signing in, and free what waits for them."""
    catalog.annotators.disable(person.id)
    catalog.sign_ins.end_all(person.id)
    catalog.api_tokens.drop_all(person.id)
    queue.unreserve(annotator_id=person.id)
    queue.drop_gold(person.id)


def make_token(catalog: Catalog, person: Annotator, name: str, days: int) -> tuple[str, ApiToken]:
    """Make an API token of a person; the catalog stores only its hash."""
    token = TOKEN_START + secrets.token_urlsafe(32)
    return token, catalog.api_tokens.add(person.id, name, hashed(token), days * DAY)


def _own() -> RefusedError:
    return RefusedError(409, "own", "another admin must do this to you, so that one always remains")
