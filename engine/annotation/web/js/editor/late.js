// Work on a task that went to somebody else meanwhile: it is sent all the same, and a reviewer picks from
// both versions.

import { api } from "../shared/api.js";
import { toast } from "../shared/dom.js";
import { Session } from "./session.js";
import { keptCopies } from "../shared/task_keeper.js";

const NO_LEASE = "0".repeat(32); // the one it was done under is lost

/** Whether the server has it now. `submission`: {masks, rejected, seconds}. */
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

/** Sends what an earlier visit left in this browser, of other tasks than the present one. Where a task is
 * still free, its work stays here and comes back with it. */
export async function sendKept(name, presentId) {
  for (const copy of keptCopies(name)) {
    if (copy.taskId === presentId || !copy.data.size) continue;
    try {
      const submission = Session.submissionOf(copy.data);
      if (!(await sendLate(copy.taskId, submission))) continue;
      copy.forget();
      toast("An image you had begun went to somebody else. What you did was sent too; a reviewer picks from both.");
    } catch (problem) {
      console.error("Kept work could not be read", problem);
    }
  }
}
