"""The promptable segmenter: `embed` an image once, `predict` masks for prompts as often as wanted.

B = prompts, M = outputs a prompt, C = channels, h x w = embedding grid, low-resolution masks are
4h x 4w over the padded model input. Prompts are in pixels of the original image.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from engine.core.records import Prompt
from engine.sam.checkpoint import (
    SHIPPED,
    Thresholds,
    load_checkpoint,
    load_sam,
    shipped_path,
)
from engine.sam.decode import PromptBatch, decode, decode_undrawn, positions, preprocess
from engine.sam.state_dicts import TORCH_SUFFIXES

MAX_UPSAMPLED = 1 << 26
"""Floats that may be alive at once while logits are brought to image size (256 MiB)."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """features_1CHW: float tensor. original_size: (H, W) of the image; input_size: of the resized
    image inside the padded model input."""

    features_1CHW: torch.Tensor
    original_size: tuple[int, int]
    input_size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Prediction:
    """Answers to B prompts: logits (B, M, 4h, 4w) and predicted IoU (B, M).

    M is 3 (whole, part, subpart) where several masks were asked for, else 1.
    """

    logits_BMHW: torch.Tensor
    predicted_iou_BM: torch.Tensor

    def best(self) -> tuple[torch.Tensor, torch.Tensor]:
        """For each prompt the output with the best predicted IoU: (B, 4h, 4w) and (B,)."""
        scores, index = self.predicted_iou_BM.max(dim=1)
        rows = torch.arange(len(index), device=index.device)
        return self.logits_BMHW[rows, index], scores


def half_is_faster(device: str) -> bool:
    """Whether arithmetic in bfloat16 is faster than in float32: on GPUs, and on processors made for
    it."""
    return device != "cpu" or bool(torch.cpu._is_avx512_bf16_supported())


class Segmenter:
    """A model version ready for use."""

    def __init__(self, sam: Any, *, version: str, thresholds: Thresholds) -> None:
        self.sam = sam.eval()
        self.version = version
        self.thresholds = thresholds
        self._encode: Any = self.sam.image_encoder
        self._half: Any = None
        self._positions: dict[tuple[int, int], torch.Tensor] = {}

    def compile(self, backend: str = "inductor") -> None:
        """Compile the image encoder for the batch sizes it is asked for, with CUDA graphs on a GPU.
        The first image of each batch size then takes minutes."""
        mode = "max-autotune" if self.sam.device.type == "cuda" else None
        self._encode = torch.compile(
            self.sam.image_encoder, backend=backend, mode=mode, dynamic=False
        )

    @property
    def side(self) -> int:
        """Longer side of the model's input in pixels."""
        return int(self.sam.image_encoder.img_size)

    def embed(self, image_HWC: np.ndarray) -> Embedding:
        """Encode one RGB uint8 image (H, W, 3).

        Raises:
            ValueError: the array is not such an image.
        """
        return self.embed_many([image_HWC])[0]

    @torch.inference_mode()
    def embed_many(self, images: Sequence[np.ndarray], *, half: bool = False) -> list[Embedding]:
        """Encode RGB uint8 images (H, W, 3) of any sizes as one batch.

        Args:
            images: any number.
            half: in bfloat16 on a GPU, where encoding takes most of the time.

        Raises:
            ValueError: an array is not such an image.
        """
        prepared = [self._prepared(image) for image in images]
        with torch.autocast(
            self.sam.device.type, torch.bfloat16, enabled=half and self.has_half_encoder
        ):
            features = self._encode(torch.cat([padded for padded, _ in prepared]))
        # a copy: a CUDA graph writes its next answer into the same memory
        features = features.to(torch.float32, copy=True)
        return [
            Embedding(features[i : i + 1], (image.shape[0], image.shape[1]), prepared[i][1])
            for i, image in enumerate(images)
        ]

    def _prepared(self, image_HWC: np.ndarray) -> tuple[torch.Tensor, tuple[int, int]]:
        """The model's input (1, 3, S, S), and the size of the part of it that is image."""
        if image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or image_HWC.dtype != np.uint8:
            raise ValueError(
                f"expected RGB uint8 (H, W, 3), got {image_HWC.dtype} {image_HWC.shape}"
            )
        height, width = image_HWC.shape[:2]
        scale = self.side / max(height, width)
        size = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
        # Pillow's bilinear filter, as segment_anything's ResizeLongestSide uses it
        resized = Image.fromarray(image_HWC).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized)).to(self.sam.device)
        return preprocess(self.sam, pixels.permute(2, 0, 1)[None].float()), size

    @torch.inference_mode()
    def predict(
        self, embedding: Embedding, prompts: Sequence[Prompt], *, multimask: bool
    ) -> Prediction:
        """Masks for prompts about one image.

        Args:
            embedding: of `embed`.
            prompts: all of one form: as many points each, all or none with a box, or with logits.
            multimask: three candidates a prompt; ask for it where one prompt may mean several
                things, and for one mask where several points or a box settle it.

        Raises:
            ValueError: no prompts, or prompts of different forms.
        """
        batch = self._batch(embedding, prompts)
        masks, scores = decode(self.sam, embedding.features_1CHW, batch)
        wanted = slice(1, None) if multimask else slice(0, 1)
        return Prediction(masks[:, wanted], scores[:, wanted].clamp(0, 1))

    @torch.inference_mode()
    def predict_each(self, asked: Sequence[tuple[Embedding, Prompt, bool]]) -> list[Prediction]:
        """The same for prompts of any forms about several images, with as few decodings as their
        forms allow.

        Args:
            asked: embedding, prompt and whether several candidates are wanted.
        """
        groups: dict[tuple[int, bool, bool], list[int]] = {}
        for index, (_, prompt, _) in enumerate(asked):
            groups.setdefault(_form(prompt), []).append(index)
        found: dict[int, Prediction] = {}
        for rows in groups.values():
            embeddings = [asked[row][0] for row in rows]
            batch = self._joined(embeddings, [asked[row][1] for row in rows])
            features = torch.cat([embedding.features_1CHW for embedding in embeddings])
            masks, scores = decode(self.sam, features, batch)
            for place, row in enumerate(rows):
                wanted = slice(1, None) if asked[row][2] else slice(0, 1)
                logits = masks[place : place + 1, wanted]
                found[row] = Prediction(logits, scores[place : place + 1, wanted].clamp(0, 1))
        return [found[row] for row in range(len(asked))]

    def _joined(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> PromptBatch:
        """One batch of prompts of one form, the nth about the nth image."""
        batches = [self._batch(e, [p]) for e, p in zip(embeddings, prompts, strict=True)]

        def joined(name: str) -> torch.Tensor | None:
            parts = [getattr(batch, name) for batch in batches]
            return None if parts[0] is None else torch.cat(parts)

        index = torch.arange(len(batches), device=self.sam.device)
        names = ("points_BN2", "labels_BN", "boxes_B4", "mask_logits_B1HW")
        return PromptBatch(index, *(joined(name) for name in names))

    def _batch(self, embedding: Embedding, prompts: Sequence[Prompt]) -> PromptBatch:
        forms = {_form(prompt) for prompt in prompts}
        if len(forms) != 1:
            raise ValueError(f"prompts must be of one form, got {len(forms)} forms")
        scale = np.array(embedding.input_size[::-1]) / np.array(embedding.original_size[::-1])
        first, device = prompts[0], self.sam.device

        def tensor(values: list[Any], kind: torch.dtype) -> torch.Tensor:
            return torch.as_tensor(np.stack(values), dtype=kind, device=device)

        points = labels = boxes = logits = None
        if first.points_xy is not None:
            points = tensor([p.points_xy * scale for p in prompts], torch.float32)
            labels = tensor([p.labels for p in prompts], torch.int64)
        if first.box_xyxy is not None:
            boxes = tensor([p.box_xyxy * np.tile(scale, 2) for p in prompts], torch.float32)
        if first.mask_logits is not None:
            logits = tensor([p.mask_logits for p in prompts], torch.float32)[:, None]
        index = torch.zeros(len(prompts), dtype=torch.int64, device=device)
        return PromptBatch(index, points, labels, boxes, logits)

    @property
    def has_half(self) -> bool:
        """Whether it pays to decode in bfloat16 on this device."""
        return half_is_faster(self.sam.device.type)

    @property
    def has_half_encoder(self) -> bool:
        """Whether images are encoded in bfloat16 where that is asked for."""
        return bool(self.sam.device.type == "cuda")

    def _half_decoder(self) -> Any:
        """The mask decoder in bfloat16; the model's own where the processor has no bfloat16."""
        if not self.has_half:
            return self.sam.mask_decoder
        if self._half is None:
            self._half = copy.deepcopy(self.sam.mask_decoder).bfloat16()
        return self._half

    def _places(self, embedding: Embedding) -> torch.Tensor:
        grid = (embedding.features_1CHW.shape[-2], embedding.features_1CHW.shape[-1])
        if grid not in self._positions:
            self._positions[grid] = positions(self.sam, grid)
        return self._positions[grid]

    @property
    def low_side(self) -> int:
        """Side of the low-resolution masks, 4h."""
        return 4 * int(self.sam.prompt_encoder.image_embedding_size[0])

    @property
    def workers(self) -> int:
        """How many batches of points are best decoded side by side: one a core, or one a GPU."""
        return torch.get_num_threads() if self.sam.device.type == "cpu" else 1

    @property
    def images_at_once(self) -> int:
        """How many images or crops are best encoded as one batch."""
        return 4 if self.sam.device.type == "cpu" else 24

    @property
    def batch(self) -> int:
        """Points decoded at once: what fits a CPU's cache, or keeps a GPU busy."""
        return 16 if self.sam.device.type == "cpu" else 256

    @torch.inference_mode()
    def candidates(
        self, embedding: Embedding, points_B2: np.ndarray, min_iou: float, *, half: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Three masks for each of B lone clicks, drawn only where predicted IoU is above `min_iou`.

        Args:
            embedding: of `embed`.
            points_B2: (x, y) in pixels of the original image.
            min_iou: in [0, 1].
            half: decode in bfloat16, where the processor has it.

        Returns:
            N masks of all clicks in their order: logits (N, 4h, 4w), predicted IoU (N,) and which
            click each answers, int64 (N,).
        """
        label = np.ones(1, np.int64)
        prompts = [Prompt(points_xy=point[None], labels=label) for point in points_B2]
        batch = self._batch(embedding, prompts)
        decoded = decode_undrawn(
            self.sam,
            embedding.features_1CHW,
            batch,
            self._places(embedding),
            self._half_decoder() if half else None,
        )
        scores = decoded.scores_B4[:, 1:].float().clamp(0, 1)
        rows, outputs = torch.nonzero(scores > min_iou, as_tuple=True)
        return decoded.draw_some(rows, outputs + 1), scores[rows, outputs], rows

    @torch.inference_mode()
    def upsample(self, embedding: Embedding, logits_BHW: torch.Tensor) -> torch.Tensor:
        """Low-resolution logits (B, 4h, 4w) at the image's size: float (B, H, W).

        Memory grows with B x H x W; `masks` works in pieces.
        """
        low = logits_BHW[:, None].float()
        full = F.interpolate(low, (self.side, self.side), mode="bilinear", align_corners=False)
        cut = full[..., : embedding.input_size[0], : embedding.input_size[1]]
        size = embedding.original_size
        return F.interpolate(cut, size, mode="bilinear", align_corners=False)[:, 0]

    def masks(self, embedding: Embedding, logits_BHW: torch.Tensor) -> np.ndarray:
        """Low-resolution logits (B, 4h, 4w) as bool masks (B, H, W) of the image."""
        height, width = embedding.original_size
        out = np.zeros((len(logits_BHW), height, width), bool)
        step = self.pieces_at_once(height, width)
        for start in range(0, len(out), step):
            piece = self.upsample(embedding, logits_BHW[start : start + step])
            out[start : start + step] = (piece > 0).cpu().numpy()
        return out

    def pieces_at_once(self, height: int, width: int) -> int:
        """How many masks of (height, width) may be upsampled at once within MAX_UPSAMPLED: each
        is as large as the model's input on the way, then twice as large as the image."""
        return max(1, MAX_UPSAMPLED // max(2 * height * width, self.side**2))


def _form(prompt: Prompt) -> tuple[int, bool, bool]:
    """Prompts with the same can be decoded together."""
    points = -1 if prompt.points_xy is None else len(prompt.points_xy)
    return points, prompt.box_xyxy is None, prompt.mask_logits is None


def load_segmenter(model: str | Path = SHIPPED, device: str = "cpu") -> Segmenter:
    """A model ready for use, by the names `load_sam` knows; a public one has SAM's thresholds.

    Raises:
        CheckpointError: no such model, or the file does not fit.
    """
    path = shipped_path() if str(model) == SHIPPED else Path(model)
    if path.suffix in TORCH_SUFFIXES:
        return Segmenter(load_sam(path, device), version=path.stem, thresholds=Thresholds())
    sam, card = load_checkpoint(path, device)
    return Segmenter(sam, version=card.version, thresholds=card.thresholds)
