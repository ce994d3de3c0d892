import assert from "node:assert/strict";
import { test } from "node:test";

import { Categories, NONE } from "../../engine/annotation/web/js/shared/categories.js";
import { Keys } from "../../engine/annotation/web/js/editor/keys.js";

const listed = (...rows) => rows.map(([id, name, key = null]) => ({ id, name, key, color: "#112233" }));
const press = (key, more = {}) => ({ key, ctrlKey: false, metaKey: false, altKey: false, ...more });

test("a category's own key labels, and the digits that are left go to the others in order", () => {
  const some = new Categories(listed([5, "cell"], [6, "dust", "1"], [7, "drop", "d"], [8, "hair"]));
  assert.deepEqual([...some.keys], [["1", 6], ["d", 7], ["2", 5], ["3", 8]]);
  assert.equal(some.forKey(press("D")), 7);
  assert.equal(some.forKey(press("9")), undefined);
  assert.equal(some.forKey(press("1", { ctrlKey: true })), undefined);
});

test("a key that the page uses itself labels nothing, and its category gets a digit", () => {
  const some = new Categories(listed([5, "cell", "b"]), (key) => key === "b");
  assert.deepEqual([...some.keys], [["1", 5]]);
});

test("in the editor digits label masks where there are categories, and choose suggestions where there are none", () => {
  const keys = new Keys();
  assert.equal(keys.actionOf(press("1")), "candidate0");
  keys.categories = new Categories(listed([5, "cell"]), (key) => !/\d/.test(key) && keys.isUsed(key.toUpperCase()));
  assert.equal(keys.actionOf(press("1")), null);
  assert.equal(keys.actionOf(press("2")), null);
  assert.equal(keys.hint("candidate0"), "");
  assert.equal(keys.categories.isTaken("b"), true);
});

test("a search finds names that begin with the text before those that contain it", () => {
  const some = new Categories(listed([1, "red car"], [2, "Car"], [3, "dog"]));
  assert.deepEqual(some.search("car").map(({ id }) => id), [2, 1]);
  assert.deepEqual(some.search("none").map(({ id }) => id), [NONE]);
  assert.deepEqual([some.nameOf(NONE), some.nameOf(9)], ["none of these", "a removed category"]);
});
