"""Suggested categories of a dataset's masks, from the labels that people gave.

N = masks.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from prefect import flow

from engine.annotation.browse_names import SuggestedCategories
from engine.core.batches import batches
from engine.evaluation.bootstrap import ByImage, paired_gain
from engine.semantics.suggesting import (
    NONE_OF_THESE,
    Labelled,
    Suggester,
    SuggesterCard,
    SuggesterError,
    Suggestions,
    TooFewLabelsError,
    learn,
)
from engine.semantics.texts import texts_suggester
from flows.semantics.descriptions import descriptions_of
from flows.semantics.vectors import make_vectors, mask_encoder, read_vectors, vector_runs
from flows.workspace.run_lock import named_lock, tracked_run
from flows.workspace.workspace import Workspace, code_version, open_workspace
from storage import layout
from storage.catalog import Dataset, LabelSource, NewLabel, NotFoundError, RunKind, Split
from storage.catalog.sessions import new_id
from storage.catalog.suggesters import StoredSuggester
from storage.vectors import MaskVectors

PEOPLES = (LabelSource.ANNOTATOR, LabelSource.IMPORTED)
"""Sources of labels that a suggester learns from."""

BY = ("labels", "texts", "best")
PREFIX = "clip:"

PAGE = 10_000
"""Labels read at once."""


@dataclass(frozen=True, slots=True)
class KnownLabels:
    """The labels of a dataset that count, of all sources.

    Attributes:
        category: category id by mask id, NONE_OF_THESE for masks of no category.
        source: source by mask id.
        last: the highest id of a label by people; 0 without any.
    """

    category: dict[str, int]
    source: dict[str, LabelSource]
    last: int

    def by_people(self) -> dict[str, int]:
        """Return the categories that people gave."""
        return {mask: self.category[mask] for mask, who in self.source.items() if who in PEOPLES}


@dataclass(frozen=True, slots=True)
class SuggestedMasks:
    """Masks without a label of people, with the categories suggested for them.

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
            descriptions, by a CLIP; or `best`, which of both has the lower log loss on labels.
        precision: share of confident suggestions that is to be right.
        confirm: label the masks whose suggestion is confident; these labels have the source
            `model` and give way to people's.

    Raises:
        TooFewLabelsError: there are not enough labels to learn from.
        SuggesterError: texts are asked for, and the encoder is no CLIP or the list has fewer than
            two categories.
    """
    if by not in BY:
        raise ValueError(f"by is {by!r}, expected one of {', '.join(BY)}")
    opened = open_workspace(workspace)
    row = opened.catalog.datasets.get(dataset)
    if by != "labels" and not encoder.startswith(PREFIX):
        raise SuggesterError(
            f"{encoder} reads no texts: suggest with --encoder clip:NAME, or by labels"
        )
    made = make_vectors(workspace, dataset, encoder)
    version = mask_encoder(opened, encoder).version
    with named_lock(opened, f"suggest/{row.id}"):
        blocks, known = read_vectors(opened, row, version), known_labels(opened, row)
        wanted = _Wanted(opened, row, encoder, version, precision, by)
        stored, reason = _refreshed(wanted, blocks, known)
        suggester = load_suggester(opened, stored)
        found = suggest_masks(opened, row, suggester, blocks, known)
        sure = found.suggested.probability_N >= suggester.card.confident
        confirmed = _confirm(opened, row, suggester, found, sure) if confirm else 0
    names = opened.catalog.categories.current(row.id).categories.names
    counts = np.unique(found.suggested.category_N[sure], return_counts=True)
    return {
        "dataset": row.name,
        "suggester": stored.version,
        "reason": reason,
        "encoder": version,
        "vectors_made": made["masks"],
        "method": stored.card["method"],
        **{name: stored.card["data"].get(name, 0) for name in ("labels", "categories", "images")},
        **{name: stored.card["scores"].get(name) for name in ("accuracy", "log_loss")},
        "compared": stored.card["scores"].get("compared"),
        "precision": precision,
        "confident": suggester.card.confident if suggester.card.confident <= 1 else None,
        "masks": len(sure),
        "sure": int(sure.sum()),
        "sure_by_category": {
            names.get(category, "none of these"): count
            for category, count in zip(counts[0].tolist(), counts[1].tolist(), strict=True)
        },
        "confirmed": confirmed,
    }


def known_labels(workspace: Workspace, dataset: Dataset) -> KnownLabels:
    """Read all labels of a dataset that count."""
    labels, row = workspace.catalog.labels, workspace.catalog.categories.current(dataset.id)
    category: dict[str, int] = {}
    source: dict[str, LabelSource] = {}
    last = 0
    for wanted in (None, *row.categories.names):
        after = 0
        while page := labels.of_category(dataset.id, wanted, after_id=after, limit=PAGE):
            after = page[-1].id
            for one in page:
                category[one.mask_id] = one.category_id or NONE_OF_THESE
                source[one.mask_id] = one.source
                if one.source in PEOPLES:
                    last = max(last, one.id)
    return KnownLabels(category, source, last)


def labelled_vectors(
    workspace: Workspace, dataset: Dataset, blocks: Sequence[MaskVectors], labels: dict[str, int]
) -> tuple[Labelled, Labelled]:
    """Return the labelled masks with vectors of training images, and of held-out ones.

    Near-duplicates of an image count as that image.
    """
    ids = pa.array(list(labels), pa.string())
    categories = np.fromiter(labels.values(), np.int64, len(labels))
    vectors, category, image = [], [], []
    for block in blocks:
        place = pc.index_in(block.mask_ids, ids).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(~np.isnan(place.astype(np.float64)))
        vectors.append(np.array(block.vectors_ND[rows]))
        category.append(categories[place[rows].astype(np.int64)])
        image.append(block.image_ids[rows])
    if not vectors:
        none = Labelled(np.zeros((0, 1), np.float16), np.zeros(0, np.int64), np.zeros(0, np.int64))
        return none, none
    image_N = np.concatenate(image)
    known = workspace.catalog.images.get_many(np.unique(image_N).tolist())
    group = {one.id: one.near_image_id or one.id for one in known}
    held_out = {one.id for one in known if one.split == Split.HELD_OUT}
    is_held_out = np.isin(image_N, list(held_out))
    groups = np.array([group.get(one, one) for one in image_N.tolist()], np.int64)
    found = Labelled(np.concatenate(vectors), np.concatenate(category), groups)
    return found.part(~is_held_out), found.part(is_held_out)


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


def load_suggester(workspace: Workspace, stored: StoredSuggester) -> Suggester:
    """Return a stored suggester, from a local copy of its file.

    Raises:
        StorageError: its object cannot be fetched.
        SuggesterError: the file is damaged.
    """
    path = workspace.cache / "suggesters" / f"{stored.version}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        workspace.objects.fetch(stored.key, path)
    return Suggester.load(path)


def roll_back_suggester(workspace: Workspace, dataset: Dataset) -> str:
    """Withdraw the suggester in use; returns the version that was in use before.

    Raises:
        NotFoundError: there is none.
    """
    present = workspace.catalog.suggesters.current(dataset.id)
    if present is None:
        raise NotFoundError(f"{dataset.name} has no suggester")
    return workspace.catalog.suggesters.roll_back(present.version).version


@dataclass(frozen=True)
class _Wanted:
    """What a suggester is to be learned from."""

    workspace: Workspace
    dataset: Dataset
    encoder_name: str
    encoder: str
    precision: float
    by: str

    @property
    def names(self) -> dict[int, str]:
        """The categories' names by id."""
        return self.workspace.catalog.categories.current(self.dataset.id).categories.names

    @cached_property
    def descriptions(self) -> dict[int, list[str]]:
        """The categories' descriptions by id."""
        return descriptions_of(self.workspace, self.dataset)

    @cached_property
    def texts(self) -> str:
        """Digest of all texts; empty if it learns from labels alone."""
        if self.by == "labels":
            return ""
        texts = json.dumps([sorted(self.names.items()), sorted(self.descriptions.items())])
        return hashlib.sha256(texts.encode()).hexdigest()[:12]

    def is_met(self, card: dict[str, Any], last_label: int) -> bool:
        """Whether a suggester with this card would be learned again alike."""
        mine = (self.encoder, self.precision, self.by, self.texts, last_label)
        names = ("encoder", "precision", "by", "texts", "last_label")
        return mine == tuple(card.get(name) for name in names)

    def learn(self, training: Labelled, card: SuggesterCard) -> Suggester:
        """Learn by what is asked for; errors as in `suggest_labels`."""
        if self.by == "labels":
            return learn(training, card)
        encoder = mask_encoder(self.workspace, self.encoder_name)
        by_texts = texts_suggester(
            encoder,  # type: ignore[arg-type]  # checked: a CLIP
            self.names,
            card,
            descriptions=self.descriptions,
            labelled=training,
        )
        if self.by == "texts":
            return by_texts
        try:
            by_labels = learn(training, card)
        except TooFewLabelsError:
            return by_texts
        both = {"labels": by_labels, "texts": by_texts}
        losses = {name: one.card.scores.get("log_loss", np.inf) for name, one in both.items()}
        best = both[min(losses, key=lambda name: losses[name])]
        scores = {**best.card.scores, "compared": losses}
        return replace(best, card=replace(best.card, scores=scores))


def _refreshed(
    wanted: _Wanted, blocks: Sequence[MaskVectors], known: KnownLabels
) -> tuple[StoredSuggester, str]:
    """Return the suggester to use, and why: a new one, unless nothing is new, or the new one is
    significantly worse than the present one on held-out images."""
    workspace, dataset, encoder = wanted.workspace, wanted.dataset, wanted.encoder
    present = workspace.catalog.suggesters.current(dataset.id)
    if present is not None and wanted.is_met(present.card, known.last):
        return present, "no new labels"
    training, held_out = labelled_vectors(workspace, dataset, blocks, known.by_people())
    run = workspace.catalog.runs.start(
        new_id(),
        RunKind.TRAIN_SUGGESTER,
        dataset_id=dataset.id,
        model=encoder,
        config={"precision": wanted.precision, "by": wanted.by},
        code_version=code_version(),
    )
    with tracked_run(workspace, run.id):
        card = SuggesterCard(
            version=f"labels-{datetime.now(UTC):%Y%m%dT%H%M%S}-{run.id[:6]}",
            encoder=encoder,
            dataset=dataset.name,
            parent=present.version if present else None,
            precision=wanted.precision,
            by=wanted.by,
            texts=wanted.texts,
            last_label=known.last,
            code_version=code_version(),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        suggester = wanted.learn(training, card)
        reason = "the first suggester"
        is_worse = False
        if present is not None:
            is_worse, reason = _compared(workspace, suggester, present, held_out)
        stored = _store(workspace, dataset, suggester)
        if not is_worse:
            workspace.catalog.suggesters.promote(stored.version)
        workspace.catalog.runs.finish(run.id, {"suggester": stored.version, "reason": reason})
    if is_worse and present is not None and present.encoder == encoder:
        return present, reason
    return stored, reason


def _compared(
    workspace: Workspace, suggester: Suggester, present: StoredSuggester, held_out: Labelled
) -> tuple[bool, str]:
    """Return whether a suggester is significantly worse than the present one on the labelled masks
    of held-out images, and a sentence about it."""
    if present.encoder != suggester.card.encoder:
        return False, f"its vectors are of {suggester.card.encoder}, not of {present.encoder}"
    if not len(held_out.category_N):
        return False, "it knows more labels; no held-out image has labelled masks to compare on"
    right = [
        one.suggest(held_out.vectors_ND).category_N == held_out.category_N
        for one in (load_suggester(workspace, present), suggester)
    ]
    before_after = [
        ByImage.of({"right": values.astype(np.float64)}, held_out.image_N.tolist())
        for values in right
    ]
    gain = paired_gain(before_after[0], before_after[1], ("right",))
    shares = f"{right[0].mean():.3f} -> {right[1].mean():.3f} right on held-out images"
    if gain.high is not None and gain.high < 0:
        return True, f"significantly worse than {present.version}: {shares}"
    return False, f"not significantly worse than {present.version}: {shares}"


def _store(workspace: Workspace, dataset: Dataset, suggester: Suggester) -> StoredSuggester:
    card = suggester.card
    key = layout.SUGGESTER.key(dataset=dataset.name, version=card.version)
    with tempfile.TemporaryDirectory(prefix="dataengine-") as fresh:
        path = Path(fresh) / "suggester.safetensors"
        suggester.save(path)
        workspace.objects.put_file(key, path)
    return workspace.catalog.suggesters.add(
        dataset.id, card.version, encoder=card.encoder, key=key, card=card.as_dict()
    )


def _confirm(
    workspace: Workspace,
    dataset: Dataset,
    suggester: Suggester,
    found: SuggestedMasks,
    sure_N: np.ndarray,
) -> int:
    """Label the masks with a confident suggestion; returns their number."""
    return sum(
        workspace.catalog.labels.add_many(dataset.id, part)
        for part in batches(_labels(suggester, found, sure_N), PAGE)
    )


def _labels(suggester: Suggester, found: SuggestedMasks, sure_N: np.ndarray) -> Iterator[NewLabel]:
    for row in np.flatnonzero(sure_N).tolist():
        yield NewLabel(
            mask_id=found.mask_ids[row].as_py(),
            image_id=int(found.image_ids[row]),
            category_id=int(found.suggested.category_N[row]) or None,
            source=LabelSource.MODEL,
            model=suggester.card.version,
            score=float(found.suggested.probability_N[row]),
        )
