"""The expected state, in plain sets and dicts: leases that were promised, and answers that were
accepted."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime

from engine.annotation.schemas import TaskView
from engine.core.rle import RLE


@dataclass
class Holding:
    """A task that an annotator leased, as their page knows it."""

    person: str
    run_id: str
    view: TaskView
    until: datetime
    is_over: bool = False
    """They have handed it in, given it back or skipped it."""

    @property
    def task_id(self) -> int:
        return self.view.id

    def is_good(self, now: datetime) -> bool:
        """Whether the lease is exclusive."""
        return not self.is_over and self.until > now


@dataclass(frozen=True)
class Answer:
    """The submission of a task: ids of the masks that belong in the table, and verdicts."""

    lease_id: str
    mask_ids: frozenset[str]
    verdicts: dict[str, str] = field(default_factory=dict)


@dataclass
class Truth:
    """The model. After an interrupted command, several states are possible."""

    holder: dict[int, Holding] = field(default_factory=dict)
    """By task who was told last that it is theirs."""
    given: list[Holding] = field(default_factory=list)
    """All that people were given, also what they have lost since."""
    doubtful: set[int] = field(default_factory=set)
    """Tasks whose holder may be another one than was told last."""
    answers: dict[int, list[Answer]] = field(default_factory=lambda: defaultdict(list))
    """By task those that may have been taken."""
    final: dict[int, Answer] = field(default_factory=dict)
    """By task the one that was said to be taken."""
    late: dict[tuple[int, str], frozenset[RLE]] = field(default_factory=dict)
    """By task and person the version that came too late, which was said to be kept."""
    annotations: dict[int, set[str | None]] = field(
        default_factory=lambda: defaultdict(lambda: {None})
    )
    """By image which annotations it may have; None: none."""
    ingested: set[int] = field(default_factory=set)
    """Images that were said to be in."""

    def took(self, holding: Holding, now: datetime) -> None:
        """Record that an annotator was told that a task is theirs.

        Raises:
            AssertionError: it is somebody else's.
        """
        task_id, before = holding.task_id, self.holder.get(holding.task_id)
        if before is not None and before.person != holding.person:
            assert not before.is_good(now), f"{before.person} and {holding.person} have {task_id}"
        assert task_id not in self.final, f"task {task_id} is given out, and was answered"
        if before is not None and before.view.lease_id == holding.view.lease_id:
            before.until = max(before.until, holding.until)
        else:
            self.holder[task_id] = holding
            self.given.append(holding)
        self.doubtful.discard(task_id)

    def may_be_taken(self, now: datetime) -> None:
        """Record that an annotator tried to lease a task and got no answer."""
        self.doubtful |= {task for task, held in self.holder.items() if not held.is_good(now)}

    def taken(self, holding: Holding, answer: Answer, *, was_known: bool) -> None:
        """Record that an annotator was told that their answer is stored.

        Raises:
            AssertionError: somebody else has the task, or another answer of it is in.
        """
        task_id = holding.task_id
        if was_known:
            known = [held.lease_id for held in self.answers[task_id]]
            assert holding.view.lease_id in known, f"nobody handed in task {task_id}"
            if len(self.answers[task_id]) == 1:
                self.final[task_id] = self.answers[task_id][0]
        else:
            assert self.holder[task_id] is holding, f"task {task_id} is somebody else's"
            assert task_id not in self.final, f"task {task_id} is answered twice"
            self.final[task_id] = answer
            self.answers[task_id] = [answer]
        holding.is_over = True

    def must_be_taken(self, holding: Holding) -> bool:
        """Whether the server must accept an answer of this holder."""
        task_id = holding.task_id
        return (
            self.holder[task_id] is holding
            and not holding.is_over
            and task_id not in self.doubtful
            and not self.answers[task_id]
        )

    def possible(self, task_id: int) -> list[Answer]:
        """The possible answers of a task."""
        if task_id in self.final:
            return [self.final[task_id]]
        return self.answers.get(task_id, [])

    def forget(self, image_id: int) -> None:
        """Record that an image was erased; the ids of its tasks can be reused."""
        gone = {task for task, held in self.holder.items() if held.view.image.id == image_id}
        for task_id in gone:
            for kept in (self.holder, self.answers, self.final):
                kept.pop(task_id, None)
        self.doubtful -= gone
        self.late = {key: kept for key, kept in self.late.items() if key[0] not in gone}
        self.given = [held for held in self.given if held.task_id not in gone]

    def verdicts_on(self, mask_id: str) -> list[str]:
        """All possible verdicts on a mask."""
        return [
            answer.verdicts[mask_id]
            for task_id in self.answers.keys() | self.final.keys()
            for answer in self.possible(task_id)
            if mask_id in answer.verdicts
        ]
