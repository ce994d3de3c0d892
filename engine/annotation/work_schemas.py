"""Responses of the page Work; see `schemas`."""

from __future__ import annotations

from typing import Literal

from engine.annotation.schemas import ImageView, Schema
from engine.core.records import Stage
from storage.catalog import TaskKind


class DoneView(Schema):
    """What the visitor has submitted. `images` and `masks`: of stages 1 and 2; `reviews`: review
    tasks; `seconds`: of all."""

    images: int
    masks: int
    reviews: int
    seconds: float


class MyTask(Schema):
    """A task of the visitor. `state`: held; begun, with a draft; or reserved for them. `note`: what
    a reviewer or the person in charge says about it."""

    task_id: int
    image: ImageView
    dataset: str
    kind: TaskKind
    state: Literal["held", "begun", "reserved"]
    note: str | None


class RoundView(Schema):
    """A dataset's open round. `done`, `total`: its tasks; `seconds_left`: of annotators' time for
    the others, from the mean of the submitted ones; None as long as there are none."""

    stage: Stage
    number: int
    done: int
    total: int
    seconds_left: float | None


class WorkDataset(Schema):
    """A dataset that the visitor sees. `waiting`: open tasks that they may take; `round`: the open
    one. Both are None where gold tasks must not show."""

    name: str
    waiting: int | None
    round: RoundView | None


class WorkView(Schema):
    """The visitor's day. `may_choose`: whether they may take an image out of turn."""

    today: DoneView
    tasks: list[MyTask]
    datasets: list[WorkDataset]
    may_choose: bool


class WaitingTask(Schema):
    """An open task that the visitor may take."""

    task_id: int
    image: ImageView
    kind: TaskKind


class WaitingPage(Schema):
    """A page of the open tasks of a dataset, in the queue's order; `total`: all of them."""

    total: int
    tasks: list[WaitingTask]
