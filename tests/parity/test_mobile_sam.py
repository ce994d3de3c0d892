"""Equality with MobileSAM's own package, with the same random weights.

Tolerances are shares of the largest value: 2e-5 for each module and for the embedding (folded batch
norms round differently), 1e-4 for the final logits; 1e-4 for predicted IoU.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from engine.core.records import Prompt
from engine.sam import Segmenter, Thresholds
from engine.sam.build import build_sam
from engine.simulation.scenes import generate_scene

torch.set_num_threads(1)
IMAGE = generate_scene(3, (150, 200), "regions").image_HWC
SMALL = 256
"""Side of the image on which modules are compared: most windows are padded, as at 1024."""


@pytest.fixture(scope="module")
def mobile_sam() -> Any:
    with warnings.catch_warnings():  # it was written for an older timm
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "mobile_sam", reason="mobilesam-mirror and timm are not installed: they come with [dev]"
        )


@torch.no_grad()
def stirred(module: Any) -> Any:
    """Set all weights and statistics to random values."""
    generator = torch.Generator().manual_seed(4)
    for name, value in module.named_parameters():
        if value.ndim == 1:  # of norms, and biases
            middle = 1.0 if name.endswith("weight") else 0.0
            value.copy_(middle + 0.2 * torch.randn(value.shape, generator=generator))
        elif name.endswith("attention_biases"):
            value.copy_(torch.randn(value.shape, generator=generator))
    for name, value in module.named_buffers():
        if name.endswith("running_mean"):
            value.copy_(0.2 * torch.randn(value.shape, generator=generator))
        elif name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return module.train().eval()  # attention copies its biases when evaluation mode starts


@pytest.fixture(scope="module")
def theirs(mobile_sam: Any) -> Any:
    torch.manual_seed(4)
    return stirred(mobile_sam.sam_model_registry["vit_t"]())


@pytest.fixture(scope="module")
def ours(theirs: Any) -> Any:
    sam = build_sam("vit_t")
    sam.load_state_dict(theirs.state_dict())  # strictly: the names are the same
    return sam


@pytest.fixture(scope="module")
def small(mobile_sam: Any, theirs: Any) -> Any:
    """Return MobileSAM's encoder for images of SMALL."""
    widths, heads = [64, 128, 160, 320], [2, 4, 5, 10]
    encoder = mobile_sam.modeling.TinyViT(
        img_size=SMALL, embed_dims=widths, num_heads=heads, drop_path_rate=0.0
    )
    encoder.load_state_dict(theirs.image_encoder.state_dict())
    return encoder.train().eval()


def assert_close(mine: torch.Tensor, other: torch.Tensor) -> None:
    assert mine.shape == other.shape
    assert (mine - other).abs().max() < 2e-5 * other.abs().max()


def as_grid(tokens: torch.Tensor) -> torch.Tensor:
    """Reshape (B, H x W, C) to (B, C, H, W)."""
    images, places, channels = tokens.shape
    side = int(places**0.5)
    return tokens.transpose(1, 2).reshape(images, channels, side, side)


@torch.inference_mode()
def test_every_module_computes_what_theirs_does(small: Any, ours: Any) -> None:
    encoder = ours.image_encoder
    torch.manual_seed(1)
    image = torch.randn(2, 3, SMALL, SMALL)
    x = small.patch_embed(image)
    assert_close(encoder.patch_embed(image), x)
    compared = 0
    for stage, (layer, mine) in enumerate(zip(small.layers, encoder.layers, strict=True)):
        for block, twin in zip(layer.blocks, mine.blocks, strict=True):
            before = x if stage == 0 else as_grid(x)
            x = block(x)
            assert_close(twin(before), x if stage == 0 else as_grid(x))
            compared += 1
            if stage:
                windows = torch.randn(3, twin.attn.window**2, block.dim)
                assert_close(twin.attn.attend(windows), block.attn(windows))
                assert_close(twin.mlp(windows) - windows, block.mlp(windows))
                local = torch.randn(1, block.dim, 9, 9)
                assert_close(twin.local_conv(local), block.local_conv(local))
        if layer.downsample is not None:
            before = x if stage == 0 else as_grid(x)
            x = layer.downsample(x)
            assert_close(mine.downsample(before), as_grid(x))
    assert compared == 12
    assert as_grid(x).shape == (2, 320, SMALL // 16, SMALL // 16)
    assert_close(encoder.neck(as_grid(x)), small.neck(as_grid(x)))


@torch.inference_mode()
def test_prompts_give_the_predictions_of_their_predictor(
    mobile_sam: Any, theirs: Any, ours: Any
) -> None:
    predictor = mobile_sam.SamPredictor(theirs)
    predictor.set_image(IMAGE)
    segmenter = Segmenter(ours, version="random", thresholds=Thresholds())
    embedding = segmenter.embed(IMAGE)
    assert embedding.features_1CHW.shape == (1, 256, 64, 64)
    assert_close(embedding.features_1CHW, predictor.features)
    click = Prompt(points_xy=np.array([[61.0, 95.0]]), labels=np.array([1]))
    box = Prompt(box_xyxy=np.array([20.0, 33.0, 141.0, 118.0]))
    for prompt, multimask in ((click, True), (click, False), (box, False)):
        _, scores, logits = predictor.predict(
            prompt.points_xy, prompt.labels, prompt.box_xyxy, multimask_output=multimask
        )
        answer = segmenter.predict(embedding, [prompt], multimask=multimask)
        assert np.abs(answer.logits_BMHW[0].numpy() - logits).max() < 1e-4 * np.abs(logits).max()
        clipped = scores.clip(0, 1)  # ours are clipped
        assert np.abs(answer.predicted_iou_BM[0].numpy() - clipped).max() < 1e-4
