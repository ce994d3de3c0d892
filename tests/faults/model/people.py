"""Annotators at the page: lease tasks, save drafts, submit, submit late, review."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from engine.annotation.prompting import rle_view
from engine.annotation.schemas import Draft, Event, Judgement, NewMask, NewVerdict, Submission
from engine.annotation.task_access import KINDS
from engine.core.rle import RLE
from storage.catalog import Annotator, TaskKind, VerdictKind
from tests.faults.model.base import FAULTS, WHICH, Commands, Outcome
from tests.faults.model.faults import NO_FAULT, Fault
from tests.faults.model.truth import Answer, Holding
from tests.faults.model.world import PEOPLE, square

ACTIONS = (
    *("take", "take", "take over", "take over", "hand in", "hand in", "take and hand in"),
    *("come late", "show life", "give back"),
)
VERDICTS = st.lists(st.sampled_from(list(VerdictKind)), min_size=3, max_size=3)
DRAWN: dict[str, Any] = {
    "action": st.sampled_from(ACTIONS),
    "fault": FAULTS,
    "which": WHICH,
    "said": VERDICTS,
    "is_so": st.booleans(),
}
LOST = (404, 409)


class Peoples(Commands):
    """Commands of the page."""

    @rule(**DRAWN)
    def ada(self, **drawn: Any) -> None:
        self.act("ada", **drawn)

    @rule(**DRAWN)
    def bob(self, **drawn: Any) -> None:
        self.act("bob", **drawn)

    @rule(**DRAWN)
    def cleo(self, **drawn: Any) -> None:
        self.act("cleo", **drawn)

    @rule(**DRAWN)
    def rita(self, **drawn: Any) -> None:
        self.act("rita", **drawn)

    def act(
        self,
        person: str,
        action: str,
        fault: Fault,
        which: int,
        said: list[VerdictKind],
        is_so: bool,
    ) -> None:
        """One action of an annotator at the page, if possible.

        Args:
            action: also of several ones on end, of which the last one may be disturbed.
            which: of their tasks, the latest by default.
            said: of the masks under review, in turn.
            is_so: whether a task is skipped, a pre-filled mask rejected, a draft kept.
        """
        if action in ("take over", "take and hand in"):
            self.world.clock.advance(0.0 if action == "take and hand in" else 700.0)
            self._take(NO_FAULT, person, sorted(KINDS[PEOPLE[person]]))
        if action in ("take", "take over"):
            self._take(fault, person, sorted(KINDS[PEOPLE[person]]))
        elif action == "come late" and (lost := self.lost(person)):
            self._hand_in_late(fault, _of(lost, which), int(is_so))
        elif not (given := self.given(person)):
            return
        elif action == "show life":
            self._show_life(fault, _of(given, which), draws=is_so)
        elif action == "give back":
            self._give_back(fault, _of(given, which), skip=is_so)
        elif _of(given, which).view.kind == TaskKind.REVIEW:
            self._judge(fault, _of(given, which), said)
        else:
            self._hand_in(fault, _of(given, which), len(set(said)) - 1, reject=is_so)

    def held_by(self, person: str) -> Holding:
        """The annotator's latest task, if still held."""
        return next(
            held
            for held in reversed(self.truth.given)
            if held.person == person and held.is_good(self.world.clock.now)
        )

    def _take(self, fault: Fault, person: str, kinds: list[TaskKind]) -> bool:
        world = self.world
        outcome = self.do(fault, lambda: world.service.next_task(world.people[person], kinds))
        now = world.clock.now
        if outcome.is_cut:
            self.truth.may_be_taken(now)
        view = outcome.value.task if outcome.is_done else None
        if view is not None:
            run_id = str(world.workspace.queue.get(view.id).run_id)
            self.truth.took(Holding(person, run_id, view, view.expires_at), now)
        return view is not None

    def given(self, person: str) -> list[Holding]:
        """The annotator's unsubmitted tasks, the latest last, including lost ones."""
        return [held for held in self.truth.given if held.person == person and not held.is_over]

    def lost(self, person: str) -> list[Holding]:
        """Tasks that went to somebody else and whose late version is not stored yet."""
        return [
            held
            for held in self.given(person)
            if held.view.kind != TaskKind.REVIEW
            and self.truth.holder[held.task_id].person != person
            and held.task_id not in self.truth.doubtful
            and (held.task_id, person) not in self.truth.late
        ]

    def _show_life(self, fault: Fault, held: Holding, *, draws: bool) -> None:
        """The page sends a heartbeat, or saves a draft."""
        world, given = self.world, self._proof(held)
        if draws:
            draft = Draft(version=self.next_number(), data={"masks": []})
            outcome = self.do(fault, lambda: world.service.keep_draft(*given, draft))
        else:
            outcome = self.do(fault, lambda: world.service.heartbeat(*given))
        if outcome.is_done:
            assert self.truth.holder[held.task_id] is held, "somebody else's task was renewed"
            seconds = world.workspace.settings.people_draft_seconds
            until = world.clock.now + timedelta(seconds=seconds)
            held.until = until if draws else outcome.value
        self._check_refusal(outcome, held)

    def _proof(self, held: Holding) -> tuple[Annotator, int, str]:
        """An annotator and their tasks."""
        return self.world.people[held.person], held.task_id, held.view.lease_id

    def _give_back(self, fault: Fault, held: Holding, *, skip: bool) -> None:
        world, given = self.world, self._proof(held)
        outcome = self.do(fault, lambda: world.service.give_back(*given, skip=skip))
        self._check_refusal(outcome, held)
        if outcome.is_done or outcome.is_cut:
            held.is_over = True
        if outcome.is_cut:
            self.truth.doubtful.add(held.task_id)

    def _hand_in(self, fault: Fault, held: Holding, count: int, *, reject: bool) -> None:
        given, answer = self._submission(held, count, reject=reject)
        who, service = self.world.people[held.person], self.world.service.submissions
        outcome = self.do(fault, lambda: service.submit(who, held.task_id, given))
        self._note(outcome, held, answer)

    def _submission(self, held: Holding, count: int, *, reject: bool) -> tuple[Submission, Answer]:
        """A submission with new masks, and without the first pre-filled one."""
        view = held.view
        masks = [self._new_mask() for _ in range(count)]
        there = [mask.mask_id for mask in view.masks]
        rejected = there[: int(reject)]
        given = Submission(lease_id=view.lease_id, masks=masks, rejected=rejected, seconds=1.0)
        made = {
            f"{held.run_id}/{view.image.id}/{place:04d}-{mask.client_id}"
            for place, mask in enumerate(masks)
        }
        return given, Answer(view.lease_id, frozenset({*made, *there} - {*rejected}))

    def _new_mask(self) -> NewMask:
        number = self.next_number()
        event = Event(kind="click", at=0.5, x=1.0, y=1.0, label=1)
        rle = rle_view(square(number))
        return NewMask(client_id=f"m{number}", rle=rle, seconds=1.0, trajectory=[event])

    def _note(self, outcome: Outcome, held: Holding, answer: Answer) -> None:
        if outcome.is_done:
            self.truth.taken(held, answer, was_known=outcome.value.was_known)
        elif outcome.is_cut:
            self.truth.answers[held.task_id].append(answer)
            if not self.truth.must_be_taken(held):
                self.truth.doubtful.add(held.task_id)
        self._check_refusal(outcome, held)

    def _check_refusal(self, outcome: Outcome, held: Holding) -> None:
        """The holder of a task is not refused."""
        error: Any = outcome.refused
        if error is not None:
            assert error.status in LOST, error
            assert not self.truth.must_be_taken(held), f"{held.person} is turned away: {error}"

    def _hand_in_late(self, fault: Fault, held: Holding, count: int) -> None:
        """Submit work on a task that went to somebody else."""
        given, _ = self._submission(held, count, reject=False)
        who, service = self.world.people[held.person], self.world.service.submissions
        outcome = self.do(fault, lambda: service.keep_late(who, held.task_id, given))
        if outcome.is_done:
            drawn = [mask.rle for mask in held.view.masks] + [mask.rle for mask in given.masks]
            version = frozenset(RLE(rle.size, rle.counts.encode()) for rle in drawn)
            self.truth.late[held.task_id, held.person] = version

    def _judge(self, fault: Fault, held: Holding, kinds: list[VerdictKind]) -> None:
        view, verdicts, ids = held.view, [], set[str]()
        for place, mask in enumerate(view.masks):
            kind = kinds[place % len(kinds)]
            fix = self._new_mask() if kind == VerdictKind.FIX else None
            verdicts.append(NewVerdict(mask_id=mask.mask_id, verdict=kind, seconds=1.0, fix=fix))
            if fix is not None:
                ids.add(f"{held.run_id}/{view.image.id}/fix-{fix.client_id}")
            elif kind == VerdictKind.ACCEPT and mask.mask_id.startswith(f"{held.run_id}/"):
                ids.add(mask.mask_id)  # of a late version
        said = {verdict.mask_id: str(verdict.verdict) for verdict in verdicts}
        given = Judgement(lease_id=view.lease_id, verdicts=verdicts)
        who, service = self.world.people[held.person], self.world.service.submissions
        outcome = self.do(fault, lambda: service.judge(who, held.task_id, given))
        self._note(outcome, held, Answer(view.lease_id, frozenset(ids), said))


def _of(found: list[Holding], which: int) -> Holding:
    """One of the tasks, by default the latest."""
    return found[-1 - which % len(found)]
