"""Builds a release: chooses its masks, writes its files, and stores them under a fresh key."""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.operations.status import round_rows
from flows.release.dataset_card import CARD_NAME, render_card
from flows.release.description import description
from flows.release.export import export_release
from flows.release.figures import figures
from flows.release.freeze import (
    Content,
    known_models,
    manifest_entries,
    put_files,
    write_frozen,
    write_manifest,
)
from flows.release.image_names import ImageNames
from flows.release.names import ReleasedNames, pinned_names
from flows.release.privacy import Blurring
from flows.release.release import FILES, REPORT_FILE, NothingToReleaseError
from flows.release.report_data import write_report
from flows.release.rules import Options, RulesError
from flows.release.selection import check_rules, chosen_masks, current_verifier_version
from flows.workspace import costs, progress
from flows.workspace.audits import latest_audit
from flows.workspace.run_lock import named_lock, reason_of, release_lock, tracked_run
from flows.workspace.selections import program_run
from flows.workspace.workspace import Workspace, code_version
from storage import layout
from storage.catalog import (
    CatalogError,
    Dataset,
    Release,
    ReleaseState,
    RunKind,
    VerdictKind,
    new_id,
)
from storage.os_errors import naming
from storage.release_files import CATEGORIES_FILE, MANIFEST_FILE, STATS_FILE, MaskFiles


def build_release(
    workspace: Workspace, dataset: str, name: str, options: dict[str, Any] | None
) -> dict[str, Any]:
    """Build a release, or resume it, as the flow `release` describes; return the card."""
    with named_lock(workspace, release_lock(name)):
        return _build(workspace, dataset, name, options)


def _build(
    opened: Workspace, dataset: str, name: str, options: dict[str, Any] | None
) -> dict[str, Any]:
    row = opened.catalog.datasets.get(dataset)
    version = opened.masks.version()
    if version is None or not opened.masks.counts(("stage",), dataset=dataset):
        raise NothingToReleaseError(f"dataset {dataset!r} has no masks yet")
    given = Options() if options is None else Options.from_json(options)
    wanted = _pinned(opened, row, given)
    begun = opened.catalog.releases.start(
        name,
        dataset_id=row.id,
        table_version=version,
        key=layout.RELEASE.folder(name=name),
        options={"options": wanted.as_json()},
        **opened.catalog.labels.state(row.id)._asdict(),
    )
    kept = Options.from_json(begun.card.get("options", {}))
    if options is not None and not _agree(kept, wanted):
        raise RulesError(
            f"release {name!r} exists already, with other rules: {kept.rules.sentence()}; "
            "choose another name"
        )
    if begun.state == ReleaseState.DONE:
        return begun.card
    run = opened.catalog.runs.start(
        uuid.uuid5(uuid.NAMESPACE_URL, f"release/{row.id}/{name}").hex,
        RunKind.RELEASE,
        dataset_id=row.id,
        code_version=code_version(),
    )
    with (
        failing(opened, name),
        tracked_run(opened, run.id),
        costs.spending(opened, run.id),
        tempfile.TemporaryDirectory(prefix="dataengine-") as temporary,
    ):
        # A new folder per attempt: an interrupted one leaves other files.
        key, content = layout.inside(begun.key, new_id()), _chosen(opened, begun, kept)
        card = write_release(opened, row, begun, kept, content, key, Path(temporary))
        card = opened.catalog.releases.finish(name, card, key=key).card
        opened.catalog.runs.finish(run.id, {"images": card["images"], "masks": card["masks"]})
    return card


def _chosen(workspace: Workspace, begun: Release, options: Options) -> Content:
    """Return the content that the rules choose from the mask table."""
    labels = ReleasedNames(workspace, begun)
    check_rules(workspace, options.rules, labels)
    return Content(
        names=ImageNames(workspace, begun.dataset_id),
        chosen=chosen_masks(workspace, begun, options.rules, labels),
        pictures=Blurring(workspace, options.blur) if options.blur else None,
    )


def _pinned(workspace: Workspace, dataset: Dataset, options: Options) -> Options:
    """Return the options with the verifier that is current now, if they need one, and the id of the
    program's run, if they name one."""
    rules = options.rules
    if rules.min_accept_probability is not None and rules.verifier is None:
        rules = replace(rules, verifier=current_verifier_version(workspace))
    if rules.program is not None:
        rules = replace(rules, program=program_run(workspace, dataset.id, rules.program).id)
    return replace(options, rules=rules)


def _agree(kept: Options, wanted: Options) -> bool:
    """Whether a release made with some options is the asked one; the verifier may be newer now."""
    rules = replace(wanted.rules, verifier=kept.rules.verifier)
    return kept == replace(wanted, rules=rules)


def write_release(
    workspace: Workspace,
    row: Dataset,
    begun: Release,
    options: Options,
    content: Content,
    key: str,
    folder: Path,
) -> dict[str, Any]:
    """Make a release's files in a local folder and store them.

    Args:
        workspace: the workspace.
        row: the dataset.
        begun: the release.
        options: how it is made.
        content: its images and masks.
        key: a fresh key for the folder.
        folder: a local one, empty.

    Returns:
        The release's card.

    Raises:
        NothingToReleaseError: the rules accept no mask.
        OSError: the disk is full.
        StorageError: the store is full, or does not answer.
    """
    with naming(folder):  # the system does not say which file found the disk full
        return _write(workspace, row, begun, options, content, key, folder)


def _write(
    workspace: Workspace,
    row: Dataset,
    begun: Release,
    options: Options,
    content: Content,
    key: str,
    folder: Path,
) -> dict[str, Any]:
    """Do what `write_release` describes."""
    labels = ReleasedNames(workspace, begun)
    with progress.current().track(
        "choose masks", workspace.catalog.images.count(row.id), "image"
    ) as advance:
        frozen = write_frozen(content, labels, folder, key, advance)
    counts = _exports(workspace, begun, frozen, folder, may_be_empty=content.supersedes is not None)
    stats = description(workspace, row, frozen)
    (folder / STATS_FILE).write_text(json.dumps(stats, indent=1, default=str), encoding="utf-8")
    summary = _summary(workspace, row, begun.name) | {
        "categories": counts.get("categories", {}),
        "without_images": content.gone,
        "stats": stats,
    }
    write_report(workspace, row.name, summary, folder / REPORT_FILE)
    pictures = [(one.title, one.file) for one in figures(stats) if (folder / one.file).exists()]
    text = render_card(
        begun,
        row.name,
        options,
        counts,
        models=known_models(workspace, counts["models"]),
        privacy=None if content.pictures is None else content.pictures.result(),
        findings=[*stats["thin"], *stats["findings"]],
        figures=pictures,
        supersedes=content.supersedes,
        tombstones=content.tombstones,
    )
    (folder / CARD_NAME).write_text(text, encoding="utf-8")
    names = [*FILES, CARD_NAME, STATS_FILE, *(file for _, file in pictures), *frozen.names]
    manifest = write_manifest(workspace, begun, options, counts, content, folder, names)
    put_files(workspace, key, folder, [*names, MANIFEST_FILE])
    return _card(workspace, row, begun, options, counts) | manifest_entries(manifest)


def _exports(
    workspace: Workspace, begun: Release, frozen: MaskFiles, folder: Path, *, may_be_empty: bool
) -> dict[str, Any]:
    """Write COCO and SA-1B of a release that is being built; return the counts.

    Raises:
        NothingToReleaseError: the rules accept no mask.
    """
    counts = export_release(workspace, begun, folder, "coco", source=frozen)
    if not counts["masks"] and not may_be_empty:  # a takedown leaves what it leaves
        raise NothingToReleaseError(
            f"the rules of release {begun.name!r} accept no mask of its {counts['images']} images"
        )
    export_release(workspace, begun, folder / "sa1b", "sa1b", source=frozen)
    _tar(folder / "sa1b", folder / "sa1b.tar")
    shutil.rmtree(folder / "sa1b")
    return counts


@contextmanager
def failing(workspace: Workspace, name: str) -> Iterator[None]:
    """Mark the release as failed if its building is stopped or raises an error."""
    try:
        yield
    except BaseException as error:
        with suppress(CatalogError):  # then its state stays unfinished until `sweep` closes it
            workspace.catalog.releases.fail(name, reason_of(error))
        raise


def _tar(folder: Path, path: Path) -> None:
    """Write the folder's SA-1B files as one tar, in order of name."""
    with tarfile.open(path, "w") as tar:
        for file in sorted([*folder.glob("sa_*.json"), *folder.glob(CATEGORIES_FILE)]):
            tar.add(file, file.name)


def _summary(workspace: Workspace, dataset: Dataset, name: str) -> dict[str, Any]:
    """Return the report's summary: the rounds of the last loop, if any, the share of accepted
    masks in review, and the latest audit."""
    loop = workspace.catalog.loops.latest(dataset.id)
    verdicts = workspace.catalog.verdicts.counts(dataset.id)
    judged = sum(verdicts.values())
    accepted = verdicts.get(VerdictKind.ACCEPT, 0) / judged if judged else None
    return {
        "rounds": round_rows(workspace, loop.id) if loop else [],
        "review": {"accepted_share": accepted},
        "audit": _audit(workspace, dataset.id),
        "release": name,
    }


def _audit(workspace: Workspace, dataset_id: int) -> dict[str, Any] | None:
    """Return the result of the dataset's latest finished audit (docs/quality.md), or None."""
    run = latest_audit(workspace, dataset_id)
    return None if run is None else run.metrics


def _card(
    workspace: Workspace,
    dataset: Dataset,
    begun: Release,
    options: Options,
    counts: dict[str, Any],
) -> dict[str, Any]:
    verdicts = workspace.catalog.verdicts.counts(dataset.id)
    return {
        "name": begun.name,
        "dataset": dataset.name,
        "table_version": begun.table_version,
        **counts,
        **pinned_names(begun),
        "verdicts": {str(kind): count for kind, count in verdicts.items()},
        "audit": _audit(workspace, dataset.id),
        "models": sorted(counts["models"]),
        "rule": options.rules.sentence(),
        "options": options.as_json(),
        "code_version": code_version(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
