import assert from "node:assert/strict";
import { test } from "node:test";

import { asWords, known, roleName, words } from "../../engine/annotation/web/js/shared/names.js";
import { LANGUAGE, pieces, plural, t } from "../../engine/annotation/web/js/shared/strings.js";

test("English texts are their own translation, with values in their places", () => {
  assert.deepEqual([LANGUAGE, t("Skip"), t("constructor")], ["en", "Skip", "constructor"]);
  assert.equal(t("{a} of {b}, {a} again, {c}", { a: "{b}", b: 0 }), "{b} of 0, {b} again, {c}");
});

test("numbers choose the form of a plural, and have separators", () => {
  const counted = [0, 1, 2, 1_234].map((n) => plural(n, "{n} mask in {name}", "{n} masks in {name}", { name: "d" }));
  assert.deepEqual(counted, ["0 masks in d", "1 mask in d", "2 masks in d", "1,234 masks in d"]);
});

test("pieces keep nodes, and have no empty texts", () => {
  const key = { tagName: "KBD" };
  assert.deepEqual(pieces("Press {key} or {key}", { key }), ["Press ", key, " or ", key]);
  assert.deepEqual(pieces("{key}{other}", { key }), [key, "{other}"]);
});

test("names of the server are shown as their own words in English, known or not", () => {
  for (const name of known()) assert.equal(words(name), asWords(name));
  assert.deepEqual([words("ground_truth"), words("of_tomorrow"), words("constructor")], ["Ground truth", "Of tomorrow", "Constructor"]);
  assert.deepEqual([roleName("admin"), roleName("guest")], ["admin", "guest"]);
});
