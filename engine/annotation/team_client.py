"""The part of the client that manages people, for admins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import httpx
from pydantic import TypeAdapter

from engine.annotation.team_schemas import (
    Assigned,
    AuditView,
    Invitation,
    MadeToken,
    TeamView,
)


class TeamClient:
    """Reached as `client.team`; methods raise as those of the client."""

    def __init__(self, send: Callable[..., httpx.Response]) -> None:
        self._send = send

    def view(self) -> TeamView:
        """All people, API tokens and datasets."""
        return TeamView.model_validate_json(self._send("GET", "/api/team").content)

    def invite(
        self, name: str, role: str = "annotator", datasets: Sequence[str] | None = None
    ) -> Invitation:
        """Add a person, who sees these datasets or all; returns the token of their link."""
        body = {"name": name, "role": role, "datasets": datasets}
        return Invitation.model_validate_json(self._send("POST", "/api/team/people", body).content)

    def invite_again(self, person_id: int) -> Invitation:
        """Make a new sign-in link of a person; an earlier one stops working."""
        answer = self._send("POST", f"/api/team/people/{person_id}/invite")
        return Invitation.model_validate_json(answer.content)

    def set_rights(self, person_id: int, role: str, datasets: Sequence[str] | None = None) -> None:
        """Change a person's role and datasets; None: all."""
        body: dict[str, Any] = {"role": role, "datasets": datasets}
        self._send("PUT", f"/api/team/people/{person_id}", body)

    def disable(self, person_id: int) -> None:
        """Sign a person out everywhere, and revoke their link and tokens."""
        self._send("POST", f"/api/team/people/{person_id}/disable")

    def enable(self, person_id: int) -> None:
        """Let a disabled person sign in again."""
        self._send("POST", f"/api/team/people/{person_id}/enable")

    def assign(
        self,
        person_id: int,
        dataset: str,
        *,
        images: int | None = None,
        share: float | None = None,
        image_ids: Sequence[int] | None = None,
    ) -> int:
        """Keep open tasks for a person: a number or a share of those that wait, or those on some
        images; returns how many."""
        body = {"dataset": dataset, "images": images, "share": share, "image_ids": image_ids}
        answer = self._send("POST", f"/api/team/people/{person_id}/assign", body)
        return Assigned.model_validate_json(answer.content).tasks

    def take_back(self, person_id: int, dataset: str) -> int:
        """Let everybody take a dataset's tasks that are kept for a person; returns how many."""
        answer = self._send("POST", f"/api/team/people/{person_id}/take-back", {"dataset": dataset})
        return Assigned.model_validate_json(answer.content).tasks

    def make_token(self, person_id: int, name: str, days: int) -> MadeToken:
        """Make an API token of a person."""
        body = {"person_id": person_id, "name": name, "days": days}
        return MadeToken.model_validate_json(self._send("POST", "/api/team/tokens", body).content)

    def revoke_token(self, token_id: int) -> None:
        """Revoke an API token."""
        self._send("POST", f"/api/team/tokens/{token_id}/revoke")

    def audit(self) -> list[AuditView]:
        """The latest entries of the audit log, newest first."""
        answer = self._send("GET", "/api/team/audit")
        return TypeAdapter(list[AuditView]).validate_json(answer.content)
