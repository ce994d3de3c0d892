"""Composition root: opens catalog, object store, mask tables and segmenter from the settings."""

from __future__ import annotations

import copy
import hashlib
import logging
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from engine.core.malloc import keep_freed_memory
from engine.core.rle import RLE
from flows.workspace import logs
from flows.workspace.changed_settings import with_changes
from flows.workspace.retry import retry_during_outage
from flows.workspace.settings import Settings, load_settings
from storage import generations, layout
from storage.annotation_queue import AnnotationQueue
from storage.catalog import Catalog, Image, Model, ModelKind, Run, schema, utc_now
from storage.catalog.backup import write_backup
from storage.formats.images import read_image, read_stretched
from storage.keys import check_key
from storage.masks import MaskTable
from storage.objects import named_by_catalog
from storage.stores import open_store

if TYPE_CHECKING:
    from engine.sam import ModelCard, Segmenter

log = logging.getLogger(__name__)


class Workspace:
    """Everything that a flow needs, opened from one folder."""

    def __init__(self, settings: Settings) -> None:
        self.own_settings = settings
        """Of the file and the environment alone."""
        self.settings = settings
        """With the changes made on the page, since `prepare` or `look_at_changes`."""
        secret, key = settings.store.secret_key, settings.store.access_key
        self.objects = open_store(
            settings.store_uri,
            endpoint_url=settings.store.endpoint_url,
            region=settings.store.region,
            access_key=key.get_secret_value() if key else None,
            secret_key=secret.get_secret_value() if secret else None,
            timeout_seconds=settings.store.timeout_seconds,
        )
        self.catalog: Catalog = Catalog(settings.catalog_url)
        mark = partial(generations.advance, self.catalog, self.objects)
        self.catalog.runs.before_new = partial(retry_during_outage, settings.outage_seconds, mark)
        self.queue = AnnotationQueue(self.catalog)
        self.masks = MaskTable(self.objects)
        self.truths = MaskTable(self.objects, prefix=layout.GROUND_TRUTH)
        """Masks ingested with the images: ground truth of simulated annotators and scores."""
        self._loader = self
        """Key of the loaded models: the same for all workspaces of `as_started`."""

    def as_started(self, run: Run) -> Workspace:
        """The workspace with the settings that the run was started with, which may have changed
        before it resumes. Old runs did not store them and get the current ones."""
        kept = run.config.get("settings")
        if not kept:
            return self
        found = copy.copy(self)
        found.settings = self.settings.shaped(kept)
        return found

    @property
    def cache(self) -> Path:
        """A local folder for files that can be recreated."""
        folder = self.settings.root / ".cache"
        folder.mkdir(exist_ok=True)
        return folder

    def prepare(self) -> None:
        """Migrate the catalog to this code's schema, after a backup, and make the shipped model
        current if no model is. Safe to repeat.

        Raises:
            OSError: the backup cannot be written; the catalog is unchanged.
        """
        found = self.catalog.revision()
        if found not in (None, schema.head()):
            self._back_up(str(found))
        self.catalog.migrate()
        self.look_at_changes()
        if self.catalog.models.current() is None:
            self._add_shipped_model()

    def look_at_changes(self) -> None:
        """Use the settings as they were last changed on the page.

        Raises:
            CatalogError: the catalog does not answer.
        """
        changes = self.catalog.setting_changes.latest()
        self.settings = with_changes(self.own_settings, changes)

    @property
    def backups(self) -> Path:
        """The folder of automatic backups."""
        return self.settings.root / "backups"

    def _back_up(self, revision: str) -> None:
        """Back up before a migration; not a catalog of newer code, which `migrate` refuses."""
        if not schema.is_known(revision):
            return
        self.backups.mkdir(mode=0o700, exist_ok=True)
        path = self.backups / f"before-upgrade-{revision}-{utc_now():%Y%m%dT%H%M%SZ}.backup"
        write_backup(self.catalog.engine, path)
        log.warning("the catalog is migrated; its backup is %s", path)

    def _add_shipped_model(self) -> None:
        from engine.sam.checkpoint import read_card, shipped_path

        card = read_card(shipped_path())
        if card.version not in {model.version for model in self.catalog.models.all()}:
            self.add_model(shipped_path(), card.as_dict())
        self.catalog.models.promote(card.version, expected_current=None)

    def add_model(
        self, path: Path, card: dict[str, Any], kind: ModelKind = ModelKind.SEGMENTER
    ) -> None:
        """Store a checkpoint, object first, and add it as a candidate. The key has the content's
        hash, so that the object of an interrupted attempt is not used for it."""
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        key = layout.MODEL.key(version=card["version"], digest=content[:16])
        self.objects.put_file(key, path)
        self.catalog.models.add(
            card["version"],
            architecture=card["architecture"],
            key=key,
            kind=kind,
            parent=card["parent"],
            table_version=card["table_version"],
            card=card,
        )

    def current_model(self) -> Model:
        """The model version in use.

        Raises:
            RuntimeError: the workspace was not prepared.
        """
        model = self.catalog.models.current()
        if model is None:
            raise RuntimeError("the workspace has no current model; run `dataengine doctor`")
        return model

    def segmenter(self, version: str | None = None) -> Segmenter:
        """The model version, loaded; None: the current one. Two are kept in memory."""
        return _load_segmenter(self._loader, version or self.current_model().version)

    def load_model(self, version: str) -> tuple[Any, ModelCard]:
        """Load a model version anew: segment_anything's `Sam` in evaluation mode, and its card,
        with what was calibrated after the checkpoint was written."""
        from engine.sam import load_checkpoint

        sam, card = load_checkpoint(self.checkpoint(version), self.device())
        calibrated = self.catalog.models.get(version).card
        thresholds = replace(card.thresholds, **calibrated.get("thresholds", {}))
        levels = calibrated.get("click_levels", card.click_levels)
        return sam, replace(card, thresholds=thresholds, click_levels=levels)

    def checkpoint(self, version: str) -> Path:
        """A local copy of a model version's file."""
        model = self.catalog.models.get(version)
        path = self.cache / check_key(model.key)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with named_by_catalog("Else make another version current: `dataengine models`"):
                self.objects.fetch(model.key, path)
        return path

    def device(self) -> str:
        """The torch device that `device` in the settings stands for."""
        return torch_device(self.settings.device)

    def pixels(self, image: Image, between: tuple[float, float] | None = None) -> np.ndarray:
        """An image's RGB uint8 (H, W, 3). `between`: percentiles of the stored values, whatever
        their depth, that become 0 and 255; None: as the image is read everywhere else.

        Raises:
            BadImageError: the stored bytes are not a readable image.
            StorageError: the object cannot be fetched, or is missing.
        """
        with named_by_catalog("If its object is lost, ingest the image's file again"):
            data = self.objects.get(image.key)
        if between is not None:
            return read_stretched(data, *between, max_pixels=self.settings.max_pixels)
        return read_image(data, max_pixels=self.settings.max_pixels)

    def truths_of(self, image_ids: Sequence[int]) -> dict[int, list[RLE]]:
        """Ground-truth masks by image id, in one scan; images without any are left out."""
        found: dict[int, list[RLE]] = {}
        for mask in self.truths.masks(image_ids=list(image_ids), current_only=True):
            if mask.area > 0:  # an empty mask marks a removed one
                found.setdefault(mask.image_id, []).append(mask.rle)
        return found

    def images_with_truth(self, dataset: str) -> set[int]:
        """Ids of the dataset's images with ground-truth masks."""
        found: set[int] = set()
        columns = ("image_id", "area")
        for batch in self.truths.scan(dataset=dataset, columns=columns, current_only=True):
            is_mask = pc.greater(batch.column("area"), 0)
            found.update(batch.column("image_id").filter(is_mask).to_pylist())
        return found


def torch_device(name: str) -> str:
    """The torch device of a name; `auto`: the best available."""
    import torch

    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@lru_cache(maxsize=2)
def _load_segmenter(workspace: Workspace, version: str) -> Segmenter:
    from engine.sam import Segmenter

    return Segmenter.from_card(*workspace.load_model(version))


@cache
def open_workspace(root: str) -> Workspace:
    """The workspace of that folder, one object per process; flows call it with their parameter.

    Raises:
        WorkspaceError: there is none, or its settings are invalid.
    """
    keep_freed_memory()
    settings = load_settings(Path(root))
    logs.configure(settings)
    return Workspace(settings)


@cache
def code_version() -> str:
    """The package's version, and the commit if it runs from a checkout."""
    found = package_version("open-data-engine")
    if shutil.which("git") is None:  # in a container
        return found
    result = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{found}+{result.stdout.strip()}" if result.returncode == 0 else found
