"""Runs of programs over a dataset, sharded and resumable; and of one image, to try a program."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from prefect import flow

from engine.core.errors import DataEngineError
from engine.programs.errors import ProgramError
from engine.programs.expression import as_text
from engine.programs.interpreter import Done, execute, is_selected
from engine.programs.language import Program, parse
from engine.programs.rationale import section
from engine.programs.values import Objects, Picture, Value
from engine.semantics.chat import ChatError
from flows.programs.saved import SavedProgram
from flows.programs.tools import ProgramModels, ThingsOfDataset, models_for, tools_for
from flows.stages.shard_files import rows_task
from flows.stages.shards import plan_shards, work_until_done
from flows.workspace import progress
from flows.workspace.run_lock import named_lock, tracked_run
from flows.workspace.workspace import Workspace, code_version, open_workspace
from storage import layout
from storage.catalog import Dataset, Image, Run, RunKind, Shard, new_id
from storage.formats.images import BadImageError, write_png
from storage.shard_rows import ShardRows

STAGE = "program"
"""In the quarantine: what an image could not be read for."""

RATIONALES = 3
"""Images of a shard whose rationale is kept: its first one, and those that are selected or fail."""

MOST_PAIRS = 100_000
REFUSED = 3
"""Images in a row without an answer of the language model after which the run stops."""
RUNS = 1_000
SHOWN_ANSWERS = 20


class RunError(DataEngineError):
    """A program cannot run over the dataset as asked; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """What a program runs over.

    Attributes:
        encoder: `clip:NAME`, which compares objects without a label with words; None: none does.
        tag: a name for what the run selects.
        limit: the most images.
        pairs: image ids, LEFT and RIGHT; for programs of pairs.
    """

    encoder: str | None = None
    tag: str | None = None
    limit: int | None = None
    pairs: tuple[tuple[int, int], ...] = ()

    def to_config(self) -> dict[str, Any]:
        """The stored form."""
        pairs = [list(pair) for pair in self.pairs]
        return {"encoder": self.encoder, "tag": self.tag, "limit": self.limit, "pairs": pairs}


@flow(name="run-program")
def run_program(
    workspace: str,
    dataset: str,
    program: str,
    name: str | None = None,
    version: int | None = None,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Prefect flow: run a program over a dataset; a stopped run with the same arguments resumes.

    Args:
        workspace: the folder.
        dataset: its name.
        program: the text.
        name, version: under which it is saved, if it is.
        options: of RunOptions, as `to_config` gives them.
    """
    opened = open_workspace(workspace)
    row = opened.catalog.datasets.get(dataset)
    given = options or {}
    pairs = tuple((int(left), int(right)) for left, right in given.get("pairs", ()))
    chosen = RunOptions(**{**given, "pairs": pairs})
    asked = {"program": program, "name": name, "version": version, **chosen.to_config()}
    with named_lock(opened, f"program/{row.id}"):  # or two would start the same
        run_id = _begin(opened, row, parse(program), asked)
    with tracked_run(opened, run_id):
        work_until_done(opened, run_id, _one_shard, "program")
        return opened.catalog.runs.finish(run_id, figures_of(opened, run_id)).metrics


def _begin(workspace: Workspace, dataset: Dataset, program: Program, asked: dict[str, Any]) -> str:
    """Return the unfinished run that was asked the same, else a new one with its shards."""
    known = workspace.catalog.runs.all(
        dataset_id=dataset.id, kind=RunKind.PROGRAM, unfinished=True, limit=RUNS
    )
    same = next((run for run in known if run.config["asked"] == asked), None)
    image_ids = _image_ids(workspace, dataset, program, asked)
    root = str(workspace.settings.root)
    models = _models(root, dataset.name, asked["program"], asked["encoder"])
    run = workspace.catalog.runs.start(
        new_id() if same is None else same.id,
        RunKind.PROGRAM,
        dataset_id=dataset.id,
        config={
            "asked": asked,
            "models": models.to_config(),
            "settings": workspace.settings.shaping(),
        },
        code_version=code_version(),
    )
    plan_shards(workspace, run.id, image_ids)
    return run.id


def _image_ids(
    workspace: Workspace, dataset: Dataset, program: Program, asked: dict[str, Any]
) -> list[int]:
    pairs = asked["pairs"]
    if program.is_pair != bool(pairs):
        what = "looks at LEFT and RIGHT: give pairs of images" if program.is_pair else "has IMAGE"
        raise RunError(f"the program {what}{'' if program.is_pair else ', not pairs'}")
    if len(pairs) > MOST_PAIRS:
        raise RunError(f"a run has at most {MOST_PAIRS:,} pairs, got {len(pairs):,}")
    if pairs:
        found = list(dict.fromkeys(left for left, _ in pairs))
    else:
        found = list(workspace.catalog.images.ids(dataset.id))
    found = found[: asked["limit"]]
    if not found:
        raise RunError(f"dataset {dataset.name!r} has no images; `dataengine ingest` adds some")
    return found


def _rows(
    workspace: Workspace, run: Run, shard: Shard, advance: progress.Advance
) -> list[dict[str, Any]]:
    asked = run.config["asked"]
    dataset = workspace.catalog.datasets.get_by_id(run.dataset_id)
    runner = _Runner(workspace, dataset, asked["program"], asked["encoder"])
    right = {left: [r for one, r in asked["pairs"] if one == left] for left in shard.image_ids}
    found: list[dict[str, Any]] = []
    refused = 0
    for image_id in shard.image_ids:
        for other in right[image_id] or [None]:
            kept = sum(row.get("rationale") is not None for row in found)
            row = runner.row(image_id, other, kept)
            refused = refused + 1 if row.pop("is_refused") else 0
            if refused == REFUSED:
                raise RunError(f"{row['error']} (of {REFUSED} images in a row); repeat the command")
            found.append(row)
        advance(1)
    return found


_one_shard = rows_task("program-shard", layout.PROGRAM, _rows)


class _Runner:
    """Runs one program on images of a dataset."""

    def __init__(
        self, workspace: Workspace, dataset: Dataset, program: str, encoder: str | None
    ) -> None:
        self._workspace, self._program = workspace, parse(program)
        self._things = ThingsOfDataset(workspace, dataset)
        root = str(workspace.settings.root)
        self._models = _models(root, dataset.name, program, encoder)

    def row(self, image_id: int, right_id: int | None, kept: int) -> dict[str, Any]:
        """Return the row of an image or a pair; an error becomes a part of it. `kept`: rationales
        of the shard so far."""
        ids = [image_id] if right_id is None else [image_id, right_id]
        row: dict[str, Any] = {"image_id": image_id, "right_id": right_id, "is_refused": False}
        images = {one.id: one for one in self._workspace.catalog.images.get_many(ids)}
        if len(images) < len(set(ids)):
            return row | {"selected": False, "error": "the image was erased"}
        done: list[Done] = []
        pictures: dict[str, Picture] = {}
        value: Value | None = None
        try:
            pictures = self._pictures([images[one] for one in ids])
            value = self._run(ids, pictures, done)
        except (ProgramError, ChatError, BadImageError) as error:
            row["error"], row["is_refused"] = str(error), isinstance(error, ChatError)
        row |= _stored(value, keeps_picture=right_id is None)
        tells = not kept or row["selected"] or "error" in row
        if tells and kept < RATIONALES and right_id is None and pictures:
            name = images[image_id].file_name
            row["rationale"] = section(name, pictures, done, row.get("error", ""))
        return row

    def _pictures(self, images: Sequence[Image]) -> dict[str, Picture]:
        found: dict[str, Picture] = {}
        for slot, image in zip(self._program.inputs, images, strict=True):
            try:
                found[slot] = Picture.whole(self._workspace.pixels(image), slot)
            except BadImageError as error:
                self._workspace.catalog.quarantine.add_image(image, error, stage=STAGE)
                raise
        return found

    def _run(self, ids: Sequence[int], pictures: Mapping[str, Picture], done: list[Done]) -> Value:
        by_image = self._things.of(ids)
        things = dict(zip(self._program.inputs, map(by_image.__getitem__, ids), strict=True))
        pixels = {slot: picture.pixels_HWC for slot, picture in pictures.items()}
        tools = tools_for(self._models, pixels, things, self._things.categories)
        return execute(self._program, pictures, tools, done=done)

    def sections(self, images: Sequence[Image], title: str) -> tuple[Value, str]:
        """Run on one image or pair, and return the value and its part of a rationale.

        Raises:
            ProgramError: a step fails.
            ChatError: the language model does not answer.
            BadImageError: an image cannot be read.
        """
        done: list[Done] = []
        pictures = self._pictures(images)
        value = self._run([image.id for image in images], pictures, done)
        return value, section(title, pictures, done)


@lru_cache(maxsize=2)
def _models(root: str, dataset: str, program: str, encoder: str | None) -> ProgramModels:
    """The models, loaded once in a process."""
    workspace = open_workspace(root)
    row = workspace.catalog.datasets.get(dataset)
    return models_for(workspace, row, parse(program), encoder)


def _stored(value: Value | None, *, keeps_picture: bool) -> dict[str, Any]:
    """Return the columns of a result."""
    row: dict[str, Any] = {"selected": value is not None and is_selected(value)}
    if isinstance(value, Objects):
        stored = [thing for thing in value.things if thing.mask_id is not None]
        row["mask_ids"] = [thing.mask_id for thing in stored]
        row["names"] = [thing.shown for thing in stored]
        row["answer"] = json.dumps(len(value.things))
    elif isinstance(value, Picture):
        if keeps_picture and not value.is_empty:
            row["picture"] = write_png(value.pixels_HWC)
    elif value is not None:
        row["answer"] = json.dumps(value)
    return row


def try_program(
    workspace: Workspace,
    dataset: Dataset,
    saved: SavedProgram,
    images: Sequence[Image],
    encoder: str | None,
) -> tuple[Value, str]:
    """Run a program on one image or pair without storing anything; return the value and its part
    of a rationale.

    Raises:
        RunError: the number of images is another one than that of the program's inputs.
        ProgramError, ChatError, BadImageError: a step fails.
    """
    if len(images) != len(saved.program.inputs):
        raise RunError(f"the program looks at {' and '.join(saved.program.inputs)}: name as many")
    runner = _Runner(workspace, dataset, saved.program.text, encoder)
    return runner.sections(images, " and ".join(image.file_name for image in images))


def results(
    workspace: Workspace, run_id: str, columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a run (`storage.shard_rows.PROGRAM_COLUMNS`)."""
    return ShardRows(workspace.objects, layout.PROGRAM).read(run_id, columns)


def figures_of(workspace: Workspace, run_id: str) -> dict[str, Any]:
    """Return a run's figures: images or pairs, how many are selected and failed, the most frequent
    answers, and the first errors."""
    answers: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    images = selected = objects = pictures = 0
    columns = ("selected", "answer", "mask_ids", "error", "picture")
    for row in results(workspace, run_id, columns):
        images += 1
        selected += bool(row["selected"])
        objects += len(row["mask_ids"] or ())
        pictures += row["picture"] is not None
        if row["error"] is not None:
            errors[row["error"]] += 1
        elif row["answer"] is not None:
            answers[_told(row["answer"])] += 1
    return {
        "run": run_id,
        "images": images,
        "selected": selected,
        "objects": objects,
        "pictures": pictures,
        "failed": sum(errors.values()),
        "answers": dict(answers.most_common(SHOWN_ANSWERS)),
        "errors": dict(errors.most_common(SHOWN_ANSWERS)),
    }


def _told(answer: str) -> str:
    value = json.loads(answer)
    return ", ".join(value) if isinstance(value, list) else as_text(value)[:100]
