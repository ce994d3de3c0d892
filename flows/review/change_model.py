"""Changes the current model, with what follows from it.

Before a version becomes current, its thresholds are calibrated where held-out images have masks.
Afterwards old automatic masks are compared with it, here or by a worker. Embeddings need no step:
those of a run's model are made when its tasks are queued, and open tasks keep theirs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from flows.prefect_api import events
from flows.review.rescore import RescoreFigures, rescore_dataset
from flows.training.calibrate import calibrate_version
from flows.workspace.workspace import Workspace
from storage.catalog import ModelKind, NotFoundError

RUNS = 10_000
"""Latest unfinished runs whose tasks are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelChange:
    """What a change of the current model did."""

    current: str
    replaced: str | None
    """None: the version was current before."""
    thresholds: str | None
    """A sentence; None after a roll-back, which changes none."""
    compared: list[RescoreFigures] | None
    """By dataset whose old masks were compared; None: a worker compares them."""
    open_tasks: dict[str, int]
    """Tasks that keep the model they were queued with, by model."""

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def promote(workspace: Workspace, version: str, *, has_worker: bool) -> ModelChange:
    """Make a version current. Repeating it does what is left to do.

    Args:
        workspace: the workspace.
        version: any version.
        has_worker: the comparison is deployed, so the event of the promotion starts it.

    Raises:
        NotFoundError: no such version.
        StaleStateError: another version became current meanwhile.
    """
    kind = workspace.catalog.models.get(version).kind
    if kind != ModelKind.SEGMENTER:
        current = workspace.catalog.models.current(kind)
        before = None if current is None else current.version
        workspace.catalog.models.promote(version, expected_current=before)
        return _of_other_kind(version, before)
    thresholds = calibrate_version(workspace, version)
    before = workspace.current_model().version
    workspace.catalog.models.promote(version, expected_current=before)
    return _follow(workspace, version, before, thresholds, has_worker)


def roll_back(
    workspace: Workspace, kind: ModelKind = ModelKind.SEGMENTER, *, has_worker: bool
) -> ModelChange:
    """Make the version of a kind current that was current before.

    Raises:
        NotFoundError: no version was.
        StaleStateError: another version became current meanwhile.
    """
    current = workspace.catalog.models.current(kind)
    if current is None:
        raise NotFoundError(f"no {kind} is current")
    now = workspace.catalog.models.roll_back(expected_current=current.version)
    if kind != ModelKind.SEGMENTER:
        return _of_other_kind(now.version, current.version)
    return _follow(workspace, now.version, current.version, None, has_worker)


def _of_other_kind(version: str, before: str | None) -> ModelChange:
    """Return the change to a version that makes no masks, from which nothing else follows."""
    return ModelChange(
        current=version,
        replaced=before if before != version else None,
        thresholds=None,
        compared=[],
        open_tasks={},
    )


def _follow(
    workspace: Workspace, version: str, before: str, thresholds: str | None, has_worker: bool
) -> ModelChange:
    is_new = before != version
    is_sent = is_new and events.model_promoted(workspace, version)
    compared = None
    if not (is_sent and has_worker):
        rows = [rescore_dataset(workspace, row) for row in workspace.catalog.datasets.all()]
        compared = [row for row in rows if row is not None]
    return ModelChange(
        current=version,
        replaced=before if is_new else None,
        thresholds=thresholds,
        compared=compared,
        open_tasks=_open_tasks(workspace, version),
    )


def _open_tasks(workspace: Workspace, version: str) -> dict[str, int]:
    """Count the unfinished tasks that were queued with another model than this, by model."""
    found: Counter[str] = Counter()
    for run in workspace.catalog.runs.all(unfinished=True, limit=RUNS):
        if run.model is not None and run.model != version:
            found[run.model] += workspace.queue.pending(run.id)
    return {model: count for model, count in sorted(found.items()) if count}
