"""Releases: chosen by rules, frozen, listed, checked file by file, and compared."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import DatasetCard
from typer.testing import CliRunner

from engine.core import rle as rle_codec
from engine.core.records import Mask, Source, Stage
from flows.cli.main import app
from flows.release import build
from flows.release import release as module
from flows.release.export import export_release
from flows.release.freeze import needed_files
from flows.release.release import NothingToReleaseError
from flows.release.rules import Options, Rules, RulesError
from flows.release.selection import MaskSizeError
from flows.workspace import progress
from storage.catalog import AlreadyExistsError, NewImage, ReleaseState, RunKind
from storage.objects import ObjectStore
from storage.outputs import OutputExistsError
from storage.release_files import Manifest, ReleaseFileError, tree_sum
from tests.annotation.site import Site, make_site


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    yield
    progress.use(progress.Silent())


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch, whole: Site) -> None:
    """Reports of all releases but the first are not drawn, which takes a second each."""
    monkeypatch.setattr(build, "write_report", lambda w, d, s, path: path.write_text("report"))


def made(site: Site, name: str, **rules: Any) -> dict[str, Any]:
    """A release of dataset `d`; the card."""
    options = Options(rules=Rules(**rules)).as_json() if rules else None
    root = str(site.workspace.settings.root)
    card: dict[str, Any] = module.release.fn(root, "d", name, options)
    return card


def run(*arguments: str, code: int = 0) -> Any:
    """The JSON that a command prints."""
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def masks_of(site: Site, name: str) -> list[str]:
    """The ids of a release's masks, in its order."""
    files = needed_files(site.workspace, site.workspace.catalog.releases.get(name))
    return [one for batch in files.batches(["mask_id"]) for one in batch.column(0).to_pylist()]


def commit(site: Site, masks: list[Mask], run_id: str) -> None:
    site.workspace.masks.commit(masks, run_id=run_id, shard=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Three images; the first has a person's mask, all have automatic ones with scores from .5.
    Release `d-1` has all of them."""
    site = make_site(tmp_path_factory.mktemp("releases") / "ws")
    site.start_run("people", RunKind.ASSISTED_MANUAL)
    (drawn,) = site.mask_rows(0, "people", Source.ANNOTATOR, Stage.ASSISTED_MANUAL, limit=1)
    commit(site, [replace(drawn, predicted_iou=None)], "people")
    site.start_run("made", RunKind.FULLY_AUTOMATIC)
    rows = [
        replace(row, predicted_iou=0.5 + n / 10, stability_score=0.8 + n / 20)
        for number in range(3)
        for n, row in enumerate(
            site.mask_rows(number, "made", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC)
        )
    ]
    commit(site, rows, "made")
    made(site, "d-1")
    return site


@pytest.fixture
def site(whole: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The shared workspace, for tests that add releases of their own names only."""
    monkeypatch.setenv("DATAENGINE_WORKSPACE", str(whole.workspace.settings.root))
    return whole


def test_a_release_lists_its_files_with_sums_that_its_card_repeats(site: Site) -> None:
    release = site.workspace.catalog.releases.get("d-1")
    store, card = site.workspace.objects, release.card
    data = store.get(f"{release.key}/manifest.json")
    assert hashlib.sha256(data).hexdigest() == card["manifest_sha256"]
    manifest = Manifest.from_json(data, "manifest")
    stored = {info.key.rpartition("/")[2] for info in store.list(f"{release.key}/")}
    assert {one.name for one in manifest.files} == stored - {"manifest.json"}
    for one in manifest.files:
        content = store.get(f"{release.key}/{one.name}")
        assert (one.bytes, one.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    lines = "".join(f"{one.sha256}  {one.name}\n" for one in manifest.files)
    assert (
        manifest.tree_sha256
        == tree_sum(manifest.files)
        == hashlib.sha256(lines.encode()).hexdigest()
    )
    assert manifest.table_version == release.table_version
    assert manifest.models["lite"]["architecture"] == "lite"
    assert manifest.rules == Rules().as_json()


def test_masks_lie_sorted_by_image_with_people_s_masks_first(site: Site) -> None:
    files = needed_files(site.workspace, site.workspace.catalog.releases.get("d-1"))
    (name,) = files.mask_files
    rows = pq.read_table(files.path(name))
    ids = rows.column("image_id").to_pylist()
    assert ids == sorted(ids)
    assert rows.column("source").to_pylist()[0] == "annotator"
    # the automatic mask of the same shape repeats the person's
    first = site.image_ids[0]
    assert f"made/{first}/0" not in masks_of(site, "d-1")
    assert len(masks_of(site, "d-1")) == 9
    images = files.images()
    assert images.column("masks").to_pylist() == [3, 3, 3]
    assert images.column("status").to_pylist() == ["annotated", "generated", "generated"]


@pytest.mark.parametrize(
    ("name", "rules", "masks"),
    [
        ("iou", {"min_predicted_iou": 0.6}, 7),  # the person's mask has no score and stays
        ("stability", {"min_stability": 0.9}, 4),
        ("people", {"stages": ("assisted_manual",)}, 1),
        ("all", {"repeated_iou": 1.0}, 9),
    ],
)
def test_rules_choose_the_masks(site: Site, name: str, rules: dict[str, Any], masks: int) -> None:
    card = made(site, name, **rules)
    assert card["masks"] == len(masks_of(site, name)) == masks
    assert site.workspace.catalog.releases.get(name).card["options"]["rules"] == (
        Rules(**rules).as_json()
    )


def test_rules_that_cannot_hold_are_refused_before_anything_is_begun(site: Site) -> None:
    for wrong in (
        {"min_predicted_iou": 1.5},
        {"stages": ("stage4",)},
        {"verdicts": "maybe"},
        {"repeated_iou": 0.0},
    ):
        with pytest.raises(RulesError):
            Rules(**wrong)
    with pytest.raises(RulesError, match="no categories"):
        made(site, "labelled", labelled_only=True)
    with pytest.raises(RulesError, match="no verifier is current"):
        made(site, "sure", min_accept_probability=0.9)
    with pytest.raises(NothingToReleaseError, match="accept no mask"):
        made(site, "strict", min_predicted_iou=1.0, stages=("fully_automatic",))
    failed = site.workspace.catalog.releases.get("strict")
    assert failed.state == ReleaseState.FAILED
    assert list(site.workspace.objects.list(f"{failed.key}/")) == []
    assert made(site, "strict", min_predicted_iou=0.7)["masks"] == 4  # the name is free again


def test_a_finished_release_is_not_made_again_with_other_rules(site: Site) -> None:
    assert made(site, "d-1")["masks"] == 9
    with pytest.raises(RulesError, match="choose another name"):
        made(site, "d-1", min_predicted_iou=0.7)
    other = site.workspace.catalog.datasets.get_or_create("other")
    with pytest.raises(AlreadyExistsError):
        site.workspace.catalog.releases.start(
            "d-1", dataset_id=other.id, table_version=1, key="releases/d-1"
        )


def test_the_card_has_a_head_that_hugging_face_reads(site: Site) -> None:
    release = site.workspace.catalog.releases.get("d-1")
    text = site.workspace.objects.get(f"{release.key}/README.md").decode()
    head = yaml.safe_load(text.split("---")[1])
    assert head["size_categories"] == ["n<1K"]
    assert head["annotations_creators"] == ["machine-generated", "crowdsourced"]
    card = DatasetCard(text)
    known = card.data.to_dict()  # type: ignore[no-untyped-call]
    assert known["license"] == "unknown"
    assert known["configs"][0]["data_files"] == "masks-*.parquet"
    assert "9 masks on 3 images" in card.text


def test_an_export_of_a_release_is_that_of_its_files_whatever_happens_later(
    site: Site, tmp_path: Path
) -> None:
    release = site.workspace.catalog.releases.get("d-1")
    counts = export_release(site.workspace, release, tmp_path, "coco")
    content = json.loads((tmp_path / "instances.json").read_text())
    assert [row["mask_id"] for row in content["annotations"]] == masks_of(site, "d-1")
    stored = site.workspace.objects.get(f"{release.key}/instances.json")
    assert (tmp_path / "instances.json").read_bytes() == stored
    assert counts["masks"] == 9


def test_list_and_show_describe_releases(site: Site) -> None:
    rows = {row["name"]: row for row in run("release", "list", "--dataset", "d")["releases"]}
    assert rows["d-1"]["state"] == "done"
    assert (rows["d-1"]["masks"], rows["d-1"]["images"]) == (9, 3)
    shown = run("release", "show", "d-1")
    assert shown["manifest"]["tree_sha256"] == shown["card"]["tree_sha256"]
    told = CliRunner().invoke(app, ["release", "show", "d-1"], catch_exceptions=False).stdout
    assert "masks-00000.parquet" in told
    unknown = CliRunner().invoke(app, ["release", "show", "none"])
    assert "no release 'none'" in str(unknown.exception)


def _parquet_with(data: bytes, change: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(change(pq.read_table(pa.BufferReader(data))), sink)
    return bytes(sink.getvalue())


def _bent(rows: pa.Table) -> pa.Table:
    """Rows whose first mask has one pixel more than its column says."""
    place = rows.schema.get_field_index("area")
    areas = rows.column("area").to_pylist()
    return rows.set_column(place, rows.schema.field(place), [[areas[0] - 1, *areas[1:]]])


def _refit(store: ObjectStore, key: str, name: str, data: bytes) -> str:
    """Replace a file, and the manifest so that it fits; returns the manifest's sum."""
    manifest = json.loads(store.get(f"{key}/manifest.json"))
    for one in manifest["files"]:
        if one["name"] == name:
            one |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    lines = "".join(f"{one['sha256']}  {one['name']}\n" for one in manifest["files"])
    manifest["tree_sha256"] = hashlib.sha256(lines.encode()).hexdigest()
    for file, content in ((name, data), ("manifest.json", json.dumps(manifest).encode())):
        store.delete(f"{key}/{file}")
        store.put(f"{key}/{file}", content)
    return hashlib.sha256(store.get(f"{key}/manifest.json")).hexdigest()


def test_verify_names_the_bad_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    made(site, "checked")
    release = site.workspace.catalog.releases.get("checked")
    store, key = site.workspace.objects, release.key
    assert run("release", "verify", "checked")["ok"]
    masks, coco = f"{key}/masks-00000.parquet", f"{key}/instances.json"
    whole, plain = store.get(masks), store.get(coco)

    def problems() -> list[tuple[str, str]]:
        found = run("release", "verify", "checked", code=1)
        assert not found["ok"]
        return [(one["file"], one["problem"]) for one in found["problems"]]

    for damaged, told in ((whole[:-1], "bytes"), (whole[:-9] + bytes(9), "SHA-256")):
        store.delete(masks)
        store.put(masks, damaged)
        ((file, problem),) = problems()
        assert file == "masks-00000.parquet"
        assert told in problem
    store.delete(masks)
    store.put(masks, whole)
    store.delete(coco)
    assert problems() == [("instances.json", "it is missing")]
    store.put(coco, plain)
    assert run("release", "verify", "checked")["ok"]
    for change, told in (
        (_bent, "pixels, its column says"),
        (lambda rows: rows.drop_columns("counts"), "no column 'counts'"),
        (lambda rows: rows.slice(0, 8), "rows"),
        (lambda rows: rows.take(pa.array(range(8, -1, -1))), "not sorted"),
    ):
        total = _refit(store, key, "masks-00000.parquet", _parquet_with(whole, change))
        assert any("was changed" in problem for _, problem in problems())
        with monkeypatch.context() as patched:
            patched.setitem(release.card, "manifest_sha256", total)
            patched.setattr(type(site.workspace.catalog.releases), "get", lambda s, name: release)
            found = [problem for problem in problems() if problem[0] == "masks-00000.parquet"]
        assert told in found[0][1]


def test_a_release_without_a_manifest_says_what_to_do(site: Site) -> None:
    releases = site.workspace.catalog.releases
    releases.start("old", dataset_id=site.dataset_id, table_version=1, key="releases/old")
    result = CliRunner().invoke(app, ["release", "verify", "old"])
    assert isinstance(result.exception, ReleaseFileError)
    assert "is building" in str(result.exception)
    releases.finish("old", {"name": "old", "masks": 9})
    result = CliRunner().invoke(app, ["release", "verify", "old"])
    assert "before manifests" in str(result.exception)


def test_a_full_disk_leaves_no_release_and_names_the_file(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = type(site.workspace.objects)
    real = store.put_file

    def full(self: Any, key: str, path: Path) -> None:
        if key.endswith("sa1b.tar"):
            raise OSError(28, "No space left on device", str(path))
        real(self, key, path)

    monkeypatch.setattr(store, "put_file", full)
    with pytest.raises(OSError, match=r"sa1b\.tar"):
        made(site, "full")
    monkeypatch.undo()
    failed = site.workspace.catalog.releases.get("full")
    assert failed.state == ReleaseState.FAILED
    keys = [info.key for info in site.workspace.objects.list(f"{failed.key}/")]
    assert not any(key.endswith("manifest.json") for key in keys)
    assert made(site, "full")["masks"] == 9


def test_a_mask_of_another_size_than_its_image_is_named(site: Site) -> None:
    dataset = site.workspace.catalog.datasets.get_or_create("sizes")
    row = NewImage(sha256="e" * 64, key="images/0.png", file_name="s.png", height=99, width=77)
    (image,) = site.workspace.catalog.images.add_many(dataset.id, [row]).ids
    (mask,) = site.mask_rows(0, "sizes", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC, limit=1)
    mask = replace(mask, image_id=image, dataset="sizes", mask_id=f"sizes/{image}/0")
    commit(site, [mask], "sizes")
    with pytest.raises(MaskSizeError, match=rf"sizes/{image}/0 is 160 x 224 .* is 99 x 77"):
        module.release.fn(str(site.workspace.settings.root), "sizes", "s-1", None)
    assert site.workspace.catalog.releases.get("s-1").state == ReleaseState.FAILED


# Two releases


def test_diff_counts_masks_that_came_went_and_changed(site: Site) -> None:
    made(site, "before", stages=("fully_automatic",))
    _, second, third = site.image_ids
    site.start_run("fix", RunKind.REVIEW)
    rows = site.mask_rows(1, "fix", Source.ANNOTATOR, Stage.FULLY_AUTOMATIC, limit=1)
    shape = rle_codec.decode(rows[0].rle)
    _, top, _, bottom = rows[0].box_xyxy
    shape[: (top + bottom) // 2] = False  # less than half of it may be left
    coded = rle_codec.encode(shape)
    box, area = rle_codec.box_xyxy(coded), rle_codec.area(coded)
    fix = replace(
        rows[0], rle=coded, area=area, box_xyxy=box, supersedes=f"made/{second}/0", mask_id="fix"
    )
    again = replace(
        site.mask_rows(2, "fix", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC)[0], mask_id="again"
    )
    gone = replace(again, mask_id="gone", area=0, supersedes=f"made/{third}/0",
                   rle=rle_codec.empty(again.rle.size), box_xyxy=(0, 0, 0, 0))  # fmt: skip
    commit(site, [fix, gone, again], "fix")
    made(site, "after", stages=("fully_automatic",))
    found = run("release", "diff", "before", "after")
    assert found["images"] == {"both": 3, "added": 0, "removed": 0}
    assert found["masks"] == {
        **{"unchanged": 7, "added": 0, "removed": 0, "changed": 2, "relabelled": 0},
    }
    old = site.mask_rows(1, "x", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC, limit=1)[0]
    iou = float(rle_codec.iou_matrix([old.rle], [coded])[0, 0])
    assert found["iou"]["mean"] == pytest.approx((iou + 1) / 2)
    assert sum(found["iou"]["counts"]) == 2
    assert found["iou"]["counts"][-1] == 1
    groups = {(row["stage"], row["source"]): row for row in found["groups"]}
    assert groups["fully_automatic", "annotator"]["changed"] == 1
    back = run("release", "diff", "after", "before")["masks"]
    # backwards nothing supersedes, so that the cut mask is another one if it lost half
    assert (back["unchanged"], back["changed"] + back["added"]) == (7, 2)
    same = run("release", "diff", "before", "before")["masks"]
    assert (same["unchanged"], same["changed"]) == (9, 0)


def test_diff_refuses_releases_of_different_datasets(site: Site) -> None:
    other = site.workspace.catalog.datasets.get_or_create("other")
    site.workspace.catalog.releases.start(
        "o-1", dataset_id=other.id, table_version=1, key="releases/o-1"
    )
    result = CliRunner().invoke(app, ["release", "diff", "d-1", "o-1"])
    assert "different datasets" in str(result.exception)


# The description


def test_stats_describe_a_release_beside_sa_1b(site: Site, tmp_path: Path) -> None:
    found = run("stats", "d-1")
    assert (found["masks"], found["images"]) == (9, 3)
    assert (found["per_image"]["mean"], found["per_image"]["counts"][0]) == (3.0, 3)
    assert {(row["source"], row["masks"]) for row in found["provenance"]} == {
        ("annotator", 1),
        ("automatic", 8),
    }
    assert sum(map(sum, found["centres"])) == sum(found["size"]["counts"]) == 9
    assert found["sa_1b"]["masks_per_image"] == 100
    assert any("SA-1B has about 100" in line for line in found["findings"])
    assert any(line.startswith("No audit") for line in found["thin"])
    assert any(line.startswith("Small: 9 masks on 3 images") for line in found["thin"])
    out = tmp_path / "report.html"
    told = CliRunner().invoke(app, ["stats", "d-1", "--out", str(out)], catch_exceptions=False)
    assert "beside SA-1B" in told.stdout
    page = out.read_text()
    for title in ("Masks per image", "Relative mask size", "Concavity by size", "What is thin"):
        assert title in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    out.write_text("mine")
    refused = CliRunner().invoke(app, ["stats", "d-1", "--out", str(out)])
    assert isinstance(refused.exception, OutputExistsError)
    assert out.read_text() == "mine"


def test_the_card_shows_figures_that_lie_beside_it(site: Site) -> None:
    release = site.workspace.catalog.releases.get("d-1")
    store = site.workspace.objects
    text = store.get(f"{release.key}/README.md").decode()
    shown = re.findall(r"!\[[^\]]+\]\((figure-[\w-]+\.png)\)", text)
    assert len(shown) == 6
    for name in shown:
        assert store.get(f"{release.key}/{name}").startswith(b"\x89PNG")
    assert "- Small: 9 masks on 3 images." in text


def test_a_release_names_no_person(site: Site) -> None:
    people = site.workspace.catalog.annotators.get_or_create("Ada Lovelace")
    drawn = site.mask_rows(2, "ada", Source.ANNOTATOR, Stage.SEMI_AUTOMATIC, limit=1)
    commit(site, [replace(drawn[0], annotator="Ada Lovelace", mask_id="hers")], "ada")
    made(site, "hers", stages=("semi_automatic",))
    release = site.workspace.catalog.releases.get("hers")
    rows = pq.read_table(needed_files(site.workspace, release).path("masks-00000.parquet"))
    assert rows.column("annotator").to_pylist() == [f"annotator-{people.id}"]
    for info in site.workspace.objects.list(f"{release.key}/"):
        assert b"Lovelace" not in site.workspace.objects.get(info.key)
