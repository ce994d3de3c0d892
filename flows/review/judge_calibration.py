"""Calibrations of few-shot judges on what people answered; a judge is off without one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from prefect import flow

from engine.verifier.few_shot import LEAST_VERDICTS
from flows.review.few_shot_judge import About, FewShotJudge, JudgeError, JudgeOptions
from flows.review.label_judge import LabelJudge
from flows.review.mask_judge import MaskJudge
from flows.review.missing_judge import MissingJudge
from flows.review.model_routing import RUNS
from flows.review.route_options import RouteOptions
from flows.semantics.vectors import make_vectors
from flows.workspace import costs, progress
from flows.workspace.endpoint import chat_of
from flows.workspace.run_lock import named_lock, tracked_run
from flows.workspace.workspace import Workspace, code_version, open_workspace
from storage.catalog import Dataset, RunKind, new_id
from storage.formats.images import BadImageError

MOST_VERDICTS = 300
"""That a calibration asks about, by default."""
JUDGES: dict[About, type[FewShotJudge]] = {
    judge.about: judge for judge in (MaskJudge, LabelJudge, MissingJudge)
}


@flow(name="calibrate-judge")
def calibrate_judge(
    workspace: str,
    dataset: str,
    precision: float,
    least: int = LEAST_VERDICTS,
    verdicts: int = MOST_VERDICTS,
    options: dict[str, Any] | None = None,
    about: str = About.MASKS,
) -> dict[str, Any]:
    """Prefect flow: ask a judge what people have answered, and switch it on or off. A stopped
    calibration resumes.

    Args:
        workspace: the folder.
        dataset: its name.
        precision: that its sure answers must keep.
        least: answers of people that this must be shown on.
        verdicts: the most of them to ask about.
        options: of JudgeOptions.
        about: which judge (`About`).

    Returns:
        `judge`, `on`, `reason`, `verdicts`, `precision`, and the figures of `Calibration`.

    Raises:
        JudgeError: people have given too few answers.
    """
    RouteOptions(precision=precision)  # raises
    opened, kind = open_workspace(workspace), JUDGES[About(about)]
    row = opened.catalog.datasets.get(dataset)
    chosen = JudgeOptions(**(options or {}))
    chat = chat_of(opened)
    _check_enough(kind, dataset, kind.answers(opened, row), least)
    make_vectors(workspace, dataset, chosen.encoder)
    judge = kind(opened, row, chat, chosen)
    _check_enough(kind, dataset, judge.known, least)
    with named_lock(opened, f"judge/{row.id}"):
        return _calibrate(opened, row, judge, precision, least, verdicts)


def _check_enough(kind: type[FewShotJudge], dataset: str, known: int, least: int) -> None:
    if known < least:
        raise JudgeError(f"{least} answers of people are needed: {kind.too_few(dataset, known)}")


def _calibrate(
    workspace: Workspace,
    dataset: Dataset,
    judge: FewShotJudge,
    precision: float,
    least: int,
    verdicts: int,
) -> dict[str, Any]:
    rows = judge.drawn(max(verdicts, least))
    asked = {"precision": precision, "least": least, "rows": len(rows), "known": judge.known}
    unfinished = workspace.catalog.runs.all(
        dataset_id=dataset.id, kind=RunKind.CALIBRATE_JUDGE, unfinished=True, limit=RUNS
    )
    same = [r for r in unfinished if r.model == judge.version and r.config["asked"] == asked]
    run = workspace.catalog.runs.start(
        same[0].id if same else new_id(),
        RunKind.CALIBRATE_JUDGE,
        dataset_id=dataset.id,
        model=judge.version,
        config={"asked": asked, "settings": workspace.settings.shaping()},
        code_version=code_version(),
    )
    with tracked_run(workspace, run.id), costs.spending(workspace, run.id):
        scores = _scores(workspace, run.id, judge, rows)
        calibration = judge.calibration(scores)
        on, reason = calibration.check(precision, least)
        figures = calibration.figures() if len(scores) > 1 and calibration.accepted_N.any() else {}
        result = {
            "judge": judge.version,
            "on": on,
            "reason": reason,
            "verdicts": len(scores),
            "precision": precision,
            **figures,
            "route": asdict(calibration.route(precision)) if on else None,
        }
        workspace.catalog.runs.finish(run.id, {**result, "rows": calibration.to_rows()})
    return result


def _scores(
    workspace: Workspace, run_id: str, judge: FewShotJudge, rows: Sequence[int]
) -> dict[int, float]:
    """Ask; scores are kept in a local file, so that nothing is asked for twice."""
    path = workspace.cache / "judges" / f"{run_id}.jsonl"
    path.parent.mkdir(exist_ok=True)
    found: dict[int, float] = {}
    if path.exists():
        lines = path.read_text().split("\n")[:-1]  # the last one may be cut off
        found = {int(row): float(score) for row, score in map(json.loads, lines)}
    with (
        path.open("a") as file,
        progress.current().track("ask what people answered", len(rows), "question") as advance,
    ):
        for row in rows:
            if row not in found:
                try:
                    found[row] = judge.ask_known(row)
                except BadImageError:  # the next stage that reads the image quarantines it
                    continue
                file.write(f"{json.dumps([row, found[row]])}\n")
                file.flush()
            advance()
    return {row: score for row, score in found.items() if row in set(rows)}
