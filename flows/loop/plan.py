"""What `dataengine run` and the dashboard's first button ask of a dataset's loop.

Both build the same plan from the same words. Where the dataset has a loop under way, that loop's
own plan is the one, and words that contradict it are refused.
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
MAX_ROUNDS = 1_000
"""Of one loop."""


class BadPlanError(ValueError):
    """A plan's values cannot be understood; the message says what is expected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanWords:
    """A loop's plan as people say it. None: as the loop under way has it, else the default."""

    rounds: str | None = None
    images_per_round: int | None = None
    annotator: str | None = None


DEFAULTS = PlanWords(rounds="2,1,1", images_per_round=60, annotator="simulated")
"""Of the command."""


def parse_rounds(text: str) -> tuple[int, int, int]:
    """Rounds of stages 1, 2 and (1 where it is left out) 3.

    Raises:
        BadPlanError: the text is something else, or means no round at all or too many.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (2, 3) or not all(p.isascii() and p.isdecimal() for p in parts):
        raise BadPlanError(f"rounds are two or three numbers like 2,1 or 2,1,1, got {text!r}")
    if max(map(len, parts)) > len(str(MAX_ROUNDS)) or sum(map(int, parts)) > MAX_ROUNDS:
        raise BadPlanError(f"a loop has at most {MAX_ROUNDS} rounds, got {text!r}")
    first, second, third = map(int, parts if len(parts) == 3 else [*parts, "1"])
    if not first + second + third:
        raise BadPlanError(f"a loop needs at least one round, got {text!r}")
    return first, second, third


def check_annotator(name: str) -> None:
    """Raises:
    BadPlanError: nobody of that name annotates.
    """
    if name not in ANNOTATORS:
        raise BadPlanError(f"the annotator is {' or '.join(ANNOTATORS)}, got {name!r}")


def loop_under_way(workspace: Workspace, dataset: str) -> Loop | None:
    """The dataset's unfinished loop.

    Raises:
        DatasetNotFoundError: there is no such dataset.
    """
    from storage.catalog import LoopState

    loop = workspace.catalog.loops.latest(workspace.catalog.datasets.get(dataset).id)
    return loop if loop is not None and loop.state != LoopState.FINISHED else None


def words_of(plan: Sequence[PlannedRound]) -> PlanWords:
    """A plan in words."""
    stages = Counter(str(entry.stage) for entry in plan)
    numbers = [stages[stage] for stage in STAGES]
    by_people = any(entry.annotator == "people" for entry in plan)
    return PlanWords(
        rounds=",".join(map(str, numbers)),
        images_per_round=plan[0].images,
        annotator="people" if by_people else "simulated",
    )


def loop_plan(workspace: Workspace, dataset: str, given: PlanWords) -> list[PlannedRound]:
    """The plan to run: of the loop that is under way, else of what is given and the defaults.

    Raises:
        BadPlanError: a value cannot be understood.
        LoopConflictError: a loop is under way, and what is given contradicts its plan.
        DatasetNotFoundError: there is no such dataset.
    """
    from flows.loop.data_engine import LoopPlan
    from storage.catalog import LoopConflictError

    if given.rounds is not None:
        given = replace(given, rounds=",".join(map(str, parse_rounds(given.rounds))))
    if given.annotator is not None:
        check_annotator(given.annotator)
    wanted = {name: value for name, value in asdict(given).items() if value is not None}
    loop = loop_under_way(workspace, dataset)
    if loop is None:
        chosen = replace(DEFAULTS, **wanted)
        first, second, third = parse_rounds(str(chosen.rounds))
        return LoopPlan(
            assisted_manual=first,
            semi_automatic=second,
            fully_automatic=third,
            images_per_round=int(chosen.images_per_round or 1),
            annotator=str(chosen.annotator),
        ).rounds()
    known = words_of(loop.plan)
    if replace(known, **wanted) != known:
        raise LoopConflictError(
            f"the loop of {dataset} that is under way has another plan: {told(known)}; continue it "
            f"with `dataengine run --dataset {dataset}`, and give another plan once it is finished"
        )
    return loop.plan


def told(words: PlanWords) -> str:
    """For people."""
    who = "people" if words.annotator == "people" else "the simulated annotator"
    return (
        f"{words.rounds} rounds of stages 1, 2, 3 with at most {words.images_per_round} images a "
        f"round, annotated by {who}"
    )
