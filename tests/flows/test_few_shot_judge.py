"""A few-shot judge in a workspace: off until calibrated, then it judges what it is sure of."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.semantics.mask_pictures import outlined
from engine.verifier.few_shot import ask_about
from flows.review import few_shot_judge
from flows.review.few_shot_judge import SIDE, JudgeError
from flows.review.judge_calibration import calibrate_judge
from flows.review.mask_judge import judge_masks
from flows.workspace.endpoint import NoEndpointError
from flows.workspace.settings import FILE_NAME
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import AnnotatorKind, RunKind
from tests.chat_server import ChatServer, chatting, pictures_in, said
from tests.flows.test_verifier import automatic, ids_of, is_good, judge_most, template

__all__ = ["template"]  # the fixture

pytestmark = pytest.mark.usefixtures("prefect_server")

PRECISION = 0.8


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chatting(str) as running:
        yield running


@pytest.fixture
def made(template: Path, tmp_path: Path, server: ChatServer) -> Workspace:
    """A copy of the template whose language model sees whether a mask is exact, in 17 of 20
    cases."""
    shutil.copytree(template, tmp_path / "ws")
    file = tmp_path / "ws" / FILE_NAME
    file.write_text(f'llm_url = "{server.url}"\nllm_model = "sees"\n{file.read_text()}')
    workspace = open_workspace(str(tmp_path / "ws"))
    truth = {}
    for mask in automatic(workspace):
        pixels = workspace.pixels(workspace.catalog.images.get(mask.image_id))
        truth[outlined(pixels, [mask.rle], SIDE)[0].tobytes()] = is_good(mask.mask_id)

    def reply(body: dict[str, Any]) -> dict[str, Any]:
        picture = pictures_in(body)[-1].tobytes()
        yes = truth[picture]
        if hashlib.sha256(picture).digest()[0] % 20 >= 17:
            yes = not yes
        return said("yes" if yes else "no", {"yes": -0.1 if yes else -3, "no": -3 if yes else -0.1})

    server.reply = reply
    return workspace


def calibrate(workspace: Workspace, least: int = 40) -> Any:
    root = str(workspace.settings.root)
    return calibrate_judge(root, "d", PRECISION, least, 100, {"shots": 2})


def judge(workspace: Workspace, **named: Any) -> Any:
    return judge_masks(str(workspace.settings.root), "d", PRECISION, options={"shots": 2}, **named)


def test_a_calibrated_judge_judges_what_it_is_sure_of_as_a_model(
    made: Workspace, server: ChatServer
) -> None:
    others = judge_most(made)
    with pytest.raises(JudgeError, match="is off: it is not calibrated; run `dataengine review"):
        judge(made)
    result = calibrate(made)
    assert result["on"], result["reason"]
    assert result["accuracy"] == pytest.approx(0.85, abs=0.08)
    assert len(pictures_in(server.requests[-1])) == 3  # two examples and the mask in question
    people = made.catalog.verdicts.of_people(1)
    planned = judge(made, dry_run=True)
    done = judge(made)
    assert {**done, "review_run": None} == {**planned, "review_run": None}
    assert done["passed"] + done["dropped"] > 0
    accepted = made.catalog.verdicts.accepted_mask_ids(1) & ids_of(made, others)
    rejected = made.catalog.verdicts.rejected_mask_ids(1) & ids_of(made, others)
    right = sum(map(is_good, accepted)) + sum(not is_good(one) for one in rejected)
    assert right / len(accepted | rejected) >= PRECISION - 0.05
    assert made.catalog.verdicts.of_people(1) == people  # a model's verdicts are none of people's
    annotator = made.catalog.annotators.find(result["judge"])
    assert annotator is not None
    assert annotator.kind == AnnotatorKind.MODEL


def test_a_judge_that_lies_is_switched_off(made: Workspace, server: ChatServer) -> None:
    judge_most(made)
    truthful = server.reply
    assert truthful is not None

    def lies(body: dict[str, Any]) -> dict[str, Any]:
        choice = truthful(body)
        return said({"yes": "no", "no": "yes"}[choice["message"]["content"]])

    server.reply = lies
    result = calibrate(made)
    assert not result["on"]
    assert "tell nothing" in result["reason"]
    asked = len(server.requests)
    with pytest.raises(JudgeError, match="is off: its answers tell nothing"):
        judge(made)
    assert len(server.requests) == asked


def test_a_stopped_calibration_asks_about_no_mask_twice(
    made: Workspace, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge_most(made)
    asked = list[int]()

    def stops(*given: Any) -> float:
        asked.append(1)
        if len(asked) == 11:
            raise KeyboardInterrupt
        return ask_about(*given)

    monkeypatch.setattr(few_shot_judge, "ask_about", stops)
    with pytest.raises(KeyboardInterrupt):
        calibrate(made)
    result = calibrate(made)
    assert len(server.requests) == result["verdicts"]
    [run] = made.catalog.runs.all(kind=RunKind.CALIBRATE_JUDGE, limit=9)
    assert len(run.metrics["rows"]) == result["verdicts"]
    assert json.dumps(run.metrics)


def test_too_few_verdicts_and_no_language_model_are_said(made: Workspace) -> None:
    with pytest.raises(JudgeError, match=r"40 answers of people .* have judged 0 automatic masks"):
        calibrate(made)
    file = made.settings.root / FILE_NAME
    file.write_text("\n".join(file.read_text().split("\n")[2:]))
    open_workspace.cache_clear()
    with pytest.raises(NoEndpointError, match="DATAENGINE_LLM_URL"):
        judge(open_workspace(str(made.settings.root)))
