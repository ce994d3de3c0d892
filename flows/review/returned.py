"""The second half of a return: the corrected image goes back to its reviewer.

`engine.annotation.returns` queues the first half, the correction by an annotator.
"""

from __future__ import annotations

from engine.annotation.presence import is_away
from flows.stages.commit_answers import commit_answers
from flows.stages.run_context import RunContext
from flows.workspace.workspace import Workspace
from storage.catalog import NewTask, Run, Task, TaskKind, VerdictKind
from storage.masks import read_parquet
from storage.objects import named_by_catalog


def queue_second_review(workspace: Workspace, context: RunContext, run: Run) -> bool:
    """Commit the correction of a returned image and queue its review; repeated, it changes nothing.

    Returns:
        Whether the run goes on: False if it is no return, its review is queued already, or no mask
        is left to judge.
    """
    tasks = workspace.queue.of_run(run.id)
    if "return_of" not in run.config or any(task.kind == TaskKind.REVIEW for task in tasks):
        return False
    (correction,) = tasks
    commit_answers(workspace, context, is_review=True)
    left = _masks_left(workspace, correction)
    if not left:
        workspace.catalog.comments.resolve(correction.image_id)
        return False
    note = "This image came back: the annotator has answered or corrected its masks."
    if correction.result_key is None:
        note = "This image came back unchanged: three annotators skipped it."
    review = NewTask(
        dataset_id=correction.dataset_id,
        image_id=correction.image_id,
        kind=TaskKind.REVIEW,
        run_id=run.id,
        reserved_for=_reviewer(workspace, run),
        payload={"mask_ids": left, "return_of": run.config["return_of"], "note": note},
    )
    workspace.queue.add([review])
    return True


def _masks_left(workspace: Workspace, correction: Task) -> list[str]:
    """Ids of the image's masks after the correction: new ones in place of those they supersede."""
    names = list(correction.payload["mask_ids"])
    if correction.result_key is None:
        return names
    with named_by_catalog():
        made = read_parquet(workspace.objects.get(correction.result_key))
    fixes = {mask.supersedes: mask.mask_id for mask in made if mask.supersedes}
    verdicts = correction.result.verdicts
    gone = {one.mask_id for one in verdicts if one.verdict == VerdictKind.REJECT}
    left = [fixes.get(name, name) for name in names if name not in gone]
    return left + [mask.mask_id for mask in made if not mask.supersedes]


def _reviewer(workspace: Workspace, run: Run) -> int | None:
    """Id of the reviewer who returned the image; None if they are away."""
    if run.config["reviewer"] is None:
        return None
    person = workspace.catalog.annotators.get(run.config["reviewer"])
    is_reviewer = person.role in ("reviewer", "admin")
    away = is_away(workspace.catalog, workspace.queue, person)
    return person.id if is_reviewer and not away else None
