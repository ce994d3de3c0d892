"""The part of the client that finds masks and images and acts on them, for reviewers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

import httpx
from pydantic import BaseModel, TypeAdapter

from engine.annotation.browse_schemas import (
    BrowsedDataset,
    CategoryView,
    ChosenImages,
    ChosenMasks,
    Figures,
    Filters,
    ImageHistory,
    ImagePage,
    Labelled,
    LabelledMasks,
    MaskPage,
    Outlines,
    PageOf,
    Queued,
)

ModelT = TypeVar("ModelT", bound=BaseModel)


class BrowseClient:
    """Reached as `client.browse`; methods raise as those of the client. Filters are the fields of
    `PageOf`, for example `predicted_iou_min=0.9, verdict=["none"], limit=200`."""

    def __init__(self, send: Callable[..., httpx.Response]) -> None:
        self._send = send

    def datasets(self) -> list[BrowsedDataset]:
        """The datasets that one sees."""
        answer = self._send("GET", "/api/browse/datasets")
        return TypeAdapter(list[BrowsedDataset]).validate_json(answer.content)

    def masks(self, dataset: str, **filters: Any) -> MaskPage:
        """A page of a dataset's masks.

        Raises:
            pydantic.ValidationError: there is no such filter, or not with this value.
        """
        return self._page(MaskPage, "masks", PageOf(dataset=dataset, **filters))

    def images(self, dataset: str, **filters: Any) -> ImagePage:
        """A page of a dataset's images; raises as `masks`."""
        return self._page(ImagePage, "images", PageOf(dataset=dataset, **filters))

    def figures(self, dataset: str, **filters: Any) -> Figures:
        """Counts and histograms of a dataset's masks; raises as `masks`."""
        return self._page(Figures, "figures", Filters(dataset=dataset, **filters))

    def image(self, image_id: int) -> ImageHistory:
        """An image with all its masks and their history."""
        answer = self._send("GET", f"/api/browse/images/{image_id}")
        return ImageHistory.model_validate_json(answer.content)

    def outlines(self, dataset: str, image_ids: Sequence[int], mask_ids: Sequence[str]) -> Outlines:
        """The shapes of these masks on these images."""
        pairs = [("dataset", dataset), *(("image_id", str(one)) for one in image_ids)]
        query = urlencode([*pairs, *(("mask_id", one) for one in mask_ids)])
        answer = self._send("GET", f"/api/browse/outlines?{query}")
        return Outlines.model_validate_json(answer.content)

    def categories(self, dataset: str) -> list[CategoryView]:
        """The dataset's categories, in their order."""
        answer = self._send("GET", f"/api/browse/categories?{urlencode({'dataset': dataset})}")
        return TypeAdapter(list[CategoryView]).validate_json(answer.content)

    def review(self, chosen: ChosenMasks) -> Queued:
        """Queue masks for review."""
        return self._act(Queued, "review", chosen)

    def reject(self, chosen: ChosenMasks) -> Queued:
        """Give masks reject verdicts: releases and trainings leave them out."""
        return self._act(Queued, "reject", chosen)

    def annotate(self, dataset: str, image_ids: Collection[int]) -> Queued:
        """Queue images for annotators, with their masks pre-filled."""
        return self._act(
            Queued, "annotate", ChosenImages(dataset=dataset, image_ids=list(image_ids))
        )

    def label(self, chosen: LabelledMasks) -> Labelled:
        """Label masks with a category, or with those suggested for them."""
        return self._act(Labelled, "label", chosen)

    def _page(self, kind: type[ModelT], what: str, asked: Filters) -> ModelT:
        given = asked.model_dump(mode="json", exclude_unset=True)
        query = urlencode({name: _word(one) for name, one in given.items()}, doseq=True)
        return kind.model_validate_json(self._send("GET", f"/api/browse/{what}?{query}").content)

    def _act(self, kind: type[ModelT], what: str, chosen: BaseModel) -> ModelT:
        answer = self._send("POST", f"/api/browse/{what}", chosen.model_dump(mode="json"))
        return kind.model_validate_json(answer.content)


def _word(value: Any) -> Any:
    """Booleans as a query has them."""
    return str(value).lower() if isinstance(value, bool) else value
