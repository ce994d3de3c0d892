"""Requests and responses of the page Browse; conventions as in `schemas`."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from engine.annotation.schemas import PLAIN, Id, ImageView, Rle, Schema
from engine.core.records import Source, Stage
from storage.catalog import TaskKind, VerdictKind

MAX_PAGE = 200
"""Masks or images of one page."""
MAX_OUTLINES = 24
"""Outlines of one request."""
MAX_CHOSEN = 500
"""Masks or images of one command."""
MAX_VALUES = 100
"""Values of one filter."""

Number = Annotated[float, Field(ge=-1e18, le=1e18, allow_inf_nan=False)]
RoundNumber = Annotated[int, Field(ge=0, lt=2**31)]
ImageId = Annotated[int, Field(ge=1, lt=2**63)]
Version = Annotated[int, Field(ge=0, lt=2**63)]
DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
Which = Literal["without", "with", "only"]
Judged = Literal["none", "accept", "reject", "fix"]
Order = Literal["image", "predicted_iou", "stability_score", "area", "created_at", "probability"]


def _as_time(given: object) -> object:
    """Refuse numbers, which pydantic would take for seconds since 1970."""
    if isinstance(given, datetime) or (isinstance(given, str) and DATE.match(given)):
        return given
    raise ValueError("expected a date like 2026-01-31, or with a time")


Time = Annotated[datetime, BeforeValidator(_as_time)]


class Filters(Schema):
    """Which masks of a dataset to show; all given filters must hold. Of several values of one
    filter, one must hold. Ranges include their ends, and leave out masks without the number; a
    time without a zone is UTC. `near_duplicates`: masks of images that nearly repeat another.
    `superseded`: masks that another mask replaces. `label`, `suggested`: names of categories,
    `none of these` or `unlabelled`; `probability` is the suggestion's. `words`: a category, or with
    vectors of a CLIP any text, that masks fit; `like`: id of a mask that they are like. What is
    searched for is in the order of the search. `program`: id, tag or program of a run, whose
    objects are shown, or all masks of the images that it selected. `release`: name of a finished
    release, whose masks are shown as they are now."""

    dataset: Id
    words: Annotated[str, Field(min_length=1, max_length=200, pattern=PLAIN)] | None = None
    like: Id | None = None
    program: Id | None = None
    release: Id | None = None
    version: Version | None = None
    stage: list[Stage] = Field([], max_length=MAX_VALUES)
    round: list[RoundNumber] = Field([], max_length=MAX_VALUES)
    source: list[Source] = Field([], max_length=MAX_VALUES)
    annotator: list[Id] = Field([], max_length=MAX_VALUES)
    model: list[Id] = Field([], max_length=MAX_VALUES)
    verdict: list[Judged] = Field([], max_length=MAX_VALUES)
    label: list[Id] = Field([], max_length=MAX_VALUES)
    suggested: list[Id] = Field([], max_length=MAX_VALUES)
    predicted_iou_min: Number | None = None
    predicted_iou_max: Number | None = None
    stability_score_min: Number | None = None
    stability_score_max: Number | None = None
    area_min: Number | None = None
    area_max: Number | None = None
    probability_min: Number | None = None
    probability_max: Number | None = None
    created_at_min: Time | None = None
    created_at_max: Time | None = None
    near_duplicates: Which = "with"
    superseded: Which = "without"

    @model_validator(mode="after")
    def _check_ranges(self) -> Filters:
        if self.words is not None and self.like is not None:
            raise ValueError("search for words or for masks like one, not for both")
        for name in ("predicted_iou", "stability_score", "area", "probability"):
            least, most = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
            if least is not None and most is not None and least > most:
                raise ValueError(f"{name}_min {least:g} is above {name}_max {most:g}")
        return self


class PageOf(Filters):
    """A page of what the filters let through. `descending`: highest first. Masks without the number
    that they are sorted by come last; an image is sorted by its first mask. Without `version` the
    newest one is shown; further pages name the version of the first."""

    sort: Order = "image"
    descending: bool = False
    offset: Annotated[int, Field(ge=0, lt=2**31)] = 0
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 60


class BrowsedDataset(Schema):
    """A dataset that the visitor sees. `programs`: tags, or else programs or ids, of the latest
    finished runs of programs. `releases`: finished ones, the newest first."""

    name: str
    images: int
    programs: list[str]
    releases: list[str]


class MaskCard(Schema):
    """A mask without its outline."""

    mask_id: str
    image: ImageView
    stage: str
    round: int
    source: str
    model: str | None
    annotator: str | None
    area: int
    predicted_iou: float | None
    stability_score: float | None
    created_at: datetime
    verdict: Judged
    """The latest one."""
    label: str
    """Name of its category, `none of these` or `unlabelled`."""
    suggested: str
    """In the same words."""
    probability: float | None
    """Of the suggestion, [0, 1]."""
    score: float | None
    """How well it fits what is searched for; None without a search."""
    is_superseded: bool


class MaskPage(Schema):
    """A page of masks. `total`: masks that the filters let through. `version` of the mask table;
    None: it has no masks yet."""

    version: int | None
    total: int
    masks: list[MaskCard]


class ImageCard(ImageView):
    """An image. `masks`: those that the filters let through."""

    masks: int
    is_near_duplicate: bool


class ImagePage(Schema):
    """A page of images; `total`: images that the filters let through."""

    version: int | None
    total: int
    images: list[ImageCard]


class Count(Schema):
    """Masks of one value."""

    value: str
    masks: int


class Histogram(Schema):
    """Masks by a number: `masks[i]` are from `edges[i]` to below `edges[i + 1]`, the last one
    including its end and all above. `unknown`: masks without the number. `created_at` is in
    seconds since 1970, `area` in pixels."""

    edges: list[float]
    masks: list[int]
    unknown: int


class Figures(Schema):
    """Numbers of masks by value (`counts`) and by number (`histograms`), each of the masks that all
    other filters let through; `total`: that all do."""

    version: int | None
    total: int
    counts: dict[str, list[Count]]
    histograms: dict[str, Histogram]


class Outlines(Schema):
    """The shapes of masks by mask id; a mask that is gone is missing."""

    outlines: dict[str, Rle]


class Step(Schema):
    """One step in making a mask, see `Event`; without the path of a stroke."""

    kind: str
    at: float
    x: float | None
    y: float | None
    label: int | None


class JudgedBy(Schema):
    """A verdict on a mask."""

    verdict: VerdictKind
    annotator: str
    created_at: datetime
    seconds: float
    reason: str | None
    fixed_mask_id: str | None


class LabelledBy(Schema):
    """A label of a mask: name of the category, or `none of these`, and who gave it: an annotator or
    a model; neither: an import."""

    name: str
    annotator: str | None
    model: str | None
    created_at: datetime


class CaptionBy(Schema):
    """A caption of a mask or an image, and the model that wrote it."""

    caption: str
    model: str


class MaskHistory(Schema):
    """A mask and how it came to be: who made it, by which steps, what it replaced and what replaced
    it, and the verdicts on it, its labels and its captions, oldest first."""

    mask_id: str
    rle: Rle
    stage: str
    round: int
    run_id: str
    source: str
    model: str | None
    annotator: str | None
    area: int
    predicted_iou: float | None
    stability_score: float | None
    point_xy: tuple[float, float] | None
    clicks: int
    seconds: float
    created_at: datetime
    supersedes: str | None
    superseded_by: list[str]
    steps: list[Step]
    verdicts: list[JudgedBy]
    labels: list[LabelledBy]
    captions: list[CaptionBy]


class ImageHistory(Schema):
    """An image, its captions, and all its masks, oldest first, superseded ones too."""

    image: ImageView
    dataset: str
    split: str
    near_image_id: int | None
    captions: list[CaptionBy]
    masks: list[MaskHistory]


class OwnTask(Schema):
    """A task that the visitor has submitted. `can_reopen`: its round is open, and others of its run
    are not submitted yet."""

    task_id: int
    image: ImageView
    dataset: str
    kind: TaskKind
    masks: int
    seconds: float
    submitted_at: datetime
    can_reopen: bool


class OwnWork(Schema):
    """A page of the visitor's submitted tasks, the latest first; `total`: all of them."""

    total: int
    tasks: list[OwnTask]


class ChosenMasks(Schema):
    """Masks of a dataset: these, and all of these images."""

    dataset: Id
    mask_ids: list[Id] = Field([], max_length=MAX_CHOSEN)
    image_ids: list[ImageId] = Field([], max_length=MAX_CHOSEN)

    @model_validator(mode="after")
    def _check_chosen(self) -> ChosenMasks:
        if not self.mask_ids and not self.image_ids:
            raise ValueError("no mask and no image is chosen")
        return self


class ChosenImages(Schema):
    """Images of a dataset."""

    dataset: Id
    image_ids: Annotated[list[ImageId], Field(min_length=1, max_length=MAX_CHOSEN)]


class Queued(Schema):
    """What a command did. `left_out`: chosen ones that it does not apply to."""

    tasks: int
    chosen: int
    left_out: int


class LabelledMasks(ChosenMasks):
    """Masks of a dataset that get one label. `category`: name of a category; `none of these`;
    None: each gets the category that is suggested for it. `seconds`: spent on them together."""

    category: Id | None
    seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.0


class Labelled(Schema):
    """How many masks got a label, and how many of the chosen ones did not: superseded and rejected
    ones, and, where the suggestions were asked for, those without one."""

    labelled: int
    left_out: int


class CategoryView(Schema):
    """A category of a dataset, with `key`, the key of the keyboard that stands for it."""

    id: int
    name: str
    color: str
    key: str | None
    parent: int | None
    description: str | None
