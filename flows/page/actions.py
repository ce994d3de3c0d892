"""The dashboard's buttons: each runs a command of `dataengine` in the background.

If the Prefect server in use has the workspace's deployments, the command is `dataengine start`: a
worker of the pool does the work, on whichever machine, and the command shows its log.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal, cast

from engine.annotation.actions import Values
from engine.annotation.errors import RefusedError, invalid, not_found
from engine.annotation.schemas import ActionPlan, ActionView, JobView
from engine.core.errors import DataEngineError
from flows.deploy.job_forms import Fields, Form, option_arguments
from flows.deploy.jobs import JOBS
from flows.deploy.start import is_deployed
from flows.loop.plan import (
    BadPlanError,
    PlanOptions,
    check_annotator,
    check_choice,
    describe_plan,
    loop_plan,
    options_of,
    unfinished_loop,
)
from flows.page.background_commands import (
    BackgroundCommand,
    command_line,
    commands_in,
    log_of,
    start_command,
    state_of,
    stop_command,
)
from flows.workspace.progress import share_in
from flows.workspace.workspace import Workspace
from storage.catalog import (
    BadNameError,
    Dataset,
    DatasetNotFoundError,
    LoopConflictError,
    RoundState,
    check_name,
    new_id,
)


def _dataset(workspace: Workspace) -> str:
    names = [row.name for row in workspace.catalog.datasets.all()]
    return names[0] if names else ""


def _loop_fields(workspace: Workspace, dataset: str) -> Fields:
    """The fields of the unfinished loop, else of a new one for people."""
    loop = unfinished_loop(workspace, dataset) if dataset else None
    options = PlanOptions(
        rounds="2,1,1",
        images_per_round=20,
        annotator="people",
        choice=workspace.settings.rounds.choice,
    )
    plan = asdict(options_of(loop.plan) if loop else options)
    return {"dataset": dataset, **plan, "new": False}


def _describe_loop(workspace: Workspace, dataset: Dataset, fields: Fields) -> str:
    given = PlanOptions(**{name: fields[name] for name in PlanOptions.__dataclass_fields__})
    try:
        plan = loop_plan(workspace, dataset.name, given)
    except (BadPlanError, LoopConflictError) as error:
        raise invalid(str(error)) from error
    begins = "go through"
    if (loop := unfinished_loop(workspace, dataset.name)) is not None:
        states = [row.state for row in workspace.catalog.rounds.for_loop(loop.id)]
        begins = f"continue the loop, {states.count(RoundState.DONE)} of {len(states)} done:"
    return (
        f"{begins} {describe_plan(options_of(plan))}; the model is retrained after each round of "
        "stages 1 and 2"
    )


ACTIONS: dict[str, Form] = {
    "round": Form(
        title="Start or continue the loop",
        defaults=_loop_fields,
        describe=_describe_loop,
        arguments=lambda f: [
            *("run", "--dataset", f["dataset"], "--rounds", str(f["rounds"])),
            *("--images-per-round", str(f["images_per_round"]), "--annotator", f["annotator"]),
            *("--choice", f["choice"]),
            *(["--new"] if f["new"] else []),
        ],
    ),
    **{name: job.form for name, job in JOBS.items() if job.form is not None},
}
"""What the dashboard can start: the loop, which no deployment takes through, and the jobs."""


SHOWN_COMMANDS = 20
"""Commands that are shown; an open dashboard reads their logs once per second."""


class WorkspaceActions:
    """The page's `Actions` on one workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._folder = workspace.cache / "jobs"

    def all(self, dataset: str | None = None) -> list[ActionView]:
        """All actions, with the values of their fields for a dataset; by default for the first."""
        return [
            ActionView(name=name, title=action.title, fields=self._fields(action, dataset))
            for name, action in ACTIONS.items()
        ]

    def _fields(self, action: Form, dataset: Any) -> Fields:
        try:
            return action.defaults(self._workspace, str(dataset or _dataset(self._workspace)))
        except DatasetNotFoundError as error:
            raise invalid(f"{error}; add images with `dataengine ingest` first") from error

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
            raise invalid(f"{error}; add images with `dataengine ingest` first") from error
        except BadNameError as error:
            raise invalid(str(error)) from error
        try:
            text = action.describe(self._workspace, dataset, fields)
        except DataEngineError as error:
            raise invalid(str(error)) from error
        return ActionPlan(
            text=text[0].upper() + text[1:] + ".",
            command=command_line(self._arguments(name, fields)),
        )

    def start(self, name: str, values: Values) -> JobView:
        """Start it.

        Raises:
            RefusedError: as `plan`, or the same is running already.
        """
        self.plan(name, values)
        _, fields = self._checked(name, values)
        return self._start(name, self._arguments(name, fields))

    def retry(self, job_id: str) -> JobView:
        """Start a command that failed or was stopped again: it continues where it ended.

        Raises:
            RefusedError: there is none, it has not failed, or the same is running already.
        """
        command = self._command(job_id)
        if (state := state_of(self._folder, command)[0]) not in ("failed", "stopped"):
            raise RefusedError(409, state, f"this job is {state}; only a failed one is repeated")
        return self._start(command.action, command.arguments)

    def _start(self, name: str, arguments: list[str]) -> JobView:
        for earlier in commands_in(self._folder):
            if earlier.arguments == arguments and state_of(self._folder, earlier)[0] == "running":
                raise RefusedError(409, "running", "this command is already running")
        started = datetime.now(UTC).isoformat()
        command = BackgroundCommand(
            id=new_id(), action=name, arguments=arguments, started_at=started
        )
        start_command(self._folder, command, self._workspace.settings.root)
        return self._view(command)

    def jobs(self) -> list[JobView]:
        """The latest commands, the newest first."""
        return [self._view(command) for command in commands_in(self._folder)[:SHOWN_COMMANDS]]

    def job(self, job_id: str) -> JobView:
        """One of them.

        Raises:
            RefusedError: there is none.
        """
        return self._view(self._command(job_id))

    def stop(self, job_id: str) -> JobView:
        """Interrupt a command; the second time, kill it.

        Raises:
            RefusedError: there is none.
        """
        command = self._command(job_id)
        stop_command(self._folder, command)
        return self._view(command)

    def _command(self, job_id: str) -> BackgroundCommand:
        for command in commands_in(self._folder):
            if command.id == job_id:
                return command
        raise not_found(f"no job {job_id!r}")

    def _arguments(self, name: str, fields: Fields) -> list[str]:
        """The arguments of `dataengine`: `start` if the job is deployed, so that a worker runs it,
        except with simulated annotators; else the same command on the page's machine."""
        form, job = ACTIONS[name], JOBS.get(name)
        same = [name, *option_arguments(fields, *(job.option_names if job else ()))]
        by_people = fields.get("annotator", "people") == "people"
        if job and by_people and is_deployed(self._workspace, name):
            return ["start", *same, "--cancel"]  # `Stop` sends Ctrl-C
        return same if form.arguments is None else form.arguments(fields)

    def _checked(self, name: str, values: Values) -> tuple[Form, Fields]:
        """The action, and its fields with values of the defaults' types."""
        if name not in ACTIONS:
            raise not_found(f"no action {name!r}; there are {', '.join(ACTIONS)}")
        fields = self._fields(ACTIONS[name], values.get("dataset"))
        for key, value in values.items():
            if key not in fields:
                raise invalid(f"{name} has no field {key!r}; it has {', '.join(fields)}")
            if key == "name" and value is None:
                continue  # keeps the dataset's default
            fields[key] = _converted(key, value, fields[key])
        return ACTIONS[name], fields

    def _view(self, command: BackgroundCommand) -> JobView:
        state, ended = state_of(self._folder, command)
        log = log_of(self._folder, command)
        return JobView(
            id=command.id,
            action=command.action,
            title=ACTIONS[command.action].title if command.action in ACTIONS else command.action,
            command=command_line(command.arguments),
            state=cast("Literal['running', 'done', 'failed', 'stopped']", state),
            started_at=datetime.fromisoformat(command.started_at),
            finished_at=ended,
            log=log,
            progress=share_in(log) if state == "running" else None,
        )


def _converted(name: str, value: Any, default: Any) -> Any:
    """The value in the type of the default; a default of None stands for an optional integer."""
    if isinstance(default, bool):
        return value is True or str(value).lower() in ("true", "yes", "on", "1")
    if isinstance(default, float):
        try:
            return float(str(value))
        except ValueError as error:
            raise invalid(f"{name} is a number, got {value!r}") from error
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
    if name in ("annotator", "choice"):
        try:
            (check_annotator if name == "annotator" else check_choice)(text)
        except BadPlanError as error:
            raise invalid(str(error)) from error
    # it would be taken for an option, or cannot be an argument of a process
    if not text or text.startswith("-") or not text.isprintable():
        raise invalid(f"{name} cannot be {text!r}")
    return text
