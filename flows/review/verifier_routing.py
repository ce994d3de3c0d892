"""Routes a dataset's automatic masks by the current verifier (`flows.review.model_routing`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from prefect import flow

from engine.core.records import Stage
from engine.verifier.learning import TooFewVerdictsError, cross_fitted
from engine.verifier.model import LearnedVerifier
from engine.verifier.routing import Route, Side, choose_route
from flows.review.judged_masks import judged_by_people
from flows.review.model_routing import JudgedImage, route_by
from flows.review.route_options import RouteError, RouteOptions
from flows.review.verifier_training import check_verdicts, needed_verifier
from flows.stages.seen_masks import seen_runs
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import Dataset


@flow(name="route-masks")
def route_masks(
    workspace: str,
    dataset: str,
    precision: float,
    stage: str = Stage.FULLY_AUTOMATIC,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Prefect flow around `route_dataset`."""
    opened = open_workspace(workspace)
    options = RouteOptions(precision=precision, stage=Stage(stage))
    return route_dataset(opened, opened.catalog.datasets.get(dataset), options, dry_run=dry_run)


def route_dataset(
    workspace: Workspace, dataset: Dataset, options: RouteOptions, *, dry_run: bool = False
) -> dict[str, Any]:
    """Route the current masks of a stage that people have not judged and will not.

    Returns:
        As `route_by`.

    Raises:
        NoVerifierError: no verifier is current.
        RouteError: no threshold reaches the precision, or there are no masks to route.
        TooFewVerdictsError: there are no verdicts of people to choose thresholds by.
    """
    verifier = needed_verifier(workspace, dataset.name)
    check_verdicts(workspace, dataset)
    judge = VerifierJudge(workspace, dataset, verifier)
    return route_by(workspace, dataset, judge, options, dry_run=dry_run)


@dataclass(frozen=True, slots=True)
class VerifierJudge:
    """A Judge by a verifier."""

    workspace: Workspace
    dataset: Dataset
    verifier: LearnedVerifier

    @property
    def version(self) -> str:
        """See Judge."""
        return self.verifier.version

    def thresholds(self, precision: float) -> Route:
        """See Judge."""
        return find_route(self.workspace, self.dataset, self.verifier, precision)

    def judged(self, image_ids: Sequence[int], wanted: set[str]) -> Iterator[JudgedImage]:
        """See Judge: the masks of one run at a time, since they are compared with each other."""
        segmenter = self.verifier.card.segmenter
        for seen in seen_runs(self.workspace, self.dataset, segmenter, image_ids):
            found = np.asarray(self.verifier.probabilities(seen.picture))
            rows = [row for row, mask in enumerate(seen.masks) if mask.mask_id in wanted]
            yield JudgedImage(seen.image.id, [seen.masks[row] for row in rows], found[rows])


def find_route(
    workspace: Workspace, dataset: Dataset, verifier: LearnedVerifier, precision: float
) -> Route:
    """Return the thresholds for a precision, by people's verdicts on the dataset.

    Raises:
        RouteError: no threshold reaches it.
        TooFewVerdictsError: there are no verdicts on automatic masks.
    """
    judged = judged_by_people(workspace, dataset, verifier.card.segmenter)
    if not len(judged):
        raise TooFewVerdictsError(
            f"people have judged no automatic masks of dataset {dataset.name!r}; have a sample "
            f"judged with `dataengine review --dataset {dataset.name}`"
        )
    probabilities = cross_fitted(verifier, judged)
    route = choose_route(probabilities, judged.accepted_N, judged.image_N, precision)
    if route.accept.threshold is None and route.reject.threshold is None:
        accept, reject = (_unsure(side, precision) for side in (route.accept, route.reject))
        raise RouteError(
            f"{verifier.version} reaches precision {precision:g} with no threshold by "
            f"{len(judged)} verdicts on dataset {dataset.name!r}. Accepts: {accept}. "
            f"Rejects: {reject}"
        )
    return route


def _unsure(side: Side, precision: float) -> str:
    told = f"of the {side.judged} masks it is surest of, it is right on {side.share:.1%}"
    if side.needed is not None:
        return f"{told}; about {side.needed:,} verdicts in all would be enough to be sure"
    return f"{told}; more verdicts would not help: state a precision below {precision:g}"
