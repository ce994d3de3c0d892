"""`lite`'s prompt encoder: SAM's own, which also draws boxes and clicks on the mask grid.

SAM encodes a box as two tokens, from which a decoder as small as `lite`'s recovers the box's edges
only to several pixels. Maps of the mask grid encode the edges exactly. Interactive segmentation has
encoded clicks as maps since RITM (Sofiiuk et al., 2021).

A lone first click is not drawn: the dense embedding is then the same for all clicks on an image,
which makes a grid of clicks fast.

B = prompts, N = points, C = channels, h x w = embedding grid; maps are of the mask grid, 4h x 4w.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from engine.sam.modeling import LayerNorm2d, PromptEncoder
from engine.sam.prompt_maps import downscaled_rows

DRAWING = "prompt_encoder.drawing."
"""Prefix of these weights in a model's state dict."""

MAPS = 4
"""Inside of the box; distance from its centre; clicks on the object; clicks on the background."""

CLICK_SPREAD = 1.5
"""Standard deviation of a drawn click in cells of the mask grid."""

FAR = 4.0
"""Upper limit of the distance from a box's centre; it is 1 on the inscribed ellipse."""


class DrawnPromptEncoder(PromptEncoder):  # type: ignore[misc]
    """segment_anything's `PromptEncoder` with a drawing of boxes and clicks."""

    def __init__(self, embed_dim: int, grid: tuple[int, int], input_size: tuple[int, int]) -> None:
        super().__init__(embed_dim, grid, input_size, mask_in_chans=16)
        last = nn.Conv2d(32, embed_dim, 1)
        nn.init.zeros_(last.weight)  # the maps have no effect before training
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
        """Return sparse (B, tokens, C) and dense (B, C, h, w) embeddings, as `PromptEncoder` does.

        `points` is coordinates (B, N, 2) and labels (B, N), or None.
        """
        sparse, dense = super().forward(points, boxes, masks)
        if boxes is not None or masks is not None:
            coords, labels = (None, None) if points is None else points
            boxes = None if boxes is None else boxes.reshape(-1, 4)  # SamPredictor's are (1, 1, 4)
            drawn = self.draw(coords, labels, boxes, self.image_embedding_size)
            dense = dense + drawn.mT.reshape(len(drawn), -1, *self.image_embedding_size)
        return sparse, dense

    def draw(
        self,
        points_BN2: torch.Tensor | None,
        labels_BN: torch.Tensor | None,
        boxes_B4: torch.Tensor | None,
        grid: tuple[int, int],
    ) -> torch.Tensor:
        """Encode prompts as maps, float32 (B, h x w, C), to be added to the image's embedding.

        Args:
            points_BN2: (x, y) in pixels of the padded model input; or None.
            labels_BN: 1 object, 0 background; points with other labels are not drawn.
            boxes_B4: half-open XYXY in the same frame; or None.
            grid: (h, w) of the embedding; its longer side spans the model's input.
        """
        given = boxes_B4 if boxes_B4 is not None else points_BN2
        if given is None:  # a mask alone
            device = self.no_mask_embed.weight.device
            return torch.zeros((1, grid[0] * grid[1], self.embed_dim), device=device)
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
        return downscaled_rows(self.drawing, maps)


def _box_maps(boxes_B4: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the share of each cell inside the box, and its squared distance from the box's centre
    in units of the inscribed ellipse, at most FAR; both (B, H, W)."""
    x0, y0, x1, y1 = boxes_B4[:, :, None].unbind(dim=1)
    xs = torch.arange(width, device=boxes_B4.device, dtype=torch.float32)
    ys = torch.arange(height, device=boxes_B4.device, dtype=torch.float32)

    def overlap(low: torch.Tensor, high: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        return (torch.minimum(high, cells + 1) - torch.maximum(low, cells)).clamp(min=0)

    def offset(low: torch.Tensor, high: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        half = ((high - low) / 2).clamp(min=0.5)
        return ((cells + 0.5 - (low + high) / 2) / half) ** 2

    inside = overlap(y0, y1, ys)[:, :, None] * overlap(x0, x1, xs)[:, None, :]
    distance = offset(y0, y1, ys)[:, :, None] + offset(x0, x1, xs)[:, None, :]
    return inside, distance.clamp(max=FAR)


def _click_map(
    centers_BN2: torch.Tensor, selected_BN: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """Return the maximum of Gaussians of height 1 at the selected clicks, (B, H, W)."""
    device = centers_BN2.device
    xs = torch.arange(width, device=device, dtype=torch.float32) + 0.5
    ys = torch.arange(height, device=device, dtype=torch.float32) + 0.5
    near_x = torch.exp(-((xs - centers_BN2[:, :, :1]) ** 2) / (2 * CLICK_SPREAD**2))
    near_y = torch.exp(-((ys - centers_BN2[:, :, 1:]) ** 2) / (2 * CLICK_SPREAD**2))
    drawn = torch.zeros((len(centers_BN2), height, width), device=device)
    for index in range(centers_BN2.shape[1]):  # one map per click at a time saves memory
        gaussian = near_y[:, index, :, None] * near_x[:, index, None, :]
        drawn = torch.maximum(drawn, gaussian * selected_BN[:, index, None, None])
    return drawn


def drawn_prompts(
    encoder: Any,
    points_BN2: torch.Tensor | None,
    labels_BN: torch.Tensor | None,
    boxes_B4: torch.Tensor | None,
    grid: tuple[int, int],
) -> torch.Tensor | float:
    """Call `DrawnPromptEncoder.draw`; return 0 for segment_anything's own prompt encoder."""
    if not isinstance(encoder, DrawnPromptEncoder):
        return 0.0
    return encoder.draw(points_BN2, labels_BN, boxes_B4, grid)
