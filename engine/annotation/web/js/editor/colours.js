// Colours of masks, as [red, green, blue]. Always these very arrays: they are compared by identity.

/** Own masks take these in turn; blue is left to the pre-filled ones, and whatever is near amber to
 * the one in progress. */
export const OWN_COLOURS = [
  [79, 209, 149], [240, 120, 190], [178, 130, 255], [214, 70, 100],
  [110, 220, 225], [150, 215, 60], [0, 140, 120],
];
/** Blues that differ just enough to tell neighbours apart. */
export const PREFILLED_COLOURS = [[88, 150, 255], [64, 176, 238], [122, 134, 250]];
export const CURRENT_COLOUR = [255, 176, 32];
export const ERASE_COLOUR = [255, 131, 120];
export const PREVIEW_COLOUR = [255, 255, 255];
export const SELECTED_COLOUR = [255, 255, 255];
