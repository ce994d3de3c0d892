"""Unique names of images in exports.

A name is the path below the ingested folder. If images from several folders share a name, all names
begin at the common parent of the folders. If one folder gave two images of a name, the file was
replaced: the newest keeps the name, and the others' names contain the first digits of their
SHA-256.
"""

from __future__ import annotations

import os.path
from pathlib import PurePosixPath

from flows.workspace.workspace import Workspace
from storage.catalog import Image

DIGITS = (8, 64)
"""Digits of the SHA-256 in a name: the second number if the name with the first is taken."""


class ImageNames:
    """The names of a dataset's images."""

    def __init__(self, workspace: Workspace, dataset_id: int) -> None:
        self._images, self._dataset_id = workspace.catalog.images, dataset_id
        self._runs = workspace.catalog.runs
        self._folders: dict[str, str] = {}
        self._common: str | None = None
        repeated = self._images.repeated_names(dataset_id)
        self._newest = {name: ids[-1] for name, ids in repeated.items()}
        """Name that several images share -> id of the image that keeps it."""
        ids = [image_id for held in repeated.values() for image_id in held]
        folders = {self._folder(image) for image in self._images.get_many(ids)}
        if len(folders) > 1 and "" not in folders:
            self._begin_at_common_folder()

    def of(self, image: Image) -> str:
        """Return the image's name, unique in the dataset."""
        name = self._plain(image)
        if self._newest.get(name, image.id) == image.id:
            return name
        path = PurePosixPath(name)
        made = [str(path.with_stem(f"{path.stem}.{image.sha256[:n]}")) for n in DIGITS]
        return next((name for name in made if not self._is_taken(name)), made[-1])

    def _begin_at_common_folder(self) -> None:
        images = list(self._images.each(self._dataset_id))
        folders = {self._folder(image) for image in images}
        if "" in folders:
            return
        self._common = os.path.commonpath(folders)
        self._newest = {self._plain(image): image.id for image in images}

    def _plain(self, image: Image) -> str:
        if self._common is None:
            return image.file_name
        return os.path.relpath(f"{self._folder(image)}/{image.file_name}", self._common)

    def _folder(self, image: Image) -> str:
        """Return the folder that the image was ingested from; "" if unknown."""
        if image.run_id is None:
            return ""
        if image.run_id not in self._folders:
            config = self._runs.get(image.run_id).config
            self._folders[image.run_id] = str(config.get("folder", ""))
        return self._folders[image.run_id]

    def _is_taken(self, name: str) -> bool:
        found = self._images.find_by_name(self._dataset_id, name)
        return name in self._newest or found is not None
