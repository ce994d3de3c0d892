"""The HTTP interface of settings that may be changed on the page, for admins; see `routes`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request

from engine.annotation.actions import Choices
from engine.annotation.admission import GuardedRoute, admits
from engine.annotation.routes import CHANGES, READS, WORDS
from engine.annotation.setting_schemas import SettingIn, SettingView
from engine.annotation.team_routes import Admin

router = APIRouter(route_class=GuardedRoute)
Name = Annotated[str, Path(pattern=r"^[a-z_.]{1,100}$")]


def choices_of(request: Request) -> Choices:
    """The app's settings."""
    found: Choices = request.app.state.choices
    return found


OfPage = Annotated[Choices, Depends(choices_of)]


@router.get("")
@admits("admin", READS)
def settings(choices: OfPage) -> list[SettingView]:
    """The settings that may be changed here."""
    return choices.all()


@router.put("/{name}", status_code=204)
@admits("admin", CHANGES, max_body=WORDS)
def change(name: Name, given: SettingIn, by: Admin, choices: OfPage) -> None:
    """Change a setting."""
    choices.change(by.annotator, name, given.value)
