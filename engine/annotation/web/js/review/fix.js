// Opens the annotation page's editor over the review page, to fix one mask.

import { api } from "../shared/api.js";
import { toast } from "../shared/dom.js";
import { t } from "../shared/strings.js";
import { boxOfRle } from "./mask_art.js";

const SHARE = 0.45; // of the view that the mask fills at first

/** Returns a function that closes the editor at once. `rle` is the mask as it is now, `draft` what
 * an interrupted fix left behind. `onDone` gets the schema's NewMask. */
export function fixMask({ task, mask, rle, draft, onChange, onDone, onClose }) {
  const container = document.getElementById("fix");
  let editor = null;
  let isClosed = false;

  function close() {
    if (isClosed) return;
    isClosed = true;
    editor?.destroy();
    container.replaceChildren();
    container.hidden = true;
  }

  function give(newMask) {
    close();
    onClose();
    if (newMask) onDone({ ...newMask, replaces: mask.mask_id });
  }

  async function open() {
    container.hidden = false;
    try {
      const { mountEditor } = await import("../editor/editor.js"); // loaded when it is first needed
      if (isClosed) return;
      editor = mountEditor(container, {
        api,
        task,
        masks: [{ ...mask, rle }],
        mode: "fix",
        draft,
        onChange: () => editor && onChange(editor.draft()),
        onDone: (newMask) => give(newMask),
        onCancel: () => give(null),
      });
      await editor.ready;
      if (!isClosed) showAround(editor.viewport, boxOfRle(rle));
    } catch (problem) {
      console.error(problem);
      give(null);
      toast(t("The editor could not be opened."), "bad");
    }
  }

  open();
  return close;
}

/** Zooms in on the mask, which may be small in a large image. */
function showAround(viewport, { x, y, width, height }) {
  const wanted = SHARE * Math.min(viewport.width / width, viewport.height / height);
  if (wanted <= viewport.scale) return;
  const [left, top] = viewport.fromImage(x + width / 2, y + height / 2);
  viewport.pan(viewport.width / 2 - left, viewport.height / 2 - top);
  viewport.zoomAt(viewport.width / 2, viewport.height / 2, wanted / viewport.scale);
}
