"""Commands keep files that they did not write, and report errors of the system in one line."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from engine.core.records import Source, Stage
from flows.cli.evaluate import FILES
from flows.cli.main import app, main
from flows.demo.demo_workspace import NotTheDemoError, prepare_demo
from flows.prefect_api import temporary_server
from flows.release.export import export_release
from flows.workspace import progress
from flows.workspace.settings import FILE_NAME, WorkspaceError, load_settings
from storage.catalog import Release
from storage.formats.images import write_png
from storage.outputs import OutputExistsError, OutputFolder
from tests.annotation.site import Site, make_site
from tests.flows.conftest import make_workspace

THEIRS = b'{"shapes": ["hours of work"]}'


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    yield
    progress.use(progress.Silent())


@pytest.fixture
def dataengine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run the command, which must fail; return its message."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["dataengine", *arguments])
        monkeypatch.setenv("COLUMNS", "1000")
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        told = capsys.readouterr().err
        (line,) = [line for line in told.splitlines() if "error:" in line]
        assert told.rstrip().endswith(line)
        return line

    return run


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def test_amg_beside_its_images_replaces_none_and_takes_none_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(["a-2.png", "a.png", "a.tif"]):
        Path(name).write_bytes(write_png(np.full((24, 32, 3), 60 + number, np.uint8)))
    Path("a.json").write_bytes(THEIRS)  # labelme's name
    before = _contents(tmp_path)
    flags = ["--output", ".", "--json", "--points-per-side", "1"]
    first = json.loads(CliRunner().invoke(app, ["amg", ".", *flags]).stdout)
    after = _contents(tmp_path)
    assert first["images"] == 3
    assert {name: after[name] for name in before} == before
    results = [json.loads(after[name]) for name in after if name.endswith(".json")]
    named = [found["image"]["file_name"] for found in results if "image" in found]
    assert sorted(named) == ["a-2.png", "a.png", "a.tif"]

    again = CliRunner().invoke(app, ["amg", *sorted(after), *flags])  # as `amg *` would
    assert json.loads(again.stdout)["images"] == 3
    assert "skipped" in again.stderr
    assert set(_contents(tmp_path)) == set(after)


@pytest.fixture
def released(tmp_path: Path) -> tuple[Site, Release]:
    """A site with a mask and a started release."""
    site = make_site(tmp_path / "ws")
    site.annotate()
    rows = site.mask_rows(0, "annotate", Source.ANNOTATOR, Stage.ASSISTED_MANUAL, 1)
    version = site.workspace.masks.commit(rows, run_id="annotate", shard=0)
    begun = site.workspace.catalog.releases.start(
        "d-1", dataset_id=site.dataset_id, table_version=version, key="releases/d-1"
    )
    site.workspace.objects.put("releases/d-1/report.html", b"<html>")
    return site, begun


def test_an_export_replaces_its_own_files_and_no_others(
    released: tuple[Site, Release], tmp_path: Path
) -> None:
    site, begun = released
    last = site.image_ids[-1]
    for style, name in (
        ("coco", "instances.json"),
        ("coco", "report.html"),
        ("coco", "release.json"),
        ("sa1b", f"sa_{last}.json"),
    ):
        theirs = tmp_path / name
        theirs.mkdir()
        (theirs / name).write_bytes(THEIRS)
        with pytest.raises(OutputExistsError, match=name):
            export_release(site.workspace, begun, theirs, style)
        assert _contents(theirs) == {name: THEIRS}
        out = tmp_path / style
        for _ in range(2):
            assert export_release(site.workspace, begun, out, style)["masks"] == 1
        (out / name).write_bytes(THEIRS)  # edited after the export
        with pytest.raises(OutputExistsError, match=name):
            export_release(site.workspace, begun, out, style)
        (out / name).unlink()


def test_scores_and_backups_replace_nothing_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataengine: Callable[..., str]
) -> None:
    make_workspace(tmp_path / "ws")
    monkeypatch.chdir(tmp_path / "ws")
    theirs = tmp_path / "scores" / FILES[-1]
    theirs.parent.mkdir()
    theirs.write_bytes(THEIRS)
    (tmp_path / "c.json").touch()
    wanted = f"--set=x={tmp_path},{tmp_path / 'c.json'}"
    told = dataengine("evaluate", wanted, "--output", str(theirs.parent))  # before the work
    assert "move it away" in told
    assert _contents(theirs.parent) == {FILES[-1]: THEIRS}

    assert f"{theirs} was not written by dataengine" in dataengine("backup", str(theirs))
    assert theirs.read_bytes() == THEIRS
    own = tmp_path / "own.backup"
    own.touch()  # as mktemp does
    for _ in range(2):
        assert CliRunner().invoke(app, ["backup", str(own)]).exit_code == 0
    assert own.stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("backup", "file/b"), "file: File exists; the name is taken: move the file away"),
        (("backup", "x" * 300), "File name too long; choose a shorter name"),
        (("init", "file/ws"), "file/ws: Not a directory; a part of this path is a file"),
        (("models", "import", "[b].pth"), "[b].pth is not a file"),
    ],
)
def test_what_the_system_refuses_is_told_in_one_line(
    arguments: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dataengine: Callable[..., str],
) -> None:
    make_workspace(tmp_path / "ws")
    monkeypatch.chdir(tmp_path / "ws")
    Path("file").touch()
    assert told in dataengine(*arguments)


def test_settings_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    for encoding, wrong in (("utf-8-sig", ""), ("utf-16", "not UTF-8"), ("latin-1", "not UTF-8")):
        path.write_bytes("[train]\nsteps = 7  # é\n".encode(encoding))
        if not wrong:
            assert load_settings(tmp_path).train.steps == 7
            continue
        with pytest.raises(WorkspaceError, match=f"{FILE_NAME} is {wrong}"):
            load_settings(tmp_path)
    path.write_text("[train\n")
    with pytest.raises(WorkspaceError, match=r"is not valid TOML: .*line 1"):
        load_settings(tmp_path)


@pytest.mark.usefixtures("prefect_server")
def test_a_release_made_again_says_that_it_is_the_old_one(
    released: tuple[Site, Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, begun = released
    monkeypatch.chdir(site.workspace.settings.root)
    monkeypatch.setattr(temporary_server, "server", lambda _: contextlib.nullcontext())
    card = {"masks": 1, "images": 3, "created_at": "2026-01-01T00:00:00+00:00"}
    site.workspace.catalog.releases.finish(begun.name, card)
    told = CliRunner().invoke(app, ["release", begun.name, "--dataset", "d"]).stdout
    assert "as made at 2026-01-01" in told
    assert "need a release of a new name" in told


def test_a_server_that_ends_at_once_is_not_said_to_be_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(sys, "executable", "false")
    with (
        pytest.raises(temporary_server.OrchestratorError, match="ended at start with code 1"),
        temporary_server.server(tmp_path),
    ):
        pass


def test_prefect_does_not_complain_of_events_that_a_server_which_has_ended_did_not_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(sys, "executable", "false")
    complaints = logging.getLogger("prefect._internal.concurrency")
    monkeypatch.setattr(complaints, "disabled", False)
    with (
        contextlib.suppress(temporary_server.OrchestratorError),
        temporary_server.server(tmp_path),
    ):
        pass
    assert complaints.disabled


def test_an_earlier_demo_is_replaced_but_not_what_somebody_put_there(tmp_path: Path) -> None:
    root = prepare_demo(tmp_path / "demo")
    OutputFolder(root / "out").write("instances.json", "{}")
    (root / "store").mkdir()
    assert prepare_demo(root) == root
    assert not (root / "out").exists()
    OutputFolder(root / "out").write("instances.json", "{}")
    (root / "out" / "notes.txt").write_bytes(THEIRS)
    with pytest.raises(NotTheDemoError, match="out does not belong to the demo; move it away"):
        prepare_demo(root)
    assert (root / "out" / "notes.txt").read_bytes() == THEIRS
