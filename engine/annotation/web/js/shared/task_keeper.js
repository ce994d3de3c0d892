// Keeps a task: its lease by heartbeats, its draft on the server and, for a lost connection or a crash, a
// copy in this browser.

import { api } from "./api.js";

const HEARTBEAT_MS = 20_000;
const SAVE_MS = 1_500;
const RETRY_MS = 5_000;
const AWAY_MS = 30 * 60_000; // without input for so long, the lease is given up
const COPY_DAYS = 14;
const KEEPALIVE_LIMIT = 60_000; // browsers refuse larger requests that outlive their page
const PREFIX = "ode-draft-";

/** `on`: `lost()` the lease is gone, `conflict()` another tab wrote a draft, `offline(isOffline)`,
 * `saved(time)`; `data(isCopy)` returns the content: a copy in this browser may have more. */
export class TaskKeeper {
  constructor(task, name, data, on) {
    this.task = task;
    this.key = `${PREFIX}${name}-${task.id}`;
    this.data = data;
    this.on = on;
    this.version = task.draft?.version ?? 0;
    this.isDirty = false;
    this.isWriting = false;
    this.isStopped = false;
    this.isFinishing = false; // the call that ends the task is under way, or has succeeded
    this.isOffline = false;
    this.lastInput = Date.now();
    this.listeners = new AbortController();
  }

  /** The newer one of the server's draft and this browser's copy; null if there is none. */
  restore() {
    dropOldCopies();
    const copy = readCopy(this.key);
    const draft = this.task.draft;
    const isNewer = copy && copy.version > (draft?.version ?? 0);
    this.version = Math.max(copy?.version ?? 0, draft?.version ?? 0);
    const data = (isNewer ? copy.data : draft?.data) ?? null;
    const isSame = data?.stamp && data.stamp === copy?.data.stamp;
    return isSame ? { ...data, past: copy.data.past } : data;
  }

  start() {
    const { signal } = this.listeners;
    this.beats = setInterval(() => this.beat(), HEARTBEAT_MS);
    const input = () => {
      const wasAway = Date.now() - this.lastInput > AWAY_MS;
      this.lastInput = Date.now();
      if (wasAway) this.beat();
    };
    for (const name of ["pointermove", "keydown"]) document.addEventListener(name, input, { signal, passive: true });
    window.addEventListener("online", () => this.beat(), { signal });
    window.addEventListener("pagehide", () => this.flush(true), { signal });
    document.addEventListener("visibilitychange", () => document.hidden && this.flush(true), { signal });
  }

  stop() {
    this.isStopped = true;
    clearInterval(this.beats);
    clearTimeout(this.timer);
    this.listeners.abort();
  }

  /** To be called after a change: writes the copy here at once, the server's a moment later. */
  touch() {
    this.writeCopy(); // also without a lease: the same task may be taken again
    if (this.isStopped) return;
    this.isDirty = true;
    this.schedule(SAVE_MS);
  }

  schedule(wait) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.flush(), wait);
  }

  /** `version`: the draft's version on the server, now or later. */
  writeCopy(version = this.version + 1) {
    this.#store({ version, data: this.data(true), at: Date.now() });
  }

  #store(copy) {
    try {
      localStorage.setItem(this.key, JSON.stringify(copy));
    } catch {
      // full or forbidden: the server's draft counts
    }
  }

  /** Write the draft to the server. `isLeaving`: the page may be gone before the answer. */
  async flush(isLeaving = false) {
    if (!this.isDirty || this.isStopped || this.isFinishing || (this.isWriting && !isLeaving)) return;
    clearTimeout(this.timer);
    this.isDirty = false;
    this.isWriting = true;
    this.version += 1; // every attempt: the server may have stored one whose answer was lost
    this.writeCopy(this.version);
    const body = { lease_id: this.task.lease_id, draft: { version: this.version, data: this.data() } };
    try {
      const keepalive = isLeaving && JSON.stringify(body).length < KEEPALIVE_LIMIT;
      await api.saveDraft(this.task.id, body, { keepalive });
      this.setOffline(false);
      this.on.saved?.(new Date());
      if (this.isDirty) this.schedule(SAVE_MS);
    } catch (problem) {
      this.isDirty = true;
      this.onProblem(problem);
    } finally {
      this.isWriting = false;
    }
  }

  async beat() {
    if (this.isStopped || this.isFinishing || Date.now() - this.lastInput > AWAY_MS) return;
    try {
      await api.heartbeat(this.task.id, this.task.lease_id);
      this.setOffline(false);
      if (this.isDirty) this.flush();
    } catch (problem) {
      this.onProblem(problem);
    }
  }

  onProblem(problem) {
    // an answer that comes after the task has ended says that it is not held any more, which is no loss
    if (this.isStopped || this.isFinishing) return;
    if (problem.error === "draft_outdated") this.on.conflict?.();
    else if (problem.status === 409 || problem.status === 404) this.on.lost?.();
    else if (problem.isTemporary) {
      this.setOffline(true);
      this.schedule(RETRY_MS);
    } else if (problem.status !== 401) console.error("The draft could not be kept", problem);
  }

  setOffline(isOffline) {
    if (this.isOffline === isOffline) return;
    this.isOffline = isOffline;
    this.on.offline?.(isOffline);
  }

  /** After a conflict: saves the version here over the other tab's draft. */
  async overrule() {
    const task = await api.task(this.task.id);
    this.version = Math.max(this.version, task.draft?.version ?? 0);
    this.isDirty = true;
    await this.flush();
  }

  /** Makes the call that ends the task; tries again while the connection fails. */
  async finish(call) {
    this.isFinishing = true;
    try {
      return await this.#repeat(call);
    } catch (problem) {
      this.isFinishing = false;
      if (this.isDirty && !this.isStopped) this.schedule(SAVE_MS);
      throw problem;
    }
  }

  async #repeat(call) {
    for (;;) {
      try {
        const answer = await call();
        this.setOffline(false);
        return answer;
      } catch (problem) {
        if (!problem.isTemporary || this.isStopped) throw problem;
        this.setOffline(true);
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  }

  /** For a skipped task: its copy is restored if the task is taken again, and never sent. */
  setAside() {
    const copy = readCopy(this.key);
    if (copy) this.#store({ ...copy, isSetAside: true });
  }

  forget() {
    localStorage.removeItem(this.key);
  }
}

/** Copies in this browser of work that may not have reached the server: `{taskId, data,
 * forget()}`. */
export function keptCopies(name) {
  const prefix = `${PREFIX}${name}-`;
  return Object.keys(localStorage)
    .filter((key) => key.startsWith(prefix) && /^\d+$/.test(key.slice(prefix.length)))
    .map((key) => ({ key, copy: readCopy(key) }))
    .filter(({ copy }) => copy && !copy.isSetAside)
    .map(({ key, copy }) => ({
      taskId: Number(key.slice(prefix.length)),
      data: copy.data,
      forget: () => localStorage.removeItem(key),
    }));
}

function readCopy(key) {
  try {
    const copy = JSON.parse(localStorage.getItem(key));
    return copy && typeof copy.version === "number" ? copy : null;
  } catch {
    return null;
  }
}

function dropOldCopies() {
  const oldest = Date.now() - COPY_DAYS * 86_400_000;
  for (const key of Object.keys(localStorage)) {
    if (key.startsWith(PREFIX) && !(readCopy(key)?.at > oldest)) localStorage.removeItem(key);
  }
}
