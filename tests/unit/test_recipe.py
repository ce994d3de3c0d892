"""Optional parts of SAM's training recipe: iterations, schedules, frozen encoder."""

from __future__ import annotations

import copy
import csv
import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.core.rle import encode
from engine.sam.blocks import residual_blocks
from engine.sam.decode import PromptBatch, decode
from engine.training.cached_views import CachedViews
from engine.training.config import TrainConfig
from engine.training.drop_path import drop_path
from engine.training.samples import Example
from engine.training.step import prompt_plan
from engine.training.trainer import (
    CheckpointFileError,
    DivergedError,
    Progress,
    Trainer,
    learning_rate_factor,
)
from tests.unit.small_training import draw, fresh, random_weights

torch.set_num_threads(1)
CONFIG = TrainConfig(
    steps=3, images_per_step=2, masks_per_image=2, image_size=64, refinements=1, warmup_steps=1
)


def test_sams_eleven_iterations() -> None:
    config = replace(CONFIG, refinements=8, vary_refinements=False, repeats=2)
    plans = [prompt_plan(config, np.random.default_rng(seed)) for seed in range(50)]
    assert all(1 + len(plan) == 11 for plan in plans)
    assert all(plan.count(True) == 8 and not plan[-1] for plan in plans)
    assert len({plan.index(False) for plan in plans}) > 5  # the first repeat is anywhere


def test_without_repeats_the_number_of_clicks_varies_up_to_the_limit() -> None:
    config = replace(CONFIG, refinements=4)
    lengths = {len(prompt_plan(config, np.random.default_rng(seed))) for seed in range(60)}
    assert lengths == {0, 1, 2, 3, 4}
    assert prompt_plan(replace(CONFIG, refinements=0, repeats=2), np.random.default_rng(0)) == []


def test_the_rate_falls_in_steps() -> None:
    config = replace(CONFIG, steps=90, warmup_steps=10, schedule="steps")
    rates = [learning_rate_factor(step, config) for step in range(90)]
    assert rates[10:60] == [1.0] * 50
    assert rates[60:87] == pytest.approx([0.1] * 27)
    assert rates[87:] == pytest.approx([0.01] * 3)


def test_earlier_layers_learn_more_slowly() -> None:
    config = replace(CONFIG, layer_decay=0.5, encoder_rate=1.0, learning_rate=1.0, frozen_stages=-1)
    sam = fresh()
    groups = Trainer(sam, config, draw).optimizer.param_groups
    peak = {id(value): group["peak"] for group in groups for value in group["params"]}
    found = {name: peak[id(value)] for name, value in sam.named_parameters()}
    assert found["image_encoder.stages.6.0.project.weight"] == 1.0
    assert found["image_encoder.stages.0.0.project.weight"] == 0.5**6
    assert found["image_encoder.stem.weight"] == 0.5**7
    assert found["image_encoder.mix.1.weight"] == 1.0


def test_several_batches_make_one_step() -> None:
    drawn: list[Example] = []

    def counted(rng: np.random.Generator) -> Example:
        drawn.append(draw(rng))
        return drawn[-1]

    config = replace(CONFIG, steps=1, accumulate=3, background_share=0.0)
    Trainer(fresh(), config, counted).run()
    assert len({example.name for example in drawn}) >= 6


def test_each_of_two_batches_adds_half_its_gradients() -> None:
    """Each batch's gradients are scaled by its share of the step."""
    seen: list[list[torch.Tensor]] = []
    for accumulate in (1, 2):
        sam = fresh()
        config = replace(CONFIG, images_per_step=1, accumulate=accumulate, box_share=0.0)
        trainer = Trainer(sam, config, draw)
        grads: list[torch.Tensor] = []
        for number in range(accumulate):
            rng = np.random.default_rng(number)
            generator = torch.Generator().manual_seed(number)
            trainer._accumulate([True], rng, generator)
            grads.append(sam.mask_decoder.iou_token.weight.grad.clone())
        seen.append(grads)
    assert torch.allclose(seen[1][0], seen[0][0] / 2, atol=1e-7)
    assert not torch.equal(seen[1][1], seen[1][0])


def test_drop_path_keeps_the_mean_and_ends_with_training() -> None:
    encoder = fresh().image_encoder
    blocks = residual_blocks(encoder)
    assert len(blocks) == 14  # of 21, those whose input and output have one shape
    block = copy.deepcopy(blocks[-1])
    x = torch.randn(2000, 208, 2, 2)
    plain = block(x)
    holder = torch.nn.Sequential(copy.deepcopy(block), block).train()
    with drop_path(holder, 0.4), torch.no_grad():
        torch.manual_seed(0)
        dropped = block(x)
    skipped = (dropped == x).flatten(1).all(dim=1)
    assert 0.36 < float(skipped.float().mean()) < 0.44
    assert torch.allclose((dropped - x).mean(0), (plain - x).mean(0), atol=0.05)
    assert torch.equal(block(x), plain)
    with drop_path(holder.eval(), 0.4):
        assert torch.equal(block(x), plain)


def test_a_frozen_encoder_encodes_each_view_once_and_does_not_change() -> None:
    sam = fresh()
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    calls = []
    sam.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    config = replace(CONFIG, steps=8, frozen_encoder=True, cached_views=3, background_share=0.0)
    Trainer(sam, config, draw).run()
    assert len(calls) <= 3
    after = sam.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved
    assert not [name for name in moved if name.startswith("image_encoder.")]


def test_a_view_drawn_twice_has_one_embedding_and_other_prompts() -> None:
    config = replace(CONFIG, cached_views=1, background_share=0.0)
    views = CachedViews(random_weights(), config, draw, 0)
    one, two = (views.draw(np.random.default_rng(seed)) for seed in (1, 2))
    again = CachedViews(random_weights(), config, draw, 0).draw(np.random.default_rng(1))
    assert one is not None
    assert two is not None
    assert again is not None
    assert one.embedding is two.embedding
    assert not np.array_equal(one.clicks_K2, two.clicks_K2)
    assert np.array_equal(one.image_SSC, again.image_SSC)
    assert np.array_equal(one.clicks_K2, again.clicks_K2)
    assert torch.equal(one.embedding, again.embedding)


def test_a_decoder_in_bfloat16_predicts_nearly_the_same_with_exact_positions() -> None:
    sam = random_weights()
    embeddings = torch.randn(1, 128, 48, 48, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([[[100.0, 100.0]], [[101.0, 100.0]]])
    prompts = PromptBatch(torch.zeros(2, dtype=torch.int64), points, torch.ones(2, 1))
    with torch.no_grad():
        exact, _ = decode(sam, embeddings, prompts)
        with torch.autocast("cpu", torch.bfloat16):
            half, _ = decode(sam, embeddings, prompts)
    error = (half.float() - exact).abs().mean() / exact.std()
    assert 0 < error < 0.05
    apart = (exact[1] - exact[0]).abs().mean()
    assert (half[1] - half[0]).float().abs().mean() > apart / 2  # neighbouring pixels differ


def test_a_run_in_bfloat16_trains() -> None:
    trainer = Trainer(fresh(), replace(CONFIG, precision="bfloat16"), draw)
    trainer.run()
    assert np.isfinite(trainer.loss)
    assert all(value.dtype == torch.float32 for value in trainer.average.values())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


class StoppedError(Exception):
    """Interrupts a run."""


def test_the_log_of_a_resumed_run_equals_that_of_an_uninterrupted_one(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=4)
    Trainer(fresh(), config, draw).run(log=tmp_path / "whole.csv")

    def stop(progress: Progress) -> None:
        if progress.step == 3:  # logged, but saved after step 2 only
            raise StoppedError

    log, state = tmp_path / "run.csv", tmp_path / "run.pt"
    with pytest.raises(StoppedError):
        Trainer(fresh(), config, draw).run(on_step=stop, checkpoint=state, every_seconds=0, log=log)
    assert len(rows(log)) == 3
    Trainer(fresh(), config, draw).run(checkpoint=state, log=log)
    names = ("step", "loss", "iou", "learning_rate")
    found, wanted = (
        [[row[name] for name in names] for row in rows(path)]
        for path in (log, tmp_path / "whole.csv")
    )
    assert found == wanted
    assert [row[0] for row in found] == ["1", "2", "3", "4"]


# errors


def test_a_loss_that_is_not_finite_names_the_image() -> None:
    def spoilt(rng: np.random.Generator) -> Example:
        return replace(draw(rng), name="bad.png")

    sam = fresh()
    sam.mask_decoder.iou_token.weight.data.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"bad\.png"):
        Trainer(sam, replace(CONFIG, background_share=0.0), spoilt).run()


def test_a_mask_of_another_size_is_refused_by_name() -> None:
    mask = encode(np.ones((5, 6), bool))
    with pytest.raises(ValueError, match=r"photo.jpg.*\(5, 6\)"):
        Example(np.zeros((6, 5, 3), np.uint8), [mask], "photo.jpg")


def test_a_full_disk_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    trainer = Trainer(fresh(), CONFIG, draw)
    trainer.save(path)
    before = path.read_bytes()

    def full(state: Any, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointFileError, match=r"No space left.*previous checkpoint is kept"):
        trainer.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointFileError, match=r"run.pt.*delete it"):
        Trainer(fresh(), CONFIG, draw).run(checkpoint=path)


def test_a_checkpoint_of_other_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    Trainer(fresh(), CONFIG, draw).save(path)
    other = fresh()
    other.mask_decoder.iou_token = torch.nn.Embedding(1, 64)
    with pytest.raises(CheckpointFileError, match="size mismatch"):
        Trainer(other, CONFIG, draw).load(path)
