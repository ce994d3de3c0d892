"""TinyViT, the image encoder of MobileSAM, distilled from SAM's ViT-H.

Architecture: Wu et al. 2022, "TinyViT", arXiv:2207.10666, the 5M variant, as in MobileSAM:
Zhang et al. 2023, "Faster Segment Anything", arXiv:2306.14289, https://github.com/ChaoningZhang/MobileSAM.
Tensors have the names of the public checkpoint `mobile_sam.pt`.

Two convolutions reduce the image to stride 4. One stage of convolutions and three stages of window
attention follow, with a merging layer after each but the last. The last merging layer has stride 1,
so that the embedding has SAM's stride 16.

B = images, C = channels, H = W = positions of a stage, N = positions of a window, T = heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from engine.sam.modeling import LayerNorm2d

IMAGE_SIZE = 1024
STRIDE = 16
EMBED_DIM = 256
EXPANSION = 4
"""Width of hidden layers over that of their input, in convolutions and MLPs."""

CLASSES = 1000
"""Classes of the unused classifier in the public weights."""


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One stage: `depth` blocks, then a merging layer of `stride` to the next stage's channels."""

    channels: int
    depth: int
    heads: int = 0
    """Attention heads; 0 for blocks of convolutions."""
    window: int = 0
    """Side of the attention windows in positions."""
    stride: int = 2


STAGES = (
    StageSpec(64, 2),
    StageSpec(128, 2, heads=4, window=7),
    StageSpec(160, 6, heads=5, window=14, stride=1),
    StageSpec(320, 2, heads=10, window=7),
)


class ConvNorm(nn.Sequential):
    """A convolution and its batch norm, folded into one convolution at each call.

    Training does not update the norm's statistics, because a step has only a few images.
    """

    def __init__(
        self, in_channels: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(
            in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(channels)

    def train(self, mode: bool = True) -> ConvNorm:
        super().train(mode)
        self.bn.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv, norm = self.c, cast(Any, self.bn)  # torch types the statistics as optional
        gain = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight, bias = conv.weight * gain[:, None, None, None], norm.bias - norm.running_mean * gain
        return F.conv2d(x, weight, bias, conv.stride, conv.padding, groups=conv.groups)


class ConvBlock(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1, with a skip connection; (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels * EXPANSION
        self.conv1 = ConvNorm(channels, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(x + self.conv3(hidden))


class Merging(nn.Module):
    """Change to the next stage's channels, and halve both sides if `stride` is 2."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, channels)
        self.conv2 = ConvNorm(channels, channels, 3, stride, groups=channels)
        self.conv3 = ConvNorm(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        merged: torch.Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return merged


class WindowAttention(nn.Module):
    """x + attention inside windows of `window` x `window` positions; (B, H, W, C).

    Each head adds a learned bias for the distance of two positions in rows and columns. Windows
    that extend beyond the input are padded with zeros, which are attended to as any position is.
    """

    offsets_NN: torch.Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        side = torch.arange(window)
        row, column = side.repeat_interleave(window), side.repeat(window)
        offsets = (row[:, None] - row).abs() * window + (column[:, None] - column).abs()
        self.register_buffer("offsets_NN", offsets, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side = self.window
        B, H, W, C = x.shape
        padded = F.pad(x, (0, 0, 0, -W % side, 0, -H % side))
        rows, columns = padded.shape[1] // side, padded.shape[2] // side
        windows = padded.reshape(B, rows, side, columns, side, C).transpose(2, 3)
        attended = self.attend(windows.reshape(-1, side * side, C))
        back = attended.reshape(B, rows, columns, side, side, C).transpose(2, 3)
        return x + back.reshape(padded.shape)[:, :H, :W]

    def attend(self, windows_BNC: torch.Tensor) -> torch.Tensor:
        """Attention without the skip connection, on windows (B, N, C)."""
        B, N, C = windows_BNC.shape
        mixed = self.qkv(self.norm(windows_BNC)).reshape(B, N, self.heads, 3, C // self.heads)
        query, key, value = mixed.permute(3, 0, 2, 1, 4)
        bias_1TNN = self.attention_biases[None, :, self.offsets_NN].to(query.dtype)
        found = F.scaled_dot_product_attention(query, key, value, bias_1TNN)
        attended: torch.Tensor = self.proj(found.transpose(1, 2).reshape(B, N, C))
        return attended


class Mlp(nn.Module):
    """x + two linear layers on each position; (B, H, W, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, channels * EXPANSION)
        self.fc2 = nn.Linear(channels * EXPANSION, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return x + added


class AttentionBlock(nn.Module):
    """Window attention, a depthwise convolution across window borders, an MLP; (B, C, H, W)."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = WindowAttention(channels, heads, window)
        self.local_conv = ConvNorm(channels, channels, 3, groups=channels)
        self.mlp = Mlp(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attended = self.attn(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        mixed = self.local_conv(attended).permute(0, 2, 3, 1)
        out: torch.Tensor = self.mlp(mixed).permute(0, 3, 1, 2)
        return out


class Stage(nn.Module):
    """Blocks, then the merging layer; (B, C, H, W)."""

    def __init__(self, spec: StageSpec, next_channels: int | None) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                AttentionBlock(spec.channels, spec.heads, spec.window)
                if spec.heads
                else ConvBlock(spec.channels)
                for _ in range(spec.depth)
            )
        )
        self.downsample = (
            nn.Identity()
            if next_channels is None
            else Merging(spec.channels, next_channels, spec.stride)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.downsample(self.blocks(x))
        return out


class _Stem(nn.Module):
    """Two convolutions of stride 2; the checkpoint names them `seq`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(3, channels // 2, 3, 2), nn.GELU(), ConvNorm(channels // 2, channels, 3, 2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.seq(x)
        return out


class _UnusedLayer(nn.Module):
    """A layer of the checkpoint that this encoder does not use: it is stored and never trained."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(shape))
        self.register_buffer("bias", torch.zeros(shape[0]))


class TinyVit(nn.Module):
    """Image (B, 3, H, W), normalised as SAM does, to embedding (B, 256, H / 16, W / 16).

    It replaces segment_anything's `ImageEncoderViT`, which has the attribute `img_size`. H and W
    are multiples of 16; the public weights were trained at 1024.
    """

    def __init__(self, img_size: int) -> None:
        super().__init__()
        self.img_size = img_size
        self.patch_embed = _Stem(STAGES[0].channels)
        following = [*(spec.channels for spec in STAGES[1:]), None]
        self.layers = nn.Sequential(*map(Stage, STAGES, following))
        last = STAGES[-1].channels
        self.norm_head = _UnusedLayer(last)
        self.head = _UnusedLayer(CLASSES, last)
        self.neck = nn.Sequential(
            nn.Conv2d(last, EMBED_DIM, 1, bias=False),
            LayerNorm2d(EMBED_DIM),
            nn.Conv2d(EMBED_DIM, EMBED_DIM, 3, padding=1, bias=False),
            LayerNorm2d(EMBED_DIM),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # convolutions and attention are both fast with channels last
        x = x.contiguous(memory_format=torch.channels_last)
        embedding: torch.Tensor = self.neck(self.layers(self.patch_embed(x)))
        return embedding
