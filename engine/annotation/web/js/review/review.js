// The review page: takes review tasks, and connects grid, single view and editor.

import { api, events } from "../shared/api.js";
import { WorkLog } from "../shared/clock.js";
import { byId, toast } from "../shared/dom.js";
import { mountHeader } from "../shared/header.js";
import { Banner } from "../shared/banner.js";
import { plural, t } from "../shared/strings.js";
import { Candidates } from "./candidates.js";
import { Comments } from "./comments.js";
import { Controls } from "./controls.js";
import { fixMask } from "./fix.js";
import { Grid } from "./grid.js";
import { Judging } from "./judging.js";
import { Labelling } from "./labelling.js";
import { Single, showName } from "./single.js";
import { Verdicts } from "./verdicts.js";
import * as view from "./view.js";
import { TaskKeeper } from "../shared/task_keeper.js";

const DATASET = new URLSearchParams(location.search).get("dataset");
const NOTHING = t("Masks appear here when an admin sends some to review, from the dashboard or with dataengine review. This page opens the next ones by itself.");

export class Review {
  task = null;
  picture = null;
  /** @type {Verdicts} */
  verdicts = null;
  /** @type {TaskKeeper} */
  keeper = null;
  index = 0;
  show = "overlay";
  fixing = null; // {mask_id, draft} while the editor is open
  closeEditor = null;
  hasPutBack = false;

  constructor() {
    this.judging = new Judging(this);
    this.labelling = new Labelling(this);
    this.clock = new WorkLog();
    this.banner = new Banner(byId("banner"));
    this.grid = new Grid(byId("grid"), { select: (index) => this.select(index), open: (index) => this.look(index), swipe: (index, verdict) => this.swipe(index, verdict) });
    this.single = new Single({ show: (show) => this.setShow(show), swipe: (verdict) => this.controls.run(verdict) });
    this.comments = new Comments(this);
    this.candidates = new Candidates(this);
    this.controls = new Controls(this);
    events({ queue: (counts) => this.onQueue(counts) });
  }

  setState(state) {
    document.body.dataset.state = state;
  }

  get state() {
    return document.body.dataset.state;
  }

  /** Whether commands are for this page: it has a task, and no editor is open. */
  get isReady() {
    return this.state === "ready" && !this.fixing;
  }

  // Tasks -------------------------------------------------------------------

  async takeNext() {
    this.setState("loading");
    this.hasPutBack = false;
    this.end();
    view.showParts(false);
    try {
      const { task } = await api.nextTask(["review"], DATASET);
      if (task) this.labelling.use(await api.categories(task.dataset));
      if (task) await this.open(task);
      else this.showEmpty(t("Nothing to review right now"), NOTHING);
    } catch (problem) {
      console.error(problem);
      if (problem.status !== 401) this.showEmpty(t("No image could be opened"), problem.message);
    }
  }

  async open(task) {
    const picture = await view.loadPicture(task.image);
    Object.assign(this, {
      task,
      picture,
      verdicts: new Verdicts(task.masks),
      index: 0,
      show: "overlay",
    });
    this.keeper = new TaskKeeper(task, "review", () => this.draftData(), {
      lost: () => this.onLost(),
      conflict: () => this.onConflict(),
      offline: (isOffline) => this.banner.setOffline(isOffline),
      saved: view.showSaved,
    });
    const draft = this.keeper.restore();
    this.verdicts.restore(draft);
    this.banner.clear();
    this.showTask(draft);
    this.keeper.start();
    this.clock.turnTo("review");
    this.takeSeconds(); // loading time does not count
    this.setState("ready");
    if (draft?.fixing) this.fix(draft.fixing);
    void this.comments.open(task);
    this.labelling.suggest();
  }

  showTask(draft) {
    const { task } = this;
    view.showFacts(task, draft !== null);
    view.showParts(true);
    this.grid.fill(task, this.picture, (index) => this.rleOf(index));
    task.masks.forEach((mask, index) => {
      this.grid.setVerdict(index, this.verdicts.get(mask.mask_id));
      this.grid.setLabel(index, this.labelling.badge(mask));
    });
    this.setShow("overlay");
    this.select(Math.min(draft?.cursor ?? 0, task.masks.length - 1));
    this.candidates.open(task);
    if (draft?.single) this.look(this.index);
    view.showTally(this.verdicts.tally());
    this.candidates.showVerdicts();
    if (!this.candidates.isOpen) byId("grid").focus({ preventScroll: true });
  }

  showEmpty(title, text) {
    this.end();
    view.showParts(false);
    view.showEmpty(title, text, () => this.takeNext());
    this.setState("empty");
  }

  /** Stops everything that belongs to the present task. */
  end() {
    this.keeper?.stop();
    this.clock.turnTo(null);
    this.judging.closeReasons();
    this.closeEditor?.();
    this.comments.close();
    this.labelling.loading?.abort();
    this.task = null;
    this.banner.clear();
  }

  /** Submit, skip or put back; `call` ends the task on the server. Verdicts that were not sent
   * stay in this browser, in case the same task is taken again. */
  async finish(call, message, { isJudged = false, then = () => this.takeNext() } = {}) {
    if (this.state !== "ready") return;
    const { keeper } = this;
    this.judging.closeReasons();
    this.setState("busy");
    try {
      await keeper.finish(call);
      if (isJudged) keeper.forget();
      toast(message, "good");
      this.end();
      await then();
    } catch (problem) {
      this.setState("ready");
      if (problem.status === 409) this.onLost();
      else if (problem.status !== 401) toast(problem.message, "bad");
    }
  }

  async submit() {
    const left = this.verdicts.left().length;
    if (left) {
      if (this.verdicts.get(this.idOf(this.index))) this.goLeft();
      return toast(plural(left, "One mask has no verdict yet.", "{n} masks have no verdict yet."));
    }
    const [undecided] = this.labelling.undecided;
    if (undecided !== undefined) {
      if (this.candidates.isOpen) this.candidates.setOpen(false);
      this.select(undecided);
      const { disputed } = this.task.masks[undecided];
      const why = disputed.length ? t("People disagree about the label of this mask: give it one.") : t("A model is not sure of this label: confirm it (.) or give another.");
      return toast(`${why} ${t("T opens the list.")}`);
    }
    this.keep();
    if (!(await this.comments.send())) return null;
    const { id, lease_id } = this.task;
    const body = { lease_id, verdicts: this.verdicts.toJudgement() };
    return this.finish(() => api.judge(id, body), t("Sent. Thank you!"), { isJudged: true });
  }

  skip() {
    const { id, lease_id } = this.task;
    return this.finish(() => api.skip(id, lease_id), t("Skipped: the image is now at the back of the queue."));
  }

  putBack() {
    const { id, lease_id } = this.task;
    this.hasPutBack = true; // until the reviewer asks for a task again
    const done = async () => this.showEmpty(t("Put back"), t("The image is back in the queue, for you or somebody else."));
    return this.finish(() => api.release(id, lease_id), t("Put back."), { then: done });
  }

  onLost() {
    this.keeper.writeCopy();
    this.keeper.stop();
    this.banner.show(
      t("Your lease of this image has expired, and somebody else may have it now. Your verdicts are kept in this browser."),
      true,
      [[t("Open it again"), () => this.takeNext()]],
    );
  }

  onConflict() {
    const overrule = async () => {
      await this.keeper.overrule().catch((problem) => toast(problem.message, "bad"));
      this.banner.clear();
    };
    const adopt = () => {
      this.keeper.stop();
      this.keeper.forget();
      this.takeNext();
    };
    this.banner.show(t("This image is also open in another tab, where verdicts were given."), false, [
      [t("Use the other verdicts"), adopt],
      [t("Keep mine"), overrule],
    ]);
  }

  // Verdicts ----------------------------------------------------------------

  idOf(index) {
    return this.task.masks[index].mask_id;
  }

  rleOf(index) {
    const mask = this.task.masks[index];
    return this.verdicts.get(mask.mask_id)?.fix?.rle ?? mask.rle;
  }

  /** Returns the seconds since the last call. */
  takeSeconds() {
    this.clock.tick();
    const log = this.clock.of("review");
    const { seconds } = log;
    log.seconds = 0;
    return seconds;
  }

  settleTime() {
    const seconds = this.takeSeconds();
    if (this.single.isOpen) this.verdicts.addSeconds(this.idOf(this.index), seconds);
    else this.verdicts.pending += seconds;
  }

  refresh(indices) {
    for (const index of indices) {
      this.grid.setVerdict(index, this.verdicts.get(this.idOf(index)));
      this.grid.setLabel(index, this.labelling.badge(this.task.masks[index]));
      this.grid.redraw(index);
    }
    view.showTally(this.verdicts.tally());
    this.candidates.showVerdicts();
    this.showSingle();
    this.keep();
  }

  keep() {
    this.settleTime();
    this.keeper.touch();
  }

  draftData() {
    return { ...this.verdicts.toData(), cursor: this.index, single: this.single.isOpen, fixing: this.fixing ?? null };
  }

  fix(saved = null) {
    this.judging.closeReasons();
    const index = saved ? this.verdicts.ids.indexOf(saved.mask_id) : this.index;
    if (index < 0) return;
    this.select(index);
    this.settleTime();
    this.clock.turnTo(null); // the editor measures its own time
    const mask = this.task.masks[index];
    this.fixing = { mask_id: mask.mask_id, draft: saved?.draft ?? null };
    const close = () => {
      this.fixing = this.closeEditor = null;
      this.clock.turnTo("review");
      this.keep();
    };
    this.closeEditor = fixMask({
      task: this.task,
      mask,
      rle: this.rleOf(index),
      draft: this.fixing.draft,
      onChange: (now) => {
        this.fixing = { mask_id: mask.mask_id, draft: now };
        this.keeper.touch();
      },
      onDone: (fix) => {
        close();
        this.judging.judge("fix", { fix });
        this.goLeft();
      },
      onClose: close,
    });
  }

  /** A finger's swipe over a mask of the grid. */
  swipe(index, verdict) {
    if (!this.isReady) return;
    this.select(index);
    this.controls.run(verdict);
  }

  // Selection --------------------------------------------------------------

  select(index) {
    if (!this.task?.masks[index]) return;
    if (index !== this.index) {
      this.settleTime();
      this.judging.closeReasons();
    }
    this.index = index;
    this.grid.setCursor(index);
    this.showSingle();
  }

  move(step) {
    this.judging.closeReasons();
    this.select(Math.min(Math.max(this.index + step, 0), this.task.masks.length - 1));
  }

  /** To the next mask that has no verdict. */
  goLeft() {
    this.judging.closeReasons();
    const index = this.verdicts.nextLeft(this.index);
    if (index >= 0) this.select(index);
  }

  look(index) {
    this.select(index);
    this.settleTime();
    if (this.candidates.isOpen) this.candidates.setOpen(false);
    byId("grid").hidden = true;
    this.single.root.hidden = false;
    this.single.index = null; // makes the view start afresh
    this.showSingle();
  }

  closeSingle() {
    this.settleTime();
    this.single.close();
    byId("grid").hidden = false;
    this.grid.setCursor(this.index);
    byId("grid").focus({ preventScroll: true });
  }

  showSingle() {
    if (!this.single.isOpen) return;
    const { task, picture, index, show } = this;
    this.single.open({
      task,
      picture,
      index,
      show,
      entry: this.verdicts.get(this.idOf(index)),
      total: task.masks.length,
      label: this.labelling.badge(task.masks[index]),
    });
  }

  setShow(show) {
    this.show = show;
    byId("shown").textContent = showName(show);
    this.grid.setShow(show);
    this.showSingle();
  }

  /** Takes a new task if the page had none and is visible. */
  onQueue(counts) {
    if (this.state === "empty" && counts.review?.open > 0 && !document.hidden && !this.hasPutBack) this.takeNext();
  }
}

const me = await mountHeader("review");
if (me?.role === "annotator") location.assign("/annotate");
else new Review().takeNext();
