"""A small typed client of the annotation server, for scripts, load tests and simulated annotators.

with Client("http://127.0.0.1:8765", token="...") as client:
    task = client.next_task([TaskKind.ANNOTATE]).task
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import httpx
import numpy as np
from pydantic import BaseModel, TypeAdapter

from engine.annotation.access import COOKIE
from engine.annotation.actions import Values
from engine.annotation.browse_client import BrowseClient
from engine.annotation.browse_schemas import OwnWork
from engine.annotation.errors import RefusedError
from engine.annotation.guideline_client import GuidelineClient
from engine.annotation.held_task import HeldTask
from engine.annotation.schemas import (
    ActionPlan,
    ActionView,
    Box,
    CommentView,
    Draft,
    Former,
    JobView,
    LabelIn,
    LeaseTime,
    Me,
    NewMask,
    NewVerdict,
    NextTaskView,
    Overview,
    Point,
    Prediction,
    Submitted,
    Suggestion,
    TaskView,
)
from engine.annotation.setting_client import SettingClient
from engine.annotation.team_client import TeamClient
from engine.annotation.webhook_client import WebhookClient
from engine.annotation.work_schemas import WaitingPage, WorkView
from storage.catalog import TaskKind
from storage.formats.images import read_image

ModelT = TypeVar("ModelT", bound=BaseModel)


class Client:
    """A client signed in as one annotator. Every method raises RefusedError if the server refuses,
    and httpx.TransportError if it cannot be reached; a submission may then be repeated."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        session: str | None = None,
        api_token: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        """
        Args:
            url: of the server, e.g. http://127.0.0.1:8765.
            token: of a one-time sign-in link (the part after #).
            session: of an earlier client (`Client.session`).
            api_token: made by an admin on the page Team. A local server may need none of them.
        """
        cookies = {} if session is None else {COOKIE: session}
        headers = {} if api_token is None else {"Authorization": f"Bearer {api_token}"}
        self._http = httpx.Client(base_url=url, timeout=timeout, cookies=cookies, headers=headers)
        self._csrf = ""
        self.team = TeamClient(self._send)
        self.webhooks = WebhookClient(self._send)
        self.browse = BrowseClient(self._send)
        self.settings = SettingClient(self._send)
        self.guidelines = GuidelineClient(self._send)
        if token is not None:
            self.me = self._call(Me, "POST", "/api/sign-in", {"token": token})
        else:
            self.me = self._call(Me, "GET", "/api/me")
        self._csrf = self.me.csrf

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def session(self) -> str | None:
        """Signs a later client in as the same annotator: keep it secret."""
        return self._http.cookies.get(COOKIE)

    def close(self) -> None:
        """Close the connections; the session stays."""
        self._http.close()

    def renew(self) -> None:
        """Fetch the CSRF token again: a restarted local server has a new one."""
        self.me = self._call(Me, "GET", "/api/me")
        self._csrf = self.me.csrf

    def next_task(self, kinds: Collection[TaskKind], dataset: str | None = None) -> NextTaskView:
        """Take the next task; a task already held comes first."""
        body = {"kinds": [str(kind) for kind in kinds], "dataset": dataset}
        return self._call(NextTaskView, "POST", "/api/tasks/next", body)

    def open_task(
        self,
        dataset: str | None = None,
        kinds: Collection[TaskKind] = (TaskKind.COMPLETE, TaskKind.ANNOTATE),
    ) -> HeldTask | None:
        """Take the next task as an object for scripts and notebooks, where it shows itself as a
        picture; None: no task is free."""
        view = self.next_task(kinds, dataset).task
        return None if view is None else HeldTask(self, view)

    def task(self, task_id: int) -> TaskView:
        """A task that the annotator holds."""
        return self._call(TaskView, "GET", f"/api/tasks/{task_id}")

    def suggestions(self, task: TaskView) -> list[Suggestion]:
        """The categories suggested for the task's masks; it can take seconds."""
        return self._list(Suggestion, f"/api/tasks/{task.id}/suggestions")

    def heartbeat(self, task: TaskView) -> datetime:
        """Renew the lease on the task; returns when it expires."""
        body = {"lease_id": task.lease_id}
        return self._call(LeaseTime, "POST", f"/api/tasks/{task.id}/heartbeat", body).expires_at

    def skip(self, task: TaskView) -> None:
        """Send the task to the back of the queue."""
        self._send("POST", f"/api/tasks/{task.id}/skip", {"lease_id": task.lease_id})

    def release(self, task: TaskView) -> None:
        """Return the task to its place in the queue."""
        self._send("POST", f"/api/tasks/{task.id}/release", {"lease_id": task.lease_id})

    def save_draft(self, task: TaskView, version: int, data: dict[str, Any]) -> Draft:
        """Store unfinished work."""
        body = {"lease_id": task.lease_id, "draft": {"version": version, "data": data}}
        return self._call(Draft, "PUT", f"/api/tasks/{task.id}/draft", body)

    def predict(
        self,
        task: TaskView,
        points: Collection[Point] = (),
        *,
        box_xyxy: Box | None = None,
        former: Former | None = None,
        multimask: bool = False,
    ) -> Prediction:
        """Masks for a prompt."""
        body = {
            "lease_id": task.lease_id,
            "points": [point.model_dump() for point in points],
            "box_xyxy": box_xyxy,
            "former": None if former is None else former.model_dump(),
            "multimask": multimask,
        }
        return self._call(Prediction, "POST", f"/api/tasks/{task.id}/predict", body)

    def submit(
        self,
        task: TaskView,
        masks: Collection[NewMask],
        *,
        seconds: float,
        rejected: Collection[str] = (),
        labels: Collection[LabelIn] = (),
    ) -> Submitted:
        """Submit an `annotate` or `complete` task; repeating it changes nothing."""
        return self._submit("submit", task, masks, rejected, labels, seconds)

    def _submit(
        self,
        how: str,
        task: TaskView,
        masks: Collection[NewMask],
        rejected: Collection[str],
        labels: Collection[LabelIn],
        seconds: float,
    ) -> Submitted:
        body = {
            "lease_id": task.lease_id,
            "masks": [mask.model_dump() for mask in masks],
            "rejected": list(rejected),
            "labels": [label.model_dump() for label in labels],
            "seconds": seconds,
        }
        return self._call(Submitted, "POST", f"/api/tasks/{task.id}/{how}", body)

    def late(
        self,
        task: TaskView,
        masks: Collection[NewMask],
        *,
        seconds: float,
        rejected: Collection[str] = (),
        labels: Collection[LabelIn] = (),
    ) -> Submitted:
        """Submit work on a task that somebody else now has: a reviewer sees both versions."""
        return self._submit("late", task, masks, rejected, labels, seconds)

    def judge(self, task: TaskView, verdicts: Collection[NewVerdict]) -> Submitted:
        """Submit a `review` task."""
        body = {
            "lease_id": task.lease_id,
            "verdicts": [verdict.model_dump(mode="json") for verdict in verdicts],
        }
        return self._call(Submitted, "POST", f"/api/tasks/{task.id}/judge", body)

    def give_back(self, task: TaskView) -> Submitted:
        """Return the image of a `review` task to the annotator who made its masks."""
        body = {"lease_id": task.lease_id}
        return self._call(Submitted, "POST", f"/api/tasks/{task.id}/return", body)

    def comment(self, task: TaskView, text: str, **place: float | str) -> CommentView:
        """Comment on the image of a held task; `place`: x and y, mask_id."""
        body = {"lease_id": task.lease_id, "text": text, **place}
        return self._call(CommentView, "POST", f"/api/tasks/{task.id}/comments", body)

    def comments(self, image_id: int) -> list[CommentView]:
        """The comments on an image, oldest first."""
        return self._list(CommentView, f"/api/images/{image_id}/comments")

    def pixels(self, image_id: int, side: int | None = None) -> bytes:
        """An image as JPEG, its longer side at most `side` pixels."""
        query = "" if side is None else f"?side={side}"
        return self._send("GET", f"/api/images/{image_id}/pixels{query}").content

    def image(self, image_id: int, side: int | None = None) -> np.ndarray:
        """An image as RGB uint8 (H, W, 3), its longer side at most `side` pixels; the server sends
        it as JPEG."""
        return read_image(self.pixels(image_id, side))

    def regions(self, image_id: int, box_xyxy: tuple[int, int, int, int], count: int) -> np.ndarray:
        """About `count` regions of like pixels in a part of an image: the number of each pixel's
        region, uint16 (h, w); a large part is reduced."""
        x0, y0, x1, y1 = box_xyxy
        query = f"x0={x0}&y0={y0}&x1={x1}&y1={y1}&count={count}"
        data = self._send("GET", f"/api/images/{image_id}/regions?{query}").content
        width, height = np.frombuffer(data, "<u4", 2)
        return np.frombuffer(data, "<u2", offset=8).reshape(height, width)

    def work(self, since: datetime) -> WorkView:
        """One's own tasks, what one has done since a time, and the datasets that one sees."""
        return self._call(WorkView, "GET", f"/api/work?{urlencode({'since': since.isoformat()})}")

    def waiting(self, dataset: str, *, offset: int = 0, limit: int = 60) -> WaitingPage:
        """The open tasks of a dataset that one may take."""
        query = urlencode({"dataset": dataset, "offset": offset, "limit": limit})
        return self._call(WaitingPage, "GET", f"/api/work/waiting?{query}")

    def take(self, task_id: int) -> None:
        """Take a task out of the queue's order; `next_task` returns it."""
        self._send("POST", f"/api/work/tasks/{task_id}/take")

    def finished(self, *, dataset: str | None = None, offset: int = 0, limit: int = 60) -> OwnWork:
        """The tasks that one has submitted, the latest first."""
        query: dict[str, str | int] = {"offset": offset, "limit": limit}
        if dataset is not None:
            query["dataset"] = dataset
        return self._call(OwnWork, "GET", f"/api/browse/finished?{urlencode(query)}")

    def reopen(self, task_id: int) -> None:
        """Take a submitted task again; `next_task` returns it."""
        self._send("POST", f"/api/browse/finished/{task_id}/reopen")

    def download(self, release: str, file: str, path: Path) -> None:
        """Write a file of a finished release (`instances.json`, `sa1b.tar`, `report.html`) to a
        path, which must be new.

        Raises:
            FileExistsError: the path is taken.
        """
        address = f"/api/releases/{quote(release, safe='')}/{quote(file, safe='')}"
        with path.open("xb") as out:
            try:
                with self._http.stream("GET", address) as answer:
                    if answer.is_error:
                        answer.read()
                        raise _refusal(answer)
                    for data in answer.iter_bytes():
                        out.write(data)
            except BaseException:
                path.unlink()
                raise

    def overview(self) -> Overview:
        """The figures of the dashboard."""
        return self._call(Overview, "GET", "/api/overview")

    def actions(self) -> list[ActionView]:
        """The actions that can be started."""
        return self._list(ActionView, "/api/actions")

    def plan(self, name: str, values: Values | None = None) -> ActionPlan:
        """Describe what an action will do with these field values."""
        body = {"values": values or {}}
        return self._call(ActionPlan, "POST", f"/api/actions/{name}/plan", body)

    def start(self, name: str, values: Values | None = None) -> JobView:
        """Start an action."""
        return self._call(JobView, "POST", f"/api/actions/{name}", {"values": values or {}})

    def stop(self, job_id: str) -> JobView:
        """Interrupt a job as Ctrl-C does; the second call kills it."""
        return self._call(JobView, "POST", f"/api/jobs/{job_id}/stop", {})

    def retry(self, job_id: str) -> JobView:
        """Start a job that failed or was stopped again, as a new job."""
        return self._call(JobView, "POST", f"/api/jobs/{job_id}/retry", {})

    def job(self, job_id: str) -> JobView:
        """One of the started jobs."""
        return self._call(JobView, "GET", f"/api/jobs/{job_id}")

    def jobs(self) -> list[JobView]:
        """The started jobs, newest first."""
        return self._list(JobView, "/api/jobs")

    def events(self) -> Iterator[tuple[str, Any]]:
        """What changes, as the server says it, until the session ends: first the present state.
        Names: `queue` (by kind of task); for those who see the dashboard also `job` and `overview`.
        """
        with self._http.stream("GET", "/api/events", timeout=None) as answer:
            if answer.is_error:
                answer.read()
                raise _refusal(answer)
            name, data = "message", list[str]()
            for line in answer.iter_lines():
                field, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if field == "event":
                    name = value
                elif field == "data":
                    data.append(value)
                elif not line and data:
                    yield name, json.loads("\n".join(data))
                    name, data = "message", []

    def _list(self, kind: type[ModelT], path: str) -> list[ModelT]:
        return TypeAdapter(list[kind]).validate_json(  # type: ignore[valid-type]
            self._send("GET", path).content
        )

    def _call(self, kind: type[ModelT], method: str, path: str, body: Any = None) -> ModelT:
        return kind.model_validate_json(self._send(method, path, body).content)

    def _send(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """`body`: bytes are sent as they are, all else as JSON."""
        headers = {"X-CSRF-Token": self._csrf} if self._csrf else {}
        content: dict[str, Any] = {"json": body}
        if isinstance(body, bytes):
            content = {"content": body}
            headers["Content-Type"] = "application/octet-stream"
        response = self._http.request(method, path, **content, headers=headers)
        if response.is_error:
            raise _refusal(response)
        return response


def _refusal(response: httpx.Response) -> RefusedError:
    try:
        problem = response.json()
        return RefusedError(response.status_code, problem["error"], problem["message"])
    except (ValueError, KeyError, TypeError):
        return RefusedError(response.status_code, "unknown", response.text[:500])
