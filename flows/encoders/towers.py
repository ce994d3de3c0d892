"""Files of CLIPs whose towers were trained, under the names `clip:VERSION`."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from engine.core.errors import DataEngineError
from flows.workspace.workspace import Workspace
from storage import layout
from storage.catalog import NotFoundError

if TYPE_CHECKING:
    from engine.semantics.clip import ClipEncoder

TOWERS = "towers-"
"""Beginning of the versions."""
NAMES = f"clip:{TOWERS}"
"""Beginning of the encoders' names."""


class UnknownTowersError(DataEngineError):
    """The workspace has no trained CLIP of that name."""


def towers_folder(workspace: Workspace, name: str) -> Path | None:
    """Return the local folder of trained towers by their encoder's name, fetched once; None if the
    name is of another encoder.

    Raises:
        UnknownTowersError: there are no such towers.
        StorageError: the files cannot be fetched.
    """
    if not name.startswith(NAMES):
        return None
    version = name.removeprefix("clip:").partition("@")[0]
    folder = workspace.cache / "clips" / version
    if folder.is_dir():
        return folder
    try:
        stored = workspace.catalog.suggesters.get(version)
    except NotFoundError as error:
        raise UnknownTowersError(
            f"{name}: this workspace has no such towers; `dataengine labels status` shows those in "
            "use"
        ) from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dataengine-", dir=folder.parent) as fresh:
        whole = Path(fresh) / "whole"
        for info in workspace.objects.list(layout.inside(stored.key)):
            if fields := layout.TOWERS.parse(info.key):
                workspace.objects.fetch(info.key, whole / fields["file"])
        with contextlib.suppress(OSError):  # another process was faster
            whole.replace(folder)
    return folder


def store_towers(workspace: Workspace, encoder: ClipEncoder, dataset: str, version: str) -> str:
    """Write a CLIP's files to the object store; returns the key of their folder."""
    from engine.semantics.clip import CONFIG_FILE, WEIGHTS_FILE, save_clip

    with tempfile.TemporaryDirectory(prefix="dataengine-") as fresh:
        save_clip(encoder.model, encoder.config, Path(fresh))
        for file in (WEIGHTS_FILE, CONFIG_FILE):
            key = layout.TOWERS.key(dataset=dataset, version=version, file=file)
            workspace.objects.put_file(key, Path(fresh) / file)
    return layout.TOWERS.folder(dataset=dataset, version=version)


def is_towers(name: str) -> bool:
    """Whether an encoder's name is one of trained towers."""
    return name.startswith(NAMES)
