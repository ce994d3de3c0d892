"""Requests and responses about settings that may be changed on the page; see `schemas`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from engine.annotation.schemas import Schema

Value = bool | int | float | str
Number = Annotated[float, Field(allow_inf_nan=False)]


class SettingView(Schema):
    """A setting. `value` is in use; `of_file`: what dataengine.toml says, or the default.
    `is_fixed`: a variable of the server's environment sets it, so it cannot be changed here.
    `author` and `at`: of the last change."""

    name: str
    text: str
    kind: Literal["number", "whole", "switch", "choice"]
    value: Value
    of_file: Value
    least: float | None
    most: float | None
    choices: list[str]
    is_fixed: bool
    is_changed: bool
    author: str | None
    at: datetime | None


class SettingIn(Schema):
    """A new value; null: what the file says holds again."""

    value: bool | int | Number | Annotated[str, Field(max_length=100)] | None
