"""The guidelines for annotators: Markdown with pictures, as HTML that is safe to show, by dataset
with their history."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import PurePath
from urllib.parse import urlencode

import numpy as np
from markdown_it import MarkdownIt
from markdown_it.token import Token

from engine.annotation.errors import RefusedError, invalid, not_found
from engine.annotation.guideline_schemas import (
    Guidelines,
    GuidelinesVersionView,
    PictureView,
)
from engine.annotation.pictures import at_most
from storage import layout
from storage.catalog import (
    BadNameError,
    Catalog,
    Dataset,
    GuidelinesVersion,
    QuotaError,
    StaleStateError,
)
from storage.formats.images import BadImageError, read_image, write_jpeg, write_png
from storage.objects import ObjectExistsError, ObjectNotFoundError, ObjectStore

NO_IMAGES = ["image"]
"""Disabled rules where there are no pictures."""
MAX_SIDE = 1600
"""Longer side of a stored picture, in pixels."""
MAX_PIXELS = 60_000_000
"""Pixels of an uploaded picture."""
PNG_BYTES = 1.5
"""A picture is stored as PNG if that has at most so many times the bytes of JPEG."""
MEDIA = {".png": "image/png", ".jpg": "image/jpeg"}


def html_of(markdown: str, pictures: Mapping[str, str] | None = None) -> str:
    """Render CommonMark as HTML. Raw HTML and links to scripts and files stay text.

    All headings become h3: the title of the dialog that shows them is an h2.

    Args:
        markdown: the text.
        pictures: addresses by name of the pictures that it may show; others become text.
    """
    parser = MarkdownIt("commonmark", {"html": False})
    if not pictures:
        parser.disable(NO_IMAGES)
    tokens = parser.parse(markdown)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = "h3"
        for child in token.children or []:
            if child.type == "link_open":
                child.attrs |= {"target": "_blank", "rel": "noopener noreferrer"}
            elif child.type == "image":
                _show(child, pictures or {})
    rendered: str = parser.renderer.render(tokens, parser.options, {})
    return rendered


def _show(image: Token, pictures: Mapping[str, str]) -> None:
    """Let an image show one of the pictures, or make it text."""
    name = str(image.attrs.get("src", ""))
    if name in pictures:
        image.attrs["src"] = pictures[name]
        image.attrs["loading"] = "lazy"
    else:
        image.type, image.tag, image.children = "text", "", None
        image.content = f"[{image.content}: there is no picture {name}]"


class GuidelineBook:
    """The guidelines of all datasets. Thread-safe."""

    def __init__(self, catalog: Catalog, objects: ObjectStore, usual: str) -> None:
        """`usual`: Markdown for datasets without guidelines of their own."""
        self._catalog, self._objects, self._usual = catalog, objects, usual

    def view(self, dataset: Dataset | None) -> Guidelines:
        """A dataset's guidelines, or the usual ones."""
        found = None if dataset is None else self._catalog.guidelines.current(dataset.id)
        if dataset is None or found is None:
            pictures = {} if dataset is None else self._addresses(dataset)
            name = None if dataset is None else dataset.name
            html = html_of(self._usual, pictures)
            return Guidelines(markdown=self._usual, html=html, dataset=name)
        return self._view(dataset, found)

    def preview(self, dataset: Dataset, markdown: str) -> str:
        """The HTML of a text that is being written."""
        return html_of(markdown, self._addresses(dataset))

    def write(
        self, dataset: Dataset, markdown: str, expected_version: int, author: str
    ) -> Guidelines:
        """Make a text the dataset's guidelines.

        Raises:
            RefusedError: somebody else wrote another version meanwhile.
        """
        try:
            made = self._catalog.guidelines.set(
                dataset.id, markdown, expected_version=expected_version, author=author
            )
        except StaleStateError as error:
            raise RefusedError(409, "outdated", str(error)) from error
        return self._view(dataset, made)

    def history(self, dataset: Dataset) -> list[GuidelinesVersionView]:
        """All versions, newest first."""
        return [
            GuidelinesVersionView(
                version=one.version, author=one.author, at=one.created_at, markdown=one.markdown
            )
            for one in self._catalog.guidelines.history(dataset.id)
        ]

    def add_picture(
        self, dataset: Dataset, file_name: str, data: bytes, author: str
    ) -> PictureView:
        """Decode a picture and store it anew, at most MAX_SIDE pixels wide and high.

        Raises:
            RefusedError: it is no picture that can be read, it is too large, or there are too many.
        """
        try:
            picture_HWC = read_image(data, max_pixels=MAX_PIXELS)
        except BadImageError as error:
            raise invalid(f"this picture cannot be used: {error}") from error
        encoded, suffix = _encoded(at_most(picture_HWC, MAX_SIDE))
        name = f"{_slug(file_name)}-{sha256(encoded).hexdigest()[:12]}{suffix}"
        key = layout.GUIDELINE_PICTURE.key(dataset=dataset.id, name=name)
        with contextlib.suppress(ObjectExistsError):  # the same picture: the name has its hash
            self._objects.put(key, encoded)
        try:
            self._catalog.guidelines.add_picture(dataset.id, name, key, author)
        except (QuotaError, BadNameError) as error:
            raise RefusedError(409, "too_many", str(error)) from error
        return PictureView(name=name, address=_address(dataset, name))

    def pictures(self, dataset: Dataset) -> list[PictureView]:
        """The dataset's pictures by name."""
        return [PictureView(name=n, address=a) for n, a in self._addresses(dataset).items()]

    def picture(self, dataset: Dataset, name: str) -> tuple[bytes, str]:
        """A picture's bytes and media type.

        Raises:
            RefusedError: no such picture.
        """
        found = self._catalog.guidelines.pictures(dataset.id).get(name)
        suffix = PurePath(name).suffix
        if found is None or suffix not in MEDIA:
            raise not_found(f"these guidelines have no picture {name!r}")
        try:
            return self._objects.get(found.key), MEDIA[suffix]
        except ObjectNotFoundError as error:
            raise not_found(f"the picture {name!r} is lost; upload it again") from error

    def _addresses(self, dataset: Dataset) -> dict[str, str]:
        names = self._catalog.guidelines.pictures(dataset.id)
        return {name: _address(dataset, name) for name in names}

    def _view(self, dataset: Dataset, version: GuidelinesVersion) -> Guidelines:
        return Guidelines(
            markdown=version.markdown,
            html=html_of(version.markdown, self._addresses(dataset)),
            dataset=dataset.name,
            version=version.version,
            author=version.author,
            at=version.created_at,
        )


def _address(dataset: Dataset, name: str) -> str:
    return f"/api/guidelines/pictures/{name}?{urlencode({'dataset': dataset.name})}"


def _slug(file_name: str) -> str:
    """Letters, digits and dashes of a file's name, without its suffix."""
    stem = PurePath(file_name.replace("\\", "/")).stem.lower()
    return re.sub(r"[^a-z0-9]+", "-", stem).strip("-")[:60] or "picture"


def _encoded(picture_HWC: np.ndarray) -> tuple[bytes, str]:
    """Drawings and screenshots as PNG, photographs as JPEG."""
    png, jpeg = write_png(picture_HWC), write_jpeg(picture_HWC)
    return (png, ".png") if len(png) <= PNG_BYTES * len(jpeg) else (jpeg, ".jpg")
