// Saves the editor's work as the task's draft. Extends TaskKeeper for thousands of masks: serialising
// them takes long, so it is done less often.

import { TaskKeeper } from "../shared/task_keeper.js";

const WAIT_MS = 800;
const LARGE = 300_000; // characters: a larger copy is not written to this browser at every step
const REST_SHARE = 40; // serialising may take a fortieth of the time

export class Autosave extends TaskKeeper {
  #size = 0;
  #cost = 0; // milliseconds to serialise everything

  /** `on.status` gets "changed", "saving", "saved" or "offline". */
  touch() {
    if (this.isStopped) return;
    this.isDirty = true;
    this.on.status(this.isOffline ? "offline" : "changed");
    if (this.#size < LARGE) this.writeCopy();
    this.schedule(Math.max(WAIT_MS, this.#cost * REST_SHARE));
  }

  writeCopy(version = this.version + 1) {
    const start = performance.now();
    const copy = JSON.stringify({ version, data: this.data(true), at: Date.now() });
    this.#size = copy.length;
    try {
      localStorage.setItem(this.key, copy);
      this.hasCopy = true;
    } catch {
      this.hasCopy = false; // too large for this browser, or forbidden
    }
    this.#cost = performance.now() - start;
  }

  async flush(isLeaving = false) {
    if (!this.isDirty || this.isStopped || this.isFinishing) return;
    if (this.#size >= LARGE && isLeaving) this.writeCopy();
    if (!this.isWriting) this.on.status("saving");
    await super.flush(isLeaving);
    if (!this.isDirty && !this.isStopped) this.on.status("saved");
  }

  onProblem(problem) {
    if (this.isStopped || this.isFinishing) return; // the image is submitted, and the editor may be gone
    if (this.isDirty) this.writeCopy();
    super.onProblem(problem);
    if (this.isOffline) this.on.status("offline");
  }
}
