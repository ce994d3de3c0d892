"""Search for masks: by similarity to a mask, by a text with CLIP, or by a category's name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.core.errors import DataEngineError
from engine.semantics.encoders import CLIP
from engine.semantics.search import most_similar
from flows.encoders.load import mask_encoder
from flows.encoders.trained import used_clip
from flows.semantics.known_labels import known_labels
from flows.semantics.learning import load_suggester
from flows.semantics.suggesting import suggest_masks
from flows.semantics.vectors import read_vectors, vector_runs
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset
from storage.vectors import MaskVectors

EXTRA = 4
"""Times as many hits are searched for as are wanted: superseded masks among them are dropped."""


class FindError(DataEngineError):
    """Nothing can be searched for; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundMask:
    """A mask that was found. `score`: cosine, or probability of the category."""

    mask_id: str
    image_id: int
    score: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def find_like(
    workspace: Workspace, dataset: Dataset, mask_id: str, encoder: str, count: int
) -> list[FoundMask]:
    """Return the current masks most similar to one of the dataset, without itself.

    Raises:
        FindError: the mask has no vector.
    """
    blocks = _blocks(workspace, dataset, encoder)
    for block in blocks:
        row = pc.index(block.mask_ids, pa.scalar(mask_id)).as_py()
        if row >= 0:
            found = _nearest(workspace, dataset, blocks, block.vectors_ND[row], count + 1)
            return [one for one in found if one.mask_id != mask_id][:count]
    raise FindError(f"mask {mask_id!r} has no vector of {encoder}: {_hint(dataset, encoder)}")


def find_text(
    workspace: Workspace, dataset: Dataset, text: str, encoder: str, count: int
) -> list[FoundMask]:
    """Return the current masks that fit a text best.

    With a CLIP, or what `labels train` made of it, they are found by the text's vector; with
    another encoder, they are the masks of the category of that name: labelled, then suggested ones.

    Raises:
        FindError: the encoder reads no texts, and no category has that name.
    """
    if encoder.startswith(CLIP):
        clip = used_clip(workspace, dataset, encoder)
        blocks = [
            replace(block, vectors_ND=clip.mask_vectors(block.vectors_ND))
            for block in _blocks(workspace, dataset, clip.name)
        ]
        return _nearest(workspace, dataset, blocks, clip.texts.encode_texts([text])[0], count)
    categories = workspace.catalog.categories.current(dataset.id).categories
    category = categories.named(text)
    if category is None:
        names = ", ".join(list(categories.names.values())[:20]) or "none"
        raise FindError(
            f"{encoder} reads no texts, and no category is named {text!r} (there are: {names}); "
            "search with --encoder clip:NAME, or for one of these names"
        )
    return _of_category(workspace, dataset, category.id)[:count]


def find_on_page(
    workspace: Workspace, dataset: Dataset, words: str | None, like: str | None, count: int
) -> list[FoundMask]:
    """Return what the page Browse searches for: the masks of a category, those that fit a text if
    they have vectors of a CLIP, or those like a mask by the latest vectors.

    Raises:
        FindError: the masks have no such vectors, or no category has that name.
    """
    encoders = [run.config["name"] for run in vector_runs(workspace, dataset)]
    if like is not None:
        return find_like(workspace, dataset, like, encoders[0] if encoders else "lite", count)
    text = words or ""
    if workspace.catalog.categories.current(dataset.id).categories.named(text) is not None:
        return find_text(workspace, dataset, text, "lite", count)
    clip = next((name for name in encoders if name.startswith(CLIP)), None)
    if clip is None:
        raise FindError(
            f"no category of {dataset.name} is named {text!r}; to search for other words, run "
            f"`dataengine labels vectors --dataset {dataset.name} --encoder clip:NAME`"
        )
    return find_text(workspace, dataset, text, clip, count)


def _of_category(workspace: Workspace, dataset: Dataset, category_id: int) -> list[FoundMask]:
    """Return the current masks with a label, then those it is suggested for by probability."""
    labels, after, found = workspace.catalog.labels, 0, list[FoundMask]()
    while page := labels.of_category(dataset.id, category_id, after_id=after):
        after = page[-1].id
        for label in page:
            mask = FoundMask(mask_id=label.mask_id, image_id=label.image_id, score=label.score or 1)
            found.append(mask)
    stored = workspace.catalog.suggesters.current(dataset.id)
    if stored is not None:
        blocks = read_vectors(workspace, dataset, stored.encoder)
        known = known_labels(workspace, dataset)
        asked = suggest_masks(workspace, dataset, load_suggester(workspace, stored), blocks, known)
        score_N = asked.suggested.probability_N
        mine = np.flatnonzero(asked.suggested.category_N == category_id)
        for row in mine[np.argsort(-score_N[mine], kind="stable")].tolist():
            mask_id = asked.mask_ids[row].as_py()
            if known.category.get(mask_id) != category_id:  # else it is there, by a model
                image_id, score = int(asked.image_ids[row]), float(score_N[row])
                found.append(FoundMask(mask_id=mask_id, image_id=image_id, score=score))
    return _current(workspace, dataset, found)


def _blocks(workspace: Workspace, dataset: Dataset, encoder: str) -> list[MaskVectors]:
    blocks = read_vectors(workspace, dataset, mask_encoder(workspace, encoder).version)
    if not any(map(len, blocks)):
        raise FindError(f"no mask of {dataset.name} has a vector: {_hint(dataset, encoder)}")
    return blocks


def _hint(dataset: Dataset, encoder: str) -> str:
    return f"run `dataengine labels vectors --dataset {dataset.name} --encoder {encoder}`"


def _nearest(
    workspace: Workspace,
    dataset: Dataset,
    blocks: Sequence[MaskVectors],
    query_D: np.ndarray,
    count: int,
) -> list[FoundMask]:
    hits = most_similar((block.vectors_ND for block in blocks), query_D, EXTRA * count)
    found = [
        FoundMask(
            mask_id=blocks[hit.block].mask_ids[hit.row].as_py(),
            image_id=int(blocks[hit.block].image_ids[hit.row]),
            score=hit.score,
        )
        for hit in hits
    ]
    return _current(workspace, dataset, found)[:count]


def _current(workspace: Workspace, dataset: Dataset, found: Sequence[FoundMask]) -> list[FoundMask]:
    """Return the masks that no other mask supersedes, in their order."""
    images = sorted({one.image_id for one in found})
    current = {
        mask_id
        for batch in workspace.masks.scan(
            image_ids=images, dataset=dataset.name, columns=["mask_id"], current_only=True
        )
        for mask_id in batch["mask_id"].to_pylist()
    }
    return [one for one in found if one.mask_id in current]
