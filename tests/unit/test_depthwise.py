"""Depthwise convolutions with their own gradients, beside torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from engine.sam.depthwise import depthwise_conv


def gradients(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, ours: bool, stride: int, padding: int
) -> list[torch.Tensor]:
    leaves = x, weight, bias = [value.clone().requires_grad_() for value in (x, weight, bias)]
    if ours:
        result = depthwise_conv(x, weight, bias, (stride, stride), (padding, padding))
    else:
        result = F.conv2d(x, weight, bias, stride, padding, groups=len(weight))
    wanted = torch.linspace(-1, 1, result.numel()).reshape(result.shape).to(result.dtype)
    return [result.detach(), *torch.autograd.grad(result, leaves, wanted)]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("side", [12, 13])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (5, 1, 2), (3, 2, 0), (5, 2, 0)]
)
def test_outputs_and_gradients_are_those_of_torch(
    kernel: int, stride: int, padding: int, side: int, channels_last: bool
) -> None:
    torch.manual_seed(0)
    x, weight, bias = (
        torch.randn(2, 6, side, side),
        torch.randn(6, 1, kernel, kernel),
        torch.randn(6),
    )
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    found = gradients(x, weight, bias, True, stride, padding)
    expected = gradients(x, weight, bias, False, stride, padding)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_under_autocast_the_output_is_torchs_and_gradients_have_the_weights_type() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 6, 12, 12), torch.randn(6, 1, 5, 5), torch.randn(6)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(x, weight, bias, True, 1, 2)
        expected = gradients(x, weight, bias, False, 1, 2)
    assert found[0].dtype == torch.bfloat16
    assert torch.equal(found[0], expected[0])
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0.03, atol=0.1)


def test_without_gradients_it_is_torchs_convolution() -> None:
    x, weight = torch.randn(1, 4, 8, 8), torch.randn(4, 1, 3, 3, requires_grad=True)
    with torch.no_grad():
        found = depthwise_conv(x, weight, None, (1, 1), (1, 1))
    assert torch.equal(found, F.conv2d(x, weight, padding=1, groups=4))
    assert found.grad_fn is None
