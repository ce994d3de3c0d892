"""Services and workspaces of the fault tests; each fault's cost is printed at the end of the test
run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.conftest import FAULTS
from tests.faults.crew import Crew
from tests.faults.proxy import FaultyProxy
from tests.faults.services import IMAGES, Services, StoppablePostgres, Undisturbed, timed
from tests.flows.conftest import write_scenes
from tests.services import running_seaweedfs


class Report(Protocol):
    """Records the cost of a fault: the seconds of the runs with it."""

    def __call__(self, fault: str, seconds: float, runs: int = 1) -> None: ...


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """PostgreSQL, and S3 behind a proxy."""
    with tempfile.TemporaryDirectory(prefix="f") as name:  # short, because sockets are in it
        folder = Path(name)
        folder.chmod(0o711)  # the database's user needs access
        (folder / "pg").mkdir()
        postgres = StoppablePostgres(folder / "pg")
        with running_seaweedfs(folder / "s3") as s3:
            proxy = FaultyProxy(s3.endpoint_url)
            yield Services(postgres, s3, proxy, write_scenes(folder / "scenes", IMAGES))
            proxy.close()
        postgres.stop_for_good()


@pytest.fixture(scope="session")
def undisturbed(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The masks of one undisturbed worker."""
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
    """Records the cost of a fault, for the end of the test run."""

    def note(fault: str, seconds: float, runs: int = 1) -> None:
        row = {"fault": fault, "seconds": seconds, "undisturbed": runs * undisturbed.seconds}
        FAULTS.parent.mkdir(exist_ok=True)
        with FAULTS.open("a") as file:
            file.write(json.dumps(row) + "\n")

    return note
