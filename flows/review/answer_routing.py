"""Routes what a few-shot judge says beside the verdicts on masks: sure answers take effect, the
rest goes to people.

A routing is a run of its own, and people's tasks are in a second one. A stopped routing continues.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from engine.verifier.routing import Route
from flows.review.few_shot_judge import FewShotJudge
from flows.review.model_routing import (
    ASK,
    DROP,
    PASS,
    annotator_of,
    begin_route,
    peoples_run,
    route_summary,
    start_peoples_run,
)
from flows.review.route_options import RouteOptions
from flows.stages.embeddings import make_embeddings
from flows.workspace import costs
from flows.workspace.run_lock import named_lock, review_lock, tracked_run
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset, NewTask, Run, RunKind, Task

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Answers(Generic[Item]):
    """What was asked about an image, and the probability that people say yes to each, (N,)."""

    image_id: int
    items: Sequence[Item]
    probability_N: np.ndarray


@dataclass(frozen=True, slots=True)
class Sorted(Generic[Item]):
    """What was asked about an image by where it goes (`model_routing.PASS`: a sure yes, `DROP`: a
    sure no, `ASK`), with the probabilities of a yes."""

    image_id: int
    ways: dict[int, list[tuple[Item, float]]]


class AnswerRouting(ABC, Generic[Item]):
    """A routing of one judge's answers about one dataset."""

    def __init__(
        self, workspace: Workspace, dataset: Dataset, judge: FewShotJudge, options: RouteOptions
    ) -> None:
        self.workspace, self.dataset = workspace, dataset
        self.judge, self.options = judge, options

    @abstractmethod
    def answers(self) -> Iterator[Answers[Item]]:
        """Ask, image by image, about all that no person has answered or will answer."""

    @abstractmethod
    def act(self, run_id: str, found: Sorted[Item]) -> NewTask | None:
        """Let the sure answers take effect; repeated, it changes nothing.

        Returns:
            The task of people about the rest, of the run `peoples_run(run_id)`; None without any.
        """

    @abstractmethod
    def counts(self, run: Run, tasks: Sequence[Task]) -> Counter[int]:
        """Return how many answers went where, from what is stored; `tasks`: of people."""

    def peoples_config(self) -> dict[str, Any]:
        """Return what the config of the run with people's tasks has besides."""
        return {}

    def route(self, *, dry_run: bool) -> dict[str, Any]:
        """Route; the result is as of `route_by`, without the stage.

        Raises:
            RouteError: no threshold reaches the precision.
        """
        workspace, dataset, version = self.workspace, self.dataset, self.judge.version
        asked = {"precision": self.options.precision, "verifier": version}
        with named_lock(workspace, review_lock(dataset.id)):
            first = workspace.catalog.labels.state(dataset.id).label_id
            run_id, thresholds = begin_route(
                workspace,
                dataset,
                self.judge,
                asked,
                RunKind.JUDGE,
                version,
                dry_run=dry_run,
                first_label=first,
            )
            if dry_run:
                counts: Counter[int] = Counter()
                for found in self._sorted(thresholds):
                    counts.update({way: len(items) for way, items in found.ways.items()})
                return self._summary(thresholds, counts, None)
            with tracked_run(workspace, run_id), costs.spending(workspace, run_id):
                return self._route(run_id, thresholds)

    def _route(self, run_id: str, thresholds: Route) -> dict[str, Any]:
        workspace, peoples = self.workspace, peoples_run(run_id)
        annotator_of(workspace, self.judge.version)  # raises before anything is changed
        for found in self._sorted(thresholds):
            task = self.act(run_id, found)
            if task is not None:
                start_peoples_run(workspace, self.dataset, run_id, **self.peoples_config())
                workspace.queue.add([task])
        tasks = workspace.queue.of_run(peoples)
        if tasks:  # people do not wait for the model
            context = start_peoples_run(workspace, self.dataset, run_id)
            make_embeddings(workspace, context, sorted({task.image_id for task in tasks}))
        counts = self.counts(workspace.catalog.runs.get(run_id), tasks)
        summary = self._summary(thresholds, counts, peoples if tasks else None)
        return workspace.catalog.runs.finish(run_id, summary).metrics

    def _sorted(self, thresholds: Route) -> Iterator[Sorted[Item]]:
        for one in self.answers():
            ways: dict[int, list[tuple[Item, float]]] = {PASS: [], DROP: [], ASK: []}
            sure_N = thresholds.sorted(one.probability_N).tolist()
            for item, way, probability in zip(
                one.items, sure_N, one.probability_N.tolist(), strict=True
            ):
                ways[way].append((item, probability))
            yield Sorted(one.image_id, ways)

    def _summary(
        self, thresholds: Route, counts: Counter[int], review_run: str | None
    ) -> dict[str, Any]:
        told = route_summary(self.judge.version, thresholds, counts, review_run)
        return {"dataset": self.dataset.name, "about": str(self.judge.about), **told}
