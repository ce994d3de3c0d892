"""Checkpoints: weights as safetensors, the model's card in the file's own header.

One file is one model version; it never changes after it was written. No pickle is ever read except
segment_anything's own `.pth` files and MobileSAM's `.pt`, and those with `weights_only=True`.
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
"""Name of the model version that comes with the package."""

STATISTICS = ("running_mean", "running_var")
"""How the names of a batch norm's statistics end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """Which of this model's automatic masks deserve trust; found on generated scenes or on
    held-out images, never on what is reported.

    Attributes:
        min_predicted_iou: lowest predicted IoU, [0, 1].
        min_stability: lowest stability score at logits +-1, [0, 1].
        confident_iou: lowest predicted IoU for pre-filling an image in stage 2, [0, 1].
    """

    min_predicted_iou: float = 0.88
    min_stability: float = 0.95
    confident_iou: float = 0.92


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """What is known about one model version."""

    version: str
    architecture: str
    parent: str | None = None
    table_version: int | None = None
    """Mask-table version it was trained on."""
    data: dict[str, Any] = field(default_factory=dict)
    """Images and masks per source."""
    source: dict[str, Any] = field(default_factory=dict)
    """Of an imported version: the file's name and SHA-256, its address if it was fetched, and what
    told its architecture."""
    config: dict[str, Any] = field(default_factory=dict)
    thresholds: Thresholds = field(default_factory=Thresholds)
    scores: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    """Training time on the clock."""
    gpu_seconds: float = 0.0
    """The same, times the GPUs it took; 0 on a CPU."""
    code_version: str = ""
    created_at: str = ""
    note: str = ""
    """Why it was promoted or not; what to know before using it."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> ModelCard:
        """The inverse of `as_dict`; fields of later versions are refused by name."""
        return ModelCard(**{**values, "thresholds": Thresholds(**values["thresholds"])})


def save_checkpoint(sam: Any, card: ModelCard, path: Path, *, half: bool = True) -> None:
    """Write weights and card; `half` stores float16, which loads as float32, but for the statistics
    of batch norms, which may exceed its range."""
    tensors = {}
    for name, value in sam.state_dict().items():
        stored = value.detach().cpu()
        halved = half and stored.is_floating_point() and not name.endswith(STATISTICS)
        tensors[name] = stored.half() if halved else stored
    save_tensors(tensors, card, path)


def save_tensors(tensors: Tensors, card: ModelCard, path: Path) -> None:
    """Write weights as they are, on the CPU, with a card."""
    whole = {name: value.contiguous() for name, value in tensors.items()}
    temporary = path.with_suffix(".partial")
    save_file(whole, temporary, metadata={"card": json.dumps(card.as_dict(), sort_keys=True)})
    temporary.replace(path)


def read_card(path: Path) -> ModelCard:
    """The card of a checkpoint, without its weights.

    Raises:
        CheckpointError: no such file, not safetensors, or no card of this version in it.
    """
    card = find_card(path)
    if card is None:
        raise CheckpointError(f"{path} has no card; it was not written by this project")
    return card


def find_card(path: Path) -> ModelCard | None:
    """The card of a safetensors file; None where it was not written by this project.

    Raises:
        CheckpointError: no such file, not safetensors, or a card of another version.
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
    """The model in evaluation mode, and its card.

    Raises:
        CheckpointError: the file is unreadable, or its weights do not fit its architecture.
    """
    card = read_card(path)
    if card.architecture not in ARCHITECTURES:
        raise CheckpointError(f"{path} is of an unknown architecture {card.architecture!r}")
    sam = build_sam(card.architecture)
    weights = {name: value.float() for name, value in load_file(str(path)).items()}
    # versions of before prompts were drawn: a fresh drawing adds nothing
    weights = {n: v for n, v in sam.state_dict().items() if n.startswith(DRAWING)} | weights
    try:
        sam.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit {card.architecture}: {error}") from error
    return sam.to(device).eval(), card


def shipped_path() -> Path:
    """Where the base model lies inside the package."""
    return Path(str(resources.files("engine.sam") / "weights" / f"{SHIPPED}.safetensors"))


def load_sam(model: str | Path = SHIPPED, device: str = "cpu") -> Any:
    """segment_anything's own `Sam` for the shipped model, a checkpoint of this project, or a `.pth`
    or `.pt` file as Meta's and MobileSAM's are.

    Raises:
        CheckpointError: no such model, or the file does not fit.
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
