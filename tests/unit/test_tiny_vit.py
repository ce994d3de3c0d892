"""MobileSAM's `vit_t`: images of any size, and training with frozen statistics and stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine.sam import ModelCard, load_checkpoint, load_sam, load_segmenter, save_checkpoint
from engine.sam.blocks import residual_blocks
from engine.sam.build import build_sam
from engine.sam.tiny_vit import Mlp, WindowAttention
from engine.training.config import TrainConfig
from engine.training.drop_path import drop_path
from engine.training.trainer import Trainer, parameter_groups
from tests.unit.small_training import draw

torch.set_num_threads(1)
CONFIG = TrainConfig(
    steps=1, images_per_step=1, masks_per_image=2, image_size=64, refinements=1, warmup_steps=1
)


@pytest.fixture
def vit_t() -> Any:
    torch.manual_seed(6)
    return build_sam("vit_t")


def test_the_weights_have_the_size_of_the_public_checkpoint(vit_t: Any) -> None:
    stored = sum(value.numel() * value.element_size() for value in vit_t.state_dict().values())
    assert stored == 40_561_032  # the file has 40,728,226 bytes with its header


@torch.inference_mode()
def test_images_need_not_be_square_nor_fill_whole_windows(vit_t: Any) -> None:
    assert vit_t.image_encoder(torch.randn(2, 3, 160, 96)).shape == (2, 256, 10, 6)


@torch.inference_mode()
def test_a_position_attends_to_its_own_window_only(vit_t: Any) -> None:
    attention = vit_t.image_encoder.layers[1].blocks[0].attn
    x = torch.randn(1, 14, 9, 128)
    other = x.clone()
    other[0, :7, 7:] += 1  # the upper right window, two positions wide
    moved = (attention(x) != attention(other)).any(dim=-1)[0]
    assert moved[:7, 7:].all()
    assert int(moved.sum()) == 7 * 2


@torch.inference_mode()
def test_the_bias_depends_on_the_distance_of_two_positions(vit_t: Any) -> None:
    offsets = vit_t.image_encoder.layers[2].blocks[0].attn.offsets_NN.reshape(14, 14, 14, 14)
    assert offsets[2, 3, 2, 3] == 0
    assert offsets[2, 3, 5, 1] == offsets[5, 1, 2, 3] == offsets[0, 0, 3, 2] == 3 * 14 + 2
    assert offsets.unique().numel() == 14 * 14


@pytest.mark.parametrize("stages", [-1, 0, 1, 3])
def test_frozen_stages_are_the_stem_and_its_layers(vit_t: Any, stages: int) -> None:
    parameter_groups(vit_t, replace(CONFIG, frozen_stages=stages))
    free = {name for name, value in vit_t.named_parameters() if value.requires_grad}
    parts = ["patch_embed.", *(f"layers.{index}." for index in range(4)), "neck."]
    found = [any(name.startswith(f"image_encoder.{part}") for name in free) for part in parts]
    assert found == [index > stages for index in range(6)]


def test_earlier_stages_learn_more_slowly(vit_t: Any) -> None:
    config = replace(CONFIG, layer_decay=0.5, encoder_rate=1.0, learning_rate=1.0, frozen_stages=-1)
    peak = {id(v): g["peak"] for g in parameter_groups(vit_t, config) for v in g["params"]}
    found = {name: peak[id(value)] for name, value in vit_t.named_parameters()}
    assert found["image_encoder.neck.0.weight"] == 1.0
    assert found["image_encoder.layers.3.blocks.1.attn.qkv.weight"] == 1.0
    assert found["image_encoder.layers.2.downsample.conv1.c.weight"] == 0.5
    assert found["image_encoder.layers.0.blocks.0.conv1.bn.weight"] == 0.5**3
    assert found["image_encoder.patch_embed.seq.0.c.weight"] == 0.5**4


def test_training_changes_weights_but_not_statistics_and_unused_layers(
    vit_t: Any, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in vit_t.state_dict().items()}
    modes: set[bool] = set()
    norms: list[Any] = [module for module in vit_t.modules() if isinstance(module, nn.BatchNorm2d)]
    config = replace(CONFIG, frozen_stages=-1, drop_path=0.2)
    trainer = Trainer(vit_t, config, draw)
    trainer.run(on_step=lambda _: modes.update(norm.training for norm in norms))
    assert modes == {False}
    after = vit_t.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    kept = {name for name, _ in vit_t.named_buffers()}
    assert not moved & kept
    for part in ("patch_embed.", "layers.0.", "layers.1.", "layers.2.", "layers.3.", "neck."):
        assert any(name.startswith(f"image_encoder.{part}") for name in moved), part
    assert "image_encoder.layers.2.blocks.0.attn.attention_biases" in moved

    path = tmp_path / "trained.safetensors"
    norms[0].running_var.fill_(1e6)  # above the range of float16
    save_checkpoint(vit_t, ModelCard(version="cells-1", architecture="vit_t"), path)
    again, card = load_checkpoint(path)
    assert card.architecture == "vit_t"
    for name, value in again.state_dict().items():
        assert torch.allclose(value, after[name], atol=1e-3), name
    assert float(again.image_encoder.patch_embed.seq[0].bn.running_var[0]) == 1e6


def test_drop_path_skips_branches_with_a_skip_connection(vit_t: Any) -> None:
    encoder = vit_t.image_encoder
    blocks = residual_blocks(encoder)
    assert [type(block) for block in blocks] == [WindowAttention, Mlp] * 10
    x = torch.randn(8, 7, 7, 320)
    encoder.train()
    with drop_path(encoder, 0.9), torch.no_grad():
        out = blocks[-1](x)
    skipped = (out == x).flatten(1).all(dim=1)
    assert 0 < int(skipped.sum()) <= 8


def test_the_public_file_is_loaded_by_its_path(vit_t: Any, tmp_path: Path) -> None:
    path = tmp_path / "mobile_sam.pt"
    torch.save(vit_t.state_dict(), path)
    tokens = load_sam(path).mask_decoder.mask_tokens.weight
    assert torch.equal(tokens, vit_t.mask_decoder.mask_tokens.weight)
    segmenter = load_segmenter(path)
    assert (segmenter.version, segmenter.side) == ("mobile_sam", 1024)
    assert segmenter.thresholds.min_predicted_iou == 0.88
