"""A few-shot judge of automatic masks: calibrated on people's verdicts, then routed like a verifier
(`flows.review.model_routing`). Off until a calibration has shown its precision.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from prefect import flow

from engine.core.batches import batches
from engine.core.errors import DataEngineError
from engine.core.records import Mask, Source, Stage
from engine.semantics.chat import Chat
from engine.semantics.mask_pictures import outlined
from engine.verifier.few_shot import (
    LEAST_VERDICTS,
    PROMPT_VERSION,
    Calibration,
    Example,
    ask_about,
    choose_examples,
)
from engine.verifier.routing import Route
from flows.encoders.load import mask_encoder
from flows.review.judged_masks import images_of_masks
from flows.review.model_routing import JudgedImage, RouteError, RouteOptions, route_by
from flows.semantics.vectors import make_vectors, read_vectors
from flows.stages.seen_masks import IMAGES_AT_ONCE
from flows.workspace import costs, progress
from flows.workspace.endpoint import chat_of
from flows.workspace.run_lock import named_lock, tracked_run
from flows.workspace.workspace import Workspace, code_version, open_workspace
from storage.catalog import Dataset, Run, RunKind, RunState, VerdictKind, new_id
from storage.formats.images import BadImageError

SIDE = 224
"""Of the pictures that the language model sees, in pixels."""
SHOTS = 8
MOST_VERDICTS = 300
"""That a calibration asks about, by default."""
NAME_CHARACTERS = 180
RUNS = 1_000
PICTURES = 512
"""Of examples that are kept in memory."""


class JudgeError(DataEngineError):
    """The judge cannot be used; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeOptions:
    """How a judge is asked.

    Attributes:
        encoder: of the vectors by which examples are chosen.
        shots: examples in a question.

    Raises:
        JudgeError: a number is out of range.
    """

    encoder: str = "lite"
    shots: int = SHOTS

    def __post_init__(self) -> None:
        if not 0 <= self.shots <= 64:
            raise JudgeError(f"a question has 0 to 64 examples, got {self.shots}")


@dataclass(frozen=True)
class _Known:
    """The masks that people have judged and that have vectors: N rows."""

    masks: list[Mask]
    vectors_ND: np.ndarray
    accepted_N: np.ndarray
    group_N: np.ndarray
    """Images; near-duplicates of an image count as that image."""
    reasons: list[str]


class FewShotJudge:
    """A Judge (`model_routing`) that asks a language model."""

    def __init__(
        self, workspace: Workspace, dataset: Dataset, chat: Chat, options: JudgeOptions
    ) -> None:
        self._workspace, self._dataset = workspace, dataset
        self._chat, self._options = chat, options
        self._encoder = mask_encoder(workspace, options.encoder).version
        self._vectors = _vectors_by_mask(workspace, dataset, self._encoder)
        self._known = self._read_known()
        self._picture = lru_cache(maxsize=PICTURES)(self._cut)

    @property
    def version(self) -> str:
        """See Judge: model, encoder and prompt."""
        plain = re.sub(r"[^\w.@:-]", "-", self._chat.name)
        tail = f"-{self._options.shots}-p{PROMPT_VERSION}-{self._encoder[-12:]}"
        return f"judge-{plain}"[: NAME_CHARACTERS - len(tail)] + tail

    @property
    def known(self) -> int:
        """The number of masks with verdicts of people."""
        return len(self._known.masks)

    def _read_known(self) -> _Known:
        workspace = self._workspace
        verdicts = {
            row.mask_id: row for row in workspace.catalog.verdicts.of_people(self._dataset.id)
        }
        masks: list[Mask] = []
        for part in batches(sorted(images_of_masks(verdicts)), IMAGES_AT_ONCE):
            for mask in workspace.masks.masks(
                dataset=self._dataset.name, source=Source.AUTOMATIC, image_ids=part
            ):
                if mask.mask_id in verdicts and mask.mask_id in self._vectors and mask.area:
                    masks.append(mask)
        masks.sort(key=lambda mask: mask.mask_id)
        images = workspace.catalog.images.get_many(sorted({mask.image_id for mask in masks}))
        group = {image.id: image.near_image_id or image.id for image in images}
        given = [verdicts[mask.mask_id] for mask in masks]
        vectors = [self._vectors[mask.mask_id] for mask in masks]
        return _Known(
            masks,
            np.stack(vectors).astype(np.float32) if vectors else np.zeros((0, 1), np.float32),
            np.array([row.verdict == VerdictKind.ACCEPT for row in given], bool),
            np.array([group[mask.image_id] for mask in masks], np.int64),
            [row.reason or "" for row in given],
        )

    def _cut(self, row: int) -> np.ndarray:
        mask = self._known.masks[row]
        image = self._workspace.catalog.images.get(mask.image_id)
        [picture] = outlined(self._workspace.pixels(image), [mask.rle], SIDE)
        return np.asarray(picture)

    def _examples(self, vector_D: np.ndarray, group: int) -> list[Example]:
        known = self._known
        rows = choose_examples(
            known.vectors_ND @ vector_D.astype(np.float32),
            known.accepted_N,
            known.group_N != group,
            self._options.shots,
        )
        found = []
        for row in rows:
            try:
                picture = self._picture(row)
            except BadImageError:  # the next stage that reads the image quarantines it
                continue
            found.append(Example(picture, bool(known.accepted_N[row]), known.reasons[row]))
        return found

    def ask_known(self, row: int) -> float:
        """Return the score of a mask that people have judged; examples are of other images.

        Raises:
            ChatError: the language model does not answer.
            BadImageError: the image cannot be read.
        """
        known = self._known
        examples = self._examples(known.vectors_ND[row], int(known.group_N[row]))
        return ask_about(self._chat, examples, self._picture(row))

    def drawn(self, count: int) -> list[int]:
        """Return rows of judged masks at random, the same at every call."""
        order = np.random.default_rng(0).permutation(self.known)[:count]
        return sorted(order.tolist())

    def calibration(self, scores: dict[int, float]) -> Calibration:
        """Return the calibration of scores by row."""
        rows = np.array(sorted(scores), np.int64)
        return Calibration(
            np.array([scores[row] for row in rows.tolist()], np.float64),
            self._known.accepted_N[rows],
            self._known.group_N[rows],
        )

    def thresholds(self, precision: float) -> Route:
        """See Judge."""
        route = self.calibrated().route(precision)
        if route.accept.threshold is None and route.reject.threshold is None:
            raise RouteError(
                f"{self.version} reaches precision {precision:g} with no threshold; calibrate it "
                "on more verdicts, or state a lower precision"
            )
        return route

    def calibrated(self) -> Calibration:
        """Return the latest calibration of this judge.

        Raises:
            JudgeError: there is none, or it switched the judge off.
        """
        run = latest_calibration(self._workspace, self._dataset, self.version)
        again = f"`dataengine review judge --dataset {self._dataset.name} --calibrate`"
        if run is None:
            raise JudgeError(f"{self.version} is off: it is not calibrated; run {again}")
        if not run.metrics["on"]:
            raise JudgeError(f"{self.version} is off: {run.metrics['reason']}; later run {again}")
        return Calibration.of_rows(run.metrics["rows"])

    def judged(self, image_ids: Sequence[int], wanted: set[str]) -> Iterator[JudgedImage]:
        """See Judge: masks with vectors, of images that can be read."""
        workspace, calibration = self._workspace, self.calibrated()
        with progress.current().track("ask about masks", len(image_ids), "image") as advance:
            for image in workspace.catalog.images.get_many(list(image_ids)):
                masks = [
                    mask
                    for mask in workspace.masks.masks(
                        dataset=self._dataset.name, source=Source.AUTOMATIC, image_ids=[image.id]
                    )
                    if mask.mask_id in wanted and mask.mask_id in self._vectors and mask.area
                ]
                group = image.near_image_id or image.id
                try:
                    pictures = outlined(workspace.pixels(image), [m.rle for m in masks], SIDE)
                except BadImageError:
                    masks, pictures = [], np.zeros((0, SIDE, SIDE, 3), np.uint8)
                scores = [
                    ask_about(
                        self._chat, self._examples(self._vectors[mask.mask_id], group), picture
                    )
                    for mask, picture in zip(masks, pictures, strict=True)
                ]
                advance()
                yield JudgedImage(image.id, masks, calibration.probabilities(np.array(scores)))


def _vectors_by_mask(workspace: Workspace, dataset: Dataset, version: str) -> dict[str, np.ndarray]:
    return {
        mask_id: block.vectors_ND[row]
        for block in read_vectors(workspace, dataset, version)
        for row, mask_id in enumerate(block.mask_ids.to_pylist())
    }


def latest_calibration(workspace: Workspace, dataset: Dataset, version: str) -> Run | None:
    """Return the newest finished calibration of a judge; None without any."""
    runs = workspace.catalog.runs.all(
        dataset_id=dataset.id, kind=RunKind.CALIBRATE_JUDGE, limit=RUNS
    )
    return next(
        (run for run in runs if run.state == RunState.FINISHED and run.model == version), None
    )


@flow(name="calibrate-judge")
def calibrate_judge(
    workspace: str,
    dataset: str,
    precision: float,
    least: int = LEAST_VERDICTS,
    verdicts: int = MOST_VERDICTS,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Prefect flow: ask the judge about masks that people have judged, and switch it on or off.
    A stopped calibration resumes.

    Args:
        workspace: the folder.
        dataset: its name.
        precision: that its sure verdicts must keep.
        least: verdicts of people that this must be shown on.
        verdicts: the most masks to ask about.
        options: of JudgeOptions.

    Returns:
        `judge`, `on`, `reason`, `verdicts`, `precision`, and the figures of `Calibration`.
    """
    RouteOptions(precision=precision)  # raises
    opened = open_workspace(workspace)
    row = opened.catalog.datasets.get(dataset)
    chosen = JudgeOptions(**(options or {}))
    chat = chat_of(opened)
    _check_enough(dataset, len(opened.catalog.verdicts.of_people(row.id)), least)
    make_vectors(workspace, dataset, chosen.encoder)
    judge = FewShotJudge(opened, row, chat, chosen)
    _check_enough(dataset, judge.known, least)
    with named_lock(opened, f"judge/{row.id}"):
        return _calibrate(opened, row, judge, precision, least, verdicts)


def _check_enough(dataset: str, known: int, least: int) -> None:
    if known < least:
        raise JudgeError(
            f"people have judged {known} automatic masks of dataset {dataset!r}, {least} are "
            f"needed; have a sample judged with `dataengine review --dataset {dataset}`"
        )


def _calibrate(
    workspace: Workspace,
    dataset: Dataset,
    judge: FewShotJudge,
    precision: float,
    least: int,
    verdicts: int,
) -> dict[str, Any]:
    rows = judge.drawn(max(verdicts, least))
    asked = {"precision": precision, "least": least, "rows": len(rows), "known": judge.known}
    unfinished = workspace.catalog.runs.all(
        dataset_id=dataset.id, kind=RunKind.CALIBRATE_JUDGE, unfinished=True, limit=RUNS
    )
    same = [r for r in unfinished if r.model == judge.version and r.config["asked"] == asked]
    run = workspace.catalog.runs.start(
        same[0].id if same else new_id(),
        RunKind.CALIBRATE_JUDGE,
        dataset_id=dataset.id,
        model=judge.version,
        config={"asked": asked, "settings": workspace.settings.shaping()},
        code_version=code_version(),
    )
    with tracked_run(workspace, run.id), costs.spending(workspace, run.id):
        scores = _scores(workspace, run.id, judge, rows)
        calibration = judge.calibration(scores)
        on, reason = calibration.check(precision, least)
        figures = calibration.figures() if len(scores) > 1 and calibration.accepted_N.any() else {}
        result = {
            "judge": judge.version,
            "on": on,
            "reason": reason,
            "verdicts": len(scores),
            "precision": precision,
            **figures,
            "route": asdict(calibration.route(precision)) if on else None,
        }
        workspace.catalog.runs.finish(run.id, {**result, "rows": calibration.to_rows()})
    return result


def _scores(
    workspace: Workspace, run_id: str, judge: FewShotJudge, rows: Sequence[int]
) -> dict[int, float]:
    """Ask about judged masks; answers are kept in a local file, so that none is asked for twice."""
    path = workspace.cache / "judges" / f"{run_id}.jsonl"
    path.parent.mkdir(exist_ok=True)
    found: dict[int, float] = {}
    if path.exists():
        lines = path.read_text().split("\n")[:-1]  # the last one may be cut off
        found = {int(row): float(score) for row, score in map(json.loads, lines)}
    with (
        path.open("a") as file,
        progress.current().track("ask about judged masks", len(rows), "mask") as advance,
    ):
        for row in rows:
            if row not in found:
                try:
                    found[row] = judge.ask_known(row)
                except BadImageError:  # the next stage that reads the image quarantines it
                    continue
                file.write(f"{json.dumps([row, found[row]])}\n")
                file.flush()
            advance()
    return {row: score for row, score in found.items() if row in set(rows)}


@flow(name="judge-masks")
def judge_masks(
    workspace: str,
    dataset: str,
    precision: float,
    stage: str = Stage.FULLY_AUTOMATIC,
    dry_run: bool = False,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Prefect flow: let the calibrated judge accept or reject the masks that it is sure of, and
    send the rest to the review queue; returns what `route_by` does.

    Raises:
        JudgeError: it is not calibrated, or switched off.
        RouteError: no threshold reaches the precision, or there are no masks to route.
    """
    asked = RouteOptions(precision=precision, stage=Stage(stage))
    opened = open_workspace(workspace)
    row = opened.catalog.datasets.get(dataset)
    chosen = JudgeOptions(**(options or {}))
    judge = FewShotJudge(opened, row, chat_of(opened), chosen)
    judge.calibrated()  # raises if it is off
    if make_vectors(workspace, dataset, chosen.encoder)["masks"]:
        judge = FewShotJudge(opened, row, chat_of(opened), chosen)
    return route_by(opened, row, judge, asked, dry_run=dry_run)
