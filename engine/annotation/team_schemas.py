"""Requests and responses of the page Team; see `schemas`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from engine.annotation.browse_schemas import MAX_CHOSEN, ImageId
from engine.annotation.schemas import PLAIN, Id, Schema

Role = Literal["annotator", "reviewer", "admin"]
MAX_DAYS = 366
"""Days that an API token is valid."""


class Rights(Schema):
    """What a person may do. `datasets`: names of those they see; None: all."""

    role: Role
    datasets: Annotated[list[Id], Field(max_length=1_000)] | None = None


class NewPerson(Rights):
    """A person to invite."""

    name: Annotated[str, Field(min_length=1, max_length=200)]


class PersonView(Schema):
    """A person. `last_seen`: their last submission; `reserved`: open tasks that are
    kept for them."""

    id: int
    name: str
    role: Role
    datasets: list[str] | None
    state: Literal["active", "disabled"]
    is_signed_in: bool
    is_self: bool
    last_seen: datetime | None
    reserved: int


class Invitation(Schema):
    """The token of a person's sign-in link, shown this once: `/sign-in#TOKEN`."""

    name: str
    token: str
    expires_at: datetime


class NewToken(Schema):
    """An API token to make. `name`: what it is for."""

    person_id: Annotated[int, Field(ge=1, lt=2**31)]
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=PLAIN)]
    days: Annotated[int, Field(ge=1, le=MAX_DAYS)]


class TokenView(Schema):
    """An API token, without its secret. `used_at`: its last use."""

    id: int
    person: str
    name: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    is_expired: bool


class MadeToken(Schema):
    """A new API token: `Authorization: Bearer TOKEN`, shown this once."""

    token: str
    view: TokenView


class Assignment(Schema):
    """Tasks to keep for a person: of these images, or a number of those that wait in the queue, or
    a share of them. Exactly one of the three is given."""

    dataset: Id
    image_ids: Annotated[list[ImageId], Field(min_length=1, max_length=MAX_CHOSEN)] | None = None
    images: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    share: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _check_one(self) -> Assignment:
        if [self.image_ids, self.images, self.share].count(None) != 2:
            raise ValueError("give one of image_ids, images and share")
        return self


class Dataset(Schema):
    """A dataset, by name."""

    dataset: Id


class Assigned(Schema):
    """How many tasks were assigned or taken back."""

    tasks: int


class TeamView(Schema):
    """People by name, API tokens, the newest first, and the datasets there are."""

    people: list[PersonView]
    tokens: list[TokenView]
    datasets: list[str]


class AuditView(Schema):
    """An entry of the audit log: who did what to which subject, and when."""

    at: datetime
    who: str | None
    action: str
    subject: str
    detail: dict[str, Any]
