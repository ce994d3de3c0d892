"""Common values of the tasks and masks of one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.core.records import Provenance, Source, Stage
from flows.workspace.workspace import Workspace
from storage.catalog import SIMULATED, NewTask, Run, TaskKind


@dataclass(frozen=True, kw_only=True, slots=True)
class RunContext:
    """The run that tasks belong to."""

    run_id: str
    dataset: str
    dataset_id: int
    round_id: int | None = None
    stage: Stage
    round: int = 0
    model: str
    annotator: str = SIMULATED
    """`simulated`, or `people` at the annotation page."""

    def provenance(
        self, source: Source, *, shard: int = 0, annotator: str | None = None
    ) -> Provenance:
        """Return the provenance of masks that the run makes."""
        return Provenance(
            dataset=self.dataset,
            stage=self.stage,
            round=self.round,
            run_id=self.run_id,
            shard=shard,
            model=self.model,
            source=source,
            annotator=annotator,
        )

    def task(self, kind: TaskKind, image_id: int, **payload: Any) -> NewTask:
        """Return a task of the run on an image."""
        return NewTask(
            dataset_id=self.dataset_id,
            image_id=image_id,
            kind=kind,
            run_id=self.run_id,
            round_id=self.round_id,
            payload=payload,
        )


def context_without_round(workspace: Workspace, run: Run) -> RunContext:
    """Return the context of a run outside the loop: stage 3 alone, or a review of its masks."""
    return RunContext(
        run_id=run.id,
        dataset=workspace.catalog.datasets.get_by_id(run.dataset_id).name,
        dataset_id=run.dataset_id,
        stage=Stage.FULLY_AUTOMATIC,
        model=str(run.model),
    )
