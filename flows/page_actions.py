"""The dashboard's buttons: each is a command of `dataengine`, run as a job.

Where the Prefect server in use has the workspace's deployments, the command is `dataengine start`:
a worker of the pool does the work, wherever that runs, and the job follows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

from engine.annotation.actions import Values
from engine.annotation.errors import RefusedError, invalid, not_found
from engine.annotation.schemas import ActionPlan, ActionView, JobView
from flows.jobs import Job, command_of, jobs_in, log_of, start_job, state_of
from flows.starting import is_deployed
from flows.wiring import Workspace
from storage.catalog import (
    BadNameError,
    Dataset,
    DatasetNotFoundError,
    RunKind,
    Split,
    check_name,
    new_id,
)

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Action:
    title: str
    defaults: Callable[[Workspace], Fields]
    told: Callable[[Workspace, Dataset, Fields], str]
    """What it will do, in a sentence."""
    options: tuple[str, ...] = ()
    """Fields that `dataengine start NAME` takes as options; none: no deployment does it."""
    arguments: Callable[[Fields], list[str]] | None = None
    """Of `dataengine`, from the values of the fields; None: the name and the options."""


def _dataset(workspace: Workspace) -> str:
    names = [row.name for row in workspace.catalog.datasets.all()]
    return names[0] if names else ""


def _loop_plan(fields: Fields) -> str:
    people = fields["annotator"] == "people"
    who = "people at this page" if people else "the simulated annotator"
    return (
        f"go through {fields['rounds']} rounds of stages 1, 2, 3 with at most "
        f"{fields['images_per_round']} images a round, annotated by {who}; the model is retrained "
        "after each round of stages 1 and 2"
    )


def _generate_plan(workspace: Workspace, dataset: Dataset, fields: Fields) -> str:
    images = workspace.catalog.images.count(dataset.id)
    done = workspace.catalog.shards.planned_images(dataset.id, RunKind.FULLY_AUTOMATIC)
    left = images - len(done)
    wanted = min(int(fields["limit"] or left), left)
    return (
        f"make masks of everything in {wanted} of the {left} images of {dataset.name} that no such "
        f"run has been over ({images} in all) with {workspace.current_model().version}"
    )


def _options(fields: Fields, *names: str) -> list[str]:
    """As options of a command, those that have a value."""
    given = [(name, fields[name]) for name in names if fields[name] is not None]
    return [part for name, value in given for part in (f"--{name}", str(value))]


ACTIONS: dict[str, _Action] = {
    "round": _Action(
        "Start or continue the loop",
        lambda w: {
            "dataset": _dataset(w),
            "rounds": "2,1,1",
            "images_per_round": 20,
            "annotator": "people",
            "new": False,
        },
        lambda w, d, f: _loop_plan(f),
        arguments=lambda f: [
            *("run", "--dataset", f["dataset"], "--rounds", str(f["rounds"])),
            *("--images-per-round", str(f["images_per_round"]), "--annotator", f["annotator"]),
            *(["--new"] if f["new"] else []),
        ],
    ),
    "retrain": _Action(
        "Retrain now",
        lambda w: {"dataset": _dataset(w)},
        lambda w, d, f: (
            f"train a new version from {w.current_model().version} on all masks that people made "
            f"or confirmed in {d.name}; it becomes current only if it is surely better on held-out "
            f"images ({w.catalog.images.count(d.id, split=Split.HELD_OUT)} are there)"
        ),
        ("dataset",),
    ),
    "generate": _Action(
        "Generate masks",
        lambda w: {"dataset": _dataset(w), "limit": None},
        _generate_plan,
        ("dataset", "limit"),
        lambda f: ["generate", "--only-new", *_options(f, "dataset", "limit")],
    ),
    "review": _Action(
        "Sample a review",
        lambda w: {"dataset": _dataset(w), "images": 20, "annotator": "people"},
        lambda w, d, f: (
            f"send automatic masks of at most {f['images']} random images of {d.name} to the "
            "review queue"
        ),
        ("dataset", "images"),
        lambda f: ["review", *_options(f, "dataset", "images", "annotator")],
    ),
    "advance": _Action(
        "Take the next step",
        lambda w: {"dataset": _dataset(w)},
        lambda w, d, f: (
            f"take {d.name} as far as it goes without people: enter reviews that are judged, go on "
            "with a round whose tasks are handed in, retrain where that is due"
        ),
        ("dataset",),
    ),
    "rescore": _Action(
        "Compare with the new model",
        lambda w: {"dataset": _dataset(w)},
        lambda w, d, f: (
            f"ask {w.current_model().version} again for old automatic masks of at most "
            f"{w.settings.production.rescore_images} images of {d.name}, and send those on which "
            "it disagrees to the review queue"
        ),
        ("dataset",),
    ),
    "release": _Action(
        "Make a release",
        lambda w: {"dataset": _dataset(w), "name": f"{_dataset(w)}-{datetime.now(UTC):%Y%m%d}"},
        lambda w, d, f: (
            f"freeze {d.name} as {f['name']}: pin the mask table's version and write COCO, SA-1B, "
            "a report and a card"
        ),
        ("dataset", "name"),
        lambda f: ["release", f["name"], *_options(f, "dataset")],
    ),
}


JOBS = 20
"""Jobs that are shown; their logs are read once a second while somebody looks."""


class WorkspaceActions:
    """The page's `Actions` on one workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._folder = workspace.cache / "jobs"

    def all(self) -> list[ActionView]:
        """What there is."""
        return [
            ActionView(name=name, title=action.title, fields=action.defaults(self._workspace))
            for name, action in ACTIONS.items()
        ]

    def plan(self, name: str, values: Values) -> ActionPlan:
        """What the action will do.

        Raises:
            RefusedError: no such action, or a value is wrong.
        """
        action, fields = self._checked(name, values)
        try:
            if name == "release":
                check_name("release", str(fields["name"]))
            dataset = self._workspace.catalog.datasets.get(str(fields["dataset"]))
        except DatasetNotFoundError as error:
            raise invalid(f"{error}; bring images in with `dataengine ingest` first") from error
        except BadNameError as error:
            raise invalid(str(error)) from error
        text = action.told(self._workspace, dataset, fields)
        return ActionPlan(
            text=text[0].upper() + text[1:] + ".",
            command=command_of(self._arguments(name, fields)),
        )

    def start(self, name: str, values: Values) -> JobView:
        """Start it.

        Raises:
            RefusedError: as `plan`, or the same is running already.
        """
        self.plan(name, values)
        _, fields = self._checked(name, values)
        arguments = self._arguments(name, fields)
        for job in jobs_in(self._folder):
            if job.arguments == arguments and state_of(self._folder, job)[0] == "running":
                raise RefusedError(409, "running", "this is running already")
        started = datetime.now(UTC).isoformat()
        job = Job(id=new_id(), action=name, arguments=arguments, started_at=started)
        start_job(self._folder, job, self._workspace.settings.root)
        return self._view(job)

    def jobs(self) -> list[JobView]:
        """What was started last, the newest first."""
        return [self._view(job) for job in jobs_in(self._folder)[:JOBS]]

    def job(self, job_id: str) -> JobView:
        """One of them.

        Raises:
            RefusedError: there is none.
        """
        for job in jobs_in(self._folder):
            if job.id == job_id:
                return self._view(job)
        raise not_found(f"no job {job_id!r}")

    def _arguments(self, name: str, fields: Fields) -> list[str]:
        """Of `dataengine`: what hands the work to a pool, if there is one for it. Simulated
        annotators work on the page's machine."""
        action, by_people = ACTIONS[name], fields.get("annotator", "people") == "people"
        same = [name, *_options(fields, *action.options)]
        if action.options and by_people and is_deployed(self._workspace, name):
            return ["start", *same]
        return same if action.arguments is None else action.arguments(fields)

    def _checked(self, name: str, values: Values) -> tuple[_Action, Fields]:
        """The action, and its fields with values of the defaults' kinds."""
        if name not in ACTIONS:
            raise not_found(f"no action {name!r}; there are {', '.join(ACTIONS)}")
        fields = ACTIONS[name].defaults(self._workspace)
        for key, value in values.items():
            if key not in fields:
                raise invalid(f"{name} has no field {key!r}; it has {', '.join(fields)}")
            fields[key] = _of_kind(key, value, fields[key])
        return ACTIONS[name], fields

    def _view(self, job: Job) -> JobView:
        state, ended = state_of(self._folder, job)
        return JobView(
            id=job.id,
            action=job.action,
            command=command_of(job.arguments),
            state=cast("Literal['running', 'done', 'failed']", state),
            started_at=datetime.fromisoformat(job.started_at),
            finished_at=ended,
            log=log_of(self._folder, job),
        )


def _of_kind(name: str, value: Any, default: Any) -> Any:
    """A value of a field's kind; a field whose default is None takes a whole number or nothing."""
    if isinstance(default, bool):
        return value is True or str(value).lower() in ("true", "yes", "on", "1")
    if isinstance(default, int) or default is None:
        if value in (None, ""):
            return default
        try:
            number = int(str(value))
        except ValueError as error:
            raise invalid(f"{name} is a whole number, got {value!r}") from error
        if number < 1:
            raise invalid(f"{name} must be at least 1, got {number}")
        return number
    text = str(value or "").strip()
    # an argument that looks like an option, or that no process can be given
    if not text or text.startswith("-") or not text.isprintable():
        raise invalid(f"{name} cannot be {text!r}")
    return text
