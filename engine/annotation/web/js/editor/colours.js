// Colours of masks, as [red, green, blue]. Use these arrays themselves: they are compared by identity.

/** The annotator's own masks take these in turn. Blue is reserved for pre-filled masks, amber for the
 * mask in progress. */
export const OWN_COLOURS = [
  [79, 209, 149], [240, 120, 190], [178, 130, 255], [214, 70, 100],
  [110, 220, 225], [150, 215, 60], [0, 140, 120],
];
/** Blues that differ enough to distinguish neighbours. */
export const PREFILLED_COLOURS = [[88, 150, 255], [64, 176, 238], [122, 134, 250]];
export const CURRENT_COLOUR = [255, 176, 32];
export const ERASE_COLOUR = [255, 131, 120];
export const PREVIEW_COLOUR = [255, 255, 255];
export const SELECTED_COLOUR = [255, 255, 255];
