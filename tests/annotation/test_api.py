"""The client for scripts and notebooks: the examples of docs/api.md, and what they do not show."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import ValidationError

from engine.annotation import held_task
from engine.annotation.browse_schemas import ChosenMasks
from engine.annotation.client import Client
from engine.annotation.errors import RefusedError
from storage.catalog import TaskKind, TaskState, VerdictKind
from storage.formats.images import read_image
from storage.masks import read_parquet
from storage.trajectories import read_trajectories
from tests.annotation.site import Site
from tests.annotation.test_dashboard import released
from tests.annotation.test_team import refusal

DOC = Path(__file__).parents[2] / "docs" / "api.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
COMPLETE = [TaskKind.COMPLETE]


@pytest.fixture
def token(site: Site, url: str, adam: Client) -> str:
    (mine,) = [one for one in adam.team.view().people if one.is_self]
    return adam.team.make_token(mine.id, "notebook", 1).token


def test_every_example_of_the_docs_runs_as_it_is_written(
    site: Site, url: str, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.annotate()
    site.review()
    released(site, "photos-1")
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(DOC.read_text())
    assert len(blocks) == 5
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        code = block.replace("http://127.0.0.1:8765", url).replace("ode_...", token)
        code = code.replace('"photos"', '"d"')
        exec(compile(code, f"{DOC.name}, example {number + 1}", "exec"), names)  # noqa: S102
    names["client"].close()
    tasks = {task.id: task for task in site.workspace.queue.submitted("annotate")}
    (task,) = tasks.values()
    first, second = read_parquet(site.workspace.objects.get(str(task.result_key)))
    assert {first.annotator, second.annotator} == {"adam"}
    assert first.area > 0 < second.area
    steps = read_trajectories(site.workspace.objects.get(str(task.result.trajectories)))
    assert steps.column("kind").to_pylist() == ["click", "click", "box"]
    assert names["done"].task_id in {t.id for t in site.workspace.queue.submitted("review")}
    assert (tmp_path / "instances.json").read_text() == "instances.json"


def test_pre_filled_masks_are_kept_rejected_or_replaced(site: Site, ada: Client) -> None:
    site.complete()
    task = ada.open_task("d", COMPLETE)
    assert task is not None
    kept, rejected, replaced = task.masks
    assert all(mask.shape == task.size and mask.dtype == bool for mask in task.masks.values())
    task.reject(rejected)
    better = task.masks[replaced].copy()
    better[:8, :8] = True
    task.add(better, replaces=replaced)
    with pytest.raises(KeyError):
        task.reject("none")
    picture = read_image(task._repr_png_())
    assert picture.shape == (*task.size, 3)
    assert not np.array_equal(picture, task.image)
    assert "1 added" in repr(task)
    task.submit(seconds=12)
    (done,) = site.workspace.queue.submitted("complete")
    rows = read_parquet(site.workspace.objects.get(str(done.result_key)))
    areas = sorted(row.area for row in rows)
    assert areas == sorted([int(task.masks[kept].sum()), int(better.sum())])
    assert (done.result.prefilled_kept, done.result.seconds) == (1, 12)


def test_a_review_is_judged_by_masks(site: Site, rita: Client) -> None:
    site.review()
    task = rita.open_task(kinds=[TaskKind.REVIEW])
    assert task is not None
    first, second, third = task.masks
    with pytest.raises(KeyError):
        task.judge({"none": "x"})
    better = task.masks[third] | task.masks[second]
    task.judge({first: "too small"}, fixes={third: better})
    (done,) = site.workspace.queue.submitted("review")
    found = {verdict.mask_id: verdict for verdict in done.result.verdicts}
    assert {key: row.verdict for key, row in found.items()} == {
        first: VerdictKind.REJECT,
        second: VerdictKind.ACCEPT,
        third: VerdictKind.FIX,
    }
    assert found[first].reason == "too small"


@pytest.mark.parametrize(
    "mask",
    [np.zeros((160, 224), bool), np.ones((10, 10), bool), np.ones((160, 224), np.uint8)],
)
def test_an_array_that_is_no_mask_of_the_image_is_refused_before_it_is_sent(
    site: Site, ada: Client, mask: np.ndarray
) -> None:
    site.annotate()
    task = ada.open_task()
    assert task is not None
    with task, pytest.raises(ValueError, match="expected a bool mask"):
        task.add(mask)
    assert task.added == []


def test_a_task_is_given_back_at_the_end_of_its_block_and_kept_by_heartbeats_until_then(
    site: Site, ada: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_task, "BEAT_SECONDS", 0.05)
    site.annotate()
    queue = site.workspace.queue
    with _open(ada) as task:
        before = queue.get(task.view.id).lease_expires_at
        _until(lambda: queue.get(task.view.id).lease_expires_at != before)
    assert queue.get(task.view.id).state == TaskState.OPEN
    with _open(ada) as task:
        task.skip()
    assert queue.get(task.view.id).skips == 1
    _until(lambda: not any("lease of" in thread.name for thread in threading.enumerate()))


def test_the_heartbeats_of_a_task_end_with_its_client(
    site: Site, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_task, "BEAT_SECONDS", 0.05)
    site.annotate()
    with site.client(url, "ada") as client:
        _open(client)  # and never given back
    _until(lambda: not any("lease of" in thread.name for thread in threading.enumerate()))


def _open(client: Client) -> held_task.HeldTask:
    task = client.open_task()
    assert task is not None
    return task


def _until(true: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_events_tell_what_others_do_meanwhile(site: Site, ada: Client, bob: Client) -> None:
    site.annotate()
    events: Iterator[tuple[str, Any]] = ada.events()
    name, queue = next(events)
    assert (name, queue["annotate"]["open"]) == ("queue", 3)
    assert bob.open_task() is not None
    assert next(events)[1]["annotate"]["open"] == 2
    events.close()  # type: ignore[attr-defined]
    with pytest.raises(RefusedError):
        next(Client.events(_signed_out(ada)))
    assert ada.me.name == "ada", "the client works on"


def _signed_out(client: Client) -> Client:
    other = Client.__new__(Client)
    other._http = httpx.Client(base_url=client._http.base_url)
    return other


def test_the_schema_describes_every_route_for_clients_in_other_languages(url: str) -> None:
    schema = httpx.get(f"{url}/api/openapi.json", timeout=60).json()
    for path, methods in schema["paths"].items():
        for method, found in methods.items():
            assert found["description"] or found["summary"], (path, method)
            good = [code for code in found["responses"] if code.startswith("2")]
            assert good, (path, method)


def test_masks_are_found_by_filters_and_sent_to_review(site: Site, rita: Client) -> None:
    site.review()
    found = rita.browse.masks("d", area_max=1e9, superseded="without", limit=2)
    assert (found.total, len(found.masks)) == (9, 2)
    assert rita.browse.images("d", limit=1).total == 3
    assert rita.browse.figures("d", source=["automatic"]).total == 9
    assert [one.name for one in rita.browse.datasets()] == ["d"]
    assert rita.browse.categories("d") == []
    (image_id, mask_id) = found.masks[0].image.id, found.masks[0].mask_id
    assert mask_id in rita.browse.outlines("d", [image_id], [mask_id]).outlines
    assert len(rita.browse.image(image_id).masks) == 3
    with pytest.raises(ValidationError):
        rita.browse.masks("d", no_such_filter=1)
    chosen = ChosenMasks(dataset="d", mask_ids=[mask_id], image_ids=[])
    assert "Nothing was queued" in refusal(lambda: rita.browse.review(chosen)).message
    assert rita.browse.reject(chosen).chosen == 1
    assert "Nothing was queued" in refusal(lambda: rita.browse.review(chosen)).message
