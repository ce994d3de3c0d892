import assert from "node:assert/strict";
import { test } from "node:test";

import { Keys, nameOf } from "../../engine/annotation/web/js/editor/keys.js";
import { isAround, isNear } from "../../engine/annotation/web/js/editor/subject.js";
import { commandOf } from "../../engine/annotation/web/js/review/keys.js";

test("a key is named after what it types, with the keys held", () => {
  const names = [
    [{ key: "z", ctrlKey: true, shiftKey: true }, "Ctrl+Shift+Z"],
    [{ key: "z", metaKey: true }, "Ctrl+Z"],
    [{ key: "?", shiftKey: true }, "?"],
    [{ key: " ", ctrlKey: true }, "Ctrl+Space"],
    [{ key: "Tab", shiftKey: true }, "Shift+Tab"],
    [{ key: "[", ctrlKey: true, altKey: true, getModifierState: () => true }, "["], // AltGr on German keyboards
  ];
  for (const [event, name] of names) assert.equal(nameOf(event), name);
});

test("a key that is given to another action leaves its own", () => {
  const keys = new Keys();
  assert.equal(keys.actionOf({ key: "b" }), "brush");
  assert.equal(keys.actionOf({ key: "ArrowLeft", shiftKey: true }), "left");
  keys.change("fit", "B");
  assert.deepEqual([keys.actionOf({ key: "b" }), keys.of("brush"), keys.actionOf({ key: "f" })], ["fit", [], null]);
  keys.reset();
  assert.deepEqual([keys.actionOf({ key: "b" }), keys.hint("finish")], ["brush", " (Enter)"]);
});

test("the tools, operations and views have keys of their own", () => {
  const keys = new Keys();
  const expected = { d: "lasso", w: "wand", q: "scribble", m: "edit", j: "join", i: "adjust", r: "ruler" };
  for (const [key, action] of Object.entries(expected)) assert.equal(keys.actionOf({ key }), action);
  const shifted = { f: "fillHoles", r: "removeSpecks", s: "smooth", x: "cutOut", d: "split", i: "invert", c: "channel", v: "resetView", g: "grid", m: "map" };
  for (const [key, action] of Object.entries(shifted)) assert.equal(keys.actionOf({ key, shiftKey: true }), action);
  assert.deepEqual(["c", "v"].map((key) => keys.actionOf({ key, ctrlKey: true })), ["copy", "paste"]);
});

test("digits are reasons while one is asked for, and nothing else otherwise", () => {
  assert.deepEqual([commandOf({ key: "2" }, true), commandOf({ key: "2" }, false), commandOf({ key: "7" }, true)], ["reason:1", null, null]);
  assert.deepEqual([commandOf({ key: "0" }, true), commandOf({ key: "A", shiftKey: true }, true), commandOf({ key: "a" }, false)], ["whole", "acceptRest", "accept"]);
  assert.deepEqual([commandOf({ key: "a", altKey: true }, false), commandOf({ key: "Enter", metaKey: true }, true)], [null, "submit"]);
});

test("a click near a selected mask, or a box around half of it, is meant for it", () => {
  const box = [100, 100, 200, 140];
  assert.deepEqual([isNear(box, { x: 86, y: 120 }, 1), isNear(box, { x: 84, y: 120 }, 1)], [true, false]);
  assert.equal(isNear(box, { x: 60, y: 120 }, 0.25), true, "12 pixels of the screen are 48 of the image");
  assert.deepEqual([isAround(box, [100, 90, 151, 150]), isAround(box, [100, 90, 149, 150]), isAround(box, [300, 90, 400, 150])], [true, false, false]);
});
