import assert from "node:assert/strict";
import { test } from "node:test";

import { Autosave } from "../../engine/annotation/web/js/editor/autosave.js";

const kept = new Map();
globalThis.localStorage = {
  getItem: (key) => kept.get(key) ?? null,
  setItem: (key, value) => kept.set(key, value),
  removeItem: (key) => kept.delete(key),
};

/** There is no server here: every request fails, as where the connection is lost. */
function autosave() {
  const said = [];
  let draft = { masks: 1 };
  const data = () => {
    assert.ok(draft, "the editor is gone");
    return draft;
  };
  const keeper = new Autosave({ id: 7, lease_id: "lease" }, "ada", data, { status: (status) => said.push(status) });
  return { keeper, said, closeEditor: () => (draft = null) };
}

test("a draft that cannot be sent is kept in the browser, and the page is told", async () => {
  const { keeper, said } = autosave();
  keeper.touch();
  await keeper.flush();
  assert.deepEqual(said, ["changed", "saving", "offline"]);
  assert.deepEqual([keeper.isDirty, keeper.hasCopy], [true, true]);
  assert.deepEqual(JSON.parse(kept.get("ode-draft-ada-7")).data, { masks: 1 });
  keeper.stop();
});

test("a draft that fails after its image was handed in leaves nothing behind", async () => {
  const { keeper, closeEditor } = autosave();
  keeper.touch();
  const sending = keeper.flush();
  keeper.forget();
  keeper.stop();
  closeEditor();
  await sending;
  assert.equal(kept.size, 0);
});
