"""What a CLIP is trained on, and how: an adapter of its vectors, or its towers.

Held-out images, and one in KEPT_BACK of the others, are not trained on.

N = masks.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from engine.core.batches import batches
from engine.core.records import Mask
from engine.semantics.adapter import AdapterCard, is_kept_back
from engine.semantics.clip import ClipEncoder
from engine.semantics.contrastive import (
    AdapterConfig,
    OnStep,
    TowersConfig,
    train_adapter,
    train_towers,
)
from engine.semantics.crop_pairs import VIEWS, CropPairs
from engine.semantics.encoders import CLIP, load_encoder
from engine.semantics.suggesting import Labelled
from engine.semantics.texts import TEMPLATES
from flows.encoders.towers import store_towers, towers_folder
from flows.encoders.trained import UsedClip
from flows.semantics.descriptions import descriptions_of, texts_digest
from flows.semantics.known_labels import known_labels, labelled_vectors
from flows.semantics.vectors import read_vectors
from flows.workspace import progress
from flows.workspace.workspace import Workspace, code_version
from storage import layout
from storage.catalog import Dataset, Image, Split
from storage.catalog.sessions import new_id
from storage.formats.images import BadImageError

MOST_MASKS = 10_000
"""Masks that towers are trained on; of more, some drawn at random."""
PAGE = 50
"""Images whose masks are read at once."""
SEED = 0


@dataclass(frozen=True)
class Job:
    """One training: of which CLIP, on what."""

    workspace: Workspace
    dataset: Dataset
    encoder: str
    towers: bool
    given: Mapping[str, Any]
    """Values of the configuration that users set."""

    @cached_property
    def config(self) -> AdapterConfig | TowersConfig:
        """How it is trained."""
        return TowersConfig(**self.given) if self.towers else AdapterConfig(**self.given)

    @cached_property
    def names(self) -> dict[int, str]:
        """The categories' names by id."""
        return self.workspace.catalog.categories.current(self.dataset.id).categories.names

    @cached_property
    def descriptions(self) -> dict[int, list[str]]:
        """The categories' descriptions by id."""
        return descriptions_of(self.workspace, self.dataset)

    @cached_property
    def texts(self) -> dict[int, list[str]]:
        """True sentences about a mask, by its category's id."""
        return {
            category: [
                *(template.replace("{}", name) for template in TEMPLATES),
                *self.descriptions.get(category, ()),
            ]
            for category, name in self.names.items()
        }

    @cached_property
    def labels(self) -> dict[str, int]:
        """The categories that people gave, by mask id, without masks of none."""
        found = known_labels(self.workspace, self.dataset).by_people()
        return {mask: category for mask, category in found.items() if category in self.names}

    def card(self, encoder: ClipEncoder, last_label: int) -> AdapterCard:
        """Return the card of a version that is about to be trained."""
        method = "towers" if self.towers else "adapter"
        now = datetime.now(UTC)
        return AdapterCard(
            version=f"{method}-{now:%Y%m%dT%H%M%S}-{new_id()[:6]}",
            encoder=encoder.version,
            name=self.encoder,
            method=method,
            dataset=self.dataset.name,
            config=asdict(self.config),
            texts=texts_digest(self.names, self.descriptions),
            last_label=last_label,
            code_version=code_version(),
            created_at=now.isoformat(timespec="seconds"),
        )


class Lesson(Protocol):
    """One way to train a CLIP."""

    def train(self, card: AdapterCard) -> tuple[UsedClip, AdapterCard]:
        """Train it on labelled masks of images that are not kept back; return it, and its card with
        data and seconds.

        Raises:
            ContrastiveError: there are too few labels, or the loss is not finite.
        """
        ...

    def asked(self, *, held_out: bool) -> Labelled:
        """Return labelled masks that it has not learned from: of held-out images, or of images that
        are kept back."""
        ...

    def store(self, card: AdapterCard) -> str:
        """Write the files; returns their key."""
        ...


def stored_vectors(job: Job, clip: ClipEncoder) -> tuple[Labelled, Labelled]:
    """Return the labelled masks of training images, and of held-out ones, with stored vectors."""
    blocks = read_vectors(job.workspace, job.dataset, clip.version)
    return labelled_vectors(job.workspace, job.dataset, blocks, job.labels)


def not_learned(job: Job, clip: ClipEncoder, *, held_out: bool) -> Labelled:
    """Return the labelled masks of held-out images, or of those kept back, with stored vectors."""
    training, outside = stored_vectors(job, clip)
    return outside if held_out else training.part(is_kept_back(training.image_N))


class AdapterLesson:
    """Trains an adapter on stored vectors."""

    def __init__(self, job: Job, base: ClipEncoder) -> None:
        self._job, self._base = job, base

    def train(self, card: AdapterCard) -> tuple[UsedClip, AdapterCard]:
        """See Lesson."""
        found, _ = stored_vectors(self._job, self._base)
        learned = found.part(~is_kept_back(found.image_N))
        texts = {
            category: self._base.encode_texts(said) for category, said in self._job.texts.items()
        }
        with _steps(self._job.config.steps) as on_step:
            self._adapter = train_adapter(
                learned.vectors_ND,
                learned.category_N,
                texts,
                card,
                logit_scale=self._base.logit_scale,
                config=cast(AdapterConfig, self._job.config),
                on_step=on_step,
            )
        images = len(np.unique(learned.image_N))
        card = self._adapter.card
        clip = UsedClip(self._job.encoder, self._base, adapter=self._adapter)
        return clip, replace(card, data={**card.data, "images": images})

    def asked(self, *, held_out: bool) -> Labelled:
        """See Lesson."""
        return not_learned(self._job, self._base, held_out=held_out)

    def store(self, card: AdapterCard) -> str:
        """See Lesson."""
        key = layout.ADAPTER.key(dataset=card.dataset, version=card.version)
        with tempfile.TemporaryDirectory(prefix="dataengine-") as fresh:
            path = Path(fresh) / "adapter.safetensors"
            replace(self._adapter, card=card).save(path)
            self._job.workspace.objects.put_file(key, path)
        return key


class TowersLesson:
    """Trains the towers on crops of the masks."""

    def __init__(self, job: Job) -> None:
        self._job, self._workspace = job, job.workspace

    def train(self, card: AdapterCard) -> tuple[UsedClip, AdapterCard]:
        """See Lesson."""
        began, device = time.monotonic(), self._workspace.device()
        folder = towers_folder(self._workspace, self._job.encoder)
        # a fresh copy, which is trained in place
        fresh = cast(ClipEncoder, load_encoder(self._job.encoder, device, folder))
        with tempfile.TemporaryDirectory(prefix="dataengine-", dir=self._workspace.cache) as place:
            pairs = CropPairs(Path(place) / "crops", fresh.side, self._job.texts)
            images = set()
            for group, pixels, masks in self._images(self._drawn(self._learned()), "crops"):
                rles = [mask.rle for mask in masks]
                pairs.add(pixels, rles, [self._job.labels[mask.mask_id] for mask in masks])
                images.add(group)
            with _steps(self._job.config.steps) as on_step:
                config = cast(TowersConfig, self._job.config)
                trained = train_towers(fresh, pairs, config, on_step)
        name = f"{CLIP}{card.version}"
        parts = trained.model, trained.tokenizer, trained.config
        self._encoder = ClipEncoder(name, *parts, device)
        data = {
            "labels": len(pairs) // VIEWS,
            "categories": pairs.categories,
            "texts": sum(map(len, self._job.texts.values())),
            "images": len(images),
        }
        card = replace(card, data=data, seconds=time.monotonic() - began)
        return UsedClip(name, self._encoder), card

    def asked(self, *, held_out: bool) -> Labelled:
        """See Lesson; the masks are encoded now."""
        groups, categories = list[int](), list[int]()
        vectors = [np.zeros((0, self._encoder.dimensions), np.float16)]
        kept_back = [image for image in self._placed if _is_kept_back(image)]
        wanted = [image for image in self._placed if image.split == Split.HELD_OUT]
        chosen = wanted if held_out else [one for one in kept_back if one.split == Split.TRAIN]
        for group, pixels, masks in self._images({i: self._placed[i] for i in chosen}, "compare"):
            vectors.append(self._encoder.encode(pixels, [mask.rle for mask in masks]))
            categories += [self._job.labels[mask.mask_id] for mask in masks]
            groups += [group] * len(masks)
        found = np.array(categories, np.int64), np.array(groups, np.int64)
        return Labelled(np.concatenate(vectors), *found)

    def store(self, card: AdapterCard) -> str:
        """See Lesson."""
        return store_towers(self._workspace, self._encoder, card.dataset, card.version)

    @cached_property
    def _placed(self) -> dict[Image, list[str]]:
        """The labelled masks by image."""
        labels, by_image = self._job.labels, defaultdict[int, list[str]](list)
        columns = ("mask_id", "image_id", "area")
        for rows in self._workspace.masks.scan(dataset=self._job.dataset.name, columns=columns):
            for mask_id, image_id, area in zip(*(one.to_pylist() for one in rows), strict=True):
                if mask_id in labels and area:
                    by_image[image_id].append(mask_id)
        images = self._workspace.catalog.images.get_many(sorted(by_image))
        return {image: by_image[image.id] for image in images}

    def _learned(self) -> dict[Image, list[str]]:
        """The masks to train on."""
        return {
            image: masks
            for image, masks in self._placed.items()
            if image.split == Split.TRAIN and not _is_kept_back(image)
        }

    def _drawn(self, masks: dict[Image, list[str]]) -> dict[Image, list[str]]:
        """All of the masks, or MOST_MASKS drawn at random."""
        ids = [mask_id for some in masks.values() for mask_id in some]
        if len(ids) <= MOST_MASKS:
            return masks
        kept = set(np.random.default_rng(SEED).permutation(ids)[:MOST_MASKS].tolist())
        return {image: [one for one in some if one in kept] for image, some in masks.items()}

    def _images(
        self, wanted: Mapping[Image, list[str]], what: str
    ) -> Iterator[tuple[int, np.ndarray, list[Mask]]]:
        """Yield each image's group, pixels and wanted masks; images that cannot be read are passed
        over, as when their vectors are made."""
        table, name = self._workspace.masks, self._job.dataset.name
        with progress.current().track(what, len(wanted), "image") as advance:
            for page in batches(wanted, PAGE):
                found = defaultdict[int, list[Mask]](list)
                for mask in table.masks(image_ids=[image.id for image in page], dataset=name):
                    found[mask.image_id].append(mask)
                for image in page:
                    ids = set(wanted[image])
                    masks = [mask for mask in found[image.id] if mask.mask_id in ids]
                    if masks and (pixels := self._pixels(image)) is not None:
                        yield _group(image), pixels, masks
                    advance()

    def _pixels(self, image: Image) -> np.ndarray | None:
        try:
            return self._workspace.pixels(image)
        except BadImageError:
            return None


def _group(image: Image) -> int:
    return image.near_image_id or image.id


def _is_kept_back(image: Image) -> bool:
    return bool(is_kept_back(np.array([_group(image)]))[0])


@contextmanager
def _steps(count: int) -> Iterator[OnStep]:
    """Show the progress of a training."""
    with progress.current().track("train", count, "step") as advance:
        yield lambda step, loss: advance(1, f"loss {loss:.3f}")
