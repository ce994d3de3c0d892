"""Debian packages that some tests need and that pip lacks."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def files_of(package: str, folder: Path, pattern: str) -> list[Path]:
    """The matching files of a package, which is installed if missing and permitted (as root, with
    apt-get); otherwise the test is skipped."""
    found = list(folder.glob(pattern))
    if not found and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-qq"], ["install", "-qy", package]):
            subprocess.run(
                ["apt-get", "-o", "DPkg::Lock::Timeout=120", *command],
                env=quiet,
                check=False,
                timeout=400,
                capture_output=True,
            )
        found = list(folder.glob(pattern))
    if not found:
        pytest.skip(f"{package} is not here and cannot be installed: apt-get install {package}")
    return found
