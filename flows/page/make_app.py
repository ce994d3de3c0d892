"""Builds the annotation page's app for a workspace."""

from __future__ import annotations

import threading
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from cachetools import TTLCache, cached

from engine.annotation.access import LOCAL
from engine.annotation.callers import is_loopback
from flows.workspace.settings import WorkspaceError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from engine.annotation.service import AnnotationService
    from flows.workspace.workspace import Workspace


LOOK_SECONDS = 10.0
"""How long a server of the page does not see settings that were changed elsewhere."""


def make_app(workspace: Workspace, host: str, names: list[str]) -> FastAPI:
    """The app with its access rules. On a loopback address without further host names, users of
    this machine need no sign-in until an annotator is added.

    Args:
        workspace: what it serves.
        host: the address to listen on.
        names: further host names that it answers to.

    Raises:
        WorkspaceError: other machines could reach the page, and no annotator can sign in.
    """
    from engine.annotation.access import Access
    from engine.annotation.app import create_app
    from engine.annotation.webhook_sending import WebhookSender
    from flows.operations.dashboard import WorkspaceReports
    from flows.operations.prometheus import WorkspaceCollector
    from flows.page.actions import WorkspaceActions
    from flows.page.setting_book import WorkspaceSettings

    is_local = is_loopback(host) and not names
    if not is_local and not workspace.catalog.annotators.has_people(besides=LOCAL):
        raise WorkspaceError(
            f"others can reach the page as {', '.join(names) or host}, and no annotator can "
            "sign in; add one first: dataengine annotators add NAME --role admin"
        )
    token = workspace.settings.operations.metrics_token
    custom = workspace.settings.root / "guidelines.md"
    packaged = resources.files("engine.annotation") / "guidelines.md"
    hosts = {"127.0.0.1", "localhost", "[::1]", host.strip("[]"), *names}
    return create_app(
        make_service(workspace),
        Access(workspace.catalog, local=LOCAL if is_local else None),
        actions=WorkspaceActions(workspace),
        reports=WorkspaceReports(workspace),
        choices=WorkspaceSettings(workspace),
        guidelines=custom.read_text() if custom.exists() else packaged.read_text(),
        sender=WebhookSender(workspace.catalog, workspace.settings.page.webhook_networks),
        hosts=sorted(hosts) if is_loopback(host) or names else ["*"],
        proxies=[str(network) for network in workspace.settings.page.trusted_proxies],
        collectors=[WorkspaceCollector(workspace)],
        metrics_token=token.get_secret_value() if token else None,
    )


def make_service(workspace: Workspace) -> AnnotationService:
    """The annotation service of the workspace."""
    from engine.annotation.decoder import BatchedDecoder
    from engine.annotation.embeddings import EmbeddingCache
    from engine.annotation.gold import GoldRules
    from engine.annotation.pictures import Pictures, Shared
    from engine.annotation.service import AnnotationService
    from flows.page.mask_names import MaskNames
    from flows.workspace.gold import known_masks
    from storage.catalog import RunKind

    looked = TTLCache[str, None](1, LOOK_SECONDS)

    @cached(looked, key=lambda: "changes", lock=threading.Lock())
    def look_at_changes() -> None:
        workspace.look_at_changes()  # another server of the page may have made some

    def gold_rules() -> GoldRules:
        look_at_changes()
        quality = workspace.settings.quality
        return GoldRules(
            first=quality.gold_first, share=quality.gold_share, feedback=quality.feedback
        )

    def read_pixels(image_id: int, between: tuple[float, float] | None = None) -> Any:
        return workspace.pixels(workspace.catalog.images.get(image_id), between)

    def truths_of(image_id: int) -> Any:
        image = workspace.catalog.images.get(image_id)
        dataset = workspace.catalog.datasets.get_by_id(image.dataset_id).name
        return known_masks(workspace, dataset, [image_id]).get(image_id, [])

    pixels_of = Shared(read_pixels)
    names = MaskNames(workspace)

    @lru_cache(maxsize=4)
    def decoder_of(version: str) -> BatchedDecoder:
        return BatchedDecoder(workspace.segmenter(version))

    def drained(run_id: str) -> None:
        from flows.loop.advance import run_drained

        look_at_changes()
        run_drained(workspace, run_id)
        names.given.look(workspace.catalog.runs.get(run_id).dataset_id)

    def finish(run_id: str) -> None:
        # in a thread, so that submitting the last task does not wait for the commit
        threading.Thread(target=drained, args=(run_id,), daemon=True).start()

    for run in workspace.catalog.runs.all(kind=RunKind.REVIEW, unfinished=True):
        finish(run.id)  # drained while no server ran
    return AnnotationService(
        catalog=workspace.catalog,
        queue=workspace.queue,
        objects=workspace.objects,
        masks=workspace.masks,
        embeddings=EmbeddingCache(
            workspace.objects,
            workspace.segmenter,
            pixels_of,
            decode_of=lambda version: decoder_of(version).predict_each,
        ),
        pictures=Pictures(pixels_of),
        lease_seconds=workspace.settings.people_lease_seconds,
        draft_seconds=workspace.settings.people_draft_seconds,
        on_drained=finish,
        gold_rules=gold_rules,
        truths_of=truths_of,
        suggestions_of=names.suggestions_of,
        labels_of=names.labels_of,
        suggest_for=names.suggest_for,
        find=names.find,
        selected_by=names.selected_by,
    )
