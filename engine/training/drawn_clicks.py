"""Where clicks are drawn in training: near the centres of regions as often as anywhere in them.

People and the simulated annotator click near the centre of the largest error. A model that is
trained with clicks anywhere in an error, most of them along edges, loses accuracy after
corrections (docs/LOG.md).

R = regions, H = W = low-resolution side.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

CENTRAL_SHARE = 0.5
"""Share of clicks near the centre of their region; the others are uniform."""

LEVELS = 6
"""Levels of the pyramid that `centrality` sums."""


def centrality(region_RHW: torch.Tensor) -> torch.Tensor:
    """Return how much of a region surrounds each of its cells, (R, H, W), summed over squares of 2
    to 64 cells: highest near the region's centre, 0 outside."""
    level = region_RHW[:, None].float()
    side = level.shape[-1]
    total = level.clone()
    for _ in range(LEVELS):
        level = F.avg_pool2d(level, 2, ceil_mode=True)
        total = total + F.interpolate(level, size=(side, side), mode="bilinear")
    return (total * region_RHW[:, None])[:, 0]


def pick_place(
    region_RHW: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a cell of each region: columns (R,) and rows (R,); any cell if the region is empty."""
    device = region_RHW.device
    noise = torch.rand(region_RHW.shape, generator=generator, device=device)
    central = torch.rand((len(region_RHW), 1, 1), generator=generator, device=device)
    score = torch.where(central < CENTRAL_SHARE, centrality(region_RHW) + 0.05 * noise, 1 + noise)
    place = (score * region_RHW + 1e-6 * noise).flatten(1).argmax(dim=1)
    side = region_RHW.shape[-1]
    return place % side, place // side


def pick_points(region_RHW: torch.Tensor, side: int, generator: torch.Generator) -> torch.Tensor:
    """Draw a point in each region, (R, 2) as (x, y) in pixels of a model input of `side` pixels."""
    x, y = pick_place(region_RHW, generator)
    cell = float(side) / region_RHW.shape[-1]
    corner = torch.stack([x, y], dim=1).float() * cell
    shift = torch.rand(corner.shape, generator=generator, device=corner.device)
    return corner + shift * cell - 0.5


def correction_regions(
    predicted_RHW: torch.Tensor, truth_RHW: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where a correction is clicked, bool (R, H, W): in the deeper of what is missing and
    what is too much, or in the mask if there is no error; and whether it adds, bool (R,)."""
    wrong = predicted_RHW != truth_RHW
    empty = ~wrong.flatten(1).any(dim=1)
    wrong = torch.where(empty[:, None, None], truth_RHW, wrong)
    missed, extra = wrong & truth_RHW, wrong & ~truth_RHW
    missed_depth, extra_depth = (
        centrality(region).flatten(1).amax(dim=1) for region in (missed, extra)
    )
    is_missed = missed_depth >= extra_depth
    return torch.where(is_missed[:, None, None], missed, extra), is_missed
