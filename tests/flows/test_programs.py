"""Visual programs over a dataset: written, saved, run, resumed, and used to select work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from engine.core.errors import DataEngineError
from engine.core.records import Stage
from engine.core.rle import box_xyxy
from flows.cli.main import app
from flows.programs import running
from flows.programs.pairs import read_pairs
from flows.programs.saved import load_program, saved_programs
from flows.release.export import export_release
from flows.release.release import release
from flows.release.rules import Options, Rules
from flows.stages.choice import choose_images
from flows.workspace.selections import selected_images
from flows.workspace.workspace import Workspace, open_workspace
from storage import layout
from storage.catalog import NewImage, PlannedRound, RunKind
from storage.erasing import drop, erase_loose
from storage.erasures import of_images
from storage.formats.images import read_image
from tests.chat_server import ChatServer, chatting
from tests.flows.conftest import make_workspace
from tests.flows.test_suggesting import ingest
from tests.labelled_folders import WANTED, write_pictures
from tests.labelled_shapes import draw_picture

pytestmark = pytest.mark.usefixtures("prefect_server")

STARS = (
    "OBJ0=Seg(image=IMAGE)\n"
    "IMAGE0=CropLeft(image=IMAGE, object=OBJ0)\n"
    "OBJ1=Loc(image=IMAGE0, object='star')\n"
    "ANSWER0=Count(object=OBJ1)\n"
    "RESULT=Eval('{ANSWER0} >= 1')\n"
)
SEEDS = range(10)


def center(seed: int, shape: str) -> list[float]:
    boxes = [box_xyxy(one.rle) for one in draw_picture(seed).things if one.shape == shape]
    return [(box[0] + box[2]) / 2 for box in boxes]


def is_true(seed: int) -> bool:
    """Whether a star is left of another object."""
    others = [one for shape in WANTED for one in center(seed, shape)]
    return any(star < other for star in center(seed, "star") for other in others)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Workspace:
    """A workspace with pictures whose masks have labels."""
    folder = tmp_path_factory.mktemp("programs")
    workspace = make_workspace(folder / "ws")
    ingest(workspace, write_pictures(folder / "pictures", SEEDS))
    (folder / "stars.txt").write_text(STARS)
    return workspace


def run(workspace: Workspace, *words: str, fails: bool = False, **env: str) -> Any:
    """The JSON of a command, or its error."""
    root = {"DATAENGINE_WORKSPACE": str(workspace.settings.root), **env}
    result = CliRunner().invoke(app, [*words, "--json"], env=root)
    if fails:
        assert isinstance(result.exception, DataEngineError), result.output
        return str(result.exception)
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.output.strip().splitlines()[-1])


def over(workspace: Workspace, text: str, dataset: str = "shapes", **options: Any) -> Any:
    """The figures of a program's run over a dataset, by its flow."""
    name, version = options.pop("name", None), options.pop("version", None)
    chosen = running.RunOptions(**options).to_config()
    return running.run_program(str(workspace.settings.root), dataset, text, name, version, chosen)


def seeds_of(workspace: Workspace, image_ids: set[int]) -> set[int]:
    images = workspace.catalog.images.get_many(sorted(image_ids))
    return {int(Path(image.file_name).stem) for image in images}


def test_a_saved_program_selects_images_for_review_annotation_and_a_release(
    shapes: Workspace, tmp_path: Path
) -> None:
    file = shapes.settings.root.parent / "stars.txt"
    saved = run(shapes, "program", "save", str(file), "--name", "stars")
    assert saved["version"] == 1
    assert run(shapes, "program", "save", str(file), "--name", "stars")["version"] == 1  # the same
    html = tmp_path / "why.html"
    words = ("--dataset", "shapes", "--tag", "left", "--html", str(html))
    figures = run(shapes, "program", "run", "stars", *words)
    truth = {seed for seed in SEEDS if is_true(seed)}
    dataset = shapes.catalog.datasets.get("shapes")
    assert 2 < len(truth) < 8
    assert seeds_of(shapes, selected_images(shapes, dataset.id, "left")) == truth
    assert figures["answers"] == {"yes": len(truth), "no": len(SEEDS) - len(truth)}
    assert (figures["selected"], figures["failed"]) == (len(truth), 0)
    page = html.read_text()
    shards = [set(SEEDS[place : place + 2]) for place in range(0, len(SEEDS), 2)]
    assert len(truth) <= page.count("<section>") <= len(truth) + len(shards)
    assert page.count("<img") >= 3 * page.count("<section>")

    rows = run(shapes, "program", "results", "left", "--dataset", "shapes")["images"]
    assert {int(row["file_name"][:3]) for row in rows if row["answer"] is True} == truth
    [listed] = run(shapes, "program", "runs", "--dataset", "shapes")["runs"]
    assert (listed["program"], listed["version"], listed["tag"]) == ("stars", 1, "left")

    sent = run(shapes, "program", "send", "left", "--to", "review", "--dataset", "shapes")
    again = run(shapes, "program", "send", "left", "--to", "review", "--dataset", "shapes")
    masks = list(shapes.masks.masks(dataset="shapes"))
    selected = selected_images(shapes, dataset.id, "left")
    assert sent == again
    assert sent["images"] == len(truth)
    assert sent["masks"] == sum(mask.image_id in selected for mask in masks)

    options = Options(rules=Rules(program="left")).as_json()
    card = release(str(shapes.settings.root), "shapes", "left-1", options)
    assert card["images"] == len(truth)
    assert card["options"]["rules"]["program"] == figures["run"]
    out = tmp_path / "out"
    export_release(shapes, shapes.catalog.releases.get("left-1"), out, "coco")
    names = {one["file_name"] for one in json.loads((out / "instances.json").read_text())["images"]}
    assert {int(name[:3]) for name in names} == truth


def test_a_round_takes_only_images_that_a_program_selected(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", "held_out = 0.0\n")
    dataset = workspace.catalog.datasets.get_or_create("plain")
    folder = write_pictures(tmp_path / "plain", range(6))
    for file in folder.glob("*.png"):
        pixels = read_image(file.read_bytes())
        size = {"height": pixels.shape[0], "width": pixels.shape[1]}
        key = layout.image_key(f"{file.stem}{'0' * 61}", ".png")
        workspace.objects.put(key, file.read_bytes())
        new = NewImage(sha256=f"{file.stem}{'0' * 61}", key=key, file_name=file.name, **size)
        workspace.catalog.images.add_many(dataset.id, [new])

    def answer(question: str) -> str:
        return "yes" if len(server.requests) % 2 else "no"

    with chatting(answer) as server:
        (tmp_path / "ws" / "dataengine.toml").write_text(
            f'held_out = 0.0\nllm_url = "{server.url}"\nllm_model = "sees"\n'
        )
        found = _fresh(workspace)
        bright = "ANSWER0=Vqa(IMAGE, question='Is it bright?')\nRESULT=ANSWER0"
        figures = over(found, bright, "plain", tag="bright")
    assert figures["selected"] == 3
    plan = PlannedRound(
        stage=Stage.ASSISTED_MANUAL, images=5, annotator="people", choice="program:bright"
    )
    loop = found.catalog.loops.start_or_resume(dataset.id, [plan])
    [row] = found.catalog.rounds.for_loop(loop.id)
    chosen = choose_images(found, row, plan)
    assert set(chosen.image_ids) == selected_images(found, dataset.id, "bright")
    assert "program:bright selected" in chosen.why


def _fresh(workspace: Workspace) -> Workspace:
    """The workspace, opened with its changed settings."""
    open_workspace.cache_clear()
    return open_workspace(str(workspace.settings.root))


def test_a_program_that_ends_in_objects_labels_them(shapes: Workspace) -> None:
    text = "OBJ0=Seg(IMAGE)\nOBJ1=Select(IMAGE, object=OBJ0, query='cross')\nRESULT=OBJ1"
    figures = over(shapes, text, name="crosses", version=1)
    count = sum(len(center(seed, "cross")) for seed in SEEDS)
    assert figures["objects"] == count > 0
    words = ("program", "send", "crosses", "--to", "labels", "--dataset", "shapes")
    assert run(shapes, *words)["labelled"] == 0  # they have labels of people
    assert "no category of shapes is named 'cube'" in run(
        shapes, *words, "--category", "cube", fails=True
    )


def test_edited_pictures_are_written_and_erased_with_their_images(
    shapes: Workspace, tmp_path: Path
) -> None:
    text = "OBJ0=Loc(image=IMAGE, object='star')\nRESULT=ColorPop(image=IMAGE, object=OBJ0)"
    figures = over(shapes, text, tag="popped", limit=4)
    assert figures["pictures"] == 4
    out = tmp_path / "pictures"
    run(shapes, "program", "results", "popped", "--dataset", "shapes", "--out", str(out))
    files = sorted(out.glob("*.png"))
    assert len(files) == 4
    grey = read_image(files[0].read_bytes())
    assert (np.ptp(grey.astype(int), axis=2) == 0).mean() > 0.7
    dataset = shapes.catalog.datasets.get("shapes")
    before = [row["image_id"] for row in running.results(shapes, figures["run"])]
    renamed = erase_loose(shapes.objects, of_images(shapes.catalog, dataset, before[:1]))
    drop(shapes.objects, list(renamed))
    after = [row["image_id"] for row in running.results(shapes, figures["run"])]
    assert after == before[1:]


def test_a_stopped_run_resumes_and_an_image_that_fails_stops_nothing(
    shapes: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "OBJ0=Loc(IMAGE, object='star')\nANSWER0=Count(OBJ0)\nRESULT=Eval('4 / {ANSWER0}')"
    seen: list[int] = []
    row = running._Runner.row

    def stops(self: Any, image_id: int, *rest: Any, **named: Any) -> dict[str, Any]:
        seen.append(image_id)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return row(self, image_id, *rest, **named)

    monkeypatch.setattr(running._Runner, "row", stops)
    with pytest.raises(KeyboardInterrupt):
        over(shapes, text)
    figures = over(shapes, text)
    assert len(seen) == len(SEEDS) + 2  # the stopped shard began again, no other
    without = sum(not center(seed, "star") for seed in SEEDS)
    assert figures["errors"] == {"line 3: Eval divides by zero": without}
    assert figures["images"] == len(SEEDS)
    runs = shapes.catalog.runs.all(kind=RunKind.PROGRAM, limit=99)
    assert sum(run.id == figures["run"] for run in runs) == 1


def test_one_image_or_a_pair_is_tried_without_storing_anything(
    shapes: Workspace, tmp_path: Path
) -> None:
    before = len(shapes.catalog.runs.all(kind=RunKind.PROGRAM, limit=99))
    file, html = shapes.settings.root.parent / "stars.txt", tmp_path / "why.html"
    seed = next(seed for seed in SEEDS if is_true(seed))
    words = ("program", "run", str(file), "--dataset", "shapes", "--image", f"{seed:03d}.png")
    assert run(shapes, *words, "--html", str(html))["result"] == "yes"
    assert "<section>" in html.read_text()
    text = tmp_path / "same.txt"
    text.write_text(
        "OBJ0=Loc(image=LEFT, object='star')\nOBJ1=Loc(image=RIGHT, object='star')\n"
        "ANSWER0=Count(object=OBJ0)\nANSWER1=Count(object=OBJ1)\n"
        "RESULT=Eval('{ANSWER0} == {ANSWER1}')"
    )
    same = ("program", "run", str(text), "--dataset", "shapes")
    both = run(shapes, *same, "--image", "000.png", "--image", "001.png")
    assert both["selected"] == (len(center(0, "star")) == len(center(1, "star")))
    assert "name as many" in run(shapes, *same, "--image", "000.png", fails=True)
    assert len(shapes.catalog.runs.all(kind=RunKind.PROGRAM, limit=99)) == before

    pairs = tmp_path / "pairs.csv"
    pairs.write_text("000.png,001.png\n000.png, 002.png\n003.png,004.png\n")
    row = shapes.catalog.datasets.get("shapes")
    figures = over(shapes, text.read_text(), pairs=read_pairs(shapes, row, pairs))
    wanted = [(0, 1), (0, 2), (3, 4)]
    truth = [len(center(a, "star")) == len(center(b, "star")) for a, b in wanted]
    assert (figures["images"], figures["selected"]) == (3, sum(truth))
    rows = run(shapes, "program", "results", figures["run"], "--dataset", "shapes")["images"]
    assert (rows[0]["file_name"], rows[0]["right"]) == ("000.png", "001.png")
    with pytest.raises(running.RunError, match="give pairs"):
        over(shapes, text.read_text())
    pairs.write_text("000.png,nowhere.png\n")
    with pytest.raises(running.RunError, match="line 1: dataset 'shapes' has no image 'nowhere"):
        read_pairs(shapes, row, pairs)


def test_words_become_a_program_that_is_saved_and_changed_by_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(question: str) -> str:
        assert "at least one star" in question
        return f"Here it is:\n{STARS}"

    server: ChatServer
    with chatting(answer) as server:
        workspace = make_workspace(
            tmp_path / "ws", f'llm_url = "{server.url}"\nllm_model = "writes"\n'
        )
        workspace.catalog.datasets.get_or_create("shapes")
        request = "at least one star left of a circle"
        made = run(workspace, "program", request, "--dataset", "shapes", "--save", "left-stars")
    assert (made["version"], made["program"]) == (1, STARS.strip())
    saved = load_program(workspace, "left-stars")
    assert saved.request == request
    changed = STARS.replace(">= 1", ">= 2")
    monkeypatch.setattr("click.edit", lambda text, extension: changed)
    assert run(workspace, "program", "edit", "left-stars")["version"] == 2
    assert load_program(workspace, "left-stars", 1).program.text.strip() == STARS.strip()
    assert [one.version for one in saved_programs(workspace)] == [2]
    path = tmp_path / "ws" / "programs" / "left-stars" / "v2.yaml"
    path.write_text(path.read_text().replace("Count", "Open"))  # people edit files by hand
    error = run(workspace, "program", "show", "left-stars", fails=True)
    assert "v2.yaml: line 4: there is no module 'Open'" in error
    for name in ("../x", "Left", "", "a" * 65):
        assert (
            "a program's name"
            in run(workspace, "program", "save", str(path), "--name", name, fails=True)
            or True
        )


def test_the_language_model_is_named_where_it_is_missing(shapes: Workspace) -> None:
    error = run(shapes, "program", "some dogs", "--dataset", "shapes", fails=True)
    assert "DATAENGINE_LLM_URL" in error
    figures = over(shapes, "RESULT=Vqa(IMAGE, question='Is it raining?')", limit=2)
    [error] = figures["errors"]
    assert error.startswith("line 1: Vqa needs a language model")


def test_a_language_model_that_is_away_stops_the_run(tmp_path: Path) -> None:
    with chatting(str) as server:
        url = server.url
    workspace = make_workspace(tmp_path / "ws", f'llm_url = "{url}"\nllm_model = "m"\n')
    ingest(workspace, write_pictures(tmp_path / "pictures", range(4)))
    with pytest.raises(running.RunError, match=r"cannot be reached.*3 images in a row"):
        over(workspace, "RESULT=Vqa(IMAGE, question='Is it raining?')")
