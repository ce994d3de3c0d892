"""CoCa models of open_clip (Yu et al. 2022): a CLIP that also writes captions.

Names: `coca:ARCHITECTURE/PRETRAINED`, such as
`coca:coca_ViT-B-32/mscoco_finetuned_laion2b_s13b_b90k`, and `coca:FOLDER`, a folder of `save_clip`.
As `clip:...` the same models make vectors.

open_clip's own `generate` needs the package `transformers`; greedy decoding, here, does not.

N = pictures, S = side of the model's pictures, L = tokens of a caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from engine.core.batches import batches
from engine.semantics.captions import clean_caption
from engine.semantics.clip import ClipEncoder, fresh_clip, load_clip
from engine.semantics.encoders import CLIP, EncoderError

COCA = "coca:"
"""Beginning of the names of CoCas."""
MOST_TOKENS = 30
AT_ONCE = 16
CAPTION_WEIGHT = 2.0
"""Of the captioning loss, beside 1 of the contrastive one, as in the paper."""

SMALL: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": 48,
        "patch_size": 6,
        "layers": 3,
        "width": 64,
        "head_width": 32,
        "attentional_pool": True,
        "attn_pooler_queries": 32,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 1,
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 2,
        "attn_pooler_heads": 2,
    },
    "custom_text": True,  # by which open_clip knows a CoCa
}
"""A small CoCa, of 7 million parameters, for a user's own pairs: open_clip's configuration."""


class CocaCaptioner:
    """A Captioner (`engine.semantics.captions`) by a CoCa.

    Raises:
        EncoderError: the model writes no captions.
    """

    wants_outline = False

    def __init__(self, encoder: ClipEncoder) -> None:
        if not hasattr(encoder.model, "text_decoder"):
            raise EncoderError(f"{encoder.name} is a CLIP that writes no captions; name a CoCa")
        self.encoder = encoder
        self.version = COCA + encoder.version.removeprefix(CLIP)

    def caption(self, pictures: Sequence[np.ndarray], what: str = "images") -> list[str]:
        """See Captioner; pictures are stretched to squares."""
        side, found = self.encoder.side, list[str]()
        for part in batches(pictures, AT_ONCE):
            squares = [
                cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) for picture in part
            ]
            found += self._written(np.stack(squares))
        return found

    def _written(self, pixels_NSSC: np.ndarray) -> list[str]:
        model, tokenizer = self.encoder.model, self.encoder.tokenizer
        start, end = tokenizer.sot_token_id, tokenizer.eot_token_id
        device = model.logit_scale.device
        limit = min(MOST_TOKENS, model.context_length - 1)
        with torch.inference_mode():
            shown = self.encoder.normalise(torch.from_numpy(pixels_NSSC).to(device))
            latent, tokens_NQD = model._encode_image(shown)
            said_NL = torch.full((len(pixels_NSSC), 1), start, device=device)
            ended_N = torch.zeros(len(pixels_NSSC), dtype=torch.bool, device=device)
            while said_NL.shape[1] < limit and not bool(ended_N.all()):
                logits = model(
                    None, said_NL, image_latent=latent, image_embs=tokens_NQD, output_labels=False
                )["logits"]
                following_N = logits[:, -1].argmax(dim=-1)
                following_N[ended_N] = end
                said_NL = torch.cat([said_NL, following_N[:, None]], dim=1)
                ended_N |= following_N == end
        texts = []
        for row in said_NL.tolist():
            words = [token for token in row if token not in (start, end)]
            texts.append(clean_caption(tokenizer.decode(words)))
        return texts


def load_coca(name: str, *, device: str = "cpu", cache: Path | None = None) -> CocaCaptioner:
    """Return a CoCa by its name.

    Raises:
        EncoderError: the extra `clip` is missing, there is no such model, or its weights cannot be
            had or read.
    """
    place = name.removeprefix(COCA)
    return CocaCaptioner(load_clip(CLIP + place, device=device, cache=cache))


def fresh_coca(config: dict[str, Any] | None = None, *, seed: int = 0) -> ClipEncoder:
    """Return an untrained CoCa: SMALL by default.

    Raises:
        EncoderError: the extra `clip` is not installed.
    """
    return fresh_clip(SMALL if config is None else config, seed=seed)
