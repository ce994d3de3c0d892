"""Training with random weights on small images for a few steps."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from engine.core.rle import encode
from engine.sam.build import build_sam
from engine.simulation.scenes import generate_scene
from engine.training.config import TrainConfig
from engine.training.samples import Example, Sample, make_sample
from engine.training.step import StepResult, training_step
from engine.training.trainer import (
    DivergedError,
    NoMasksError,
    Progress,
    Trainer,
    learning_rate_factor,
)
from tests.unit.small_training import draw, fresh, random_weights

torch.set_num_threads(1)
CONFIG = TrainConfig(
    steps=4,
    images_per_step=2,
    masks_per_image=2,
    image_size=64,
    refinements=1,
    learning_rate=1e-3,
    warmup_steps=1,
    ema_decay=0.5,
)


@cache
def example() -> Example:
    scene = generate_scene(5, (64, 80), "regions")
    return Example(scene.image_HWC, [encode(mask) for mask in scene.masks])


def always(rng: np.random.Generator) -> Example:
    return example()


def weights(sam: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in sam.state_dict().items()}


def changed(before: dict[str, torch.Tensor], sam: Any) -> set[str]:
    after = sam.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


class StoppedError(Exception):
    """Interrupts a run."""


# the loop


def test_a_few_steps_give_a_finite_loss_and_are_reported() -> None:
    told: list[Progress] = []
    sam = fresh()
    Trainer(sam, CONFIG, draw).run(on_step=told.append)
    assert [progress.step for progress in told] == [1, 2, 3, 4]
    assert all(progress.steps == 4 for progress in told)
    assert all(math.isfinite(progress.loss) and 0 <= progress.iou <= 1 for progress in told)
    assert told[0].seconds < told[-1].seconds
    assert not sam.training
    assert all(torch.isfinite(value).all() for value in sam.state_dict().values())


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    runs = []
    for seed in (3, 3, 4):
        sam = fresh()
        Trainer(sam, replace(CONFIG, steps=2, seed=seed), draw).run()
        runs.append(weights(sam))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert any(not torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_every_step_draws_its_own_images() -> None:
    drawn: list[float] = []

    def told(rng: np.random.Generator) -> Example:
        drawn.append(rng.random())
        return example()

    Trainer(fresh(), replace(CONFIG, steps=2, background_share=0.0), told).run()
    assert len(drawn) == len(set(drawn)) >= 4


def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    undisturbed = fresh()
    whole = Trainer(undisturbed, CONFIG, draw)
    whole.run()

    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise StoppedError

    path = tmp_path / "run.pt"
    with pytest.raises(StoppedError):
        Trainer(fresh(), CONFIG, draw).run(on_step=stop, checkpoint=path, every_seconds=0)
    torch.manual_seed(99)
    resumed = build_sam("lite")  # other weights, which the checkpoint must replace
    again = Trainer(resumed, CONFIG, draw)
    steps: list[int] = []
    again.run(on_step=lambda progress: steps.append(progress.step), checkpoint=path)
    assert steps == [3, 4]
    assert changed(weights(undisturbed), resumed) == set()
    assert (again.loss, again.iou) == (whole.loss, whole.iou)


def test_a_finished_run_takes_no_further_steps(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    first, second = fresh(), fresh()
    Trainer(first, replace(CONFIG, steps=2), always).run(checkpoint=path)
    steps: list[Progress] = []
    Trainer(second, replace(CONFIG, steps=2), always).run(on_step=steps.append, checkpoint=path)
    assert steps == []
    assert changed(weights(first), second) == set()
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_a_run_ends_with_the_averaged_weights(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    sam = fresh()
    before = weights(sam)
    Trainer(sam, replace(CONFIG, steps=1, frozen_stages=-1), always).run(checkpoint=path)
    last = torch.load(path, weights_only=True)["model"]
    name = "mask_decoder.mask_tokens.weight"
    keep = 1 / 11  # the decay is below ema_decay in the first steps
    wanted = keep * before[name] + (1 - keep) * last[name]
    assert not torch.equal(before[name], last[name])
    assert torch.allclose(sam.state_dict()[name], wanted, atol=1e-7)


def test_a_share_of_the_trained_weights_keeps_the_rest_of_those_at_the_start() -> None:
    results = []
    for share in (0.0, 1.0, 0.5):
        sam = fresh()
        Trainer(sam, replace(CONFIG, trained_share=share), draw).run()
        results.append(weights(sam))
    start, trained, mean = results
    for name, value in mean.items():
        torch.testing.assert_close(value, (start[name] + trained[name]) / 2)
    assert any(not torch.equal(start[name], trained[name]) for name in start)


@pytest.mark.parametrize("stages", [-1, 0, 2])
def test_frozen_stages_do_not_change_and_the_others_do(stages: int) -> None:
    sam = fresh()
    before = weights(sam)
    Trainer(sam, replace(CONFIG, steps=2, frozen_stages=stages), always).run()
    moved = changed(before, sam)
    frozen = ["image_encoder.stem."] if stages >= 0 else []
    frozen += [f"image_encoder.stages.{index}." for index in range(max(stages, 0))]
    free = [f"image_encoder.stages.{index}." for index in range(max(stages, 0), 7)]
    free += ["image_encoder.stem."] if stages < 0 else []
    assert not [name for name in moved for part in frozen if name.startswith(part)]
    for part in [*free, "image_encoder.mix.", "image_encoder.lateral_8.", "mask_decoder."]:
        assert any(name.startswith(part) for name in moved), part


def test_a_stage_that_was_frozen_before_learns_in_the_next_run() -> None:
    sam = fresh()
    Trainer(sam, replace(CONFIG, frozen_stages=7), always)
    before = weights(sam)
    Trainer(sam, replace(CONFIG, steps=1, frozen_stages=-1), always).run()
    assert any(name.startswith("image_encoder.stem.") for name in changed(before, sam))


def test_trunk_neck_and_decoder_learn_at_their_own_rates() -> None:
    config = replace(CONFIG, learning_rate=1.0, encoder_rate=0.1, neck_rate=0.5, frozen_stages=-1)
    sam = fresh()
    groups = Trainer(sam, config, always).optimizer.param_groups
    peak = {id(value): group["peak"] for group in groups for value in group["params"]}
    found = {name: peak[id(value)] for name, value in sam.named_parameters()}
    for name, rate in found.items():
        trunk = name.startswith(("image_encoder.stem", "image_encoder.stages"))
        wanted = 0.1 if trunk else 0.5 if name.startswith("image_encoder") else 1.0
        assert rate == wanted, name
    still = Trainer(fresh(), replace(config, encoder_rate=0.0), always).optimizer.param_groups
    assert {group["peak"] for group in still} == {0.5, 1.0}


def test_the_rate_warms_up_and_then_follows_a_cosine_to_zero() -> None:
    config = replace(CONFIG, steps=110, warmup_steps=10)
    rates = [learning_rate_factor(step, config) for step in range(111)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == pytest.approx(1)
    assert rates[60] == pytest.approx(0.5)
    assert rates[110] == pytest.approx(0)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))


def test_the_optimiser_works_at_the_rate_of_the_step() -> None:
    trainer = Trainer(fresh(), replace(CONFIG, warmup_steps=4), always)
    trainer.run(on_step=lambda progress: seen.append(trainer.optimizer.param_groups[-1]["lr"]))
    assert seen == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3])


seen: list[float] = []


# errors


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run.pt"
    sam = fresh()

    def spoil(progress: Progress) -> None:
        if progress.step == 2:
            sam.mask_decoder.iou_token.weight.data.fill_(math.nan)

    trainer = Trainer(sam, CONFIG, always)
    trainer.save(path)
    before = path.read_bytes()
    with pytest.raises(DivergedError, match=r"nan at step 2.*0\.001"):
        trainer.run(on_step=spoil, checkpoint=path, every_seconds=1e9)
    assert path.read_bytes() == before


def no_masks(rng: np.random.Generator) -> Example:
    return Example(np.zeros((64, 64, 3), np.uint8), [])


def test_a_source_without_masks_is_refused() -> None:
    trainer = Trainer(fresh(), replace(CONFIG, background_share=0.0), no_masks)
    with pytest.raises(NoMasksError):
        trainer.run()
    assert trainer.step == 0


def test_a_source_without_masks_is_refused_with_the_default_share_of_background() -> None:
    with pytest.raises(NoMasksError):
        Trainer(fresh(), replace(CONFIG, steps=1), no_masks).run()


def test_images_without_masks_are_skipped() -> None:
    def seldom(rng: np.random.Generator) -> Example:
        return example() if rng.random() < 0.3 else no_masks(rng)

    trainer = Trainer(fresh(), replace(CONFIG, steps=1, background_share=0.0), seldom)
    trainer.run()
    assert trainer.step == 1


# several processes


def train_as_rank(rank: int, meeting: str, out: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    sam = fresh()
    Trainer(sam, CONFIG, draw).run(checkpoint=Path(out) / f"{rank}.pt", every_seconds=1e9)
    torch.save(sam.state_dict(), Path(out) / f"weights-{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_share_their_gradients_and_end_with_the_same_weights(tmp_path: Path) -> None:
    meeting = (tmp_path / "meeting").as_uri()
    spawn(train_as_rank, (meeting, str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (
        torch.load(tmp_path / f"weights-{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    alone = fresh()
    Trainer(alone, CONFIG, draw).run()
    assert changed(first, alone)  # the second process's images had an effect
    assert (tmp_path / "0.pt").exists()
    assert not (tmp_path / "1.pt").exists()  # rank 0 saves for all


# one step


def one_step(sam: Any, config: TrainConfig, samples: list[Sample]) -> StepResult:
    generator = torch.Generator().manual_seed(1)
    rng = np.random.default_rng(1)
    return training_step(sam, samples, config, rng, generator, [True] * config.refinements)


def still_samples(config: TrainConfig, count: int = 2) -> list[Sample]:
    drawn = [make_sample(example(), config, np.random.default_rng(seed)) for seed in range(count)]
    return [sample for sample in drawn if sample is not None]


def test_a_step_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        one_step(random_weights(), CONFIG, [])


def test_training_on_one_image_lowers_its_loss() -> None:
    config = replace(
        CONFIG, steps=15, images_per_step=1, masks_per_image=4, jitter=(1.0, 1.0), frozen_stages=-1
    )
    sam = fresh()
    samples = still_samples(config)
    with torch.no_grad():
        before = one_step(sam, config, samples).loss
    Trainer(sam, config, always).run()
    with torch.no_grad():
        after = one_step(sam, config, samples).loss
    assert after < 0.8 * before


def background_only(config: TrainConfig) -> list[Sample]:
    sample = still_samples(config, 1)[0]
    return [
        replace(
            sample,
            masks_KSS=np.zeros_like(sample.masks_KSS),
            is_background_K=np.ones_like(sample.is_background_K),
        )
    ]


def test_a_background_click_trains_the_iou_head_and_not_the_masks() -> None:
    config = replace(CONFIG, iou_weight=0.0, box_share=1.0)
    sam = random_weights()
    with torch.no_grad():
        assert one_step(sam, config, background_only(config)).loss == 0
        weighted = one_step(sam, replace(config, iou_weight=1.0), background_only(config))
    assert weighted.loss > 0


@pytest.mark.parametrize("box_share", [0.0, 1.0])
@pytest.mark.parametrize("refinements", [0, 2])
def test_every_form_of_prompt_sends_gradients_to_the_encoder(
    box_share: float, refinements: int
) -> None:
    config = replace(CONFIG, box_share=box_share, refinements=refinements, background_share=0.0)
    sam = fresh()
    one_step(sam, config, still_samples(config))
    grads = sam.image_encoder.stem.weight.grad
    assert torch.isfinite(grads).all()
    assert grads.abs().sum() > 0


def test_gradients_are_those_of_the_loss() -> None:
    """A small step along the gradient lowers the loss as the gradient predicts."""
    config = replace(CONFIG, refinements=0, background_share=0.0, box_share=0.5)
    samples = still_samples(config)
    sam = fresh()
    parts = [sam.image_encoder.mix[1].weight, sam.mask_decoder.mask_tokens.weight]
    before = one_step(sam, config, samples).loss
    for part in parts:
        slope = float((part.grad**2).sum())
        with torch.no_grad():
            size = 1e-3 * before / slope
            part -= size * part.grad
            after = one_step(sam, config, samples).loss
            part += size * part.grad
        assert before - after == pytest.approx(size * slope, rel=0.1)


def test_the_gradients_of_all_iterations_are_summed() -> None:
    """The gradients of two iterations are the mean of each iteration's gradients."""
    config = replace(CONFIG, box_share=1.0, background_share=0.0, iou_weight=0.0)
    samples = still_samples(config)
    grads = []
    for refinements in (0, 1):
        sam = fresh()
        one_step(sam, replace(config, refinements=refinements), samples)
        grads.append(sam.prompt_encoder.point_embeddings[2].weight.grad.clone())
    second = 2 * grads[1] - grads[0]
    assert second.abs().max() > 0
    assert not torch.allclose(second, grads[0])


@pytest.mark.parametrize("size", [(51, 64), (64, 51)])
def test_padding_does_not_change_a_step(size: tuple[int, int]) -> None:
    config = replace(CONFIG, jitter=(1.0, 1.0), background_share=0.0)
    sample = next(sample for sample in still_samples(config, 20) if sample.size == size)
    height, width = size
    littered = sample.image_SSC.copy()
    littered[height:] = 77
    littered[:, width:] = 77
    sam = random_weights()
    with torch.no_grad():
        clean = one_step(sam, config, [sample]).loss
        assert one_step(sam, config, [replace(sample, image_SSC=littered)]).loss == clean
