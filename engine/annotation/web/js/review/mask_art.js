// Masks as pictures: cut out of the run lengths, traced, and drawn over the image.

import { Mask, forEachPiece } from "../shared/rle.js";

export const OUTLINE = "#35e0ff";
export const BEFORE = "#ffb347";
const SEVERAL = [OUTLINE, "#ffb347", "#7cf29a", "#ff8ad8"];
const HALO = "rgb(0 0 0 / 70%)";
const TINT = "40"; // hex alpha of the fill
const KEPT = 150; // decoded masks that are kept

/** A mask's bits inside its own box: `{x, y, width, height, bits}`. */
export function cropOf(rle) {
  const mask = Mask.fromRle(rle);
  const [x, y, right, bottom] = mask.isEmpty ? [0, 0, 1, 1] : mask.box;
  const [width, height] = [right - x, bottom - y];
  const bits = new Uint8Array(width * height);
  forEachPiece(mask.edges, mask.height, (column, from, to) => {
    for (let row = from - y; row < to - y; row += 1) bits[row * width + column - x] = 1;
  });
  return { x, y, width, height, bits };
}

/** The border between mask and rest along the pixels' edges, in pixels of the image. */
export function traceOf({ x, y, width, height, bits }) {
  const path = new Path2D();
  const at = (column, row) =>
    column < 0 || row < 0 || column >= width || row >= height ? 0 : bits[row * width + column];
  for (let row = 0; row <= height; row += 1) {
    runs(
      width,
      (column) => at(column, row - 1) !== at(column, row),
      (from, to) => {
        path.moveTo(x + from, y + row);
        path.lineTo(x + to, y + row);
      },
    );
  }
  for (let column = 0; column <= width; column += 1) {
    runs(
      height,
      (row) => at(column - 1, row) !== at(column, row),
      (from, to) => {
        path.moveTo(x + column, y + from);
        path.lineTo(x + column, y + to);
      },
    );
  }
  return path;
}

function runs(count, isEdge, found) {
  let from = -1;
  for (let index = 0; index <= count; index += 1) {
    const edge = index < count && isEdge(index);
    if (edge && from < 0) from = index;
    if (!edge && from >= 0) {
      found(from, index);
      from = -1;
    }
  }
}

/** The mask as a canvas of one colour, the size of its box. */
function stencilOf({ width, height, bits }) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const words = new Uint32Array(image.data.buffer);
  for (let index = 0; index < words.length; index += 1) if (bits[index]) words[index] = 0xffffffff;
  context.putImageData(image, 0, 0);
  return canvas;
}

const art = new Map(); // run lengths -> {crop, trace, stencil}; in order of use

function artOf(rle) {
  let entry = art.get(rle.counts);
  if (entry) art.delete(rle.counts);
  else {
    const crop = cropOf(rle);
    entry = { crop, trace: traceOf(crop), stencil: stencilOf(crop) };
    crop.bits = null; // no longer needed
  }
  art.set(rle.counts, entry);
  if (art.size > KEPT) art.delete(art.keys().next().value);
  return entry;
}

/** Box of a mask, from its run lengths. */
export function boxOfRle(rle) {
  const { x, y, width, height } = artOf(rle).crop;
  return { x, y, width, height };
}

/** Draw one view. `view`: `{scale, x, y}`, image pixel p is at (p - x) * scale of the canvas.
 * `show`: overlay, image, mask. */
export function drawMask(canvas, picture, size, rle, view, show, colour = OUTLINE) {
  const context = canvas.getContext("2d");
  const { scale } = view;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.fillStyle = "#0b0d10";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.setTransform(scale, 0, 0, scale, -view.x * scale, -view.y * scale);
  const ratio = picture.naturalWidth / size.width;
  context.imageSmoothingEnabled = scale / ratio < 3; // magnified: show the pixels as they are
  if (show !== "mask") drawSeen(context, canvas, picture, size, view, ratio);
  if (show === "image") return;
  const { crop, trace, stencil } = artOf(rle);
  if (show === "mask") {
    context.fillStyle = "#1a1e25";
    context.fillRect(0, 0, size.width, size.height);
    context.drawImage(stencil, crop.x, crop.y);
    return;
  }
  drawOverlay(context, { crop, trace, stencil }, Math.max(2, canvas.width / 400), scale, colour);
}

/** Draw several masks over the whole image, in changing colours. */
export function drawMasks(canvas, picture, size, masks) {
  const context = canvas.getContext("2d");
  const scale = canvas.width / size.width;
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.imageSmoothingQuality = "medium";
  context.drawImage(picture, 0, 0, size.width, size.height);
  for (const [index, { rle }] of masks.entries()) {
    drawOverlay(context, artOf(rle), 1.5 * devicePixelRatio, scale, SEVERAL[index % SEVERAL.length]);
  }
}

/** `pixels`: width of the outline on the canvas. */
function drawOverlay(context, { crop, trace, stencil }, pixels, scale, colour) {
  context.imageSmoothingEnabled = scale < 1;
  context.drawImage(tinted(stencil, colour + TINT), crop.x, crop.y);
  const line = pixels / scale;
  context.lineCap = "square"; // fills the corners, and is much faster than a round one
  for (const [style, width] of [
    [HALO, line * 2.2],
    [colour, line],
  ]) {
    context.strokeStyle = style;
    context.lineWidth = width;
    context.stroke(trace);
  }
}

/** Draws only the visible part of the picture: scaling all of it is much slower. */
function drawSeen(context, canvas, picture, size, { scale, x, y }, ratio) {
  const left = Math.max(0, Math.floor(x));
  const top = Math.max(0, Math.floor(y));
  const width = Math.min(size.width, Math.ceil(x + canvas.width / scale)) - left;
  const height = Math.min(size.height, Math.ceil(y + canvas.height / scale)) - top;
  if (width <= 0 || height <= 0) return;
  context.imageSmoothingQuality = "medium";
  const [sx, sy, sw, sh] = [left, top, width, height].map((length) => length * ratio);
  context.drawImage(picture, sx, sy, sw, sh, left, top, width, height);
}

let tint = null; // {stencil, colour, canvas}: the one in use; a moved view needs it again

function tinted(stencil, colour) {
  if (tint?.stencil === stencil && tint.colour === colour) return tint.canvas;
  const canvas = document.createElement("canvas");
  canvas.width = stencil.width;
  canvas.height = stencil.height;
  const context = canvas.getContext("2d");
  context.drawImage(stencil, 0, 0);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = colour;
  context.fillRect(0, 0, canvas.width, canvas.height);
  tint = { stencil, colour, canvas };
  return canvas;
}

/** The view that shows a mask and its surroundings on a canvas of this size. */
export function viewAround(box, size, width, height, context = 0.3) {
  const pad = Math.max(box.width, box.height) * context + 6;
  const wide = Math.max(32, box.width + 2 * pad);
  const high = Math.max(32, box.height + 2 * pad);
  const scale = Math.min(width / wide, height / high, 40);
  const rim = Math.min(10, width / 50) / scale; // of empty space beside the image, so that an outline there is visible
  const inside = (at, shown, whole) =>
    shown >= whole + 2 * rim ? (whole - shown) / 2 : Math.min(Math.max(at, -rim), whole - shown + rim);
  const x = inside(box.x + box.width / 2 - width / scale / 2, width / scale, size.width);
  const y = inside(box.y + box.height / 2 - height / scale / 2, height / scale, size.height);
  return { scale, x, y };
}
