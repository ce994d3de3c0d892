"""The HTTP interface: each route checks who asks and calls one thing.

Functions are plain, not async: they run in threads, since the catalog and the model block.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from engine.annotation.access import (
    COOKIE,
    SESSION_SECONDS,
    Rate,
    Visitor,
    check_csrf,
)
from engine.annotation.actions import Actions
from engine.annotation.schemas import (
    ActionIn,
    ActionPlan,
    ActionView,
    Draft,
    DraftIn,
    Guidelines,
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
    TaskView,
)
from engine.annotation.service import AnnotationService

REFUSALS = {
    401: "Not signed in.",
    403: "Not for this role, or no CSRF token.",
    404: "No such thing, or not for this visitor.",
    409: "The task is lost, or the draft outdated.",
    413: "Too large.",
    422: "The content is wrong.",
    429: "Too many requests.",
    503: "The catalog or the object store does not answer.",
}

SIGN_INS = Rate(burst=30, a_second=0.5)
PROMPTS = Rate(burst=80, a_second=40)
CHANGES = Rate(burst=60, a_second=20)

router = APIRouter()
TaskId = Annotated[int, Path(ge=1, lt=2**63)]


def service_of(request: Request) -> AnnotationService:
    """The app's service."""
    found: AnnotationService = request.app.state.service
    return found


def actions_of(request: Request) -> Actions:
    """The app's actions."""
    found: Actions = request.app.state.actions
    return found


def visitor_of(request: Request) -> Visitor:
    """Who asks, signed in or local."""
    found: Visitor = request.app.state.access.visitor(request.cookies.get(COOKIE))
    return found


def changer_of(request: Request, x_csrf_token: Annotated[str | None, Header()] = None) -> Visitor:
    """The same for a request that changes something."""
    visitor = visitor_of(request)
    check_csrf(visitor, x_csrf_token)
    request.app.state.limits.spend(f"change:{visitor.annotator.id}", CHANGES)
    return visitor


def prompter_of(request: Request, x_csrf_token: Annotated[str | None, Header()] = None) -> Visitor:
    """The same for a prompt, of which there may be many: one for each place the pointer rests."""
    visitor = visitor_of(request)
    check_csrf(visitor, x_csrf_token)
    request.app.state.limits.spend(f"prompt:{visitor.annotator.id}", PROMPTS)
    return visitor


Service = Annotated[AnnotationService, Depends(service_of)]
Someone = Annotated[Visitor, Depends(visitor_of)]
Changer = Annotated[Visitor, Depends(changer_of)]


# who


def _me(visitor: Visitor) -> Me:
    annotator = visitor.annotator
    return Me(
        name=annotator.name,
        role=annotator.role,  # type: ignore[arg-type]  # pydantic checks it
        csrf=visitor.csrf,
        is_local=visitor.is_local,
    )


@router.get("/me")
def me(visitor: Someone) -> Me:
    """Who is signed in."""
    return _me(visitor)


@router.post("/sign-in")
def sign_in(given: SignIn, request: Request, response: Response) -> Me:
    """Use a one-time link; the session's cookie comes with the answer."""
    host = request.client.host if request.client else "?"
    request.app.state.limits.spend(f"sign-in:{host}", SIGN_INS)
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
def sign_out(visitor: Changer, request: Request, response: Response) -> None:
    """End the session."""
    if session := request.cookies.get(COOKIE):
        request.app.state.access.sign_out(session)
    response.delete_cookie(COOKIE)


# tasks


@router.post("/tasks/next")
def next_task(given: NextTask, visitor: Changer, service: Service) -> NextTaskView:
    """Take the next task; one that is held already comes first, with its draft."""
    return service.next_task(visitor.annotator, given.kinds, given.dataset)


@router.get("/tasks/{task_id}")
def task(task_id: TaskId, visitor: Someone, service: Service) -> TaskView:
    """A task that is held."""
    return service.view(visitor.annotator, task_id)


@router.post("/tasks/{task_id}/heartbeat")
def heartbeat(task_id: TaskId, given: Lease, visitor: Changer, service: Service) -> LeaseTime:
    """A sign of life: hold the task for another while."""
    return LeaseTime(expires_at=service.heartbeat(visitor.annotator, task_id, given.lease_id))


@router.post("/tasks/{task_id}/skip", status_code=204)
def skip(task_id: TaskId, given: Lease, visitor: Changer, service: Service) -> None:
    """Send the task to the back of the queue."""
    service.give_back(visitor.annotator, task_id, given.lease_id, skip=True)


@router.post("/tasks/{task_id}/release", status_code=204)
def release(task_id: TaskId, given: Lease, visitor: Changer, service: Service) -> None:
    """Give the task back to its place in the queue."""
    service.give_back(visitor.annotator, task_id, given.lease_id, skip=False)


@router.put("/tasks/{task_id}/draft")
def draft(task_id: TaskId, given: DraftIn, visitor: Changer, service: Service) -> Draft:
    """Keep unfinished work."""
    return service.keep_draft(visitor.annotator, task_id, given.lease_id, given.draft)


@router.post("/tasks/{task_id}/predict")
def predict(
    task_id: TaskId,
    given: PredictIn,
    visitor: Annotated[Visitor, Depends(prompter_of)],
    service: Service,
    request: Request,
) -> Prediction:
    """Masks for a prompt."""
    began = time.perf_counter()
    found = service.predict(visitor.annotator, task_id, given)
    request.app.state.clicks.add(task_id, time.perf_counter() - began)
    return found


@router.post("/tasks/{task_id}/submit")
def submit(task_id: TaskId, given: Submission, visitor: Changer, service: Service) -> Submitted:
    """Hand in an `annotate` or `complete` task."""
    return service.submit(visitor.annotator, task_id, given)


@router.post("/tasks/{task_id}/judge")
def judge(task_id: TaskId, given: Judgement, visitor: Changer, service: Service) -> Submitted:
    """Hand in a `review` task."""
    visitor.need("reviewer")
    return service.judge(visitor.annotator, task_id, given)


@router.get("/images/{image_id}/pixels", response_class=Response)
def pixels(
    image_id: Annotated[int, Path(ge=1, lt=2**63)],
    visitor: Someone,
    service: Service,
    side: Annotated[int | None, Query(ge=32, le=8192)] = None,
) -> Response:
    """An image as JPEG, its longer side at most `side` pixels."""
    data = service.picture(visitor.annotator, image_id, side)
    headers = {"Cache-Control": "private, max-age=86400, immutable"}
    return Response(data, media_type="image/jpeg", headers=headers)


@router.get("/guidelines")
def guidelines(visitor: Someone, request: Request) -> Guidelines:
    """What annotators go by."""
    return Guidelines(markdown=request.app.state.guidelines)


# the person in charge


@router.get("/overview")
def overview(visitor: Someone, request: Request) -> Overview:
    """What the dashboard shows."""
    visitor.need("reviewer")
    return Overview(**request.app.state.reports.overview())


@router.get("/actions")
def all_actions(visitor: Someone, request: Request, dataset: str | None = None) -> list[ActionView]:
    """What an admin can start; the fields have the values that suit the dataset."""
    visitor.need("admin")
    return actions_of(request).all(dataset)


@router.post("/actions/{name}/plan")
def plan(name: str, given: ActionIn, visitor: Changer, request: Request) -> ActionPlan:
    """What an action will do."""
    visitor.need("admin")
    return actions_of(request).plan(name, given.values)


@router.post("/actions/{name}")
def start(name: str, given: ActionIn, visitor: Changer, request: Request) -> JobView:
    """Start an action."""
    visitor.need("admin")
    job = actions_of(request).start(name, given.values)
    service_of(request).catalog.audit.add(
        "action", name, annotator_id=visitor.annotator.id, command=job.command
    )
    return job


@router.get("/jobs")
def jobs(visitor: Someone, request: Request) -> list[JobView]:
    """What was started, the newest first."""
    visitor.need("reviewer")
    return actions_of(request).jobs()


@router.get("/jobs/{job_id}")
def job(job_id: str, visitor: Someone, request: Request) -> JobView:
    """One of them."""
    visitor.need("reviewer")
    return actions_of(request).job(job_id)


@router.get("/events", response_class=StreamingResponse)
async def events(visitor: Someone, request: Request) -> Any:
    """Server-sent events: `queue`, and for reviewers `job` and `overview`."""
    everything = visitor.annotator.role != "annotator"
    stream = request.app.state.live.stream(only=None if everything else {"queue"})
    return StreamingResponse(stream, media_type="text/event-stream")
