"""`dataengine evaluate`: options and output."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.evaluate import FILES, chosen_sets
from flows.cli.main import app
from flows.training.scores import EvaluationSet, NothingToEvaluateError
from flows.workspace import progress
from tests.flows.conftest import make_workspace, write_scenes


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    yield
    progress.use(progress.Silent())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of scenes; the current folder is a workspace."""
    make_workspace(tmp_path / "ws")
    monkeypatch.chdir(tmp_path / "ws")
    return write_scenes(tmp_path / "scenes", 2)


@pytest.mark.slow
def test_one_set_and_several_are_scored_and_written(folder: Path, tmp_path: Path) -> None:
    runner, coco = CliRunner(), folder / "instances.json"
    (folder / "zzz.png").write_bytes(b"no image")
    one = ["evaluate", "--images", str(folder), "--coco", str(coco), "--json"]
    found = json.loads(runner.invoke(app, one, catch_exceptions=False).stdout)
    assert (found["model"], found["set"], found["images"], found["skipped"]) == (
        *("lite", "scenes"),
        *(2, 1),
    )
    for name in ("miou_1_click", "miou_9_clicks", "miou_box", "noc_85", "ar_1000"):
        low, high = found[f"{name}_ci"]
        assert low <= found[name] <= high
    assert found["noc_cap"] == 9
    (left_out,) = found["passed_over"]
    assert (left_out["what"], left_out["examples"]) == ("images that cannot be read", ["zzz.png"])
    assert found["problems"][0].startswith("zzz.png: ")
    assert len(found["predicted_iou_bins"]) == 10

    named = [f"--set=_a $b$={folder},{coco}", f"--set=[b]={folder},{coco}"]
    output = tmp_path / "out"
    several = runner.invoke(
        app, ["evaluate", *named, "--limit", "1", "--output", str(output)], catch_exceptions=False
    )
    assert several.exit_code == 0
    assert "[b]" in several.stdout
    assert "mean of 2 sets" in several.stdout
    assert sorted(path.name for path in output.glob("[!.]*")) == sorted(FILES)
    written = json.loads((output / FILES[0]).read_text())
    assert set(written["sets"]) == {"_a $b$", "[b]"}
    both = written["sets"]["[b]"]
    assert written["mean"]["miou_box"] == pytest.approx(both["miou_box"])
    assert written["mean"]["miou_box_ci"] is None  # one image per set
    for name in FILES[1:]:
        assert (output / name).read_bytes().startswith(b"\x89PNG")


def test_a_set_whose_file_knows_none_of_its_images_is_an_error(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.json").write_text('{"images": [], "annotations": [], "categories": []}')
    wrong = f"--set=x={folder},{tmp_path / 'empty.json'}"
    with pytest.raises(NothingToEvaluateError, match="'x': none of 2 images"):
        CliRunner().invoke(app, ["evaluate", wrong], catch_exceptions=False)


def test_annotations_that_are_left_out_of_a_score_are_told_with_their_reason(
    folder: Path, tmp_path: Path
) -> None:
    content = json.loads((folder / "instances.json").read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    (tmp_path / "crowds.json").write_text(json.dumps(content))
    wrong = f"--set=x={folder},{tmp_path / 'crowds.json'}"
    with pytest.raises(NothingToEvaluateError, match=r"scene-00\.png: annotation 1: crowd"):
        CliRunner().invoke(app, ["evaluate", wrong], catch_exceptions=False)


def test_the_workspaces_limit_of_pixels_holds_for_a_score_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAENGINE_MAX_PIXELS", "1000")
    make_workspace(tmp_path / "ws")
    monkeypatch.chdir(tmp_path / "ws")
    folder = write_scenes(tmp_path / "scenes", 1)
    arguments = ["evaluate", f"--set=x={folder},{folder / 'instances.json'}"]
    with pytest.raises(NothingToEvaluateError, match=r"at most 1,000 are read"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "nothing to score"),
        (["--images", "."], "go together"),
        (["--images", "none", "--coco", "f.json"], "none is not a folder"),
        (["--images", ".", "--coco", "none"], "none is not a file"),
        (["--set", "a"], "expected NAME=IMAGES,COCO, got 'a'"),
        (["--set", "a=."], "expected NAME=IMAGES,COCO"),
        (["--set", "=.,f.json"], "expected NAME=IMAGES,COCO"),
        (["--set", "a=.,f.json", "--set", "a=.,f.json"], "a name of its own, got a, a"),
    ],
)
def test_wrong_options_are_told(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f.json").touch()
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["evaluate", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert told in result.output


def test_a_folder_may_have_a_comma_in_its_name(tmp_path: Path) -> None:
    folder, coco = tmp_path / "a,b", tmp_path / "f.json"
    folder.mkdir()
    coco.touch()
    assert chosen_sets(None, None, [f"x={folder},{coco}"]) == [EvaluationSet("x", folder, coco)]
