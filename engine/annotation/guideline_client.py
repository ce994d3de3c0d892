"""The part of the client that reads and writes guidelines."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode

import httpx
from pydantic import TypeAdapter

from engine.annotation.guideline_schemas import (
    Guidelines,
    GuidelinesVersionView,
    PictureView,
    Preview,
)


class GuidelineClient:
    """Reached as `client.guidelines`; methods raise as those of the client."""

    def __init__(self, send: Callable[..., httpx.Response]) -> None:
        self._send = send

    def get(self, dataset: str | None = None) -> Guidelines:
        """The guidelines of a dataset, or the usual ones."""
        query = "" if dataset is None else f"?{urlencode({'dataset': dataset})}"
        answer = self._send("GET", f"/api/guidelines{query}")
        return Guidelines.model_validate_json(answer.content)

    def set(self, dataset: str, markdown: str, *, expected_version: int) -> Guidelines:
        """Give a dataset new guidelines, written from a version (`Guidelines.version`)."""
        body = {"dataset": dataset, "markdown": markdown, "expected_version": expected_version}
        answer = self._send("PUT", "/api/guidelines", body)
        return Guidelines.model_validate_json(answer.content)

    def preview(self, dataset: str, markdown: str) -> str:
        """The HTML of a text."""
        body = {"dataset": dataset, "markdown": markdown}
        answer = self._send("POST", "/api/guidelines/preview", body)
        return Preview.model_validate_json(answer.content).html

    def history(self, dataset: str) -> list[GuidelinesVersionView]:
        """All versions, newest first."""
        answer = self._send("GET", f"/api/guidelines/history?{urlencode({'dataset': dataset})}")
        return TypeAdapter(list[GuidelinesVersionView]).validate_json(answer.content)

    def pictures(self, dataset: str) -> list[PictureView]:
        """The pictures that a dataset's guidelines may show."""
        answer = self._send("GET", f"/api/guidelines/pictures?{urlencode({'dataset': dataset})}")
        return TypeAdapter(list[PictureView]).validate_json(answer.content)

    def add_picture(self, dataset: str, file_name: str, data: bytes) -> PictureView:
        """Add a picture, the content of an image file; show it as `![text](NAME)`."""
        query = urlencode({"dataset": dataset, "file_name": file_name})
        answer = self._send("POST", f"/api/guidelines/pictures?{query}", data)
        return PictureView.model_validate_json(answer.content)

    def picture(self, dataset: str, name: str) -> bytes:
        """A picture's file."""
        query = urlencode({"dataset": dataset})
        return self._send("GET", f"/api/guidelines/pictures/{name}?{query}").content
