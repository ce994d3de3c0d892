"""Requests and responses about guidelines; see `schemas`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from engine.annotation.schemas import PROSE, Id, Schema

MAX_MARKDOWN = 100_000
"""Characters of guidelines."""

Markdown = Annotated[str, Field(min_length=1, max_length=MAX_MARKDOWN, pattern=PROSE)]


class Guidelines(Schema):
    """Guidelines for annotators, as Markdown and as HTML that is safe to show. `version` 0: the
    usual ones, since the dataset has none of its own; `author`: who wrote this version, and when
    (`at`)."""

    markdown: str
    html: str
    dataset: str | None = None
    version: int = 0
    author: str | None = None
    at: datetime | None = None


class GuidelinesIn(Schema):
    """New guidelines of a dataset, written from version `expected_version`; 0: the usual ones."""

    dataset: Id
    markdown: Markdown
    expected_version: Annotated[int, Field(ge=0, lt=2**31)]


class PreviewIn(Schema):
    """A text that is being written."""

    dataset: Id
    markdown: Annotated[str, Field(max_length=MAX_MARKDOWN)]


class Preview(Schema):
    """The text as HTML that is safe to show."""

    html: str


class GuidelinesVersionView(Schema):
    """A version of guidelines: who wrote it, and when."""

    version: int
    author: str | None
    at: datetime
    markdown: str


class PictureView(Schema):
    """A picture of a dataset's guidelines: in Markdown `![text](NAME)`."""

    name: str
    address: str
