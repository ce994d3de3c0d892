"""A change of the current model brings what follows from it: thresholds, embeddings, a look at old
masks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from engine.core.records import Source, Stage
from engine.sam import Thresholds
from engine.sam.build import build_sam
from engine.sam.checkpoint import shipped_path
from flows.cli.main import app
from flows.data.import_model import import_model
from flows.data.ingest import ingest_folder
from flows.prefect_api import events
from flows.review import change_model
from flows.stages.fully_automatic import mask_generator
from flows.training import calibrate
from flows.workspace import progress
from flows.workspace.settings import load_settings
from flows.workspace.workspace import Workspace
from storage.catalog import NotFoundError, RunKind, TaskKind
from tests.annotation.site import Site, make_site

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    progress.use(progress.Silent())
    yield
    progress.use(progress.Silent())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Three images with automatic masks of `lite`, and a candidate `cells` of random weights."""
    found = make_site(tmp_path / "ws")
    masks = [
        replace(mask, point_xy=(1.0, 1.0))
        for number in range(3)
        for mask in found.mask_rows(number, "made", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC)
    ]
    found.workspace.masks.commit(masks, run_id="made", shard=0)
    torch.manual_seed(5)
    torch.save(build_sam("lite").state_dict(), tmp_path / "cells.pth")
    import_model(found.workspace, tmp_path / "cells.pth")
    return found


def models(*arguments: str) -> Any:
    """What a command prints with --json."""
    result = CliRunner().invoke(app, ["models", *arguments, "--json"])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return json.loads(result.stdout)


def reviews(site: Site) -> list[str | None]:
    """Models of the reviews, the latest first."""
    return [run.model for run in site.workspace.catalog.runs.all(kind=RunKind.REVIEW)]


def test_one_command_changes_the_model_and_sends_differing_masks_to_review_with_embeddings(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = site.workspace
    site.annotate()
    monkeypatch.chdir(workspace.settings.root)
    found = models("promote", "cells")
    assert (found["current"], found["replaced"]) == ("cells", "lite")
    (compared,) = found["compared"]
    assert (compared["model"], compared["images"], compared["masks"]) == ("cells", 3, 9)
    assert compared["queued"] > 0
    assert found["open_tasks"] == {"lite": 3}  # to annotate; their embeddings are of lite
    assert workspace.queue.by_kind()[TaskKind.REVIEW]["open"] == compared["queued"]
    keys = [info.key for info in workspace.objects.list("embeddings/cells/")]
    assert len(keys) == compared["queued"]

    again = models("promote", "cells")
    assert (again["replaced"], again["compared"]) == (None, [])
    back = models("rollback")
    assert (back["current"], back["thresholds"]) == ("lite", None)
    assert back["compared"] == []  # all old masks are its own
    assert reviews(site) == ["cells"]


def test_people_read_what_the_change_did(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.annotate()
    monkeypatch.chdir(site.workspace.settings.root)
    result = CliRunner().invoke(app, ["models", "promote", "cells"])
    assert result.exit_code == 0, result.output
    assert "cells is current; it replaced lite\n" in result.stdout
    assert "too few held-out masks to calibrate on; promote it again" in result.stdout
    assert "3 open tasks keep lite" in result.stdout
    assert "of 9 old masks differ" in result.stderr


def test_where_a_worker_compares_old_masks_the_command_leaves_it_to_the_worker(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []

    def emit(workspace: Workspace, event: str, payload: dict[str, Any]) -> bool:
        sent.append(event)
        return True

    monkeypatch.setattr(events, "emit", emit)
    found = change_model.promote(site.workspace, "cells", has_worker=True)
    assert (found.compared, reviews(site)) == (None, [])
    assert sent == [events.MODEL_PROMOTED]
    change_model.roll_back(site.workspace, has_worker=True)
    assert len(sent) == 2


def test_an_event_that_is_lost_leaves_the_comparison_to_the_command(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "emit", lambda *_: False)
    found = change_model.promote(site.workspace, "cells", has_worker=True)
    assert found.compared
    assert reviews(site) == ["cells"]


def test_an_unknown_version_changes_nothing(site: Site) -> None:
    with pytest.raises(NotFoundError, match="nobody's"):
        change_model.promote(site.workspace, "nobody's", has_worker=False)
    assert site.workspace.current_model().version == "lite"


# thresholds


CHOSEN = Thresholds(min_predicted_iou=0.5, min_stability=0.4, confident_iou=0.6)


@pytest.fixture
def annotated(workspace: Workspace, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Two datasets of the same images with ground truth, enough for a calibration, which would
    take seconds: it chooses CHOSEN."""
    scores = {"precision_50": 0.9, "recall_50": 0.4}
    monkeypatch.setattr(calibrate, "calibrate", lambda *_, **__: (CHOSEN, scores))
    monkeypatch.setattr(calibrate, "MIN_MASKS", 5)
    monkeypatch.setattr(calibrate, "MIN_IMAGES", 4)  # the settings say two of each dataset
    for name in ("d", "e"):
        ingest_folder(workspace, name, scenes, scenes / "instances.json", held_out=0.6)
    import_model(workspace, shipped_path(), "cells")
    return workspace


def test_thresholds_of_an_imported_model_are_calibrated_once_on_all_datasets(
    annotated: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(annotated.settings.root)
    found = models("promote", "cells")
    assert found["thresholds"].startswith("Thresholds are calibrated on 4 held-out images")
    card = annotated.catalog.models.get("cells").card
    assert card["thresholds"] == asdict(CHOSEN)
    assert card["scores"][calibrate.CALIBRATED]["recall_50"] == 0.4
    assert card["scores"]["held_out_scenes"]  # the file's own are kept
    assert models("list")["models"][0]["state"] == "current"

    elsewhere = Workspace(load_settings(annotated.settings.root))
    for workspace in (annotated, elsewhere):
        assert workspace.segmenter("cells").thresholds == CHOSEN
    free = {"min_predicted_iou": None, "min_stability": None}  # the settings leave them to the card
    chosen = elsewhere.settings.generator.model_copy(update=free)
    elsewhere.settings = elsewhere.settings.model_copy(update={"generator": chosen})
    assert mask_generator(elsewhere, "cells").thresholds.predicted_iou == 0.5

    monkeypatch.setattr(calibrate, "calibrate", None)  # it would fail
    assert models("promote", "cells")["thresholds"] == found["thresholds"]


def test_a_model_that_was_promoted_before_there_were_masks_is_calibrated_when_promoted_again(
    annotated: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "MIN_MASKS", 10_000)
    first = change_model.promote(annotated, "cells", has_worker=False)
    assert first.thresholds is not None
    assert "unchanged: too few" in first.thresholds
    monkeypatch.setattr(calibrate, "MIN_MASKS", 5)
    again = change_model.promote(annotated, "cells", has_worker=False)
    assert again.replaced is None
    note = annotated.catalog.models.get("cells").card["note"]
    assert again.thresholds == note
    assert "calibrated on 4" in note
    assert annotated.segmenter("cells").thresholds == CHOSEN
