"""All commands in random order, the invariants after each, and the end, at which all work
finishes."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant

from engine.annotation.task_access import KINDS
from storage.catalog import RunKind, RunState, TaskKind, VerdictKind
from storage.catalog.tables import RunRow, TaskRow
from tests.faults.model import checks
from tests.faults.model.base import FAULTS
from tests.faults.model.faults import NO_FAULT, Fault
from tests.faults.model.jobs import Jobs
from tests.faults.model.people import Peoples
from tests.faults.model.truth import Holding
from tests.faults.model.world import PEOPLE, VARIANTS

A_DAY = 86_400.0
TURNS = 30
"""In which everything that was begun ends, if it ends."""


class Machine(Peoples, Jobs):
    """The state machine for hypothesis."""

    @initialize(fault=FAULTS, variant=st.sampled_from([None, *VARIANTS]))
    def begin(self, fault: Fault, variant: str | None) -> None:
        """Ingest images, and start a round of them."""
        self.ingest(fault, 0, variant, False)
        self._run_loop(NO_FAULT, new=False)

    @invariant()
    def holds(self) -> None:
        """Invariants at any time."""
        self.is_sound = False
        checks.check_people(self.world, self.truth)
        checks.check_runs(self.world)
        checks.check_references(self.world)
        checks.check_accepted(self.world, self.truth, checks.check_table(self.world, self.truth))
        checks.check_ground_truth(self.world, self.truth, self.images())
        self.is_sound = True

    def teardown(self) -> None:
        """Without further faults, all started work finishes, and nothing is left over."""
        try:
            if self.is_sound:
                self.world.open()
                self.world.clock.advance(A_DAY)
                self._finish()
                self._sweep(NO_FAULT)
                self.holds()
                self._check_end()
        finally:
            self.world.close()

    def _finish(self) -> None:
        for _ in range(TURNS):
            is_moving = self._work_all_off()
            for run_id in self._stage_3():
                self._generate(NO_FAULT, run_id)
            before = self._states()
            self._advance(NO_FAULT)
            if not is_moving and self._states() == before:
                return
        raise AssertionError("it goes on and on")

    def _states(self) -> set[tuple[str, str]]:
        """Finish all runs and tasks."""
        found = {(run.id, str(run.state)) for run in checks.rows(self.world, RunRow)}
        tasks = checks.rows(self.world, TaskRow)
        return found | {(str(task.id), str(task.state)) for task in tasks}

    def _work_all_off(self) -> bool:
        """Whether any annotator got a task."""
        found = False
        for person, role in PEOPLE.items():
            while self._take(NO_FAULT, person, sorted(KINDS[role])):
                found = True
                self._answer(self.held_by(person))
        return found

    def _answer(self, held: Holding) -> None:
        if held.view.kind == TaskKind.REVIEW:
            self._judge(NO_FAULT, held, [VerdictKind.ACCEPT, VerdictKind.REJECT])
        else:
            self._hand_in(NO_FAULT, held, 1, reject=False)
        assert held.is_over, f"{held.person} cannot hand in task {held.task_id}"

    def _check_end(self) -> None:
        """Every run is finished, and every late version was reviewed."""
        for run in checks.rows(self.world, RunRow):
            assert run.state != RunState.RUNNING, f"{run.kind} {run.id} runs for ever"
        over = checks.finished(self.world)
        for task in checks.rows(self.world, TaskRow):
            assert task.run_id in over, f"task {task.id} is of a run that is not over"
        late = {
            (run.config["late_of"], run.id): run.state
            for run in checks.rows(self.world, RunRow)
            if run.kind == RunKind.REVIEW and "late_of" in run.config
        }
        assert all(state == RunState.FINISHED for state in late.values()), late
        kept = {task_id for task_id, _ in self.truth.late}
        assert kept <= {task_id for task_id, _ in late}, "a late version is lost"
