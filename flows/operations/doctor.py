"""Checks of a workspace; each says what it found and, where something is wrong, what to do."""

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
from flows.workspace.logs import masked, secrets_of
from flows.workspace.settings import WorkspaceError, load_settings
from flows.workspace.workspace import Workspace
from storage import erasures, generations, layout
from storage.catalog import new_id, utc_now
from storage.catalog.network_drives import network_drive
from storage.compaction import table_size

MAX_CLOCK_SECONDS = 2.0
LIMIT_CLOCK_SECONDS = 600.0
"""How far this machine's clock may be from the database's before people should look, and before
requests to S3 are about to be refused."""

PACKAGES = ("torch", "segment-anything", "sqlalchemy", "deltalake", "pyarrow", "prefect", "ray")


@dataclass(frozen=True, slots=True)
class Found:
    """What a check found, and what to do where it is not well."""

    detail: str
    do: str = ""
    level: str = "ok"
    """ok; look: it works, but a person should know; or wrong."""


class TroubleError(Exception):
    """A check failed; `do` says what helps."""

    def __init__(self, detail: str, do: str) -> None:
        super().__init__(detail)
        self.do = do


Check = Callable[[Workspace], Found]


def check_workspace(root: Path) -> list[dict[str, Any]]:
    """Run every check; a failing one does not keep the others from running. Nothing is changed.

    Returns:
        For each `name`, `ok`, `level` (ok, look, wrong), `detail` and `do`.
    """
    try:
        settings = load_settings(root)
    except WorkspaceError as error:
        found = Found(str(error), "correct dataengine.toml or the variable", "wrong")
        return [_row("settings", found)]
    hidden = secrets_of(settings)
    try:
        workspace = Workspace(settings)
    except ValueError as error:
        found = Found(masked(str(error), hidden), "correct database_url or [store]", "wrong")
        return [_row("settings", found)]
    results = [_row("settings", Found(str(settings.root)))]
    for name, look, do in CHECKS:
        try:
            found = look(workspace)
        except TroubleError as trouble:
            found = Found(str(trouble), trouble.do, "wrong")
        except Exception as error:  # whatever is wrong is the finding
            found = Found(f"{type(error).__name__}: {error}", do, "wrong")
        results.append(_row(name, Found(masked(found.detail, hidden), found.do, found.level)))
    workspace.catalog.close()
    return results


def _row(name: str, found: Found) -> dict[str, Any]:
    return {"name": name, "ok": found.level != "wrong", **asdict(found)}


def _catalog(workspace: Workspace) -> Found:
    catalog = workspace.catalog
    found = catalog.revision()
    if found is None:
        raise TroubleError("there is no catalog yet", "`dataengine init .`, or restore a backup")
    catalog.check()
    return Found(f"revision {found} at {catalog.engine.url}")


def _sqlite(workspace: Workspace) -> Found:
    engine = workspace.catalog.engine
    if engine.dialect.name != "sqlite":
        return Found("PostgreSQL")
    kind = network_drive(Path(str(engine.url.database)))
    if kind is None:
        return Found("SQLite, on a disk of this machine")
    do = "`dataengine backup`, a database_url on a local disk or PostgreSQL, `dataengine restore`"
    return Found(f"SQLite on a network drive ({kind}) can lose data", do, "look")


def _generation(workspace: Workspace) -> Found:
    generations.check(workspace.catalog, workspace.objects)
    pending = erasures.pending(workspace.catalog, workspace.objects)
    if pending:
        do = "`dataengine erase pending` finishes them"
        return Found(f"{len(pending)} erasures are not finished", do, "wrong")
    return Found("catalog and store know each other; no erasure is unfinished")


def _store(workspace: Workspace) -> Found:
    key = layout.DOCTOR.key(name=new_id())
    workspace.objects.put(key, b"ok")
    try:
        if workspace.objects.get(key) != b"ok":
            raise TroubleError("what was written came back different", "check the store first")
    finally:
        workspace.objects.delete(key)
    if workspace.objects.exists(key):
        raise TroubleError("what was deleted is still there", "let this key delete objects")
    return Found(workspace.settings.store_uri)


def _masks(workspace: Workspace) -> Found:
    newest = workspace.masks.version()
    if newest is None:
        return Found("no masks yet")
    rows = sum(batch.num_rows for batch in islice(workspace.masks.scan(batch_size=1024), 1))
    last, known = table_size(workspace.objects).last_image, workspace.catalog.ledger.last_image()
    if last is not None and last > known:
        raise TroubleError(
            f"it has masks of image {last}, the catalog's last image is {known}",
            "the catalog is older than the table: restore a newer backup before images come in, "
            "since they would get the ids of those that are lost",
        )
    return Found(f"version {newest}" + ("" if rows else ", empty"))


def _model(workspace: Workspace) -> Found:
    from engine.core.records import Prompt
    from engine.sam.checkpoint import SHIPPED

    model = workspace.catalog.models.current()
    if model is None:
        raise TroubleError("no model is current", "run any command, e.g. `dataengine status`")
    segmenter = workspace.segmenter(model.version)
    grey = np.full((64, 96, 3), 127, np.uint8)
    prompt = Prompt(points_xy=np.array([[48.0, 32.0]]), labels=np.array([1], np.int64))
    answer = segmenter.predict(segmenter.embed(grey), [prompt], multimask=True)
    scores = answer.predicted_iou_BM.float().cpu().numpy()
    if not np.isfinite(scores).all():
        raise TroubleError(
            f"{model.version} answers with {scores.ravel().tolist()}",
            "`dataengine models rollback`; the checkpoint or the device is broken",
        )
    device = workspace.device()
    better = device == "cpu" and model.version == SHIPPED
    advice = "for photographs: `dataengine models pull mobile_sam --promote`" if better else ""
    return Found(f"{model.version} on {device} answers", advice)


def _prefect(workspace: Workspace) -> Found:
    settings = workspace.settings
    return Found(*version_check.look(settings.root, settings.production.work_pool))


def _disk(workspace: Workspace) -> Found:
    settings = workspace.settings
    places = {settings.root}
    if "://" not in settings.store_uri:
        store = Path(settings.store_uri)
        places.add(store if store.exists() else settings.root)
    free = min(shutil.disk_usage(place).free for place in places)
    if free < settings.operations.min_free_gib * 2**30:
        raise TroubleError(
            f"{free >> 20} MiB free, {settings.operations.min_free_gib:g} GiB are needed",
            "`dataengine sweep --delete` and `dataengine compact`, or a larger disk",
        )
    return Found(f"{free >> 30} GiB free")


def _clock(workspace: Workspace) -> Found:
    before = utc_now()
    theirs = workspace.catalog.ledger.database_time()
    if theirs is None:
        return Found("SQLite: the database has this machine's clock")
    middle = before + (utc_now() - before) / 2
    apart = (theirs - middle).total_seconds()
    detail = f"the database's clock is {apart:+.1f} s from this machine's"
    do = "set both by NTP; leases go by the database's, S3 refuses what is 15 minutes off"
    if abs(apart) > LIMIT_CLOCK_SECONDS:
        raise TroubleError(detail, do)
    return Found(detail) if abs(apart) <= MAX_CLOCK_SECONDS else Found(detail, do, "look")


def _versions(workspace: Workspace) -> Found:
    found = []
    for name in ("open-data-engine", *PACKAGES):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue  # ray is optional
    return Found(", ".join(found))


def _leases(workspace: Workspace) -> Found:
    overdue = workspace.catalog.ledger.overdue(workspace.catalog.now())
    expired = workspace.catalog.ledger.expiries()
    detail = (
        f"{overdue['task']} tasks and {overdue['shard']} shards overdue; expired so far: "
        f"{expired['task']} of tasks, {expired['shard']} of shards"
    )
    if overdue["shard"]:
        do = "a worker died: start another one, or `dataengine generate --resume RUN`"
        return Found(detail, do, "look")
    return Found(detail)


def _runs(workspace: Workspace) -> Found:
    found = stale_runs.find(workspace)
    named = found.as_dict().items()
    told = [f"{len(names)} {kind} that nobody is at" for kind, names in named if names]
    if told:
        do = "`dataengine sweep --delete` closes them; started again, they go on where they can"
        return Found("; ".join(told), do, "look")
    if found.handed_in:
        detail = f"{len(found.handed_in)} runs whose tasks are handed in"
        return Found(detail, "`dataengine advance` finishes them", "look")
    return Found("somebody is at all that are running, or they wait for people")


def _quarantine(workspace: Workspace) -> Found:
    found = workspace.catalog.ledger.quarantined()
    if not found:
        return Found("nothing set aside")
    parts = ", ".join(f"{stage}: {count}" for stage, count in sorted(found.items()))
    return Found(parts, "`dataengine status` has the reasons; mend the files, ingest them", "look")


CHECKS: tuple[tuple[str, Check, str], ...] = (
    (
        "catalog",
        _catalog,
        "start the database and check database_url; an older schema is brought forward by any "
        "command, e.g. `dataengine status`: make a `dataengine backup` first",
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
    ("versions", _versions, "install the package again"),
    ("leases", _leases, "check the catalog first"),
    ("runs", _runs, "check the catalog first"),
    ("quarantine", _quarantine, "check the catalog first"),
)
