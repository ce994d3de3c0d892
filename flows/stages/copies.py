"""Copies of a round's tasks: a share of its images is answered by several people.

The copies with one number are a run of their own, as a run has one task of an image.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np

from engine.annotation.access import sight_of
from engine.annotation.presence import is_away
from engine.core.rle import RLE, area, decode, encode
from flows.stages.run_context import RunContext
from flows.stages.task_runner import AnswerTask, TaskAnswer, answer_tasks
from flows.workspace import progress
from flows.workspace.workspace import Workspace, code_version
from storage.catalog import (
    PEOPLE,
    SIMULATED,
    Image,
    RunKind,
    Task,
    TaskKind,
)
from storage.task_copies import TaskCopies

ADVICE = (
    "add others with `dataengine annotators add NAME`, lower it, or set consensus_share = 0; "
    "otherwise images are merged from the answers that there are"
)
"""What to do where there are fewer people than a consensus asks for."""

MISSED = 0.05
"""Share of objects that a simulated person of a copy does not see."""
NOISE = 0.03
"""How far a simulated person of a copy sees an object's outline from where it is, as a share of the
root of its area."""


def queue_copies(
    workspace: Workspace, context: RunContext, kind: TaskKind, image_ids: Sequence[int]
) -> None:
    """Queue the copies of a round's tasks, as `[quality] consensus_share` and `consensus_people`
    say; repeated, it changes nothing."""
    quality = workspace.settings.quality
    if not quality.consensus_share or quality.consensus_people < 2:
        return
    count = math.ceil(quality.consensus_share * len(image_ids))
    rng = np.random.default_rng(list(context.run_id.encode()))
    chosen = sorted(rng.permutation(sorted(image_ids))[:count].tolist())
    originals = workspace.queue.of_run(context.run_id, image_ids=chosen)
    for number in range(2, quality.consensus_people + 1):
        mine = replace(context, run_id=copy_run(context.run_id, number))
        workspace.catalog.runs.start(
            mine.run_id,
            RunKind(context.stage),
            dataset_id=context.dataset_id,
            round_id=context.round_id,
            model=context.model,
            config={
                "copy_of": context.run_id,
                "copy": number,
                "settings": workspace.settings.shaping(),
            },
            code_version=code_version(),
        )
        workspace.queue.add(
            [
                replace(mine.task(kind, task.image_id, **task.payload), copy_of=task.id)
                for task in originals
            ]
        )
    if context.annotator == PEOPLE and (few := too_few(workspace, context.dataset_id)):
        progress.current().say(f"{few}: {ADVICE}")


def copy_run(run_id: str, number: int) -> str:
    """Id of the run that the copies with this number, from 2 on, belong to."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"copy/{run_id}/{number}").hex


def people_for(workspace: Workspace, dataset_id: int) -> list[int]:
    """Ids of the people who can answer tasks of a dataset now."""
    return [
        person.id
        for person in workspace.catalog.annotators.all()
        if sight_of(person).includes(dataset_id)
        and not is_away(workspace.catalog, workspace.queue, person)
    ]


def too_few(workspace: Workspace, dataset_id: int) -> str | None:
    """How many fewer people there are than a consensus asks for, as text; None: enough."""
    wanted = workspace.settings.quality.consensus_people
    found = len(people_for(workspace, dataset_id))
    if found >= wanted:
        return None
    people = "nobody" if not found else "1 person" if found == 1 else f"{found} people"
    return f"[quality] consensus_people is {wanted}, and {people} can answer"


def pending(workspace: Workspace, run_id: str) -> int:
    """The number of the run's tasks and copies that wait for answers. Those that nobody may answer
    any more leave the queue, once no others are left."""
    copies = TaskCopies(workspace.catalog)
    workspace.queue.expire()
    left = copies.pending(run_id)
    if left and left <= len(copies.groups(run_id)) * workspace.settings.quality.consensus_people:
        dataset_id = workspace.catalog.runs.get(run_id).dataset_id
        gone = copies.withdraw(run_id, people_for(workspace, dataset_id))
        if gone:
            progress.current().say(
                f"consensus: answers that are missing are left out ({gone}), as everybody who can "
                "sign in has answered these images"
            )
        left -= gone
    return left


def answer_copies(
    workspace: Workspace,
    context: RunContext,
    kind: TaskKind,
    annotator: Callable[[Workspace, RunContext, str], AnswerTask],
) -> None:
    """Answer the copies of a run's tasks, each copy of an image by another simulated annotator."""
    for run_id in TaskCopies(workspace.catalog).runs(context.run_id):
        number = int(workspace.catalog.runs.get(run_id).config["copy"])
        mine, name = replace(context, run_id=run_id), f"{SIMULATED}-{number}"
        images = [task.image_id for task in workspace.queue.of_run(run_id)]
        answer = _differently(annotator(workspace, mine, name), number)
        answer_tasks(workspace, mine, kind, images, answer, name)


def _differently(answer: AnswerTask, number: int) -> AnswerTask:
    """The same annotator, who misses some objects and sees the outlines of others elsewhere; other
    numbers differ."""

    def differently(
        task: Task, image: Image, pixels_HWC: np.ndarray, truths: list[RLE]
    ) -> TaskAnswer:
        rng = np.random.default_rng([number, image.id])
        seen = [_seen(truth, rng) for truth in truths if rng.random() >= MISSED]
        return answer(task, image, pixels_HWC, seen)

    return differently


def _seen(truth: RLE, rng: np.random.Generator) -> RLE:
    """The object, shifted, and larger or smaller, by a few pixels."""
    mask_HW: np.ndarray = decode(truth).astype(np.uint8)
    spread = NOISE * math.sqrt(area(truth))
    dx, dy, grow = rng.normal(0.0, spread, 3)
    moved = np.array([[1, 0, round(dx / 2)], [0, 1, round(dy / 2)]], np.float64)
    mask_HW = cv2.warpAffine(mask_HW, moved, mask_HW.shape[::-1], flags=cv2.INTER_NEAREST)
    if radius := round(abs(grow) / 2):
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        mask_HW = cv2.dilate(mask_HW, disc) if grow > 0 else cv2.erode(mask_HW, disc)
    found = encode(mask_HW.astype(bool))
    return found if area(found) else truth
