"""Mask decoding for many prompts about several images in one batch.

segment_anything's `MaskDecoder.forward` takes prompts about one image. Here each prompt has an
image index, so that one call decodes a whole batch, in training and in generation.

B = prompts, I = images, N = points, C = channels, T = tokens, h x w = embedding grid, L = h x w;
low-resolution masks are 4h x 4w. Points and boxes are in pixels of the padded model input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from engine.sam.drawn_prompts import drawn_prompts
from engine.sam.prompt_maps import downscaled_rows


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """B prompts of one form: the same number of points each, and a box for all or none.

    Attributes:
        image_index_B: int64, index of each prompt's image.
        points_BN2: float, (x, y); or None.
        labels_BN: int, 1 object, 0 background, -1 padding; or None.
        boxes_B4: float XYXY; or None.
        mask_logits_B1HW: float at 4h x 4w; or None.
    """

    image_index_B: torch.Tensor
    points_BN2: torch.Tensor | None = None
    labels_BN: torch.Tensor | None = None
    boxes_B4: torch.Tensor | None = None
    mask_logits_B1HW: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """Output of the decoder before its masks are upscaled.

    Upscaling takes a third of the time, and the generator drops most candidates of a grid of points
    by their predicted IoU.

    Attributes:
        scores_B4: predicted IoU; index 0 is the single-mask output, 1 to 3 are whole, part and
            subpart.
        hidden_BTC, image_BLC: tokens and image features after the transformer.
        grid, decoder: (h, w), and the `MaskDecoder`.
    """

    scores_B4: torch.Tensor
    hidden_BTC: torch.Tensor
    image_BLC: torch.Tensor
    grid: tuple[int, int]
    decoder: Any

    def masks(self) -> torch.Tensor:
        """Return the logits of all masks, (B, 4, 4h, 4w)."""
        return _mask_logits(
            self.decoder.output_upscaling, self.image_BLC, self._weights(), self.grid
        )

    def select_masks(self, rows_N: torch.Tensor, outputs_N: torch.Tensor) -> torch.Tensor:
        """Return the logits of N selected masks, (N, 4h, 4w).

        On a CPU, prompts are upscaled one by one: one prompt's features fit its cache, two do not.

        Args:
            rows_N: index of each mask's prompt, int64, ascending.
            outputs_N: index of each mask's output, 0 to 3, int64.
        """
        low = (4 * self.grid[0], 4 * self.grid[1])
        if not len(rows_N):
            return self.image_BLC.new_zeros((0, *low))
        upscaling, weights = self.decoder.output_upscaling, self._weights()
        prompts, place, counts = torch.unique_consecutive(
            rows_N, return_inverse=True, return_counts=True
        )
        if self.image_BLC.device.type != "cpu":
            drawn = _mask_logits(upscaling, self.image_BLC[prompts], weights[prompts], self.grid)
            return drawn[place, outputs_N]
        by_prompt = torch.split(outputs_N, counts.tolist())
        return torch.cat(
            [
                _mask_logits(
                    upscaling, self.image_BLC[p : p + 1], weights[p, outputs][None], self.grid
                )[0]
                for p, outputs in zip(prompts.tolist(), by_prompt, strict=True)
            ]
        )

    def _weights(self) -> torch.Tensor:
        """Return each output's weights of the upscaled channels, (B, 4, C)."""
        mlps = self.decoder.output_hypernetworks_mlps
        return torch.stack([mlp(self.hidden_BTC[:, 1 + i]) for i, mlp in enumerate(mlps)], dim=1)


def decode(
    sam: Any, embeddings_ICHW: torch.Tensor, prompts: PromptBatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all four outputs of the mask decoder: logits (B, 4, 4h, 4w), predicted IoU (B, 4)."""
    decoded = decode_without_masks(sam, embeddings_ICHW, prompts)
    return decoded.masks(), decoded.scores_B4


def positions(sam: Any, grid: tuple[int, int]) -> torch.Tensor:
    """Return the position encoding of an embedding grid (h, w), (L, C); it is constant."""
    with torch.autocast(sam.device.type, enabled=False):
        encoded: torch.Tensor = sam.prompt_encoder.pe_layer(grid).flatten(1).T
    return encoded


def decode_without_masks(
    sam: Any,
    embeddings_ICHW: torch.Tensor,
    prompts: PromptBatch,
    positions_LC: torch.Tensor | None = None,
    decoder: Any = None,
) -> Decoded:
    """Decode B prompts up to the upscaling of masks.

    The results equal those of segment_anything's `MaskDecoder` up to rounding, in another order of
    computation (docs/adr/004): what depends on the image alone is computed once per image, queries
    and keys are projected back instead of projecting the image, and the upscaling, two transposed
    convolutions whose stride is their kernel size, is two matrix products.

    Args:
        sam: the model.
        embeddings_ICHW: of the images.
        prompts: B prompts, embedded in the model's dtype, because bfloat16 cannot represent
            neighbouring pixels.
        positions_LC: the result of `positions`, if it exists already.
        decoder: replaces the model's mask decoder, e.g. by a copy in bfloat16.

    Raises:
        ValueError: the prompts have neither points nor boxes.
    """
    encoder, decoder = sam.prompt_encoder, decoder or sam.mask_decoder
    grid = (int(embeddings_ICHW.shape[-2]), int(embeddings_ICHW.shape[-1]))
    sparse = _embed_points_and_boxes(encoder, prompts)
    places = positions(sam, grid) if positions_LC is None else positions_LC
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight], dim=0)
    tokens = torch.cat([tokens.expand(len(sparse), -1, -1), sparse], dim=1)
    image = _add_dense_prompts(encoder, embeddings_ICHW, prompts)
    kind = decoder.iou_token.weight.dtype
    hidden, image = _two_way(decoder.transformer, image.to(kind), places.to(kind), tokens.to(kind))
    return Decoded(decoder.iou_prediction_head(hidden[:, 0]), hidden, image, grid, decoder)


def _add_dense_prompts(
    encoder: Any, embeddings_ICHW: torch.Tensor, prompts: PromptBatch
) -> torch.Tensor:
    """Return image embeddings plus dense prompt embeddings, (B, L, C), or (1, L, C) if they are the
    same for all prompts."""
    grid = (int(embeddings_ICHW.shape[-2]), int(embeddings_ICHW.shape[-1]))
    image = embeddings_ICHW.flatten(2).mT
    if prompts.mask_logits_B1HW is None:
        image = image + encoder.no_mask_embed.weight
        if len(image) > 1:
            image = _of_prompts(image, prompts.image_index_B)
        if prompts.boxes_B4 is None:
            return image
    else:
        image = _of_prompts(image, prompts.image_index_B)
        image = image + downscaled_rows(encoder.mask_downscaling, prompts.mask_logits_B1HW)
    points, labels = prompts.points_BN2, prompts.labels_BN
    return image + drawn_prompts(encoder, points, labels, prompts.boxes_B4, grid)


def _of_prompts(image_ILC: torch.Tensor, index_B: torch.Tensor) -> torch.Tensor:
    """Return each prompt's image, (B, L, C). An embedding's gradients are added row by row, an
    index's element by element."""
    found: torch.Tensor = F.embedding(index_B, image_ILC.flatten(1))
    return found.reshape(-1, *image_ILC.shape[1:])


def _two_way(
    transformer: Any, image_BLC: torch.Tensor, positions_LC: torch.Tensor, tokens_BTC: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`TwoWayTransformer.forward`: return tokens (B, T, C) and image features (B, L, C).

    `image_BLC` may be (1, L, C), shared by all B prompts up to the end of the first layer.
    """
    hidden = tokens_BTC
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            hidden = layer.self_attn(q=hidden, k=hidden, v=hidden)
        else:
            query = hidden + tokens_BTC
            hidden = hidden + layer.self_attn(q=query, k=query, v=hidden)
        hidden = layer.norm1(hidden)
        placed = image_BLC + positions_LC
        attended = _tokens_attend_to_image(
            layer.cross_attn_token_to_image, hidden + tokens_BTC, placed, image_BLC
        )
        hidden = layer.norm2(hidden + attended)
        hidden = layer.norm3(hidden + layer.mlp(hidden))
        attended_BLC = _image_attends_to_tokens(
            layer.cross_attn_image_to_token, hidden + tokens_BTC, hidden, placed, image_BLC
        )
        image_BLC = layer.norm4(attended_BLC)
    last = transformer.final_attn_token_to_image
    attended = _tokens_attend_to_image(
        last, hidden + tokens_BTC, image_BLC + positions_LC, image_BLC
    )
    return transformer.norm_final_attn(hidden + attended), image_BLC


def _tokens_attend_to_image(
    attention: Any, query_BTC: torch.Tensor, placed_BLC: torch.Tensor, image_BLC: torch.Tensor
) -> torch.Tensor:
    """Return `attention(q=query, k=placed, v=image)` of few tokens and many positions, (B, T, C).

    Each head's queries are projected back and multiplied with the unprojected image, because
    q (W x) = (W' q) x: this takes about as many products as projecting the image, and no pass over
    the image. The keys' bias is the same for every position and cancels in the softmax.
    """
    query_BHTD = _split_heads(attention.q_proj(query_BTC), attention)
    scores = _scores(_project_back(query_BHTD, attention.k_proj), placed_BLC)
    seen_BNC = _batched_product(scores.softmax(dim=-1), image_BLC)
    batch, heads, tokens, _ = query_BHTD.shape
    seen = seen_BNC.reshape(batch, heads, tokens, -1)
    weight_HCD = attention.v_proj.weight.unflatten(0, (heads, -1)).mT
    values = (seen @ weight_HCD).transpose(1, 2).flatten(2) + attention.v_proj.bias
    projected: torch.Tensor = attention.out_proj(values)
    return projected


def _image_attends_to_tokens(
    attention: Any,
    key_BTC: torch.Tensor,
    value_BTC: torch.Tensor,
    placed_BLC: torch.Tensor,
    image_BLC: torch.Tensor,
) -> torch.Tensor:
    """Return `image + attention(q=placed, k=key, v=value)` of many positions and few tokens,
    (B, L, C), with keys projected back as in `_tokens_attend_to_image`. Scores are stored token by
    token, so that the softmax reads whole rows."""
    key_BHTD = _split_heads(attention.k_proj(key_BTC), attention)
    batch, heads, tokens, width = key_BHTD.shape
    constant = key_BHTD @ attention.q_proj.bias.reshape(heads, width, 1)  # (B, H, T, 1)
    scores = _scores(_project_back(key_BHTD, attention.q_proj), placed_BLC)
    scores = scores.reshape(batch, heads, tokens, -1) + constant * width**-0.5
    weights_BNL = scores.softmax(dim=2).flatten(1, 2)
    value_BHTD = _split_heads(attention.v_proj(value_BTC), attention)
    weight_HDC = attention.out_proj.weight.T.unflatten(0, (heads, -1))
    value_BNC = (value_BHTD @ weight_HDC).flatten(1, 2)
    start = (image_BLC + attention.out_proj.bias).expand(batch, -1, -1)
    return torch.baddbmm(start, weights_BNL.mT, value_BNC)


def _split_heads(x_BTE: torch.Tensor, attention: Any) -> torch.Tensor:
    """Reshape (B, T, H x D) to (B, H, T, D)."""
    batch, tokens, _ = x_BTE.shape
    return x_BTE.reshape(batch, tokens, attention.num_heads, -1).transpose(1, 2)


def _project_back(x_BHTD: torch.Tensor, layer: Any) -> torch.Tensor:
    """Multiply each head's vectors with the transpose of its projection, scaled for attention:
    (B, H x T, C)."""
    heads, width = x_BHTD.shape[1], x_BHTD.shape[3]
    weight_HDC = layer.weight.reshape(heads, width, -1) * width**-0.5
    return torch.matmul(x_BHTD, weight_HDC).flatten(1, 2)


class _RowProduct(torch.autograd.Function):
    """`left @ right.mT`, whose gradient of `right` is stored in rows as `right` is. Autograd's own
    is a transposed view, which is slow to add to the image's other gradients."""

    @staticmethod
    def forward(ctx: Any, left_BNC: torch.Tensor, right_BLC: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(left_BNC, right_BLC)
        return left_BNC @ right_BLC.mT

    @staticmethod
    def backward(ctx: Any, grad_BNL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        left_BNC, right_BLC = ctx.saved_tensors
        return grad_BNL @ right_BLC, grad_BNL.mT @ left_BNC


def _scores(left_BNC: torch.Tensor, image_BLC: torch.Tensor) -> torch.Tensor:
    """Return the products of vectors and image features, (B, N, L)."""
    if torch.is_grad_enabled() and len(image_BLC) == len(left_BNC):
        product: torch.Tensor = _RowProduct.apply(  # type: ignore[no-untyped-call]
            left_BNC, image_BLC
        )
        return product
    return _batched_product(left_BNC, image_BLC.mT)


def _batched_product(left_BNK: torch.Tensor, right_BKM: torch.Tensor) -> torch.Tensor:
    """Batched matrix product; if `right` is one matrix for all, a single product."""
    right = right_BKM[0] if len(right_BKM) == 1 else right_BKM
    product: torch.Tensor = torch.matmul(left_BNK, right)
    return product


def _mask_logits(
    upscaling: Any, image_BLC: torch.Tensor, weights_BMC: torch.Tensor, grid: tuple[int, int]
) -> torch.Tensor:
    """Upscale the image features four times and weight their channels: logits (B, M, 4h, 4w).

    Cells stay separate rows until the end: (B, L, 4 quarters, 4 quarters of each, C).
    """
    first, norm, activation, second, _ = upscaling
    cells = _upscale_cells(first, image_BLC)
    cells = F.layer_norm(cells, (cells.shape[-1],), norm.weight, norm.bias, norm.eps)
    cells = activation(_upscale_cells(second, activation(cells)))
    batch, outputs = int(weights_BMC.shape[0]), int(weights_BMC.shape[1])
    logits = cells.reshape(batch, -1, cells.shape[-1]) @ weights_BMC.mT
    height, width = grid
    logits = logits.reshape(batch, height, width, 2, 2, 2, 2, outputs)
    logits = logits.permute(0, 7, 1, 3, 5, 2, 4, 6)  # rows: cell, half, quarter; then columns
    return torch.reshape(logits, (batch, outputs, 4 * height, 4 * width))


def _upscale_cells(convolution: Any, cells: torch.Tensor) -> torch.Tensor:
    """Apply a 2 x 2 transposed convolution of stride 2 to rows (..., C): (..., 4, D), the four
    quarters of each cell row by row."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (4 D, C)
    quarters = F.linear(cells, weight, convolution.bias.repeat(4))
    return quarters.reshape(*cells.shape[:-1], 4, -1)


def _embed_points_and_boxes(encoder: Any, prompts: PromptBatch) -> torch.Tensor:
    """Return sparse tokens (B, tokens, C), as `PromptEncoder.forward` does."""
    # without autocast: bfloat16 cannot represent neighbouring pixels
    with torch.autocast(encoder.no_mask_embed.weight.device.type, enabled=False):
        return _embed_in_float32(encoder, prompts)


def _embed_in_float32(encoder: Any, prompts: PromptBatch) -> torch.Tensor:
    parts: list[torch.Tensor] = []
    if prompts.points_BN2 is not None:
        parts.append(
            encoder._embed_points(
                prompts.points_BN2, prompts.labels_BN, pad=prompts.boxes_B4 is None
            )
        )
    if prompts.boxes_B4 is not None:
        parts.append(encoder._embed_boxes(prompts.boxes_B4))
    if not parts:
        raise ValueError("expected prompts with points or boxes, got neither")
    return torch.cat(parts, dim=1)


def preprocess(sam: Any, images_BCHW: torch.Tensor) -> torch.Tensor:
    """Normalise RGB values in [0, 255] and pad right and below with zeros to a square whose side is
    the longer side rounded up to a multiple of 32: SAM's `preprocess` for any input size."""
    normed = (images_BCHW - sam.pixel_mean) / sam.pixel_std
    height, width = normed.shape[-2:]
    side = -(-max(height, width) // 32) * 32
    return F.pad(normed, (0, side - width, 0, side - height))
