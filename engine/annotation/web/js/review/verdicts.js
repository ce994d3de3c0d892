// A reviewer's verdicts on the masks of one task, the labels they give, and how long both took. No DOM here.

const KEPT_STEPS = 50; // of undo, in a draft
const LABEL = "label";

/** @typedef {{verdict: "accept" | "reject" | "fix", reason?: string | null, fix?: {rle: import("../shared/rle.js").Rle} | null}} Entry */

/** Verdicts by mask, with undo. */
export class Verdicts {
  constructor(masks) {
    this.ids = masks.map((mask) => mask.mask_id);
    /** @type {Map<string, Entry>} */
    this.entries = new Map();
    /** @type {Map<string, number>} */
    this.seconds = new Map();
    this.pending = 0; // seconds spent on the grid that are not assigned to masks yet
    this.steps = []; // for undo: lists of [id, former entry], or of [id, former label, "label"]
    /** @type {Map<string, number>} */
    this.labels = new Map(); // ids of categories, 0 for none of these
    /** @type {Map<string, number>} */
    this.labelSeconds = new Map();
  }

  /** The label that the reviewer has given to a mask; null: none. */
  labelOf(id) {
    return this.labels.get(id) ?? null;
  }

  /** One step of undo; its time belongs to the label, not to the verdict. */
  setLabel(id, category, seconds) {
    this.steps.push([[id, this.labelOf(id), LABEL]]);
    this.labels.set(id, category);
    this.labelSeconds.set(id, (this.labelSeconds.get(id) ?? 0) + seconds);
  }

  get(id) {
    return this.entries.get(id) ?? null;
  }

  /** Judge one or several masks as one step of undo. The time spent on the grid is divided among them.
   * @param {string[]} ids
   * @param {Entry} entry */
  set(ids, entry) {
    this.setEach(ids, () => entry);
  }

  /** The same with a verdict for each.
   * @param {string[]} ids
   * @param {(id: string) => Entry} entryOf */
  setEach(ids, entryOf) {
    if (!ids.length) return;
    this.steps.push(ids.map((id) => [id, this.get(id)]));
    for (const id of ids) this.entries.set(id, entryOf(id));
    for (const id of ids) this.addSeconds(id, this.pending / ids.length);
    this.pending = 0;
  }

  /** Adds to the latest verdict; undo removes both together. */
  amend(id, more) {
    const entry = this.get(id);
    if (entry) this.entries.set(id, { ...entry, ...more });
  }

  /** The masks whose verdicts `undo` undoes. */
  lastStep() {
    return (this.steps.at(-1) ?? []).filter(([, , kind]) => kind !== LABEL).map(([id]) => id);
  }

  /** Undoes the last step and returns its masks. Their time is kept. */
  undo() {
    const step = this.steps.pop() ?? [];
    for (const [id, entry, kind] of step) {
      if (kind === LABEL && entry !== null) this.labels.set(id, entry);
      else if (kind === LABEL) this.labels.delete(id);
      else if (entry) this.entries.set(id, entry);
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

  /** The next mask without a verdict after this one, starting over at the end; -1 if there is none. */
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
      labels: Object.fromEntries(this.labels),
      labelSeconds: Object.fromEntries(this.labelSeconds),
      pending: this.pending,
      steps: this.steps.slice(-KEPT_STEPS),
    };
  }

  /** Restores a draft; masks of other tasks are left out. */
  restore(data) {
    const known = new Set(this.ids);
    for (const [id, entry] of Object.entries(data?.verdicts ?? {})) {
      if (known.has(id) && entry?.verdict) this.entries.set(id, entry);
    }
    for (const [id, seconds] of Object.entries(data?.seconds ?? {})) {
      if (known.has(id) && seconds >= 0) this.seconds.set(id, seconds);
    }
    for (const [id, category] of Object.entries(data?.labels ?? {})) if (known.has(id)) this.labels.set(id, category);
    for (const [id, seconds] of Object.entries(data?.labelSeconds ?? {})) if (known.has(id)) this.labelSeconds.set(id, seconds);
    this.pending = Number(data?.pending) || 0;
    const ofTask = (step) => step.filter(([id]) => known.has(id));
    this.steps = (data?.steps ?? []).map(ofTask).filter((step) => step.length);
  }

  /** The verdicts in the schema of the server. */
  toJudgement() {
    const share = this.pending / Math.max(1, this.ids.length);
    return this.ids.map((id) => {
      const { verdict, reason = null, fix = null } = this.get(id);
      const rounded = (seconds) => Math.round(seconds * 100) / 100;
      const seconds = rounded((this.seconds.get(id) ?? 0) + share);
      const labelled = this.labels.has(id) ? { category_id: this.labels.get(id) } : {};
      // also of a label that was taken back
      const labelling = this.labelSeconds.has(id) ? { label_seconds: rounded(this.labelSeconds.get(id)) } : {};
      return { mask_id: id, verdict, seconds, reason, fix, ...labelled, ...labelling };
    });
  }
}
