"""A few-shot judge: a language model that answers a question of yes or no after examples of what
people answered. Off until a calibration (`judge_calibration`) has shown its precision.

What it can be asked: whether a mask is good (`mask_judge`), whether a label that a model gave is
right (`label_judge`), and whether an object of an image lacks a mask (`missing_judge`).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Self

import numpy as np

from engine.core.errors import DataEngineError
from engine.semantics.chat import Chat
from engine.verifier.few_shot import (
    PROMPT_VERSION,
    Calibration,
    Example,
    Question,
    ask_about,
    choose_examples,
)
from engine.verifier.routing import Route
from flows.encoders.load import mask_encoder
from flows.review.route_options import RouteError
from flows.semantics.vectors import make_vectors, read_vectors
from flows.workspace.endpoint import chat_of
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset, Run, RunKind, RunState
from storage.formats.images import BadImageError

SIDE = 224
"""Of the pictures of masks that the language model sees, in pixels."""
SHOTS = 8
NAME_CHARACTERS = 180
RUNS = 1_000
PICTURES = 512
"""Of examples that are kept in memory."""


class JudgeError(DataEngineError):
    """The judge cannot be used; the message says why and what to do."""


class About(StrEnum):
    """What a judge is asked about."""

    MASKS = "masks"
    LABELS = "labels"
    MISSING = "missing"


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


@dataclass(frozen=True, slots=True)
class Known:
    """What people answered about masks or images that have vectors: N rows.

    Attributes:
        vectors_ND: float32.
        answer_N: bool.
        group_N: images; near-duplicates of an image count as that image.
        reasons: of the answers; empty without one.
        topic_N: what the question was about: a category's id; 0 where all questions are alike.
        asked_N: bool: a judge is calibrated on them. The others are examples only.
    """

    vectors_ND: np.ndarray
    answer_N: np.ndarray
    group_N: np.ndarray
    reasons: list[str]
    topic_N: np.ndarray
    asked_N: np.ndarray


class FewShotJudge(ABC):
    """A model with thresholds (`model_routing.Thresholds`) that asks a language model."""

    about: ClassVar[About]
    option: ClassVar[str] = ""
    """Of `dataengine review judge`."""

    def __init__(
        self, workspace: Workspace, dataset: Dataset, chat: Chat, options: JudgeOptions
    ) -> None:
        self._workspace, self._dataset = workspace, dataset
        self._chat, self._options = chat, options
        self._encoder = mask_encoder(workspace, options.encoder).version
        self._vectors: dict[str, np.ndarray] = {}
        self._image_of: dict[str, int] = {}
        for block in read_vectors(workspace, dataset, self._encoder):
            mask_ids = block.mask_ids.to_pylist()
            self._vectors.update(zip(mask_ids, block.vectors_ND, strict=True))
            self._image_of.update(zip(mask_ids, block.image_ids.tolist(), strict=True))
        self._known = self._read_known()
        self._picture = lru_cache(maxsize=PICTURES)(self._cut)

    @classmethod
    def ready(cls, workspace: Workspace, dataset: Dataset, options: dict[str, Any] | None) -> Self:
        """Return a judge that is on, after making the vectors that masks lack.

        Raises:
            JudgeError: it is not calibrated, or switched off.
            NoEndpointError: there is no language model.
        """
        chosen = JudgeOptions(**(options or {}))
        judge = cls(workspace, dataset, chat_of(workspace), chosen)
        judge.calibrated()  # raises if it is off
        if make_vectors(str(workspace.settings.root), dataset.name, chosen.encoder)["masks"]:
            judge = cls(workspace, dataset, chat_of(workspace), chosen)
        return judge

    @staticmethod
    @abstractmethod
    def answers(workspace: Workspace, dataset: Dataset) -> int:
        """Return the number of people's answers, some of which may be about what has no vector."""

    @staticmethod
    @abstractmethod
    def too_few(dataset: str, known: int) -> str:
        """Say how many answers people have given, and how they give some."""

    @abstractmethod
    def _read_known(self) -> Known: ...

    @abstractmethod
    def _cut(self, row: int) -> np.ndarray:
        """Return the picture of a row of `Known`, RGB uint8 (H, W, 3)."""

    @abstractmethod
    def _question(self, topic: int) -> Question: ...

    def _told(self, topic: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what each known row answers to a question, and which rows answer it, bool (N,)."""
        return self._known.answer_N, np.ones(len(self._known.answer_N), bool)

    def _known_rows(
        self,
        keys: list[tuple[np.ndarray, int]],
        answers: list[bool],
        reasons: list[str],
        topics: list[int] | None = None,
        asked: list[bool] | None = None,
    ) -> Known:
        """Return the rows of these vectors and images."""
        images = self._workspace.catalog.images.get_many(sorted({image for _, image in keys}))
        group = {image.id: image.near_image_id or image.id for image in images}
        vectors = [vector for vector, _ in keys]
        return Known(
            np.stack(vectors).astype(np.float32) if keys else np.zeros((0, 1), np.float32),
            np.array(answers, bool),
            np.array([group[image] for _, image in keys], np.int64),
            reasons,
            np.zeros(len(keys), np.int64) if topics is None else np.array(topics, np.int64),
            np.ones(len(keys), bool) if asked is None else np.array(asked, bool),
        )

    @property
    def version(self) -> str:
        """See Thresholds: question, model, examples, encoder and prompt."""
        plain = re.sub(r"[^\w.@:-]", "-", self._chat.name)
        name = "judge" if self.about == About.MASKS else f"judge-{self.about}"
        tail = f"-{self._options.shots}-p{PROMPT_VERSION}-{self._encoder[-12:]}"
        return f"{name}-{plain}"[: NAME_CHARACTERS - len(tail)] + tail

    @property
    def known(self) -> int:
        """The number of answers of people to calibrate on."""
        return int(self._known.asked_N.sum())

    def _ask(
        self, vector_D: np.ndarray, group: int, picture_HWC: np.ndarray, topic: int = 0
    ) -> float:
        """Return the score of a picture; `group`: of its image, whose examples are left out."""
        examples = self._examples(vector_D, group, topic)
        return ask_about(self._chat, examples, picture_HWC, self._question(topic))

    def _examples(self, vector_D: np.ndarray, group: int, topic: int) -> list[Example]:
        known = self._known
        answer_N, allowed_N = self._told(topic)
        rows = choose_examples(
            known.vectors_ND @ vector_D.astype(np.float32),
            answer_N,
            allowed_N & (known.group_N != group),
            self._options.shots,
        )
        found = []
        for row in rows:
            try:
                picture = self._picture(row)
            except BadImageError:  # the next stage that reads the image quarantines it
                continue
            found.append(Example(picture, bool(answer_N[row]), known.reasons[row]))
        return found

    def ask_known(self, row: int) -> float:
        """Return the score of what people have answered; examples are of other images.

        Raises:
            ChatError: the language model does not answer.
            BadImageError: the image cannot be read.
        """
        known = self._known
        group, topic = int(known.group_N[row]), int(known.topic_N[row])
        return self._ask(known.vectors_ND[row], group, self._picture(row), topic)

    def drawn(self, count: int) -> list[int]:
        """Return rows to calibrate on at random, the same at every call."""
        order = np.random.default_rng(0).permutation(self.known)[:count]
        rows = np.flatnonzero(self._known.asked_N)[np.sort(order)]
        return [int(row) for row in rows]

    def calibration(self, scores: dict[int, float]) -> Calibration:
        """Return the calibration of scores by row."""
        rows = np.array(sorted(scores), np.int64)
        return Calibration(
            np.array([scores[row] for row in rows.tolist()], np.float64),
            self._known.answer_N[rows],
            self._known.group_N[rows],
        )

    @cached_property
    def _calibration(self) -> Calibration:
        return self.calibrated()

    def probabilities(self, scores: Sequence[float]) -> np.ndarray:
        """Return calibrated probabilities that people say yes, float64 (N,).

        Raises:
            JudgeError: as `calibrated`.
        """
        return self._calibration.probabilities(np.array(scores, np.float64))

    def thresholds(self, precision: float) -> Route:
        """See Thresholds."""
        route = self._calibration.route(precision)
        if route.accept.threshold is None and route.reject.threshold is None:
            raise RouteError(
                f"{self.version} reaches precision {precision:g} with no threshold; calibrate it "
                "on more answers of people, or state a lower precision"
            )
        return route

    def calibrated(self) -> Calibration:
        """Return the latest calibration of this judge.

        Raises:
            JudgeError: there is none, or it switched the judge off.
        """
        run = latest_calibration(self._workspace, self._dataset, self.version)
        command = f"dataengine review judge{self.option} --dataset {self._dataset.name}"
        again = f"`{command} --calibrate`"
        if run is None:
            raise JudgeError(f"{self.version} is off: it is not calibrated; run {again}")
        if not run.metrics["on"]:
            raise JudgeError(f"{self.version} is off: {run.metrics['reason']}; later run {again}")
        return Calibration.of_rows(run.metrics["rows"])


def latest_calibration(workspace: Workspace, dataset: Dataset, version: str) -> Run | None:
    """Return the newest finished calibration of a judge; None without any."""
    runs = workspace.catalog.runs.all(
        dataset_id=dataset.id, kind=RunKind.CALIBRATE_JUDGE, limit=RUNS
    )
    return next(
        (run for run in runs if run.state == RunState.FINISHED and run.model == version), None
    )
