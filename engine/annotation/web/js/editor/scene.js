// Draws one frame: image, finished masks, what is selected or being made, prompts and cursors.

import { drawGrid, drawMap } from "./aids.js";
import { CURRENT_COLOUR, ERASE_COLOUR, PREVIEW_COLOUR, SELECTED_COLOUR } from "./colours.js";
import { Ground } from "./ground.js";
import { CRISP, outline, overlap, sprite } from "./layers.js";
import { LiveSprite } from "./live_sprite.js";

const DETAIL_MASKS = 60; // at most this many are drawn one by one when zoomed in
const DETAIL_EDGES = 10_000;
const DETAIL_PIXELS = 2e6;

/** @param {number[]} rgb */
const css = ([r, g, b], alpha = 1) => `rgb(${r} ${g} ${b} / ${alpha})`;

export class Scene {
  #sprites = new WeakMap();
  #live = new LiveSprite();
  #ground = new Ground();

  constructor(canvas, viewport) {
    this.viewport = viewport;
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
  }

  /** `view`: {picture, view, layer, items, look, selected, current, ghost, preview, points, dragBox, brush, tool, cursor}. */
  draw(view) {
    const { context, viewport } = this;
    const { look, selected, current } = view;
    this.#below(view);
    viewport.apply(context);
    if (!current?.live) this.#live.drop();
    if (selected && !look.isHidden) this.#mask(selected.mask, { rgb: selected.rgb, rim: SELECTED_COLOUR, opacity: 0.6, isMain: true });
    if (current?.mask) this.#mask(current.mask, { rgb: CURRENT_COLOUR, opacity: look.isContour ? 0 : 0.5, isMain: true, live: current.live });
    if (view.ghost) this.#mask(view.ghost, { rgb: ERASE_COLOUR, opacity: 0.7 });
    if (view.preview) this.#mask(view.preview, { rgb: PREVIEW_COLOUR, opacity: current?.mask ? 0.1 : 0.28 });
    // from here on in screen pixels
    context.setTransform(viewport.ratio, 0, 0, viewport.ratio, 0, 0);
    if (view.view.hasGrid) drawGrid(context, viewport);
    if (view.dragBox) this.#box(view.dragBox, true);
    else if (current?.box) this.#box(current.box, false);
    for (const point of view.points) this.#point(point);
    view.tool?.paint?.(context, viewport);
    if (view.brush) this.#brush(view.brush);
    if (view.cursor) this.#cursor(view.cursor);
    if (view.view.hasMap) drawMap(context, viewport, view.picture.at(0));
  }

  /** The image and the finished masks. */
  #below(view) {
    const { viewport, context, canvas } = this;
    const { picture, layer, items, look } = view;
    const bitmap = picture.at(viewport.density);
    const tiles = picture.tilesSeen(viewport);
    const hasMasks = !look.isHidden && !look.isSolo;
    const close = hasMasks && viewport.density >= CRISP ? this.#few(items) : null;
    const masks = hasMasks ? [layer.version, items.length, close !== null] : [];
    const key = [viewport.scale, viewport.ratio, canvas.width, canvas.height, bitmap, ...masks, ...tiles.map((tile) => tile.bitmap)];
    this.#ground.draw(context, [viewport.x, viewport.y].map((value) => value * viewport.ratio), key, () => {
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.fillStyle = "#0b0d11";
      context.fillRect(0, 0, canvas.width, canvas.height);
      viewport.apply(context);
      this.#image(bitmap, tiles, picture.isCovered(viewport));
      if (close) for (const { mask, rgb } of close) this.#mask(mask, { rgb, opacity: layer.opacity });
      else if (hasMasks) this.#blit(layer.canvas, viewport.density < CRISP);
    });
  }

  /** `isCovered`: the tiles hide the bitmap. */
  #image(bitmap, tiles, isCovered) {
    const { context, viewport } = this;
    const { imageWidth: width, imageHeight: height } = viewport;
    context.fillStyle = "#1a1e25";
    if (!bitmap) context.fillRect(0, 0, width, height);
    // when zoomed in, single pixels are shown without smoothing
    else if (!isCovered) this.#blit(bitmap, viewport.density < 6);
    if (tiles.length) this.#tiles(tiles);
  }

  /** Tiles meet at whole pixels of the canvas, or seams would show. */
  #tiles(tiles) {
    const { context, viewport } = this;
    const onCanvas = (x, y) => viewport.fromImage(x, y).map((value) => Math.round(value * viewport.ratio));
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.imageSmoothingEnabled = viewport.density < 6;
    for (const { bitmap, box } of tiles) {
      const [left, top] = onCanvas(box[0], box[1]);
      const [right, bottom] = onCanvas(box[2], box[3]);
      context.drawImage(bitmap, left, top, right - left, bottom - top);
    }
    context.imageSmoothingEnabled = true;
    viewport.apply(context);
  }

  /** Draws the visible part of a bitmap that covers the whole image. */
  #blit(bitmap, isSmooth) {
    const { context, viewport } = this;
    const [x0, y0, x1, y1] = viewport.seen;
    if (x1 <= x0 || y1 <= y0) return;
    const scaleX = bitmap.width / viewport.imageWidth;
    const scaleY = bitmap.height / viewport.imageHeight;
    const left = Math.max(0, Math.floor(x0 * scaleX) - 1);
    const top = Math.max(0, Math.floor(y0 * scaleY) - 1);
    const width = Math.min(bitmap.width, Math.ceil(x1 * scaleX) + 1) - left;
    const height = Math.min(bitmap.height, Math.ceil(y1 * scaleY) + 1) - top;
    context.imageSmoothingEnabled = isSmooth;
    context.drawImage(
      bitmap, left, top, width, height,
      left / scaleX, top / scaleY, width / scaleX, height / scaleY,
    );
    context.imageSmoothingEnabled = true;
  }

  /** The visible masks if they are few and small enough to be drawn one by one, else null. */
  #few(items) {
    const seen = items.filter((item) => overlap(item.mask.box, this.viewport.seen));
    if (seen.length > DETAIL_MASKS) return null;
    let edges = 0;
    let pixels = 0;
    for (const { mask } of seen) {
      const [x0, y0, x1, y1] = mask.box;
      edges += mask.edges.length;
      pixels += (x1 - x0) * (y1 - y0);
    }
    return edges <= DETAIL_EDGES && pixels <= DETAIL_PIXELS ? seen : null;
  }

  /** `style`: {rgb, rim, opacity, isMain}; `isMain` adds a dark seam; `live`: of the stroke that changes it. */
  #mask(mask, style) {
    if (mask.isEmpty) return;
    const { context, viewport } = this;
    const image = style.live ? this.#live.show(style.live, mask, style, viewport.density) : this.#sprite(mask, style, viewport.density);
    context.imageSmoothingEnabled = !image.isCrisp;
    context.drawImage(image.canvas, image.x, image.y, image.width, image.height);
    context.imageSmoothingEnabled = true;
    if (!image.isCrisp) return;
    context.lineCap = "square";
    if (style.isMain) this.#stroke(mask, 3.5, "rgb(0 0 0 / 0.45)");
    this.#stroke(mask, 1.5, css(style.rim ?? style.rgb));
  }

  #stroke(mask, width, style) {
    this.context.lineWidth = width / this.viewport.scale;
    this.context.strokeStyle = style;
    this.context.stroke(outline(mask));
  }

  /** Cached until the mask's style changes or the zoom changes by a factor of two. */
  #sprite(mask, { rgb, rim, opacity }, density) {
    const old = this.#sprites.get(mask);
    const isSame = old?.rgb === rgb && old.rim === rim && old.opacity === opacity;
    if (isSame && density <= old.most && density > old.least) return old.image;
    const image = sprite(mask, { rgb, rim, opacity }, density);
    const step = 2 ** Math.ceil(Math.log2(density));
    // from CRISP on the sprite does not depend on the zoom
    const [least, most] = image.isCrisp ? [CRISP - 1e-6, Infinity] : [step / 2, Math.min(step, CRISP - 1e-6)];
    this.#sprites.set(mask, { rgb, rim, opacity, least, most, image });
    return image;
  }

  #box(box, isDrawn) {
    const { context, viewport } = this;
    const [x0, y0] = viewport.fromImage(box[0], box[1]);
    const [x1, y1] = viewport.fromImage(box[2], box[3]);
    context.lineWidth = 3;
    context.strokeStyle = "rgb(0 0 0 / 0.5)";
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.lineWidth = 1.5;
    context.strokeStyle = css(CURRENT_COLOUR);
    context.setLineDash(isDrawn ? [] : [6, 4]);
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.setLineDash([]);
  }

  /** A disc with + or -, so that colour is not the only difference. */
  #point({ x, y, label }) {
    const { context, viewport } = this;
    const [cx, cy] = viewport.fromImage(x + 0.5, y + 0.5);
    context.beginPath();
    context.arc(cx, cy, 6.5, 0, 2 * Math.PI);
    context.fillStyle = label ? "#0d8a55" : "#c63a2e";
    context.fill();
    context.lineWidth = 1.5;
    context.strokeStyle = "#fff";
    context.stroke();
    context.beginPath();
    context.moveTo(cx - 3, cy);
    context.lineTo(cx + 3, cy);
    if (label) {
      context.moveTo(cx, cy - 3);
      context.lineTo(cx, cy + 3);
    }
    context.stroke();
  }

  #brush({ x, y, radius, isErasing }) {
    const { context, viewport } = this;
    const [cx, cy] = viewport.fromImage(x, y);
    const reach = Math.max(1, radius * viewport.scale);
    for (const [width, style] of [[3, "rgb(0 0 0 / 0.6)"], [1.5, css(isErasing ? ERASE_COLOUR : CURRENT_COLOUR)]]) {
      context.beginPath();
      context.arc(cx, cy, reach, 0, 2 * Math.PI);
      context.lineWidth = width;
      context.strokeStyle = style;
      context.stroke();
    }
  }

  /** The keyboard's crosshair, with a gap so that the pixel itself stays in sight. */
  #cursor([x, y]) {
    const { context, viewport } = this;
    const [cx, cy] = viewport.fromImage(x + 0.5, y + 0.5);
    for (const [width, style] of [[4, "rgb(0 0 0 / 0.65)"], [1.5, "#fff"]]) {
      context.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(cx + dx * 4, cy + dy * 4);
        context.lineTo(cx + dx * 16, cy + dy * 16);
      }
      context.lineWidth = width;
      context.strokeStyle = style;
      context.stroke();
    }
  }
}
