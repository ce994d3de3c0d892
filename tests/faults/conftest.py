"""What the fault tests stand on; what each fault cost is told at the end of the test run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.crew import Crew
from tests.faults.proxy import FaultyProxy
from tests.faults.services import IMAGES, Services, StoppablePostgres, Undisturbed, timed
from tests.flows.conftest import write_scenes
from tests.services import running_seaweedfs

REPORT = Path(__file__).parents[2] / ".artifacts" / "faults.json"

Report = Callable[[str, float], None]
"""Called with a fault and the seconds that a run with it took."""


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """PostgreSQL, and S3 behind a proxy."""
    with tempfile.TemporaryDirectory(prefix="f") as name:  # short: sockets lie in it
        folder = Path(name)
        folder.chmod(0o711)  # the database's user has to get through
        (folder / "pg").mkdir()
        postgres = StoppablePostgres(folder / "pg")
        with running_seaweedfs(folder / "s3") as s3:
            proxy = FaultyProxy(s3.endpoint_url)
            yield Services(postgres, s3, proxy, write_scenes(folder / "scenes", IMAGES))
            proxy.close()
        postgres.stop_for_good()


@pytest.fixture(scope="session")
def undisturbed(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """What one worker makes of the images when nothing happens."""
    with services.crew(tmp_path_factory.mktemp("undisturbed")) as crew:
        crew.plan("run")
        worker = crew.hire()
        worker.reaches("ready")

        def work() -> None:
            worker.start()
            worker.ends_well()

        seconds = timed(work)
        masks = crew.masks()
        assert masks.total() > IMAGES
        crew.assert_undisturbed(masks)
        return Undisturbed(masks, seconds)


@pytest.fixture
def crew(services: Services, tmp_path: Path) -> Iterator[Crew]:
    """A workspace on the services, with a planned run."""
    with services.crew(tmp_path) as made:
        made.plan("run")
        yield made


@pytest.fixture
def report(undisturbed: Undisturbed) -> Report:
    """Keeps what a fault cost, for the file of the test run's artifacts."""

    def keep(fault: str, seconds: float) -> None:
        REPORT.parent.mkdir(exist_ok=True)
        known = json.loads(REPORT.read_text()) if REPORT.exists() else {}
        known[fault] = {
            "seconds": round(seconds, 2),
            "undisturbed_seconds": round(undisturbed.seconds, 2),
            "lost_seconds": round(seconds - undisturbed.seconds, 2),
        }
        REPORT.write_text(json.dumps(known, indent=1) + "\n")

    return keep


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line a fault."""
    if not REPORT.exists():
        return
    terminalreporter.section("time lost to faults (latest runs)")
    for fault, row in json.loads(REPORT.read_text()).items():
        terminalreporter.write_line(
            f"{fault:42} {row['seconds']:6.1f} s, undisturbed {row['undisturbed_seconds']:.1f} s"
        )
