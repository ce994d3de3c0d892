"""Commands and workers: ingest, rounds, stage 3, reviews, releases, maintenance, erasures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from engine.core.records import Stage
from flows.data.ingest import ingest_folder
from flows.loop.advance import advance_dataset
from flows.loop.data_engine import data_engine
from flows.operations.compact import compact_workspace
from flows.operations.erase import erase, erase_pending
from flows.operations.requeue import requeue_dataset
from flows.operations.sweep import sweep_workspace
from flows.release.export import export_release
from flows.release.release import NothingToReleaseError, release, release_to_export
from flows.review.review import queue_sample, start_review
from flows.stages import fully_automatic
from flows.stages.fully_automatic import next_shard, planned_images, start_generate
from flows.stages.rounds import NoImagesError
from flows.stages.shards import plan_shards
from flows.workspace import progress
from flows.workspace.run_lock import BusyError, tracked_run
from storage import erasures
from storage.catalog import (
    PEOPLE,
    LeaseLostError,
    NotFoundError,
    PlannedRound,
    ReleaseState,
    RunKind,
    Shard,
)
from storage.erasures import BusyError as InUseError
from tests.faults.model import checks
from tests.faults.model.base import FAULTS, WHICH, Commands
from tests.faults.model.faults import NO_FAULT, Fault
from tests.faults.model.world import DATASET, FOLDERS, VARIANTS, World, digest_of

PLAN = [
    PlannedRound(stage=Stage.ASSISTED_MANUAL, images=2, annotator=PEOPLE),
    PlannedRound(stage=Stage.SEMI_AUTOMATIC, images=2, annotator=PEOPLE),
    PlannedRound(stage=Stage.FULLY_AUTOMATIC, images=2),
]
"""A loop of each stage once."""


class Jobs(Commands):
    """Commands of the command line, and workers."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.leased: list[Shard] = []
        """Shards that slow workers have taken."""

    def images(self) -> dict[int, int]:
        """Ids of the images in the catalog, by their number."""
        known = {digest_of(n): n for folder in FOLDERS for n in folder}
        images = self.world.catalog.images.each(self.world.dataset_id)
        return {known[image.sha256]: image.id for image in images}

    @rule(
        fault=FAULTS,
        folder=st.integers(0, len(FOLDERS) - 1),
        variant=st.sampled_from([None, *VARIANTS]),
        replace=st.booleans(),
    )
    def ingest(self, fault: Fault, folder: int, variant: str | None, replace: bool) -> None:
        """Ingest new or known images, with new or known annotations."""
        path = self.world.folders / f"folder-{folder}"
        coco = None if variant is None else path.with_name(f"{path.name}-{variant}.json")
        outcome = self.do(
            fault,
            lambda: ingest_folder(
                self.world.workspace, DATASET, path, coco, replace_annotations=replace
            ),
        )
        for image in FOLDERS[folder]:
            held = self.truth.annotations[image]
            if outcome.is_done:
                self.truth.ingested.add(image)
            if variant is not None and (replace or None in held):
                left: set[str | None] = {variant} if replace else {variant, *(held - {None})}
                self.truth.annotations[image] = left if outcome.is_done else held | left

    @rule(fault=FAULTS, what=st.sampled_from(["run", "advance", "advance", "review", "new loop"]))
    def go_on(self, fault: Fault, what: str) -> None:
        """The loop's next step, until it waits for people."""
        if what == "advance":
            self._advance(fault)
        elif what == "review":
            self._ask_for_a_review(fault)
        else:
            self._run_loop(fault, new=what == "new loop")

    def _run_loop(self, fault: Fault, *, new: bool) -> None:
        root, loop = str(self.world.root), data_engine.fn
        call: Callable[[], Any] = lambda: loop(root, DATASET, PLAN, new=new, wait=False)  # noqa: E731
        self.do(fault, call, NoImagesError, BusyError)

    def _advance(self, fault: Fault) -> Any:
        world = self.world
        dataset = world.catalog.datasets.get(DATASET)
        call: Callable[[], Any] = lambda: advance_dataset(world.workspace, dataset)  # noqa: E731
        return self.do(fault, call, NoImagesError).value

    @precondition(lambda self: len(self._stage_3()) < 2)
    @rule(fault=FAULTS)
    def plan_stage_3(self, fault: Fault) -> None:
        """Plan a run whose shards workers can lease."""
        run_id = f"generate-{self.next_number()}"

        def plan(world: World = self.world) -> None:
            run = start_generate(world.workspace, run_id, DATASET, limit=3, only_new=True)
            plan_shards(world.workspace, run_id, planned_images(world.workspace, run))

        self.do(fault, plan)

    def _stage_3(self, which: int | None = None) -> list[str]:
        """Unfinished runs of stage 3, or one of them."""
        runs = self.world.catalog.runs.all(kind=RunKind.FULLY_AUTOMATIC, unfinished=True)
        ids = sorted(run.id for run in runs if run.id.startswith("generate-"))
        return ids if which is None or not ids else [ids[which % len(ids)]]

    @precondition(lambda self: self._stage_3())
    @rule(fault=FAULTS, which=WHICH, whole=st.booleans())
    def generate(self, fault: Fault, which: int, whole: bool) -> None:
        """A worker processes one shard, or a command all remaining ones."""
        (run_id,) = self._stage_3(which)
        if whole:
            self._generate(fault, run_id)
        else:
            self.do(fault, lambda: next_shard(self.world.workspace, run_id))

    @precondition(lambda self: self._stage_3())
    @rule(which=WHICH)
    def take_a_shard(self, which: int) -> None:
        """A slow worker leases a shard."""
        world = self.world
        for run_id in self._stage_3(which):
            seconds = world.workspace.settings.lease_seconds
            shard = world.catalog.shards.lease(run_id, "slow", seconds)
            self.leased += [] if shard is None else [shard]

    @precondition(lambda self: self.leased)
    @rule(fault=FAULTS, which=WHICH)
    def come_back_with_a_shard(self, fault: Fault, which: int) -> None:
        """The slow worker continues; another worker may have its shard meanwhile."""
        shard = self.leased.pop(which % len(self.leased))

        def work(workspace: Any = self.world.workspace) -> None:
            job = fully_automatic._context_of_run(workspace, shard.run_id)
            with progress.current().track("shard", None, "image") as step:
                fully_automatic.work_shard(workspace, job, shard, step)

        self.do(fault, work, LeaseLostError, NotFoundError)

    def _generate(self, fault: Fault, run_id: str) -> None:
        whole, root = fully_automatic.generate.fn, str(self.world.root)
        self.do(fault, lambda: whole(root, run_id, DATASET))

    def _ask_for_a_review(self, fault: Fault) -> None:
        """Runs `dataengine review`, killed while it waits for people."""
        number = self.next_number()

        def ask(workspace: Any = self.world.workspace) -> None:
            job = start_review(workspace, DATASET, f"review-{number}")
            with tracked_run(workspace, job.run_id):
                queue_sample(workspace, job, 2, number, with_truth=False)

        self.do(fault, ask)

    @rule(fault=FAULTS, which=st.integers(0, 1), export=st.booleans())
    def release(self, fault: Fault, which: int, export: bool) -> None:
        """Make a release, and check its export."""
        name = f"{DATASET}-{which}"
        whole, root = release.fn, str(self.world.root)
        self.do(fault, lambda: whole(root, DATASET, name), NothingToReleaseError)
        if export:
            self.do(NO_FAULT, lambda: self._export(name), NothingToReleaseError, NotFoundError)

    def _export(self, name: str) -> None:
        world = self.world
        found = release_to_export(world.workspace, name, DATASET)
        if found.state == ReleaseState.DONE:
            with tempfile.TemporaryDirectory() as folder:
                export_release(world.workspace, found, Path(folder), "coco")
                path = Path(folder) / "instances.json"
                checks.check_export(world, self.truth, found, path)

    @rule(fault=FAULTS, what=st.sampled_from(["sweep", "compact", "requeue"]))
    def keep_well(self, fault: Fault, what: str) -> None:
        """Sweep and compaction."""
        workspace = self.world.workspace
        if what == "sweep":
            self._sweep(fault)
        elif what == "compact":
            self.do(fault, lambda: compact_workspace(workspace))
        else:
            self.do(fault, lambda: requeue_dataset(workspace, DATASET))

    def _sweep(self, fault: Fault) -> None:
        if self.do(fault, lambda: sweep_workspace(self.world.workspace, delete=True)).is_done:
            checks.check_nothing_left(self.world)

    @rule(fault=FAULTS, which=WHICH)
    def erase_an_image(self, fault: Fault, which: int) -> None:
        """An erasure; an interrupted one is finished at once, as its command advises."""
        world, images = self.world, self.images()
        if not images:
            return
        number = sorted(images)[which % len(images)]
        row = world.catalog.datasets.get(DATASET)
        found = erasures.of_images(world.catalog, row, [images[number]])
        if self.do(fault, lambda: erase(world.workspace, found), InUseError).is_cut:
            erase_pending(world.workspace)
        world.open()  # page and workers restart
        if number not in self.images():
            self.truth.ingested.discard(number)
            self.truth.annotations.pop(number, None)
            self.truth.forget(images[number])

    @rule(seconds=st.sampled_from([5.0, 40.0, 100.0, 10_000.0]), size=st.integers(1, 3))
    def let_time_pass(self, seconds: float, size: int) -> None:
        """Change settings between commands."""
        self.world.clock.advance(seconds)
        self.world.set_shard_images(size)
