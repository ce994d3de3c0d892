"""The demo's workspace, created before slow imports."""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.core.errors import DataEngineError
from flows.workspace.settings import FILE_NAME, create_workspace
from storage.outputs import LIST, written_by_us

MARKER = ".dataengine-demo"
OWN = (
    *(FILE_NAME, "catalog.db", "catalog.db-shm", "catalog.db-wal", "store", "input"),
    *("report.html", "summary.json"),
)
"""Files of a demo and its commands, besides hidden files and exports."""

TOML = """# The demo's workspace; `make demo` creates it anew.
held_out = 0.2
[generator]
preset = "fast"
points_per_side = 16
crop_layers = 0
[annotator]
max_objects = 20
[train]
steps = 24
images_per_step = 4
refinements = 2
learning_rate = 3e-4
replay = 0.1
evaluation_images = 18
evaluation_masks = 10
"""


class NotTheDemoError(DataEngineError):
    """The folder is not an earlier demo, or holds other files too, so it is not deleted. The
    message says what to move away."""


def prepare_demo(root: Path) -> Path:
    """Create an empty demo workspace at `root`; an earlier demo there is deleted.

    Raises:
        NotTheDemoError: the folder holds other files.
    """
    if root.exists():
        if not (root / MARKER).exists() and any(root.iterdir()):
            raise NotTheDemoError(f"{root} is not an earlier demo; move it away")
        for path in root.iterdir():
            if path.name not in OWN and not path.name.startswith(".") and not _is_export(path):
                raise NotTheDemoError(f"{path} does not belong to the demo; move it away")
        shutil.rmtree(root)
    root.mkdir(parents=True)
    (root / MARKER).touch()
    (root / FILE_NAME).write_text(TOML)
    return create_workspace(root)


def _is_export(path: Path) -> bool:
    """Whether all files of the folder were written by a command."""
    files = {file for file in path.rglob("*") if file.name != LIST and not file.is_dir()}
    return path.is_dir() and files == written_by_us(files)
