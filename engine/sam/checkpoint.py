"""Checkpoints: safetensors files with the model's card in the file's header.

One file is one model version and never changes. The only pickles read are segment_anything's
`.pth` and MobileSAM's `.pt` files, with `weights_only=True`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from engine.sam.build import ARCHITECTURES, build_sam
from engine.sam.drawn_prompts import DRAWING
from engine.sam.state_dicts import TORCH_SUFFIXES, CheckpointError, Tensors, read_state_dict

__all__ = [
    "SHIPPED",
    "CheckpointError",
    "ModelCard",
    "Thresholds",
    "find_card",
    "load_checkpoint",
    "load_sam",
    "read_card",
    "save_checkpoint",
    "save_tensors",
    "shipped_path",
]

SHIPPED = "lite"
"""Name of the model version inside the package."""

STATISTICS = ("running_mean", "running_var")
"""Suffixes of the names of a batch norm's statistics."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """Score thresholds for this model's automatic masks, calibrated on generated scenes or held-out
    images, never on a reported set.

    Attributes:
        min_predicted_iou: lowest predicted IoU, [0, 1].
        min_stability: lowest stability score at logits +-1, [0, 1].
        confident_iou: lowest predicted IoU of masks that pre-fill an image in stage 2, [0, 1].
    """

    min_predicted_iou: float = 0.88
    min_stability: float = 0.95
    confident_iou: float = 0.92


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """Metadata of one model version."""

    version: str
    architecture: str
    parent: str | None = None
    table_version: int | None = None
    """Mask-table version of the training data."""
    data: dict[str, Any] = field(default_factory=dict)
    """Images and masks per source."""
    source: dict[str, Any] = field(default_factory=dict)
    """Of an imported version: the file's name and SHA-256, its URL if it was downloaded, and how
    its architecture was identified."""
    config: dict[str, Any] = field(default_factory=dict)
    thresholds: Thresholds = field(default_factory=Thresholds)
    click_levels: int | None = None
    """`Segmenter.click_levels`."""
    scores: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    """Wall time of the training."""
    gpu_seconds: float = 0.0
    """Wall time multiplied by the number of GPUs; 0 on a CPU."""
    code_version: str = ""
    created_at: str = ""
    note: str = ""
    """Reason for the promotion or against it; limits of the model."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> ModelCard:
        """Inverse of `as_dict`.

        Raises:
            TypeError: `values` has a field that this version does not know.
            KeyError: `values` has no thresholds.
        """
        return ModelCard(**{**values, "thresholds": Thresholds(**values["thresholds"])})


def save_checkpoint(sam: Any, card: ModelCard, path: Path, *, half: bool = True) -> None:
    """Write weights and card.

    `half` stores floating point weights as float16, except the statistics of batch norms, which can
    exceed its range. `load_checkpoint` returns float32 in both cases.
    """
    tensors = {}
    for name, value in sam.state_dict().items():
        stored = value.detach().cpu()
        halved = half and stored.is_floating_point() and not name.endswith(STATISTICS)
        tensors[name] = stored.half() if halved else stored
    save_tensors(tensors, card, path)


def save_tensors(tensors: Tensors, card: ModelCard, path: Path) -> None:
    """Write CPU tensors unchanged, with a card, atomically."""
    whole = {name: value.contiguous() for name, value in tensors.items()}
    temporary = path.with_suffix(".partial")
    save_file(whole, temporary, metadata={"card": json.dumps(card.as_dict(), sort_keys=True)})
    temporary.replace(path)


def read_card(path: Path) -> ModelCard:
    """Read the card of a checkpoint, without its weights.

    Raises:
        CheckpointError: the file is missing, is not safetensors, or has no readable card.
    """
    card = find_card(path)
    if card is None:
        raise CheckpointError(f"{path} has no card: it is not a checkpoint of this project")
    return card


def find_card(path: Path) -> ModelCard | None:
    """Read the card of a safetensors file; None if the file has no card.

    Raises:
        CheckpointError: the file is missing, is not safetensors, or its card is not readable.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a safetensors checkpoint: {error}") from error
    if "card" not in header:
        return None
    try:
        return ModelCard.from_dict(json.loads(header["card"]))
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"the card in {path} cannot be read: {error!r}") from error


def load_checkpoint(path: Path, device: str = "cpu") -> tuple[Any, ModelCard]:
    """Load a `Sam` in evaluation mode, and its card.

    Raises:
        CheckpointError: the file is not readable, or its weights do not fit its architecture.
    """
    card = read_card(path)
    if card.architecture not in ARCHITECTURES:
        raise CheckpointError(f"{path} has the unknown architecture {card.architecture!r}")
    sam = build_sam(card.architecture)
    weights = {name: value.float() for name, value in load_file(str(path)).items()}
    # checkpoints older than drawn prompts lack these weights; their initial values add nothing
    weights = {n: v for n, v in sam.state_dict().items() if n.startswith(DRAWING)} | weights
    try:
        sam.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit {card.architecture}: {error}") from error
    return sam.to(device).eval(), card


def shipped_path() -> Path:
    """Return the path of the base model inside the package."""
    return Path(str(resources.files("engine.sam") / "weights" / f"{SHIPPED}.safetensors"))


def load_sam(model: str | Path = SHIPPED, device: str = "cpu") -> Any:
    """Load segment_anything's own `Sam`.

    Args:
        model: "lite", or the path of a checkpoint of this project or of one of Meta's `.pth` or
            MobileSAM's `.pt` files.
        device: torch device.

    Raises:
        CheckpointError: the file is missing or damaged, or does not fit its architecture.
    """
    if str(model) == SHIPPED:
        return load_checkpoint(shipped_path(), device)[0]
    path = Path(model)
    if path.suffix not in TORCH_SUFFIXES:
        return load_checkpoint(path, device)[0]
    found = read_state_dict(path)
    sam = build_sam(found.architecture)
    sam.load_state_dict(found.tensors)
    return sam.to(device).eval()
