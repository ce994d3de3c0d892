"""The HTTP interface: each route states its rule and makes one call.

Functions are not async: they run in threads, since the catalog and the model block.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from engine.annotation.access import (
    COOKIE,
    SESSION_SECONDS,
    Rate,
    Visitor,
)
from engine.annotation.actions import Actions
from engine.annotation.admission import GuardedRoute, admits
from engine.annotation.like_regions import MAX_REGIONS, MIN_REGIONS, Part
from engine.annotation.schemas import (
    ActionIn,
    ActionPlan,
    ActionView,
    CommentIn,
    CommentView,
    Draft,
    DraftIn,
    JobView,
    Judgement,
    Lease,
    LeaseTime,
    Me,
    NextTask,
    NextTaskView,
    Overview,
    PredictIn,
    Prediction,
    SignIn,
    Submission,
    Submitted,
    Suggestion,
    TaskView,
)
from engine.annotation.service import AnnotationService

REFUSALS = {
    401: "Not signed in.",
    403: "The role may not do this, or the CSRF token is missing.",
    404: "The thing does not exist, or the visitor may not see it.",
    409: "The lease is lost, or the draft is outdated.",
    413: "Too large.",
    422: "The content is wrong.",
    429: "Too many requests.",
    503: "The catalog or the object store does not answer.",
}

SIGN_INS = Rate(burst=30, a_second=0.5, name="sign-in")
PROMPTS = Rate(burst=80, a_second=40, name="prompt")
CHANGES = Rate(burst=60, a_second=20, name="change")
SUBMISSIONS = Rate(burst=40, a_second=4, name="submission")
READS = Rate(burst=120, a_second=20, name="read")
PICTURES = Rate(burst=40, a_second=8, name="picture")
TILES = Rate(burst=300, a_second=60, name="tile")
REGIONS = Rate(burst=10, a_second=1, name="regions")

WORDS = 16 << 10
"""Bytes of a body of ids, names and a few values."""
PROMPT = 64 << 10
MAX_BODY = 32 << 20
"""Bytes of a submission, a judgement or a draft; 5,000 masks take about 10 MB."""

router = APIRouter(route_class=GuardedRoute)
TaskId = Annotated[int, Path(ge=1, lt=2**63)]
Low = Annotated[float | None, Query(ge=0, le=49)]
High = Annotated[float | None, Query(ge=51, le=100)]
KEPT = {"Cache-Control": "private, max-age=86400, immutable"}


def service_of(request: Request) -> AnnotationService:
    """The app's service."""
    found: AnnotationService = request.app.state.service
    return found


def actions_of(request: Request) -> Actions:
    """The app's actions."""
    found: Actions = request.app.state.actions
    return found


def visitor_of(request: Request) -> Visitor:
    """The visitor, signed in or local, whom the route's rule has found."""
    found: Visitor = request.state.visitor
    return found


def changer_of(request: Request, x_csrf_token: Annotated[str | None, Header()] = None) -> Visitor:
    """The same for a request that changes something; adds its header to the schema."""
    return visitor_of(request)


Service = Annotated[AnnotationService, Depends(service_of)]
Someone = Annotated[Visitor, Depends(visitor_of)]
Changer = Annotated[Visitor, Depends(changer_of)]


# sign-in


def _me(visitor: Visitor) -> Me:
    annotator = visitor.annotator
    return Me(
        name=annotator.name,
        role=annotator.role,  # type: ignore[arg-type]  # pydantic checks it
        csrf=visitor.csrf,
        is_local=visitor.is_local,
    )


@router.get("/me")
@admits("annotator", READS)
def me(visitor: Someone) -> Me:
    """The annotator who is signed in."""
    return _me(visitor)


@router.post("/sign-in")
@admits(None, SIGN_INS, max_body=WORDS)
def sign_in(given: SignIn, request: Request, response: Response) -> Me:
    """Use a one-time link; the response sets the session's cookie."""
    session, visitor = request.app.state.access.sign_in(given.token)
    response.set_cookie(
        COOKIE,
        session,
        max_age=int(SESSION_SECONDS),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return _me(visitor)


@router.post("/sign-out", status_code=204)
@admits("annotator", CHANGES)
def sign_out(visitor: Changer, request: Request, response: Response) -> None:
    """End the session."""
    if session := request.cookies.get(COOKIE):
        request.app.state.access.sign_out(session)
    response.delete_cookie(COOKIE)


# tasks


@router.post("/tasks/next")
@admits("annotator", CHANGES, max_body=WORDS)
def next_task(given: NextTask, visitor: Changer, service: Service) -> NextTaskView:
    """Take the next task; a task already held comes first, with its draft."""
    return service.next_task(visitor.annotator, given.kinds, given.dataset)


@router.get("/tasks/{task_id}")
@admits("annotator", READS)
def task(task_id: TaskId, visitor: Someone, service: Service) -> TaskView:
    """A task that the annotator holds."""
    return service.view(visitor.annotator, task_id)


@router.get("/tasks/{task_id}/suggestions")
@admits("annotator", READS)
def suggestions(task_id: TaskId, visitor: Someone, service: Service) -> list[Suggestion]:
    """The categories suggested for the masks of a task that the annotator holds."""
    return service.suggestions(visitor.annotator, task_id)


@router.post("/tasks/{task_id}/heartbeat")
@admits("annotator", CHANGES, max_body=WORDS)
def heartbeat(task_id: TaskId, given: Lease, visitor: Changer, service: Service) -> LeaseTime:
    """Renew the lease on the task."""
    return LeaseTime(expires_at=service.heartbeat(visitor.annotator, task_id, given.lease_id))


@router.post("/tasks/{task_id}/skip", status_code=204)
@admits("annotator", CHANGES, max_body=WORDS)
def skip(task_id: TaskId, given: Lease, visitor: Changer, service: Service) -> None:
    """Send the task to the back of the queue."""
    service.give_back(visitor.annotator, task_id, given.lease_id, skip=True)


@router.post("/tasks/{task_id}/release", status_code=204)
@admits("annotator", CHANGES, max_body=WORDS)
def release(task_id: TaskId, given: Lease, visitor: Changer, service: Service) -> None:
    """Return the task to its place in the queue."""
    service.give_back(visitor.annotator, task_id, given.lease_id, skip=False)


@router.put("/tasks/{task_id}/draft")
@admits("annotator", CHANGES, max_body=MAX_BODY)
def draft(task_id: TaskId, given: DraftIn, visitor: Changer, service: Service) -> Draft:
    """Store unfinished work."""
    return service.keep_draft(visitor.annotator, task_id, given.lease_id, given.draft)


@router.post("/tasks/{task_id}/predict")
@admits("annotator", PROMPTS, max_body=PROMPT)
def predict(
    task_id: TaskId,
    given: PredictIn,
    visitor: Changer,
    service: Service,
    request: Request,
) -> Prediction:
    """Masks for a prompt."""
    began = time.perf_counter()
    found = service.predict(visitor.annotator, task_id, given)
    request.app.state.clicks.add(task_id, time.perf_counter() - began)
    return found


@router.post("/tasks/{task_id}/submit")
@admits("annotator", SUBMISSIONS, max_body=MAX_BODY)
def submit(task_id: TaskId, given: Submission, visitor: Changer, service: Service) -> Submitted:
    """Submit an `annotate` or `complete` task."""
    return service.submissions.submit(visitor.annotator, task_id, given)


@router.post("/tasks/{task_id}/late")
@admits("annotator", SUBMISSIONS, max_body=MAX_BODY)
def late(task_id: TaskId, given: Submission, visitor: Changer, service: Service) -> Submitted:
    """Submit work on a task that somebody else now has: a reviewer sees both versions."""
    return service.submissions.keep_late(visitor.annotator, task_id, given)


@router.post("/tasks/{task_id}/judge")
@admits("reviewer", SUBMISSIONS, max_body=MAX_BODY)
def judge(task_id: TaskId, given: Judgement, visitor: Changer, service: Service) -> Submitted:
    """Submit a `review` task."""
    return service.submissions.judge(visitor.annotator, task_id, given)


@router.post("/tasks/{task_id}/return")
@admits("reviewer", SUBMISSIONS, max_body=WORDS)
def give_back(task_id: TaskId, given: Lease, visitor: Changer, service: Service) -> Submitted:
    """Return the image of a `review` task to the annotator who made its masks."""
    return service.submissions.give_back(visitor.annotator, task_id, given.lease_id)


@router.post("/tasks/{task_id}/comments")
@admits("annotator", CHANGES, max_body=WORDS)
def comment(task_id: TaskId, given: CommentIn, visitor: Changer, service: Service) -> CommentView:
    """Comment on the image of a task that the annotator holds."""
    return service.threads.add(visitor.annotator, task_id, given)


@router.get("/images/{image_id}/comments")
@admits("annotator", READS)
def comments(
    image_id: Annotated[int, Path(ge=1, lt=2**63)], visitor: Someone, service: Service
) -> list[CommentView]:
    """The comments on an image, oldest first."""
    return service.threads.of_image(visitor.annotator, image_id)


@router.get("/images/{image_id}/pixels", response_class=Response)
@admits("annotator", PICTURES)
def pixels(
    image_id: Annotated[int, Path(ge=1, lt=2**63)],
    visitor: Someone,
    service: Service,
    side: Annotated[int | None, Query(ge=32, le=8192)] = None,
    low: Low = None,
    high: High = None,
) -> Response:
    """An image as JPEG, its longer side at most `side` pixels, rounded down to one of a few. With
    `low` or `high` these percentiles of the stored values become black and white; 16-bit images
    are rendered from their full depth."""
    data = service.picture(visitor.annotator, image_id, side, _between(low, high))
    return Response(data, media_type="image/jpeg", headers=KEPT)


def _between(low: float | None, high: float | None) -> tuple[float, float] | None:
    """Both ends in steps of a tenth, so that caches have few different ones."""
    if low is None and high is None:
        return None
    return round(0.0 if low is None else low, 1), round(100.0 if high is None else high, 1)


@router.get("/images/{image_id}/tiles/{level}/{column}/{row}", response_class=Response)
@admits("annotator", TILES)
def tile(
    image_id: Annotated[int, Path(ge=1, lt=2**63)],
    level: Annotated[int, Path(ge=0, lt=32)],
    column: Annotated[int, Path(ge=0, lt=2**31)],
    row: Annotated[int, Path(ge=0, lt=2**31)],
    visitor: Someone,
    service: Service,
    low: Low = None,
    high: High = None,
) -> Response:
    """A tile of 512 x 512 pixels of a large image, as JPEG: at level 0 of the full resolution, at
    each further level of half of it."""
    place = (level, column, row)
    data = service.tile(visitor.annotator, image_id, place, _between(low, high))
    return Response(data, media_type="image/jpeg", headers=KEPT)


@router.get("/images/{image_id}/regions", response_class=Response)
@admits("annotator", REGIONS)
def regions(
    image_id: Annotated[int, Path(ge=1, lt=2**63)],
    visitor: Someone,
    service: Service,
    x0: Annotated[int, Query(ge=0, lt=2**31)],
    y0: Annotated[int, Query(ge=0, lt=2**31)],
    x1: Annotated[int, Query(ge=1, lt=2**31)],
    y1: Annotated[int, Query(ge=1, lt=2**31)],
    count: Annotated[int, Query(ge=MIN_REGIONS, le=MAX_REGIONS)],
    low: Low = None,
    high: High = None,
) -> Response:
    """About `count` regions of like pixels in a part of an image. Width and height as uint32, then
    the number of each pixel's region as uint16, row by row, little-endian; a large part is reduced.
    """
    part = Part(x0, y0, x1, y1, count)
    data = service.regions_of(visitor.annotator, image_id, part, _between(low, high))
    headers = {**KEPT, "Content-Encoding": "gzip"}
    return Response(data, media_type="application/octet-stream", headers=headers)


# dashboard


@router.get("/overview")
@admits("reviewer", READS, all_datasets=True)
def overview(request: Request) -> Overview:
    """The figures of the dashboard."""
    return Overview(**request.app.state.reports.overview())


@router.get("/actions")
@admits("admin", READS)
def all_actions(request: Request, dataset: str | None = None) -> list[ActionView]:
    """The actions an admin can start, with field values for the dataset."""
    return actions_of(request).all(dataset)


@router.post("/actions/{name}/plan")
@admits("admin", CHANGES, max_body=WORDS)
def plan(name: str, given: ActionIn, visitor: Changer, request: Request) -> ActionPlan:
    """Describe what an action will do."""
    return actions_of(request).plan(name, given.values)


@router.post("/actions/{name}")
@admits("admin", CHANGES, max_body=WORDS)
def start(name: str, given: ActionIn, visitor: Changer, request: Request) -> JobView:
    """Start an action."""
    job = actions_of(request).start(name, given.values)
    service_of(request).catalog.audit.add(
        "action", name, annotator_id=visitor.annotator.id, command=job.command
    )
    return job


@router.get("/jobs")
@admits("reviewer", READS, all_datasets=True)
def jobs(request: Request) -> list[JobView]:
    """The started jobs, newest first."""
    return actions_of(request).jobs()


@router.get("/jobs/{job_id}")
@admits("reviewer", READS, all_datasets=True)
def job(job_id: str, request: Request) -> JobView:
    """The job with this id."""
    return actions_of(request).job(job_id)


@router.post("/jobs/{job_id}/stop")
@admits("admin", CHANGES)
def stop(job_id: str, visitor: Changer, request: Request) -> JobView:
    """Interrupt a job as Ctrl-C does; the second call kills it."""
    found = actions_of(request).stop(job_id)
    service_of(request).catalog.audit.add(
        "stop", found.action, annotator_id=visitor.annotator.id, command=found.command
    )
    return found


@router.post("/jobs/{job_id}/retry")
@admits("admin", CHANGES)
def retry(job_id: str, visitor: Changer, request: Request) -> JobView:
    """Start a job that failed or was stopped again, as a new job."""
    found = actions_of(request).retry(job_id)
    service_of(request).catalog.audit.add(
        "retry", found.action, annotator_id=visitor.annotator.id, command=found.command
    )
    return found


@router.get("/events", response_class=EventSourceResponse)
@admits("annotator", READS)
async def events(visitor: Someone, request: Request) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events until the session ends: `queue`; for those who see the dashboard also
    `job` and `overview`."""
    async for event in request.app.state.live.stream(visitor.session):
        yield event
