"""`/metrics`: its content, its access rules, and the names that dashboard and alarms use."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from engine.annotation.client import Client
from engine.annotation.schemas import Point
from flows.operations.prometheus import WorkspaceCollector
from flows.page.make_app import make_app
from storage.catalog import CatalogUnavailableError, RunKind, TaskKind
from tests.annotation.site import Site

MONITORING = Path(__file__).parents[2] / "infra" / "monitoring"
HERE = ("127.0.0.1", 50_000)
ELSEWHERE = ("10.1.2.3", 50_000)
TOKEN = "a-token-of-some-length"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def _samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _get(
    site: Site,
    client: tuple[str, int] = HERE,
    headers: dict[str, str] | dict[bytes, bytes] | None = None,
) -> httpx.Response:
    """The answer of `/metrics` to a client at that address."""

    async def ask() -> httpx.Response:
        app = make_app(site.workspace, "127.0.0.1", [])
        transport = httpx.ASGITransport(app, client=client)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as asker:
            return await asker.get("/metrics", headers=headers)

    return asyncio.run(ask())


def _read(site: Site) -> Samples:
    answer = _get(site)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    return _samples(answer.text)


def _with_token(site: Site) -> None:
    operations = site.workspace.settings.operations.model_validate({"metrics_token": TOKEN})
    site.workspace.settings = site.workspace.settings.model_copy(update={"operations": operations})


def test_the_catalogs_rows_are_told(site: Site) -> None:
    site.annotate()
    site.review()
    site.workspace.catalog.quarantine.add(site.dataset_id, "x.jpg", "broken", stage="ingest")
    site.workspace.catalog.shards.plan("made", [site.image_ids])
    shard = site.workspace.catalog.shards.lease("made", "me", 60)
    assert shard is not None
    site.workspace.catalog.shards.commit(
        "made", 0, str(shard.lease_id), masks=9, table_version=1, seconds=2.0
    )
    site.workspace.catalog.runs.spend("made", cpu_seconds=5.0)
    found = _read(site)

    def value(name: str, **labels: str) -> float:
        return found[name, tuple(sorted(labels.items()))]

    assert value("dataengine_up") == 1
    assert value("dataengine_images") == 3
    assert value("dataengine_queue_tasks", kind="annotate", state="open") == 3
    assert value("dataengine_queue_tasks", kind="complete", state="open") == 0
    assert value("dataengine_queue_oldest_seconds", kind="annotate", state="open") > 0
    assert value("dataengine_runs", kind="assisted_manual", state="running") == 1
    assert value("dataengine_quarantined", stage="ingest") == 1
    made = {"stage": "fully_automatic", "model": "lite"}
    assert value("dataengine_masks_total", **made) == 9
    assert value("dataengine_images_done_total", **made) == 3
    assert value("dataengine_spent_seconds_total", of="cpu", **made) == 5.0
    assert value("dataengine_shards", state="committed") == 1
    assert value("dataengine_lease_expiries_total", of="task") == 0
    assert value("dataengine_disk_free_bytes") > 0
    assert value("process_resident_memory_bytes") > 0


def test_clicks_are_timed_and_the_first_of_a_task_apart(site: Site, url: str, ada: Client) -> None:
    site.annotate()
    for clicks in (3, 1):
        task = ada.next_task([TaskKind.ANNOTATE]).task
        assert task is not None
        for _ in range(clicks):
            ada.predict(task, points=[Point(x=100.0, y=80.0, label=1)])
        ada.submit(task, [], seconds=1.0)
    found = _samples(httpx.get(f"{url}/metrics").text)
    assert found["dataengine_click_seconds_count", ()] == 4
    assert found["dataengine_first_click_seconds_count", ()] == 2


def test_others_than_this_machine_need_the_token(site: Site) -> None:
    assert _get(site).status_code == 200
    assert _get(site, ELSEWHERE).status_code == 403
    empty = {"Authorization": "Bearer "}
    assert _get(site, ELSEWHERE, empty).status_code == 403
    _with_token(site)
    for given, status in ((TOKEN, 200), (TOKEN + "x", 403), ("", 403), ("ä", 403)):
        headers = {b"Authorization": f"Bearer {given}".encode()}
        answer = _get(site, ELSEWHERE, headers)
        assert answer.status_code == status, given


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
def test_who_comes_through_a_proxy_on_this_machine_needs_it_too(site: Site, header: str) -> None:
    assert _get(site, headers={header: "10.1.2.3"}).status_code == 403


def test_metrics_answer_while_the_catalog_does_not(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        raise CatalogUnavailableError("gone")

    monkeypatch.setattr(site.workspace.catalog.ledger, "expiries", broken)
    found = _read(site)
    assert found["dataengine_up", ()] == 0
    assert ("dataengine_images", ()) not in found
    assert found["dataengine_click_seconds_count", ()] == 0


def test_two_scrapes_at_once_read_the_catalog_once(site: Site) -> None:
    read = 0
    real: Callable[[], dict[str, int]] = site.workspace.catalog.ledger.expiries

    def counted() -> dict[str, int]:
        nonlocal read
        read += 1
        return real()

    site.workspace.catalog.ledger.expiries = counted  # type: ignore[method-assign]
    collector = WorkspaceCollector(site.workspace)
    list(collector.collect())
    list(collector.collect())
    assert read == 1


# Dashboard and alarms


def _asked(text: str) -> set[str]:
    return set(re.findall(r"\b(?:dataengine|process)_[a-z0-9_]+\b", text))


def test_every_metric_of_dashboard_and_alarms_exists(site: Site) -> None:
    site.start_run("made", RunKind.FULLY_AUTOMATIC)
    text = _get(site).text
    there = set(re.findall(r"^([a-z_]+)(?:\{| )", text, re.MULTILINE))
    there |= {f"{name}" for name in re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)}
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
    expressions += [rule["expr"] for rule in rules]
    assert len(expressions) > 30
    missing = {name for expr in expressions for name in _asked(expr)} - there
    assert missing == set()


def test_every_alarm_has_a_place_in_the_docs() -> None:
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
    told = (MONITORING.parents[1] / "docs" / "maintenance.md").read_text()
    assert [rule["alert"] for rule in rules if f"**{rule['alert']}**" not in told] == []


def test_prometheus_is_told_where_the_page_is() -> None:
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    assert config["rule_files"] == ["alerts.yml"]
    (job,) = config["scrape_configs"]
    assert (job["job_name"], job["metrics_path"]) == ("dataengine", "/metrics")
