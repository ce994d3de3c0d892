"""Builds a loop's plan from the options of `dataengine run` and of the dashboard's first button.

Both build the same plan from the same options. If the dataset has an unfinished loop, its plan is
used, and options that contradict it are refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace
    from storage.catalog import Loop, PlannedRound

STAGES = ("assisted_manual", "semi_automatic", "fully_automatic")
ANNOTATORS = ("simulated", "people")
IN_WORDS = {
    "random": "",
    "disagreement": ", those with the least certain automatic masks first",
    "diversity": ", those that look least like the annotated ones first",
    "mix": ", half of them with the least certain automatic masks, half unlike the annotated ones",
}
"""How images are chosen, as part of a sentence."""
MAX_ROUNDS = 1_000
"""Maximum rounds of one loop."""


class BadPlanError(ValueError):
    """A plan's value is invalid; the message states what is expected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanOptions:
    """A loop's plan as users give it. None: the unfinished loop's value, else the default."""

    rounds: str | None = None
    images_per_round: int | None = None
    annotator: str | None = None
    choice: str | None = None
    """How images are chosen; the default is the workspace's setting."""


DEFAULTS = PlanOptions(rounds="2,1,1", images_per_round=60, annotator="simulated")
"""Defaults of the command."""


def parse_rounds(text: str) -> tuple[int, int, int]:
    """Return the rounds of stages 1, 2 and 3; stage 3 defaults to 1.

    Raises:
        BadPlanError: the text is invalid, or gives no rounds or too many.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (2, 3) or not all(p.isascii() and p.isdecimal() for p in parts):
        raise BadPlanError(f"rounds must be two or three numbers, 2,1 or 2,1,1, got {text!r}")
    if max(map(len, parts)) > len(str(MAX_ROUNDS)) or sum(map(int, parts)) > MAX_ROUNDS:
        raise BadPlanError(f"a loop has at most {MAX_ROUNDS} rounds, got {text!r}")
    first, second, third = map(int, parts if len(parts) == 3 else [*parts, "1"])
    if not first + second + third:
        raise BadPlanError(f"a loop needs at least one round, got {text!r}")
    return first, second, third


def check_annotator(name: str) -> None:
    """Raises:
    BadPlanError: the name is not one of ANNOTATORS.
    """
    if name not in ANNOTATORS:
        raise BadPlanError(f"the annotator must be {' or '.join(ANNOTATORS)}, got {name!r}")


def check_choice(name: str) -> None:
    """Raises:
    BadPlanError: the name is not one of the catalog's CHOICES, and names no program's run.
    """
    from storage.catalog import CHOICES, OF_PROGRAM

    if name not in CHOICES and not (name.startswith(OF_PROGRAM) and name != OF_PROGRAM):
        names = f"{', '.join(CHOICES[:-1])} or {CHOICES[-1]}, or program:RUN"
        raise BadPlanError(f"the choice must be {names}; got {name!r}")


def unfinished_loop(workspace: Workspace, dataset: str) -> Loop | None:
    """Return the dataset's unfinished loop, or None.

    Raises:
        DatasetNotFoundError: the dataset does not exist.
    """
    from storage.catalog import LoopState

    loop = workspace.catalog.loops.latest(workspace.catalog.datasets.get(dataset).id)
    return loop if loop is not None and loop.state != LoopState.FINISHED else None


def options_of(plan: Sequence[PlannedRound]) -> PlanOptions:
    """Return a plan in the form that users give."""
    stages = Counter(str(entry.stage) for entry in plan)
    numbers = [stages[stage] for stage in STAGES]
    by_people = any(entry.annotator == "people" for entry in plan)
    return PlanOptions(
        rounds=",".join(map(str, numbers)),
        images_per_round=plan[0].images,
        annotator="people" if by_people else "simulated",
        choice=plan[0].choice,
    )


def loop_plan(workspace: Workspace, dataset: str, given: PlanOptions) -> list[PlannedRound]:
    """Return the plan of the unfinished loop, else a plan of the given values and the defaults.

    Raises:
        BadPlanError: a value is invalid.
        LoopConflictError: the given values contradict the plan of the unfinished loop.
        DatasetNotFoundError: the dataset does not exist.
    """
    from flows.loop.data_engine import LoopPlan
    from storage.catalog import LoopConflictError

    if given.rounds is not None:
        given = replace(given, rounds=",".join(map(str, parse_rounds(given.rounds))))
    if given.annotator is not None:
        check_annotator(given.annotator)
    if given.choice is not None:
        check_choice(given.choice)
    chosen = {name: value for name, value in asdict(given).items() if value is not None}
    loop = unfinished_loop(workspace, dataset)
    if loop is None:
        defaults = replace(DEFAULTS, choice=workspace.settings.rounds.choice)
        options = replace(defaults, **chosen)
        first, second, third = parse_rounds(str(options.rounds))
        return LoopPlan(
            assisted_manual=first,
            semi_automatic=second,
            fully_automatic=third,
            images_per_round=int(options.images_per_round or 1),
            annotator=str(options.annotator),
            choice=str(options.choice),
        ).rounds()
    known = options_of(loop.plan)
    if replace(known, **chosen) != known:
        raise LoopConflictError(
            f"the unfinished loop of {dataset} has another plan: {describe_plan(known)}; continue "
            f"it with `dataengine run --dataset {dataset}`, and give another plan once it is "
            "finished"
        )
    return loop.plan


def describe_plan(options: PlanOptions) -> str:
    """Return the plan as a sentence for users."""
    who = "people" if options.annotator == "people" else "the simulated annotator"
    return (
        f"{options.rounds} rounds of stages 1, 2, 3 with at most {options.images_per_round} images "
        f"per round{IN_WORDS[options.choice or 'random']}, annotated by {who}"
    )
