"""A task in the hands of a script or a notebook: its image and masks as numpy arrays, prompts,
and the submission.

H = height, W = width, C = channels. Masks are bool (H, W) of the image's size, points (x, y) in its
pixels.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import httpx
import numpy as np

from engine.annotation.errors import RefusedError
from engine.annotation.schemas import (
    Box,
    Event,
    NewMask,
    NewVerdict,
    Point,
    Prediction,
    Rle,
    Submitted,
    TaskView,
)
from engine.core import rle as rle_codec
from engine.core.overlay import draw_masks
from engine.core.rle import RLE
from storage.catalog import VerdictKind
from storage.formats.images import write_png

if TYPE_CHECKING:
    from engine.annotation.client import Client

log = logging.getLogger(__name__)

BEAT_SECONDS = 20.0
"""How often the lease is renewed."""
SHOWN_SIDE = 960
"""Longer side in pixels of the picture in a notebook."""


class HeldTask:
    """A task that the client holds. A thread renews its lease until it is submitted, skipped or
    released; as a context manager it is released at the end, if it is none of these by then.

    Methods raise as those of the client.
    """

    def __init__(self, client: Client, view: TaskView) -> None:
        self.view = view
        """All that the server says about it."""
        self.masks: dict[str, np.ndarray] = {one.mask_id: _decoded(one.rle) for one in view.masks}
        """Masks that it begins with, by id: pre-filled ones, or those to judge."""
        self.added: list[NewMask] = []
        """Masks that `add` made."""
        self.rejected: list[str] = []
        """Ids of pre-filled masks that are not kept."""
        self._client, self._began = client, time.monotonic()
        self._prompts = list[Event]()
        self._over = threading.Event()
        name = f"lease of task {view.id}"
        threading.Thread(target=self._beat, name=name, daemon=True).start()
        self._image: np.ndarray | None = None

    def __enter__(self) -> HeldTask:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._over.is_set():
            self.release()

    def __repr__(self) -> str:
        kind, image = self.view.kind, self.view.image
        masks = f"{len(self.masks)} masks, {len(self.added)} added"
        size = f"{image.width} x {image.height}"
        return f"<{kind} {self.view.id}: {image.file_name}, {size}, {masks}>"

    def _repr_png_(self) -> bytes:
        return write_png(self.picture())

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return self.view.image.height, self.view.image.width

    @property
    def image(self) -> np.ndarray:
        """The image, RGB uint8 (H, W, 3); the server sends it as JPEG."""
        if self._image is None:
            self._image = self._client.image(self.view.image.id)
        return self._image

    def picture(self, side: int = SHOWN_SIDE) -> np.ndarray:
        """The image with all masks drawn on it, RGB uint8, its longer side at most `side`."""
        kept = [mask for key, mask in self.masks.items() if key not in self.rejected]
        shown = [*map(rle_codec.encode, kept), *(_rle(mask.rle) for mask in self.added)]
        return draw_masks(self.image, shown, max_side=side)

    def predict(
        self,
        points: Sequence[tuple[float, float]] = (),
        *,
        not_points: Sequence[tuple[float, float]] = (),
        box_xyxy: Box | None = None,
    ) -> np.ndarray:
        """The model's mask for clicks on the object, clicks beside it, and a box. The prompts are
        stored with the next mask that is added, as those of the page are."""
        given = [Point(x=x, y=y, label=1) for x, y in points]
        given += [Point(x=x, y=y, label=0) for x, y in not_points]
        multimask = len(given) == 1 and box_xyxy is None
        found: Prediction = self._client.predict(
            self.view, given, box_xyxy=box_xyxy, multimask=multimask
        )
        best, at = found.candidates[found.best], time.monotonic() - self._began
        self._prompts = [
            Event(kind="click", at=at, x=p.x, y=p.y, label=p.label, predicted_iou=None)
            for p in given
        ]
        if box_xyxy is not None:
            self._prompts.append(Event(kind="box", at=at, box_xyxy=box_xyxy))
        return _decoded(best.rle)

    def add(
        self,
        mask_HW: np.ndarray,
        *,
        replaces: str | None = None,
        category_id: int | None = None,
        seconds: float | None = None,
    ) -> str:
        """Add a mask, bool (H, W); returns its name. `replaces`: the pre-filled mask that it fixes;
        `seconds`: what it took, by default the time since the last one.

        Raises:
            ValueError: the mask is empty, or of another shape or type.
        """
        if mask_HW.shape != self.size or mask_HW.dtype != np.bool_ or not mask_HW.any():
            raise ValueError(
                f"expected a bool mask of shape {self.size} that is not empty, got "
                f"{mask_HW.dtype} {mask_HW.shape}"
            )
        name, spent = f"m{len(self.added) + 1}", sum(mask.seconds for mask in self.added)
        self.added.append(
            NewMask(
                client_id=name,
                rle=_encoded(mask_HW),
                seconds=max(0.0, self.seconds - spent) if seconds is None else seconds,
                trajectory=self._prompts,
                replaces=replaces,
                category_id=category_id,
            )
        )
        self._prompts = []
        return name

    def reject(self, mask_id: str) -> None:
        """Do not keep a pre-filled mask.

        Raises:
            KeyError: the task has no such mask.
        """
        if mask_id not in self.masks:
            raise KeyError(mask_id)
        self.rejected.append(mask_id)

    @property
    def seconds(self) -> float:
        """How long the task is held."""
        return time.monotonic() - self._began

    def submit(self, seconds: float | None = None) -> Submitted:
        """Submit what was added; pre-filled masks that were neither rejected nor replaced are kept.
        `seconds`: of the whole task, by default since it was taken."""
        replaced = {mask.replaces for mask in self.added}
        done = self._client.submit(
            self.view,
            self.added,
            rejected=[one for one in dict.fromkeys(self.rejected) if one not in replaced],
            seconds=self.seconds if seconds is None else seconds,
        )
        self._over.set()
        return done

    def judge(
        self,
        rejected: Mapping[str, str] | Sequence[str] = (),
        *,
        fixes: Mapping[str, np.ndarray] | None = None,
    ) -> Submitted:
        """Submit a `review` task: these masks are rejected (a mapping has the reasons), those
        in `fixes` replaced by the better mask, bool (H, W), and all others accepted.

        Raises:
            KeyError: the task has no such mask.
        """
        reasons = dict(rejected) if isinstance(rejected, Mapping) else dict.fromkeys(rejected, "")
        better = dict(fixes or {})
        if unknown := (reasons.keys() | better.keys()) - self.masks.keys():
            raise KeyError(sorted(unknown)[0])
        each = self.seconds / max(1, len(self.masks))
        verdicts = []
        for number, mask_id in enumerate(self.masks):
            fix = None
            if mask_id in better:
                rle = _encoded(better[mask_id])
                fix = NewMask(client_id=f"f{number}", rle=rle, seconds=each, trajectory=[])
            kind = VerdictKind.FIX if fix else VerdictKind.ACCEPT
            kind = VerdictKind.REJECT if mask_id in reasons else kind
            reason = reasons.get(mask_id) or None
            verdicts.append(
                NewVerdict(mask_id=mask_id, verdict=kind, seconds=each, reason=reason, fix=fix)
            )
        done = self._client.judge(self.view, verdicts)
        self._over.set()
        return done

    def skip(self) -> None:
        """Send the task to the back of the queue."""
        self._end(self._client.skip)

    def release(self) -> None:
        """Return the task to its place in the queue."""
        self._end(self._client.release)

    def _end(self, call: Callable[[TaskView], None]) -> None:
        self._over.set()
        call(self.view)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            try:
                self._client.heartbeat(self.view)
            except RefusedError as error:
                log.warning("task %d: %s", self.view.id, error)
                return
            except RuntimeError:
                log.warning("the lease of task %d ends: the client is closed", self.view.id)
                return
            except httpx.HTTPError as error:
                log.warning("the lease of task %d is not renewed: %s", self.view.id, error)


def _rle(given: Rle) -> RLE:
    return RLE(size=given.size, counts=given.counts.encode())


def _decoded(given: Rle) -> np.ndarray:
    return rle_codec.decode(_rle(given))


def _encoded(mask_HW: np.ndarray) -> Rle:
    coded = rle_codec.encode(mask_HW)
    return Rle(size=coded.size, counts=coded.counts.decode())
