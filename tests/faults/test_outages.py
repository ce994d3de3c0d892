"""Stage 3 survives faults of its workers, its database and its object store.

After each fault the mask table is that of an undisturbed run: the same masks of the same images,
each once, and no file that nothing refers to.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.faults.conftest import Report
from tests.faults.crew import Crew, Worker
from tests.faults.proxy import Fault
from tests.faults.services import AWAY_SECONDS, Services, Undisturbed, timed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KILLS = 20 if os.environ.get("DATAENGINE_MODEL_TEST") else 8


def test_killed_many_times_no_run_lacks_or_doubles_a_mask(
    services: Services,
    undisturbed: Undisturbed,
    report: Report,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rng, seconds = random.Random(11), 0.0
    with services.crew(tmp_path_factory.mktemp("kills")) as crew:
        runs: list[str] = []
        for _ in range(KILLS):
            if not runs or not crew.workspace.catalog.shards.remaining(runs[-1]):
                runs.append(f"run-{len(runs)}")
                crew.plan(runs[-1])
            worker = crew.hire(run_id=runs[-1])
            worker.start()
            alive = rng.uniform(0.05, 1.2 * undisturbed.seconds / 6)  # within a shard or two
            seconds += timed(lambda: time.sleep(alive))  # noqa: B023 - called at once
            worker.kill()
        last = crew.hire(run_id=runs[-1])
        last.start()
        seconds += timed(last.ends_well)
        assert sum(_attempts(crew, run) for run in runs) > 6 * len(runs)
        for run in runs:
            crew.assert_undisturbed(undisturbed.masks, run)
    report(f"kill -9 of a worker, {KILLS} times in {len(runs)} runs", seconds, len(runs))


def _attempts(crew: Crew, run_id: str) -> int:
    return sum(shard.attempts for shard in crew.workspace.catalog.shards.all(run_id))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=["orderly", "crash"])
def test_postgresql_stopped_and_started(
    number: signal.Signals, services: Services, crew: Crew, undisturbed: Undisturbed, report: Report
) -> None:
    def outage() -> None:
        services.postgres.stop(number)
        time.sleep(AWAY_SECONDS)
        services.postgres.start()

    worker, seconds = _worked_through(crew, outage)
    assert "trying again" in worker.log() or "could not be renewed yet" in worker.log()
    crew.assert_undisturbed(undisturbed.masks)
    report(f"PostgreSQL {number.name}, away {AWAY_SECONDS:.0f} s", seconds)


@pytest.mark.parametrize(
    "fault", [fault for fault in Fault if fault is not Fault.NONE], ids=lambda fault: fault.value
)
def test_s3_misbehaves(
    fault: Fault, services: Services, crew: Crew, undisturbed: Undisturbed, report: Report
) -> None:
    proxy = services.proxy
    before = proxy.faults

    def outage() -> None:
        """Disturb every request for a while, then every third."""
        proxy.disturb(fault)
        time.sleep(AWAY_SECONDS)
        proxy.disturb(fault, every=3)
        time.sleep(AWAY_SECONDS)
        proxy.disturb(Fault.NONE)

    try:
        _, seconds = _worked_through(crew, outage)
    finally:
        proxy.disturb(Fault.NONE)
    assert proxy.faults > before
    crew.assert_undisturbed(undisturbed.masks)
    report(f"S3: {fault.value}, {2 * AWAY_SECONDS:.0f} s", seconds)


def _worked_through(crew: Crew, outage: Callable[[], None]) -> tuple[Worker, float]:
    """Run a worker, with the outage after its first commit."""
    worker = crew.hire()
    worker.reaches("ready")

    def work() -> None:
        worker.start()
        crew.until_committed(1)
        outage()
        worker.ends_well()

    return worker, timed(work)
