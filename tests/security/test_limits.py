"""One annotator cannot exhaust shared resources: rates, sizes of pictures, space for drafts."""

from __future__ import annotations

import numpy as np
import pytest

from engine.annotation.access import COOKIE
from engine.annotation.errors import RefusedError
from engine.annotation.pictures import SIDES, Pictures
from engine.annotation.routes import PICTURES
from storage.catalog import TaskKind, drafts
from tests.annotation.site import Site
from tests.security.conftest import asker


def test_what_an_annotator_reads_is_rated(site: Site) -> None:
    ask = asker(site, [], "127.0.0.1")

    def signed_in(name: str) -> dict[str, str]:
        answer = ask("POST", "/api/sign-in", json={"token": site.link(name)})
        return {COOKIE: answer.cookies[COOKIE]}

    def pixels(cookies: dict[str, str]) -> int:
        return ask("GET", "/api/images/1/pixels", cookies=cookies).status_code

    mallory, ada, burst = signed_in("mallory"), signed_in("ada"), int(PICTURES.burst)
    assert [pixels(mallory) for _ in range(burst + 1)] == [404] * burst + [429]
    assert ask("GET", "/api/me", cookies=mallory).status_code == 200
    assert pixels(ada) == 404  # no other annotator has to wait


def test_pictures_are_made_in_few_sizes() -> None:
    made = []

    def pixels_of(image_id: int) -> np.ndarray:
        made.append(image_id)
        return np.zeros((300, 900, 3), np.uint8)

    pictures = Pictures(pixels_of)
    for side in range(1, 1100):
        assert pictures.get(1, side)[:2] == b"\xff\xd8"
    assert len(made) <= len(SIDES)
    from storage.formats.images import read_image

    for side, longest in ((1600, 900), (900, 512), (512, 512), (500, 256), (33, 32)):
        assert max(read_image(pictures.get(1, side)).shape) == longest


def test_an_annotators_drafts_have_a_quota(
    site: Site, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts, "QUOTA", 1_000)
    with site.client(url, "mallory") as client:
        task = client.next_task([TaskKind.ANNOTATE]).task
        assert task is not None
        client.save_draft(task, 1, {"x": "a" * 900})
        with pytest.raises(RefusedError, match="submit some of it") as refused:
            client.save_draft(task, 2, {"x": "a" * 1_000})
        assert (refused.value.status, refused.value.error) == (413, "draft_quota")
        kept = client.task(task.id).draft
        assert kept is not None
        assert (kept.version, len(kept.data["x"])) == (1, 900)  # the previous draft is kept
        client.save_draft(task, 2, {"x": "b"})
        client.release(task)
