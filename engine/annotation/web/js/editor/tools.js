// The tools besides clicks and boxes. A tool has, for the pointer, `start(point, isOther, pressure)`, `to(point, pressure)`,
// `end()` and `drop()`; points are image pixels with fractions, `isOther`: with Shift or the right button;
// `pressure`: of a pen, 0 to 1, else null.
// It may have `finish()`, `undo()` and `drop()` for what it has begun, which return whether there was
// something, `resize(direction)`, `paint(context, viewport)`, in screen pixels, and `close()`.
// `takesSign`: touch screens choose by the tool ⊖ whether it adds or removes.

import { Ruler } from "./aids.js";
import { Lasso } from "./lasso.js";
import { Scribble } from "./scribble.js";
import { Wand } from "./wand.js";

/** The tools by name.
 * @returns {Record<string, any>} */
export function toolsOf(editor) {
  const { strokes, operations } = editor;
  return {
    brush: stroking(strokes, (isOther) => isOther),
    eraser: stroking(strokes, (isOther) => !isOther),
    lasso: new Lasso(editor),
    ruler: new Ruler(editor),
    scribble: new Scribble(editor),
    wand: new Wand(editor),
    join: { start: (point) => operations.joinAt(point), to: () => {}, end: () => {}, drop: () => false },
  };
}

/** `isErasing(isOther)`: whether the tool erases. */
function stroking(strokes, isErasing) {
  return {
    start: (point, isOther, pressure) => strokes.start(point, isErasing(isOther), pressure),
    to: (point, pressure) => strokes.to(point, pressure),
    end: () => strokes.end(),
    drop: () => strokes.drop(),
    resize: (direction) => strokes.resize(direction),
  };
}
