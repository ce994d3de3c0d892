"""The Prefect flows of the jobs: one step each, with the workspace's folder as a parameter.

No flow waits for people. Each may be started again at any time, by a schedule, a trigger or a
retry: its results are named after the flow run or after the state of the catalog.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from rich.text import Text

from flows.encoders.names import PUBLISHED_CLIP
from flows.loop.advance import advance_dataset, retrain_if_due
from flows.operations import sweep
from flows.release.release import NothingToReleaseError, release
from flows.review.rescore import rescore_dataset
from flows.review.review import finish_review, queue_sample, start_review
from flows.review.route_options import RouteOptions
from flows.review.verifier_routing import route_dataset
from flows.review.verifier_training import run_training
from flows.semantics.refit import refit_if_due
from flows.semantics.vectors import make_vectors
from flows.stages.fully_automatic import RUNS, generate, images_without_masks
from flows.training.retrain import retrain
from flows.workspace import progress
from flows.workspace.run_lock import tracked_run
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import Dataset, RunKind, RunState

LOG_SECONDS = 30.0
"""How often a flow run logs its progress."""


class RunLog(progress.Lines):
    """Writes lines to the flow run's log, and progress every LOG_SECONDS."""

    def __init__(self) -> None:
        log = get_run_logger()  # threads of a flow have no context to find it by
        super().__init__(lambda text: log.info(Text.from_markup(text).plain), LOG_SECONDS)


@contextmanager
def opened(root: str) -> Iterator[Workspace]:
    """Open and prepare the workspace; what flows report goes to the flow run's log."""
    before = progress.current()
    progress.use(RunLog())
    try:
        workspace = open_workspace(root)
        workspace.prepare()
        yield workspace
    finally:
        progress.use(before)


@flow
def generate_dataset(workspace: str, dataset: str, limit: int | None = None) -> dict[str, Any]:
    """Prefect flow around `generate`: finish interrupted runs, then make masks in all images of the
    dataset that no such run has processed."""
    with opened(workspace) as found:
        row = found.catalog.datasets.get(dataset)
        kind = RunKind.FULLY_AUTOMATIC
        for run in found.catalog.runs.all(dataset_id=row.id, kind=kind, limit=RUNS):
            is_interrupted = run.round_id is None and run.state != RunState.FINISHED
            if is_interrupted and run.id != _run_id():
                generate(workspace, run.id, dataset)
        if next(images_without_masks(found, row), None) is None:
            return {"images": 0, "masks": 0}
        return generate(workspace, _run_id(), dataset, limit=limit, only_new=True)


@flow
def advance_loop(workspace: str, dataset: str | None = None) -> list[dict[str, Any]]:
    """Prefect flow around `advance_dataset`, for one dataset or all."""
    with opened(workspace) as found:
        return [advance_dataset(found, row).to_json() for row in _datasets(found, dataset)]


@flow
def retrain_dataset(workspace: str, dataset: str, only_if_due: bool = False) -> dict[str, Any]:
    """Prefect flow around `retrain`: train a new version on the dataset's masks. `only_if_due`:
    only if the verdicts since the last retrain require one."""
    with opened(workspace) as found:
        if only_if_due:
            return retrain_if_due(found, found.catalog.datasets.get(dataset)).to_json()
        return retrain(workspace, dataset, f"{dataset}-{_started():%Y%m%dT%H%M%SZ}").to_json()


@flow
def review_sample(workspace: str, dataset: str, images: int = 20) -> dict[str, Any]:
    """Queue automatic masks of random images for people to review on the annotation page."""
    with opened(workspace) as found:
        job = start_review(found, dataset, _run_id())
        with tracked_run(found, job.run_id):
            queued = queue_sample(found, job, images, None, with_truth=False)
            if not queued:
                found.catalog.runs.finish(job.run_id, finish_review(found, job).to_json())
        return {"images": len(queued), "masks": sum(queued.values())}


@flow
def train_verifier_of_dataset(workspace: str, dataset: str) -> dict[str, Any]:
    """Prefect flow around `run_training`: train a verifier on people's verdicts."""
    with opened(workspace) as found:
        return run_training(found, found.catalog.datasets.get(dataset), _run_id()).to_json()


@flow
def route_masks_of_dataset(workspace: str, dataset: str, precision: float = 0.95) -> dict[str, Any]:
    """Prefect flow around `route_dataset`: the verifier judges the masks that it is sure of."""
    with opened(workspace) as found:
        options = RouteOptions(precision=precision)
        return route_dataset(found, found.catalog.datasets.get(dataset), options)


@flow
def make_vectors_of_dataset(workspace: str, dataset: str, encoder: str = "lite") -> dict[str, Any]:
    """Prefect flow around `make_vectors`: the vectors that the dataset's masks lack."""
    with opened(workspace):
        return make_vectors(workspace, dataset, encoder)


@flow
def suggest_labels_of_dataset(
    workspace: str,
    dataset: str,
    encoder: str = "lite",
    precision: float = 0.95,
    only_if_due: bool = False,
) -> dict[str, Any]:
    """Prefect flow around `suggest_labels`. Without enough labels nothing is learned.
    `only_if_due`: as the suggester in use was learned, if enough labels came since then."""
    from engine.semantics.suggesting import TooFewLabelsError
    from flows.semantics.suggesting import suggest_labels

    with opened(workspace) as found:
        if only_if_due:
            return refit_if_due(found, found.catalog.datasets.get(dataset))
        try:
            return suggest_labels(workspace, dataset, encoder, precision)
        except TooFewLabelsError as error:
            return {"suggester": None, "reason": str(error)}


@flow
def train_clip_of_dataset(
    workspace: str, dataset: str, encoder: str = PUBLISHED_CLIP, steps: int | None = None
) -> dict[str, Any]:
    """Prefect flow around `train_clip`, for an adapter. Without enough labels none is trained."""
    from engine.semantics.contrastive import ContrastiveError
    from flows.semantics.clip_training import train_clip

    with opened(workspace):
        try:
            return train_clip(workspace, dataset, encoder, steps=steps)
        except ContrastiveError as error:
            return {"version": None, "reason": str(error)}


@flow
def run_program_on_dataset(
    workspace: str, dataset: str, program: str | None = None, tag: str | None = None
) -> dict[str, Any]:
    """Prefect flow around `run_program`: the newest version of a saved program over all images."""
    from flows.programs.running import RunOptions, run_program
    from flows.programs.saved import load_program

    with opened(workspace) as found:
        saved = load_program(found, program or "")
        options = RunOptions(tag=tag).to_config()
        text = saved.program.text
        return run_program(workspace, dataset, text, saved.name, saved.version, options)


@flow
def judge_masks_of_dataset(workspace: str, dataset: str, precision: float = 0.95) -> dict[str, Any]:
    """Prefect flow around `judge_masks`. A judge that is off does nothing."""
    from flows.review.mask_judge import judge_masks

    with opened(workspace):
        return _if_on(lambda: judge_masks(workspace, dataset, precision))


@flow
def judge_labels_of_dataset(
    workspace: str, dataset: str, precision: float = 0.95
) -> dict[str, Any]:
    """Prefect flow around `judge_labels`. A judge that is off does nothing."""
    from flows.review.label_judge import judge_labels

    with opened(workspace):
        return _if_on(lambda: judge_labels(workspace, dataset, precision))


@flow
def judge_missing_of_dataset(
    workspace: str, dataset: str, precision: float = 0.95
) -> dict[str, Any]:
    """Prefect flow around `judge_missing`. A judge that is off does nothing."""
    from flows.review.missing_judge import judge_missing

    with opened(workspace):
        return _if_on(lambda: judge_missing(workspace, dataset, precision))


def _if_on(judge: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    from flows.review.few_shot_judge import JudgeError

    try:
        return judge()
    except JudgeError as error:
        return {"judge": None, "reason": str(error)}


@flow
def caption_masks_of_dataset(workspace: str, dataset: str, model: str = "llm") -> dict[str, Any]:
    """Prefect flow around `caption_dataset`: describe the masks that have no caption."""
    from flows.semantics.captioning import caption_dataset

    with opened(workspace):
        return caption_dataset(workspace, dataset, "masks", model)


@flow
def release_dataset(workspace: str, dataset: str, name: str | None = None) -> dict[str, Any]:
    """Prefect flow around `release`; the name is `<dataset>-<day>T<time>` by default."""
    with opened(workspace):
        try:
            return release(workspace, dataset, name or f"{dataset}-{_started():%Y%m%dT%H%M%SZ}")
        except NothingToReleaseError as error:
            return {"released": None, "reason": str(error)}


@flow
def rescore_masks(workspace: str, dataset: str | None = None) -> list[dict[str, Any]]:
    """Prefect flow around `rescore_dataset`, for one dataset or all."""
    with opened(workspace) as found:
        rows = [rescore_dataset(found, row) for row in _datasets(found, dataset)]
        return [row.to_json() for row in rows if row is not None]


@flow
def sweep_workspace(workspace: str) -> Any:
    """Prefect flow around `sweep.sweep_workspace`, which deletes unreferenced objects."""
    with opened(workspace) as found:
        return sweep.sweep_workspace(found, delete=True)


def _datasets(workspace: Workspace, name: str | None) -> list[Dataset]:
    datasets = workspace.catalog.datasets
    return [datasets.get(name)] if name else datasets.all()


def _run_id() -> str:
    """Id of the catalog's run: the flow run's, so that a retry resumes it."""
    return UUID(flow_run.get_id()).hex


def _started() -> datetime:
    """When the flow run was scheduled to start, UTC; the same in a retry."""
    return flow_run.get_scheduled_start_time().astimezone(UTC)
