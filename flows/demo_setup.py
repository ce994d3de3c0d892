"""The demo's workspace, made before anything heavy is imported."""

from __future__ import annotations

import shutil
from pathlib import Path

from flows.settings import FILE_NAME, create_workspace

MARKER = ".dataengine-demo"

TOML = """# The demo's workspace; made anew by `make demo`.
held_out = 0.2
[generator]
points_per_side = 16
[annotator]
max_objects = 20
[train]
steps = 60
images_per_step = 4
refinements = 3
learning_rate = 3e-4
replay = 0.1
evaluation_images = 18
evaluation_masks = 10
"""


class NotTheDemoError(Exception):
    """The folder is not an earlier demo, so it is not deleted. Move it away."""


def prepare_demo(root: Path) -> Path:
    """An empty demo workspace at `root`; an earlier demo there is deleted.

    Raises:
        NotTheDemoError: something else is in the way.
    """
    if root.exists():
        if not (root / MARKER).exists() and any(root.iterdir()):
            raise NotTheDemoError(f"{root} is not an earlier demo; move it away")
        shutil.rmtree(root)
    root.mkdir(parents=True)
    (root / MARKER).touch()
    (root / FILE_NAME).write_text(TOML)
    return create_workspace(root)
