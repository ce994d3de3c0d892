"""CLIP models of open_clip as encoders: vectors of masks and of texts in one space.

Names: `clip:ARCHITECTURE/PRETRAINED`, such as `clip:ViT-B-32/laion2b_s34b_b79k`, with weights from
the user's cache or the hub; and `clip:FOLDER`, a folder of `save_clip`. A suffix `@DIGEST` pins the
weights. Files are read as tensors only: nothing is unpickled.

N = masks, T = texts, D = length of a vector, S = side of a crop.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError  # raised by torch.load; nothing is unpickled here
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import torch
from safetensors.torch import save_file

from engine.core.batches import batches
from engine.core.rle import RLE
from engine.sam.torchvision_ops import ensure_torchvision
from engine.semantics.crops import SCALES, cut_crops
from engine.semantics.encoders import AT_ONCE, CLIP, EncoderError, unit, weights_digest

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
"""Keys of the configuration's `preprocess_cfg`."""

TEXTS_AT_ONCE = 128
TIMEOUT_S = 10.0
"""How long to wait for the hub's first answer."""


class ClipEncoder:
    """A CLIP: a MaskEncoder that also makes vectors of texts.

    Attributes:
        model, tokenizer: of open_clip, the model in evaluation mode.
        config: the model's configuration, as `save_clip` takes it.
    """

    def __init__(
        self, name: str, model: Any, tokenizer: Any, config: dict[str, Any], device: str = "cpu"
    ) -> None:
        self.name, self.model, self.tokenizer, self.config = name, model, tokenizer, config
        self.model = model.to(device).eval()
        self._device = device
        self.version = f"{name}-{weights_digest(model.state_dict().items())}"
        self.side = _side(name, model)
        shown = model.visual.preprocess_cfg
        self._mean, self._std = (
            torch.tensor(shown[key], device=device).view(1, 3, 1, 1) for key in ("mean", "std")
        )
        self.dimensions = self.encode_texts(["a"]).shape[1]

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines by to get log-odds."""
        return float(self.model.logit_scale.detach().exp())

    def encode(self, image_HWC: np.ndarray, rles: Sequence[RLE]) -> np.ndarray:
        """See MaskEncoder: the mean over crops of SCALES and the masked crop (SAM paper, D.5)."""
        if not rles:
            return np.zeros((0, self.dimensions), np.float16)
        return np.concatenate([self._encode(image_HWC, part) for part in batches(rles, AT_ONCE)])

    def _encode(self, image_HWC: np.ndarray, rles: Sequence[RLE]) -> np.ndarray:
        close, wide = (cut_crops(image_HWC, rles, scale, self.side) for scale in SCALES)
        seen = (close.pixels_NSSC, wide.pixels_NSSC, close.masked())
        return unit(np.sum([self.encode_pixels(pixels) for pixels in seen], axis=0)).astype(
            np.float16
        )

    def encode_pixels(self, pixels_NSSC: np.ndarray) -> np.ndarray:
        """Return the vectors of square RGB uint8 pictures of side `side`, float32 (N, D)."""
        pixels = torch.from_numpy(pixels_NSSC).to(self._device)
        with torch.inference_mode():
            found = self.model.encode_image(self.normalise(pixels))
        return unit(found.float().cpu().numpy())

    def normalise(self, pixels_NSSC: torch.Tensor) -> torch.Tensor:
        """Return what the model's image tower takes, float32 (N, 3, S, S), from RGB uint8."""
        return (pixels_NSSC.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of texts, float32 (T, D), each of length 1; a text that is longer than
        the model reads is cut off."""
        found = []
        with torch.inference_mode():
            for part in batches(texts, TEXTS_AT_ONCE):
                tokens = self.tokenizer(part).to(self._device)
                found.append(self.model.encode_text(tokens).float().cpu().numpy())
        return unit(np.concatenate(found))


def load_clip(
    name: str, *, cache: Path | None = None, device: str = "cpu", folder: Path | None = None
) -> ClipEncoder:
    """Return a CLIP by its name.

    Args:
        name: `clip:ARCHITECTURE/PRETRAINED` or `clip:FOLDER`; either may end with `@DIGEST`.
        cache: folder of downloaded weights; None is open_clip's own.
        device: torch device.
        folder: of `save_clip`, for a name that says neither architecture nor folder.

    Raises:
        EncoderError: the extra `clip` is missing, there is no such model, its weights cannot be had
            or read, or their digest is another one.
    """
    open_clip = _open_clip()
    pinned = re.fullmatch(rf"{CLIP}(.+?)(?:@([0-9a-f]+))?", name)
    if pinned is None:
        raise EncoderError(f"{name!r} names no CLIP; write clip:ARCHITECTURE/PRETRAINED")
    place, digest = pinned[1], pinned[2]
    architecture, _, weights = place.partition("/")
    if folder is not None:
        parts = _from_folder(open_clip, str(folder))
    elif architecture in open_clip.list_models():
        parts = _published(open_clip, architecture, weights, cache)
    else:
        parts = _from_folder(open_clip, place)
    encoder = ClipEncoder(CLIP + place, *parts, device)
    found = encoder.version.rpartition("-")[2]
    if digest is not None and digest != found:
        raise EncoderError(
            f"the weights of {encoder.name} have the digest {found}, not {digest}: they were "
            f"replaced; get the ones that were pinned, or remove @{digest}"
        )
    return encoder


Parts = tuple[Any, Any, dict[str, Any]]
"""Model, tokenizer and configuration."""


def _published(open_clip: ModuleType, architecture: str, weights: str, cache: Path | None) -> Parts:
    """Load published weights of one of open_clip's architectures."""
    name = f"{CLIP}{architecture}/{weights}"
    known = open_clip.list_pretrained_tags_by_model(architecture)
    if weights not in known:
        raise EncoderError(
            f"{name}: open_clip knows no weights {weights!r} of {architecture}; it knows "
            f"{', '.join(known) or 'none'}"
        )
    published = open_clip.get_pretrained_cfg(architecture, weights)
    folder = None if cache is None else str(cache)
    try:
        path = _weights_file(open_clip, published, folder)
    except Exception as error:
        raise EncoderError(
            f"the weights of {name} are not in the cache and cannot be downloaded: {error}; on a "
            f"machine with access to the hub, load it once and copy the cache, or name a folder "
            f"with {CONFIG_FILE} and {WEIGHTS_FILE}"
        ) from error
    _check_tensors_only(path)
    config = open_clip.get_model_config(architecture)
    if published.get("quick_gelu"):
        config["quick_gelu"] = True
    with _reading(path):
        model = open_clip.create_model(
            architecture,
            pretrained=str(path),
            force_quick_gelu=config.get("quick_gelu", False),
            force_preprocess_cfg=published,
            pretrained_text=False,
            cache_dir=folder,
        )
        return model, open_clip.get_tokenizer(architecture, cache_dir=folder), config


def _weights_file(open_clip: ModuleType, published: dict[str, Any], cache: str | None) -> Path:
    """Return the path of published weights: from the cache without a request, else downloaded."""
    from huggingface_hub import constants, try_to_load_from_cache

    repository, _, file = published["hf_hub"].rpartition("/")
    if repository:
        pickled = file or open_clip.constants.HF_WEIGHTS_NAME
        safe = str(Path(file).with_suffix(".safetensors")) if file else WEIGHTS_FILE
        for name in (safe, pickled):
            found = try_to_load_from_cache(repository, name, cache_dir=cache)
            if isinstance(found, str):
                return Path(found)
        # the hub's client tries for a minute where there is no network
        httpx.head(constants.ENDPOINT, timeout=TIMEOUT_S, follow_redirects=True)
    return Path(open_clip.download_pretrained(published, cache_dir=cache))


def _from_folder(open_clip: ModuleType, place: str) -> Parts:
    """Load a folder of `save_clip`, or one of open_clip's own with the same files."""
    folder = Path(place).expanduser()
    if not folder.is_dir():
        architecture = place.partition("/")[0]
        near = difflib.get_close_matches(architecture, open_clip.list_models(), n=5, cutoff=0.5)
        hint = f"; similar names: {', '.join(near)}" if near else ""
        raise EncoderError(
            f"{CLIP}{place}: there is no such folder, and no such architecture of open_clip{hint}"
        )
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / file).is_file():
            raise EncoderError(f"{folder} has no {file}; a CLIP's folder has that and its partner")
    with _reading(folder):
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["model_cfg"]
        model = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True)
        return model, open_clip.get_tokenizer(f"local-dir:{folder}"), config


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a library raises while it reads a file into an EncoderError."""
    try:
        yield
    except Exception as error:
        raise EncoderError(
            f"{path} is damaged or does not fit its architecture: {str(error)[:200]}; get it again"
        ) from error


def _check_tensors_only(path: Path) -> None:
    """Raise EncoderError for a file that holds more than tensors, before open_clip reads it."""
    if path.suffix == ".safetensors":
        return
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, OSError, ValueError) as error:
        raise EncoderError(
            f"{path} is not a file of tensors alone, and is not loaded, because it may hold code; "
            f"use weights in safetensors"
        ) from error


def _side(name: str, model: Any) -> int:
    size = model.visual.preprocess_cfg["size"]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise EncoderError(f"{name} reads pictures of {height} x {width} pixels, not squares")
    return int(height)


def _open_clip() -> ModuleType:
    """Import open_clip.

    Raises:
        EncoderError: the extra `clip` is not installed.
    """
    ensure_torchvision()
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise EncoderError(
            f"CLIP needs a package that is missing ({error.name}): pip install "
            f'"open-data-engine[clip]"'
        ) from error
    module: ModuleType = open_clip
    return module


def fresh_clip(config: dict[str, Any], *, seed: int = 0) -> ClipEncoder:
    """Return an untrained CLIP, or a CoCa.

    Args:
        config: open_clip's model configuration: `embed_dim`, `vision_cfg` and `text_cfg`; of a CoCa
            also `multimodal_cfg`.
        seed: of the weights.

    Raises:
        EncoderError: the extra `clip` is not installed.
    """
    open_clip = _open_clip()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CLIP
        model = kind(**{name: part for name, part in config.items() if name != "custom_text"})
        if kind is open_clip.CoCa:
            unset = model.text_decoder.text_projection  # unset by open_clip 3.3
            torch.nn.init.normal_(unset, std=len(unset) ** -0.5)
    shown = {**vars(open_clip.transform.PreprocessCfg()), "size": model.visual.image_size}
    open_clip.model.set_model_preprocess_cfg(model, shown)
    context = config["text_cfg"].get("context_length", 77)
    return ClipEncoder(
        "clip:fresh", model, open_clip.SimpleTokenizer(context_length=context), config
    )


def save_clip(model: Any, config: dict[str, Any], folder: Path) -> None:
    """Write a model as a folder that `load_clip` and open_clip's `local-dir:` read.

    Args:
        model: of open_clip.
        config: its model configuration, as in ClipEncoder.
        folder: made if missing; the two files in it are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    shown = {key: model.visual.preprocess_cfg[key] for key in PREPROCESSING}
    save_file(tensors, folder / WEIGHTS_FILE)
    written = {"model_cfg": config, "preprocess_cfg": shown}
    (folder / CONFIG_FILE).write_text(json.dumps(written, indent=2), encoding="utf-8")
