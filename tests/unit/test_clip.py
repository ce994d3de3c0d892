"""CLIP's doors: names, folders, digests, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.core import rle as rle_codec
from engine.semantics.clip import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    ClipEncoder,
    fresh_clip,
    load_clip,
    save_clip,
)
from engine.semantics.contrastive import (
    ContrastiveError,
    Pair,
    TowersConfig,
    contrastive_loss,
    train_towers,
)
from engine.semantics.encoders import EncoderError, load_encoder
from tests.labelled_shapes import draw_picture
from tests.small_clip import CONFIG, pairs_of

pytestmark = pytest.mark.usefixtures("one_thread")

PUBLISHED = "clip:ViT-B-32/laion2b_s34b_b79k"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an untrained model; its name has what names of folders may have."""
    path = tmp_path_factory.mktemp("clip") / "my clip@home"
    save_clip(fresh_clip(CONFIG).model, CONFIG, path)
    return path


def _load(folder: Path) -> ClipEncoder:
    encoder = load_encoder(f"clip:{folder}")
    assert isinstance(encoder, ClipEncoder)
    return encoder


def _refusal(name: str, cache: Path | None = None) -> str:
    with pytest.raises(EncoderError) as caught:
        load_encoder(name) if cache is None else load_clip(name, cache=cache)
    return str(caught.value)


def test_a_saved_model_gives_the_same_vectors_when_it_is_loaded(folder: Path) -> None:
    fresh, loaded = fresh_clip(CONFIG), _load(folder)
    picture = draw_picture(1)
    rles = [thing.rle for thing in picture.things]
    vectors = loaded.encode(picture.image_HWC, rles)
    assert np.array_equal(vectors, fresh.encode(picture.image_HWC, rles))
    assert vectors.shape == (4, loaded.dimensions) == (4, 64)
    assert vectors.dtype == np.float16
    assert np.allclose(np.linalg.norm(vectors.astype(float), axis=1), 1, atol=1e-3)
    texts = loaded.encode_texts(["a red star", "ein grüner Würfel", "word " * 200])
    assert np.array_equal(
        texts, fresh.encode_texts(["a red star", "ein grüner Würfel", "word " * 200])
    )
    assert texts.dtype == np.float32
    assert np.allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)
    assert loaded.encode(picture.image_HWC, []).shape == (0, 64)
    assert loaded.logit_scale == pytest.approx(1 / 0.07)


def test_a_masks_vector_is_the_mean_of_two_crops_and_the_masked_one(folder: Path) -> None:
    encoder, picture = _load(folder), draw_picture(2)
    pairs = pairs_of([picture], encoder.side)[:3]
    each = encoder.encode_pixels(np.stack([pair.pixels_SSC for pair in pairs]))
    mean = each.mean(axis=0) / np.linalg.norm(each.mean(axis=0))
    found = encoder.encode(picture.image_HWC, [picture.things[0].rle])[0]
    assert np.allclose(found, mean, atol=1e-3)


def test_a_mask_of_the_whole_image_and_one_of_a_pixel_have_vectors(folder: Path) -> None:
    image = np.zeros((20, 50, 3), np.uint8)
    pixel = np.zeros((20, 50), bool)
    pixel[19, 49] = True
    rles = [rle_codec.encode(mask) for mask in (np.ones((20, 50), bool), pixel)]
    assert np.isfinite(_load(folder).encode(image, rles)).all()


def test_a_version_is_the_name_and_the_weights_digest(folder: Path, tmp_path: Path) -> None:
    encoder = _load(folder)
    digest = encoder.version.removeprefix(f"clip:{folder}-")
    assert len(digest) == 12
    assert load_encoder(f"clip:{folder}@{digest}").version == encoder.version
    assert f"have the digest {digest}, not 0123456789ab" in _refusal(f"clip:{folder}@0123456789ab")
    save_clip(fresh_clip(CONFIG, seed=1).model, CONFIG, tmp_path)
    assert not _load(tmp_path).version.endswith(digest)


def test_open_clip_itself_reads_a_saved_folder(folder: Path) -> None:
    import open_clip

    model, prepare = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a red star"])
    picture = draw_picture(3).image_HWC[:32, :32]
    with torch.inference_mode():
        text = model.encode_text(tokens, normalize=True).numpy()
        image = model.encode_image(prepare(Image.fromarray(picture))[None], normalize=True).numpy()
    assert np.allclose(text, _load(folder).encode_texts(["a red star"]), atol=1e-5)
    assert np.allclose(image, _load(folder).encode_pixels(picture[None]), atol=1e-4)


def test_unknown_names_are_refused_with_near_ones() -> None:
    assert "ViT-B-32" in _refusal("clip:VitB32/openai")
    assert "laion2b_s34b_b79k" in _refusal("clip:ViT-B-32/laion")
    assert "laion2b_s34b_b79k" in _refusal("clip:ViT-B-32")
    assert "no such folder" in _refusal("clip:/nowhere/at/all")
    assert "ARCHITECTURE/PRETRAINED" in _refusal("clip:")
    assert "clip:NAME" in _refusal("resnet")


@pytest.mark.parametrize("missing", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_folder_without_one_of_its_files_is_refused(
    folder: Path, tmp_path: Path, missing: str
) -> None:
    for name in {CONFIG_FILE, WEIGHTS_FILE} - {missing}:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert f"has no {missing}" in _refusal(f"clip:{tmp_path}")


@pytest.mark.parametrize("damage", ["weights", "config", "other", "no model"])
def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path, damage: str) -> None:
    weights, config = (folder / WEIGHTS_FILE).read_bytes(), (folder / CONFIG_FILE).read_text()
    if damage == "weights":
        weights = weights[:1000]
    elif damage == "config":
        config = config[:100]
    elif damage == "other":
        config = json.dumps({"model_cfg": {**CONFIG, "embed_dim": 32}})
    else:
        config = "[]"
    (tmp_path / WEIGHTS_FILE).write_bytes(weights)
    (tmp_path / CONFIG_FILE).write_text(config)
    assert f"{tmp_path} is damaged or does not fit" in _refusal(f"clip:{tmp_path}")


def test_weights_that_are_nowhere_are_reported_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", closed)
    message = _refusal(PUBLISHED, cache=tmp_path)
    assert "not in the cache and cannot be downloaded" in message
    assert "copy the cache" in message


class _Harmful:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._path),)


def test_code_in_published_weights_is_not_run(tmp_path: Path) -> None:
    kept = tmp_path / "models--laion--CLIP-ViT-B-32-laion2B-s34B-b79K"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("abc")
    (kept / "snapshots" / "abc").mkdir(parents=True)
    weights = kept / "snapshots" / "abc" / "open_clip_pytorch_model.bin"
    for dump in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))):
        dump({"state_dict": _Harmful(tmp_path / "harm")}, weights)
        assert "not a file of tensors alone" in _refusal(PUBLISHED, cache=tmp_path)
        assert not (tmp_path / "harm").exists()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert 'pip install "open-data-engine[clip]"' in _refusal(PUBLISHED)


def test_the_loss_is_open_clips_where_no_text_is_there_twice() -> None:
    from open_clip.loss import ClipLoss

    generator = torch.Generator().manual_seed(0)
    image, text = torch.nn.functional.normalize(
        torch.randn(2, 12, 8, generator=generator), dim=-1
    ).unbind()
    scale = torch.tensor(9.0)
    ours = contrastive_loss(image, text, torch.arange(12), scale)
    assert float(ours) == pytest.approx(float(ClipLoss()(image, text, scale)), abs=1e-5)


def test_pairs_that_share_a_target_are_no_wrong_answers_for_one_another() -> None:
    texts = torch.eye(4)[[0, 1, 2]]
    between = torch.tensor([[0.5**0.5, 0.5**0.5, 0, 0]] * 2 + [[0, 0, 1.0, 0]])

    def pull(*targets: int) -> float:
        """The largest pull on images that lie in the middle of the first two texts."""
        images = between.clone().requires_grad_()
        loss = contrastive_loss(images, texts, torch.tensor(targets), torch.tensor(50.0))
        (found,) = torch.autograd.grad(loss, images)
        return float(found.abs().max())

    assert pull(5, 5, 6) < 1e-4
    assert pull(5, 6, 7) > 1


def test_training_is_the_same_for_the_same_seed_and_reports_every_step() -> None:
    pairs = pairs_of(map(draw_picture, range(4)), 32)
    losses: list[list[float]] = [[], []]
    for seen in losses:
        config = TowersConfig(steps=3, batch=8, learning_rate=1e-3)

        def on_step(step: int, loss: float, seen: list[float] = seen) -> None:
            assert step == len(seen) + 1
            seen.append(loss)

        trained = train_towers(fresh_clip(CONFIG), pairs, config, on_step)
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert trained.version != fresh_clip(CONFIG).version
    assert not trained.model.training


def test_training_refuses_what_it_cannot_learn_from() -> None:
    encoder = fresh_clip(CONFIG)
    crop = np.zeros((32, 32, 3), np.uint8)
    short = TowersConfig(steps=1, batch=2)
    with pytest.raises(ContrastiveError, match="two different texts"):
        train_towers(encoder, [Pair(crop, ("a",)), Pair(crop, ("a",))], short)
    with pytest.raises(ContrastiveError, match=r"shape \(16, 16, 3\)"):
        train_towers(encoder, [Pair(crop, ("a",)), Pair(crop[:16, :16], ("b",))], short)
    with pytest.raises(ValueError, match="at least 2"):
        TowersConfig(batch=1)
    with torch.no_grad():
        next(encoder.model.visual.parameters()).fill_(float("nan"))
    with pytest.raises(ContrastiveError, match="lower the learning rate"):
        train_towers(encoder, [Pair(crop, ("a",)), Pair(crop, ("b",))], short)
