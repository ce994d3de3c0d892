"""What an audit is to find out, and its start."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from engine.core.errors import DataEngineError
from engine.core.records import Stage
from engine.evaluation.audit import looks
from flows.review.audit_frame import Frame, read_frame
from flows.workspace.audits import RUNS
from flows.workspace.workspace import Workspace, code_version
from storage.catalog import (
    PEOPLE,
    SIMULATED,
    AnnotatorKind,
    Dataset,
    Run,
    RunKind,
    new_id,
)


class AuditError(DataEngineError):
    """An audit cannot begin or continue; the message says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditOptions:
    """What an audit is to find out.

    Raises:
        AuditError: a value is out of range.
    """

    stage: Stage = Stage.FULLY_AUTOMATIC
    at_iou: float = 0.9
    """A mask is good enough if its IoU with its corrected version is at least this."""
    target: float = 0.94
    """The share of masks that are to be good enough."""
    confidence: float = 0.95
    limit: int = 400
    """Masks that are judged at most."""
    seed: int | None = None
    """Of the sample; None: another one for each audit."""
    annotator: str = PEOPLE

    def __post_init__(self) -> None:
        for name in ("at_iou", "target"):
            if not 0 < getattr(self, name) <= 1:
                raise AuditError(
                    f"{name} must be above 0 and at most 1, got {getattr(self, name):g}; "
                    "94 percent is 0.94"
                )
        if not 0.5 <= self.confidence < 1:
            raise AuditError(
                f"confidence must be at least 0.5 and below 1, got {self.confidence:g}; "
                "95 percent is 0.95"
            )
        if self.limit < 1:
            raise AuditError(f"limit must be at least 1, got {self.limit}")
        if self.annotator not in (PEOPLE, SIMULATED):
            raise AuditError(f"annotator must be {PEOPLE} or {SIMULATED}, got {self.annotator!r}")


def start_audit(workspace: Workspace, dataset: str, options: AuditOptions) -> Run:
    """Start an audit, or resume the dataset's unfinished one with the same options.

    Raises:
        AuditError: there are no masks to sample, or nobody can judge them.
        DatasetNotFoundError: no such dataset.
    """
    row = workspace.catalog.datasets.get(dataset)
    asked = {**asdict(options), "stage": str(options.stage)}
    begun = workspace.catalog.runs.all(
        dataset_id=row.id, kind=RunKind.REVIEW, unfinished=True, limit=RUNS
    )
    known = next((run for run in begun if run.config.get("audit", {}).get("asked") == asked), None)
    if known is not None:
        return _start(workspace, known.id, row, known.config)
    _check_annotators(workspace, row, options)
    plan: dict[str, Any] = {"asked": asked, "table_version": workspace.masks.version()}
    run_id = new_id()
    frame = frame_of(workspace, row, run_id, plan)
    masks = int(frame.sizes(reviewed_masks(workspace, row.id)).sum())
    if not masks:
        raise AuditError(_nothing(dataset, options))
    plan["looks"] = looks(min(options.limit, masks))
    settings = workspace.settings.shaping()
    return _start(workspace, run_id, row, {"audit": plan, "settings": settings})


def _start(workspace: Workspace, run_id: str, dataset: Dataset, config: dict[str, Any]) -> Run:
    return workspace.catalog.runs.start(
        run_id,
        RunKind.REVIEW,
        dataset_id=dataset.id,
        model=workspace.current_model().version,
        config=config,
        code_version=code_version(),
    )


def _check_annotators(workspace: Workspace, dataset: Dataset, options: AuditOptions) -> None:
    if options.annotator == SIMULATED:
        if not workspace.images_with_truth(dataset.name):
            raise AuditError(
                f"dataset {dataset.name!r} has no ground truth, which simulated annotators need; "
                f"give --annotator {PEOPLE}"
            )
        return
    people = [p for p in workspace.catalog.annotators.all() if p.kind == AnnotatorKind.PERSON]
    able = [
        p
        for p in people
        if p.role == "admin"
        or (p.role == "reviewer" and (p.datasets is None or dataset.id in p.datasets))
    ]
    if people and not able:  # without people, the page needs no sign-in
        raise AuditError(
            f"nobody may review dataset {dataset.name!r}; add a person with "
            f"`dataengine annotators add NAME --role reviewer --dataset {dataset.name}`"
        )


def _nothing(dataset: str, options: AuditOptions) -> str:
    """The message about a stage without masks to sample."""
    where = " on images with ground truth" if options.annotator == SIMULATED else ""
    return (
        f"dataset {dataset!r} has no automatic masks of stage {options.stage}{where} to "
        f"sample; make some with `dataengine generate --dataset {dataset}`"
    )


def frame_of(workspace: Workspace, dataset: Dataset, run_id: str, plan: dict[str, Any]) -> Frame:
    """Return the masks that an audit draws from; `plan` is `audit` in the config of its run."""
    asked = plan["asked"]
    simulated = asked["annotator"] == SIMULATED
    return read_frame(
        workspace,
        dataset.name,
        Stage(asked["stage"]),
        version=plan["table_version"],
        seed=list(run_id.encode()) if asked["seed"] is None else asked["seed"],
        images=workspace.images_with_truth(dataset.name) if simulated else None,
    )


def reviewed_masks(workspace: Workspace, dataset_id: int) -> set[str]:
    """Masks that reviewers have rejected or fixed."""
    verdicts = workspace.catalog.verdicts
    return verdicts.rejected_mask_ids(dataset_id) | verdicts.fixes(dataset_id).keys()
