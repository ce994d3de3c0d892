"""Weights that others wrote: read without running anything, told apart, checked before use."""

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
"""Width of a TinyViT's last stage -> architecture: of TinyViT's 5M, 11M and 21M, MobileSAM's."""

NAMES = {"vit_t": "vit_t|(?i:mobile[_-]?sam)", "vit_b": "vit_b", "vit_l": "vit_l", "vit_h": "vit_h"}
"""Architecture -> what says so in a file's name, where no letter follows."""

TORCH_SUFFIXES = (".pth", ".pt")
"""Endings of files that `torch.save` wrote."""

Tensors = Mapping[str, torch.Tensor]
"""Weights by the names that they have in a `Sam`."""


class CheckpointError(DataEngineError):
    """The file is no checkpoint of a known architecture. Take another file, or make it again."""


@dataclass(frozen=True, slots=True)
class StateDict:
    """Weights that fit an architecture.

    Attributes:
        told_by: what said which architecture it is, e.g. "the file's name".
    """

    tensors: Tensors
    architecture: str
    told_by: str


def read_state_dict(path: Path, architecture: str | None = None) -> StateDict:
    """The weights of a `.safetensors`, `.pth` or `.pt` file. Large files are mapped into memory,
    not copied.

    Args:
        architecture: what the file's card says, None where it has none.

    Raises:
        CheckpointError: no such file, broken, of no known architecture, or names and shapes of its
            tensors are not that architecture's.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is no file")
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pth(path)
    if architecture is None:
        architecture, told_by = find_architecture(path.name, tensors)
    elif architecture in ARCHITECTURES:
        told_by = "its card"
    else:
        raise CheckpointError(f"{path} is of an unknown architecture {architecture!r}")
    problems = misfits(tensors, architecture)
    if problems:
        raise CheckpointError(
            f"{path} does not fit {architecture}, which it is by {told_by}: {problems}"
        )
    return StateDict(tensors, architecture, told_by)


def find_architecture(file_name: str, tensors: Tensors) -> tuple[str, str]:
    """Which architecture weights are of, and what told: the file's name where it says one of
    vit_t, vit_b, vit_l and vit_h, as Meta's do, or mobile_sam, else the tensors' shapes.

    Raises:
        CheckpointError: neither tells.
    """
    named = [one for one, said in NAMES.items() if re.search(f"({said})(?![a-z])", file_name)]
    if len(named) == 1:
        return named[0], "the file's name"
    if "image_encoder.stem.weight" in tensors:
        return "lite", "the names of its tensors"
    if "image_encoder.patch_embed.seq.0.c.weight" in tensors:
        return _find_tiny_vit(file_name, tensors)
    positions = tensors.get("image_encoder.pos_embed")
    width = 0 if positions is None else positions.shape[-1]
    blocks = [re.match(r"image_encoder\.blocks\.(\d+)\.", name) for name in tensors]
    depth = len({block[1] for block in blocks if block})
    if (width, depth) in VITS:
        return VITS[width, depth], f"its encoder of {depth} blocks, {width} wide"
    encoder = f"an encoder of {depth} blocks, {width} wide" if depth else "no image encoder of SAM"
    raise _unknown(file_name, encoder)


def _find_tiny_vit(file_name: str, tensors: Tensors) -> tuple[str, str]:
    neck = tensors.get("image_encoder.neck.0.weight")
    width = 0 if neck is None else neck.shape[1]
    if width in TINY_VITS:
        return TINY_VITS[width], f"its TinyViT, {width} wide at its end"
    raise _unknown(file_name, f"a TinyViT that is {width} wide at its end")


def _unknown(file_name: str, encoder: str) -> CheckpointError:
    known = ", ".join(ARCHITECTURES)
    return CheckpointError(f"{file_name} has {encoder}; the known architectures are {known}")


def misfits(tensors: Tensors, architecture: str) -> str:
    """What keeps the weights from fitting: missing, unexpected and misshapen tensors, three of
    each by name; empty where they fit."""
    with torch.device("meta"):
        wanted = build_sam(architecture).state_dict()
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    kinds = {
        "missing": [name for name in wanted if name not in tensors],
        "unexpected": [name for name in tensors if name not in wanted],
        "of another shape": misshapen,
    }
    return "; ".join(f"{kind}: {_few(names)}" for kind, names in kinds.items() if names)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _read_safetensors(path: Path) -> Tensors:
    try:
        return load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a safetensors checkpoint: {error}") from error


def _read_pth(path: Path) -> Tensors:
    """Tensors of a file that `torch.save` wrote; no code in it is ever run."""
    try:
        found = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except UnpicklingError as error:  # its text advises to load the file unsafely
        raise CheckpointError(
            f"{path} is damaged, or holds more than tensors, which is not loaded"
        ) from error
    except Exception as error:  # damaged bytes make the reader fail in any way
        raise CheckpointError(f"{path} cannot be read as a .pth file: {error!r}") from error
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in found.items()
    ):
        keys = f" but {_few([str(key) for key in found])}" if isinstance(found, dict) else ""
        raise CheckpointError(f"{path} holds no plain table of tensors by name{keys}")
    return found
