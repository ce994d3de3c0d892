"""Random commands, kills, outages and changed settings, compared with a simple model of the
expected state.

Every accepted mask is in the table once; no task has two people; no run is running without a sign
of life, unless it waits for people or is told to be broken off; every object is referenced, or goes
with the next sweep; what was rejected is not exported; and in the end everything that was begun
ends. `tests/faults/model/` has the parts: `people.py` and `jobs.py` the commands, `faults.py` what
happens to them, `truth.py` what must be true, `checks.py` how it is looked up.

On SQLite and a folder the same commands are given each time. `DATAENGINE_MODEL_TEST=long` gives
others each time, more of them, and also on PostgreSQL and SeaweedFS; a number in its place says how
many sequences.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.contract.database_fixtures import PostgresDatabases
from tests.faults.model.faults import Faults
from tests.faults.model.machine import Machine
from tests.faults.model.places import OnServers, OnThisMachine
from tests.faults.model.world import Place, World, make_quick, write_folders
from tests.postgres import running_postgres
from tests.services import running_seaweedfs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

ASKED = os.environ.get("DATAENGINE_MODEL_TEST", "")
SEQUENCES = int(ASKED) if ASKED.isdecimal() else 400 if ASKED else 10
STEPS = 40


def _drive(place: Place, folder: Path, patch: pytest.MonkeyPatch, *, is_fixed: bool) -> None:
    write_folders(folder / "files")
    faults, numbers, enter = Faults(patch), count(), make_quick(patch)

    def begin() -> Machine:
        world = World(place, folder / f"{next(numbers)}", folder / "files")
        enter(world)
        return Machine(world, faults)

    chosen = settings(
        max_examples=SEQUENCES,
        stateful_step_count=STEPS,
        derandomize=is_fixed,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink)[: 1 + bool(ASKED)],
        print_blob=False,
    )
    run_state_machine_as_test(begin, settings=chosen)  # type: ignore[arg-type]
    assert faults.happened > SEQUENCES, "hardly anything has happened"


def test_whatever_happens_what_must_be_true_is_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _drive(OnThisMachine(tmp_path), tmp_path, monkeypatch, is_fixed=not ASKED)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[OnServers]:
    with running_postgres() as postgres, running_seaweedfs(tmp_path / "s3") as s3:
        yield OnServers(PostgresDatabases(postgres), s3)


@pytest.mark.skipif(not ASKED, reason="takes long: DATAENGINE_MODEL_TEST=long")
def test_on_servers_what_must_be_true_is_true_whatever_happens(
    servers: OnServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _drive(servers, tmp_path, monkeypatch, is_fixed=False)
