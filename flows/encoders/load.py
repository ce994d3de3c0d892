"""Loads encoders of masks, once in a process."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from flows.encoders.towers import towers_folder
from flows.workspace.workspace import Workspace

if TYPE_CHECKING:
    from engine.semantics.encoders import MaskEncoder


def mask_encoder(workspace: Workspace, name: str) -> MaskEncoder:
    """Return an encoder, loaded once in a process.

    Args:
        workspace: whose device and trained towers are used.
        name: `lite`, `imagenet`, `clip:NAME`, or `clip:VERSION` of trained towers.

    Raises:
        EncoderError: there is no such encoder, or what it needs is missing.
        UnknownTowersError: the workspace has no such towers.
    """
    return _load_encoder(name, workspace.device(), towers_folder(workspace, name))


@lru_cache(maxsize=2)
def _load_encoder(name: str, device: str, folder: Path | None) -> MaskEncoder:
    from engine.semantics.encoders import load_encoder

    return load_encoder(name, device, folder)
