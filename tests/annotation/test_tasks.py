"""Tasks from lease to submission, over real HTTP with the shipped model."""

from __future__ import annotations

import numpy as np
import pytest

from engine.annotation.client import Client
from engine.annotation.errors import RefusedError
from engine.annotation.schemas import Event, Former, NewMask, NewVerdict, Point, Rle, TaskView
from engine.core import rle as rle_codec
from engine.core.clicks import center_point
from engine.core.metrics import iou
from engine.core.records import Source, Stage
from engine.core.rle import RLE
from flows.stages.commit_answers import commit_answers
from flows.stages.run_context import RunContext
from storage.catalog import RunState, TaskKind, TaskState, VerdictKind
from storage.masks import read_parquet
from storage.trajectories import read_trajectories
from tests.annotation.site import SIZE, Site, served

ANNOTATE = [TaskKind.ANNOTATE]


def taken(client: Client, kinds: list[TaskKind] = ANNOTATE) -> TaskView:
    task = client.next_task(kinds).task
    assert task is not None
    return task


def as_rle(mask_HW: np.ndarray) -> Rle:
    coded = rle_codec.encode(mask_HW)
    return Rle(size=coded.size, counts=coded.counts.decode())


def decoded(rle: Rle) -> np.ndarray:
    return rle_codec.decode(RLE(rle.size, rle.counts.encode()))


def square(side: int = 20) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[10 : 10 + side, 30 : 30 + side] = True
    return mask


def new_mask(client_id: str = "m1", mask_HW: np.ndarray | None = None, **more: object) -> NewMask:
    trajectory = [
        Event(kind="click", at=0.5, x=40.0, y=20.0, label=1),
        Event(kind="brush", at=1.5, radius=3.0, path=[(30.0, 10.0), (35.0, 12.0)]),
    ]
    values = {"client_id": client_id, "seconds": 2.0, "trajectory": trajectory, **more}
    rle = as_rle(square() if mask_HW is None else mask_HW)
    return NewMask.model_validate({**values, "rle": rle})


# leasing


def test_a_task_goes_to_one_person_and_stays_with_them(
    site: Site, ada: Client, bob: Client
) -> None:
    site.annotate()
    first = taken(ada)
    assert taken(bob).id != first.id
    again = taken(ada)
    assert (again.id, again.lease_id) == (first.id, first.lease_id)
    assert again.waiting == 1
    assert first.image.width == SIZE[1]
    assert first.model == "lite"


def test_where_nothing_is_free_there_is_no_task(ada: Client) -> None:
    assert ada.next_task(ANNOTATE).task is None


def test_the_image_is_embedded_before_the_task_is_handed_out(site: Site, ada: Client) -> None:
    site.annotate()
    task = taken(ada)
    assert site.workspace.objects.exists(f"embeddings/lite/{task.image.id}.safetensors")


def test_a_broken_image_is_quarantined_and_the_next_one_comes(site: Site, ada: Client) -> None:
    image = site.workspace.catalog.images.get(site.image_ids[0])
    (site.workspace.settings.root / "store" / image.key).write_bytes(b"no image")
    site.workspace.objects.put(image.key, b"no image")
    site.annotate()
    assert taken(ada).image.id == site.image_ids[1]
    (bad,) = site.workspace.catalog.quarantine.all(site.dataset_id)
    assert bad.path == "0.png"
    counts = site.workspace.queue.counts(run_id="annotate")
    assert counts[TaskState.SUBMITTED] == 1


def test_a_draft_comes_back_with_the_task(site: Site, ada: Client) -> None:
    site.annotate()
    task = taken(ada)
    assert task.draft is None
    ada.save_draft(task, 3, {"masks": ["half a mask"]})
    found = taken(ada).draft
    assert found is not None
    assert (found.version, found.data) == (3, {"masks": ["half a mask"]})
    with pytest.raises(RefusedError, match="stored already") as refused:
        ada.save_draft(task, 3, {"from": "another tab"})
    assert refused.value.error == "draft_outdated"


def test_a_skipped_task_goes_to_the_back_and_a_released_one_stays_in_front(
    site: Site, ada: Client, bob: Client
) -> None:
    site.annotate()
    first = taken(ada)
    ada.release(first)
    first = taken(bob)
    assert first.image.id == site.image_ids[0]
    bob.skip(first)
    assert [taken(ada).image.id, taken(bob).image.id] == site.image_ids[1:]


def test_a_lost_task_says_so_and_takes_nothing(site: Site, ada: Client, bob: Client) -> None:
    site.annotate()
    task = taken(ada)
    theirs = task.model_copy(update={"lease_id": "0" * 32})
    calls = (
        lambda: ada.heartbeat(theirs),
        lambda: ada.skip(theirs),
        lambda: ada.predict(theirs, [Point(x=1, y=1, label=1)]),
        lambda: ada.submit(theirs, [new_mask()], seconds=1),
        lambda: bob.submit(task, [new_mask()], seconds=1),
        lambda: bob.save_draft(task, 9, {}),
    )
    for call in calls:
        with pytest.raises(RefusedError) as refused:
            call()
        assert (refused.value.status, refused.value.error) == (409, "lease_lost")
    with pytest.raises(RefusedError) as refused:
        bob.task(task.id)
    assert refused.value.status == 404
    assert ada.heartbeat(task) > task.expires_at
    assert site.workspace.queue.get(task.id).state == TaskState.LEASED


# prompts


def test_a_click_is_answered_with_three_masks_of_the_object(site: Site, ada: Client) -> None:
    site.annotate()
    task = taken(ada)
    truth = site.masks_of(0)[0]
    x, y = center_point(truth)
    found = ada.predict(task, [Point(x=x, y=y, label=1)], multimask=True)
    assert len(found.candidates) == 3
    overlaps = [iou(decoded(candidate.rle), truth) for candidate in found.candidates]
    assert max(overlaps) > 0.5
    best = found.candidates[found.best]
    mask = decoded(best.rle)
    assert mask.shape == SIZE
    assert best.area == mask.sum()
    assert best.box_xyxy == rle_codec.box_xyxy(rle_codec.encode(mask))


def test_the_page_answers_as_the_model_does(site: Site, ada: Client) -> None:
    from engine.core.records import Prompt
    from engine.sam.embedding_file import read_embedding
    from engine.sam.tiles import PromptRequest, TiledPredictor

    site.annotate()
    task = taken(ada)
    click, box = (60.0, 70.0), (40.0, 30.0, 120.0, 110.0)
    answers = [
        ada.predict(task, [Point(x=click[0], y=click[1], label=1)]),
        ada.predict(task, box_xyxy=box),
    ]
    prompts = [
        Prompt(points_xy=np.array([click]), labels=np.array([1])),
        Prompt(box_xyxy=np.array(box)),
    ]
    segmenter = site.workspace.segmenter("lite")
    stored = site.workspace.objects.get(f"embeddings/lite/{task.image.id}.safetensors")
    zoom = TiledPredictor(segmenter, site.scenes[0].image_HWC, read_embedding(stored))
    for answer, prompt in zip(answers, prompts, strict=True):
        (direct,) = zoom.predict([PromptRequest(prompt)], multimask=False)
        mask = zoom.mask(direct[0])
        assert (decoded(answer.candidates[0].rle) == mask).mean() > 0.9999


def test_a_second_click_corrects_the_former_answer(site: Site, ada: Client) -> None:
    site.annotate()
    task = taken(ada)
    clicks = [Point(x=60, y=70, label=1), Point(x=90, y=80, label=0)]
    first = ada.predict(task, clicks[:1], multimask=True)
    former = Former(token=first.token, candidate=first.best)
    corrected = ada.predict(task, clicks, former=former)
    afresh = ada.predict(task, clicks)
    forgotten = ada.predict(task, clicks, former=Former(token="gone", candidate=0))
    assert corrected.candidates[0].predicted_iou != afresh.candidates[0].predicted_iou
    assert forgotten.candidates == afresh.candidates


def test_prompts_of_many_people_at_once_are_answered_as_one_by_one(site: Site, url: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    site.annotate()
    clients = [site.client(url, f"person-{n}") for n in range(3)]
    tasks = [taken(client) for client in clients]
    places = [(20.0 + 11 * n, 15.0 + 7 * n) for n in range(12)]

    def ask(n: int) -> str:
        x, y = places[n]
        who = n % 3
        answer = clients[who].predict(tasks[who], [Point(x=x, y=y, label=1)])
        return answer.candidates[0].rle.counts

    alone = [ask(n) for n in range(12)]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(ask, range(12)))
    same = [a == b for a, b in zip(alone, together, strict=True)]
    assert sum(same) >= 11  # rounding may move a pixel on the edge
    for client in clients:
        client.close()


def test_a_prompt_without_point_and_box_is_refused(site: Site, ada: Client) -> None:
    site.annotate()
    with pytest.raises(RefusedError, match="point or a box"):
        ada.predict(taken(ada))


# submitting


def test_masks_reach_the_table_as_they_were_drawn(site: Site, ada: Client) -> None:
    site.annotate()
    ring = square()
    ring[15:20, 35:40] = False  # a hole
    for number in range(len(site.image_ids)):
        masks = [new_mask("lower"), new_mask("upper", ring, predicted_iou=0.75)]
        done = ada.submit(taken(ada), masks, seconds=30)
        assert (done.masks, done.was_known) == (2, False)
        assert number < 2 or not site.workspace.queue.pending("annotate")
    context = _context(site, "annotate")
    figures = commit_answers(site.workspace, context)
    assert (figures.masks, figures.clicks_per_mask) == (6, 1.0)
    assert figures.seconds_per_mask == 15.0
    rows = list(site.workspace.masks.masks(run_id="annotate"))
    assert len(rows) == 6
    upper = next(row for row in rows if row.mask_id.endswith("0001-upper"))
    assert (rle_codec.decode(upper.rle) == ring).all()
    assert (upper.source, upper.annotator, upper.clicks) == (Source.ANNOTATOR, "ada", 1)
    assert upper.point_xy == (40.0, 20.0)
    assert upper.predicted_iou == pytest.approx(0.75)
    table = read_trajectories(site.workspace.objects.get("trajectories/annotate/0.parquet"))
    assert set(table["mask_id"].to_pylist()) == {row.mask_id for row in rows}
    brush = [step for step in table.to_pylist() if step["kind"] == "brush"]
    assert len(brush) == 6
    assert brush[0]["path_xy"] == [[30.0, 10.0], [35.0, 12.0]]
    assert brush[0]["annotator"] == "ada"


def _context(site: Site, run_id: str) -> RunContext:
    from engine.core.records import Stage

    return RunContext(
        run_id=run_id,
        dataset="d",
        dataset_id=site.dataset_id,
        stage=Stage.ASSISTED_MANUAL,
        round=1,
        model="lite",
    )


def test_submitting_twice_keeps_the_first_masks(site: Site, ada: Client) -> None:
    site.annotate()
    task = taken(ada)
    ada.submit(task, [new_mask("first")], seconds=3)
    again = ada.submit(task, [new_mask("a"), new_mask("b")], seconds=3)
    assert (again.was_known, again.masks) == (True, 1)
    key = str(site.workspace.queue.get(task.id).result_key)
    (mask,) = read_parquet(site.workspace.objects.get(key))
    assert mask.mask_id.endswith("first")
    assert site.workspace.catalog.drafts.get(task.id, ada_id(site)) is None


def ada_id(site: Site) -> int:
    return site.workspace.catalog.annotators.get_or_create("ada").id


def test_what_is_wrong_with_a_submission_is_said_and_nothing_is_stored(
    site: Site, ada: Client
) -> None:
    site.annotate()
    task = taken(ada)
    other_size = as_rle(np.ones((10, 10), bool))
    too_long = Rle(size=SIZE, counts="0" * 40)
    wrong = {
        "does not fit": [new_mask(rle=other_size).model_copy(update={"rle": other_size})],
        "cannot be read": [new_mask().model_copy(update={"rle": too_long})],
        "is empty": [new_mask("m", np.zeros(SIZE, bool))],
        "same client_id": [new_mask("m"), new_mask("m")],
        "Not a mask of this task": [new_mask("m", replaces="somebody's")],
    }
    for message, masks in wrong.items():
        with pytest.raises(RefusedError, match=message) as refused:
            ada.submit(task, masks, seconds=1)
        assert refused.value.status == 422
    with pytest.raises(RefusedError, match="client_id"):
        ada.submit(task, [new_mask().model_copy(update={"client_id": "../../x"})], seconds=1)
    assert site.workspace.queue.get(task.id).state == TaskState.LEASED
    assert list(site.workspace.objects.list("annotations/")) == []


def test_prefilled_masks_are_kept_rejected_or_fixed(site: Site, ada: Client) -> None:
    site.complete()
    task = taken(ada, [TaskKind.COMPLETE])
    kept, rejected, fixed = (mask.mask_id for mask in task.masks)
    assert task.masks[0].source == Source.PREFILL
    masks = [new_mask("fix", replaces=fixed), new_mask("added")]
    done = ada.submit(task, masks, rejected=[rejected], seconds=10)
    assert done.masks == 3
    row = site.workspace.queue.get(task.id)
    assert (row.result.prefilled, row.result.prefilled_kept, row.result.made) == (3, 1, 2)
    rows = read_parquet(site.workspace.objects.get(str(row.result_key)))
    assert [(mask.mask_id == kept, mask.source) for mask in rows] == [
        (True, Source.PREFILL),
        (False, Source.ANNOTATOR),
        (False, Source.ANNOTATOR),
    ]
    assert rows[0].annotator == "ada"


def test_the_server_may_die_between_any_two_requests(site: Site) -> None:
    site.annotate()
    with served(site.workspace) as url, site.client(url, "ada") as client:
        task = taken(client)
        client.save_draft(task, 1, {"clicks": 4})
        session = client.session
    with served(site.workspace) as url, Client(url, session=session) as client:
        again = taken(client)
        assert (again.id, again.lease_id) == (task.id, task.lease_id)
        assert again.draft is not None
        assert again.draft.data == {"clicks": 4}
        assert client.submit(task, [new_mask()], seconds=1).masks == 1


# review


def test_verdicts_are_entered_and_a_fix_supersedes_with_the_stage_of_its_mask(
    site: Site, rita: Client
) -> None:
    site.review(Stage.SEMI_AUTOMATIC)
    verdicts: dict[str, str] = {}
    for _ in site.image_ids:
        task = taken(rita, [TaskKind.REVIEW])
        first, second, third = (mask.mask_id for mask in task.masks)
        fix = new_mask("better", replaces=third)
        given = [
            NewVerdict(mask_id=first, verdict=VerdictKind.ACCEPT, seconds=1),
            NewVerdict(mask_id=second, verdict=VerdictKind.REJECT, seconds=2, reason="too large"),
            NewVerdict(mask_id=third, verdict=VerdictKind.FIX, seconds=9, fix=fix),
        ]
        rita.judge(task, given)
        verdicts |= {first: "accept", second: "reject", third: "fix"}
    _wait_for_finish(site, "review")
    catalog = site.workspace.catalog
    stored = {row.mask_id: row for row in catalog.verdicts.for_run("review")}
    assert {mask_id: str(row.verdict) for mask_id, row in stored.items()} == verdicts
    reasons = {row.reason for row in stored.values() if row.verdict == VerdictKind.REJECT}
    assert reasons == {"too large"}
    current = {m.mask_id for m in site.workspace.masks.masks(current_only=True)}
    fixes = catalog.verdicts.fixes(site.dataset_id)
    assert len(fixes) == 3
    assert set(fixes.values()) <= current
    assert site.workspace.masks.counts(("stage",)).keys() == {("semi_automatic",)}
    assert not set(fixes) & current
    assert catalog.runs.get("review").metrics["accept"] == 3


def _wait_for_finish(site: Site, run_id: str) -> None:
    import time

    for _ in range(100):
        if site.workspace.catalog.runs.get(run_id).state == RunState.FINISHED:
            return
        time.sleep(0.05)
    raise AssertionError(f"run {run_id} was not finished")


def test_a_judgement_that_leaves_masks_out_is_refused(site: Site, rita: Client) -> None:
    site.review()
    task = taken(rita, [TaskKind.REVIEW])
    accept = [
        NewVerdict(mask_id=mask.mask_id, verdict=VerdictKind.ACCEPT, seconds=1)
        for mask in task.masks
    ]
    fix = NewVerdict(mask_id=task.masks[0].mask_id, verdict=VerdictKind.FIX, seconds=1)
    for wrong in (accept[:-1], [*accept, accept[0]], [fix, *accept[1:]]):
        with pytest.raises(RefusedError) as refused:
            rita.judge(task, wrong)
        assert refused.value.status == 422
    with pytest.raises(RefusedError, match="kind"):
        rita.submit(task, [], seconds=1)
