"""What the deployments run: one step each, with the workspace's folder as a parameter.

None of them waits for people. Each may be started again at any time, by a schedule, a trigger or a
retry: what it does is named after the flow run or after the state it found.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from rich.text import Text

from flows.loop.advance import advance_dataset, retrain_if_due
from flows.operations import sweep
from flows.release.release import NothingToReleaseError, release
from flows.review.rescore import rescore_dataset
from flows.review.review import finish_review, queue_sample, start_review
from flows.stages.fully_automatic import RUNS, generate, images_without_masks
from flows.training.retrain import retrain
from flows.workspace import progress
from flows.workspace.run_lock import guarded
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import Dataset, RunKind, RunState

TELL_SECONDS = 30.0
"""How often a flow run's log says how far it has come."""


class RunLog(progress.Lines):
    """Lines go to the flow run's log; how far long work has come, twice a minute."""

    def __init__(self) -> None:
        log = get_run_logger()  # threads that a flow starts do not find it by themselves
        super().__init__(lambda text: log.info(Text.from_markup(text).plain), TELL_SECONDS)


@contextmanager
def opened(root: str) -> Iterator[Workspace]:
    """The workspace, ready for use, with what flows say going to Prefect."""
    before = progress.current()
    progress.use(RunLog())
    try:
        workspace = open_workspace(root)
        workspace.prepare()
        yield workspace
    finally:
        progress.use(before)


@flow(name="generate-dataset")
def generate_dataset(workspace: str, dataset: str, limit: int | None = None) -> dict[str, Any]:
    """Masks of everything in the dataset's images that no such run has been over; runs that were
    cut short are finished first."""
    with opened(workspace) as found:
        row = found.catalog.datasets.get(dataset)
        kind = RunKind.FULLY_AUTOMATIC
        for run in found.catalog.runs.all(dataset_id=row.id, kind=kind, limit=RUNS):
            is_cut_short = run.round_id is None and run.state != RunState.FINISHED
            if is_cut_short and run.id != _run_id():
                generate(workspace, run.id, dataset)
        if next(images_without_masks(found, row), None) is None:
            return {"images": 0, "masks": 0}
        return generate(workspace, _run_id(), dataset, limit=limit, only_new=True)


@flow(name="advance-loop")
def advance_loop(workspace: str, dataset: str | None = None) -> list[dict[str, Any]]:
    """The next step of a dataset, or of all of them, as far as it goes without people."""
    with opened(workspace) as found:
        return [advance_dataset(found, row).to_json() for row in _datasets(found, dataset)]


@flow(name="retrain-dataset")
def retrain_dataset(workspace: str, dataset: str, only_if_due: bool = False) -> dict[str, Any]:
    """Train a new version on the dataset's masks; `only_if_due`: where reviewers' verdicts since
    the last retrain are reason for it."""
    with opened(workspace) as found:
        if only_if_due:
            return retrain_if_due(found, found.catalog.datasets.get(dataset)).to_json()
        return retrain(workspace, dataset, f"{dataset}-{_started():%Y%m%dT%H%M%SZ}").to_json()


@flow(name="review-sample")
def review_sample(workspace: str, dataset: str, images: int = 20) -> dict[str, Any]:
    """Queue automatic masks of random images for people to judge at the annotation page."""
    with opened(workspace) as found:
        job = start_review(found, dataset, _run_id())
        with guarded(found, job.run_id):
            asked = queue_sample(found, job, images, None, with_truth=False)
            if not asked:
                found.catalog.runs.finish(job.run_id, finish_review(found, job).to_json())
        return {"images": len(asked), "masks": sum(asked.values())}


@flow(name="release-dataset")
def release_dataset(workspace: str, dataset: str, name: str | None = None) -> dict[str, Any]:
    """Freeze the dataset under `name`, `<dataset>-<day>T<time>` by default."""
    with opened(workspace):
        try:
            return release(workspace, dataset, name or f"{dataset}-{_started():%Y%m%dT%H%M%SZ}")
        except NothingToReleaseError as error:
            return {"released": None, "reason": str(error)}


@flow(name="rescore-masks")
def rescore_masks(workspace: str, dataset: str | None = None) -> list[dict[str, Any]]:
    """Compare a sample of old automatic masks with the current model; queue what differs."""
    with opened(workspace) as found:
        rows = [rescore_dataset(found, row) for row in _datasets(found, dataset)]
        return [row.to_json() for row in rows if row is not None]


@flow(name="sweep-workspace")
def sweep_workspace(workspace: str) -> Any:
    """Remove what nothing refers to any more."""
    with opened(workspace) as found:
        return sweep.sweep_workspace(found, delete=True)


def _datasets(workspace: Workspace, name: str | None) -> list[Dataset]:
    datasets = workspace.catalog.datasets
    return [datasets.get(name)] if name else datasets.all()


def _run_id() -> str:
    """An id for the catalog's run: the flow run's, so that a retry goes on with it."""
    return UUID(flow_run.get_id()).hex


def _started() -> datetime:
    """When the flow run was to start; the same in a retry."""
    return flow_run.get_scheduled_start_time().astimezone(UTC)
