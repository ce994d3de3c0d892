"""MobileSAM from its checkpoint to masks: pulled, promoted, used by the generator and the page."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from engine.annotation.schemas import Point
from engine.sam import tiny_vit
from engine.sam.build import build_sam
from flows.cli.main import app
from flows.data.import_model import PUBLIC
from flows.operations.doctor import check_workspace
from flows.stages.fully_automatic import mask_generator
from storage.catalog import TaskKind
from tests.annotation.site import make_site, served
from tests.file_server import serving

torch.set_num_threads(1)


@pytest.fixture
def mobile_sam(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A file like the public one with random weights; its input size is 256 pixels, for speed."""
    monkeypatch.setattr(tiny_vit, "IMAGE_SIZE", 256)
    torch.manual_seed(7)
    sam = build_sam("vit_t")
    torch.nn.init.constant_(sam.mask_decoder.iou_prediction_head.layers[-1].bias, 0.95)
    file = io.BytesIO()
    torch.save(sam.state_dict(), file)
    return file.getvalue()


def test_what_is_pulled_is_one_commits_file() -> None:
    public = PUBLIC["mobile_sam"]
    assert "/ChaoningZhang/MobileSAM/f706ad9c4eb7f219c00d9050e46328518ffb65d2/" in public.url
    assert public.url.endswith("/weights/mobile_sam.pt")
    assert public.sha256.startswith("6dbb9052")


def test_mobile_sam_is_pulled_and_makes_masks_alone_and_for_people(
    mobile_sam: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAENGINE_GENERATOR__POINTS_PER_SIDE", "2")
    monkeypatch.setenv("DATAENGINE_GENERATOR__MIN_STABILITY", "0")
    site = make_site(tmp_path / "ws", images=1)
    workspace = site.workspace
    monkeypatch.chdir(workspace.settings.root)
    digest = hashlib.sha256(mobile_sam).hexdigest()
    with serving(mobile_sam) as server:
        server.faults = ["drop"]
        options = ("--url", server.url, "--sha256", digest, "--promote", "--json")
        result = CliRunner().invoke(app, ["models", "pull", "mobile_sam", *options])
        assert result.exit_code == 0, result.output + repr(result.exception)
        assert len(server.ranges) == 2  # the connection was lost once
    pulled = json.loads(result.stdout)
    assert (pulled["version"], pulled["architecture"]) == ("mobile_sam", "vit_t")
    assert pulled["source"]["sha256"] == digest
    promotion = pulled["promotion"]
    assert (promotion["current"], promotion["replaced"]) == ("mobile_sam", "lite")
    card = workspace.catalog.models.get("mobile_sam").card
    assert card["thresholds"]["min_predicted_iou"] == 0.88  # SAM's, not the shipped model's

    (model,) = [c for c in check_workspace(workspace.settings.root) if c["name"] == "current model"]
    assert (model["detail"], model["do"]) == ("mobile_sam on cpu works", "")

    masks = mask_generator(workspace, "mobile_sam").generate(site.scenes[0].image_HWC)
    assert masks
    assert {mask.rle.size for mask in masks} == {site.scenes[0].image_HWC.shape[:2]}

    site.annotate()
    with served(workspace) as url, site.client(url, "ada") as ada:
        task = ada.next_task([TaskKind.ANNOTATE]).task
        assert task is not None
        assert task.model == "mobile_sam"
        assert workspace.objects.exists(f"embeddings/mobile_sam/{task.image.id}.safetensors")
        assert ada.predict(task, [Point(x=40, y=30, label=1)])
