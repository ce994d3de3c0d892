import assert from "node:assert/strict";
import { test } from "node:test";

import { adjust, curveOf, isNeutral, NEUTRAL } from "../../engine/annotation/web/js/editor/adjust.js";
import { gridStep, mapBox, pointOnMap } from "../../engine/annotation/web/js/editor/aids.js";

const curve = (changes) => curveOf({ ...NEUTRAL, ...changes });

test("nothing changes by default", () => {
  assert.deepEqual([...curve({})], [...Array(256).keys()]);
  assert.equal(isNeutral({ ...NEUTRAL }), true);
  for (const changes of [{ brightness: 1 }, { channel: 0 }, { isInverted: true }]) assert.equal(isNeutral({ ...NEUTRAL, ...changes }), false);
});

test("each adjustment does what it says, and no curve turns around", () => {
  assert.deepEqual([...curve({ isInverted: true })], [...Array(256).keys()].reverse());
  assert.ok(curve({ brightness: 20 })[100] > 140);
  assert.ok(curve({ gamma: 2 })[40] > 90 && curve({ gamma: 0.5 })[40] < 10);
  const hard = curve({ contrast: 66 });
  assert.deepEqual([hard[80], hard[127] > 120 && hard[127] < 132, hard[180]], [0, true, 255]);
  for (const changes of [{ brightness: -70, contrast: 40, gamma: 3 }, { contrast: -100, gamma: 0.2 }]) {
    const values = [...curve(changes)];
    assert.deepEqual(values, [...values].sort((a, b) => a - b));
  }
});

test("one channel is shown grey, and alpha is kept", () => {
  const data = Uint8ClampedArray.of(10, 20, 30, 255, 1, 2, 3, 128);
  adjust(data, { ...NEUTRAL, channel: 1 });
  assert.deepEqual([...data], [20, 20, 20, 255, 2, 2, 2, 128]);
});

test("lines of the grid stay apart on the screen at any zoom", () => {
  assert.deepEqual([gridStep(48), gridStep(1), gridStep(0.1)], [2, 100, 1000]);
  assert.equal(gridStep(0.0001), 10_000);
});

test("the map is there while much of the image is not seen, and names image points", () => {
  const viewport = { imageWidth: 4000, imageHeight: 2000, width: 1000, height: 500, scale: 0.25 };
  assert.equal(mapBox(viewport), null);
  const close = { ...viewport, scale: 1 };
  assert.deepEqual(mapBox(close), [828, 40, 160, 80]);
  assert.deepEqual(pointOnMap(close, 828 + 80, 40 + 40), [2000, 1000]);
  assert.equal(pointOnMap(close, 820, 60), null);
  assert.equal(pointOnMap(viewport, 828 + 80, 40 + 40), null);
});
