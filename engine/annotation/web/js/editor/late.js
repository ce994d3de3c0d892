// Work on a task that was given to somebody else meanwhile: it is sent anyway, and a reviewer picks from
// both versions.

import { api } from "../shared/api.js";
import { toast } from "../shared/dom.js";
import { Session } from "./session.js";
import { keptCopies } from "../shared/task_keeper.js";
import { t } from "../shared/strings.js";

const NO_LEASE = "0".repeat(32); // the lease under which it was done is lost

/** Returns whether the server stored it. `submission`: {masks, rejected, seconds}. */
export async function sendLate(taskId, submission) {
  if (!submission.masks.length) return false;
  try {
    await api.late(taskId, { lease_id: NO_LEASE, ...submission });
    return true;
  } catch (problem) {
    console.info("Late work was not taken", problem); // the copy in this browser stays
    return false;
  }
}

/** Sends work of earlier visits that this browser kept, except that of the present task. If a task is
 * still free, its work stays here and is restored with it. */
export async function sendKept(name, presentId) {
  for (const copy of keptCopies(name)) {
    if (copy.taskId === presentId || !copy.data.size) continue;
    try {
      const submission = Session.submissionOf(copy.data);
      if (!(await sendLate(copy.taskId, submission))) continue;
      copy.forget();
      toast(t("An image you had started was given to somebody else. Your work was sent too; a reviewer picks from both."));
    } catch (problem) {
      console.error("Kept work could not be read", problem);
    }
  }
}
