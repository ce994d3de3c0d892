import assert from "node:assert/strict";
import { test } from "node:test";

import { History } from "../../engine/annotation/web/js/editor/history.js";

function after(...states) {
  const history = new History(0);
  for (const state of states) history.commit(state);
  return history;
}

test("undo and redo walk over the states, and a new step ends the way forward", () => {
  const history = after(1, 2);
  assert.equal(history.undo() && history.state, 1);
  assert.equal(history.undo() && history.state, 0);
  assert.equal(history.undo(), false);
  assert.equal(history.redo() && history.state, 1);
  history.commit(3);
  assert.equal(history.canRedo, false);
  assert.equal(history.redo(), false);
  assert.equal(history.undo() && history.state, 1);
});

test("an amended state is part of its step", () => {
  const history = after(1);
  history.amend(1.5);
  assert.equal(history.undo() && history.state, 0);
  assert.equal(history.redo() && history.state, 1.5);
});

test("a forgotten step can be neither undone nor redone", () => {
  const history = after(1, 2);
  history.forget();
  assert.deepEqual([history.state, history.canRedo], [1, false]);
});

test("the oldest of many steps are let go", () => {
  const history = after(...Array.from({ length: 500 }, (_, i) => i + 1));
  let steps = 0;
  while (history.undo()) steps += 1;
  assert.deepEqual([steps, history.state], [400, 100]);
});

test("a history made of the states around another one is the same", () => {
  const history = after(1, 2, 3);
  history.undo();
  const again = new History(history.state, history.around);
  assert.deepEqual(again.around, { before: [1, 0], after: [3] });
  assert.equal(again.redo() && again.state, 3);
});
