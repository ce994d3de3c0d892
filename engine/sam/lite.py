"""`lite`: a small image encoder in front of segment_anything's own prompt encoder and mask decoder.

EfficientNet-Lite2 (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite)
without squeeze-excitation, its batch norms folded into the convolutions, then a light feature
pyramid to stride 8. Finer levels (strides 2 and 4) reach stride 8 by pixel-unshuffle, so that the
decoder, whose only input is this embedding, can resolve boundaries finer than 8 pixels.

B = images, C = channels, H = W = 384 pixels (other multiples of 32 work in training).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from engine.sam.depthwise import depthwise_conv

IMAGE_SIZE = 384
STRIDE = 8
EMBED_DIM = 128


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One stage of the trunk: `repeats` blocks, the first with `stride`."""

    channels: int
    repeats: int
    kernel: int
    stride: int
    expansion: int


STEM_CHANNELS = 32
LITE2_STAGES = (
    StageSpec(16, 1, 3, 1, 1),
    StageSpec(24, 3, 3, 2, 6),
    StageSpec(48, 3, 5, 2, 6),
    StageSpec(88, 4, 3, 2, 6),
    StageSpec(120, 4, 5, 1, 6),
    StageSpec(208, 5, 5, 2, 6),
    StageSpec(352, 1, 3, 1, 6),
)
"""EfficientNet-Lite2: width 1.1, depth 1.2, channels rounded to multiples of 8."""

PYRAMID_STAGES = (0, 1, 2, 4, 6)
"""Stages whose outputs feed the pyramid, at strides 2, 4, 8, 16 and 32."""


def _pad_same(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """TensorFlow's 'SAME' padding of a side that the stride divides: the odd pixel is added right
    and below."""
    total = max(kernel - stride, 0)
    before = total // 2
    return F.pad(x, (before, total - before, before, total - before))


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's 'SAME' padding."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = _pad_same(x, self.kernel_size[0], self.stride[0])
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class DepthwiseConv2d(nn.Conv2d):
    """One kernel per channel, with TensorFlow's 'SAME' padding; gradients are fast on a CPU."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(channels, channels, kernel, stride=stride, groups=channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side, stride = self.kernel_size[0], (self.stride[0], self.stride[1])
        if stride == (1, 1):
            return depthwise_conv(x, self.weight, self.bias, stride, (side // 2, side // 2))
        x = _pad_same(x, side, stride[0])
        return depthwise_conv(x, self.weight, self.bias, stride, (0, 0))


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, project 1x1, with a skip connection if the shapes agree."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = nn.Conv2d(in_channels, hidden, 1) if expansion != 1 else None
        self.depthwise = DepthwiseConv2d(hidden, kernel, stride)
        self.project = nn.Conv2d(hidden, channels, 1)
        self.has_skip = stride == 1 and in_channels == channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = x if self.expand is None else F.relu6(self.expand(x))
        hidden = self.project(F.relu6(self.depthwise(hidden)))
        return x + hidden if self.has_skip else hidden


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (B, C, H, W), as in SAM's neck."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(x.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)


class LiteEncoder(nn.Module):
    """Image (B, 3, H, W), normalised as SAM does, to embedding (B, 128, H / 8, W / 8).

    It replaces segment_anything's `ImageEncoderViT`, which has the attribute `img_size`.
    """

    def __init__(self, img_size: int = IMAGE_SIZE) -> None:
        super().__init__()
        self.img_size = img_size
        self.stem = SameConv2d(3, STEM_CHANNELS, 3, stride=2)
        self.stages = nn.ModuleList()
        channels = STEM_CHANNELS
        for spec in LITE2_STAGES:
            blocks = nn.Sequential()
            for index in range(spec.repeats):
                stride = spec.stride if index == 0 else 1
                blocks.append(
                    InvertedResidual(channels, spec.channels, spec.kernel, stride, spec.expansion)
                )
                channels = spec.channels
            self.stages.append(blocks)
        c2, c4, c8, c16, c32 = (LITE2_STAGES[index].channels for index in PYRAMID_STAGES)
        self.lateral_fine = nn.Conv2d(c2 * 16 + c4 * 4, EMBED_DIM, 1)
        self.lateral_8 = nn.Conv2d(c8, EMBED_DIM, 1)
        self.lateral_16 = nn.Conv2d(c16, EMBED_DIM, 1)
        self.lateral_32 = nn.Conv2d(c32, EMBED_DIM, 1)
        self.smooth_16 = DepthwiseConv2d(EMBED_DIM, 5, 1)
        self.mix = nn.Sequential(
            nn.GELU(),
            nn.Conv2d(EMBED_DIM, EMBED_DIM, 3, padding=1),
            ChannelNorm(EMBED_DIM),
        )

    def stage_outputs(self, x: torch.Tensor, wanted: Sequence[int]) -> list[torch.Tensor]:
        """Return the outputs of some of the trunk's stages, in ascending order; later stages are
        not computed."""
        x = F.relu6(self.stem(x))
        outputs: list[torch.Tensor] = []
        for index, stage in enumerate(self.stages[: max(wanted) + 1]):
            x = stage(x)
            if index in wanted:
                outputs.append(x)
        return outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x2, x4, x8, x16, x32 = self.stage_outputs(x, PYRAMID_STAGES)
        coarse = self.lateral_16(x16) + F.interpolate(self.lateral_32(x32), size=x16.shape[-2:])
        coarse = coarse + self.smooth_16(coarse)
        coarse = F.interpolate(coarse, size=x8.shape[-2:], mode="bilinear")
        fine = torch.cat([F.pixel_unshuffle(x2, 4), F.pixel_unshuffle(x4, 2)], dim=1)
        mixed: torch.Tensor = self.mix(coarse + self.lateral_8(x8) + self.lateral_fine(fine))
        return mixed
