"""The promptable segmenter: `embed` encodes an image once, `predict` returns masks for prompts.

B = prompts, M = outputs per prompt, C = channels, h x w = embedding grid; low-resolution masks are
4h x 4w over the padded model input. Prompts are in pixels of the original image.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from engine.core.batches import batches
from engine.core.records import Prompt
from engine.sam.checkpoint import (
    SHIPPED,
    ModelCard,
    Thresholds,
    load_checkpoint,
    load_sam,
    shipped_path,
)
from engine.sam.decode import PromptBatch, decode, decode_without_masks, positions, preprocess
from engine.sam.state_dicts import TORCH_SUFFIXES

MAX_UPSAMPLED = 1 << 26
"""Floats allocated at once while logits are upsampled to image size (256 MiB)."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """An encoded image, float32; (H, W) of the image, and of the resized image inside the padded
    model input."""

    features_1CHW: torch.Tensor
    original_size: tuple[int, int]
    input_size: tuple[int, int]


class Outputs(Enum):
    """Which of the decoder's four masks are returned, by the first and the one after the last."""

    ONE = (0, 1)
    """For several points or a box."""
    THREE = (1, 4)
    """Whole, part and subpart, for ambiguous prompts such as one click."""
    ALL = (0, 4)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Masks for B prompts: logits (B, M, 4h, 4w) and predicted IoU (B, M) in [0, 1].

    M is as asked for by `multimask` or `Outputs`.
    """

    logits_BMHW: torch.Tensor
    predicted_iou_BM: torch.Tensor

    def best(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each prompt's output with the highest predicted IoU: (B, 4h, 4w) and (B,)."""
        scores, index = self.predicted_iou_BM.max(dim=1)
        rows = torch.arange(len(index), device=index.device)
        return self.logits_BMHW[rows, index], scores


def half_is_faster(device: str) -> bool:
    """Return whether bfloat16 is faster than float32: on GPUs and on CPUs with AVX512-BF16."""
    return device != "cpu" or bool(torch.cpu._is_avx512_bf16_supported())


class Segmenter:
    """A loaded model version: encodes images and predicts masks."""

    click_levels: int | None = None
    """Levels of tiles on which a lone click is predicted beside the whole image; None: by the
    input's side (`engine.sam.tiles`)."""

    def __init__(
        self,
        sam: Any,
        *,
        version: str,
        thresholds: Thresholds,
        click_levels: int | None = None,
    ) -> None:
        self.sam = sam.eval()
        self.click_levels = click_levels
        self.version = version
        self.thresholds = thresholds
        self._encode: Any = self.sam.image_encoder
        self._half: Any = None
        self._positions: dict[tuple[int, int], torch.Tensor] = {}

    @classmethod
    def from_card(cls, sam: Any, card: ModelCard) -> Segmenter:
        """Return the segmenter of a checkpoint's weights and card."""
        return cls(
            sam,
            version=card.version,
            thresholds=card.thresholds,
            click_levels=card.click_levels,
        )

    def compile(self, backend: str = "inductor") -> None:
        """Compile the image encoder, with CUDA graphs on a GPU.

        The first call with each batch size then takes minutes.
        """
        mode = "max-autotune" if self.sam.device.type == "cuda" else None
        self._encode = torch.compile(
            self.sam.image_encoder, backend=backend, mode=mode, dynamic=False
        )

    @property
    def side(self) -> int:
        """Side of the model's square input in pixels."""
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
            half: encode in bfloat16 on a GPU; ignored on a CPU.

        Raises:
            ValueError: an array is not such an image.
        """
        prepared = [self._preprocess(image) for image in images]
        with torch.autocast(
            self.sam.device.type, torch.bfloat16, enabled=half and self.has_half_encoder
        ):
            features = self._encode(torch.cat([padded for padded, _ in prepared]))
        # a copy: a CUDA graph writes its next output into the same memory
        features = features.to(torch.float32, copy=True)
        return [
            Embedding(features[i : i + 1], (image.shape[0], image.shape[1]), prepared[i][1])
            for i, image in enumerate(images)
        ]

    def _preprocess(self, image_HWC: np.ndarray) -> tuple[torch.Tensor, tuple[int, int]]:
        """Return the model's input (1, 3, S, S), and (H, W) of the image inside it."""
        if image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or image_HWC.dtype != np.uint8:
            raise ValueError(
                f"expected RGB uint8 (H, W, 3), got {image_HWC.dtype} {image_HWC.shape}"
            )
        height, width = image_HWC.shape[:2]
        scale = self.side / max(height, width)
        size = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
        # segment_anything's ResizeLongestSide resizes with Pillow's bilinear filter
        resized = Image.fromarray(image_HWC).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized)).to(self.sam.device)
        return preprocess(self.sam, pixels.permute(2, 0, 1)[None].float()), size

    @torch.inference_mode()
    def predict(
        self, embedding: Embedding, prompts: Sequence[Prompt], *, multimask: bool
    ) -> Prediction:
        """Predict masks for prompts about one image.

        Args:
            embedding: the result of `embed`.
            prompts: prompts of one form: the same number of points each; a box, or logits, for all
                or none.
            multimask: return three candidates per prompt, for ambiguous prompts such as one click;
                False returns one mask, for several points or a box.

        Raises:
            ValueError: there are no prompts, or prompts of different forms.
        """
        batch = self._batch(embedding, prompts)
        masks, scores = decode(self.sam, embedding.features_1CHW, batch)
        outputs = slice(1, None) if multimask else slice(0, 1)
        return Prediction(masks[:, outputs], scores[:, outputs].clamp(0, 1))

    @torch.inference_mode()
    def predict_each(
        self, requests: Sequence[tuple[Embedding, Prompt, Outputs]]
    ) -> list[Prediction]:
        """Predict masks for prompts of any forms about several images, in batches of one form.

        Args:
            requests: embedding, prompt and outputs of each.

        Returns:
            One prediction per request, with B = 1.
        """
        groups: dict[tuple[int, bool, bool], list[int]] = {}
        for index, (_, prompt, _) in enumerate(requests):
            groups.setdefault(_form(prompt), []).append(index)
        found: dict[int, Prediction] = {}
        for rows in (part for group in groups.values() for part in batches(group, self.batch)):
            embeddings = [requests[row][0] for row in rows]
            images = list({id(embedding): embedding for embedding in embeddings}.values())
            batch = self._join_prompts(embeddings, [requests[row][1] for row in rows], images)
            features = torch.cat([embedding.features_1CHW for embedding in images])
            masks, scores = decode(self.sam, features, batch)
            for index, row in enumerate(rows):
                one, outputs = slice(index, index + 1), slice(*requests[row][2].value)
                found[row] = Prediction(masks[one, outputs], scores[one, outputs].clamp(0, 1))
        return [found[row] for row in range(len(requests))]

    def _join_prompts(
        self,
        embeddings: Sequence[Embedding],
        prompts: Sequence[Prompt],
        images: Sequence[Embedding],
    ) -> PromptBatch:
        """Return one batch of prompts of one form, the nth about the nth embedding, which is one of
        `images`."""
        singles = [self._batch(e, [p]) for e, p in zip(embeddings, prompts, strict=True)]

        def joined(name: str) -> torch.Tensor | None:
            parts = [getattr(single, name) for single in singles]
            return None if parts[0] is None else torch.cat(parts)

        places = {id(image): place for place, image in enumerate(images)}
        index = torch.tensor([places[id(e)] for e in embeddings], device=self.sam.device)
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
        """Whether `candidates` decodes in bfloat16 with `half`."""
        return half_is_faster(self.sam.device.type)

    @property
    def has_half_encoder(self) -> bool:
        """Whether `embed_many` encodes in bfloat16 with `half`."""
        return bool(self.sam.device.type == "cuda")

    def _half_decoder(self) -> Any:
        """Return the mask decoder in bfloat16, or the model's own unless `has_half`."""
        if not self.has_half:
            return self.sam.mask_decoder
        if self._half is None:
            self._half = copy.deepcopy(self.sam.mask_decoder).bfloat16()
        return self._half

    def _position_encoding(self, embedding: Embedding) -> torch.Tensor:
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
        """Batches of points, or images, to work on in parallel: one per core, or one on a GPU."""
        return torch.get_num_threads() if self.sam.device.type == "cpu" else 1

    @property
    def images_at_once(self) -> int:
        """Images or crops to encode as one batch."""
        return 4 if self.sam.device.type == "cpu" else 24

    @property
    def batch(self) -> int:
        """Points to decode as one batch: they fit a CPU's cache, or keep a GPU busy."""
        return 16 if self.sam.device.type == "cpu" else 256

    @torch.inference_mode()
    def candidates(
        self, embedding: Embedding, points_B2: np.ndarray, min_iou: float, *, half: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Predict three masks for each of B lone clicks, and keep those above `min_iou`.

        Args:
            embedding: the result of `embed`.
            points_B2: (x, y) in pixels of the original image.
            min_iou: lower limit of predicted IoU, [0, 1], exclusive.
            half: decode in bfloat16 if `has_half`.

        Returns:
            The N masks above `min_iou` in the order of the clicks: logits (N, 4h, 4w), predicted
            IoU (N,) and the index of each mask's click, int64 (N,).
        """
        label = np.ones(1, np.int64)
        prompts = [Prompt(points_xy=point[None], labels=label) for point in points_B2]
        batch = self._batch(embedding, prompts)
        decoded = decode_without_masks(
            self.sam,
            embedding.features_1CHW,
            batch,
            self._position_encoding(embedding),
            self._half_decoder() if half else None,
        )
        scores = decoded.scores_B4[:, 1:].float().clamp(0, 1)
        rows, outputs = torch.nonzero(scores > min_iou, as_tuple=True)
        return decoded.select_masks(rows, outputs + 1), scores[rows, outputs], rows

    @torch.inference_mode()
    def upsample(self, embedding: Embedding, logits_BHW: torch.Tensor) -> torch.Tensor:
        """Upsample low-resolution logits (B, 4h, 4w) to the image's size, float32 (B, H, W).

        Memory grows with B x H x W; `masks` bounds it.
        """
        low = logits_BHW[:, None].float()
        full = F.interpolate(low, (self.side, self.side), mode="bilinear", align_corners=False)
        cut = full[..., : embedding.input_size[0], : embedding.input_size[1]]
        size = embedding.original_size
        return F.interpolate(cut, size, mode="bilinear", align_corners=False)[:, 0]

    def masks(self, embedding: Embedding, logits_BHW: torch.Tensor) -> np.ndarray:
        """Threshold low-resolution logits (B, 4h, 4w) at image size: bool (B, H, W)."""
        height, width = embedding.original_size
        out = np.zeros((len(logits_BHW), height, width), bool)
        step = self.pieces_at_once(height, width)
        for start in range(0, len(out), step):
            piece = self.upsample(embedding, logits_BHW[start : start + step])
            out[start : start + step] = (piece > 0).cpu().numpy()
        return out

    def pieces_at_once(self, height: int, width: int) -> int:
        """Return how many masks of (height, width) fit into MAX_UPSAMPLED: each takes the size of
        the model's input on the way, then twice the size of the image."""
        return max(1, MAX_UPSAMPLED // max(2 * height * width, self.side**2))


def _form(prompt: Prompt) -> tuple[int, bool, bool]:
    """Return what prompts must have in common to be decoded in one batch."""
    points = -1 if prompt.points_xy is None else len(prompt.points_xy)
    return points, prompt.box_xyxy is None, prompt.mask_logits is None


def load_segmenter(model: str | Path = SHIPPED, device: str = "cpu") -> Segmenter:
    """Load a segmenter by the names that `load_sam` accepts; a public checkpoint without a card
    gets SAM's thresholds.

    Raises:
        CheckpointError: the file is missing or damaged, or does not fit its architecture.
    """
    path = shipped_path() if str(model) == SHIPPED else Path(model)
    if path.suffix in TORCH_SUFFIXES:
        return Segmenter(load_sam(path, device), version=path.stem, thresholds=Thresholds())
    sam, card = load_checkpoint(path, device)
    return Segmenter.from_card(sam, card)
