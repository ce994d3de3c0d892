"""The HTTP interface of the page Browse; see `routes`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from engine.annotation.access import Rate, sight_of
from engine.annotation.admission import GuardedRoute, admits
from engine.annotation.browse_schemas import (
    MAX_OUTLINES,
    MAX_PAGE,
    BrowsedDataset,
    CategoryView,
    ChosenImages,
    ChosenMasks,
    Figures,
    Filters,
    ImageHistory,
    ImageId,
    ImagePage,
    Labelled,
    LabelledMasks,
    MaskPage,
    Outlines,
    OwnWork,
    PageOf,
    Queued,
)
from engine.annotation.errors import not_found
from engine.annotation.routes import CHANGES, Changer, Service, Someone, TaskId
from engine.annotation.schemas import Id
from engine.annotation.service import AnnotationService
from storage.catalog import RunKind, RunState

PAGES = Rate(burst=80, a_second=20, name="browse")
THUMBNAILS = Rate(burst=300, a_second=60, name="thumbnail")
MAX_PROGRAMS = 20
"""Latest runs of programs that are offered."""
CHOSEN = 256 << 10
"""Bytes of the ids of chosen masks or images."""

router = APIRouter(route_class=GuardedRoute)
ImageOfPath = Annotated[int, Path(ge=1, lt=2**63)]


@router.get("/datasets")
@admits("reviewer", PAGES)
def datasets(visitor: Someone, service: Service) -> list[BrowsedDataset]:
    """The datasets that the visitor sees."""
    sight = sight_of(visitor.annotator)
    found = [one for one in service.catalog.datasets.all() if sight.includes(one.id)]
    return [
        BrowsedDataset(
            name=one.name,
            images=service.catalog.images.count(one.id),
            programs=_programs(service, one.id),
            releases=service.browse.releases.names(one.id),
        )
        for one in found
    ]


def _programs(service: AnnotationService, dataset_id: int) -> list[str]:
    """What the latest finished runs of programs are named."""
    runs = service.catalog.runs.all(dataset_id=dataset_id, kind=RunKind.PROGRAM, limit=MAX_PROGRAMS)
    done = [run for run in runs if run.state == RunState.FINISHED]
    asked = [(run.config["asked"], run.id) for run in done]
    return list(dict.fromkeys(one["tag"] or one["name"] or run_id for one, run_id in asked))


@router.get("/masks")
@admits("reviewer", PAGES)
def masks(asked: Annotated[PageOf, Query()], visitor: Someone, service: Service) -> MaskPage:
    """A page of a dataset's masks."""
    dataset = service.access.dataset(visitor.annotator, asked.dataset)
    return service.browse.masks(dataset.id, asked)


@router.get("/images")
@admits("reviewer", PAGES)
def images(asked: Annotated[PageOf, Query()], visitor: Someone, service: Service) -> ImagePage:
    """A page of a dataset's images."""
    dataset = service.access.dataset(visitor.annotator, asked.dataset)
    return service.browse.images(dataset.id, asked)


@router.get("/figures")
@admits("reviewer", PAGES)
def figures(asked: Annotated[Filters, Query()], visitor: Someone, service: Service) -> Figures:
    """Counts and histograms of a dataset's masks."""
    dataset = service.access.dataset(visitor.annotator, asked.dataset)
    return service.browse.figures(dataset.id, asked)


@router.get("/outlines")
@admits("reviewer", PAGES)
def outlines(
    visitor: Someone,
    service: Service,
    dataset: Id,
    image_id: Annotated[list[ImageId], Query(min_length=1, max_length=MAX_OUTLINES)],
    mask_id: Annotated[list[Id], Query(min_length=1, max_length=MAX_OUTLINES)],
) -> Outlines:
    """The shapes of these masks on these images."""
    found = service.access.dataset(visitor.annotator, dataset)
    return Outlines(outlines=service.histories.outlines(found, image_id, mask_id))


@router.get("/images/{image_id}")
@admits("reviewer", PAGES)
def image(image_id: ImageOfPath, visitor: Someone, service: Service) -> ImageHistory:
    """An image with all its masks and their history."""
    if not service.access.may_see(visitor.annotator, image_id):
        raise not_found(f"you have no image {image_id}")
    return service.histories.of_image(image_id)


@router.get("/images/{image_id}/thumbnail", response_class=Response)
@admits("annotator", THUMBNAILS)
def thumbnail(
    image_id: ImageOfPath,
    visitor: Someone,
    service: Service,
    side: Annotated[int, Query(ge=32, le=1024)] = 256,
) -> Response:
    """An image as JPEG, as by `/api/images/{image_id}/pixels`, for a grid of many."""
    data = service.thumbnail(visitor.annotator, image_id, side)
    headers = {"Cache-Control": "private, max-age=86400, immutable"}
    return Response(data, media_type="image/jpeg", headers=headers)


@router.post("/review")
@admits("reviewer", CHANGES, max_body=CHOSEN)
def review(given: ChosenMasks, visitor: Changer, service: Service) -> Queued:
    """Queue masks for review."""
    dataset = service.access.dataset(visitor.annotator, given.dataset)
    return service.commands.review(visitor.annotator, dataset, given)


@router.post("/annotate")
@admits("reviewer", CHANGES, max_body=CHOSEN)
def annotate(given: ChosenImages, visitor: Changer, service: Service) -> Queued:
    """Queue images for annotators, with their masks pre-filled."""
    dataset = service.access.dataset(visitor.annotator, given.dataset)
    return service.commands.annotate(visitor.annotator, dataset, given.image_ids)


@router.post("/reject")
@admits("reviewer", CHANGES, max_body=CHOSEN)
def reject(given: ChosenMasks, visitor: Changer, service: Service) -> Queued:
    """Delete masks: reject verdicts, so that releases and trainings leave them out."""
    dataset = service.access.dataset(visitor.annotator, given.dataset)
    return service.commands.reject(visitor.annotator, dataset, given)


@router.get("/categories")
@admits("annotator", PAGES)
def categories(visitor: Someone, service: Service, dataset: Id) -> list[CategoryView]:
    """The dataset's categories, in their order."""
    found = service.access.dataset(visitor.annotator, dataset)
    listed = service.catalog.categories.current(found.id).categories
    return [CategoryView.model_validate(asdict(one)) for one in listed.categories]


@router.post("/label")
@admits("reviewer", CHANGES, max_body=CHOSEN)
def label(given: LabelledMasks, visitor: Changer, service: Service) -> Labelled:
    """Label masks with a category, or with those suggested for them."""
    dataset = service.access.dataset(visitor.annotator, given.dataset)
    return service.commands.label(visitor.annotator, dataset, given)


@router.get("/finished")
@admits("annotator", PAGES)
def finished(
    visitor: Someone,
    service: Service,
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 60,
    dataset: Id | None = None,
) -> OwnWork:
    """The tasks that the visitor has submitted, of one dataset or all, the latest first."""
    dataset_ids = service.access.datasets(visitor.annotator, dataset)
    return service.finished.page(visitor.annotator, dataset_ids, offset, limit)


@router.get("/finished/{task_id}")
@admits("annotator", PAGES)
def finished_task(task_id: TaskId, visitor: Someone, service: Service) -> ImageHistory:
    """The masks that the visitor submitted for a task."""
    return service.finished.history(visitor.annotator, task_id)


@router.post("/finished/{task_id}/reopen", status_code=204)
@admits("annotator", CHANGES)
def reopen(task_id: TaskId, visitor: Changer, service: Service) -> None:
    """Take a submitted task again; the next task is this one, with what was submitted."""
    service.finished.reopen(visitor.annotator, task_id)
