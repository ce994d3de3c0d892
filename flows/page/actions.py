"""The dashboard's buttons: each is a command of `dataengine`, run as a job.

Where the Prefect server in use has the workspace's deployments, the command is `dataengine start`:
a worker of the pool does the work, wherever that runs, and the job follows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

from engine.annotation.actions import Values
from engine.annotation.errors import RefusedError, invalid, not_found
from engine.annotation.schemas import ActionPlan, ActionView, JobView
from flows.deploy.start import is_deployed
from flows.page.background_commands import (
    Job,
    command_of,
    jobs_in,
    log_of,
    start_job,
    state_of,
    stop_job,
)
from flows.workspace.workspace import Workspace
from storage.catalog import (
    BadNameError,
    Dataset,
    DatasetNotFoundError,
    LoopConflictError,
    RoundState,
    RunKind,
    Split,
    check_name,
    new_id,
)

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Action:
    title: str
    defaults: Callable[[Workspace, str], Fields]
    """The fields with their values for a dataset."""
    told: Callable[[Workspace, Dataset, Fields], str]
    """What it will do, in a sentence."""
    options: tuple[str, ...] = ()
    """Fields that `dataengine start NAME` takes as options; none: no deployment does it."""
    arguments: Callable[[Fields], list[str]] | None = None
    """Of `dataengine`, from the values of the fields; None: the name and the options."""


def _dataset(workspace: Workspace) -> str:
    names = [row.name for row in workspace.catalog.datasets.all()]
    return names[0] if names else ""


def _loop_fields(workspace: Workspace, dataset: str) -> Fields:
    """Those of the loop that is under way, else of a first one for people."""
    from flows.loop.plan import PlanWords, loop_under_way, words_of

    loop = loop_under_way(workspace, dataset) if dataset else None
    words = PlanWords(rounds="2,1,1", images_per_round=20, annotator="people")
    plan = asdict(words_of(loop.plan) if loop else words)
    return {"dataset": dataset, **plan, "new": False}


def _loop_plan(workspace: Workspace, dataset: Dataset, fields: Fields) -> str:
    from flows.loop.plan import BadPlanError, PlanWords, loop_plan, loop_under_way, told, words_of

    given = PlanWords(**{name: fields[name] for name in PlanWords.__dataclass_fields__})
    try:
        plan = loop_plan(workspace, dataset.name, given)
    except (BadPlanError, LoopConflictError) as error:
        raise invalid(str(error)) from error
    begins = "go through"
    if (loop := loop_under_way(workspace, dataset.name)) is not None:
        states = [row.state for row in workspace.catalog.rounds.for_loop(loop.id)]
        begins = f"continue the loop, {states.count(RoundState.DONE)} of {len(states)} done:"
    return (
        f"{begins} {told(words_of(plan))}; the model is retrained after each round of stages 1 "
        "and 2"
    )


def _retrain_plan(workspace: Workspace, dataset: Dataset, fields: Fields) -> str:
    from flows.training.training_set import trained_on

    held_out = workspace.catalog.images.count(dataset.id, split=Split.HELD_OUT)
    return (
        f"train a new version from {workspace.current_model().version} on "
        f"{trained_on(workspace, dataset)} of {dataset.name}; it becomes current only if it is "
        f"surely better on held-out images ({held_out} are there)"
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
        _loop_fields,
        _loop_plan,
        arguments=lambda f: [
            *("run", "--dataset", f["dataset"], "--rounds", str(f["rounds"])),
            *("--images-per-round", str(f["images_per_round"]), "--annotator", f["annotator"]),
            *(["--new"] if f["new"] else []),
        ],
    ),
    "retrain": _Action(
        "Retrain now",
        lambda w, d: {"dataset": d},
        _retrain_plan,
        ("dataset",),
    ),
    "generate": _Action(
        "Generate masks",
        lambda w, d: {"dataset": d, "limit": None},
        _generate_plan,
        ("dataset", "limit"),
        lambda f: ["generate", "--only-new", *_options(f, "dataset", "limit")],
    ),
    "review": _Action(
        "Sample a review",
        lambda w, d: {"dataset": d, "images": 20, "annotator": "people"},
        lambda w, d, f: (
            f"send automatic masks that no reviewer was asked about, of at most {f['images']} "
            f"random images of {d.name}, to the review queue"
        ),
        ("dataset", "images"),
        lambda f: ["review", *_options(f, "dataset", "images", "annotator")],
    ),
    "advance": _Action(
        "Take the next step",
        lambda w, d: {"dataset": d},
        lambda w, d, f: (
            f"take {d.name} as far as it goes without people: enter reviews that are judged, go on "
            "with a round whose tasks are handed in, retrain where that is due"
        ),
        ("dataset",),
    ),
    "rescore": _Action(
        "Compare with the new model",
        lambda w, d: {"dataset": d},
        lambda w, d, f: (
            f"ask {w.current_model().version} again for old automatic masks of at most "
            f"{w.settings.production.rescore_images} images of {d.name}, and send those on which "
            "it disagrees to the review queue"
        ),
        ("dataset",),
    ),
    "release": _Action(
        "Make a release",
        lambda w, d: {"dataset": d, "name": f"{d}-{datetime.now(UTC):%Y%m%d}"},
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

    def all(self, dataset: str | None = None) -> list[ActionView]:
        """What there is, with the values of the fields for a dataset; for the first by default."""
        return [
            ActionView(name=name, title=action.title, fields=self._fields(action, dataset))
            for name, action in ACTIONS.items()
        ]

    def _fields(self, action: _Action, dataset: Any) -> Fields:
        try:
            return action.defaults(self._workspace, str(dataset or _dataset(self._workspace)))
        except DatasetNotFoundError as error:
            raise invalid(f"{error}; bring images in with `dataengine ingest` first") from error

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
        return self._view(self._job(job_id))

    def stop(self, job_id: str) -> JobView:
        """Interrupt one of them; a second time, end it at once.

        Raises:
            RefusedError: there is none.
        """
        job = self._job(job_id)
        stop_job(self._folder, job)
        return self._view(job)

    def _job(self, job_id: str) -> Job:
        for job in jobs_in(self._folder):
            if job.id == job_id:
                return job
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
        fields = self._fields(ACTIONS[name], values.get("dataset"))
        for key, value in values.items():
            if key not in fields:
                raise invalid(f"{name} has no field {key!r}; it has {', '.join(fields)}")
            if key == "name" and value is None:
                continue  # the default of its dataset stays
            fields[key] = _of_kind(key, value, fields[key])
        return ACTIONS[name], fields

    def _view(self, job: Job) -> JobView:
        state, ended = state_of(self._folder, job)
        return JobView(
            id=job.id,
            action=job.action,
            title=ACTIONS[job.action].title if job.action in ACTIONS else job.action,
            command=command_of(job.arguments),
            state=cast("Literal['running', 'done', 'failed', 'stopped']", state),
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
    if name == "annotator" and text not in ("people", "simulated"):
        raise invalid(f"the annotator is people or simulated, got {text!r}")
    # an argument that looks like an option, or that no process can be given
    if not text or text.startswith("-") or not text.isprintable():
        raise invalid(f"{name} cannot be {text!r}")
    return text
