"""Random weights whose predictions depend on the prompt."""

from __future__ import annotations

from typing import Any

import torch

from engine.sam.build import build_sam


@torch.no_grad()
def stretched(sharpness: float, gain: float, offset: float) -> Any:
    """Return random weights whose masks depend on the click: projections are `sharpness` times
    larger, logits are scaled by `gain` and lowered by `offset`, and predicted IoUs lie well inside
    (0, 1)."""
    torch.manual_seed(0)
    sam = build_sam("lite")
    decoder = sam.mask_decoder
    for name, value in decoder.transformer.named_parameters():
        if "proj" in name and name.endswith("weight"):
            value.mul_(sharpness)
    constant = decoder.output_upscaling[-2]  # channel 0 becomes 10 everywhere ...
    constant.weight[:, 0] = 0
    constant.bias[0] = 10
    for mlp in decoder.output_hypernetworks_mlps:
        last = mlp.layers[-1]
        last.weight.mul_(gain)
        last.bias.mul_(gain)
        last.weight[0] = 0
        last.bias[0] = -offset / 10  # ... and takes the offset from every logit
    quality = decoder.iou_prediction_head.layers[-1]
    quality.weight.mul_(1.2)
    quality.bias.add_(0.5)
    torch.nn.init.normal_(sam.prompt_encoder.drawing[-1].weight, std=0.2)  # else zeros
    return sam
