// How an image's values are shown: brightness, contrast, gamma, inverted, one channel. Pure functions; masks
// and the model know nothing of it.

/** @typedef {{brightness: number, contrast: number, gamma: number, isInverted: boolean, channel: number | null}} Adjustment
 * brightness and contrast from -100 to 100, gamma above 0; channel 0 red, 1 green, 2 blue, null all */

/** @type {Readonly<Adjustment>} */
export const NEUTRAL = Object.freeze({ brightness: 0, contrast: 0, gamma: 1, isInverted: false, channel: null });

/** @param {Adjustment} adjustment */
export function isNeutral(adjustment) {
  return Object.entries(NEUTRAL).every(([name, value]) => adjustment[name] === value);
}

/** The value, 0 to 255, that each value of 0 to 255 is shown as.
 * @param {Adjustment} adjustment
 * @returns {Uint8ClampedArray} */
export function curveOf({ brightness, contrast, gamma, isInverted }) {
  const slope = 2 ** (contrast / 33);
  return Uint8ClampedArray.from({ length: 256 }, (_, value) => {
    const shifted = (value / 255 - 0.5) * slope + 0.5 + brightness / 100;
    const shown = Math.min(1, Math.max(0, shifted)) ** (1 / gamma);
    return Math.round(255 * (isInverted ? 1 - shown : shown));
  });
}

/** Changes pixels in place: `data` has red, green, blue and alpha of each.
 * @param {Uint8ClampedArray} data
 * @param {Adjustment} adjustment */
export function adjust(data, adjustment) {
  const curve = curveOf(adjustment);
  const [red, green, blue] = adjustment.channel === null ? [0, 1, 2] : Array(3).fill(adjustment.channel);
  for (let i = 0; i < data.length; i += 4) {
    const [r, g, b] = [data[i + red], data[i + green], data[i + blue]];
    data[i] = curve[r];
    data[i + 1] = curve[g];
    data[i + 2] = curve[b];
  }
}
