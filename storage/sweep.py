"""The sweep: find objects that nothing refers to, and optionally delete them.

Objects are written before the row that names them, so objects younger than `older_than` stay. Each
batch of keys is listed first and looked up afterwards, so rows written meanwhile count. Data files
of the mask table are needed while any version of its log names them. `images/`, `evaluations/`,
`training/` and unknown prefixes are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache

from sqlalchemy import select

from engine.core.batches import batches
from storage import layout
from storage.catalog.database import Catalog
from storage.catalog.label_tables import SuggesterRow
from storage.catalog.states import RunKind, RunState, TaskState
from storage.catalog.tables import ImageRow, ModelRow, ReleaseRow, RunRow, TaskRow
from storage.catalog.tasks import TaskResult
from storage.catalog.team_tables import GuidelinePictureRow
from storage.compaction import known_files
from storage.masks import MaskTable
from storage.objects import ObjectStore

BATCH = 500
"""Keys looked up at once."""


@dataclass(slots=True)
class Swept:
    """Unreferenced objects of one kind: their number and bytes."""

    objects: int = 0
    bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepReport:
    """What a sweep found, by key prefix; `deleted` says whether it was deleted."""

    kinds: dict[str, Swept] = field(default_factory=dict)
    deleted: bool

    @property
    def objects(self) -> int:
        """Total number of objects."""
        return sum(kind.objects for kind in self.kinds.values())

    @property
    def bytes(self) -> int:
        """Total bytes."""
        return sum(kind.bytes for kind in self.kinds.values())


Needed = Callable[[Sequence[str]], Collection[str]]
"""Returns those of some keys that something refers to."""


def sweep(
    catalog: Catalog,
    objects: ObjectStore,
    *,
    older_than: timedelta,
    delete: bool,
    now: datetime | None = None,
) -> SweepReport:
    """Find objects that nothing refers to, and delete them if asked. Safe beside running work.

    Swept are: submitted masks, pre-filled masks and trajectories that no task names, or whose run
    has finished with its masks in the table; vectors, words, captions and results of programs of
    unknown runs; embeddings of deleted models or images; models, suggesters, trained CLIPs,
    releases and pictures of guidelines that the catalog lacks; files that no version of a mask
    table names; leftovers of health checks.

    Raises:
        StorageError: the store does not answer. Earlier deletions remain.
        CatalogError: the catalog does not answer.
    """
    before = (now or datetime.now(UTC)) - older_than
    rows = _Rows(catalog, MaskTable(objects))
    report = SweepReport(deleted=delete)
    needed: dict[str, Needed] = {
        layout.ANSWER.prefix: rows.answers,
        layout.PREFILL.prefix: rows.prefilled,
        layout.TASK_STEPS.prefix: rows.steps,
        layout.VECTORS.prefix: rows.of_runs,
        layout.WORDS.prefix: rows.of_runs,
        layout.CAPTIONS.prefix: rows.of_runs,
        layout.PROGRAM.prefix: rows.of_runs,
        layout.EMBEDDING.prefix: rows.embeddings,
        layout.MODEL.prefix: rows.models,
        layout.SUGGESTER.prefix: rows.suggesters,
        layout.ADAPTER.prefix: rows.suggesters,
        layout.TOWERS.prefix: rows.towers,
        layout.RELEASE.prefix: rows.releases,
        layout.GUIDELINE_PICTURE.prefix: rows.guideline_pictures,
        layout.DOCTOR.prefix: lambda keys: (),
        **{layout.inside(table): _data_files(objects, table) for table in layout.TABLES},
    }
    for prefix, look in needed.items():
        found = Swept()
        old = (info for info in objects.list(prefix) if info.modified < before)
        for batch in batches(old, BATCH):
            named = set(look([info.key for info in batch]))
            for info in batch:
                if info.key not in named:
                    found.objects += 1
                    found.bytes += info.size
                    if delete:
                        objects.delete(info.key)
        if found.objects:
            report.kinds[prefix.rstrip("/")] = found
    return report


def _data_files(objects: ObjectStore, table: str) -> Needed:
    """Looks up data files; all other keys of the table are needed."""

    @cache
    def known() -> set[str]:
        return known_files(objects, table)

    def needed(keys: Sequence[str]) -> set[str]:
        data = {key for key in keys if layout.is_data_file(key)}
        if not data:
            return set(keys)
        start = layout.inside(table)
        return {key for key in keys if key not in data or key.removeprefix(start) in known()}

    return needed


class _Rows:
    """Keys that rows of the catalog refer to."""

    def __init__(self, catalog: Catalog, masks: MaskTable) -> None:
        self._catalog, self._masks = catalog, masks
        self._committed: dict[str, bool] = {}

    def answers(self, keys: Sequence[str]) -> set[str]:
        """Submitted masks that a task of an unfinished run names, and keys of another form."""
        return self._named_by_tasks(layout.ANSWER, keys)

    def steps(self, keys: Sequence[str]) -> set[str]:
        """The same for trajectories."""
        return self._named_by_tasks(layout.TASK_STEPS, keys)

    def _named_by_tasks(self, kind: layout.KeyKind, keys: Sequence[str]) -> set[str]:
        tasks = {key: layout.number((kind.parse(key) or {}).get("task", "")) for key in keys}
        query = select(TaskRow.result_key, TaskRow.result, TaskRow.run_id)
        query = query.where(TaskRow.id.in_({task for task in tasks.values() if task is not None}))
        with self._catalog.reading() as session:
            found = session.execute(query).all()
        done = self._done({str(run_id) for _, _, run_id in found})
        named = {key for key, task in tasks.items() if task is None}
        for result_key, result, run_id in found:
            if run_id not in done:
                named |= {str(result_key), str(TaskResult.from_json(result).trajectories)}
        return named

    def prefilled(self, keys: Sequence[str]) -> set[str]:
        """Pre-filled masks of runs that are not done: a resumed run uses them again."""
        parsed = ((key, layout.PREFILL.parse(key)) for key in keys)
        runs = {key: found["run"] for key, found in parsed if found}
        query = select(RunRow.id).where(RunRow.id.in_(set(runs.values())))
        known = set(self._catalog.values(query))
        there = known - self._done(known)
        return {key for key, run in runs.items() if run in there}

    def of_runs(self, keys: Sequence[str]) -> set[str]:
        """Rows of runs that the catalog has, and keys of another form."""
        kinds = (layout.VECTORS, layout.WORDS, layout.CAPTIONS, layout.PROGRAM)
        parsed = {key: [kind.parse(key) or {} for kind in kinds] for key in keys}
        runs = {
            key: next((one["run"] for one in found if one), None) for key, found in parsed.items()
        }
        known = set(self._catalog.values(select(RunRow.id).where(RunRow.id.in_(runs.values()))))
        return {key for key, run in runs.items() if run is None or run in known}

    def embeddings(self, keys: Sequence[str]) -> set[str]:
        """Embeddings whose model and image exist, and keys of another form."""
        parsed = {key: layout.EMBEDDING.parse(key) or {} for key in keys}
        images = {key: layout.number(found.get("image", "")) for key, found in parsed.items()}
        wanted = {image for image in images.values() if image is not None}
        there = set(self._catalog.values(select(ImageRow.id).where(ImageRow.id.in_(wanted))))
        models = set(self._catalog.values(select(ModelRow.version)))
        return {
            key
            for key, image in images.items()
            if image is None or (image in there and parsed[key]["model"] in models)
        }

    def models(self, keys: Sequence[str]) -> set[str]:
        """Checkpoints of registered versions."""
        return set(self._catalog.values(select(ModelRow.key))) & set(keys)

    def suggesters(self, keys: Sequence[str]) -> set[str]:
        """Files of registered suggesters."""
        return set(self._catalog.values(select(SuggesterRow.key))) & set(keys)

    def guideline_pictures(self, keys: Sequence[str]) -> set[str]:
        """Pictures that a dataset's guidelines have."""
        query = select(GuidelinePictureRow.key).where(GuidelinePictureRow.key.in_(keys))
        return set(self._catalog.values(query))

    def towers(self, keys: Sequence[str]) -> set[str]:
        """Files of registered CLIPs, whose rows name the folder."""
        folders = [layout.inside(key) for key in self._catalog.values(select(SuggesterRow.key))]
        return {key for key in keys if any(key.startswith(folder) for folder in folders)}

    def releases(self, keys: Sequence[str]) -> set[str]:
        """Files of releases, finished or being built."""
        folders = [layout.inside(key) for key in self._catalog.values(select(ReleaseRow.key))]
        return {key for key in keys if any(key.startswith(folder) for folder in folders)}

    def _done(self, run_ids: set[str]) -> set[str]:
        """The finished runs whose submitted masks, if any, are in the mask table."""
        query = select(RunRow.id).where(RunRow.id.in_(run_ids), RunRow.state == RunState.FINISHED)
        answers = select(TaskRow.run_id).where(TaskRow.state == TaskState.SUBMITTED)
        with self._catalog.reading() as session:
            finished = set(session.scalars(query))
            answered = set(session.scalars(answers.where(TaskRow.run_id.in_(finished)).distinct()))
        for run_id in finished - self._committed.keys():
            is_through = run_id not in answered or self._masks.committed(run_id, 0)
            self._committed[run_id] = is_through
        return {run_id for run_id in finished if self._committed[run_id]}


def pinned_versions(catalog: Catalog) -> set[int]:
    """Versions of the mask table that releases and model versions were made from, and that
    unfinished audits draw from; they must stay readable."""
    drawn_from = RunRow.config["audit"]["table_version"].as_integer()
    unfinished = (RunRow.kind == RunKind.REVIEW, RunRow.state != RunState.FINISHED)
    audited = catalog.values(select(drawn_from).where(*unfinished))
    trained_on = catalog.values(select(ModelRow.table_version))
    released = catalog.values(select(ReleaseRow.table_version))
    return {version for version in (*released, *trained_on, *audited) if version is not None}
