"""`lite`'s prompt encoder: SAM's own, which also draws boxes and clicks on the mask grid.

SAM tells the decoder of a box by two tokens alone. A decoder as small as `lite`'s finds the box's
edges from them only to some pixels; drawn beside the former answer they are exact. Clicks drawn as
maps are what interactive segmentation has used since RITM (Sofiiuk et al., 2021).

A lone first click is not drawn: its embedding stays the same for every click of an image, which is
what makes a grid of clicks fast.

B = prompts, N = points, h x w = embedding grid, maps are of the mask grid, 4h x 4w.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from engine.sam.torchvision_ops import ensure_torchvision

ensure_torchvision()

from segment_anything.modeling import PromptEncoder  # noqa: E402
from segment_anything.modeling.common import LayerNorm2d  # noqa: E402

DRAWING = "prompt_encoder.drawing."
"""Where the drawing's weights are in a model's state dict."""

MAPS = 4
"""Inside of the box; distance from its middle; clicks on the object; clicks on the background."""

CLICK_SPREAD = 1.5
"""Standard deviation of a drawn click, in places of the mask grid."""

FAR = 4.0
"""Distances from a box's middle are cut here; 1 is on the ellipse that touches its sides."""


class DrawnPromptEncoder(PromptEncoder):  # type: ignore[misc]
    """segment_anything's `PromptEncoder` with a drawing of boxes and clicks."""

    def __init__(self, embed_dim: int, grid: tuple[int, int], input_size: tuple[int, int]) -> None:
        super().__init__(embed_dim, grid, input_size, mask_in_chans=16)
        last = nn.Conv2d(32, embed_dim, 1)
        nn.init.zeros_(last.weight)  # nothing is drawn before training
        nn.init.constant_(cast("nn.Parameter", last.bias), 0)
        self.drawing = nn.Sequential(
            nn.Conv2d(MAPS, 8, 2, stride=2),
            LayerNorm2d(8),
            nn.GELU(),
            nn.Conv2d(8, 32, 2, stride=2),
            LayerNorm2d(32),
            nn.GELU(),
            last,
        )

    def forward(self, points: Any, boxes: Any, masks: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Sparse (B, tokens, C) and dense (B, C, h, w) embeddings, as `PromptEncoder` gives them:
        `points` is (B x N x 2, B x N labels) or None."""
        sparse, dense = super().forward(points, boxes, masks)
        if boxes is not None or masks is not None:
            coords, labels = (None, None) if points is None else points
            boxes = None if boxes is None else boxes.reshape(-1, 4)  # SamPredictor's are (1, 1, 4)
            dense = dense + self.draw(coords, labels, boxes, self.image_embedding_size)
        return sparse, dense

    def draw(
        self,
        points_BN2: torch.Tensor | None,
        labels_BN: torch.Tensor | None,
        boxes_B4: torch.Tensor | None,
        grid: tuple[int, int],
    ) -> torch.Tensor:
        """What is added to the image's embedding of (h, w), (B, C, h, w).

        Args:
            points_BN2: (x, y) in the frame of the padded model input; or None.
            labels_BN: 1 object, 0 background, others are not drawn.
            boxes_B4: half-open XYXY in the same frame; or None.
            grid: (h, w), of which one place is as many pixels of the model's own input as its
                larger side fits in.
        """
        given = boxes_B4 if boxes_B4 is not None else points_BN2
        if given is None:  # a mask alone
            return torch.zeros((1, self.embed_dim, *grid), device=self.no_mask_embed.weight.device)
        height, width = 4 * grid[0], 4 * grid[1]
        scale = max(height, width) / max(self.input_image_size)
        with torch.autocast(given.device.type, enabled=False):
            maps = given.new_zeros((len(given), MAPS, height, width), dtype=torch.float32)
            maps[:, 1] = FAR
            if boxes_B4 is not None:
                maps[:, 0], maps[:, 1] = _box_maps(boxes_B4.float() * scale, height, width)
            if points_BN2 is not None and labels_BN is not None:
                centers = (points_BN2.float() + 0.5) * scale
                for index, label in ((2, 1), (3, 0)):
                    maps[:, index] = _click_map(centers, labels_BN == label, height, width)
        drawn: torch.Tensor = self.drawing(maps)
        return drawn


def _box_maps(boxes_B4: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The share of each place that is inside, and its squared distance from the middle over that
    of the touching ellipse, up to FAR; both (B, H, W)."""
    x0, y0, x1, y1 = boxes_B4[:, :, None].unbind(dim=1)
    xs = torch.arange(width, device=boxes_B4.device, dtype=torch.float32)
    ys = torch.arange(height, device=boxes_B4.device, dtype=torch.float32)

    def covered(low: torch.Tensor, high: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        return (torch.minimum(high, places + 1) - torch.maximum(low, places)).clamp(min=0)

    def across(low: torch.Tensor, high: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        half = ((high - low) / 2).clamp(min=0.5)
        return ((places + 0.5 - (low + high) / 2) / half) ** 2

    inside = covered(y0, y1, ys)[:, :, None] * covered(x0, x1, xs)[:, None, :]
    distance = across(y0, y1, ys)[:, :, None] + across(x0, x1, xs)[:, None, :]
    return inside, distance.clamp(max=FAR)


def _click_map(
    centers_BN2: torch.Tensor, wanted_BN: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """A bell of height 1 at each wanted click, their maximum, (B, H, W)."""
    device = centers_BN2.device
    xs = torch.arange(width, device=device, dtype=torch.float32) + 0.5
    ys = torch.arange(height, device=device, dtype=torch.float32) + 0.5
    near_x = torch.exp(-((xs - centers_BN2[:, :, :1]) ** 2) / (2 * CLICK_SPREAD**2))
    near_y = torch.exp(-((ys - centers_BN2[:, :, 1:]) ** 2) / (2 * CLICK_SPREAD**2))
    drawn = torch.zeros((len(centers_BN2), height, width), device=device)
    for index in range(centers_BN2.shape[1]):  # clicks are few, maps are large
        bells = near_y[:, index, :, None] * near_x[:, index, None, :]
        drawn = torch.maximum(drawn, bells * wanted_BN[:, index, None, None])
    return drawn


def drawn_prompts(
    encoder: Any,
    points_BN2: torch.Tensor | None,
    labels_BN: torch.Tensor | None,
    boxes_B4: torch.Tensor | None,
    grid: tuple[int, int],
) -> torch.Tensor | float:
    """`DrawnPromptEncoder.draw`; 0 where the model's prompt encoder draws nothing (Meta's)."""
    if not isinstance(encoder, DrawnPromptEncoder):
        return 0.0
    return encoder.draw(points_BN2, labels_BN, boxes_B4, grid)
