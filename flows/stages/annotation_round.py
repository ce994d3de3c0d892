"""The steps that rounds of stages 1 and 2 share."""

from __future__ import annotations

from collections.abc import Callable

from flows.stages.commit_answers import AnnotationFigures, commit_answers
from flows.stages.consensus import finish_copies, reach_consensus
from flows.stages.copies import answer_copies, pending, queue_copies
from flows.stages.embeddings import make_embeddings
from flows.stages.rounds import context_of
from flows.stages.run_context import RunContext
from flows.stages.task_runner import AnswerTask, answer_tasks, wait_for_people
from flows.workspace.gold import gold_for_people
from flows.workspace.workspace import Workspace
from storage.catalog import PEOPLE, SIMULATED, Round, TaskKind


def run_annotation_round(
    workspace: Workspace,
    row: Round,
    kind: TaskKind,
    queue: Callable[[Workspace, RunContext, list[int]], None],
    annotator: Callable[[Workspace, RunContext, str], AnswerTask],
    *,
    wait: bool,
) -> AnnotationFigures | None:
    """Queue the round's images, collect the answers, commit the masks.

    Safe to repeat at any time: tasks, answers and commits are each done once.

    Args:
        kind: of the round's tasks.
        queue: queues these images of the run.
        annotator: returns the simulated annotator of this name.
        wait: wait for people.

    Returns:
        The round's figures; None if people still have tasks of it and `wait` is off.
    """
    context = context_of(workspace, row)
    workspace = workspace.as_started(workspace.catalog.runs.get(context.run_id))
    image_ids = workspace.catalog.rounds.image_ids(row.id)
    if context.annotator == PEOPLE:
        gold = gold_for_people(workspace, context.dataset_id, context.annotator)
        make_embeddings(workspace, context, sorted({*image_ids, *gold}))
    queue(workspace, context, image_ids)
    queue_copies(workspace, context, kind, image_ids)
    if context.annotator == PEOPLE:
        if not wait_for_people(workspace, context, kind, wait=wait, pending=pending):
            return None
    else:
        answer_tasks(workspace, context, kind, image_ids, annotator(workspace, context, SIMULATED))
        answer_copies(workspace, context, kind, annotator)
    merged = reach_consensus(workspace, context)
    figures = commit_answers(workspace, context, merged)
    finish_copies(workspace, context)
    return figures
