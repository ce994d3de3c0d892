// Colours of masks, as [red, green, blue]. Always these very arrays: they are compared by identity.

/** Own masks take these in turn; blue is left to the pre-filled ones. */
export const OWN_COLOURS = [
  [79, 209, 149], [240, 120, 190], [250, 204, 80], [178, 130, 255],
  [255, 138, 92], [110, 220, 225], [190, 220, 80], [235, 150, 150],
];
/** Blues that differ just enough to tell neighbours apart. */
export const PREFILLED_COLOURS = [[88, 150, 255], [64, 176, 238], [122, 134, 250]];
export const CURRENT_COLOUR = [255, 176, 32];
export const ERASE_COLOUR = [255, 131, 120];
export const PREVIEW_COLOUR = [255, 255, 255];
export const SELECTED_COLOUR = [255, 255, 255];
