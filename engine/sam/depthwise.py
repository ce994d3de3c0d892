"""Depthwise convolutions whose gradients are fast on a CPU.

oneDNN has no fast kernel for the gradient of large kernels in bfloat16, of any in channels-first
order, and of a strided one's input: for 8 images of 720 channels, 24 x 24 pixels and a kernel of 5,
one thread takes 122 ms in bfloat16, 86 ms in float32, and 39 ms in float32, channels last. So
kernels get their gradient in channels last and, if large, in float32, and inputs by a convolution.

B = images, C = channels, H x W = pixels, K = kernel side.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

FAST_KERNEL = 3
"""Side of kernels whose gradient is fast in bfloat16."""


def depthwise_conv(
    x_BCHW: torch.Tensor,
    weight_C1KK: torch.Tensor,
    bias_C: torch.Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> torch.Tensor:
    """Return `F.conv2d` with one group per channel, (B, C, H, W); gradients equal its own up to
    rounding."""
    trained = x_BCHW.requires_grad or weight_C1KK.requires_grad
    if x_BCHW.device.type != "cpu" or not (trained and torch.is_grad_enabled()):
        return F.conv2d(x_BCHW, weight_C1KK, bias_C, stride, padding, groups=len(weight_C1KK))
    if torch.is_autocast_enabled("cpu"):
        kind = torch.get_autocast_dtype("cpu")
        x_BCHW, weight_C1KK = x_BCHW.to(kind), weight_C1KK.to(kind)
        bias_C = None if bias_C is None else bias_C.to(kind)
    convolve: Any = _DepthwiseConv.apply  # torch has no types for it
    with torch.autocast("cpu", enabled=False):
        result: torch.Tensor = convolve(x_BCHW, weight_C1KK, bias_C, stride, padding)
    return result


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        grad = gradients[0].contiguous(memory_format=torch.channels_last)
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        grad_x = grad_weight = grad_bias = None
        if of_x:
            grad_x = _input_gradient(grad, x.shape, weight, ctx.stride[0], ctx.padding[0])
        if of_weight:
            grad_weight = _weight_gradient(grad, x, weight, ctx.stride, ctx.padding)
        if of_bias:
            grad_bias = grad.sum(dim=(0, 2, 3), dtype=torch.float32).to(weight.dtype)
        return grad_x, grad_weight, grad_bias, None, None


def _input_gradient(
    grad_BCHW: torch.Tensor, size: torch.Size, weight: torch.Tensor, stride: int, padding: int
) -> torch.Tensor:
    """Return the gradient of an input of `size`: the convolution of the output's gradient with the
    rotated kernel. The gradient of a strided convolution is first spaced by zeros."""
    spread = grad_BCHW
    if stride > 1:
        rows, columns = ((n - 1) * stride + 1 for n in grad_BCHW.shape[2:])
        spread = torch.empty(
            (*size[:2], rows, columns), dtype=weight.dtype, memory_format=torch.channels_last
        ).zero_()
        spread[:, :, ::stride, ::stride] = grad_BCHW
    rotated = weight.flip(2, 3)
    reach = weight.shape[-1] - 1 - padding
    found = F.conv2d(spread, rotated, padding=reach, groups=len(weight))
    below, right = size[2] - found.shape[2], size[3] - found.shape[3]
    return F.pad(found, (0, right, 0, below)) if below or right else found


def _weight_gradient(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> torch.Tensor:
    """Return the gradient of the kernels, (C, 1, K, K)."""
    kind = x.dtype if weight.shape[-1] == FAST_KERNEL else torch.float32
    values = (value.to(kind, memory_format=torch.channels_last) for value in (grad, x, weight))
    found: torch.Tensor = torch.ops.aten.convolution_backward(
        *values,
        bias_sizes=None,
        stride=stride,
        padding=padding,
        dilation=(1, 1),
        transposed=False,
        output_padding=(0, 0),
        groups=len(weight),
        output_mask=(False, True, False),
    )[1]
    return found.to(weight.dtype)
