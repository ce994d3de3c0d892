"""Suggested categories of a dataset's masks, from the labels that people gave.

N = masks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from prefect import flow

from engine.annotation.browse_names import SuggestedCategories
from engine.core.batches import batches
from engine.core.categories import NONE_OF_THESE
from engine.semantics.encoders import CLIP
from engine.semantics.suggesting import (
    Suggester,
    SuggesterCard,
    SuggesterError,
    Suggestions,
)
from flows.encoders.load import mask_encoder
from flows.encoders.trained import UsedClip, used_clip
from flows.semantics.known_labels import PAGE, KnownLabels, known_labels
from flows.semantics.learning import Wanted, load_suggester, refreshed
from flows.semantics.sources import LearnFrom
from flows.semantics.vectors import make_vectors, read_vectors, vector_runs
from flows.workspace.run_lock import named_lock
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import Dataset, LabelSource, NewLabel, NotFoundError
from storage.vectors import MaskVectors


@dataclass(frozen=True, slots=True)
class SuggestedMasks:
    """Masks with the categories suggested for them.

    Attributes:
        mask_ids: Arrow string array (N,).
        image_ids: int64 (N,).
        suggested: categories and probabilities.
    """

    mask_ids: pa.StringArray
    image_ids: np.ndarray
    suggested: Suggestions


@flow(name="suggest-labels")
def suggest_labels(
    workspace: str,
    dataset: str,
    encoder: str = "lite",
    precision: float = 0.95,
    confirm: bool = False,
    by: str = "labels",
) -> dict[str, Any]:
    """Prefect flow: make missing vectors, learn a suggester unless nothing is new, and suggest
    categories for the masks that people have not labelled.

    Args:
        encoder: whose vectors are read.
        by: what is learned from: people's `labels`; `texts`, the categories' names and
            descriptions, by a CLIP; `best`, which of both has the lower log loss on labels; or
            `trained`: texts, by the CLIP that `train_clip` made of this one.
        precision: share of confident suggestions that is to be right.
        confirm: label the masks whose suggestion is confident; these labels have the source
            `model` and give way to people's.

    Raises:
        TooFewLabelsError: there are not enough labels to learn from.
        SuggesterError: texts are asked for, and the encoder is no CLIP or the list has fewer than
            two categories.
    """
    learn_from = LearnFrom(by)
    opened = open_workspace(workspace)
    row = opened.catalog.datasets.get(dataset)
    if learn_from != LearnFrom.LABELS and not encoder.startswith(CLIP):
        raise SuggesterError(
            f"{encoder} reads no texts: suggest with --encoder clip:NAME, or by labels"
        )
    clip = _trained(opened, row, encoder) if learn_from == LearnFrom.TRAINED else None
    name, encoder = encoder, clip.name if clip else encoder
    made = make_vectors(workspace, dataset, encoder)
    version = mask_encoder(opened, encoder).version
    with named_lock(opened, f"suggest/{row.id}"):
        blocks, known = read_vectors(opened, row, version), known_labels(opened, row)
        wanted = Wanted(opened, row, encoder, version, precision, learn_from, name, clip)
        stored, reason = refreshed(wanted, blocks, known)
        suggester = load_suggester(opened, stored)
        found = suggest_masks(opened, row, suggester, blocks, known)
        is_confident = found.suggested.probability_N >= suggester.card.confident
        confirmed = _confirm(opened, row, suggester, found, is_confident) if confirm else 0
    names = opened.catalog.categories.current(row.id).categories.names
    return {
        "dataset": row.name,
        "reason": reason,
        "vectors_made": made["masks"],
        **_figures(suggester.card),
        "masks": len(is_confident),
        "confident": int(is_confident.sum()),
        "confident_by_category": _counts(found.suggested.category_N[is_confident], names),
        "confirmed": confirmed,
    }


def _trained(workspace: Workspace, dataset: Dataset, encoder: str) -> UsedClip:
    """Return the trained CLIP.

    Raises:
        SuggesterError: none is in use that was made of this encoder.
    """
    clip = used_clip(workspace, dataset, encoder)
    if clip.stored is None:
        raise SuggesterError(
            f"no CLIP trained from {encoder} is in use for {dataset.name}: run `dataengine labels "
            f"train --dataset {dataset.name} --encoder {encoder}`"
        )
    return clip


def _figures(card: SuggesterCard) -> dict[str, Any]:
    """Return what a card says of its suggester, for the result of a run."""
    return {
        "suggester": card.version,
        "encoder": card.encoder,
        "method": card.method,
        **{name: card.data.get(name, 0) for name in ("labels", "categories", "images")},
        **{name: card.scores.get(name) for name in ("accuracy", "log_loss", "compared")},
        "precision": card.precision,
        "least_probability": card.confident if card.confident <= 1 else None,
    }


def _counts(category_N: np.ndarray, names: dict[int, str]) -> dict[str, int]:
    """Return the number of masks by category name."""
    counts = Counter(category_N.tolist())
    return {names.get(category, NONE_OF_THESE): count for category, count in counts.items()}


def suggest_masks(
    workspace: Workspace,
    dataset: Dataset,
    suggester: Suggester,
    blocks: Sequence[MaskVectors],
    known: KnownLabels | None = None,
) -> SuggestedMasks:
    """Suggest categories for the dataset's current masks, with `known` only for those that people
    have not labelled."""
    current = pa.chunked_array(
        [
            batch["mask_id"]
            for batch in workspace.masks.scan(
                dataset=dataset.name, columns=["mask_id"], current_only=True
            )
        ],
        pa.string(),
    )
    by_people = pa.array([] if known is None else list(known.by_people()), pa.string())
    ids, images, found = [], [], []
    for block in blocks:
        wanted = pc.and_(
            pc.is_in(block.mask_ids, current), pc.invert(pc.is_in(block.mask_ids, by_people))
        )
        rows = np.flatnonzero(wanted.to_numpy(zero_copy_only=False))
        ids.append(block.mask_ids.take(pa.array(rows)))
        images.append(block.image_ids[rows])
        found.append(suggester.suggest(block.vectors_ND[rows]))
    return SuggestedMasks(
        pa.concat_arrays(ids) if ids else pa.array([], pa.string()),
        np.concatenate([np.zeros(0, np.int64), *images]),
        Suggestions(
            np.concatenate([np.zeros(0, np.int64), *(one.category_N for one in found)]),
            np.concatenate([np.zeros(0, np.float32), *(one.probability_N for one in found)]),
        ),
    )


def newer_suggestions(
    workspace: Workspace, dataset_id: int, key: str | None
) -> SuggestedCategories | None:
    """Return suggestions by the suggester in use for all current masks with vectors; None if there
    is none, or if nothing has changed since those of `key`."""
    stored = workspace.catalog.suggesters.current(dataset_id)
    if stored is None:
        return None
    dataset = workspace.catalog.datasets.get_by_id(dataset_id)
    runs = vector_runs(workspace, dataset, stored.encoder)
    vectors = sum(workspace.catalog.shards.totals(run.id).masks for run in runs)
    state = f"{stored.version}/{vectors}/{workspace.masks.version()}"
    if state == key:
        return None
    blocks = read_vectors(workspace, dataset, stored.encoder)
    found = suggest_masks(workspace, dataset, load_suggester(workspace, stored), blocks)
    said = found.suggested
    return SuggestedCategories(
        state, found.mask_ids, found.image_ids, said.category_N, said.probability_N
    )


def roll_back_suggester(workspace: Workspace, dataset: Dataset) -> str:
    """Withdraw the suggester in use; returns the version that was in use before.

    Raises:
        NotFoundError: there is none.
    """
    present = workspace.catalog.suggesters.current(dataset.id)
    before = present and workspace.catalog.suggesters.roll_back(present.version)
    if before is None:
        raise NotFoundError(f"{dataset.name} has no suggester")
    return before.version


def _confirm(
    workspace: Workspace,
    dataset: Dataset,
    suggester: Suggester,
    found: SuggestedMasks,
    chosen_N: np.ndarray,
) -> int:
    """Label the masks with a confident suggestion; returns their number."""
    return sum(
        workspace.catalog.labels.add_many(dataset.id, part)
        for part in batches(_labels(suggester, found, chosen_N), PAGE)
    )


def _labels(
    suggester: Suggester, found: SuggestedMasks, chosen_N: np.ndarray
) -> Iterator[NewLabel]:
    for row in np.flatnonzero(chosen_N).tolist():
        yield NewLabel(
            mask_id=found.mask_ids[row].as_py(),
            image_id=int(found.image_ids[row]),
            category_id=int(found.suggested.category_N[row]) or None,
            source=LabelSource.MODEL,
            model=suggester.card.version,
            score=float(found.suggested.probability_N[row]),
        )
