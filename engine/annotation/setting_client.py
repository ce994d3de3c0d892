"""The part of the client that changes settings, for admins."""

from __future__ import annotations

from collections.abc import Callable

import httpx
from pydantic import TypeAdapter

from engine.annotation.setting_schemas import SettingView, Value


class SettingClient:
    """Reached as `client.settings`; methods raise as those of the client."""

    def __init__(self, send: Callable[..., httpx.Response]) -> None:
        self._send = send

    def all(self) -> list[SettingView]:
        """The settings that may be changed while the workspace is in use."""
        answer = self._send("GET", "/api/settings")
        return TypeAdapter(list[SettingView]).validate_json(answer.content)

    def change(self, name: str, value: Value | None) -> None:
        """Change a setting; None: what dataengine.toml says holds again."""
        self._send("PUT", f"/api/settings/{name}", {"value": value})
