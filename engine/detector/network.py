"""torchvision's FCOS (Tian et al. 2019) behind a small pyramid on an image embedding.

The pyramid has one level of twice the embedding's resolution, for objects of a few cells, and four
below it. Boxes are in units of an eighth of an embedding cell: FCOS assigns objects to levels by
sizes in pixels, and `lite`'s cells have eight.

B = images, C = channels of the embedding, h x w = its cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from engine.sam.torchvision_ops import ensure_torchvision

ensure_torchvision()

from torchvision.models.detection.anchor_utils import AnchorGenerator  # noqa: E402
from torchvision.models.detection.fcos import FCOS, FCOSHead  # noqa: E402
from torchvision.models.detection.image_list import ImageList  # noqa: E402

CELL = 8
"""Units of boxes per embedding cell."""

STRIDES = (4, 8, 16, 32, 64)
"""Of the pyramid's levels, in units of boxes."""

CHANNELS = 64
HEAD_CONVOLUTIONS = 2
GROUPS = 8

MAX_DETECTIONS = 300
MIN_SCORE = 0.2
NMS_IOU = 0.6


class Pyramid(nn.Module):
    """Embedding (B, C, h, w) to levels of CHANNELS at 2, 1, 1/2, 1/4 and 1/8 of its resolution."""

    out_channels = CHANNELS

    def __init__(self, embedding_channels: int) -> None:
        super().__init__()
        self.enter = _normed(nn.Conv2d(embedding_channels, CHANNELS, 1))
        self.finer = _normed(nn.ConvTranspose2d(CHANNELS, CHANNELS, 2, stride=2))
        self.coarser = nn.ModuleList(
            _normed(nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1)) for _ in STRIDES[2:]
        )

    def forward(self, embedding_BChw: torch.Tensor) -> dict[str, torch.Tensor]:
        level = self.enter(embedding_BChw)
        levels = [self.finer(level), level]
        for step in self.coarser:
            level = step(level)
            levels.append(level)
        return {str(number): level for number, level in enumerate(levels)}


def _normed(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(layer, nn.GroupNorm(GROUPS, CHANNELS), nn.ReLU())


class _Anchors(AnchorGenerator):  # type: ignore[misc]  # torchvision has no types
    """Points at STRIDES: torchvision's own derives strides from the size of an input image."""

    def forward(
        self, image_list: ImageList, feature_maps: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        first = feature_maps[0]
        self.set_cell_anchors(first.dtype, first.device)
        strides = [[torch.tensor(stride, device=first.device)] * 2 for stride in STRIDES]
        grid = torch.cat(self.grid_anchors([m.shape[-2:] for m in feature_maps], strides))
        return [grid] * len(image_list.image_sizes)


class _EmbeddingsAsImages(nn.Module):
    """In place of torchvision's resizing and normalising of images."""

    def forward(
        self, embeddings: Sequence[torch.Tensor], targets: Any = None
    ) -> tuple[ImageList, Any]:
        batch = torch.stack(list(embeddings))
        size = (batch.shape[-2] * CELL, batch.shape[-1] * CELL)
        return ImageList(batch, [size] * len(batch)), targets

    def postprocess(self, detections: Any, _sizes: Any, _original_sizes: Any) -> Any:
        return detections


def build_network(embedding_channels: int) -> FCOS:
    """Return a network with random weights. It takes a list of embeddings (C, h, w) and, in
    training, their targets; returns losses or boxes as torchvision's detectors do."""
    anchors = _Anchors(tuple((stride,) for stride in STRIDES), ((1.0,),) * len(STRIDES))
    network = FCOS(
        Pyramid(embedding_channels),
        num_classes=1,
        anchor_generator=anchors,
        head=FCOSHead(CHANNELS, 1, 1, num_convs=HEAD_CONVOLUTIONS),
        score_thresh=MIN_SCORE,
        nms_thresh=NMS_IOU,
        detections_per_img=MAX_DETECTIONS,
    )
    network.transform = _EmbeddingsAsImages()
    return network
