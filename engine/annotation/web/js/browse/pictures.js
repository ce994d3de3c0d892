// Pictures of cards: thumbnails of images, with the outlines of masks where a card is of a mask.

import { api } from "../shared/api.js";
import { boxOfRle, drawMask, viewAround } from "../review/mask_art.js";

const KEPT = 400; // thumbnails and outlines
const OUTLINES = 12; // of one request
const RETRY_MS = 1_500; // the server limits requests per second
const TRIES = 3;
const SIDES = [256, 512, 1024];

const thumbnails = new Map(); // address -> promise of a picture, in order of use
const outlines = new Map(); // mask id -> run lengths

function keep(map, key, value) {
  map.delete(key);
  map.set(key, value);
  if (map.size > KEPT) map.delete(map.keys().next().value);
  return value;
}

function thumbnail(id, side) {
  const address = api.thumbnailUrl(id, side);
  return keep(thumbnails, address, thumbnails.get(address) ?? loaded(address));
}

async function loaded(address) {
  for (let tries = 1; ; tries += 1) {
    const picture = new Image();
    picture.src = address;
    try {
      await picture.decode();
      return picture;
    } catch (problem) {
      if (tries === TRIES) {
        thumbnails.delete(address);
        throw problem;
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS * Math.random() * tries));
    }
  }
}

/** Draws cards, which have `item` and a canvas as their first child. */
export async function drawCards(dataset, cards) {
  const masks = cards.filter((card) => card.item.mask_id);
  for (const card of cards) if (!outlines.has(card.item.mask_id)) drawWhole(card);
  for (let at = 0; at < masks.length; at += OUTLINES) await drawMasks(dataset, masks.slice(at, at + OUTLINES));
}

async function drawMasks(dataset, cards) {
  const missing = cards.filter((card) => card.isConnected && !outlines.has(card.item.mask_id));
  if (missing.length) {
    const params = new URLSearchParams({ dataset });
    for (const { item } of missing) {
      params.append("mask_id", item.mask_id);
      params.append("image_id", item.image.id);
    }
    try {
      const found = await api.browse("outlines", params);
      for (const [id, rle] of Object.entries(found.outlines)) keep(outlines, id, rle);
    } catch {
      return; // they stay as whole images
    }
  }
  for (const card of cards) if (card.isConnected) drawOne(card);
}

function canvasOf(card) {
  const canvas = card.firstChild;
  const side = Math.max(32, Math.round(canvas.clientWidth * devicePixelRatio));
  if (canvas.width !== side) canvas.width = canvas.height = side;
  return canvas;
}

async function drawWhole(card) {
  const image = card.item.image ?? card.item;
  try {
    const picture = await thumbnail(image.id, 256);
    if (!card.isConnected || outlines.has(card.item.mask_id)) return;
    const canvas = canvasOf(card);
    const context = canvas.getContext("2d");
    const scale = Math.min(canvas.width / picture.naturalWidth, canvas.height / picture.naturalHeight);
    const [width, height] = [picture.naturalWidth * scale, picture.naturalHeight * scale];
    context.imageSmoothingQuality = "medium";
    context.drawImage(picture, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  } catch {
    card.dataset.broken = "";
  }
}

async function drawOne(card) {
  const { item } = card;
  const rle = outlines.get(item.mask_id);
  if (!rle) return;
  const canvas = canvasOf(card);
  const box = boxOfRle(rle);
  const view = viewAround(box, item.image, canvas.width, canvas.height);
  const needed = Math.max(item.image.width, item.image.height) * view.scale;
  const side = SIDES.find((one) => one >= needed) ?? SIDES.at(-1);
  try {
    const picture = await thumbnail(item.image.id, side);
    if (card.isConnected) drawMask(canvas, picture, item.image, rle, view, "overlay");
  } catch {
    card.dataset.broken = "";
  }
}
