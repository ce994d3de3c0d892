"""The trained CLIP of a dataset: an adapter of an encoder's vectors, or towers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from engine.semantics.adapter import AdaptedEncoder, Adapter, Tower
from engine.semantics.clip import ClipEncoder
from engine.semantics.encoders import CLIP, EncoderError
from engine.semantics.texts import TextEncoder
from flows.encoders.load import mask_encoder
from flows.encoders.towers import is_towers
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset, LearnedKind, NotFoundError
from storage.catalog.suggesters import StoredSuggester


@dataclass(frozen=True)
class UsedClip:
    """A CLIP as a dataset uses it.

    Attributes:
        name: of the encoder whose vectors are read: the given one, or that of trained towers.
        encoder: it.
        stored: the trained version in use; None: the CLIP is used as it was given.
        adapter: of that version, if it is one.
    """

    name: str
    encoder: ClipEncoder
    stored: StoredSuggester | None = None
    adapter: Adapter | None = None

    @property
    def version(self) -> str:
        """The trained version; empty without one."""
        return self.stored.version if self.stored else ""

    @property
    def has_learned(self) -> bool:
        """Whether labelled masks of this dataset taught it: those of kept-back images did not."""
        return self.adapter is not None or is_towers(self.name)

    @property
    def tower(self) -> Tower | None:
        """What changes vectors of masks before they are compared with texts."""
        return self.adapter.masks if self.adapter else None

    @property
    def adapted(self) -> AdaptedEncoder | ClipEncoder:
        """An encoder of texts and of masks, with the adapter."""
        return AdaptedEncoder(self.encoder, self.adapter) if self.adapter else self.encoder

    @property
    def texts(self) -> TextEncoder:
        """The encoder of texts."""
        return self.adapted

    def mask_vectors(self, vectors_ND: np.ndarray) -> np.ndarray:
        """Return stored vectors as they compare with texts, float16 (N, D)."""
        return vectors_ND if self.tower is None else self.tower(vectors_ND).astype(np.float16)


def clip_of(workspace: Workspace, name: str) -> ClipEncoder:
    """Return a CLIP by its name.

    Raises:
        EncoderError: the encoder reads no texts, or cannot be loaded.
    """
    if not name.startswith(CLIP):
        raise EncoderError(
            f"{name} reads no texts: name a CLIP, as --encoder clip:ViT-B-32/laion2b_s34b_b79k "
            "(the extra `clip`; docs/labels.md)"
        )
    return cast(ClipEncoder, mask_encoder(workspace, name))


def used_clip(workspace: Workspace, dataset: Dataset, name: str) -> UsedClip:
    """Return a CLIP with what `labels train` made of it for the dataset, if that is in use.

    Raises:
        EncoderError: as `clip_of`.
        StorageError: the trained version cannot be fetched.
        AdapterError: its file is damaged.
    """
    encoder = clip_of(workspace, name)
    stored = workspace.catalog.suggesters.current(dataset.id, LearnedKind.CLIP)
    if stored is None or stored.encoder != encoder.version:
        return UsedClip(name, encoder)
    return with_version(workspace, name, stored)


def with_version(workspace: Workspace, name: str, stored: StoredSuggester) -> UsedClip:
    """Return the CLIP of that name with a trained version; errors as in `used_clip`."""
    if stored.card["method"] == "towers":
        towers = f"{CLIP}{stored.version}"
        return UsedClip(towers, clip_of(workspace, towers), stored)
    path = workspace.cache / "clips" / f"{stored.version}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        workspace.objects.fetch(stored.key, path)
    return UsedClip(name, clip_of(workspace, name), stored, Adapter.load(path))


def trained_status(workspace: Workspace, dataset: Dataset) -> dict[str, Any] | None:
    """Return the trained CLIP in use with its scores, for `labels status`."""
    stored = workspace.catalog.suggesters.current(dataset.id, LearnedKind.CLIP)
    if stored is None:
        return None
    card = stored.card
    return {
        "version": stored.version,
        "encoder": card["name"],
        "method": card["method"],
        **card["scores"],
    }


def roll_back_clip(workspace: Workspace, dataset: Dataset) -> str | None:
    """Withdraw the trained CLIP in use; returns the version in use now, None if it is the CLIP as
    it was given.

    Raises:
        NotFoundError: no trained CLIP is in use.
    """
    stored = workspace.catalog.suggesters.current(dataset.id, LearnedKind.CLIP)
    if stored is None:
        raise NotFoundError(f"{dataset.name} has no trained CLIP")
    found = workspace.catalog.suggesters.roll_back(stored.version)
    return found.version if found else None
