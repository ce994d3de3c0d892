"""The forms of the dashboard that start jobs: their fields, and what starting will do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace
    from storage.catalog import Dataset

Fields = dict[str, Any]
"""The fields of a form by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """A form of the dashboard: a button with fields."""

    title: str
    defaults: Callable[[Workspace, str], Fields]
    """Returns the fields with their values for the dataset of that name."""
    describe: Callable[[Workspace, Dataset, Fields], str]
    """Returns what the job will do, as a sentence without capital and full stop."""
    arguments: Callable[[Fields], list[str]] | None = None
    """Returns the arguments of `dataengine` that do the same on the page's machine; None: the
    form's name and the job's options."""


def option_arguments(fields: Fields, *names: str) -> list[str]:
    """Those fields that have a value, as options of a command."""
    given = [(name, fields[name]) for name in names if fields.get(name) is not None]
    return [part for name, value in given for part in (f"--{name}", str(value))]


def _describe_generate(workspace: Workspace, dataset: Dataset, fields: Fields) -> str:
    from storage.catalog import RunKind

    images = workspace.catalog.images.count(dataset.id)
    done = workspace.catalog.shards.planned_images(dataset.id, RunKind.FULLY_AUTOMATIC)
    left = images - len(done)
    chosen = min(int(fields["limit"] or left), left)
    return (
        f"make masks of everything in {chosen} of the {left} images of {dataset.name} that no such "
        f"run has processed ({images} in all) with {workspace.current_model().version}"
    )


def _describe_retrain(workspace: Workspace, dataset: Dataset, fields: Fields) -> str:
    from flows.training.training_set import trained_on
    from storage.catalog import Split

    held_out = workspace.catalog.images.count(dataset.id, split=Split.HELD_OUT)
    return (
        f"train a new version from {workspace.current_model().version} on "
        f"{trained_on(workspace, dataset)} of {dataset.name}; it becomes current only if it is "
        f"significantly better on held-out images (there are {held_out})"
    )


def _describe_verifier(workspace: Workspace, dataset: Dataset, fields: Fields) -> str:
    verdicts = len(workspace.catalog.verdicts.of_people(dataset.id))
    return (
        f"train a verifier on the {verdicts} masks of {dataset.name} that people have judged; it "
        "becomes current only if it is significantly better than the current one, or than the "
        "scores of the masks alone"
    )


def _describe_route(workspace: Workspace, dataset: Dataset, fields: Fields) -> str:
    from flows.review.route_options import RouteOptions
    from storage.catalog import ModelKind

    options = RouteOptions(precision=fields["precision"])
    current = workspace.catalog.models.current(ModelKind.VERIFIER)
    version = "the verifier (none is current yet: train one first)"
    if current is not None:
        version = current.version
    return (
        f"accept or reject the automatic masks of {dataset.name} that {version} is sure of, so "
        f"that {options.precision:.0%} of its verdicts are right, and send the rest to review; "
        "masks that people have judged or will judge stay theirs"
    )


def _program_fields(workspace: Workspace, dataset: str) -> Fields:
    from flows.programs.saved import saved_programs

    found = [one.name for one in saved_programs(workspace)]
    return {"dataset": dataset, "program": found[0] if found else ""}


def _describe_program(workspace: Workspace, dataset: Dataset, fields: Fields) -> str:
    from flows.programs.saved import load_program

    if not fields["program"]:
        return f"run a saved program over {dataset.name} (none is saved yet: write one first)"
    saved = load_program(workspace, str(fields["program"]))
    what = f" ({saved.request})" if saved.request else ""
    return (
        f"run version {saved.version} of the program {saved.name}{what} over the "
        f"{workspace.catalog.images.count(dataset.id)} images of {dataset.name}; its result is "
        f"listed by `dataengine program runs`"
    )


def _describe_judge(workspace: Workspace, dataset: Dataset, fields: Fields) -> str:
    model, precision = _asked_of(workspace, fields)
    return (
        f"ask {model} about the automatic masks of {dataset.name} after examples of people's "
        f"verdicts, accept or reject those that it is sure of, so that {precision:.0%} of its "
        "verdicts are right, and send the rest to review; it does nothing until `dataengine review "
        "judge --calibrate` has shown that precision"
    )


def _describe_judge_labels(workspace: Workspace, dataset: Dataset, fields: Fields) -> str:
    model, precision = _asked_of(workspace, fields)
    return (
        f"ask {model} about the labels of {dataset.name} that models gave and nobody has looked "
        f"at, confirm those that it is sure of, so that {precision:.0%} are right, and send the "
        "rest to reviewers; it does nothing until `dataengine review judge --labels --calibrate` "
        "has shown that precision"
    )


def _describe_judge_missing(workspace: Workspace, dataset: Dataset, fields: Fields) -> str:
    model, precision = _asked_of(workspace, fields)
    return (
        f"ask {model} whether the images of {dataset.name} lack masks, mark those that are "
        f"complete, so that {precision:.0%} are, and send the rest to annotators; it does nothing "
        "until `dataengine review judge --missing --calibrate` has shown that precision"
    )


def _asked_of(workspace: Workspace, fields: Fields) -> tuple[str, float]:
    """Return the language model that is asked, in words, and the precision.

    Raises:
        RouteError: the precision is out of range.
    """
    from flows.review.route_options import RouteOptions

    options = RouteOptions(precision=fields["precision"])
    return _language_model(workspace), options.precision


def _language_model(workspace: Workspace) -> str:
    return workspace.settings.llm_model or "the language model (none is set yet)"


def _describe_caption(workspace: Workspace, dataset: Dataset, fields: Fields) -> str:
    model = _language_model(workspace) if fields["model"] == "llm" else fields["model"]
    return (
        f"describe in words the masks of {dataset.name} that have no caption of {model}; an opened "
        "image shows them on the page Browse"
    )


def _of_dataset(workspace: Workspace, dataset: str) -> Fields:
    return {"dataset": dataset}


GENERATE = Form(
    title="Generate masks",
    defaults=lambda w, d: {"dataset": d, "limit": None},
    describe=_describe_generate,
    arguments=lambda f: ["generate", "--only-new", *option_arguments(f, "dataset", "limit")],
)
ADVANCE = Form(
    title="Take the next step",
    defaults=_of_dataset,
    describe=lambda w, d, f: (
        f"take {d.name} as far as it goes without people: enter finished reviews, continue rounds "
        "whose tasks are submitted, retrain where that is due"
    ),
)
RETRAIN = Form(title="Retrain now", defaults=_of_dataset, describe=_describe_retrain)
REVIEW = Form(
    title="Sample a review",
    defaults=lambda w, d: {"dataset": d, "images": 20, "annotator": "people"},
    describe=lambda w, d, f: (
        f"send automatic masks that no reviewer was asked about, of at most {f['images']} "
        f"random images of {d.name}, to the review queue"
    ),
    arguments=lambda f: ["review", *option_arguments(f, "dataset", "images", "annotator")],
)
TRAIN_VERIFIER = Form(
    title="Train the verifier",
    defaults=_of_dataset,
    describe=_describe_verifier,
    arguments=lambda f: ["verifier", "train", *option_arguments(f, "dataset")],
)
ROUTE = Form(
    title="Let the verifier judge",
    defaults=lambda w, d: {"dataset": d, "precision": 0.95},
    describe=_describe_route,
    arguments=lambda f: ["verifier", "route", *option_arguments(f, "dataset", "precision")],
)
PROGRAM = Form(
    title="Run a program",
    defaults=_program_fields,
    describe=_describe_program,
    arguments=lambda f: ["program", "run", f["program"], *option_arguments(f, "dataset")],
)
JUDGE = Form(
    title="Let the language model judge",
    defaults=lambda w, d: {"dataset": d, "precision": 0.95},
    describe=_describe_judge,
    arguments=lambda f: ["review", "judge", *option_arguments(f, "dataset", "precision")],
)
JUDGE_LABELS = Form(
    title="Let the language model check labels",
    defaults=lambda w, d: {"dataset": d, "precision": 0.95},
    describe=_describe_judge_labels,
    arguments=lambda f: [
        "review",
        "judge",
        "--labels",
        *option_arguments(f, "dataset", "precision"),
    ],
)
JUDGE_MISSING = Form(
    title="Let the language model find gaps",
    defaults=lambda w, d: {"dataset": d, "precision": 0.95},
    describe=_describe_judge_missing,
    arguments=lambda f: [
        "review",
        "judge",
        "--missing",
        *option_arguments(f, "dataset", "precision"),
    ],
)
CAPTION = Form(
    title="Describe the masks",
    defaults=lambda w, d: {"dataset": d, "model": "llm"},
    describe=_describe_caption,
    arguments=lambda f: ["caption", *option_arguments(f, "dataset", "model")],
)
SUGGEST = Form(
    title="Suggest categories",
    defaults=lambda w, d: {"dataset": d, "encoder": "lite", "precision": 0.95},
    describe=lambda w, d, f: (
        f"make the vectors of {d.name} that are missing, learn from people's labels unless there "
        "are no new ones, and suggest categories for the other masks; nothing is labelled"
    ),
    arguments=lambda f: [
        "labels",
        "suggest",
        *option_arguments(f, "dataset", "encoder", "precision"),
    ],
)
RELEASE = Form(
    title="Make a release",
    defaults=lambda w, d: {"dataset": d, "name": f"{d}-{datetime.now(UTC):%Y%m%d}"},
    describe=lambda w, d, f: (
        f"freeze {d.name} as {f['name']}: pin the mask table's version and write COCO, SA-1B, "
        "a report and a card"
    ),
    arguments=lambda f: ["release", f["name"], *option_arguments(f, "dataset")],
)
RESCORE = Form(
    title="Compare with the new model",
    defaults=_of_dataset,
    describe=lambda w, d, f: (
        f"ask {w.current_model().version} again for old automatic masks of at most "
        f"{w.settings.production.rescore_images} images of {d.name}, and send those on which "
        "it disagrees to the review queue"
    ),
)
