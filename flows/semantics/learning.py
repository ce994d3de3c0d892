"""Learns a dataset's suggester, stores it, and brings it into use unless it is worse."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from engine.evaluation.bootstrap import ByImage, paired_gain
from engine.semantics.adapter import is_kept_back
from engine.semantics.suggesting import (
    Labelled,
    Suggester,
    SuggesterCard,
    TooFewLabelsError,
    learn,
)
from engine.semantics.texts import texts_suggester
from flows.encoders.towers import is_towers
from flows.encoders.trained import UsedClip, clip_of
from flows.semantics.descriptions import descriptions_of, texts_digest
from flows.semantics.known_labels import KnownLabels, labelled_vectors
from flows.semantics.sources import LearnFrom
from flows.workspace.run_lock import tracked_run
from flows.workspace.workspace import Workspace, code_version
from storage import layout
from storage.catalog import Dataset, RunKind
from storage.catalog.sessions import new_id
from storage.catalog.suggesters import StoredSuggester
from storage.vectors import MaskVectors


@dataclass(frozen=True)
class Wanted:
    """What a suggester is to be learned from. `clip`: the trained CLIP, if it reads the texts."""

    workspace: Workspace
    dataset: Dataset
    encoder_name: str
    encoder: str
    precision: float
    by: LearnFrom
    name: str
    """The encoder's name as it was given; a trained CLIP's vectors are of another one."""
    clip: UsedClip | None = None

    @property
    def has_learned(self) -> bool:
        """Whether labels have taught the vectors: then masks of kept-back images calibrate."""
        return is_towers(self.encoder_name) or (self.clip is not None and self.clip.has_learned)

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
        if self.by == LearnFrom.LABELS:
            return ""
        return texts_digest(self.names, self.descriptions)

    @property
    def trained(self) -> str:
        """Version of the trained CLIP; empty without one."""
        return self.clip.version if self.clip else ""

    def is_met(self, card: dict[str, Any], last_label: int) -> bool:
        """Whether a suggester with this card would be learned again alike."""
        mine = (self.encoder, self.precision, self.by, self.texts, last_label, self.trained)
        names = ("encoder", "precision", "by", "texts", "last_label")
        return mine == (*(card.get(name) for name in names), card.get("trained", ""))

    def learn(self, training: Labelled, card: SuggesterCard) -> Suggester:
        """Learn by what is asked for; errors as in `suggest_labels`."""
        if self.has_learned:
            training = training.part(is_kept_back(training.image_N))
        if self.by == LearnFrom.LABELS:
            return learn(training, card)
        clip = self.clip or UsedClip(self.encoder_name, clip_of(self.workspace, self.encoder_name))
        by_texts = texts_suggester(
            clip.texts,
            self.names,
            card,
            descriptions=self.descriptions,
            labelled=training,
            adapter=clip.tower,
        )
        if self.by != LearnFrom.BEST:
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


def refreshed(
    wanted: Wanted, blocks: Sequence[MaskVectors], known: KnownLabels
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
        config={
            "precision": wanted.precision,
            "by": str(wanted.by),
            "last_label": known.last,
        },
        code_version=code_version(),
    )
    with tracked_run(workspace, run.id):
        card = SuggesterCard(
            version=f"labels-{datetime.now(UTC):%Y%m%dT%H%M%S}-{run.id[:6]}",
            encoder=encoder,
            name=wanted.name,
            dataset=dataset.name,
            parent=present.version if present else None,
            precision=wanted.precision,
            by=str(wanted.by),
            texts=wanted.texts,
            trained=wanted.trained,
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
    before, after = (
        Answers(
            one.suggest(held_out.vectors_ND).category_N == held_out.category_N, held_out.image_N
        )
        for one in (load_suggester(workspace, present), suggester)
    )
    return is_significantly_worse(before, after, present.version)


@dataclass(frozen=True, slots=True)
class Answers:
    """Which of N masks were named right, bool (N,), and their images, int (N,)."""

    right_N: np.ndarray
    image_N: np.ndarray

    def by_image(self) -> ByImage:
        """Return the sums by image."""
        return ByImage.of({"right": self.right_N.astype(np.float64)}, self.image_N.tolist())


def is_significantly_worse(before: Answers, after: Answers, version: str) -> tuple[bool, str]:
    """Return whether answers are significantly worse than those of another version for the same
    masks, and a sentence about it."""
    gain = paired_gain(before.by_image(), after.by_image(), ("right",))
    shares = f"{before.right_N.mean():.3f} -> {after.right_N.mean():.3f} right on held-out images"
    if gain.high is not None and gain.high < 0:
        return True, f"significantly worse than {version}: {shares}"
    return False, f"not significantly worse than {version}: {shares}"


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
