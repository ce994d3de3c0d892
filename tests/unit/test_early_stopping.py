"""Early stopping of a training, on images that it does not train on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.sam import load_checkpoint
from engine.sam.checkpoint import shipped_path
from engine.training.config import TrainConfig
from engine.training.early_stopping import SHARES, EarlyStopping
from engine.training.trainer import Progress, Trainer
from tests.unit.small_training import draw, fresh

torch.set_num_threads(1)
CONFIG = TrainConfig(
    steps=9,
    images_per_step=1,
    masks_per_image=2,
    image_size=64,
    refinements=0,
    warmup_steps=1,
    ema_decay=0.5,
    check_steps=1,
    patience=2,
)
CHECKED = [draw(np.random.default_rng(seed)) for seed in (100, 101)]


def losses_of(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The losses of a trainer's checks, as they come."""
    found: list[float] = []
    check = trainer.stopping.check

    def noted(average: dict[str, torch.Tensor]) -> float:
        found.append(check(average))
        return found[-1]

    monkeypatch.setattr(trainer.stopping, "check", noted)
    return found


def test_a_training_that_only_gets_worse_stops_and_its_best_average_is_the_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sam, _ = load_checkpoint(shipped_path(), "cpu")
    trainer = Trainer(sam, replace(CONFIG, learning_rate=0.5), draw, CHECKED)
    losses = losses_of(trainer, monkeypatch)
    trainer.run()
    assert trainer.step < CONFIG.steps
    assert len(losses) == trainer.step == int(np.argmin(losses)) + 1 + CONFIG.patience
    again = EarlyStopping(sam, CONFIG, CHECKED)
    result = {name: value.detach() for name, value in sam.named_parameters()}
    assert again.check(result) == pytest.approx(min(losses), rel=1e-5)


def test_checks_do_not_change_the_steps_of_a_training() -> None:
    seen: list[list[float]] = [[], []]
    for told, steps in zip(seen, (0, 1), strict=True):
        config = replace(CONFIG, steps=3, check_steps=steps, learning_rate=1e-4)
        trainer = Trainer(fresh(), config, draw, CHECKED)
        trainer.run(on_step=lambda progress, told=told: told.append(progress.loss))  # type: ignore[misc]
    assert seen[0] == seen[1]


def test_a_resumed_training_remembers_its_best_check(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=4, learning_rate=0.5, patience=9)
    whole = Trainer(fresh(), config, draw, CHECKED)
    whole.run()

    class StoppedError(Exception):
        """Interrupts a run."""

    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise StoppedError

    path = tmp_path / "run.pt"
    with pytest.raises(StoppedError):
        Trainer(fresh(), config, draw, CHECKED).run(on_step=stop, checkpoint=path, every_seconds=0)
    again = Trainer(fresh(), config, draw, CHECKED)
    again.run(checkpoint=path)
    assert again.stopping.best_loss == whole.stopping.best_loss
    assert again.stopping.best is not None
    assert whole.stopping.best is not None
    for name, value in whole.stopping.best.items():
        assert torch.equal(value, again.stopping.best[name])


def test_with_a_frozen_encoder_checks_use_the_images_embeddings() -> None:
    config = replace(CONFIG, steps=2, frozen_encoder=True, cached_views=3)
    trainer = Trainer(fresh(), config, draw, CHECKED)
    trainer.run()
    assert np.isfinite(trainer.stopping.best_loss)


def test_the_share_of_trained_weights_is_the_one_that_is_best_on_the_checked_images() -> None:
    sam = fresh()
    start = {name: value.detach().clone() for name, value in sam.named_parameters()}
    ruined = {name: value + 0.5 * torch.randn_like(value) for name, value in start.items()}
    stopping = EarlyStopping(sam, CONFIG, CHECKED)
    assert stopping.best_share(ruined, start) == SHARES[-1]
    assert stopping.best_share(start, ruined) == SHARES[0]
    assert EarlyStopping(sam, CONFIG, []).best_share(start, ruined) == 0.5


def test_a_training_ends_with_the_share_that_it_chose() -> None:
    results = []
    for share in (None, 0.5):
        trainer = Trainer(
            fresh(), replace(CONFIG, steps=2, trained_share=share, check_steps=0), draw
        )
        trainer.run()
        assert trainer.share == 0.5
        results.append({name: value.clone() for name, value in trainer.sam.named_parameters()})
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name])
