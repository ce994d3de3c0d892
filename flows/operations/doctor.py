"""Health checks of a workspace: each reports what it found and, if needed, what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from flows.operations import stale_runs
from flows.prefect_api import version_check
from flows.stages import copies
from flows.workspace import gold
from flows.workspace.logs import masked, secrets_of
from flows.workspace.settings import WorkspaceError, load_settings
from flows.workspace.workspace import Workspace
from storage import erasures, generations, layout
from storage.catalog import new_id, utc_now
from storage.catalog.network_drives import network_drive
from storage.compaction import table_size

MAX_CLOCK_SECONDS = 2.0
LIMIT_CLOCK_SECONDS = 600.0
"""Differences between this machine's clock and the database's: above the first people should look,
above the second S3 soon refuses requests."""

PACKAGES = ("torch", "segment-anything", "sqlalchemy", "deltalake", "pyarrow", "prefect", "ray")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found, and what to do if something is wrong."""

    detail: str
    do: str = ""
    level: str = "ok"
    """`ok`; `look`: it works, but a person should look; or `wrong`."""


class CheckFailedError(Exception):
    """A check failed; `do` says what to do."""

    def __init__(self, detail: str, do: str) -> None:
        super().__init__(detail)
        self.do = do


Check = Callable[[Workspace], CheckResult]


def check_workspace(root: Path) -> list[dict[str, Any]]:
    """Run all checks, also after failures. Nothing is changed.

    Returns:
        One row per check: `name`, `ok`, `level` (ok, look, wrong), `detail` and `do`.
    """
    try:
        settings = load_settings(root)
    except WorkspaceError as error:
        found = CheckResult(str(error), "correct dataengine.toml or the variable", "wrong")
        return [_row("settings", found)]
    hidden = secrets_of(settings)
    try:
        workspace = Workspace(settings)
    except ValueError as error:
        found = CheckResult(masked(str(error), hidden), "correct database_url or [store]", "wrong")
        return [_row("settings", found)]
    results = [_row("settings", CheckResult(str(settings.root)))]
    for name, look, do in CHECKS:
        try:
            found = look(workspace)
        except CheckFailedError as failure:
            found = CheckResult(str(failure), failure.do, "wrong")
        except Exception as error:  # any error is a finding
            found = CheckResult(f"{type(error).__name__}: {error}", do, "wrong")
        results.append(_row(name, CheckResult(masked(found.detail, hidden), found.do, found.level)))
    workspace.catalog.close()
    return results


def _row(name: str, found: CheckResult) -> dict[str, Any]:
    return {"name": name, "ok": found.level != "wrong", **asdict(found)}


def _catalog(workspace: Workspace) -> CheckResult:
    catalog = workspace.catalog
    found = catalog.revision()
    if found is None:
        raise CheckFailedError("there is no catalog", "`dataengine init .`, or restore a backup")
    catalog.check()
    return CheckResult(f"revision {found} at {catalog.engine.url}")


def _sqlite(workspace: Workspace) -> CheckResult:
    engine = workspace.catalog.engine
    if engine.dialect.name != "sqlite":
        return CheckResult("PostgreSQL")
    kind = network_drive(Path(str(engine.url.database)))
    if kind is None:
        return CheckResult("SQLite, on a local disk")
    do = "`dataengine backup`, a database_url on a local disk or PostgreSQL, `dataengine restore`"
    return CheckResult(f"SQLite on a network drive ({kind}) can lose data", do, "look")


def _consensus(workspace: Workspace) -> CheckResult:
    if not workspace.settings.quality.consensus_share:
        return CheckResult("off")
    for row in workspace.catalog.datasets.all():
        if few := copies.too_few(workspace, row.id):
            return CheckResult(f"{row.name}: {few}", copies.ADVICE, "look")
    return CheckResult("enough people can answer")


def _generation(workspace: Workspace) -> CheckResult:
    generations.check(workspace.catalog, workspace.objects)
    pending = erasures.pending(workspace.catalog, workspace.objects)
    if pending:
        do = "`dataengine erase pending` finishes them"
        return CheckResult(f"{len(pending)} erasures are not finished", do, "wrong")
    return CheckResult("catalog and store belong together; no erasure is unfinished")


def _store(workspace: Workspace) -> CheckResult:
    key = layout.DOCTOR.key(name=new_id())
    workspace.objects.put(key, b"ok")
    try:
        if workspace.objects.get(key) != b"ok":
            raise CheckFailedError("an object reads back different", "check the store first")
    finally:
        workspace.objects.delete(key)
    if workspace.objects.exists(key):
        raise CheckFailedError("a deleted object still exists", "allow this key to delete objects")
    return CheckResult(workspace.settings.store_uri)


def _masks(workspace: Workspace) -> CheckResult:
    newest = workspace.masks.version()
    if newest is None:
        return CheckResult("no masks yet")
    rows = sum(batch.num_rows for batch in islice(workspace.masks.scan(batch_size=1024), 1))
    last, known = table_size(workspace.objects).last_image, workspace.catalog.ledger.last_image()
    if last is not None and last > known:
        raise CheckFailedError(
            f"it has masks of image {last}, the catalog's last image is {known}",
            "the catalog is older than the table: restore a newer backup before adding images, "
            "which would get the ids of lost ones",
        )
    return CheckResult(f"version {newest}" + ("" if rows else ", empty"))


def _model(workspace: Workspace) -> CheckResult:
    from engine.core.records import Prompt
    from engine.sam.checkpoint import SHIPPED
    from flows.data.import_model import MODEL_CHOICES

    model = workspace.catalog.models.current()
    if model is None:
        raise CheckFailedError("no model is current", "run any command: `dataengine status`")
    segmenter = workspace.segmenter(model.version)
    grey = np.full((64, 96, 3), 127, np.uint8)
    prompt = Prompt(points_xy=np.array([[48.0, 32.0]]), labels=np.array([1], np.int64))
    answer = segmenter.predict(segmenter.embed(grey), [prompt], multimask=True)
    scores = answer.predicted_iou_BM.float().cpu().numpy()
    if not np.isfinite(scores).all():
        raise CheckFailedError(
            f"{model.version} predicts {scores.ravel().tolist()}",
            "`dataengine models rollback`; the checkpoint or the device is broken",
        )
    device = workspace.device()
    is_slow = device == "cpu" and model.version == SHIPPED
    advice = f"for photographs: `{MODEL_CHOICES[0].command}`" if is_slow else ""
    return CheckResult(f"{model.version} on {device} works", advice)


def _prefect(workspace: Workspace) -> CheckResult:
    settings = workspace.settings
    return CheckResult(*version_check.look(settings.root, settings.production.work_pool))


def _disk(workspace: Workspace) -> CheckResult:
    settings = workspace.settings
    places = {settings.root}
    if "://" not in settings.store_uri:
        store = Path(settings.store_uri)
        places.add(store if store.exists() else settings.root)
    free = min(shutil.disk_usage(place).free for place in places)
    if free < settings.operations.min_free_gib * 2**30:
        raise CheckFailedError(
            f"{free >> 20} MiB free, {settings.operations.min_free_gib:g} GiB are required",
            "`dataengine sweep --delete` and `dataengine compact`, or a larger disk",
        )
    return CheckResult(f"{free >> 30} GiB free")


def _clock(workspace: Workspace) -> CheckResult:
    before = utc_now()
    theirs = workspace.catalog.ledger.database_time()
    if theirs is None:
        return CheckResult("SQLite: the database uses this machine's clock")
    middle = before + (utc_now() - before) / 2
    apart = (theirs - middle).total_seconds()
    detail = f"the database's clock is {apart:+.1f} s from this machine's"
    do = "set both by NTP; leases use the database's, S3 refuses requests that are 15 minutes off"
    if abs(apart) > LIMIT_CLOCK_SECONDS:
        raise CheckFailedError(detail, do)
    return (
        CheckResult(detail) if abs(apart) <= MAX_CLOCK_SECONDS else CheckResult(detail, do, "look")
    )


def _versions(workspace: Workspace) -> CheckResult:
    found = []
    for name in ("open-data-engine", *PACKAGES):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue  # ray is optional
    return CheckResult(", ".join(found))


def _leases(workspace: Workspace) -> CheckResult:
    overdue = workspace.catalog.ledger.overdue(workspace.catalog.now())
    expired = workspace.catalog.ledger.expiries()
    detail = (
        f"{overdue['task']} tasks and {overdue['shard']} shards overdue; expired so far: "
        f"{expired['task']} of tasks, {expired['shard']} of shards"
    )
    if overdue["shard"]:
        do = "a worker died: start another one, or `dataengine generate --resume RUN`"
        return CheckResult(detail, do, "look")
    return CheckResult(detail)


def _runs(workspace: Workspace) -> CheckResult:
    found = stale_runs.find(workspace)
    named = found.as_dict().items()
    stale = [f"{len(names)} {kind} that no process works on" for kind, names in named if names]
    if stale:
        do = "`dataengine sweep --delete` closes them; started again, they resume if possible"
        return CheckResult("; ".join(stale), do, "look")
    if found.submitted:
        detail = f"{len(found.submitted)} runs whose tasks are submitted"
        return CheckResult(detail, "`dataengine advance` finishes them", "look")
    return CheckResult("all running runs have a process, or wait for people")


def _gold(workspace: Workspace) -> CheckResult:
    found = gold.advice(workspace)
    if found:
        return CheckResult("; ".join(found), 'docs/quality.md, "Gold tasks"', "look")
    rules = workspace.settings.quality
    return CheckResult("on" if rules.gold_first or rules.gold_share else "off")


def _quarantine(workspace: Workspace) -> CheckResult:
    found = workspace.catalog.ledger.quarantined()
    if not found:
        return CheckResult("nothing is quarantined")
    parts = ", ".join(f"{stage}: {count}" for stage, count in sorted(found.items()))
    return CheckResult(
        parts, "`dataengine status` has the reasons; repair the files, ingest them", "look"
    )


CHECKS: tuple[tuple[str, Check, str], ...] = (
    (
        "catalog",
        _catalog,
        "start the database and check database_url; an older schema is upgraded by any "
        "command, such as `dataengine status`: make a `dataengine backup` first",
    ),
    ("object store", _store, "check [store]: address, keys, and that this machine may write there"),
    ("catalog's disk", _sqlite, "check database_url"),
    (
        "generation",
        _generation,
        "restore a newer backup into an empty database, or see docs/maintenance.md; do not "
        "`sweep --delete` before",
    ),
    ("mask table", _masks, "check the store; `masks/_delta_log` and its files must be readable"),
    ("current model", _model, "`dataengine models list`, then `dataengine models rollback`"),
    ("prefect", _prefect, "start the server (`dataengine up`) or unset PREFECT_API_URL"),
    ("disk", _disk, "check the workspace's folder"),
    ("clock", _clock, "check that the database answers"),
    ("versions", _versions, "reinstall the package"),
    ("leases", _leases, "check the catalog first"),
    ("runs", _runs, "check the catalog first"),
    ("gold tasks", _gold, "check the catalog first"),
    ("quarantine", _quarantine, "check the catalog first"),
    ("consensus", _consensus, "check the catalog first"),
)
