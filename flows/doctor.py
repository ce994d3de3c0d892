"""Checks of a workspace; each says what is wrong and what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.settings import load_settings
from flows.wiring import Workspace

MIN_FREE = 1 << 30
"""Bytes of disk below which something is bound to fail."""


def check_workspace(root: Path) -> list[dict[str, Any]]:
    """Run every check; a failing one does not keep the others from running."""
    results: list[dict[str, Any]] = []

    def check(name: str, look: Callable[[], str]) -> None:
        try:
            results.append({"name": name, "ok": True, "detail": look()})
        except Exception as error:  # whatever is wrong is the finding
            results.append(
                {"name": name, "ok": False, "detail": f"{type(error).__name__}: {error}"}
            )

    check("settings", lambda: str(load_settings(root).root))
    if not results[0]["ok"]:
        return results
    workspace = Workspace(load_settings(root))
    check("catalog", lambda: f"revision {workspace.catalog.migrate()}")
    check("object store", lambda: _store(workspace))
    check("mask table", lambda: f"version {workspace.masks.version()}")
    check("current model", lambda: _model(workspace))
    check("disk", lambda: _disk(root))
    return results


def _store(workspace: Workspace) -> str:
    key = "doctor/probe"
    workspace.objects.put(key, b"ok")
    if workspace.objects.get(key) != b"ok":
        raise OSError("what was written came back different")
    workspace.objects.delete(key)
    return workspace.settings.store_uri


def _model(workspace: Workspace) -> str:
    workspace.prepare()
    segmenter = workspace.segmenter()
    return f"{segmenter.version} on {workspace.device()}"


def _disk(root: Path) -> str:
    free = shutil.disk_usage(root).free
    if free < MIN_FREE:
        raise OSError(f"{free >> 20} MiB free; at least {MIN_FREE >> 20} MiB are needed")
    return f"{free >> 30} GiB free"
