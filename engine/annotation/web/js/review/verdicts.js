// What a reviewer has said so far about the masks of one task, and how long it took. No DOM here.

const KEPT_STEPS = 50; // of undo, in a draft

/** @typedef {{verdict: "accept" | "reject" | "fix", reason?: string | null, fix?: {rle: import("../shared/rle.js").Rle} | null}} Entry */

/** Verdicts by mask, with undo. */
export class Verdicts {
  constructor(masks) {
    this.ids = masks.map((mask) => mask.mask_id);
    /** @type {Map<string, Entry>} */
    this.entries = new Map();
    /** @type {Map<string, number>} */
    this.seconds = new Map();
    this.pending = 0; // seconds that belong to no single mask yet: a look over the whole grid
    this.steps = []; // for undo: lists of [id, former entry]
  }

  get(id) {
    return this.entries.get(id) ?? null;
  }

  /** Judge one or several masks as one step of undo. Time spent on all of them is shared out.
   * @param {string[]} ids
   * @param {Entry} entry */
  set(ids, entry) {
    if (!ids.length) return;
    this.steps.push(ids.map((id) => [id, this.get(id)]));
    for (const id of ids) this.entries.set(id, entry);
    for (const id of ids) this.addSeconds(id, this.pending / ids.length);
    this.pending = 0;
  }

  /** Add to the latest verdict what came to mind after it: it is undone together with it. */
  amend(id, more) {
    const entry = this.get(id);
    if (entry) this.entries.set(id, { ...entry, ...more });
  }

  /** The masks that `undo` is about. */
  lastStep() {
    return (this.steps.at(-1) ?? []).map(([id]) => id);
  }

  /** Take back the last step; returns the masks it was about. Time spent stays spent. */
  undo() {
    const step = this.steps.pop() ?? [];
    for (const [id, entry] of step) {
      if (entry) this.entries.set(id, entry);
      else this.entries.delete(id);
    }
    return step.map(([id]) => id);
  }

  addSeconds(id, seconds) {
    this.seconds.set(id, (this.seconds.get(id) ?? 0) + seconds);
  }

  left() {
    return this.ids.filter((id) => !this.entries.has(id));
  }

  /** The next mask without a verdict after this one, from the start again at the end. */
  nextLeft(index) {
    const count = this.ids.length;
    for (let step = 1; step <= count; step += 1) {
      const at = (index + step) % count;
      if (!this.entries.has(this.ids[at])) return at;
    }
    return -1;
  }

  tally() {
    const counts = { accept: 0, reject: 0, fix: 0, left: this.ids.length - this.entries.size };
    for (const entry of this.entries.values()) counts[entry.verdict] += 1;
    return counts;
  }

  /** What is kept in a draft. */
  toData() {
    return {
      verdicts: Object.fromEntries(this.entries),
      seconds: Object.fromEntries(this.seconds),
      pending: this.pending,
      steps: this.steps.slice(-KEPT_STEPS),
    };
  }

  /** Take up a draft; masks that are not of this task are left out. */
  restore(data) {
    const known = new Set(this.ids);
    for (const [id, entry] of Object.entries(data?.verdicts ?? {})) {
      if (known.has(id) && entry?.verdict) this.entries.set(id, entry);
    }
    for (const [id, seconds] of Object.entries(data?.seconds ?? {})) {
      if (known.has(id) && seconds >= 0) this.seconds.set(id, seconds);
    }
    this.pending = Number(data?.pending) || 0;
    const ofTask = (step) => step.filter(([id]) => known.has(id));
    this.steps = (data?.steps ?? []).map(ofTask).filter((step) => step.length);
  }

  /** The verdicts as the server wants them. */
  toJudgement() {
    const share = this.pending / Math.max(1, this.ids.length);
    return this.ids.map((id) => {
      const { verdict, reason = null, fix = null } = this.get(id);
      const seconds = Math.round(((this.seconds.get(id) ?? 0) + share) * 100) / 100;
      return { mask_id: id, verdict, seconds, reason, fix };
    });
  }
}
