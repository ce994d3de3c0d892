"""CLIP's contrastive training on masks' crops and texts: of the towers, or of an adapter.

The objective (Radford et al. 2021, figure 3): in a batch, each image picks its text among all texts
of the batch, and each text its image among all images.

B = pairs of a batch, N = images, T = texts, D = length of a vector, S = side of a crop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from engine.core.errors import DataEngineError
from engine.semantics.adapter import Adapter, AdapterCard, Tower
from engine.semantics.clip import ClipEncoder

LARGEST_SCALE = 100.0
"""Of the logits, as in CLIP."""

SAMPLED = 2_000
"""Tokens, drawn at each step, that a caption's next token is told from, beside the batch's own."""

OnStep = Callable[[int, float], None]
"""on_step(step, loss), with steps from 1."""


class ContrastiveError(DataEngineError):
    """The training cannot start or go on; the message says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TowersConfig:
    """How to train a CLIP's towers. Defaults suit a published model; see docs/labels.md."""

    steps: int = 1000
    batch: int = 128
    learning_rate: float = 1e-5
    """Peak, after a warm-up over the first tenth of the steps; then it falls along a cosine."""
    weight_decay: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 2:
            raise ValueError(f"steps are at least 1 and a batch at least 2, got {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterConfig:
    """How to train an adapter."""

    steps: int = 300
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    units: int = 64
    """R, of its network."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """A mask's crop, RGB uint8 (S, S, 3), and the texts that are true of it, at least one."""

    pixels_SSC: np.ndarray
    texts: tuple[str, ...]


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Let torch use one thread: small networks are slower with several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def contrastive_loss(
    image_BD: torch.Tensor,
    text_BD: torch.Tensor,
    text_index_B: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:
    """Return the symmetric contrastive loss of B pairs.

    Args:
        image_BD, text_BD: vectors of length 1.
        text_index_B: a number for each text. Pairs with the same text share the target: none of
            them counts as a wrong answer for another.
        scale: multiplies cosines.
    """
    logits_BB = scale * image_BD @ text_BD.T
    same_BB = (text_index_B[:, None] == text_index_B[None, :]).to(logits_BB.dtype)
    target_BB = same_BB / same_BB.sum(dim=1, keepdim=True)
    of_images = F.cross_entropy(logits_BB, target_BB)
    of_texts = F.cross_entropy(logits_BB.T, target_BB)
    return (of_images + of_texts) / 2


def train_towers(
    encoder: ClipEncoder,
    pairs: Sequence[Pair],
    config: TowersConfig,
    on_step: OnStep = lambda step, loss: None,
    *,
    caption_weight: float = 0.0,
) -> ClipEncoder:
    """Train both towers of a CLIP in place, and return it as an encoder of the new weights.

    Each step draws pairs and one text of each, from a generator that the seed and the step fix.

    Args:
        encoder: on the device to train on.
        pairs: crops of the encoder's `side`, from masks of images that are not held out.
        config: how long and how fast.
        on_step: called after every step.
        caption_weight: of the captioning loss beside the contrastive one, for a CoCa
            (`engine.semantics.coca`); 0: without it.

    Raises:
        ContrastiveError: fewer than two texts, a crop of another size, or a loss that is not
            finite; the model is then useless.
    """
    _check_pairs(encoder, pairs)
    model = encoder.model
    device = model.logit_scale.device
    optimiser = torch.optim.AdamW(
        _groups(model, config.weight_decay), lr=config.learning_rate, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _rate(config.steps))
    size = min(config.batch, len(pairs))
    model.train()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(config.seed)
            for step in range(config.steps):
                rng = np.random.default_rng([config.seed, step])
                drawn = [pairs[index] for index in rng.choice(len(pairs), size, replace=False)]
                texts = [pair.texts[rng.integers(len(pair.texts))] for pair in drawn]
                pixels = torch.from_numpy(np.stack([pair.pixels_SSC for pair in drawn])).to(device)
                loss = _towers_loss(encoder, pixels, texts, caption_weight)
                _step(optimiser, loss, step, model.logit_scale)
                schedule.step()
                on_step(step + 1, float(loss.detach()))
    finally:
        model.eval()
    return ClipEncoder(encoder.name, model, encoder.tokenizer, encoder.config, str(device))


def _towers_loss(
    encoder: ClipEncoder, pixels_BSSC: torch.Tensor, texts: Sequence[str], caption_weight: float
) -> torch.Tensor:
    """Return the contrastive loss of a batch, and that of the captions' next tokens (Yu et al.
    2022, CoCa, equation 3)."""
    model, device = encoder.model, pixels_BSSC.device
    tokens = encoder.tokenizer(list(texts)).to(device)
    index = torch.from_numpy(np.unique(texts, return_inverse=True)[1]).to(device)
    shown = encoder.normalise(pixels_BSSC)
    if not caption_weight:
        image, text = model.encode_image(shown), model.encode_text(tokens)
        image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
        return contrastive_loss(image, text, index, model.logit_scale.exp())
    with _without_projection(model.text_decoder) as projection_CV:
        found = model(shown, tokens)
    contrastive = contrastive_loss(
        found["image_features"], found["text_features"], index, found["logit_scale"]
    )
    captioning = _captioning_loss(found["logits"], found["labels"], projection_CV, model.pad_id)
    return contrastive + caption_weight * captioning


@contextmanager
def _without_projection(decoder: Any) -> Iterator[torch.Tensor]:
    """Let a CoCa's decoder return features in place of logits; gives the projection to logits."""
    projection = decoder.text_projection
    decoder.text_projection = None
    try:
        yield projection
    finally:
        decoder.text_projection = projection


def _captioning_loss(
    features_BLC: torch.Tensor, labels_BL: torch.Tensor, projection_CV: torch.Tensor, pad_id: int
) -> torch.Tensor:
    """Return the cross entropy of the next tokens, among those of the batch and SAMPLED others:
    all 49,408 would take most of a small model's time."""
    others = torch.randint(projection_CV.shape[1], (SAMPLED,), device=labels_BL.device)
    among_K, target = torch.unique(torch.cat([labels_BL.flatten(), others]), return_inverse=True)
    is_text = labels_BL.flatten() != pad_id
    logits_NK = features_BLC.flatten(0, 1)[is_text] @ projection_CV[:, among_K]
    return F.cross_entropy(logits_NK, target[: labels_BL.numel()][is_text])


@on_one_thread()
def train_adapter(
    masks_ND: np.ndarray,
    category_N: np.ndarray,
    texts: Mapping[int, np.ndarray],
    card: AdapterCard,
    *,
    logit_scale: float,
    config: AdapterConfig | None = None,
    on_step: OnStep = lambda step, loss: None,
) -> Adapter:
    """Train an adapter on a frozen encoder's vectors; its card gets data and seconds.

    Each step draws labelled masks, and for each a text of its category. Masks of one category share
    the target, also where their texts differ.

    Args:
        masks_ND: vectors of masks of images that are not held out, of length 1.
        category_N: int, their categories.
        texts: for each category the vectors of its names and descriptions, (T, D) of length 1.
        card: with version and encoder.
        logit_scale: the encoder's, where the adapter's starts.
        config: how long and how fast.
        on_step: called after every step.

    Raises:
        ContrastiveError: fewer than two categories, a category without texts, or a loss that is not
            finite.
    """
    config, began = config or AdapterConfig(), time.monotonic()
    present = np.unique(category_N)
    if len(present) < 2 or any(not len(texts.get(int(one), ())) for one in present):
        raise ContrastiveError(
            f"an adapter needs labelled masks of two categories or more, with texts of each; there "
            f"are masks of {len(present)} and texts of {len(texts)}: label more"
        )
    vectors = torch.from_numpy(np.asarray(masks_ND, np.float32))
    networks = _Networks(vectors.shape[1], logit_scale, config)
    optimiser = torch.optim.AdamW(
        _groups(networks, config.weight_decay), lr=config.learning_rate, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _rate(config.steps))
    for step in range(config.steps):
        rng = np.random.default_rng([config.seed, step])
        drawn = rng.choice(len(vectors), min(config.batch, len(vectors)), replace=False)
        of_drawn = [texts[int(category)] for category in category_N[drawn]]
        said = np.stack([found[rng.integers(len(found))] for found in of_drawn])
        loss = contrastive_loss(
            networks.masks(vectors[drawn]),
            networks.texts(torch.from_numpy(said.astype(np.float32))),
            torch.from_numpy(category_N[drawn]),
            networks.log_scale.exp(),
        )
        _step(optimiser, loss, step, networks.log_scale)
        schedule.step()
        on_step(step + 1, float(loss.detach()))
    count = sum(len(found) for found in texts.values())
    data = {"labels": len(vectors), "categories": len(present), "texts": count}
    card = replace(card, data={**card.data, **data}, seconds=time.monotonic() - began)
    return networks.as_adapter(card)


class _Residual(torch.nn.Module):
    """Does as `Tower` does, and can be trained."""

    def __init__(self, dimensions: int, units: int, generator: torch.Generator) -> None:
        super().__init__()
        down = torch.randn(dimensions, units, generator=generator) / dimensions**0.5
        self.down, self.up = torch.nn.Parameter(down), torch.nn.Parameter(torch.zeros_like(down.T))

    def forward(self, vectors_BD: torch.Tensor) -> torch.Tensor:
        return F.normalize(vectors_BD + F.relu(vectors_BD @ self.down) @ self.up, dim=-1)

    def as_tower(self) -> Tower:
        return Tower(self.down.detach().numpy(), self.up.detach().numpy())


class _Networks(torch.nn.Module):
    """What is trained of an adapter."""

    def __init__(self, dimensions: int, logit_scale: float, config: AdapterConfig) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(config.seed)
        self.masks, self.texts = (_Residual(dimensions, config.units, generator) for _ in range(2))
        self.log_scale = torch.nn.Parameter(torch.tensor(math.log(logit_scale)))

    def as_adapter(self, card: AdapterCard) -> Adapter:
        scale = float(self.log_scale.detach().exp())
        return Adapter(card, self.masks.as_tower(), self.texts.as_tower(), scale)


def _check_pairs(encoder: ClipEncoder, pairs: Sequence[Pair]) -> None:
    if len({text for pair in pairs for text in pair.texts}) < 2:
        raise ContrastiveError("pairs with two different texts or more are needed: label more")
    wanted = (encoder.side, encoder.side, 3)
    for pair in pairs:
        if pair.pixels_SSC.shape != wanted or not pair.texts:
            raise ContrastiveError(
                f"{encoder.name} learns from crops of shape {wanted} with a text or more; one has "
                f"the shape {pair.pixels_SSC.shape} and {len(pair.texts)} texts"
            )


def _groups(model: Any, decay: float) -> list[dict[str, Any]]:
    """Return parameters in two groups: matrices, with weight decay, and the rest, without."""
    tables = ("token_embedding", "positional_embedding", "class_embedding")
    decayed: list[torch.Tensor] = []
    rest: list[torch.Tensor] = []
    for name, value in model.named_parameters():
        if value.requires_grad:
            is_matrix = value.ndim >= 2 and not any(table in name for table in tables)
            (decayed if is_matrix else rest).append(value)
    return [{"params": decayed, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]


def _rate(steps: int) -> Callable[[int], float]:
    warm = max(steps // 10, 1)
    return lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / steps)))


def _step(
    optimiser: torch.optim.Optimizer, loss: torch.Tensor, step: int, log_scale: torch.Tensor
) -> None:
    """Take one step of an optimiser, after a check of the loss."""
    if not torch.isfinite(loss):
        raise ContrastiveError(f"the loss is {loss.item()} at step {step}: lower the learning rate")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    with torch.no_grad():
        log_scale.clamp_(0, math.log(LARGEST_SCALE))
