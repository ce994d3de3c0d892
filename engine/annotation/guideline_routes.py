"""The HTTP interface of guidelines; see `routes`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response

from engine.annotation.admission import GuardedRoute, admits
from engine.annotation.guideline_schemas import (
    Guidelines,
    GuidelinesIn,
    GuidelinesVersionView,
    PictureView,
    Preview,
    PreviewIn,
)
from engine.annotation.guidelines import GuidelineBook
from engine.annotation.routes import CHANGES, KEPT, PICTURES, READS, Changer, Service, Someone
from engine.annotation.schemas import Id

TEXT = 1 << 20
"""Bytes of a body with guidelines."""
PICTURE = 16 << 20
"""Bytes of an uploaded picture."""

router = APIRouter(route_class=GuardedRoute)
PictureName = Annotated[str, Path(pattern=r"^[a-z0-9-]{1,100}\.(png|jpg)$")]


def book_of(request: Request) -> GuidelineBook:
    """The app's guidelines."""
    found: GuidelineBook = request.app.state.guidelines
    return found


Book = Annotated[GuidelineBook, Depends(book_of)]


@router.get("")
@admits("annotator", READS)
def guidelines(
    visitor: Someone, service: Service, book: Book, dataset: Id | None = None
) -> Guidelines:
    """The guidelines of a dataset; without one, the usual ones."""
    found = None if dataset is None else service.access.dataset(visitor.annotator, dataset)
    return book.view(found)


@router.put("")
@admits("admin", CHANGES, max_body=TEXT)
def write(given: GuidelinesIn, visitor: Changer, service: Service, book: Book) -> Guidelines:
    """Give a dataset new guidelines; the former ones stay in the history."""
    dataset = service.access.dataset(visitor.annotator, given.dataset)
    made = book.write(dataset, given.markdown, given.expected_version, visitor.annotator.name)
    service.catalog.audit.add(
        "guidelines", given.dataset, annotator_id=visitor.annotator.id, version=made.version
    )
    return made


@router.post("/preview")
@admits("admin", READS, max_body=TEXT)
def preview(given: PreviewIn, visitor: Changer, service: Service, book: Book) -> Preview:
    """The HTML of a text that is being written."""
    dataset = service.access.dataset(visitor.annotator, given.dataset)
    return Preview(html=book.preview(dataset, given.markdown))


@router.get("/history")
@admits("reviewer", READS)
def history(
    visitor: Someone, service: Service, book: Book, dataset: Id
) -> list[GuidelinesVersionView]:
    """All versions of a dataset's guidelines, newest first."""
    return book.history(service.access.dataset(visitor.annotator, dataset))


@router.get("/pictures")
@admits("reviewer", READS)
def pictures(visitor: Someone, service: Service, book: Book, dataset: Id) -> list[PictureView]:
    """The pictures that a dataset's guidelines may show."""
    return book.pictures(service.access.dataset(visitor.annotator, dataset))


@router.post("/pictures")
@admits("admin", CHANGES, max_body=PICTURE)
def add_picture(
    visitor: Changer,
    service: Service,
    book: Book,
    dataset: Id,
    file_name: Annotated[str, Query(max_length=200)],
    data: Annotated[bytes, Body(media_type="application/octet-stream")],
) -> PictureView:
    """Add a picture: the body is its file. It is decoded and stored anew."""
    found = service.access.dataset(visitor.annotator, dataset)
    return book.add_picture(found, file_name, data, visitor.annotator.name)


@router.get("/pictures/{name}", response_class=Response)
@admits("annotator", PICTURES)
def picture(
    name: PictureName, visitor: Someone, service: Service, book: Book, dataset: Id
) -> Response:
    """A picture of a dataset's guidelines."""
    data, media = book.picture(service.access.dataset(visitor.annotator, dataset), name)
    return Response(data, media_type=media, headers=KEPT)
