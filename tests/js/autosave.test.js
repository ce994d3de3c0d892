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
  const on = { status: (status) => said.push(status), lost: () => said.push("lost"), conflict: () => said.push("conflict") };
  const keeper = new Autosave({ id: 7, lease_id: "lease" }, "ada", data, on);
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

test("a draft that is refused because its image was just submitted is no lost lease, one refused otherwise is", async () => {
  const answers = [];
  globalThis.fetch = () => new Promise((resolve) => answers.push((status) => resolve(new Response(JSON.stringify({ error: "lease_lost" }), { status, headers: { "content-type": "application/json" } }))));
  const { keeper, said } = autosave();
  keeper.touch();
  const saving = keeper.flush();
  let submitted = () => {};
  const submitting = keeper.finish(() => new Promise((resolve) => (submitted = () => resolve("done"))));
  answers[0](409); // the server has taken the submission already
  await saving;
  keeper.touch();
  await keeper.flush();
  await keeper.beat();
  submitted();
  assert.equal(await submitting, "done");
  assert.deepEqual([answers.length, said.includes("lost")], [1, false]);
  keeper.stop();

  const other = autosave();
  await assert.rejects(other.keeper.finish(() => Promise.reject(new Error("refused"))));
  other.keeper.touch();
  const again = other.keeper.flush();
  answers[1](409);
  await again;
  assert.ok(other.said.includes("lost"));
  other.keeper.stop();
  delete globalThis.fetch;
});
