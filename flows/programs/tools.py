"""What programs work with on images of a dataset: masks, labels, a CLIP, and the plug-ins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.core.categories import CategoryList
from engine.core.rle import RLE, encode
from engine.programs.language import Program
from engine.programs.plug_ins import (
    Repaint,
    answers_of,
    endpoint_repaint,
    lists_of,
    local_repaint,
)
from engine.programs.values import Thing, Tools
from engine.semantics.chat import Chat, Endpoint
from flows.encoders.trained import used_clip
from flows.labels.current import labels_of
from flows.workspace.endpoint import IN_PROCESS_PAINTER, chat_of, has_chat
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset

LEAST_PROBABILITY = 0.5
"""From which a CLIP says that an object is what a text says."""


@dataclass(frozen=True, kw_only=True)
class ProgramModels:
    """The models that a run uses; each may be missing."""

    clip: Any = None
    """`flows.encoders.trained.UsedClip`."""
    chat: Chat | None = None
    repaint: Repaint | None = None
    painter: str = ""

    def to_config(self) -> dict[str, str | None]:
        """What a run keeps of them."""
        return {
            "clip": None if self.clip is None else self.clip.adapted.version,
            "language_model": None if self.chat is None else self.chat.name,
            "painter": self.painter or None,
        }


def models_for(
    workspace: Workspace, dataset: Dataset, program: Program, encoder: str | None
) -> ProgramModels:
    """Load the models that a program needs and the settings name.

    Raises:
        EncoderError: there is no such encoder.
        ChatError: a model in this process cannot be loaded.
        ProgramError: the same of one that paints.
    """
    asks = program.modules & {"Vqa", "List", "Classify"}
    chat = chat_of(workspace) if asks and has_chat(workspace) else None
    clip = None if encoder is None else used_clip(workspace, dataset, encoder)
    paints = "Replace" in program.modules
    repaint, painter = _painter(workspace) if paints else (None, "")
    return ProgramModels(clip=clip, chat=chat, repaint=repaint, painter=painter)


def _painter(workspace: Workspace) -> tuple[Repaint | None, str]:
    settings = workspace.settings
    url, model = settings.paint_url, settings.paint_model
    if not url or not model:
        return None, ""
    if url == IN_PROCESS_PAINTER:
        return local_repaint(model, workspace.device()), f"{model}@diffusers"
    key = settings.paint_key.get_secret_value() if settings.paint_key else ""
    endpoint = Endpoint(url=url, model=model, key=key)
    return endpoint_repaint(endpoint), f"{model}@{endpoint.host}"


class ThingsOfDataset:
    """The objects of images: their current masks that are not rejected, with labels."""

    def __init__(self, workspace: Workspace, dataset: Dataset) -> None:
        self._workspace, self._dataset = workspace, dataset
        self.categories = workspace.catalog.categories.current(dataset.id).categories
        self._rejected = workspace.catalog.verdicts.rejected_mask_ids(dataset.id)

    def of(self, image_ids: Sequence[int]) -> dict[int, list[Thing]]:
        """Return the objects of images, the largest first."""
        masks = [
            mask
            for mask in self._workspace.masks.masks(
                dataset=self._dataset.name, image_ids=list(image_ids), current_only=True
            )
            if mask.area and mask.mask_id not in self._rejected
        ]
        labels = labels_of(self._workspace, masks)
        found: dict[int, list[Thing]] = {image_id: [] for image_id in image_ids}
        for mask in sorted(masks, key=lambda one: (-one.area, one.mask_id)):
            label = labels.get(mask.mask_id)
            names = () if label is None else names_of(self.categories, label.category_id)
            thing = Thing(
                mask.box_xyxy, mask.rle, mask.mask_id, names, shown=names[0] if names else ""
            )
            found[mask.image_id].append(thing)
        return found


def names_of(categories: CategoryList, category_id: int | None) -> tuple[str, ...]:
    """Return a category's name and the names above it; a mask of no category has the name `none of
    these`, so that no CLIP names it."""
    if category_id is None:
        return ("none of these",)
    found: list[str] = []
    while (category := categories.get(category_id)) is not None:
        found.append(category.name)
        category_id = category.parent
    return tuple(found)


class ClipMatcher:
    """Compares the objects of a run's images with words, by a CLIP (`engine.programs.values`)."""

    def __init__(
        self, clip: Any, images: Mapping[str, np.ndarray], categories: Sequence[str]
    ) -> None:
        self._encoder, self._images, self._names = clip.adapted, images, list(categories)
        self._vectors: dict[tuple[str, Any], np.ndarray] = {}

    def scores(self, slot: str, things: Sequence[Thing], texts: Sequence[str]) -> np.ndarray:
        """See Matcher: cosines."""
        return np.asarray(self._vectors_of(slot, things) @ self._texts(texts).T)

    def are(self, slot: str, things: Sequence[Thing], text: str) -> np.ndarray:
        """See Matcher: whether the text is the best answer among the categories' names and other
        things, with at least LEAST_PROBABILITY."""
        from scipy.special import softmax

        from engine.semantics.words import NOTHING_ELSE

        others = [name for name in self._names if name.casefold() != text.casefold()]
        odds = self._vectors_of(slot, things) @ self._texts([text, *others, *NOTHING_ELSE]).T
        found = softmax(self._encoder.logit_scale * odds, axis=1)[:, 0]
        return np.asarray(found >= LEAST_PROBABILITY)

    def _texts(self, texts: Sequence[str]) -> np.ndarray:
        from engine.semantics.texts import text_vectors

        return text_vectors(self._encoder, dict(enumerate(texts)))

    def _vectors_of(self, slot: str, things: Sequence[Thing]) -> np.ndarray:
        keys = [(slot, thing.mask_id or thing.box_xyxy) for thing in things]
        new = dict(zip(keys, things, strict=True))
        missing = [key for key in new if key not in self._vectors]
        if missing:
            image = self._images[slot]
            rles = [new[key].rle or _box_mask(image, new[key]) for key in missing]
            vectors = self._encoder.encode(image, rles).astype(np.float32)
            self._vectors |= dict(zip(missing, vectors, strict=True))
        return np.stack([self._vectors[key] for key in keys])


def _box_mask(image_HWC: np.ndarray, thing: Thing) -> RLE:
    x0, y0, x1, y1 = thing.box_xyxy
    inside = np.zeros(image_HWC.shape[:2], bool)
    inside[max(y0, 0) : y1, max(x0, 0) : x1] = True
    return encode(inside)


def tools_for(
    models: ProgramModels,
    images: Mapping[str, np.ndarray],
    things: Mapping[str, Sequence[Thing]],
    categories: CategoryList,
) -> Tools:
    """Return the tools of a program on an image or a pair, by input."""
    names = tuple(categories.names.values())
    found = Tools(things=things, known_names=names, repaint=models.repaint)
    if models.clip is not None:
        found = replace(found, matcher=ClipMatcher(models.clip, images, names))
    if models.chat is not None:
        found = replace(found, answer=answers_of(models.chat), list_names=lists_of(models.chat))
    return found
