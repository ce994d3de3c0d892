import assert from "node:assert/strict";
import { test } from "node:test";

import { pressureOf } from "../../engine/annotation/web/js/editor/pointer.js";
import { Session } from "../../engine/annotation/web/js/editor/session.js";
import { radiusUnder, Strokes } from "../../engine/annotation/web/js/editor/strokes.js";
import { WorkLog } from "../../engine/annotation/web/js/shared/clock.js";

const SIZE = [200, 100];

/** As much of the editor as strokes ask for. */
function editorWith(hasPressure = true) {
  const log = new WorkLog({ now: () => 0, isHidden: () => false });
  const editor = {
    size: SIZE,
    log,
    session: new Session({ width: 200, height: 100, prefilled: [], log }),
    selected: null,
    viewPanel: { view: { hasPressure } },
    prompts: {},
    frames: { request: () => {} },
    subjectAt: () => null,
    update: () => {},
    announce: () => {},
  };
  return Object.assign(editor, { strokes: new Strokes(editor) });
}

/** Paints a straight line with the pressure rising from the first to the last. */
function painted(editor, pressures) {
  const { strokes } = editor;
  strokes.radius = 8;
  pressures.forEach((pressure, i) => (i ? strokes.to([20 + 16 * i, 50], pressure) : strokes.start([20, 50], false, pressure)));
  strokes.end();
  const { mask } = editor.session.current;
  const heightAt = (x) => Array.from({ length: 100 }, (_, y) => mask.has(x, y)).filter(Boolean).length;
  return { heightAt, event: editor.session.newMask(editor.session.current).trajectory.at(-1) };
}

const RISING = [0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1];

test("only a pen has a pressure", () => {
  assert.equal(pressureOf({ pointerType: "mouse", pressure: 0.5 }), null);
  assert.equal(pressureOf({ pointerType: "touch", pressure: 1 }), null);
  assert.equal(pressureOf({ pointerType: "pen", pressure: 0 }), null);
  assert.equal(pressureOf({ pointerType: "pen", pressure: 0.3 }), 0.3);
});

test("the brush is as large as it says at half of the pressure, and grows with it", () => {
  assert.equal(radiusUnder(8, null), 8);
  assert.equal(radiusUnder(8, 0.5), 8);
  assert.deepEqual([0.1, 0.4, 0.7, 1].map((pressure) => radiusUnder(8, pressure)), [0.1, 0.4, 0.7, 1].map((p) => 8 * (0.25 + 1.5 * p)));
  assert.ok(radiusUnder(1, 0.01) > 0.7); // at least a pixel
});

test("a stroke with rising pressure becomes wider, and its mean radius is logged", () => {
  const { heightAt, event } = painted(editorWith(), RISING);
  assert.ok(heightAt(20) < 9 && heightAt(132) > 24, `${heightAt(20)} ${heightAt(132)}`);
  const mean = RISING.map((pressure) => radiusUnder(8, pressure)).reduce((a, b) => a + b) / RISING.length;
  assert.equal(event.kind, "brush");
  assert.ok(Math.abs(event.radius - mean) < 0.01);
});

test("without pressure, or with it switched off, a stroke is as wide everywhere", () => {
  for (const { heightAt, event } of [painted(editorWith(), RISING.map(() => null)), painted(editorWith(false), RISING)]) {
    assert.deepEqual([heightAt(30), heightAt(80), heightAt(125)], [16, 16, 16]);
    assert.equal(event.radius, 8);
  }
});
