"""Stage 3 for some words: only the automatic masks that belong to them are kept.

A kept mask has the label of the category that its word names; where the word is no category, the
word stays with the run (`storage.mask_words`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from engine.automatic.generator import GeneratedMask
from engine.core.errors import DataEngineError
from engine.core.records import Mask
from flows.stages.run_context import RunContext
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset, LabelSource, NewLabel, Run, Shard
from storage.mask_words import MaskWord, ShardWords, WordFiles

if TYPE_CHECKING:
    from engine.semantics.words import WordClassifier

IN_CONFIG = "text"
"""Where the words are in a run's configuration."""

MODEL_CHARACTERS = 200
"""Of a label's model; the digest of an encoder's weights is at the end of its version."""

OTHER, UNSURE = "none of these", "unsure"
"""Reasons why a mask is dropped: another answer is more probable, or none is probable enough."""


class NoWordsError(DataEngineError):
    """The list of words is empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedWords:
    """What masks are to be: one of the words, with at least a probability, said by an encoder."""

    words: tuple[str, ...]
    encoder: str
    least: float

    @classmethod
    def parse(cls, text: str, encoder: str, least: float) -> Self:
        """Return what a list with commas asks for; words that differ in case only count once.

        Raises:
            NoWordsError: there is no word.
        """
        words = [word for part in text.split(",") if (word := " ".join(part.split()))]
        if not words:
            raise NoWordsError('give words with commas between them, such as "cat, dog"')
        distinct = {word.casefold(): word for word in reversed(words)}
        return cls(words=tuple(reversed(distinct.values())), encoder=encoder, least=least)

    @classmethod
    def of_run(cls, run: Run) -> Self | None:
        """Return what a run was started with; None: all masks."""
        found = run.config.get(IN_CONFIG)
        return None if found is None else cls(**{**found, "words": tuple(found["words"])})

    def to_config(self) -> dict[str, Any]:
        """Return it for a run's configuration."""
        return {IN_CONFIG: {**asdict(self), "words": list(self.words)}}


def word_classifier(workspace: Workspace, dataset: Dataset, asked: AskedWords) -> WordClassifier:
    """Return what says which masks are meant. With a CLIP, the categories of the dataset's list
    that are not asked for are answers too.

    Raises:
        EncoderError: the encoder reads no words, or is not installed.
        WordError: ImageNet lacks a word.
    """
    from engine.semantics.words import ClipWords, ImagenetWords
    from flows.encoders.trained import used_clip

    if asked.encoder == "imagenet":
        return ImagenetWords(asked.words)
    clip = used_clip(workspace, dataset, asked.encoder).adapted
    wanted = {word.casefold() for word in asked.words}
    names = workspace.catalog.categories.current(dataset.id).categories.names.values()
    others = [name for name in names if name.casefold() not in wanted]
    return ClipWords(clip, asked.words, others)


class WordFilter:
    """Keeps the masks of a shard that are meant, and counts the others."""

    def __init__(self, workspace: Workspace, context: RunContext, asked: AskedWords) -> None:
        self._asked, self._files = asked, WordFiles(workspace.objects)
        dataset = workspace.catalog.datasets.get_by_id(context.dataset_id)
        self._classifier = word_classifier(workspace, dataset, asked)
        self._kept: list[MaskWord] = []
        self._dropped: Counter[str] = Counter()

    def kept(
        self, pixels_HWC: np.ndarray, found: Sequence[GeneratedMask], masks: Sequence[Mask]
    ) -> list[Mask]:
        """Return those of an image's masks that are meant.

        Args:
            pixels_HWC: RGB uint8.
            found, masks: the same masks as they were generated, and as they will be stored.
        """
        if not found:
            return []
        said = self._classifier.say(pixels_HWC, [mask.rle for mask in found])
        is_sure = said.is_best_N & (said.probability_N >= self._asked.least)
        self._dropped[OTHER] += int((~said.is_best_N).sum())
        self._dropped[UNSURE] += int((said.is_best_N & ~is_sure).sum())
        kept = []
        for row in np.flatnonzero(is_sure).tolist():
            mask, word = masks[row], self._asked.words[said.word_N[row]]
            kept.append(mask)
            probability = min(float(said.probability_N[row]), 1.0)
            self._kept.append(MaskWord(mask.mask_id, mask.image_id, word, probability))
        return kept

    def store(self, run_id: str, shard: int) -> None:
        """Write the words of the shard, before its masks are committed."""
        found = ShardWords(self._classifier.version, self._kept, dict(self._dropped))
        self._files.write(run_id, shard, found)


def label_words(workspace: Workspace, context: RunContext, shard: Shard) -> int:
    """Label the committed masks of a shard whose word is a category, with the source `model`;
    returns how many have a new label. Repeating it adds nothing."""
    if AskedWords.of_run(workspace.catalog.runs.get(context.run_id)) is None:
        return 0
    listed = workspace.catalog.categories.current(context.dataset_id).categories
    there = {
        mask_id
        for rows in workspace.masks.scan(
            run_id=context.run_id, image_ids=shard.image_ids, columns=["mask_id"]
        )
        for mask_id in rows["mask_id"].to_pylist()
    }
    labels = [
        NewLabel(
            mask_id=one.mask_id,
            image_id=one.image_id,
            category_id=category.id,
            source=LabelSource.MODEL,
            model=words.encoder[-MODEL_CHARACTERS:],
            score=one.probability,
        )
        for words in WordFiles(workspace.objects).read(context.run_id, shard.shard)
        for one in words.kept
        if one.mask_id in there and (category := listed.named(one.word)) is not None
    ]
    return workspace.catalog.labels.add_many(context.dataset_id, labels, only_unlabelled=True)


def word_figures(workspace: Workspace, run: Run) -> dict[str, Any]:
    """Return how many masks of a run were kept for each word and dropped for which reason, and the
    words that are no categories; nothing for a run of all masks."""
    asked = AskedWords.of_run(run)
    if asked is None:
        return {}
    kept, dropped = Counter(dict.fromkeys(asked.words, 0)), Counter({OTHER: 0, UNSURE: 0})
    for words in WordFiles(workspace.objects).read(run.id):
        kept.update(one.word for one in words.kept)
        dropped.update(words.dropped)
    listed = workspace.catalog.categories.current(run.dataset_id).categories
    return {
        "kept": dict(kept),
        "dropped": dict(dropped),
        "no_categories": [word for word in asked.words if listed.named(word) is None],
    }
