"""The page's settings: what may be changed there, and who changed what."""

from __future__ import annotations

from typing import Any

from engine.annotation.errors import RefusedError, invalid
from engine.annotation.setting_schemas import SettingView
from flows.workspace.changed_settings import (
    CHANGEABLE,
    BadSettingError,
    fixed_by_environment,
    limits_of,
    value_of,
    with_change,
)
from flows.workspace.workspace import Workspace
from storage.catalog import Annotator


class WorkspaceSettings:
    """The page's `Choices` on one workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def all(self) -> list[SettingView]:
        """All changeable settings."""
        self._workspace.look_at_changes()
        changes = self._workspace.catalog.setting_changes.latest()
        fixed = fixed_by_environment()
        found = []
        for name, text in CHANGEABLE.items():
            limits, change = limits_of(name), changes.get(name)
            found.append(
                SettingView(
                    name=name,
                    text=text,
                    kind=limits.kind,
                    value=value_of(self._workspace.settings, name),
                    of_file=value_of(self._workspace.own_settings, name),
                    least=limits.least,
                    most=limits.most,
                    choices=list(limits.choices),
                    is_fixed=name in fixed,
                    is_changed=change is not None and change.value is not None,
                    author=None if change is None else change.author,
                    at=None if change is None else change.created_at,
                )
            )
        return found

    def change(self, by: Annotator | None, name: str, value: Any) -> None:
        """Change a setting; None: what the file says holds again.

        Raises:
            RefusedError: it cannot be changed here, or not to this value.
        """
        catalog, before = self._workspace.catalog, self._workspace.settings
        try:
            former = value_of(before, name)
            if value is not None:
                value = value_of(with_change(self._workspace.own_settings, name, value), name)
        except BadSettingError as error:
            raise invalid(str(error)) from error
        if name in fixed_by_environment():
            raise RefusedError(
                409, "fixed", f"{name} is set by a DATAENGINE_* variable of the server"
            )
        author = None if by is None else by.name
        catalog.setting_changes.add(name, value, author=author)
        self._workspace.look_at_changes()
        catalog.audit.add(
            "setting",
            name,
            annotator_id=None if by is None else by.id,
            value=value_of(self._workspace.settings, name),
            former=former,
        )
