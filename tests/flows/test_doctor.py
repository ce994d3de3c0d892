"""`dataengine doctor` finds faults and gives advice."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from prefect.settings import PREFECT_API_URL
from typer.testing import CliRunner

from engine.sam import Segmenter
from engine.sam.segmenter import Prediction
from flows.cli.main import app
from flows.operations.backup import backup_catalog, restore_catalog
from flows.operations.doctor import check_workspace
from flows.prefect_api import version_check
from flows.prefect_api.client import login
from flows.workspace import progress
from flows.workspace.settings import FILE_NAME
from flows.workspace.workspace import Workspace
from storage.catalog import RunKind, TaskKind, utc_now
from storage.catalog.ledger import Ledger
from storage.catalog.schema import migrating
from storage.local_store import LocalStore
from tests.annotation.site import Site, make_site
from tests.contract.test_masks import a_mask

ALL = {"settings", "catalog", "object store", "mask table", "current model", "prefect"}
ALL |= {"catalog's disk", "generation", "disk", "clock", "versions", "leases", "runs", "quarantine"}
ALL |= {"gold tasks", "consensus"}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return make_site(tmp_path / "ws")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    yield
    progress.use(progress.Silent())


def _root(site: Site) -> Path:
    return site.workspace.settings.root


def _set(site: Site, text: str) -> None:
    (_root(site) / FILE_NAME).write_text(text)


def _checks(site: Site) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in check_workspace(_root(site))}


def _wrong(site: Site) -> dict[str, dict[str, Any]]:
    return {name: check for name, check in _checks(site).items() if not check["ok"]}


def test_a_healthy_workspace_passes_every_check_and_stays_as_it_is(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Prefect's own settings still name the server of other tests in this process.
    monkeypatch.setattr(version_check, "api_url", lambda root: None)
    site.review()
    before = sorted(info.key for info in site.workspace.objects.list())
    found = _checks(site)
    assert set(found) == ALL
    assert {check["level"] for check in found.values()} == {"ok"}, found
    assert found["current model"]["detail"] == "lite on cpu works"
    assert "pull mobile_sam" in found["current model"]["do"]  # lite, on a CPU
    assert found["mask table"]["detail"] == "version 1"
    assert sorted(info.key for info in site.workspace.objects.list()) == before


def test_every_failing_check_says_what_to_do(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    _set(site, "[operations]\nmin_free_gib = 1e9\n")
    store = site.workspace.objects
    assert isinstance(store, LocalStore)
    (store.root / "doctor").write_text("a file stands where probes go")

    def broken(*_: object, **__: object) -> Prediction:
        return Prediction(torch.zeros(1, 3, 4, 4), torch.full((1, 3), float("nan")))

    monkeypatch.setattr(Segmenter, "predict", broken)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(version_check, "api_url", lambda root: "http://127.0.0.1:9/api")
    found = _wrong(site)
    assert set(found) == {"object store", "current model", "prefect", "disk"}
    assert all(check["do"] for check in found.values())
    assert "rollback" in found["current model"]["do"]
    assert "sweep" in found["disk"]["do"]
    assert "dataengine up" in found["prefect"]["do"]


def test_a_catalog_that_is_missing_or_older_is_not_touched(site: Site) -> None:
    new = _root(site) / "new.db"
    _set(site, f'database_url = "sqlite:///{new}"\n')
    assert "init" in _wrong(site)["catalog"]["do"]
    assert not new.exists()
    old = Workspace(site.workspace.settings.model_copy(update={"database_url": f"sqlite:///{new}"}))
    with migrating(old.catalog.engine) as (_, upgrade):
        upgrade("0003")
    assert "backup" in _wrong(site)["catalog"]["do"]
    assert old.catalog.revision() == "0003"


def test_a_catalog_that_is_older_than_the_masks_is_found(site: Site) -> None:
    backup_catalog(site.workspace.settings.catalog_url, _root(site) / "b")
    more = [a_mask(image_id=site.image_ids[-1] + 1, run_id="new", shard=0)]
    site.workspace.masks.commit(more, run_id="new", shard=0)
    restore_catalog(f"sqlite:///{_root(site) / 'new.db'}", _root(site) / "b")
    _set(site, f'database_url = "sqlite:///{_root(site) / "new.db"}"\n')
    assert "newer backup" in _wrong(site)["mask table"]["do"]


def test_a_wrong_setting_is_the_finding(site: Site) -> None:
    _set(site, "device = 5\n")
    (only,) = check_workspace(_root(site))
    assert (only["name"], only["ok"]) == ("settings", False)
    _set(site, 'database_url = "mysql://me:planted@host/x"\n')
    (only,) = check_workspace(_root(site))
    assert "mysql" in only["detail"]
    assert "planted" not in only["detail"]


@pytest.mark.parametrize(("apart", "level"), [(1.0, "ok"), (5.0, "look"), (-660.0, "wrong")])
def test_a_clock_that_is_off_is_found(
    site: Site, monkeypatch: pytest.MonkeyPatch, apart: float, level: str
) -> None:
    def theirs(_: Ledger) -> datetime:
        return utc_now() + timedelta(seconds=apart)

    monkeypatch.setattr(Ledger, "database_time", theirs)
    found = _checks(site)["clock"]
    assert found["level"] == level
    assert f"{apart:+.1f} s" in found["detail"]


def test_leases_that_nobody_takes_over_and_set_aside_files_are_told(site: Site) -> None:
    catalog = site.workspace.catalog
    site.annotate()
    site.start_run("made", RunKind.FULLY_AUTOMATIC)
    catalog.shards.plan("made", [site.image_ids])
    ada = catalog.annotators.get_or_create("ada")
    site.workspace.queue.lease(ada.id, kinds=[TaskKind.ANNOTATE], seconds=0.01)
    catalog.shards.lease("made", "gone", 0.01)
    catalog.quarantine.add(site.dataset_id, "x.jpg", "broken", stage="ingest")
    time.sleep(0.02)
    found = _checks(site)
    assert found["leases"]["level"] == "look"
    assert "1 tasks and 1 shards overdue" in found["leases"]["detail"]
    assert "resume" in found["leases"]["do"]
    assert (found["quarantine"]["level"], found["quarantine"]["detail"]) == ("look", "ingest: 1")


def test_the_prefect_server_is_asked_for_version_and_workers(
    site: Site, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real server, and a worker's heartbeat."""
    url = str(PREFECT_API_URL.value())
    nobodys = httpx.post(f"{url}/work_pools/", json={"name": "dataengine", "type": "process"})
    assert nobodys.status_code == 401  # a later worker would execute what it accepts
    client = httpx.Client(base_url=url, **login(_root(site)))

    def found() -> dict[str, Any]:
        return _checks(site)["prefect"]

    assert "no work pool 'dataengine'" in found()["detail"]
    client.post("/work_pools/", json={"name": "dataengine", "type": "process"})
    assert "no worker" in found()["detail"]
    assert found()["level"] == "look"
    client.post("/work_pools/dataengine/workers/heartbeat", json={"name": "w"})
    assert found()["level"] == "ok"
    assert "1 workers" in found()["detail"]
    monkeypatch.setattr(version_check, "version", lambda name: "3.0.0")
    assert found()["level"] == "wrong"
    assert "prefect==" in found()["do"]
    client.delete("/work_pools/dataengine")


def test_the_command_fails_where_something_is_wrong(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAENGINE_WORKSPACE", str(_root(site)))
    runner = CliRunner()
    result = runner.invoke(app, ["doctor", "--json"])
    assert (result.exit_code, json.loads(result.stdout)["ok"]) == (0, True)
    assert runner.invoke(app, ["doctor"]).exit_code == 0
    _set(site, "[operations]\nmin_free_gib = 1e9\n")
    result = runner.invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "compact" in result.output
