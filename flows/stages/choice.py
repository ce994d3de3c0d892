"""Chooses the images of a round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from engine.core.choice import most_different, most_uncertain
from engine.core.records import Source, Stage
from flows.stages.disagreement import automatic_scores, detector_agreement
from flows.workspace.gold import gold_for_people
from flows.workspace.selections import selected_images
from storage.catalog import (
    DISAGREEMENT,
    DIVERSITY,
    MIX,
    OF_PROGRAM,
    PEOPLE,
    Split,
    utc_now,
)

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace
    from storage.catalog import PlannedRound, Round

HELD_OUT_SHARE = 0.2
"""Share of held-out images in people's rounds, while held-out images without truth are left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The images of a round, why they were chosen, as a sentence, and how many unused images were
    skipped because they are near-duplicates."""

    image_ids: list[int]
    why: str
    skipped: int = 0

    @property
    def skipped_text(self) -> str:
        """The end of a sentence: how many are skipped, and why; empty if none are."""
        if not self.skipped:
            return ""
        are = "near-duplicate is" if self.skipped == 1 else "near-duplicates are"
        why = "because a similar image is annotated or in this round"
        return f"; {self.skipped} {are} skipped, {why}"


def choose_images(workspace: Workspace, row: Round, plan: PlannedRound) -> Chosen:
    """Choose unused images of the training split, as the plan says. With simulated annotators,
    stages 1 and 2 take images with ground truth only. People also get some held-out images without
    truth, in order of ingest: models are compared on their masks, and never trained on them. No
    image is annotated whose near-duplicate is annotated or whose masks were ingested, and no gold
    image by people; in stage 2 none that a judge holds for complete. Stage 3 takes any image,
    unused ones first."""
    if row.stage == Stage.FULLY_AUTOMATIC:
        return Chosen(image_ids=_for_stage_3(workspace, row, plan.images), why="in order of ingest")
    repeats = _Repeats(workspace, row)
    images, count = workspace.catalog.images, plan.images
    dataset = workspace.catalog.datasets.get_by_id(row.dataset_id).name
    with_truth = workspace.images_with_truth(dataset)
    fresh = images.unused_ids_in_loop(row.dataset_id, row.loop_id, limit=None)
    held_out: list[int] = []
    chosen_held_out: list[int] = []
    gold = set(gold_for_people(workspace, row.dataset_id, plan.annotator))
    done = gold | _with_ingested_masks(workspace, dataset)
    if plan.choice.startswith(OF_PROGRAM):
        run = plan.choice.removeprefix(OF_PROGRAM)
        done |= set(images.ids(row.dataset_id)) - selected_images(workspace, row.dataset_id, run)
    if row.stage == Stage.SEMI_AUTOMATIC:
        done |= images.complete_ids(row.dataset_id)
    fresh = [image_id for image_id in fresh if image_id not in done]
    if plan.annotator == PEOPLE:
        held_out = images.unused_ids_in_loop(
            row.dataset_id, row.loop_id, limit=None, split=Split.HELD_OUT
        )
        held_out = [image_id for image_id in held_out if image_id not in done]
        first = repeats.distinct(held_out)[:count]
        unknown = [image_id for image_id in first if image_id not in with_truth]
        share = min(len(unknown), count - 1, max(1, round(count * HELD_OUT_SHARE)))
        chosen_held_out = unknown[:share]
    else:
        fresh = [image_id for image_id in fresh if image_id in with_truth]
    distinct = repeats.distinct(fresh, beside=chosen_held_out)
    ranked = _Ranking(workspace, row.dataset_id, dataset, repeats.annotated | repeats.in_loop)
    chosen = ranked.take(plan.choice, distinct, count - len(chosen_held_out))
    together = sorted(chosen + chosen_held_out)
    skipped = repeats.count(fresh + held_out, together)
    why = ranked.reason(plan.choice, chosen)
    if chosen_held_out:
        why += f"; {len(chosen_held_out)} of them held out, to compare models"
    return Chosen(image_ids=together, why=why, skipped=skipped)


def _with_ingested_masks(workspace: Workspace, dataset: str) -> set[int]:
    counts = workspace.masks.counts(("image_id",), dataset=dataset, source=Source.IMPORTED)
    return {int(str(key[0])) for key in counts}


def _for_stage_3(workspace: Workspace, row: Round, count: int) -> list[int]:
    images = workspace.catalog.images
    fresh = images.unused_ids_in_loop(row.dataset_id, row.loop_id, limit=count)
    taken = set(fresh)
    known = images.ids(row.dataset_id, split=Split.TRAIN)
    others = (image_id for image_id in known if image_id not in taken)
    return fresh + list(islice(others, count - len(fresh)))


class _Repeats:
    """Which images nearly repeat one that is annotated, or that this loop annotates."""

    def __init__(self, workspace: Workspace, row: Round) -> None:
        catalog = workspace.catalog
        skips = workspace.settings.rounds.skip_near_duplicates
        self._near = catalog.images.near_duplicates(row.dataset_id) if skips else {}
        self.annotated = catalog.images.annotated_ids(row.dataset_id, before=utc_now())
        rounds = catalog.rounds.for_loop(row.loop_id)
        by_people = [one.id for one in rounds if one.stage != Stage.FULLY_AUTOMATIC]
        self.in_loop = {i for one in by_people for i in catalog.rounds.image_ids(one)}
        self._done, self._begun = self._groups(self.annotated), self._groups(self.in_loop)

    def _groups(self, image_ids: Iterable[int]) -> set[int]:
        return {self._near.get(image_id, image_id) for image_id in image_ids}

    def _is_taken(self, image_id: int) -> bool:
        """An image that another loop annotated may be annotated again, but not its repeats."""
        group = self._near.get(image_id, image_id)
        return group in self._begun or (group in self._done and image_id not in self.annotated)

    def distinct(self, image_ids: Sequence[int], beside: Sequence[int] = ()) -> list[int]:
        """The images without repeats of annotated ones, of `beside`, or of each other."""
        seen, kept = self._groups(beside), list[int]()
        for image_id in image_ids:
            group = self._near.get(image_id, image_id)
            if group not in seen and not self._is_taken(image_id):
                seen.add(group)
                kept.append(image_id)
        return kept

    def count(self, image_ids: Iterable[int], chosen: Sequence[int]) -> int:
        """How many of the images are skipped if these are chosen."""
        groups, taken = self._groups(chosen), set(chosen)
        return sum(
            image_id not in taken
            and (self._near.get(image_id, image_id) in groups or self._is_taken(image_id))
            for image_id in image_ids
        )


class _Ranking:
    """Takes images in the order of a choice; `annotated` are those that diversity starts from."""

    def __init__(
        self, workspace: Workspace, dataset_id: int, dataset: str, annotated: set[int]
    ) -> None:
        self._workspace, self._dataset_id, self._dataset = workspace, dataset_id, dataset
        self._annotated = annotated
        self._scored: dict[int, float] = {}
        self._agreed: dict[int, float] = {}

    def take(self, choice: str, image_ids: Sequence[int], count: int) -> list[int]:
        """Choose `count` of the images, or all if there are fewer."""
        if choice == DISAGREEMENT:
            return self._uncertain(image_ids, count)
        if choice == DIVERSITY:
            return self._different(image_ids, count, beside=[])
        if choice == MIX:
            first = self._uncertain(image_ids, (count + 1) // 2)
            taken = set(first)
            others = [image_id for image_id in image_ids if image_id not in taken]
            return first + self._different(others, count - len(first), beside=first)
        return list(image_ids[:count])

    def _uncertain(self, image_ids: Sequence[int], count: int) -> list[int]:
        self._scored = automatic_scores(self._workspace, self._dataset)
        scored = [image_id for image_id in image_ids if image_id in self._scored]
        self._agreed = detector_agreement(self._workspace, self._dataset, scored)
        scores = [self._certainty(image_id) for image_id in image_ids]
        return [image_ids[place] for place in most_uncertain(scores, count)]

    def _certainty(self, image_id: int) -> float | None:
        """The mean of what is known of the masks' scores and the detector's agreement."""
        known = [one[image_id] for one in (self._scored, self._agreed) if image_id in one]
        return float(np.mean(known)) if known else None

    def _different(self, image_ids: Sequence[int], count: int, beside: Sequence[int]) -> list[int]:
        """Images far from the annotated ones, from `beside` and from each other; images without
        colours, which are older than these, come last."""
        found = self._workspace.catalog.images.colours(self._dataset_id)
        vectors = {one: np.frombuffer(bytes.fromhex(text), np.uint8) for one, text in found}
        before = sorted(self._annotated.union(beside) & vectors.keys())
        known = [image_id for image_id in image_ids if image_id in vectors]
        start = [vectors[image_id] for image_id in before]
        places = most_different([vectors[image_id] for image_id in known], start, count)
        chosen = [known[place] for place in places]
        unknown = (image_id for image_id in image_ids if image_id not in vectors)
        return chosen + list(islice(unknown, count - len(chosen)))

    def reason(self, choice: str, chosen: Sequence[int]) -> str:
        """Why these images were chosen, as a sentence without its end."""
        scored = sum(image_id in self._scored for image_id in chosen)
        some = f"{scored} of {len(chosen)} have some"
        also = " and agree least with the detector" if self._agreed else ""
        lowest = f"those whose automatic masks have the lowest scores{also} ({some})"
        if choice == DISAGREEMENT:
            return lowest
        different = "those that look least like the annotated images and each other"
        if choice == DIVERSITY:
            return different
        if choice.startswith(OF_PROGRAM):
            return f"those that {choice} selected, in order of ingest"
        return f"half {lowest}, half {different}" if choice == MIX else "in order of ingest"
