"""Routes a dataset's automatic masks by a model that judges them: sure accepts and rejects become
its verdicts, the rest goes to the review queue.

The model is an annotator of kind model, named after its version. Its verdicts are those of review
tasks that are reserved for it, in a run of their own; people's tasks are in a second run. Masks
that people have judged or will judge are left to them. A stopped routing continues.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from engine.core.batches import batches
from engine.core.records import Mask, Source
from engine.verifier.routing import Route, Side
from flows.review.review import finish_review, queue_review
from flows.review.route_options import RouteError, RouteOptions
from flows.stages.embeddings import make_embeddings
from flows.stages.run_context import RunContext, context_without_round
from flows.stages.seen_masks import IMAGES_AT_ONCE
from flows.workspace import costs
from flows.workspace.run_lock import named_lock, review_lock, tracked_run
from flows.workspace.workspace import Workspace, code_version
from storage import layout
from storage.catalog import (
    Annotator,
    AnnotatorKind,
    Dataset,
    RunKind,
    TaskKind,
    TaskResult,
    TaskVerdict,
    VerdictKind,
    new_id,
)
from storage.masks import write_parquet

RUNS = 10_000
"""Latest unfinished review runs that are searched for a stopped routing."""

PASS, DROP, ASK = 1, -1, 0


@dataclass(frozen=True, slots=True)
class JudgedImage:
    """Some masks of an image, and the probability that people accept each, (N,)."""

    image_id: int
    masks: Sequence[Mask]
    probability_N: np.ndarray


class Thresholds(Protocol):
    """A model with thresholds by what people say."""

    @property
    def version(self) -> str:
        """The annotator's name."""
        ...

    def thresholds(self, precision: float) -> Route:
        """Return thresholds by people's answers.

        Raises:
            RouteError: none reaches the precision.
        """
        ...


class Judge(Thresholds, Protocol):
    """A model that judges masks."""

    def judged(self, image_ids: Sequence[int], wanted: set[str]) -> Iterator[JudgedImage]:
        """Yield the wanted masks of images with their probabilities; masks that cannot be judged
        are left out. An image may come in several parts."""
        ...


def route_by(
    workspace: Workspace,
    dataset: Dataset,
    judge: Judge,
    options: RouteOptions,
    *,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Route the current masks of a stage that people have not judged and will not.

    Returns:
        `dataset`, `stage`, `precision`, `verifier`, the judge's version; numbers of masks `passed`,
        `dropped` and `asked`; `saved`, the share of masks that needs no person; the thresholds
        `accept` and `reject` (`Side`); `review_run`, the run of people's tasks, None without any.

    Raises:
        RouteError: no threshold reaches the precision, or there are no masks to route.
    """
    with named_lock(workspace, review_lock(dataset.id)):
        begun = _Routing.begin(workspace, dataset, judge, options, dry_run=dry_run)
        if dry_run:
            return begun.summary(sum(map(_counted, begun.sorted_masks()), Counter()), None)
        with tracked_run(workspace, begun.run_id), costs.spending(workspace, begun.run_id):
            return begun.route()


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Masks of one image by where they go."""

    image_id: int
    masks: dict[int, list[Mask]]


def _counted(found: _Sorted) -> Counter[int]:
    return Counter({way: len(masks) for way, masks in found.masks.items()})


@dataclass(frozen=True, slots=True)
class _Routing:
    """A routing with its run."""

    workspace: Workspace
    dataset: Dataset
    judge: Judge
    options: RouteOptions
    thresholds: Route
    run_id: str

    @staticmethod
    def begin(
        workspace: Workspace,
        dataset: Dataset,
        judge: Judge,
        options: RouteOptions,
        *,
        dry_run: bool,
    ) -> _Routing:
        """Begin a routing, or resume the stopped one with the same judge and options."""
        asked = {**asdict(options), "stage": str(options.stage), "verifier": judge.version}
        model = workspace.current_model().version
        run_id, route = begin_route(
            workspace, dataset, judge, asked, RunKind.REVIEW, model, dry_run=dry_run
        )
        return _Routing(workspace, dataset, judge, options, route, run_id)

    def route(self) -> dict[str, Any]:
        """Give verdicts and queue the rest; return the summary, which is stored with the run."""
        workspace, annotator = self.workspace, annotator_of(self.workspace, self.judge.version)
        mine = context_without_round(workspace, workspace.catalog.runs.get(self.run_id))
        review_id = peoples_run(self.run_id)
        self._submit(mine, annotator)
        for found in self.sorted_masks():
            if sure := found.masks[PASS] + found.masks[DROP]:
                accepted = [mask.mask_id for mask in found.masks[PASS]]
                names = [mask.mask_id for mask in sure]
                task = mine.task(TaskKind.REVIEW, found.image_id, mask_ids=names, accepted=accepted)
                workspace.queue.add([replace(task, reserved_for=annotator.id)])
                self._submit(mine, annotator)
            if asked := found.masks[ASK]:
                context = start_peoples_run(workspace, self.dataset, self.run_id)
                queue_review(workspace, context, {found.image_id: asked})
        finish_review(workspace, mine)
        waiting = workspace.catalog.verdicts.asked_in_run(review_id)
        if waiting:
            context = start_peoples_run(workspace, self.dataset, self.run_id)
            make_embeddings(workspace, context, sorted(waiting))  # people do not wait for the model
        counts = Counter({ASK: sum(map(len, waiting.values()))})
        for row in workspace.catalog.verdicts.for_run(self.run_id):
            counts[PASS if row.verdict == VerdictKind.ACCEPT else DROP] += 1
        summary = self.summary(counts, review_id if waiting else None)
        return workspace.catalog.runs.finish(self.run_id, summary).metrics

    def _submit(self, context: RunContext, annotator: Annotator) -> None:
        """Answer the judge's open tasks."""
        workspace = self.workspace
        seconds = workspace.settings.lease_seconds
        while task := workspace.queue.lease(
            annotator.id, kinds=[TaskKind.REVIEW], seconds=seconds, run_id=context.run_id
        ):
            accepted = set(task.payload["accepted"])
            verdicts = [
                TaskVerdict(
                    mask_id=name,
                    verdict=VerdictKind.ACCEPT if name in accepted else VerdictKind.REJECT,
                    seconds=0.0,
                )
                for name in task.payload["mask_ids"]
            ]
            lease = str(task.lease_id)
            key = layout.ANSWER.key(run=context.run_id, task=task.id, attempt=lease)
            workspace.objects.put(key, write_parquet([]))
            workspace.queue.submit(task.id, lease, key, TaskResult(verdicts=tuple(verdicts)))

    def sorted_masks(self) -> Iterator[_Sorted]:
        """Yield the masks to route, image by image.

        Raises:
            RouteError: there are no masks of the stage.
        """
        workspace, name, stage = self.workspace, self.dataset.name, self.options.stage
        only: dict[str, Any] = {"dataset": name, "stage": stage, "source": Source.AUTOMATIC}
        images = sorted(int(str(key[0])) for key in workspace.masks.counts(("image_id",), **only))
        if not images:
            raise RouteError(
                f"dataset {name!r} has no automatic masks of stage {stage}; make some with "
                f"`dataengine generate --dataset {name}`"
            )
        left_out = self._asked()
        for part in batches(images, IMAGES_AT_ONCE):
            columns = ["mask_id"]
            wanted: set[str] = set()
            for rows in workspace.masks.scan(
                current_only=True, columns=columns, image_ids=part, **only
            ):
                wanted.update(rows.column("mask_id").to_pylist())
            yield from self._sorted_part(part, wanted - left_out)

    def _sorted_part(self, image_ids: list[int], wanted: set[str]) -> Iterator[_Sorted]:
        images = {int(name.split("/")[1]) for name in wanted}
        found: dict[int, _Sorted] = {}
        for one in self.judge.judged(sorted(images & set(image_ids)), wanted):
            ways = self.thresholds.sorted(one.probability_N)
            start = _Sorted(one.image_id, {PASS: [], DROP: [], ASK: []})
            masks = found.setdefault(one.image_id, start).masks
            for mask, way in zip(one.masks, ways.tolist(), strict=True):
                masks[way].append(mask)
        yield from found.values()

    def _asked(self) -> set[str]:
        """Return masks that people have judged or will judge, and those that this version has
        judged; verdicts of other models do not count."""
        everyone = self.workspace.catalog.annotators.all()
        others = [
            row.id
            for row in everyone
            if row.kind == AnnotatorKind.MODEL and row.name != self.judge.version
        ]
        return self.workspace.catalog.verdicts.asked_mask_ids(self.dataset.id, besides=others)

    def summary(self, counts: Counter[int], review_run: str | None) -> dict[str, Any]:
        """Return the result, as `route_by` describes it."""
        return {
            "dataset": self.dataset.name,
            "stage": str(self.options.stage),
            **route_summary(self.judge.version, self.thresholds, counts, review_run),
        }


def route_summary(
    version: str, route: Route, counts: Counter[int], review_run: str | None
) -> dict[str, Any]:
    """Return what a routing's result says about the judge of that version, as `route_by` describes
    it; `counts`: by PASS, DROP and ASK."""
    total = sum(counts.values())
    sure = counts[PASS] + counts[DROP]
    return {
        "precision": route.precision,
        "verifier": version,
        "passed": counts[PASS],
        "dropped": counts[DROP],
        "asked": counts[ASK],
        "saved": sure / total if total else None,
        "accept": asdict(route.accept),
        "reject": asdict(route.reject),
        "review_run": review_run,
        "judged": sure,
    }


def begin_route(
    workspace: Workspace,
    dataset: Dataset,
    judge: Thresholds,
    asked: dict[str, Any],
    kind: RunKind,
    model: str,
    *,
    dry_run: bool,
    **config: Any,
) -> tuple[str, Route]:
    """Begin a routing, or resume the stopped one that was asked the same; return the id of its run
    and its thresholds, which a resumed one keeps. A dry run starts none.

    Raises:
        RouteError: no threshold reaches the precision `asked["precision"]`.
    """
    runs = workspace.catalog.runs
    known = None
    if not dry_run:
        unfinished = runs.all(dataset_id=dataset.id, kind=kind, unfinished=True, limit=RUNS)
        same = (run for run in unfinished if run.config.get("route", {}).get("asked") == asked)
        known = next(same, None)
    if known is not None:
        kept = known.config["route"]["thresholds"]
        sides = {name: Side(**kept[name]) for name in ("accept", "reject")}
        route = Route(precision=asked["precision"], **sides)
        runs.start(known.id, kind, dataset_id=dataset.id)  # a failed run is running again
        return known.id, route
    route, run_id = judge.thresholds(asked["precision"]), new_id()
    if not dry_run:
        runs.start(
            run_id,
            kind,
            dataset_id=dataset.id,
            model=model,
            config={
                "settings": workspace.settings.shaping(),
                "route": {"asked": asked, "thresholds": route.to_json()},
                **config,
            },
            code_version=code_version(),
        )
    return run_id, route


def peoples_run(run_id: str) -> str:
    """Return the id of the run with the tasks of people that a routing queues."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"route/{run_id}").hex


def start_peoples_run(
    workspace: Workspace, dataset: Dataset, run_id: str, **config: Any
) -> RunContext:
    """Start the run with people's tasks of a routing, unless it exists; return its context."""
    run = workspace.catalog.runs.start(
        peoples_run(run_id),
        RunKind.REVIEW,
        dataset_id=dataset.id,
        model=workspace.current_model().version,
        config={"settings": workspace.settings.shaping(), "routed_by": run_id, **config},
        code_version=code_version(),
    )
    return context_without_round(workspace, run)


def annotator_of(workspace: Workspace, version: str) -> Annotator:
    """Return the annotator of kind model that is named after a judge's version.

    Raises:
        RouteError: an annotator of another kind has the name.
    """
    found = workspace.catalog.annotators.get_or_create(
        version, kind=AnnotatorKind.MODEL, role="reviewer"
    )
    if found.kind != AnnotatorKind.MODEL:
        raise RouteError(f"an annotator of kind {found.kind} is named {version!r}")
    return found
