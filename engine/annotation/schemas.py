"""Requests and responses of the HTTP interface; FastAPI builds the OpenAPI schema from them.

Points are (x, y) and boxes half-open XYXY, in pixels of the original image; masks are COCO RLE
with `counts` as a string, `size` (H, W); scores in [0, 1]; seconds are the annotator's time.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.core.records import Source, Stage
from storage.catalog import TaskKind, VerdictKind

MAX_COUNTS = 4_000_000
"""Characters of one mask's run lengths."""

MAX_MASKS = 5_000
"""Masks of one submission."""

MAX_EVENTS = 2_000
"""Events of one mask's trajectory."""

Coordinate = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
PLAIN = r"^[^\x00-\x1f\x7f]*$"
"""Text without control characters, which PostgreSQL cannot store."""

PROSE = r"^[^\x00-\x08\x0b-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x08\x0b-\x1f\x7f]*$"
"""Text with line breaks and tabs but no other control characters; not only of spaces."""

Prompting = Literal["click", "remove", "move", "scribble", "box", "candidate"]
Painting = Literal["brush", "erase", "outline", "regions"]
Operation = Literal["fill_holes", "remove_specks", "smooth", "cut_out", "split", "merge", "paste"]
Travel = Literal["undo", "redo"]

Id = Annotated[str, Field(min_length=1, max_length=200, pattern=PLAIN)]
CategoryId = Annotated[int, Field(ge=0, lt=2**31)]
"""Of a category of the dataset; 0: none of these."""
ClientId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Box = tuple[Coordinate, Coordinate, Coordinate, Coordinate]


class Schema(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Rle(Schema):
    """One mask. `size` must be the image's."""

    size: tuple[int, int]
    counts: Annotated[str, Field(max_length=MAX_COUNTS)]


class Me(Schema):
    """The visitor. `csrf` goes into the header X-CSRF-Token of every request but GET. `is_local`:
    admitted without a sign-in, by a server for this machine only."""

    name: str
    role: Literal["annotator", "reviewer", "admin"]
    csrf: str
    is_local: bool


class SignIn(Schema):
    """The token of a one-time link."""

    token: Annotated[str, Field(min_length=16, max_length=200)]


class NextTask(Schema):
    """Kinds of task to take; a task already held comes first."""

    kinds: Annotated[list[TaskKind], Field(min_length=1, max_length=3)]
    dataset: Id | None = None


class Lease(Schema):
    """Proof that the task is held."""

    lease_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class LeaseTime(Schema):
    """When the lease on a task expires."""

    expires_at: datetime


class ImageView(Schema):
    """An image; its pixels are at `/api/images/{id}/pixels`."""

    id: int
    width: int
    height: int
    file_name: str


class Suggestion(Schema):
    """The category that is suggested for a mask of a task, and how probable it is."""

    mask_id: str
    category_id: CategoryId
    probability: Share


class LabelByPerson(Schema):
    """What one of several people who disagree says about a mask."""

    name: str
    category_id: CategoryId


class MaskView(Schema):
    """An existing mask: pre-filled, or under review. `category_id`: its label so far, None without
    one. `disputed`: the labels of people who disagree. `is_label_asked`: the reviewer has to give
    or confirm its label."""

    mask_id: str
    rle: Rle
    area: int
    box_xyxy: tuple[int, int, int, int]
    predicted_iou: float | None
    source: Source
    model: str | None
    annotator: str | None
    category_id: CategoryId | None = None
    disputed: list[LabelByPerson] = []
    is_label_asked: bool = False


class Draft(Schema):
    """Unfinished work, as the page stores it. A write whose version is not above the stored one is
    refused: another tab has written since."""

    version: Annotated[int, Field(ge=1, lt=2**53)]
    data: dict[str, Any]


class DraftIn(Lease):
    """A draft to store."""

    draft: Draft


class CandidateSet(Schema):
    """One of several sets of masks of an image, in a review where people disagree: a person's, or
    the merged ones (`name` None)."""

    name: str | None
    mask_ids: list[str]


class TaskView(Schema):
    """A task the annotator holds, with all that the page needs. `waiting`: open tasks of its kind.
    `masks`: pre-filled ones (`complete`), those to judge (`review`). `note`: shown to the
    annotator. `candidates`: where people disagree, the sets that `masks` consist of. `former`:
    what they submitted before they reopened it."""

    id: int
    kind: TaskKind
    dataset: str
    stage: Stage | None
    round: int | None
    image: ImageView
    lease_id: str
    expires_at: datetime
    model: str
    masks: list[MaskView]
    draft: Draft | None
    waiting: int
    note: str | None = None
    candidates: list[CandidateSet] = []
    former: FormerWork | None = None


class NextTaskView(Schema):
    """The task that was taken; None if none is free. `waiting`: open tasks."""

    task: TaskView | None
    waiting: int


class Point(Schema):
    """A click: label 1 on the object, 0 on the background."""

    x: Coordinate
    y: Coordinate
    label: Literal[0, 1]


class Former(Schema):
    """An earlier prediction to correct: its token, and the candidate's index."""

    token: Annotated[str, Field(max_length=64)]
    candidate: Annotated[int, Field(ge=0, le=2)]


class PredictIn(Lease):
    """A prompt. `multimask` asks for several candidates, which suits a single click.
    `is_box_loose`: the box is that of a mask to correct; the object may reach beyond it."""

    points: Annotated[list[Point], Field(max_length=200)] = []
    box_xyxy: Box | None = None
    is_box_loose: bool = False
    former: Former | None = None
    multimask: bool = False


class Candidate(Schema):
    """One mask that the model predicts."""

    rle: Rle
    area: int
    box_xyxy: tuple[int, int, int, int]
    predicted_iou: float


class Prediction(Schema):
    """Candidates, the best first: three with `multimask`, else one. `token` refers to them in the
    next prompt; after a restart of the server it is unknown, and the next prompt is answered
    without the earlier prediction."""

    candidates: list[Candidate]
    best: int
    """Index of the candidate to show first."""
    token: str
    milliseconds: float


class Event(Schema):
    """One step in drawing a mask. `at`: seconds since the mask was begun.

    click: x, y, label. remove, move: of a click, to x, y. scribble: label and path, along which
    clicks are set. box: box_xyxy. brush and erase: radius (with a pen's pressure the mean) and
    path. outline: label 1 adds what the path encloses, 0 removes it. regions: label and the path
    over regions of like pixels. candidate: the chosen index. Operations on the whole mask:
    fill_holes, remove_specks, smooth (radius), cut_out (the other masks), split, merge, paste.
    undo, redo: of the step before.
    `predicted_iou`: of the prediction for this step."""

    kind: Literal[Prompting, Painting, Operation, Travel]
    at: Seconds
    x: Coordinate | None = None
    y: Coordinate | None = None
    label: Literal[0, 1] | None = None
    box_xyxy: Box | None = None
    radius: Annotated[float, Field(gt=0, le=1e5)] | None = None
    path: Annotated[list[tuple[Coordinate, Coordinate]], Field(max_length=20_000)] | None = None
    candidate: Annotated[int, Field(ge=0, le=2)] | None = None
    predicted_iou: Share | None = None


class NewMask(Schema):
    """A mask that an annotator drew. `client_id`: the page's name for it, unique within the task.
    `replaces`: the id of the pre-filled or reviewed mask that it fixes. `category_id`: its label;
    None: none, or that of the mask that it fixes."""

    client_id: ClientId
    rle: Rle
    seconds: Seconds
    trajectory: Annotated[list[Event], Field(max_length=MAX_EVENTS)]
    predicted_iou: Share | None = None
    replaces: Id | None = None
    category_id: CategoryId | None = None


class LabelIn(Schema):
    """A label for a pre-filled mask that is kept."""

    mask_id: Id
    category_id: CategoryId


class FormerWork(Schema):
    """What was submitted for a task: as in `Submission`, without the lease."""

    masks: list[NewMask]
    rejected: list[str]
    labels: list[LabelIn] = []
    seconds: float


class Submission(Lease):
    """A finished `annotate` or `complete` task: the masks in z-order, lowest first, the rejected
    pre-filled ones, and the annotator's total time. Other pre-filled masks are kept; `labels` has
    those of them that were labelled."""

    masks: Annotated[list[NewMask], Field(max_length=MAX_MASKS)]
    rejected: Annotated[list[Id], Field(max_length=MAX_MASKS)] = []
    labels: Annotated[list[LabelIn], Field(max_length=MAX_MASKS)] = []
    seconds: Seconds


class NewVerdict(Schema):
    """A reviewer's verdict on one mask; a fix has the better mask, a reject may have a reason.
    `category_id`: the label that the reviewer gives or confirms, in `label_seconds` beside the
    verdict's `seconds`; None: it stays as it is."""

    mask_id: Id
    verdict: VerdictKind
    seconds: Seconds
    reason: Annotated[str, Field(max_length=200, pattern=PLAIN)] | None = None
    fix: NewMask | None = None
    category_id: CategoryId | None = None
    label_seconds: Seconds = 0.0


class Judgement(Lease):
    """A finished `review` task: a verdict on each of its masks."""

    verdicts: Annotated[list[NewVerdict], Field(min_length=1, max_length=MAX_MASKS)]


class CommentIn(Lease):
    """A comment on the image of a held task. x and y: its place; an answer has none. `mask_id`: the
    mask of the task that it is about."""

    text: Annotated[str, Field(min_length=1, max_length=2_000, pattern=PROSE)]
    x: Coordinate | None = None
    y: Coordinate | None = None
    mask_id: Id | None = None


class CommentView(Schema):
    """A comment in an image's thread. `task_id`: the task in which it was written. `resolved_at`:
    when a reviewer judged the image after it came back."""

    id: int
    task_id: int
    mask_id: str | None
    x: float | None
    y: float | None
    author: str
    is_mine: bool
    text: str
    created_at: datetime
    resolved_at: datetime | None


class Submitted(Schema):
    """What was stored. `was_known`: the same submission was stored before. `feedback`: on a task
    whose true masks are known, what was missed, if annotators are told."""

    task_id: int
    masks: int
    was_known: bool
    feedback: str | None = None


class Problem(Schema):
    """Why a request was refused. `error` is a word for programs, `message` is for people."""

    error: str
    message: str


class ActionView(Schema):
    """An action an admin can start. `fields`: default values by name."""

    name: str
    title: str
    fields: dict[str, Any]


class ActionIn(Schema):
    """Values for an action's fields; omitted ones take their default."""

    values: dict[str, str | int | float | bool | None] = {}


class ActionPlan(Schema):
    """What an action will do, as a sentence, and the equivalent command."""

    text: str
    command: str


class JobView(Schema):
    """An action that was started."""

    id: str
    action: str
    title: str
    """The action's title, as on its button."""
    command: str
    state: Literal["running", "done", "failed", "stopped"]
    started_at: datetime
    finished_at: datetime | None
    log: str
    """The last lines of its log."""
    progress: float | None = None
    """The share of its present step that is done, while it runs; None: unknown."""


class Overview(Schema):
    """The figures of the dashboard; each part has rows of a table."""

    datasets: list[dict[str, Any]]
    """name, images, train, held_out, near_duplicates, annotated (images that people submitted),
    to_annotate (the others), masks (in the mask table), masks_handed_in (submitted, but not in the
    table before their round ends), masks_per_image, masks_by_stage, people_today (who submitted in
    the last 24 hours)."""
    loops: list[dict[str, Any]]
    """dataset, state, rounds: stage, round, state, images, chosen (why these), masks,
    clicks_per_mask, ..., tasks."""
    queue: dict[str, dict[str, int]]
    """By kind: open, leased, submitted, skipped, and the oldest open task's age in seconds."""
    annotators: list[dict[str, Any]]
    """name, role, tasks, reviews, masks, seconds_per_mask, masks_per_hour, last_seen; agreement:
    of the masks that another reviewer also judged, the share with the same verdict; gold: tasks,
    score, low, high, judgement (below, above, undecided) of gold tasks, or None."""
    models: list[dict[str, Any]]
    """version, state, parent, created_at, note; miou_1_click, miou_3_clicks: on the set that
    versions are compared on; scored_on: that set, or another one with other_miou_1_click."""
    model_choices: list[dict[str, str]] = []
    """where, command, size of public models to take; none once a model was imported or trained
    and promoted."""
    runs: list[dict[str, Any]]
    """id, kind, state, started_at, finished_at, progress (0 to 1), images, masks, error."""
    history: list[dict[str, Any]]
    """By hour: at, tasks, masks, seconds_per_mask, masks_per_image."""
    verdicts: dict[str, int]
    releases: list[dict[str, Any]]
    """name, dataset, state, created_at, masks, images, files (that can be downloaded)."""
    categories: list[dict[str, Any]] = []
    """By dataset with a list, the most frequent first: dataset, name (None: all others), color,
    masks."""
    consensus: list[dict[str, Any]] = []
    """By round: dataset, stage, round, images that several people annotated, f1 and iou (mean
    agreement), reviewed (images on which they disagree)."""
    costs: list[dict[str, Any]] = []
    """By stage and model, the last row (stage `total`) over all: runs, cpu_seconds, gpu_seconds,
    people_seconds, simulated_seconds, bytes, images, masks, judged_masks, accepted_masks,
    accepted_is_estimate (some masks are not judged: extrapolated from those that are), cost,
    cost_per_accepted_mask (None if no mask is accepted)."""
    advice: list[str] = []
    """What the person in charge should do about gold tasks; sentences, commands in backticks."""
