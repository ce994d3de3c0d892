"""Runs a command, which a fault may interrupt; then it was carried out or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from engine.annotation.errors import RefusedError
from flows.workspace.retry import OutageError
from storage.catalog import CatalogUnavailableError
from storage.objects import StorageUnavailableError
from tests.faults.model.faults import CATALOG, NO_FAULT, STORE, Fault, Faults, Killed
from tests.faults.model.truth import Truth
from tests.faults.model.world import World

FAULTS = st.one_of(
    st.just(NO_FAULT),
    st.builds(Fault, kill=st.integers(1, 9)),
    st.just(NO_FAULT),
    st.builds(
        Fault,
        service=st.sampled_from([STORE, CATALOG]),
        first=st.integers(1, 20),
        calls=st.sampled_from([1, 3, 12]),
        is_late=st.booleans(),
    ),
)
"""What happens to a command, if anything."""

AWAY = (CatalogUnavailableError, StorageUnavailableError, OutageError)
WHICH = st.integers(0, 7)
"""Of several, by place; what is beyond the last one begins anew."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a command: a value, an interruption, or a refusal."""

    value: Any = None
    is_cut: bool = False
    refused: Exception | None = None

    @property
    def is_done(self) -> bool:
        return not self.is_cut and self.refused is None


class Commands(RuleBasedStateMachine):
    """State that all commands need."""

    def __init__(self, world: World, faults: Faults) -> None:
        super().__init__()
        self.world, self.faults, self.truth = world, faults, Truth()
        self.number = 0
        self.is_sound = True
        """Nothing was found to be wrong so far."""

    def next_number(self) -> int:
        """A fresh number at each call."""
        self.number += 1
        return self.number

    def do(self, fault: Fault, call: Callable[[], Any], *refusals: type[Exception]) -> Outcome:
        """Run a command. After a kill, the workspace is opened as by a new process.

        Args:
            refusals: errors by which it may say that it has done nothing.
        """
        self.is_sound = False
        try:
            with self.faults.during(fault):
                return Outcome(call())
        except Killed:
            self.world.open()
            return Outcome(is_cut=True)
        except AWAY:
            assert fault.service is not None, "an outage, and no service was away"
            return Outcome(is_cut=True)
        except Exception as error:
            if isinstance(error, (RefusedError, *refusals)):
                return Outcome(refused=error)
            raise
