"""Command lines of our Python processes, which import nothing from a workspace's folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module; `-P` keeps the current folder out of its imports."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(root: Path, **more: str) -> dict[str, str]:
    """Environment of a process that works in the workspace: this one's, the workspace's folder, and
    the equivalent of `-P` for Python processes that it starts."""
    return {**os.environ, "DATAENGINE_WORKSPACE": str(root), "PYTHONSAFEPATH": "1", **more}
