"""Every format of exports: what was exported is read back by the real readers and by our imports,
and what a format cannot show is counted."""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pyarrow import fs
from pycocotools.coco import COCO

from engine.core import rle as rle_codec
from engine.core.rle import RLE
from engine.data import MaskDataset
from flows.data.annotations import AnnotationsAs
from flows.data.ingest import ingest_folder
from flows.release.export import ExportError, ExportOptions, export_release
from flows.release.splits import SplitPlan, SplitsError
from flows.workspace.workspace import Workspace
from storage.catalog import Release, ReleaseState
from storage.formats.annotation_files import AnnotationFormat
from storage.formats.images import write_png
from storage.outputs import OutputExistsError
from storage.s3_store import S3Store
from tests.contract.conftest import s3  # noqa: F401
from tests.flows.conftest import make_workspace
from tests.flows.test_label_export import begin
from tests.services import S3Server

SIZE = (40, 60)
Shapes = dict[str, dict[bytes, str]]
"""By image name and run lengths, the category."""


def shape(number: int) -> np.ndarray:
    """A block with a hole, two blocks, a disc, or a pixel."""
    pixels = np.zeros(SIZE, bool)
    if number == 0:
        pixels[4:20, 5:25] = True
        pixels[8:12, 10:15] = False
    elif number == 1:
        pixels[2:8, 40:50] = pixels[20:30, 30:38] = True
    elif number == 2:
        cv2.circle(view := pixels.astype(np.uint8), (20, 25), 9, 1, -1)
        pixels = view.astype(bool)
    else:
        pixels[35, 50] = True
    return pixels


def write_dataset(folder: Path, count: int = 6) -> Path:
    """Images in two folders, each with four masks, of categories and one of none."""
    rng = np.random.default_rng(1)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        name = f"{'north' if number % 2 else 'söuth'}/{number}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 255, (8, 8, 3), np.uint8)
        (folder / name).write_bytes(write_png(cv2.resize(noise, SIZE[::-1])))
        images.append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        for kind in range(4):
            rle = rle_codec.encode(np.roll(shape(kind), number, axis=1))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": (1, 2, 2, None)[kind],
                    "segmentation": rle.as_json(),
                }
            )
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": 'dog "&" <hound>'}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def site(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Release]:
    workspace = make_workspace(tmp_path_factory.mktemp("site"))
    _ingest(workspace, folder, folder / "instances.json", AnnotationFormat.COCO)
    return workspace, begin(workspace, workspace.catalog.datasets.get("d"))


@pytest.fixture(scope="module")
def true(site: tuple[Workspace, Release]) -> Shapes:
    return shapes_of(site[0])


def _ingest(workspace: Workspace, folder: Path, path: Path, form: AnnotationFormat) -> Any:
    return ingest_folder(
        workspace, "d", folder, path, held_out=0.3, annotations_as=AnnotationsAs.MASKS, form=form
    )


def shapes_of(workspace: Workspace) -> Shapes:
    dataset = workspace.catalog.datasets.get("d")
    names = {image.id: image.file_name for image in workspace.catalog.images.each(dataset.id)}
    listed = workspace.catalog.categories.current(dataset.id).categories.names
    labels = workspace.catalog.labels.of_images(list(names))
    found: Shapes = {name: {} for name in names.values()}
    for mask in workspace.masks.masks(current_only=True):
        label = labels.get(mask.mask_id)
        number = label.category_id if label else None
        found[names[mask.image_id]][mask.rle.counts] = listed.get(number, "") if number else ""
    return found


def exported(
    site: tuple[Workspace, Release], out: Path | str, style: str, **options: Any
) -> dict[str, Any]:
    return export_release(*site, out, style, ExportOptions(**options))


def imported(folder: Path, path: Path, root: Path) -> tuple[Shapes, Any]:
    """What an ingest into a new workspace reads, by detecting the format."""
    workspace = make_workspace(root)
    report = _ingest(workspace, folder, path, AnnotationFormat.AUTO)
    return shapes_of(workspace), report


LOSSLESS = [
    ("coco", "instances.json", {}),
    ("lvis", "lvis.json", {}),
    ("sa1b", ".", {}),
    ("sa1b", "sa_000000.tar", {"tars": True}),
    ("cvat", "annotations.xml", {}),
    ("label-studio", "tasks.json", {}),
]


@pytest.mark.parametrize(("style", "path", "options"), LOSSLESS)
def test_an_export_that_is_imported_gives_the_same_masks_and_categories(
    site: tuple[Workspace, Release],
    folder: Path,
    true: Shapes,
    tmp_path: Path,
    style: str,
    path: str,
    options: dict[str, Any],
) -> None:
    counts = exported(site, tmp_path / "out", style, **options)
    found, report = imported(folder, tmp_path / "out" / path, tmp_path / "ws")
    expected = true
    if style == "lvis":  # which has no masks without a category
        assert counts["lvis"]["without_category"] == 6
        expected = {name: {k: v for k, v in held.items() if v} for name, held in true.items()}
    assert found == expected
    assert not report.problems


def test_yolos_polygons_lose_holes_and_pieces_and_both_are_counted(
    site: tuple[Workspace, Release], folder: Path, true: Shapes, tmp_path: Path
) -> None:
    counts = exported(site, tmp_path / "out", "yolo")["yolo"]
    assert [counts[n] for n in ("lost_holes", "lost_pieces", "without_category")] == [6, 6, 6]
    found, _ = imported(folder, tmp_path / "out" / "data.yaml", tmp_path / "ws")
    for name, held in true.items():
        discs = {counts for counts, label in held.items() if _pieces(counts) == (1, 0) and label}
        assert len(discs) == 1
        assert discs <= found[name].keys()
        assert sorted(found[name].values()) == sorted(label for label in held.values() if label)


def _pieces(counts: bytes) -> tuple[int, int]:
    pixels = rle_codec.decode(RLE(SIZE, counts)).astype(np.uint8)
    outer, _ = cv2.connectedComponents(pixels)
    inner, _ = cv2.connectedComponents(np.pad(1 - pixels, 1, constant_values=1))
    return outer - 1, inner - 2


def test_label_images_have_a_number_for_each_object_and_say_what_is_hidden(
    site: tuple[Workspace, Release], folder: Path, true: Shapes, tmp_path: Path
) -> None:
    counts = exported(site, tmp_path / "out", "label-png")["label-png"]
    with (tmp_path / "out" / "objects.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    labels = cv2.imread(str(tmp_path / "out" / rows[0]["file"]), cv2.IMREAD_UNCHANGED)
    assert labels is not None
    assert labels.dtype == np.uint16
    assert labels.shape == SIZE
    found, _ = imported(folder, tmp_path / "out", tmp_path / "ws")
    hidden = 0
    for name, held in true.items():
        for mine in held.keys() - found[name].keys():
            hidden += rle_codec.area(RLE(SIZE, mine))
        for other in found[name].keys() - held.keys():
            hidden -= rle_codec.area(RLE(SIZE, other))
    assert hidden == counts["hidden_pixels"] > 0


def test_polygons_of_coco_fill_holes_and_nothing_else(
    site: tuple[Workspace, Release], folder: Path, true: Shapes, tmp_path: Path
) -> None:
    counts = exported(site, tmp_path / "out", "coco", polygons=True)
    assert counts["coco"]["lost_holes"] == 6
    coco = COCO(str(tmp_path / "out" / "instances.json"))
    names = {image["id"]: image["file_name"] for image in coco.dataset["images"]}
    for annotation in coco.dataset["annotations"]:
        pixels = coco.annToMask(annotation).astype(bool)
        held = true[names[annotation["image_id"]]]
        if rle_codec.encode(pixels).counts not in held:
            assert any(
                (rle_codec.decode(RLE(SIZE, one)) <= pixels).all() and pixels.sum() - 20 == area
                for one in held
                if (area := rle_codec.area(RLE(SIZE, one))) == 300
            )


@pytest.mark.release_test
def test_hugging_faces_datasets_reads_the_parquet_export(
    site: tuple[Workspace, Release], true: Shapes, tmp_path: Path
) -> None:
    import datasets

    exported(site, tmp_path / "out", "parquet", shard_images=2)
    cache = str(tmp_path / "cache")
    found = datasets.load_dataset(str(tmp_path / "out"), cache_dir=cache)
    assert sum(map(len, found.values())) == 6
    for split in found.values():
        names = split.features["objects"]["category"].feature.names
        assert names == ["cat", 'dog "&" <hound>']
        for row in split:
            assert row["image"].size == SIZE[::-1]
            objects = row["objects"]
            read = {
                counts.encode(): names[place] if place >= 0 else ""
                for counts, place in zip(objects["counts"], objects["category"], strict=True)
            }
            assert read == true[row["file_name"]]


def test_the_tars_of_webdataset_are_read_by_it(
    site: tuple[Workspace, Release], tmp_path: Path
) -> None:
    import webdataset

    counts = exported(site, tmp_path / "out", "webdataset", shard_images=3)
    files = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    found = list(webdataset.WebDataset(files, shardshuffle=False).decode("rgb8"))
    assert len(found) == counts["images"] == 6
    for sample in found:
        assert sample["png"].shape == (*SIZE, 3)
        assert len(sample["json"]["annotations"]) == 4


def test_splits_are_by_content_and_kept_and_held_out_images_are_never_trained_on(
    site: tuple[Workspace, Release], tmp_path: Path
) -> None:
    workspace, begun = site
    plan = SplitPlan.parse("0.5,0.25,0.25")
    counts = exported(site, tmp_path / "a", "coco", splits=plan)
    names: dict[str, set[str]] = {}
    for split, number in counts["splits"].items():
        content = json.loads((tmp_path / "a" / f"instances_{split}.json").read_text())
        names[split] = {image["file_name"] for image in content["images"]}
        assert len(names[split]) == number
    held = {
        image.file_name
        for image in workspace.catalog.images.each(begun.dataset_id)
        if image.split == "held_out"
    }
    assert held
    assert not held & names["train"]
    again = exported(site, tmp_path / "b", "sa1b", splits=plan)
    assert again["splits"] == counts["splits"]
    by_folder = SplitPlan.parse("0.5,0.25,0.25", by="folder")
    exported(site, tmp_path / "c", "label-png", splits=by_folder)
    together: dict[str, set[str]] = {}
    for path in (tmp_path / "c").glob("*/objects.csv"):
        with path.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["file_name"] not in held:
                    together.setdefault(row["file_name"].split("/")[0], set()).add(path.parent.name)
    assert all(len(splits) == 1 for splits in together.values())
    for bad in ("0.5,0.5", "1,1,-1", "a,b,c"):
        with pytest.raises(SplitsError, match="expected shares"):
            SplitPlan.parse(bad)


def test_a_finished_release_keeps_its_first_splits(folder: Path, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    _ingest(workspace, folder, folder / "instances.json", AnnotationFormat.COCO)
    begun = begin(workspace, workspace.catalog.datasets.get("d"))
    done = workspace.catalog.releases.finish(begun.name, {}, key=f"{begun.key}/1")
    assert done.state == ReleaseState.DONE
    first = exported((workspace, done), tmp_path / "a", "coco", splits=SplitPlan((0.5, 0.5, 0)))
    with pytest.raises(SplitsError, match=r"is split 0.5,0.5,0 by image already"):
        exported((workspace, done), tmp_path / "b", "coco", splits=SplitPlan((0.6, 0.2, 0.2)))
    assert not (tmp_path / "b").exists()
    yolo = exported((workspace, done), tmp_path / "c", "yolo")
    assert yolo["splits"] == first["splits"]


def test_a_repeated_export_keeps_complete_shards_and_replaces_nothing_foreign(
    site: tuple[Workspace, Release], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    counts = exported(site, out, "sa1b", tars=True, shard_images=2)
    assert counts["sa1b"]["shards"] == 3
    (out / "sa_000001.tar").unlink()
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    again = exported(site, out, "sa1b", tars=True, shard_images=2)
    assert (again["sa1b"]["shards"], again["sa1b"]["shards_kept"]) == (1, 2)
    assert times.items() <= {p.name: p.stat().st_mtime_ns for p in out.glob("*.tar")}.items()
    with tarfile.open(out / "sa_000001.tar") as tar:
        assert len(tar.getnames()) == 2
    (out / "sa_000000.tar").write_bytes(b"theirs")
    with pytest.raises(OutputExistsError, match="sa_000000"):
        exported(site, out, "sa1b", tars=True, shard_images=2)
    assert (out / "sa_000000.tar").read_bytes() == b"theirs"


def test_an_export_that_fails_leaves_nothing_half_written(
    site: tuple[Workspace, Release], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("storage.formats.coco_writer.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        exported(site, tmp_path / "out", "coco")
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_file()]


def test_options_that_do_not_fit_the_format_are_refused(
    site: tuple[Workspace, Release], tmp_path: Path
) -> None:
    for style, options in (("sa1b", {"polygons": True}), ("coco", {"tars": True})):
        with pytest.raises(ExportError, match="not"):
            exported(site, tmp_path / "out", style, **options)
    with pytest.raises(ExportError, match="known formats: coco, sa1b"):
        exported(site, tmp_path / "out", "voc")
    for place in ("http://example/a", "s3://", "file:///out"):
        with pytest.raises(ExportError, match="bad "):
            exported(site, place, "coco")


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Store:  # noqa: F811
    """An empty prefix of a real S3, which boto3 finds by its environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", s3.region)
    return S3Store(s3.bucket, "exp ort/é", s3.endpoint_url, s3.region, s3.access_key, s3.secret_key)


def test_an_export_to_s3_is_whole_resumes_and_replaces_nothing_foreign(
    site: tuple[Workspace, Release],
    bucket: S3Store,
    s3: S3Server,  # noqa: F811
    true: Shapes,
) -> None:
    target = f"s3://{bucket.bucket}/{bucket.prefix}"
    exported(site, target, "coco")
    content = json.loads(bucket.get("instances.json"))
    assert len(content["annotations"]) == 24
    exported(site, target, "coco")  # its own files are replaced
    counts = exported(site, target, "parquet", shard_images=2)
    again = exported(site, target, "parquet", shard_images=2)
    assert again["parquet"]["shards_kept"] == counts["parquet"]["shards"]
    there = fs.S3FileSystem(
        access_key=s3.access_key,
        secret_key=s3.secret_key,
        endpoint_override=s3.endpoint_url,
        region=s3.region,
    )
    read = MaskDataset(target, "train", filesystem=there)
    assert len(read) == counts["splits"]["train"]
    image, found = read[0]
    assert tuple(image.shape) == (3, *SIZE)
    assert len(found["masks"]) == 3
    bucket.delete("instances.json")
    bucket.put("instances.json", b"theirs")
    with pytest.raises(OutputExistsError, match="not written by dataengine"):
        exported(site, target, "coco")
    assert bucket.get("instances.json") == b"theirs"
