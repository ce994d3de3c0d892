"""Weights of other projects: reading without running code, identification of the architecture,
and checks of names and shapes."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # raised by torch.load; nothing is unpickled here

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from engine.core.errors import DataEngineError
from engine.sam.build import ARCHITECTURES, build_sam

VITS = {(768, 12): "vit_b", (1024, 24): "vit_l", (1280, 32): "vit_h"}
"""Width and depth of the image encoder -> architecture, as in segment_anything's build_sam.py."""

TINY_VITS = {320: "vit_t"}
"""Width of a TinyViT's last stage -> architecture. MobileSAM uses TinyViT-5M."""

NAMES = {"vit_t": "vit_t|(?i:mobile[_-]?sam)", "vit_b": "vit_b", "vit_l": "vit_l", "vit_h": "vit_h"}
"""Architecture -> pattern in a file's name that identifies it if no letter follows."""

TORCH_SUFFIXES = (".pth", ".pt")
"""Suffixes of files that `torch.save` wrote."""

Tensors = Mapping[str, torch.Tensor]
"""Weights by parameter name in a `Sam`."""


class CheckpointError(DataEngineError):
    """The file is not a checkpoint of a known architecture. Use another file, or write it again."""


@dataclass(frozen=True, slots=True)
class StateDict:
    """Weights that fit an architecture.

    Attributes:
        tensors: the weights on the CPU.
        architecture: key of ARCHITECTURES.
        identified_by: how the architecture was identified, e.g. "the file's name".
    """

    tensors: Tensors
    architecture: str
    identified_by: str


def read_state_dict(path: Path, architecture: str | None = None) -> StateDict:
    """Read the weights of a `.safetensors`, `.pth` or `.pt` file; large files are memory-mapped.

    Args:
        path: the file.
        architecture: the architecture on the file's card; None if the file has no card.

    Raises:
        CheckpointError: the file is missing or damaged, its architecture is unknown, or the names
            or shapes of its tensors do not fit the architecture.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pth(path)
    if architecture is None:
        architecture, identified_by = find_architecture(path.name, tensors)
    elif architecture in ARCHITECTURES:
        identified_by = "its card"
    else:
        raise CheckpointError(f"{path} has the unknown architecture {architecture!r}")
    problems = misfits(tensors, architecture)
    if problems:
        raise CheckpointError(
            f"{path} does not fit {architecture}, identified by {identified_by}: {problems}"
        )
    return StateDict(tensors, architecture, identified_by)


def find_architecture(file_name: str, tensors: Tensors) -> tuple[str, str]:
    """Identify the architecture of weights.

    The file's name counts if it contains vit_t, vit_b, vit_l, vit_h or mobile_sam, as the public
    files' names do; else the names and shapes of the tensors.

    Returns:
        The architecture, and how it was identified, in words.

    Raises:
        CheckpointError: neither identifies a known architecture.
    """
    named = [name for name, form in NAMES.items() if re.search(f"({form})(?![a-z])", file_name)]
    if len(named) == 1:
        return named[0], "the file's name"
    if "image_encoder.stem.weight" in tensors:
        return "lite", "the names of its tensors"
    if "image_encoder.patch_embed.seq.0.c.weight" in tensors:
        return _identify_tiny_vit(file_name, tensors)
    positions = tensors.get("image_encoder.pos_embed")
    width = 0 if positions is None else positions.shape[-1]
    blocks = [re.match(r"image_encoder\.blocks\.(\d+)\.", name) for name in tensors]
    depth = len({block[1] for block in blocks if block})
    if (width, depth) in VITS:
        return VITS[width, depth], f"its encoder of {depth} blocks, {width} wide"
    encoder = f"an encoder of {depth} blocks, {width} wide" if depth else "no SAM image encoder"
    raise _unknown_architecture(file_name, encoder)


def _identify_tiny_vit(file_name: str, tensors: Tensors) -> tuple[str, str]:
    neck = tensors.get("image_encoder.neck.0.weight")
    width = 0 if neck is None else neck.shape[1]
    if width in TINY_VITS:
        return TINY_VITS[width], f"its TinyViT, {width} wide at its end"
    raise _unknown_architecture(file_name, f"a TinyViT that is {width} wide at its end")


def _unknown_architecture(file_name: str, encoder: str) -> CheckpointError:
    known = ", ".join(ARCHITECTURES)
    return CheckpointError(f"{file_name} has {encoder}; the known architectures are {known}")


def misfits(tensors: Tensors, architecture: str) -> str:
    """Describe why weights do not fit an architecture: up to three names each of missing,
    unexpected and misshapen tensors. The result is empty if the weights fit."""
    with torch.device("meta"):
        expected = build_sam(architecture).state_dict()
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    kinds = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in tensors if name not in expected],
        "of another shape": misshapen,
    }
    return "; ".join(f"{kind}: {_first_three(names)}" for kind, names in kinds.items() if names)


def _first_three(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _read_safetensors(path: Path) -> Tensors:
    try:
        return load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a safetensors checkpoint: {error}") from error


def _read_pth(path: Path) -> Tensors:
    """Read the tensors of a file that `torch.save` wrote, without running code in it."""
    try:
        found = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except UnpicklingError as error:  # its message advises loading the file unsafely
        raise CheckpointError(
            f"{path} is damaged, or contains objects other than tensors, which are not loaded"
        ) from error
    except Exception as error:  # damaged bytes raise exceptions of many types
        raise CheckpointError(f"{path} cannot be read as a .pth file: {error!r}") from error
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in found.items()
    ):
        keys = (
            f" but {_first_three([str(key) for key in found])}" if isinstance(found, dict) else ""
        )
        raise CheckpointError(f"{path} does not contain a dict of tensors by name{keys}")
    return found
