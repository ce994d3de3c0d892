"""The segmenter on random weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.core.records import Prompt
from engine.sam import Embedding, Prediction, Segmenter, Thresholds
from engine.sam import segmenter as segmenter_module
from engine.sam.build import build_sam
from engine.sam.decode import PromptBatch, decode, preprocess
from engine.sam.segmenter import MAX_UPSAMPLED

torch.set_num_threads(1)
SIZE = (60, 88)
LOW = 192
"""Side of the low-resolution masks of `lite`."""

IMAGE = np.random.default_rng(4).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(3)
    return Segmenter(build_sam("lite"), version="random", thresholds=Thresholds())


@pytest.fixture(scope="module")
def embedding(segmenter: Segmenter) -> Embedding:
    return segmenter.embed(IMAGE)


def click(x: float, y: float, label: int = 1) -> Prompt:
    return Prompt(points_xy=np.array([[x, y]]), labels=np.array([label]))


CLICKS = [click(10, 12), click(70, 40, 0), click(44, 59)]


# embed


def test_a_batch_of_images_is_embedded_as_one_by_one(segmenter: Segmenter) -> None:
    images = [IMAGE, IMAGE[:30, :40], IMAGE.swapaxes(0, 1)]
    together = segmenter.embed_many(images)
    for image, found in zip(images, together, strict=True):
        alone = segmenter.embed(image)
        assert (found.original_size, found.input_size) == (alone.original_size, alone.input_size)
        assert torch.allclose(found.features_1CHW, alone.features_1CHW, atol=1e-4)


def test_images_are_encoded_in_half_precision_if_requested_and_supported(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = segmenter.embed(IMAGE).features_1CHW
    assert torch.equal(segmenter.embed_many([IMAGE], half=True)[0].features_1CHW, exact)
    monkeypatch.setattr(Segmenter, "has_half_encoder", True)
    assert torch.equal(segmenter.embed_many([IMAGE])[0].features_1CHW, exact)
    half = segmenter.embed_many([IMAGE], half=True)[0].features_1CHW
    assert half.dtype == torch.float32
    assert 0 < float((half - exact).abs().mean()) < 0.05 * float(exact.std())


def test_a_compiled_encoder_gives_the_same_embedding_each_in_its_own_memory() -> None:
    torch.manual_seed(3)
    model = Segmenter(build_sam("lite"), version="random", thresholds=Thresholds())
    plain = model.embed(IMAGE).features_1CHW
    model.compile(backend="eager")
    first = model.embed(IMAGE).features_1CHW
    second = model.embed(np.zeros_like(IMAGE)).features_1CHW
    assert torch.allclose(first, plain, atol=1e-5)
    assert not torch.allclose(first, second, atol=1e-2)
    assert set(model.sam.state_dict()) == set(build_sam("lite").state_dict())


def test_an_embedding_has_both_sizes(embedding: Embedding) -> None:
    assert embedding.original_size == SIZE
    assert embedding.input_size == (262, 384)  # 60 x 384 / 88 = 261.8
    assert embedding.features_1CHW.shape == (1, 128, 48, 48)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((1, 8, 8, 3), np.uint8),
    ],
)
def test_only_rgb_bytes_are_embedded(segmenter: Segmenter, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="RGB uint8"):
        segmenter.embed(image)


def test_an_image_one_pixel_high_is_embedded(segmenter: Segmenter) -> None:
    sliver = segmenter.embed(np.zeros((1, 600, 3), np.uint8))
    assert sliver.input_size == (1, 384)
    answer = segmenter.predict(sliver, [click(300, 0)], multimask=True)
    assert segmenter.masks(sliver, answer.best()[0]).shape == (1, 1, 600)


def test_padding_is_zero_after_normalising_and_rounds_up_to_thirty_two(
    segmenter: Segmenter,
) -> None:
    padded = preprocess(segmenter.sam, torch.full((1, 3, 40, 65), 255.0))
    assert padded.shape == (1, 3, 96, 96)
    assert (padded[..., :40, :65] > 1).all()
    assert not padded[..., 40:, :].any()
    assert not padded[..., 65:].any()


# predict


@pytest.mark.parametrize(("multimask", "outputs"), [(True, 3), (False, 1)])
def test_several_prompts_are_predicted_as_one_by_one(
    segmenter: Segmenter, embedding: Embedding, multimask: bool, outputs: int
) -> None:
    answer = segmenter.predict(embedding, CLICKS, multimask=multimask)
    assert answer.logits_BMHW.shape == (3, outputs, LOW, LOW)
    assert answer.predicted_iou_BM.shape == (3, outputs)
    for index, prompt in enumerate(CLICKS):
        alone = segmenter.predict(embedding, [prompt], multimask=multimask)
        assert torch.allclose(answer.logits_BMHW[index], alone.logits_BMHW[0], atol=1e-5)
        assert torch.allclose(answer.predicted_iou_BM[index], alone.predicted_iou_BM[0], atol=1e-5)


def test_the_single_mask_is_none_of_the_three(segmenter: Segmenter, embedding: Embedding) -> None:
    single = segmenter.predict(embedding, CLICKS, multimask=False).logits_BMHW
    three = segmenter.predict(embedding, CLICKS, multimask=True).logits_BMHW
    assert not any(torch.allclose(single[:, 0], three[:, m], atol=1e-3) for m in range(3))


def test_every_part_of_a_prompt_matters(segmenter: Segmenter, embedding: Embedding) -> None:
    plain = Prompt(
        points_xy=np.array([[10.0, 12.0]]),
        labels=np.array([1]),
        box_xyxy=np.array([5.0, 5.0, 30.0, 30.0]),
        mask_logits=np.zeros((LOW, LOW)),
    )
    others = [
        replace(plain, points_xy=np.array([[60.0, 40.0]])),
        replace(plain, labels=np.array([0])),
        replace(plain, box_xyxy=np.array([5.0, 5.0, 80.0, 50.0])),
        replace(plain, mask_logits=np.full((LOW, LOW), 8.0)),
    ]
    first = segmenter.predict(embedding, [plain], multimask=False).logits_BMHW
    for prompt in others:
        second = segmenter.predict(embedding, [prompt], multimask=False).logits_BMHW
        assert not torch.allclose(first, second, atol=1e-6)


@pytest.mark.parametrize(
    "other",
    [
        Prompt(points_xy=np.zeros((2, 2)), labels=np.ones(2)),
        Prompt(box_xyxy=np.array([0.0, 0.0, 9.0, 9.0])),
        Prompt(points_xy=np.zeros((1, 2)), labels=np.ones(1), box_xyxy=np.zeros(4)),
        Prompt(points_xy=np.zeros((1, 2)), labels=np.ones(1), mask_logits=np.zeros((LOW, LOW))),
    ],
    ids=["two points", "a box", "point and box", "point and logits"],
)
def test_prompts_of_different_forms_are_refused(
    segmenter: Segmenter, embedding: Embedding, other: Prompt
) -> None:
    with pytest.raises(ValueError, match="one form, got 2"):
        segmenter.predict(embedding, [CLICKS[0], other], multimask=True)


def test_no_prompts_at_all_are_refused(segmenter: Segmenter, embedding: Embedding) -> None:
    with pytest.raises(ValueError, match="got 0 forms"):
        segmenter.predict(embedding, [], multimask=True)


def test_predicted_iou_is_between_zero_and_one(segmenter: Segmenter, embedding: Embedding) -> None:
    bias = segmenter.sam.mask_decoder.iou_prediction_head.layers[-1].bias
    before = bias.detach().clone()
    try:
        for shift, wanted in ((50.0, 1.0), (-50.0, 0.0)):
            bias.data.copy_(before + shift)
            scores = segmenter.predict(embedding, CLICKS, multimask=True).predicted_iou_BM
            assert (scores == wanted).all()
    finally:
        bias.data.copy_(before)


def test_one_call_serves_prompts_about_several_images(segmenter: Segmenter) -> None:
    features = [segmenter.embed(image).features_1CHW for image in (IMAGE, IMAGE[::-1].copy())]
    points = torch.tensor([[[30.0, 40.0]], [[90.0, 80.0]], [[30.0, 40.0]]])
    labels = torch.ones(3, 1, dtype=torch.int64)
    with torch.inference_mode():
        masks, scores = decode(
            segmenter.sam, torch.cat(features), PromptBatch(torch.tensor([1, 0, 0]), points, labels)
        )
        for row, image in enumerate((1, 0, 0)):
            one = PromptBatch(torch.tensor([0]), points[row : row + 1], labels[row : row + 1])
            alone, quality = decode(segmenter.sam, features[image], one)
            assert torch.allclose(masks[row], alone[0], atol=1e-5)
            assert torch.allclose(scores[row], quality[0], atol=1e-5)
    assert not torch.allclose(masks[0], masks[2], atol=1e-4)


def test_a_batch_without_points_or_boxes_is_refused(segmenter: Segmenter) -> None:
    with pytest.raises(ValueError, match="points or boxes"):
        decode(segmenter.sam, torch.zeros(1, 128, 48, 48), PromptBatch(torch.tensor([0])))


def test_the_best_output_is_the_one_with_the_highest_predicted_iou() -> None:
    logits = torch.arange(6.0).reshape(2, 3, 1, 1)
    best, scores = Prediction(logits, torch.tensor([[0.1, 0.7, 0.3], [0.9, 0.2, 0.1]])).best()
    assert best.flatten().tolist() == [1, 3]
    assert scores.tolist() == pytest.approx([0.7, 0.9])


# upsampling


def test_masks_lie_where_the_logits_are(segmenter: Segmenter, embedding: Embedding) -> None:
    """192 low-resolution cells span the padded input: 88 pixels wide, the image has 60 rows."""
    logits = torch.full((1, LOW, LOW), -5.0)
    logits[0, :, : LOW // 2] = 5  # the left half
    mask = segmenter.masks(embedding, logits)[0]
    assert mask[:, :43].all()
    assert not mask[:, 45:].any()
    logits = torch.full((1, LOW, LOW), -5.0)
    logits[0, 132:] = 5  # below the image: padding
    assert not segmenter.masks(embedding, logits).any()


def test_masks_upsampled_in_batches_are_the_same_masks(
    segmenter: Segmenter, embedding: Embedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = segmenter.predict(embedding, CLICKS, multimask=True).logits_BMHW.flatten(0, 1)
    logits = logits - logits.mean()
    whole = segmenter.masks(embedding, logits)
    assert whole.dtype == np.bool_
    assert whole.shape == (9, *SIZE)
    sizes: list[int] = []
    upsample = Segmenter.upsample

    def counted(self: Segmenter, embedding: Embedding, logits_BHW: torch.Tensor) -> torch.Tensor:
        sizes.append(len(logits_BHW))
        return upsample(self, embedding, logits_BHW)

    monkeypatch.setattr(Segmenter, "upsample", counted)
    monkeypatch.setattr(Segmenter, "pieces_at_once", lambda *sizes: 4)
    assert np.array_equal(segmenter.masks(embedding, logits), whole)
    assert sizes == [4, 4, 1]


def test_no_logits_give_no_masks(segmenter: Segmenter, embedding: Embedding) -> None:
    assert segmenter.masks(embedding, torch.zeros(0, LOW, LOW)).shape == (0, *SIZE)


def test_large_images_are_upsampled_one_mask_at_a_time(segmenter: Segmenter) -> None:
    assert segmenter.pieces_at_once(10_000, 10_000) == 1
    assert segmenter.pieces_at_once(1024, 1024) * 1024 * 1024 <= MAX_UPSAMPLED


def test_small_images_are_upsampled_within_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mask is upsampled to the size of the model's input before that of the image."""
    torch.manual_seed(3)
    model = Segmenter(build_sam("lite"), version="random", thresholds=Thresholds())
    monkeypatch.setattr(segmenter_module, "MAX_UPSAMPLED", 4 * model.side**2)
    alive: list[int] = []
    upsample = Segmenter.upsample

    def counted(self: Segmenter, embedding: Embedding, logits_BHW: torch.Tensor) -> torch.Tensor:
        alive.append(len(logits_BHW) * model.side**2)
        return upsample(self, embedding, logits_BHW)

    monkeypatch.setattr(Segmenter, "upsample", counted)
    tiny = Embedding(torch.zeros(1), (16, 16), (384, 384))
    model.masks(tiny, torch.zeros(40, LOW, LOW))
    assert max(alive) <= 4 * model.side**2
