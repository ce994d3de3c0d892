"""The HTTP interface of the page Work; see `routes`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime

from engine.annotation.admission import GuardedRoute, admits
from engine.annotation.browse_routes import PAGES
from engine.annotation.browse_schemas import MAX_PAGE
from engine.annotation.routes import CHANGES, Changer, Service, Someone, TaskId
from engine.annotation.schemas import Id
from engine.annotation.work_schemas import WaitingPage, WorkView

router = APIRouter(route_class=GuardedRoute)


@router.get("")
@admits("annotator", PAGES)
def work(visitor: Someone, service: Service, since: AwareDatetime) -> WorkView:
    """The visitor's tasks, their work since a time, and the datasets that they see."""
    return service.own_day.view(visitor.annotator, since)


@router.get("/waiting")
@admits("annotator", PAGES)
def waiting(
    visitor: Someone,
    service: Service,
    dataset: Id,
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 60,
) -> WaitingPage:
    """The open tasks of a dataset that the visitor may take, in the queue's order."""
    found = service.access.dataset(visitor.annotator, dataset)
    return service.own_day.waiting(visitor.annotator, found, offset, limit)


@router.post("/tasks/{task_id}/take", status_code=204)
@admits("annotator", CHANGES)
def take(task_id: TaskId, visitor: Changer, service: Service) -> None:
    """Take a task out of the queue's order; the next task is this one."""
    service.take(visitor.annotator, task_id)
