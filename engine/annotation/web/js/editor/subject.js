// Decides, while a finished mask is selected, whether a click, a stroke or a box is meant for that mask or
// for a new one. Boxes are XYXY in pixels of the image.

const NEAR_SHARE = 0.15; // of the mask's longer side
const NEAR_PX = 12; // on the screen, if that is more
const AROUND_SHARE = 0.5; // of the mask's box

/** Whether a place is on the mask's box or close to it. `scale`: screen pixels per image pixel. */
export function isNear([x0, y0, x1, y1], { x, y }, scale) {
  const reach = Math.max(NEAR_SHARE * Math.max(x1 - x0, y1 - y0), NEAR_PX / scale);
  return x >= x0 - reach && x < x1 + reach && y >= y0 - reach && y < y1 + reach;
}

/** Whether a drawn box covers at least half of the mask's box. */
export function isAround([x0, y0, x1, y1], box) {
  const width = Math.min(x1, box[2]) - Math.max(x0, box[0]);
  const height = Math.min(y1, box[3]) - Math.max(y0, box[1]);
  return width > 0 && height > 0 && width * height >= AROUND_SHARE * (x1 - x0) * (y1 - y0);
}
