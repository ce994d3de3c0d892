"""Browse over real HTTP: filters, order and pages, histories, commands, and who sees what."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.annotation import browse
from engine.annotation.browse_schemas import PageOf
from engine.annotation.client import Client
from engine.annotation.errors import RefusedError
from engine.core import rle as rle_codec
from engine.core.records import Mask, Source, Stage
from storage.catalog import NewVerdict, RunKind, TaskKind, VerdictKind
from storage.compaction import compact
from tests.annotation.site import Site, make_site, served
from tests.annotation.test_tasks import square

SECRET = "secret"
BEGAN = datetime(2026, 3, 1, 12, tzinfo=UTC)
SCORES = [0.5, 0.75, 0.9, 0.95, None]


def rows(site: Site, run_id: str, count: int, seed: int, **fixed: Any) -> list[Mask]:
    """Masks of all images, different in all that can be filtered and sorted by."""
    rng = random.Random(seed)
    coded = [rle_codec.encode(square(side)) for side in (4, 8, 16, 32)]
    found = []
    for number in range(count):
        rle = rng.choice(coded)
        made = Mask(
            mask_id=f"{run_id}/{number:03d}",
            image_id=rng.choice(site.image_ids[:4]),  # the last ones have no masks
            dataset="d",
            stage=rng.choice([Stage.SEMI_AUTOMATIC, Stage.FULLY_AUTOMATIC]),
            round=rng.randrange(3),
            run_id=run_id,
            shard=0,
            model=rng.choice(["lite", "nuclei-1"]),
            source=rng.choice([Source.AUTOMATIC, Source.PREFILL]),
            annotator=rng.choice([None, "ada", "bob"]),
            rle=rle,
            area=rle_codec.area(rle),
            box_xyxy=rle_codec.box_xyxy(rle),
            predicted_iou=rng.choice(SCORES),
            stability_score=rng.choice(SCORES),
            created_at=BEGAN + timedelta(hours=rng.randrange(200), seconds=number),
        )
        found.append(replace(made, **fixed))
    return found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site of six images, two without masks and one that nearly repeats another, with 60 masks
    of which some are superseded and some judged."""
    site = make_site(tmp_path_factory.mktemp("browse") / "ws", images=6)
    workspace = site.workspace
    site.start_run("made", RunKind.FULLY_AUTOMATIC)
    workspace.masks.commit(rows(site, "made", 50, 1), run_id="made", shard=0)
    old = list(workspace.masks.masks(run_id="made"))[:10]
    newer = [
        replace(new, supersedes=mask.mask_id, image_id=mask.image_id)
        for new, mask in zip(rows(site, "newer", 10, 2), old, strict=True)
    ]
    workspace.masks.commit(newer, run_id="newer", shard=0)
    site.start_run("judged", RunKind.REVIEW)
    site.add_tasks(TaskKind.REVIEW, "judged", [{"mask_ids": []}] * 6)
    tasks = {
        task.image_id: task.id for task in workspace.queue.upcoming(kinds=list(TaskKind), limit=9)
    }
    person = workspace.catalog.annotators.get_or_create("rita", role="reviewer")
    kinds = (VerdictKind.ACCEPT, VerdictKind.REJECT)
    for place, mask in enumerate(workspace.masks.masks(run_id="made")):
        if place % 3:
            workspace.catalog.verdicts.add_many(
                [
                    NewVerdict(
                        mask_id=mask.mask_id,
                        task_id=tasks[mask.image_id],
                        verdict=kinds[place % 3 - 1],
                        annotator_id=person.id,
                        seconds=1.5,
                        reason="too large" if place % 3 == 2 else None,
                    )
                ]
            )
    secret = workspace.catalog.datasets.get_or_create(SECRET)
    workspace.masks.commit(rows(site, "hidden", 5, 3, dataset=SECRET), run_id="hidden", shard=0)
    assert secret.id != site.dataset_id
    return site


@pytest.fixture(scope="module")
def reviewer(shared: Site) -> Iterator[Client]:
    """A reviewer who sees all."""
    with served(shared.workspace) as url, shared.client(url, "rita", "reviewer") as client:
        yield client


def get(client: Client, path: str, **query: Any) -> Any:
    """The answer to a query of dataset `d`; values that are lists are repeated."""
    response = client._http.get(f"/api/browse/{path}", params={"dataset": "d", **query})
    if response.is_error:
        problem = response.json()
        raise RefusedError(response.status_code, problem["error"], problem["message"])
    return response.json()


def refusal(call: Callable[[], object]) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        call()
    return refused.value


def everything(site: Site) -> list[Mask]:
    return list(site.workspace.masks.masks(dataset="d"))


def current(site: Site) -> list[Mask]:
    return list(site.workspace.masks.masks(dataset="d", current_only=True))


def named(page: dict[str, Any]) -> list[str]:
    return [mask["mask_id"] for mask in page["masks"]]


def f4(value: float | None) -> float:
    """A score as the table stores it; NaN where it is unknown."""
    return math.nan if value is None else value


# filters

CASES: dict[str, tuple[dict[str, Any], Callable[[Mask], bool]]] = {
    "none": ({}, lambda m: True),
    "stage": ({"stage": "semi_automatic"}, lambda m: m.stage == Stage.SEMI_AUTOMATIC),
    "rounds": ({"round": [0, 2]}, lambda m: m.round in (0, 2)),
    "a round that is not there": ({"round": 9}, lambda m: False),
    "source": ({"source": "prefill"}, lambda m: m.source == Source.PREFILL),
    "annotators": ({"annotator": ["ada", "eve"]}, lambda m: m.annotator == "ada"),
    "model": ({"model": "nuclei-1"}, lambda m: m.model == "nuclei-1"),
    "score": (
        {"predicted_iou_min": 0.75, "predicted_iou_max": 0.9},
        lambda m: 0.75 <= f4(m.predicted_iou) <= 0.9,
    ),
    "stability": ({"stability_score_max": 0.8}, lambda m: f4(m.stability_score) <= 0.8),
    "area": ({"area_min": 64, "area_max": 256}, lambda m: 64 <= m.area <= 256),
    "time": (
        {"created_at_min": "2026-03-03", "created_at_max": "2026-03-05T06:00:00"},
        lambda m: (
            datetime(2026, 3, 3, tzinfo=UTC) <= m.created_at <= datetime(2026, 3, 5, 6, tzinfo=UTC)
        ),
    ),
    "several": (
        {"stage": "fully_automatic", "model": "lite", "predicted_iou_min": 0.6},
        lambda m: (
            m.stage == Stage.FULLY_AUTOMATIC and m.model == "lite" and f4(m.predicted_iou) >= 0.6
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_filter_lets_the_right_masks_through(shared: Site, reviewer: Client, name: str) -> None:
    query, passes = CASES[name]
    expected = {mask.mask_id for mask in current(shared) if passes(mask)}
    page = get(reviewer, "masks", limit=200, **query)
    assert set(named(page)) == expected
    assert page["total"] == len(expected) == len(page["masks"])
    images = get(reviewer, "images", limit=200, **query)
    found = {image["id"]: image["masks"] for image in images["images"] if image["masks"]}
    assert found == Counter(m.image_id for m in current(shared) if passes(m))
    assert images["total"] == (6 if name == "none" else len(found))


def test_superseded_masks_are_shown_on_demand(shared: Site, reviewer: Client) -> None:
    new = {mask.mask_id for mask in current(shared)}
    old = {mask.mask_id for mask in everything(shared)} - new
    assert len(old) == 10
    found = [
        set(named(get(reviewer, "masks", limit=200, superseded=which)))
        for which in ("without", "only", "with")
    ]
    assert found == [new, old, new | old]


def test_verdicts_are_the_latest_ones_and_new_ones_count_at_once(
    shared: Site, reviewer: Client
) -> None:
    workspace = shared.workspace
    rejected = workspace.catalog.verdicts.rejected_mask_ids(shared.dataset_id)
    page = get(reviewer, "masks", limit=200, verdict="reject", superseded="with")
    assert set(named(page)) == rejected
    mask = page["masks"][0]
    tasks = workspace.catalog.verdicts.on_image(mask["image"]["id"])
    others = {one.task_id for one in tasks}
    shared.start_run("again", RunKind.REVIEW)
    shared.add_tasks(TaskKind.REVIEW, "again", [{"mask_ids": []}] * 6)
    (task,) = (
        task
        for task in workspace.queue.upcoming(kinds=[TaskKind.REVIEW], limit=99)
        if task.run_id == "again" and task.image_id == mask["image"]["id"]
    )
    assert task.id not in others
    rita = workspace.catalog.annotators.find("rita")
    assert rita is not None
    workspace.catalog.verdicts.add_many(
        [
            NewVerdict(
                mask_id=mask["mask_id"],
                task_id=task.id,
                verdict=VerdictKind.ACCEPT,
                annotator_id=rita.id,
                seconds=1.0,
            )
        ]
    )
    page = get(reviewer, "masks", limit=200, verdict=["reject", "none"], superseded="with")
    assert mask["mask_id"] not in named(page)
    assert rejected - {mask["mask_id"]} < set(named(page))


# order and pages


@pytest.mark.parametrize("sort", ["predicted_iou", "stability_score", "area", "created_at"])
@pytest.mark.parametrize("descending", [False, True])
def test_pages_in_any_order_have_each_mask_once(
    shared: Site, reviewer: Client, sort: str, descending: bool
) -> None:
    masks: list[dict[str, Any]] = []
    query: dict[str, Any] = {"sort": sort, "descending": descending, "limit": 7}
    version = None
    while True:
        more = query if version is None else {**query, "version": version}
        page = get(reviewer, "masks", offset=len(masks), **more)
        version = page["version"]
        if not page["masks"]:
            break
        masks += page["masks"]
    assert {mask["mask_id"] for mask in masks} == {mask.mask_id for mask in current(shared)}
    assert len(masks) == page["total"]
    values = [mask[sort] for mask in masks]
    known = [value for value in values if value is not None]
    assert values == sorted(known, reverse=descending) + [None] * (len(values) - len(known))


def test_images_are_sorted_by_the_mask_that_comes_first(shared: Site, reviewer: Client) -> None:
    page = get(reviewer, "images", sort="predicted_iou", superseded="with")
    lowest = dict.fromkeys(shared.image_ids, 2.0)
    for mask in everything(shared):
        lowest[mask.image_id] = min(lowest[mask.image_id], mask.predicted_iou or 2.0)
    found = [lowest[image["id"]] for image in page["images"]]
    assert found == sorted(found)
    assert [image["id"] for image in page["images"]][-2:] == shared.image_ids[4:]


def test_a_pinned_version_stays_as_it_is_while_masks_are_added(
    site: Site, rita: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = site.workspace
    for number, run in enumerate(("a", "b")):
        masks = rows(replace(site, image_ids=site.image_ids * 2), run, 20, number)
        workspace.masks.commit(masks, run_id=run, shard=0)
        page = get(rita, "masks", limit=200)
        assert page["total"] == 20 * (number + 1)
    first = get(rita, "masks", limit=200, version=page["version"] - 1)
    assert {name.partition("/")[0] for name in named(first)} == {"a"}
    compact(workspace.objects)
    packed = get(rita, "masks", limit=200)
    assert packed["version"] > page["version"]
    assert sorted(named(packed)) == sorted(named(page))
    fresh = browse.Browse(workspace.catalog, workspace.masks, workspace.objects)
    asked = PageOf.model_validate({"dataset": "d", "limit": 200})
    again = fresh.masks(site.dataset_id, asked)
    assert sorted(mask.mask_id for mask in again.masks) == sorted(named(page))


def test_an_image_that_is_ingested_later_is_found(
    site: Site, rita: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from storage.catalog import NewImage

    monkeypatch.setattr(browse, "IMAGES_SECONDS", 0.0)
    assert get(rita, "images")["total"] == 3
    images = site.workspace.catalog.images
    first = images.get(site.image_ids[0])
    near = NewImage(
        sha256="f" * 64,
        key="images/near.png",
        file_name="near.png",
        height=160,
        width=224,
        perceptual_hash="0" * 16,
        near_sha256=first.sha256,
    )
    (image_id,) = images.add_many(site.dataset_id, [near]).ids
    site.workspace.masks.commit(
        rows(replace(site, image_ids=[image_id] * 4), "late", 2, 1), run_id="late", shard=0
    )
    for which, expected in (("only", 1), ("without", 3), ("with", 4)):
        assert get(rita, "images", near_duplicates=which)["total"] == expected
        masks = get(rita, "masks", near_duplicates=which)["total"]
        assert masks == (0 if which == "without" else 2)


# figures


def test_a_dataset_without_categories_has_the_histogram_of_their_probability(
    shared: Site, reviewer: Client
) -> None:
    figures = get(reviewer, "figures")
    assert set(figures["histograms"]["probability"]["masks"]) == {0}


def test_counts_and_histograms_respect_all_other_filters(shared: Site, reviewer: Client) -> None:
    query = {"stage": "fully_automatic", "area_min": 64, "predicted_iou_min": 0.8}
    figures = get(reviewer, "figures", **query)

    def masks(*but: str) -> list[Mask]:
        return [
            mask
            for mask in current(shared)
            if ("stage" in but or mask.stage == Stage.FULLY_AUTOMATIC)
            and ("area" in but or mask.area >= 64)
            and ("predicted_iou" in but or f4(mask.predicted_iou) >= 0.8)
        ]

    assert figures["total"] == len(masks())

    def counted(name: str) -> dict[str, int]:
        return {one["value"]: one["masks"] for one in figures["counts"][name]}

    assert counted("stage") == Counter(str(mask.stage) for mask in masks("stage"))
    assert counted("model") == Counter(mask.model for mask in masks())
    assert counted("round") == Counter(str(mask.round) for mask in masks())
    assert counted("annotator") == Counter(m.annotator for m in masks() if m.annotator)
    assert sum(counted("verdict").values()) == len(masks())
    scores = figures["histograms"]["predicted_iou"]
    assert scores["unknown"] == sum(m.predicted_iou is None for m in masks("predicted_iou"))
    for name in ("predicted_iou", "stability_score", "area", "created_at"):
        found = figures["histograms"][name]
        edges = found["edges"]
        assert len(edges) == len(found["masks"]) + 1
        assert edges == sorted(set(edges))
        assert sum(found["masks"]) + found["unknown"] == len(masks(name))
    areas = figures["histograms"]["area"]
    for low, high, number in zip(areas["edges"], areas["edges"][1:], areas["masks"], strict=False):
        assert number == sum(low <= mask.area + 1e-3 < high for mask in masks("area"))


# wrong queries

WRONG: list[dict[str, Any]] = [
    {"stage": "fourth"},
    {"round": -1},
    {"round": 2**40},
    {"round": "one"},
    {"round": list(range(200))},
    {"source": "'; DROP TABLE masks"},
    {"annotator": "a\x00b"},
    {"annotator": ""},
    {"model": "m" * 201},
    {"verdict": "maybe"},
    {"predicted_iou_min": "nan"},
    {"predicted_iou_max": "1e999"},
    {"predicted_iou_min": 0.9, "predicted_iou_max": 0.1},
    {"area_min": "big"},
    {"area_max": -1e300},
    {"created_at_min": "yesterday"},
    {"created_at_max": "12"},
    {"created_at_max": "1.5e9"},
    {"created_at_max": "99999-01-01"},
    {"near_duplicates": "yes"},
    {"superseded": "1"},
    {"sort": "counts"},
    {"descending": "up"},
    {"offset": -1},
    {"offset": 2**31},
    {"limit": 0},
    {"limit": 100_000},
    {"version": -1},
    {"version": 2**63},
    {"kind": "cell"},
    {"dataset": ""},
    {"dataset": "d\x00"},
]


@pytest.mark.parametrize("query", WRONG, ids=str)
def test_a_wrong_query_is_refused_in_words(reviewer: Client, query: dict[str, Any]) -> None:
    for path in ("masks", "images"):
        found = refusal(lambda: get(reviewer, path, **query))  # noqa: B023
        assert (found.status, found.error) == (422, "invalid")
        assert "query" in found.message


def test_dates_at_the_ends_of_time_and_offsets_beyond_the_end_find_nothing(
    reviewer: Client,
) -> None:
    assert get(reviewer, "masks", created_at_min="9999-12-31")["total"] == 0
    assert get(reviewer, "masks", created_at_max="0001-01-01")["total"] == 0
    assert get(reviewer, "masks", area_min=1e18)["total"] == 0
    for sort in ("image", "area"):
        page = get(reviewer, "masks", offset=2**31 - 1, sort=sort)
        assert page["masks"] == []
        assert page["total"] > 0


def test_a_version_that_is_not_there_is_named(reviewer: Client) -> None:
    found = refusal(lambda: get(reviewer, "masks", version=999))
    assert (found.status, found.message) == (404, "The mask table has no version 999.")


def test_a_dataset_without_masks_shows_its_images(rita: Client) -> None:
    assert get(rita, "masks") == {"version": None, "total": 0, "masks": []}
    assert get(rita, "images")["total"] == 3
    figures = get(rita, "figures")
    assert figures["total"] == 0
    assert figures["counts"]["stage"] == []


# one image


def test_outlines_are_those_of_the_masks(shared: Site, reviewer: Client) -> None:
    chosen = current(shared)[:9]
    query = {
        "image_id": [mask.image_id for mask in chosen],
        "mask_id": [mask.mask_id for mask in chosen],
    }
    found = get(reviewer, "outlines", **query)["outlines"]
    assert {name: rle["counts"] for name, rle in found.items()} == {
        mask.mask_id: mask.rle.counts.decode() for mask in chosen
    }
    foreign = {"image_id": shared.image_ids, "mask_id": [f"hidden/{n:03d}" for n in range(5)]}
    assert get(reviewer, "outlines", **foreign) == {"outlines": {}}
    assert refusal(lambda: get(reviewer, "outlines", image_id=1, mask_id=["m"] * 25)).status == 422


# rights


def send(client: Client, path: str, **body: Any) -> Any:
    return client._send("POST", f"/api/browse/{path}", {"dataset": "d", **body}).json()


def test_an_annotator_sees_nothing_of_others(shared: Site, reviewer: Client) -> None:
    url = str(reviewer._http.base_url)
    with shared.client(url, "ada") as ada:
        for path in ("datasets", "masks", "images", "figures", f"images/{shared.image_ids[0]}"):
            assert refusal(lambda: get(ada, path)).error == "role"  # noqa: B023
        for path in ("review", "reject"):
            assert refusal(lambda: send(ada, path, mask_ids=["made/000"])).error == "role"  # noqa: B023


def test_a_dataset_of_others_is_as_one_that_is_not_there(shared: Site, reviewer: Client) -> None:
    url = str(reviewer._http.base_url)
    catalog = shared.workspace.catalog
    with shared.client(url, "rob", "reviewer") as rob:
        person = catalog.annotators.find("rob")
        assert person is not None
        catalog.annotators.set_datasets(person.id, [catalog.datasets.get(SECRET).id])
        assert [one["name"] for one in get(rob, "datasets")] == [SECRET]
        theirs = {"image_id": shared.image_ids[0], "mask_id": "made/000"}
        for path, query in (("masks", {}), ("images", {}), ("figures", {}), ("outlines", theirs)):
            for name in ("d", "nowhere"):
                found = refusal(lambda: get(rob, path, **query | {"dataset": name}))  # noqa: B023
                assert (found.status, found.message) == (404, f"You have no dataset {name!r}.")
        for image_id in (shared.image_ids[0], 2**40):
            for path in (f"images/{image_id}", f"images/{image_id}/thumbnail"):
                found = refusal(lambda: get(rob, path))  # noqa: B023
                assert (found.status, found.message) == (404, f"You have no image {image_id}.")
        for path, chosen in (
            ("review", {"mask_ids": ["made/000"]}),
            ("reject", {"mask_ids": ["made/000"]}),
            ("annotate", {"image_ids": shared.image_ids[:1]}),
        ):
            assert refusal(lambda: send(rob, path, **chosen)).status == 404  # noqa: B023
        own = {"dataset": SECRET, "image_ids": shared.image_ids[:1]}
        assert refusal(lambda: send(rob, "annotate", **own)).status == 404
