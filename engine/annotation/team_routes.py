"""The HTTP interface of the page Team, for admins; see `routes`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from engine.annotation.access import Visitor
from engine.annotation.admission import GuardedRoute, admits
from engine.annotation.routes import CHANGES, READS, WORDS, Changer, Service, Someone
from engine.annotation.team import Team
from engine.annotation.team_schemas import (
    Assigned,
    Assignment,
    AuditView,
    Dataset,
    Invitation,
    MadeToken,
    NewPerson,
    NewToken,
    Rights,
    TeamView,
)

router = APIRouter(route_class=GuardedRoute)
RowId = Annotated[int, Path(ge=1, lt=2**31)]


def team_of(service: Service) -> Team:
    """The app's team."""
    return Team(service.catalog, service.queue)


def person_of(visitor: Changer) -> Visitor:
    """The visitor, who has signed in: API tokens change nothing here."""
    visitor.need_person()
    return visitor


OfTeam = Annotated[Team, Depends(team_of)]
Admin = Annotated[Visitor, Depends(person_of)]


@router.get("")
@admits("admin", READS)
def team(by: Someone, team: OfTeam) -> TeamView:
    """All people, API tokens and datasets."""
    return team.view(by)


@router.post("/people")
@admits("admin", CHANGES, max_body=WORDS)
def invite(given: NewPerson, by: Admin, team: OfTeam) -> Invitation:
    """Add a person; the response has the token of their sign-in link."""
    return team.invite(by, given)


@router.post("/people/{person_id}/invite")
@admits("admin", CHANGES)
def invite_again(person_id: RowId, by: Admin, team: OfTeam) -> Invitation:
    """Make a new sign-in link of a person."""
    return team.invite_again(by, person_id)


@router.put("/people/{person_id}", status_code=204)
@admits("admin", CHANGES, max_body=WORDS)
def set_rights(person_id: RowId, given: Rights, by: Admin, team: OfTeam) -> None:
    """Change a person's role and datasets."""
    team.set_rights(by, person_id, given)


@router.post("/people/{person_id}/disable", status_code=204)
@admits("admin", CHANGES)
def disable(person_id: RowId, by: Admin, team: OfTeam) -> None:
    """Sign a person out everywhere, and revoke their link and tokens."""
    team.disable(by, person_id)


@router.post("/people/{person_id}/enable", status_code=204)
@admits("admin", CHANGES)
def enable(person_id: RowId, by: Admin, team: OfTeam) -> None:
    """Let a disabled person sign in again."""
    team.enable(by, person_id)


@router.post("/people/{person_id}/assign")
@admits("admin", CHANGES, max_body=WORDS)
def assign(person_id: RowId, given: Assignment, by: Admin, team: OfTeam) -> Assigned:
    """Keep open tasks for a person."""
    return team.assign(by, person_id, given)


@router.post("/people/{person_id}/take-back")
@admits("admin", CHANGES, max_body=WORDS)
def take_back(person_id: RowId, given: Dataset, by: Admin, team: OfTeam) -> Assigned:
    """Let everybody take the open tasks of a dataset that are kept for a person."""
    return team.take_back(by, person_id, given.dataset)


@router.post("/tokens")
@admits("admin", CHANGES, max_body=WORDS)
def make_token(given: NewToken, by: Admin, team: OfTeam) -> MadeToken:
    """Make an API token; the response has its secret."""
    return team.make_token(by, given)


@router.post("/tokens/{token_id}/revoke", status_code=204)
@admits("admin", CHANGES)
def revoke_token(token_id: RowId, by: Admin, team: OfTeam) -> None:
    """Revoke an API token."""
    team.revoke_token(by, token_id)


@router.get("/audit")
@admits("admin", READS)
def audit(team: OfTeam) -> list[AuditView]:
    """The latest entries of the audit log, newest first."""
    return team.audit()
