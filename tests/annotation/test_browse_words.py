"""Browse over real HTTP: what a run of a program selected, and the captions of an opened image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.annotation.errors import RefusedError
from engine.core.records import Source, Stage
from flows.release.release import release
from storage import layout
from storage.catalog import RunKind
from storage.shard_rows import ShardRows
from tests.annotation.site import Site, make_site, served


def wrote(site: Site, kind: RunKind, rows: list[dict[str, Any]], **config: Any) -> str:
    """A finished run with these rows, an image a shard; returns its id."""
    run_id = f"{kind}-1"
    key = layout.PROGRAM if kind == RunKind.PROGRAM else layout.CAPTIONS
    catalog, files = site.workspace.catalog, ShardRows(site.workspace.objects, key)
    catalog.runs.start(run_id, kind, dataset_id=site.dataset_id, config=config)
    catalog.shards.plan(run_id, [[image_id] for image_id in site.image_ids])
    for shard, image_id in enumerate(site.image_ids):
        files.write(run_id, shard, [row for row in rows if row["image_id"] == image_id])
    catalog.runs.finish(run_id)
    return run_id


def test_browse_shows_what_a_program_selected_and_the_captions_of_an_image(tmp_path: Path) -> None:
    site = make_site(tmp_path / "ws", images=4)
    some, whole, other, empty = site.image_ids
    site.review()
    masks = list(site.workspace.masks.masks(dataset="d"))
    gone = [mask.mask_id for mask in masks if mask.image_id == empty]
    one = next(mask.mask_id for mask in masks if mask.image_id == some)
    whole_ids = {mask.mask_id for mask in masks if mask.image_id == whole}
    run_id = wrote(
        site,
        RunKind.PROGRAM,
        [
            {"image_id": some, "selected": True, "mask_ids": [one]},
            {"image_id": whole, "selected": True},
            {"image_id": other, "selected": False, "mask_ids": None},
            {"image_id": empty, "selected": True, "mask_ids": ["erased"]},
        ],
        asked={"tag": "two-dogs", "name": None},
    )
    wrote(
        site,
        RunKind.CAPTIONS,
        [
            {"image_id": some, "mask_id": None, "caption": "two dogs", "model": "sees"},
            {"image_id": some, "mask_id": one, "caption": "a dog", "model": "sees"},
            {"image_id": whole, "mask_id": None, "caption": "a cat", "model": "sees"},
        ],
    )
    assert gone
    with served(site.workspace) as url, site.client(url, "rita", "reviewer") as rita:
        [dataset] = rita.browse.datasets()
        assert dataset.programs == ["two-dogs"]
        for name in ("two-dogs", run_id):
            found = rita.browse.masks("d", program=name)
            assert {mask.mask_id for mask in found.masks} == {one, *whole_ids}
            images = rita.browse.images("d", program=name)
            assert {image.id: image.masks for image in images.images} == {
                some: 1,
                whole: len(whole_ids),
                empty: 0,
            }
        assert rita.browse.figures("d", program="two-dogs").total == 1 + len(whole_ids)
        with pytest.raises(RefusedError, match=r"has the id or tag 'cats' \(tags: two-dogs\)"):
            rita.browse.masks("d", program="cats")
        opened = rita.browse.image(some)
        assert [caption.caption for caption in opened.captions] == ["two dogs"]
        said = {mask.mask_id: [c.caption for c in mask.captions] for mask in opened.masks}
        assert said[one] == ["a dog"]
        assert sum(map(len, said.values())) == 1


def test_browse_shows_the_masks_of_a_release_among_later_ones(tmp_path: Path) -> None:
    site = make_site(tmp_path / "ws", images=2)
    site.review()
    released = {mask.mask_id for mask in site.workspace.masks.masks(dataset="d")}
    release.fn(str(site.workspace.settings.root), "d", "d-1")
    later = site.mask_rows(0, "later", Source.ANNOTATOR, Stage.ASSISTED_MANUAL)
    site.workspace.masks.commit(later, run_id="later", shard=0)
    with served(site.workspace) as url, site.client(url, "rita", "reviewer") as rita:
        [dataset] = rita.browse.datasets()
        assert dataset.releases == ["d-1"]
        found = rita.browse.masks("d", release="d-1")
        assert {mask.mask_id for mask in found.masks} == released
        assert rita.browse.figures("d").total == len(released) + len(later)
        assert rita.browse.figures("d", release="d-1").total == len(released)
        assert rita.browse.images("d", release="d-1").total == 2
        with pytest.raises(RefusedError, match=r"no finished release 'd-2'; its releases: d-1"):
            rita.browse.masks("d", release="d-2")
