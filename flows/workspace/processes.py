"""Python processes of our own, which take nothing in a workspace's folder for a module."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module; `-P` keeps the folder it runs in out of its imports."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(root: Path, **more: str) -> dict[str, str]:
    """For a process that works in the workspace: this one's, its folder, and the same as `-P` for
    whatever Python that process starts in turn."""
    return {**os.environ, "DATAENGINE_WORKSPACE": str(root), "PYTHONSAFEPATH": "1", **more}
