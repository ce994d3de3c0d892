"""The command line: help with examples, clear errors, JSON for scripts."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from flows import cli
from flows.cli.main import app, main
from flows.workspace import progress
from flows.workspace.settings import FILE_NAME, WorkspaceError, load_settings


def names(group: Any) -> list[str]:
    """All commands; those of a group have its name as prefix."""
    found = []
    for name, command in group.commands.items():
        inner = names(command) if hasattr(command, "commands") else []
        found += [name, *(f"{name} {of_group}" for of_group in inner)]
    return found


COMMANDS = names(typer.main.get_command(app))
WANTED = {"init", "ingest", "run", "generate", "retrain", "evaluate", "models", "status"}
WANTED |= {"release", "export", "demo", "doctor"}
WANTED |= {f"models {name}" for name in ("list", "show", "promote", "rollback", "import", "pull")}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    yield
    progress.use(progress.Silent())


def test_help_names_every_command() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    assert set(COMMANDS) >= WANTED
    assert [name for name in COMMANDS if " " not in name and name not in text] == []


def test_the_version_is_that_of_the_package_and_the_commit() -> None:
    printed = CliRunner().invoke(app, ["--version"]).output
    assert re.fullmatch(rf"dataengine {re.escape(version('open-data-engine'))}(\+\w+)?\n", printed)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example(name: str) -> None:
    result = CliRunner().invoke(app, [*name.split(), "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"dataengine {name}" in result.output


def early_imports() -> set[str]:
    """Modules that commands import before they open the workspace, where Prefect's settings are
    set."""
    found = set()
    for path in Path(cli.__path__[0]).glob("*.py"):
        for command in ast.walk(ast.parse(path.read_text())):
            if not isinstance(command, ast.FunctionDef):
                continue
            names = [node for node in ast.walk(command) if isinstance(node, ast.Name)]
            opened = [node.lineno for node in names if node.id == "in_workspace"]
            for node in ast.walk(command):
                if isinstance(node, ast.ImportFrom) and node.lineno < min(opened, default=0):
                    found.add(str(node.module))
    return found


def test_no_command_imports_prefect_before_its_settings_are_set() -> None:
    modules = ", ".join(sorted(early_imports()))
    assert "flows.review.route_options" in modules
    code = f"import sys, {modules}; print('prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_flows_start_without_the_packages_that_take_seconds_and_few_of_them_use() -> None:
    seldom = ("torchvision", "torch._dynamo", "scipy.stats", "scipy.special", "matplotlib")
    code = f"import sys, flows.deploy.prefect_flows; print(sys.modules.keys() & {set(seldom)})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_outside_a_workspace_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dataengine", "status"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert "dataengine init" in told.replace("\n", " ")
    assert "Traceback" not in told


def test_a_new_workspace_has_a_model_and_is_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = CliRunner()
    made = runner.invoke(app, ["init", str(tmp_path / "ws")])
    assert made.exit_code == 0
    for choice in ("lite", "pull mobile_sam", "pull vit_h"):
        assert choice in made.stdout
    monkeypatch.chdir(tmp_path / "ws")
    status = json.loads(runner.invoke(app, ["status", "--json"]).stdout)
    keys = {"datasets", "images", "masks", "rounds", "models", "tasks", "runs", "releases"}
    assert keys <= set(status)
    assert status["models"] == {"lite": "current"}
    checks = json.loads(runner.invoke(app, ["doctor", "--json"]).stdout)
    assert checks["ok"], checks


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("[train]\nstep = 3\n")
    with pytest.raises(WorkspaceError, match=r"train\.step"):
        load_settings(tmp_path)


def test_the_environment_overrides_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE_NAME).write_text("[train]\nsteps = 3\nlearning_rate = 0.5\n")
    monkeypatch.setenv("DATAENGINE_TRAIN__STEPS", "7")
    train = load_settings(tmp_path).train
    assert (train.steps, train.learning_rate) == (7, 0.5)


def test_secrets_are_not_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / FILE_NAME).touch()
    monkeypatch.setenv("DATAENGINE_STORE__SECRET_KEY", "hunter2")
    assert "hunter2" not in repr(load_settings(tmp_path))
