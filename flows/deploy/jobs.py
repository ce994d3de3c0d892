"""The registry of jobs: everything that Prefect can start.

The deployments, `dataengine start`, `dataengine schedule` and the buttons of the dashboard are made
from it. A new job is an entry in JOBS and its Prefect flow; `infra/prefect.yaml`, for those who use
`prefect deploy`, repeats the deployments, which a test compares.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from flows.deploy import job_forms
from flows.deploy.job_forms import Form
from flows.encoders.names import PUBLISHED_CLIP
from flows.prefect_api import events


@dataclass(frozen=True, kw_only=True, slots=True)
class Trigger:
    """An event that starts a job."""

    event: str
    labels: dict[str, str] = field(default_factory=dict)
    """Labels that the event's resource must also have."""
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobOption:
    """A parameter of a job's flow that users set, beside its dataset. Integers are positive."""

    name: str
    help: str
    kind: type[int] | type[float] | type[str] = int
    default: int | float | str | None = None
    """The value in a schedule that does not set it."""
    in_schedules: bool = True
    """Whether a schedule may set it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleCommand:
    """The command `dataengine schedule JOB`."""

    help: str
    example: str
    """A schedule that suits the job, as five fields of cron."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobDefinition:
    """A job that Prefect can start."""

    name: str
    """In commands, and on the page."""
    entrypoint: str
    """The import path of the job's flow. The flow takes `workspace` (the folder), `dataset` unless
    there is none, and the options; its name in Prefect is the function's with dashes."""
    dataset: Literal["required", "optional", "none"] = "required"
    """Whether the job works on one dataset, on one or all, or on the workspace."""
    options: tuple[JobOption, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    schedule: ScheduleCommand | None = None
    """None: events start it, and people, but no schedule."""
    form: Form | None = None
    """None: the dashboard has no button for it."""

    @property
    def flow_name(self) -> str:
        """The flow's name in Prefect."""
        return self.entrypoint.rpartition(".")[2].replace("_", "-")

    @property
    def option_names(self) -> tuple[str, ...]:
        """The parameters that users may set, the dataset included."""
        own = tuple(option.name for option in self.options)
        return own if self.dataset == "none" else ("dataset", *own)


_FLOWS = "flows.deploy.prefect_flows"
_SAME_DATASET = {"dataset": "{{ event.payload.dataset }}"}
_IF_DUE = {**_SAME_DATASET, "only_if_due": True}

_ENCODER = JobOption(name="encoder", help="lite, imagenet or clip:NAME.", kind=str, default="lite")

_PRECISION = JobOption(
    name="precision", help="share of sure answers that is right.", kind=float, default=0.95
)

_DEFINITIONS = (
    JobDefinition(
        name="generate",
        entrypoint=f"{_FLOWS}.generate_dataset",
        options=(JobOption(name="limit", help="maximum number of images."),),
        schedule=ScheduleCommand(
            help="Make masks in the images that no generate run has processed yet (stage 3).",
            example="0 2 * * *",
        ),
        form=job_forms.GENERATE,
    ),
    JobDefinition(
        name="advance",
        entrypoint=f"{_FLOWS}.advance_loop",
        dataset="optional",
        triggers=(
            Trigger(
                event=events.ROUND_DRAINED,
                labels={"dataengine.annotator": "people"},  # rounds of others continue themselves
                parameters=_SAME_DATASET,
            ),
        ),
        schedule=ScheduleCommand(
            help="Take the loop's next step, except where it waits for people.",
            example="*/10 * * * *",
        ),
        form=job_forms.ADVANCE,
    ),
    JobDefinition(
        name="retrain",
        entrypoint=f"{_FLOWS}.retrain_dataset",
        triggers=(
            Trigger(event=events.MASKS_ACCEPTED, parameters=_IF_DUE),
            Trigger(event=events.MASKS_REJECTED, parameters=_IF_DUE),
        ),
        schedule=ScheduleCommand(
            help="Train a new model version; promote it if it is better.", example="0 3 * * 6"
        ),
        form=job_forms.RETRAIN,
    ),
    JobDefinition(
        name="review",
        entrypoint=f"{_FLOWS}.review_sample",
        options=(JobOption(name="images", help="images to sample.", default=20),),
        schedule=ScheduleCommand(
            help="Queue a sample of automatic masks for people to review.", example="0 7 * * 1"
        ),
        form=job_forms.REVIEW,
    ),
    JobDefinition(
        name="verifier-train",
        entrypoint=f"{_FLOWS}.train_verifier_of_dataset",
        schedule=ScheduleCommand(
            help="Train a verifier on people's verdicts; promote it if it is better.",
            example="0 5 * * 1",
        ),
        form=job_forms.TRAIN_VERIFIER,
    ),
    JobDefinition(
        name="verifier-route",
        entrypoint=f"{_FLOWS}.route_masks_of_dataset",
        options=(
            JobOption(
                name="precision",
                help="share of sure masks that is right.",
                kind=float,
                default=0.95,
            ),
        ),
        schedule=ScheduleCommand(
            help="Let the verifier judge the automatic masks that it is sure of.",
            example="0 6 * * *",
        ),
        form=job_forms.ROUTE,
    ),
    JobDefinition(
        name="vectors",
        entrypoint=f"{_FLOWS}.make_vectors_of_dataset",
        options=(_ENCODER,),
        schedule=ScheduleCommand(
            help="Make the vectors that masks lack, for suggestions and search.",
            example="0 1 * * *",
        ),
    ),
    JobDefinition(
        name="suggest",
        entrypoint=f"{_FLOWS}.suggest_labels_of_dataset",
        triggers=(Trigger(event=events.LABELS_GIVEN, parameters=_IF_DUE),),
        options=(
            _ENCODER,
            JobOption(
                name="precision",
                help="share of confident suggestions that is right.",
                kind=float,
                default=0.95,
            ),
        ),
        schedule=ScheduleCommand(
            help="Learn from people's labels, and suggest categories for the other masks.",
            example="0 * * * *",
        ),
        form=job_forms.SUGGEST,
    ),
    JobDefinition(
        name="labels-train",
        entrypoint=f"{_FLOWS}.train_clip_of_dataset",
        options=(
            JobOption(name="encoder", help="clip:NAME.", kind=str, default=PUBLISHED_CLIP),
            JobOption(name="steps", help="steps of the optimiser."),
        ),
        schedule=ScheduleCommand(
            help="Train an adapter of a CLIP on people's labels, unless there are no new ones.",
            example="0 4 * * 1",
        ),
    ),
    JobDefinition(
        name="program",
        entrypoint=f"{_FLOWS}.run_program_on_dataset",
        options=(
            JobOption(name="program", help="name of a saved program.", kind=str),
            JobOption(name="tag", help="name for what the run selects.", kind=str),
        ),
        schedule=ScheduleCommand(
            help="Run a saved program over all images.",
            example="0 6 * * 1",
        ),
        form=job_forms.PROGRAM,
    ),
    JobDefinition(
        name="judge",
        entrypoint=f"{_FLOWS}.judge_masks_of_dataset",
        options=(_PRECISION,),
        schedule=ScheduleCommand(
            help="Let the calibrated language model judge the masks that it is sure of.",
            example="0 6 * * *",
        ),
        form=job_forms.JUDGE,
    ),
    JobDefinition(
        name="judge-labels",
        entrypoint=f"{_FLOWS}.judge_labels_of_dataset",
        options=(_PRECISION,),
        schedule=ScheduleCommand(
            help="Let the calibrated language model confirm the labels that it is sure of.",
            example="0 7 * * *",
        ),
        form=job_forms.JUDGE_LABELS,
    ),
    JobDefinition(
        name="judge-missing",
        entrypoint=f"{_FLOWS}.judge_missing_of_dataset",
        options=(_PRECISION,),
        schedule=ScheduleCommand(
            help="Let the calibrated language model say which images lack masks.",
            example="0 8 * * *",
        ),
        form=job_forms.JUDGE_MISSING,
    ),
    JobDefinition(
        name="caption",
        entrypoint=f"{_FLOWS}.caption_masks_of_dataset",
        options=(JobOption(name="model", help="llm or coca:NAME.", kind=str, default="llm"),),
        schedule=ScheduleCommand(
            help="Describe the masks that have no caption.", example="0 2 * * 0"
        ),
        form=job_forms.CAPTION,
    ),
    JobDefinition(
        name="release",
        entrypoint=f"{_FLOWS}.release_dataset",
        options=(JobOption(name="name", kind=str, help="release name.", in_schedules=False),),
        schedule=ScheduleCommand(
            help="Make a release, named after the dataset and the time.", example="0 4 1 * *"
        ),
        form=job_forms.RELEASE,
    ),
    JobDefinition(
        name="rescore",
        entrypoint=f"{_FLOWS}.rescore_masks",
        dataset="optional",
        triggers=(Trigger(event=events.MODEL_PROMOTED),),
        form=job_forms.RESCORE,
    ),
    JobDefinition(
        name="sweep",
        entrypoint=f"{_FLOWS}.sweep_workspace",
        dataset="none",
        schedule=ScheduleCommand(
            help="Remove objects and rows that nothing refers to any more.", example="30 4 * * *"
        ),
    ),
)

JOBS = {job.name: job for job in _DEFINITIONS}
"""All jobs by name, in the order in which help and the dashboard list them."""
