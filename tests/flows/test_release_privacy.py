"""Faces are blurred in the copies that go with a release; the originals stay."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from engine.core.records import Source, Stage
from flows.release import build, privacy
from flows.release import release as module
from flows.release.checking import verified
from flows.release.export import ExportOptions, export_release
from flows.release.freeze import needed_files
from flows.release.privacy import Detector, PrivacyError, blurred, detector_of, find_faces
from flows.release.rules import Options
from flows.release.takedown import take_down
from flows.workspace import progress
from storage import erasures
from storage.catalog import NewImage, RunKind
from storage.formats.images import read_image, write_png
from tests.annotation.site import Site, make_site

FACE = (177, 71, 262, 156)
"""Half-open box of the astronaut's face."""


def astronaut() -> np.ndarray:
    """A photograph with one face, RGB uint8 (512, 512, 3)."""
    return np.asarray(data.astronaut())  # type: ignore[no-untyped-call]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(build, "write_report", lambda w, d, s, path: path.write_text("report"))
    yield
    progress.use(progress.Silent())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """An image without a face, and a photograph with one."""
    site = make_site(tmp_path_factory.mktemp("privacy") / "ws", images=1)
    content = write_png(astronaut())
    site.workspace.objects.put("images/astronaut.png", content)
    row = NewImage(
        sha256=hashlib.sha256(content).hexdigest(),
        key="images/astronaut.png",
        file_name="astronaut.png",
        height=512,
        width=512,
    )
    site.image_ids.extend(site.workspace.catalog.images.add_many(site.dataset_id, [row]).ids)
    site.start_run("made", RunKind.FULLY_AUTOMATIC)
    rows = site.mask_rows(0, "made", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC)
    site.workspace.masks.commit(rows, run_id="made", shard=0)
    return site


def made(site: Site, name: str, *blur: str) -> dict[str, object]:
    options = Options(blur=blur).as_json()
    card: dict[str, object] = module.release.fn(
        str(site.workspace.settings.root), "d", name, options
    )
    return card


def test_a_face_is_found_and_keeps_no_detail() -> None:
    image = astronaut()
    boxes = find_faces(image)
    x0, y0, x1, y1 = FACE
    covering = [b for b in boxes if b[0] <= x0 and b[1] <= y0 and b[2] >= x1 and b[3] >= y1]
    assert covering
    hidden = blurred(image, covering)
    outside = np.ones(image.shape[:2], bool)
    for box in covering:
        outside[box[1] : box[3], box[0] : box[2]] = False
    assert np.array_equal(hidden[outside], image[outside])
    # neighbouring pixels differ much less than before
    before, after = (
        np.abs(np.diff(one[y0:y1, x0:x1].astype(float), axis=1)).mean() for one in (image, hidden)
    )
    assert after < before / 3
    assert find_faces(np.zeros((20, 300, 3), np.uint8)) == []


def test_a_release_has_blurred_copies_and_says_by_what(site: Site, tmp_path: Path) -> None:
    card = made(site, "blurred", "faces")
    release = site.workspace.catalog.releases.get("blurred")
    files = needed_files(site.workspace, release)
    told = files.manifest.privacy
    assert told == card["privacy"]
    assert told is not None
    assert (told["checked"], told["blurred"], told["unreadable"]) == (2, 1, [])
    assert told["kinds"]["faces"]["regions"] >= 1
    assert "LBP cascade" in told["kinds"]["faces"]["detector"]
    plain, face = files.images().to_pylist()
    assert plain["key"] == "images/0.png"
    assert face["key"] == f"{release.key}/blurred-{site.image_ids[1]}.jpg"
    copy = read_image(site.workspace.objects.get(face["key"]))
    assert copy.shape == (512, 512, 3)
    assert verified(site.workspace, "blurred")["ok"]
    export_release(site.workspace, release, tmp_path, "yolo", ExportOptions(all_images=True))
    (exported,) = tmp_path.glob(f"images/*/{site.image_ids[1]}.jpg")
    assert hashlib.sha256(exported.read_bytes()).hexdigest() == face["sha256"]
    text = site.workspace.objects.get(f"{release.key}/README.md").decode()
    assert "1 of 2 images were blurred" in text
    assert "misses profiles" in text


def test_without_being_asked_no_image_is_searched(site: Site) -> None:
    made(site, "plain")
    files = needed_files(site.workspace, site.workspace.catalog.releases.get("plain"))
    assert files.manifest.privacy is None
    assert not [name for name in files.names if name.startswith("blurred")]


def test_detectors_of_packages_are_used_and_missing_ones_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PrivacyError, match="no detector of 'plates' is installed"):
        made(site, "plates", "plates")
    entry = EntryPoint("plates", "tests.flows.test_release_privacy:PLATES", privacy.GROUP)
    found = {"plates": [entry], "wrong": [replace_entry(entry, "wrong")]}
    monkeypatch.setattr(privacy, "entry_points", lambda group, name: found.get(name, []))
    assert detector_of("plates") is PLATES
    with pytest.raises(PrivacyError, match="expected a Detector"):
        detector_of("wrong")
    assert made(site, "plates", "plates")["privacy"]["kinds"]["plates"]["regions"] == 2  # type: ignore[index]


PLATES = Detector("plates 1.0", lambda image: [(0, 0, 30, 20)], "finds a corner")


def replace_entry(entry: EntryPoint, name: str) -> EntryPoint:
    """An entry point to something that is no detector."""
    return EntryPoint(name, f"{entry.module}:FACE", entry.group)


def test_a_takedown_keeps_the_other_copies_even_if_no_mask_is_left(site: Site) -> None:
    """Last: it erases an image of the shared workspace."""
    made(site, "kept", "faces")
    workspace = site.workspace
    dataset = workspace.catalog.datasets.get("d")
    erasure = erasures.of_images(workspace.catalog, dataset, site.image_ids[:1])
    assert take_down(workspace, dataset, erasure)["successors"]["kept"] == "kept-r2"
    release = workspace.catalog.releases.get("kept-r2")
    files = needed_files(workspace, release)
    (row,) = files.images().to_pylist()
    assert row["key"] == f"{release.key}/blurred-{site.image_ids[1]}.jpg"
    assert hashlib.sha256(workspace.objects.get(row["key"])).hexdigest() == row["sha256"]
    assert release.card["masks"] == 0
    assert verified(workspace, "kept-r2")["ok"]
