"""Audit: people correct a random sample of automatic masks, and the share that hardly changes is
known with an interval. It asks for more masks until the interval decides on the target.

An audit is a run without tasks of its own. Each look is a review run, whose id follows from the
audit's; its verdicts and fixes count like any reviewer's. A stopped audit continues from them.
"""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from prefect import flow

from engine.core.rle import iou_matrix
from engine.evaluation import audit as statistics
from engine.evaluation.audit import Counts, Decision, Share
from flows.review.audit_frame import Frame
from flows.review.audit_plan import AuditError, frame_of, reviewed_masks
from flows.review.review import finish_if_submitted, simulated_reviewer
from flows.stages.embeddings import make_embeddings
from flows.stages.run_context import RunContext, context_without_round
from flows.stages.task_runner import answer_tasks, wait_for_people
from flows.workspace.run_lock import named_lock, review_lock, tracked_run
from flows.workspace.workspace import Workspace, code_version, open_workspace
from storage.catalog import PEOPLE, Run, RunKind, RunState, TaskKind, VerdictKind

NOTE = (
    "This is an audit: correct every mask until nothing is left to correct. Accept a mask only if "
    "its outline is right everywhere; reject it if it shows no object or part."
)
"""Shown with each task."""


@dataclass(slots=True)
class _Progress:
    """An audit, with the answers of its looks so far."""

    workspace: Workspace
    run: Run
    frame: Frame
    ours: set[str]
    """Masks that this audit has asked for, those of later looks too if it resumes."""
    ious: dict[str, float] = field(default_factory=dict)
    """By judged mask: the IoU with its corrected version, 0 if it was rejected."""
    unanswered: set[str] = field(default_factory=set)
    """Masks that nobody could judge: of unreadable or skipped images."""
    verdicts: Counter[str] = field(default_factory=Counter)
    shares: dict[float, Share] = field(default_factory=dict)
    """By IoU."""
    looks: list[dict[str, float]] = field(default_factory=list)

    @property
    def asked(self) -> dict[str, Any]:
        """The options of the audit, as they are stored."""
        return dict(self.run.config["audit"]["asked"])

    def gone(self) -> set[str]:
        """Masks that other reviews have rejected or fixed."""
        return reviewed_masks(self.workspace, self.run.dataset_id) - self.ours

    def counts(self, level: float) -> Counts:
        """Counts by stratum of masks with this IoU. Masks that are gone, or that nobody could
        judge, are not part of the strata."""
        good = {name for name, iou in self.ious.items() if iou >= level}
        sizes = self.frame.sizes(self.gone() | self.unanswered)
        return Counts(self.frame.count(good), self.frame.count(self.ious), sizes)


@dataclass(frozen=True, slots=True)
class JudgedMasks:
    """The masks of an audit: the frame, the IoU of each judged mask with its corrected version, and
    masks that are not counted (gone, or nobody could judge them)."""

    frame: Frame
    ious: dict[str, float]
    left_out: set[str]


def judged_masks(workspace: Workspace, run: Run) -> JudgedMasks:
    """Return the masks of an audit as they are judged so far.

    Raises:
        AuditError: none is judged.
    """
    done, ids = _begun(workspace, run)
    for look_id in ids:
        if _images(workspace, look_id):
            _collect(done, look_id)
    return JudgedMasks(done.frame, done.ious, done.gone() | done.unanswered)


@flow(name="audit")
def audit(workspace: str, run_id: str) -> dict[str, Any]:
    """Prefect flow: ask for masks look by look until the audit decides; return its result. The run
    is one of `start_audit`; that of a finished one is returned as it is.

    Raises:
        AuditError: masks of the sample wait in other reviews, or none could be judged.
        BusyError: another process runs this audit.
    """
    opened = open_workspace(workspace)
    run = opened.catalog.runs.get(run_id)
    if run.state == RunState.FINISHED:
        return run.metrics
    opened = opened.as_started(run)
    with named_lock(opened, f"audit/{run_id}", wait=False), tracked_run(opened, run_id):
        result = _look_until_decided(opened, run)
        return opened.catalog.runs.finish(run_id, result).metrics


def _look_until_decided(workspace: Workspace, run: Run) -> dict[str, Any]:
    plan = run.config["audit"]
    asked, planned = plan["asked"], plan["looks"]
    done, ids = _begun(workspace, run)
    levels = sorted({asked["at_iou"], *statistics.PAPER}, reverse=True)
    errors = statistics.error_at_looks(planned, asked["confidence"])
    for look_id, total, alpha in zip(ids, planned, errors, strict=True):
        _ask(done, look_id, total)
        _collect(done, look_id)
        for level in levels:
            share = statistics.share_of(done.counts(level), alpha)
            done.shares[level] = share.narrowed(done.shares.get(level, Share(0.0, 0.0, 1.0)))
        share = done.shares[asked["at_iou"]]
        done.looks.append({"judged": len(done.ious), **asdict(share)})
        decision = statistics.decide(share, asked["target"], is_last=total == planned[-1])
        if decision != Decision.CONTINUE:
            break
    return _result(done, decision, alpha)


def _begun(workspace: Workspace, run: Run) -> tuple[_Progress, list[str]]:
    """An audit without its answers, and the ids of its looks."""
    plan = run.config["audit"]
    dataset = workspace.catalog.datasets.get_by_id(run.dataset_id)
    ids = [_look_id(run, number) for number in range(len(plan["looks"]))]
    ours = {name for look_id in ids for name in _asked(_images(workspace, look_id))}
    return _Progress(workspace, run, frame_of(workspace, dataset, run.id, plan), ours), ids


def _look_id(run: Run, number: int) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, f"audit/{run.id}/{number}").hex


def _images(workspace: Workspace, look_id: str) -> dict[int, list[str]]:
    """The masks that a look has asked for, by image."""
    return workspace.catalog.verdicts.asked_in_run(look_id)


def _asked(images: dict[int, list[str]]) -> set[str]:
    """The masks of all images."""
    return {name for names in images.values() for name in names}


def _ask(done: _Progress, look_id: str, total: int) -> None:
    """Queue the masks of a look, unless that is done, and wait until they are judged."""
    workspace, run = done.workspace, done.run
    with named_lock(workspace, review_lock(run.dataset_id)):
        images = _images(workspace, look_id)
        if not images and not (images := _draw(done, total)):
            return
        context = _context(workspace, run, look_id)
        is_for_people = done.asked["annotator"] == PEOPLE
        if is_for_people:
            make_embeddings(workspace, context, images)
        workspace.queue.add(
            [
                context.task(TaskKind.REVIEW, image_id, mask_ids=names, note=NOTE)
                for image_id, names in images.items()
            ]
        )
    if workspace.catalog.runs.get(look_id).state == RunState.FINISHED:
        return
    with tracked_run(workspace, look_id):
        if is_for_people:
            wait_for_people(workspace, context, TaskKind.REVIEW)
        else:
            reviewer = simulated_reviewer(workspace, context, is_exact=True)
            answer_tasks(workspace, context, TaskKind.REVIEW, images, reviewer)
    finish_if_submitted(workspace, look_id)


def _context(workspace: Workspace, run: Run, look_id: str) -> RunContext:
    """Start the review run of a look, unless it exists; return its context."""
    look = workspace.catalog.runs.start(
        look_id,
        RunKind.REVIEW,
        dataset_id=run.dataset_id,
        model=run.model,
        config={"audit_of": run.id, "settings": run.config["settings"]},
        code_version=code_version(),
    )
    return context_without_round(workspace, look)


def _draw(done: _Progress, total: int) -> dict[int, list[str]]:
    """Draw the masks that a look adds, by image."""
    counts = done.counts(done.asked["at_iou"])
    wanted = statistics.allocate(total, counts) - counts.judged_H
    drawn = done.frame.draw(wanted, done.ours | done.gone())
    names = _asked(drawn)
    waiting = done.workspace.catalog.verdicts.waiting_mask_ids(done.run.dataset_id)
    if names & waiting:
        raise AuditError(
            f"{len(names & waiting)} masks of the sample wait in other reviews; have those judged "
            "first (`dataengine annotate`, then `dataengine advance`), and repeat the command"
        )
    return drawn


def _collect(done: _Progress, look_id: str) -> None:
    """Add the answers of a look.

    Raises:
        AuditError: the looks have none so far.
    """
    images = _images(done.workspace, look_id)
    asked = _asked(images)
    fixed: dict[str, str] = {}
    for verdict in done.workspace.catalog.verdicts.for_run(look_id):
        done.verdicts[str(verdict.verdict)] += 1
        done.ious[verdict.mask_id] = float(verdict.verdict == VerdictKind.ACCEPT)
        if verdict.fixed_mask_id is not None:
            fixed[verdict.mask_id] = verdict.fixed_mask_id
    found = done.workspace.masks.masks(image_ids=images, mask_ids={*fixed, *fixed.values()})
    masks = {mask.mask_id: mask.rle for mask in found}
    for old, new in fixed.items():
        done.ious[old] = float(iou_matrix([masks[old]], [masks[new]])[0, 0])
    done.ours |= asked
    done.unanswered |= asked.difference(done.ious)
    if not done.ious:
        raise AuditError(
            f"none of the {len(asked)} sampled masks could be judged: their images are unreadable "
            "or were skipped; another --seed draws another sample"
        )


def _result(done: _Progress, decision: Decision, alpha: float) -> dict[str, Any]:
    """The result as it is stored in the run's metrics and on a release's card.

    Args:
        alpha: error probability of the last look, for the intervals of strata.
    """
    counts = {level: done.counts(level) for level in done.shares}
    first, *_ = counts.values()
    plan = done.run.config["audit"]
    parts = {level: of_level.strata() for level, of_level in counts.items()}
    strata = [
        {
            "name": name,
            "masks": int(first.sizes_H[h]),
            "judged": int(first.judged_H[h]),
            "shares": {
                str(level): asdict(statistics.share_of(of_level[h], alpha))
                for level, of_level in parts.items()
            },
        }
        for h, name in enumerate(done.frame.names)
        if first.sizes_H[h]
    ]
    return {
        "audit": done.run.id,
        "dataset": done.workspace.catalog.datasets.get_by_id(done.run.dataset_id).name,
        **plan["asked"],
        "table_version": plan["table_version"],
        "masks": int(first.sizes_H.sum()),
        "judged": len(done.ious),
        "unanswered": len(done.unanswered),
        "verdicts": {str(kind): done.verdicts[str(kind)] for kind in VerdictKind},
        "decision": str(decision),
        "looks": done.looks,
        "shares": {str(level): asdict(share) for level, share in done.shares.items()},
        "paper": {str(level): share for level, share in statistics.PAPER.items()},
        "strata": strata,
    }
