import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { Prompts } from "../../engine/annotation/web/js/editor/prompts.js";
import { Session } from "../../engine/annotation/web/js/editor/session.js";
import { WorkLog } from "../../engine/annotation/web/js/shared/clock.js";
import { rowsOf, square } from "./bitmaps.js";

const SIZE = [40, 30];
const object = square(...SIZE, 10, 10, 20, 20);
const SPOT = { x: 12, y: 12, label: 1 };

/** As much of the editor as prompts ask for, with a model that answers when it is told to. */
function editorWith() {
  const requests = [];
  const predict = (id, prompt, { signal }) =>
    new Promise((resolve, reject) => {
      requests.push({ prompt, signal, resolve, reject });
      signal.addEventListener("abort", () => reject(signal.reason));
    });
  const busy = [];
  const editor = {
    size: SIZE,
    session: new Session({ width: 40, height: 30, prefilled: [], log: new WorkLog({ now: () => 0, isHidden: () => false }) }),
    selected: null,
    tool: "prompt",
    look: { hasPreview: true },
    pointer: { isBusy: false },
    viewport: { scale: 1 },
    frames: { request: () => {} },
    parts: { busy: { hidden: true } },
    task: { id: 7, lease_id: "lease" },
    options: { api: { predict }, onBusy: (isBusy) => busy.push(isBusy), onTrouble: () => {} },
    subjectAt: () => editor.selected,
    subjectOf: () => editor.selected,
    update: () => editor.prompts.ask(),
    run: (action) => editor.session[action](),
    requests,
    busy,
  };
  editor.prompts = new Prompts(editor);
  return editor;
}

const prediction = (mask = object) => ({ token: "t", best: 0, candidates: [{ rle: mask.toRle(), predicted_iou: 0.9 }] });
const settled = () => new Promise((resolve) => setImmediate(resolve));

beforeEach(() => mock.timers.enable({ apis: ["setTimeout"] }));
afterEach(() => mock.timers.reset());

test("a click is sent at once with the lease, and its answer becomes the mask", async () => {
  const editor = editorWith();
  editor.prompts.click(SPOT);
  const [request] = editor.requests;
  assert.deepEqual([request.prompt.lease_id, request.prompt.points, request.prompt.multimask], ["lease", [SPOT], true]);
  assert.deepEqual([editor.session.isWaiting, editor.busy], [true, [true]]);
  request.resolve(prediction());
  await settled();
  assert.deepEqual(rowsOf(editor.session.current.mask), rowsOf(object));
  assert.deepEqual([editor.session.isWaiting, editor.busy], [false, [true, false]]);
});

test("a second click gives up the first one's request, and undo needs none", async () => {
  const editor = editorWith();
  editor.prompts.click(SPOT);
  editor.requests[0].resolve(prediction());
  await settled();
  editor.prompts.click({ x: 30, y: 5, label: 1 });
  editor.prompts.click({ x: 31, y: 6, label: 1 });
  assert.equal(editor.requests[1].signal.aborted, true);
  assert.equal(editor.requests[2].prompt.points.length, 3);
  editor.session.undo();
  editor.session.undo();
  editor.update();
  assert.deepEqual([editor.requests[2].signal.aborted, editor.requests.length], [true, 3]);
  assert.deepEqual(rowsOf(editor.session.current.mask), rowsOf(object));
});

test("a click outside the image, and a box without an inside, ask nothing", () => {
  const editor = editorWith();
  editor.prompts.click({ x: 40, y: 3, label: 1 });
  editor.prompts.addBox([3, 3, 3.5, 20]);
  editor.prompts.addBox([-9, -9, 0, 0]);
  assert.deepEqual([editor.session.current, editor.requests], [null, []]);
  editor.prompts.addBox([-3, 4.04, 55, 12]);
  assert.deepEqual(editor.requests[0].prompt.box_xyxy, [0, 4, 40, 12]);
});

test("a request that fails for the moment is repeated, later each time", async () => {
  const editor = editorWith();
  editor.prompts.click(SPOT);
  for (const wait of [500, 1_000]) {
    const before = editor.requests.length;
    editor.requests.at(-1).reject(Object.assign(new Error("away"), { isTemporary: true }));
    await settled();
    mock.timers.tick(wait - 1);
    await settled();
    assert.equal(editor.requests.length, before);
    mock.timers.tick(1);
    await settled();
    assert.equal(editor.requests.length, before + 1);
  }
  editor.requests.at(-1).resolve(prediction());
  await settled();
  assert.equal(editor.session.isWaiting, false);
});

test("a mask that is to be finished as soon as the model has answered is", async () => {
  const editor = editorWith();
  editor.prompts.click(SPOT);
  assert.ok(editor.prompts.isPutOff("finish"));
  editor.requests[0].resolve(prediction());
  await settled();
  assert.deepEqual([editor.session.current, editor.session.state.masks.length], [null, 1]);
});

test("what is put off until the model has answered is done in its order, and not after a further click", async () => {
  const editor = editorWith();
  const done = [];
  editor.run = (action) => done.push(action);
  assert.equal(editor.prompts.isPutOff("copy"), false); // there is nothing to wait for
  editor.prompts.click(SPOT);
  assert.ok(editor.prompts.isPutOff("copy") && editor.prompts.isPutOff("paste"));
  editor.requests[0].resolve(prediction());
  await settled();
  assert.deepEqual(done.splice(0), ["copy", "paste"]);
  editor.prompts.click({ ...SPOT, x: 14 });
  assert.ok(editor.prompts.isPutOff("copy"));
  editor.prompts.click({ ...SPOT, x: 16 });
  editor.requests.at(-1).resolve(prediction());
  await settled();
  assert.deepEqual(done, []);
});

test("a preview is asked for once the pointer rests, and a click on it needs no second request", async () => {
  const editor = editorWith();
  for (const x of [10, 11, 12]) editor.prompts.hover([x + 0.5, 12.5], 1);
  assert.equal(editor.requests.length, 0);
  mock.timers.tick(40);
  assert.deepEqual(editor.requests.map(({ prompt }) => prompt.points), [[SPOT]]);
  editor.prompts.click(SPOT); // joins the request that is under way
  assert.equal(editor.requests.length, 1);
  editor.requests[0].resolve(prediction());
  await settled();
  assert.deepEqual(rowsOf(editor.session.current.mask), rowsOf(object));
});

test("a click goes before a preview of another place", async () => {
  const editor = editorWith();
  editor.prompts.hover([30.5, 5.5], 1);
  mock.timers.tick(40);
  editor.prompts.click(SPOT);
  assert.deepEqual(editor.requests.map(({ signal }) => signal.aborted), [true, false]);
  editor.requests[1].resolve(prediction());
  await settled();
  assert.equal(editor.prompts.preview, null);
  assert.equal(editor.session.isWaiting, false);
});

test("between previews the server rests as long as the last one took", async (context) => {
  const editor = editorWith();
  let now = 0;
  context.mock.method(performance, "now", () => now);
  editor.prompts.hover([12.5, 12.5], 1);
  mock.timers.tick(40);
  editor.prompts.hover([30.5, 5.5], 1);
  now = 300;
  editor.requests[0].resolve(prediction());
  await settled();
  mock.timers.tick(299);
  assert.equal(editor.requests.length, 1);
  mock.timers.tick(1);
  assert.equal(editor.requests.length, 2);
});

test("a preview goes when the pointer leaves its object, and a late one comes only where it still fits", async () => {
  const editor = editorWith();
  editor.prompts.hover([12.5, 12.5], 1);
  mock.timers.tick(40);
  editor.prompts.hover([15.5, 15.5], 1); // still on the object
  editor.requests[0].resolve(prediction());
  await settled();
  assert.deepEqual(rowsOf(editor.prompts.preview), rowsOf(object));
  editor.prompts.hover([35.5, 2.5], 1);
  assert.equal(editor.prompts.preview, null);
});
