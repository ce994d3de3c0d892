// The annotation page: takes a task, opens the editor on it, saves drafts, submits it, takes the next.

import { api, events } from "../shared/api.js";
import { Autosave } from "./autosave.js";
import { Categories, loadSuggestions } from "../shared/categories.js";
import { ask, byId, el, openDialog, toast } from "../shared/dom.js";
import { Session } from "./session.js";
import { mountEditor } from "./editor.js";
import { count } from "../shared/format.js";
import { mountHeader } from "../shared/header.js";
import { Keys } from "./keys.js";
import { pixelsPainted } from "./layers.js";
import { sendKept, sendLate } from "./late.js";
import { areNew, openGuidelines } from "../shared/guidelines.js";
import { Banner } from "../shared/banner.js";
import { Thread } from "../shared/thread.js";
import { plural, t } from "../shared/strings.js";

const KINDS = ["complete", "annotate"];
const LOOK_AGAIN_MS = 30_000; // for events about new tasks that did not arrive
const FIRST_RETRY_MS = 1_000;
const LAST_RETRY_MS = 15_000;
const STATUS = { saved: t("saved"), saving: t("saving …"), changed: t("saving …"), offline: t("offline – kept in this browser") };
const NO_COPY = t("offline – too large to keep in this browser, please leave this page open");

const SENT = t("Your work on it was sent anyway: a reviewer sees both versions and picks the better masks.");
const KEPT = t("Your work on it is kept in this browser, and opens again if you get the image back.");

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

class Page {
  constructor() {
    this.keys = new Keys();
    this.dataset = new URLSearchParams(location.search).get("dataset");
    this.banner = new Banner(byId("banner"));
    this.editor = null;
    this.keeper = null;
    this.thread = null;
    this.lastLabel = null; // {dataset, id}: the label of the next new masks
    this.pending = new Set(); // reasons why the page is busy
  }

  async start() {
    this.name = (await mountHeader("annotate"))?.name ?? "";
    byId("submit").addEventListener("click", () => this.submit());
    byId("skip").addEventListener("click", () => this.skip());
    byId("guidelines").addEventListener("click", () => this.guidelines());
    byId("submit").title = t("Submit and open the next image") + this.keys.hint("submit");
    byId("skip").title = t("Move this image to the back of the queue") + this.keys.hint("skip");
    byId("guidelines").title = t("What a good mask is") + this.keys.hint("guidelines");
    await this.next();
    await sendKept(this.name, this.task?.id);
  }

  /** The page is "busy" while a prompt or a submission is in progress. */
  mark(what, isUnderWay) {
    if (isUnderWay) this.pending.add(what);
    else this.pending.delete(what);
    const { dataset } = document.body;
    if (dataset.state !== "ready" && dataset.state !== "busy") return;
    dataset.state = this.pending.size ? "busy" : "ready";
    byId("submit").disabled = byId("skip").disabled = this.pending.has("handing in");
  }

  /** Takes the next task; tries again as long as the server does not answer. */
  async next() {
    this.close();
    document.body.dataset.state = "loading";
    let wait = FIRST_RETRY_MS;
    for (;;) {
      try {
        const { task } = await api.nextTask(KINDS, this.dataset);
        const listed = task ? await api.categories(task.dataset) : [];
        this.banner.clear();
        if (task) this.open(task, this.categoriesOf(listed));
        else this.wait();
        return;
      } catch (problem) {
        if (!problem.isTemporary) {
          this.stop(problem.message);
          return;
        }
        this.banner.setOffline(true);
      }
      await pause(wait);
      wait = Math.min(wait * 2, LAST_RETRY_MS);
    }
  }

  /** Digits label masks; letters only where no action has the key. */
  categoriesOf(listed) {
    return new Categories(listed, (key) => !/\d/.test(key) && this.keys.isUsed(key.toUpperCase()));
  }

  open(task, categories) {
    this.task = task;
    const last = this.lastLabel?.dataset === task.dataset && categories.has(this.lastLabel.id) ? this.lastLabel.id : null;
    const keeper = new Autosave(task, this.name, (isCopy) => this.editor.draft(isCopy), {
      status: (status) => this.showStatus(status),
      offline: (isOffline) => this.banner.setOffline(isOffline),
      lost: () => this.lost(),
      conflict: () => this.conflict(),
    });
    this.keeper = keeper;
    const draft = keeper.restore() ?? Session.draftOf(task);
    byId("toolbar").hidden = byId("editor").hidden = false;
    byId("empty").hidden = true;
    this.showFacts(task);
    this.editor = mountEditor(byId("editor"), {
      api,
      task,
      masks: task.masks,
      mode: task.kind,
      draft,
      keys: this.keys,
      categories,
      nextLabel: last,
      commands: { submit: () => this.submit(), skip: () => this.skip(), guidelines: () => this.guidelines() },
      onChange: () => keeper.touch(),
      onBusy: (isBusy) => this.mark("prompt", isBusy),
      onTrouble: (problem) => this.trouble(problem),
      onContact: () => keeper.setOffline(false),
      onView: () => this.thread?.layOut(),
    });
    globalThis.dataengine = {
      editor: this.editor,
      frameTimes: () => this.editor?.frameTimes() ?? [],
      frameIntervals: () => this.editor?.frameIntervals() ?? [],
      pixelsPainted,
    };
    void this.openThread(task);
    void areNew(task.dataset).then((isNew) => byId("guidelines").classList.toggle("is-new", isNew));
    const { editor } = this;
    void loadSuggestions(api, task, categories, editor.abort.signal, () => editor.update());
    this.showStatus(draft ? "saved" : "new");
    keeper.start();
    this.ready(this.editor);
  }

  /** The comments on the image, above its masks; nothing if there are none. */
  async openThread(task) {
    const { editor } = this;
    const { viewport, parts } = editor;
    const thread = new Thread({
      toScreen: (x, y) => viewport.fromImage(x, y),
      show: (x, y) => viewport.reveal([x, y, x + 1, y + 1]),
    });
    await thread.open(task);
    if (this.editor !== editor || !thread.comments.length) return;
    this.thread = thread;
    if (task.note) thread.list.before(el("p", { class: "thread-note" }, task.note));
    parts.side.prepend(thread.root);
    parts.stage.append(thread.pins);
    thread.layOut();
  }

  async ready(editor) {
    await editor.ready.catch(() => toast(t("The image could not be loaded. Skip it, or reload the page."), "bad"));
    if (this.editor !== editor) return;
    document.body.dataset.state = "ready";
    this.mark("handing in", false);
  }

  showFacts({ image, kind, dataset, round, waiting }) {
    byId("file-name").textContent = image.file_name;
    const what = kind === "complete" ? t("check the pre-filled masks, add the rest") : t("mask every object");
    const facts = [what, dataset, round && t("round {round}", { round }), waiting && t("{n} more waiting", { n: count(waiting) })];
    byId("task-facts").textContent = facts.filter(Boolean).join(" · ");
    document.title = t("{name} · open data engine", { name: image.file_name });
  }

  showStatus(status) {
    const node = byId("status");
    const isKept = status !== "offline" || this.keeper?.hasCopy !== false;
    const text = isKept ? (STATUS[status] ?? "") : NO_COPY;
    node.dataset.status = status;
    if (node.textContent !== text) node.textContent = text;
  }

  close() {
    if (this.editor) this.lastLabel = { dataset: this.task.dataset, id: this.editor.session.nextLabel };
    this.keeper?.stop();
    this.editor?.destroy();
    this.thread?.close();
    this.editor = this.keeper = this.thread = null;
    this.pending.clear();
    byId("toolbar").hidden = byId("editor").hidden = true;
  }

  // When there is nothing to do -------------------------------------------------

  wait() {
    document.body.dataset.state = "empty";
    document.title = t("Nothing to do · open data engine");
    this.say(
      this.dataset ? t("All done in {dataset} – thank you", { dataset: this.dataset }) : t("All done – thank you"),
      t("There is no image for you at the moment. Leave this page open: the next image opens here as soon as there is one."),
      true,
    );
    let isOver = false;
    // tasks that are open but for others would otherwise be asked for without end
    const isNews = (counts) => {
      const text = JSON.stringify(counts);
      const isOther = text !== this.lastCounts;
      this.lastCounts = text;
      return isOther && KINDS.some((kind) => counts[kind]?.open > 0);
    };
    const look = () => {
      if (isOver) return;
      isOver = true;
      stop();
      clearInterval(timer);
      void this.next();
    };
    const stop = events({ queue: (counts) => isNews(counts) && look() });
    const timer = setInterval(look, LOOK_AGAIN_MS);
  }

  stop(message) {
    document.body.dataset.state = "empty";
    this.say(t("No image could be opened"), message, false);
    const again = el("button", { class: "button button-primary", type: "button", onclick: () => this.next() }, t("Try again"));
    byId("empty").append(again);
  }

  say(title, text, isWaiting) {
    const pulse = isWaiting && el("div", { class: "empty-pulse", "aria-hidden": "true" });
    byId("empty").replaceChildren(...[pulse, el("h2", {}, title), el("p", {}, text)].filter(Boolean));
    byId("empty").hidden = false;
  }

  // Submitting ------------------------------------------------------------------

  async submit() {
    const { editor } = this;
    if (!editor || this.pending.has("handing in")) return;
    if (!(await this.settle(editor))) return;
    const submission = editor.submission();
    const isEmpty = submission.masks.length === 0 && editor.session.prefilled.length === 0;
    if (isEmpty && !(await ask(t("No masks yet"), t("Does this image really have nothing to mask?"), t("Submit without masks")))) return;
    try {
      await this.thread?.flush();
    } catch (problem) {
      this.trouble(problem, true);
      return;
    }
    let feedback = null;
    const done = await this.handIn(async () => {
      ({ feedback } = await api.submit(this.task.id, { lease_id: this.task.lease_id, ...submission }));
    });
    if (!done) return;
    if (feedback) await this.tell(feedback);
    else toast(plural(submission.masks.length, "Submitted, with {n} new mask.", "Submitted, with {n} new masks."), "good");
    await this.next();
  }

  /** Shows what was missed in a task whose true masks are known; resolves when it was read. */
  tell(feedback) {
    this.keeper.stop(); // the task is no longer held
    this.showStatus("saved");
    return new Promise((resolve) => {
      const dialog = openDialog(
        t("This image was a check"),
        el("p", {}, feedback),
        el("p", { class: "muted" }, t("Its masks were known before. Such images come now and then, and look like all others.")),
        el(
          "div",
          { class: "dialog-actions" },
          el("button", { class: "button button-primary", type: "button", autofocus: true, onclick: () => dialog.close() }, t("OK")),
        ),
      );
      dialog.id = "feedback";
      dialog.addEventListener("close", () => resolve());
    });
  }

  /** Finishes the mask in progress, once the model has answered; false if it could not be finished. */
  async settle(editor) {
    editor.drawing?.finish?.(); // an outline that is still open
    if (editor.session.isWaiting) editor.run("finish");
    while (editor.session.isWaiting && this.editor === editor) await pause(50);
    if (this.editor !== editor) return false;
    const { current } = editor.session;
    if (current) editor.run(current.mask && !current.mask.isEmpty ? "finish" : "drop");
    return editor.session.current === null;
  }

  async skip() {
    if (!this.editor || this.pending.has("handing in")) return;
    const { masks, current } = this.editor.session.state;
    const made = masks.length + (current ? 1 : 0);
    const text = plural(made, "The mask you made on this image will be here if you get it again.", "The {n} masks you made on this image will be here if you get it again.");
    if (made && !(await ask(t("Skip this image?"), text, t("Skip it")))) return;
    if (this.keeper.isDirty) await this.keeper.flush();
    const done = await this.handIn(() => api.skip(this.task.id, this.task.lease_id), true);
    if (!done) return;
    this.keeper.setAside();
    await this.next();
  }

  /** Repeats the call until the server answers; false if it refuses. */
  async handIn(call, keepsCopy = false) {
    const { keeper } = this;
    this.mark("handing in", true);
    try {
      await keeper.finish(call);
      if (!keepsCopy) keeper.forget();
      return true;
    } catch (problem) {
      if (this.keeper === keeper) this.trouble(problem, true);
      return false;
    } finally {
      this.mark("handing in", false);
    }
  }

  // When things go wrong ----------------------------------------------------------

  /** `isAsked`: the annotator started the request, so the error is shown. */
  trouble(problem, isAsked = false) {
    if (problem.status === 409 && problem.error === "draft_outdated") this.conflict();
    else if (problem.status === 409 || problem.status === 404) this.lost();
    else if (problem.status === 0 || problem.status >= 500) this.keeper?.setOffline(true);
    else if (isAsked && problem.status !== 401) toast(problem.message, "bad");
  }

  /** Somebody else has the image: the work done here goes to a reviewer together with theirs. */
  async lost() {
    const { keeper, editor, task } = this;
    if (!keeper || keeper.isStopped || keeper.isFinishing) return;
    if (editor.session.current && !editor.session.isWaiting) editor.run("finish");
    keeper.writeCopy();
    keeper.stop();
    this.showStatus("offline");
    const isSent = await sendLate(task.id, editor.submission());
    if (isSent) keeper.forget();
    const dialog = openDialog(
      t("This image is no longer yours"),
      el("p", {}, t("This page did not reach the server for a long time, so the image was given to somebody else.")),
      el("p", {}, isSent ? SENT : KEPT),
      el(
        "div",
        { class: "dialog-actions" },
        el("button", { class: "button button-primary", type: "button", autofocus: true, onclick: () => dialog.close() }, t("Open the next image")),
      ),
    );
    dialog.id = "lease-lost";
    dialog.addEventListener("close", () => this.next());
  }

  conflict() {
    const { keeper } = this;
    if (!keeper || keeper.isFinishing || this.isAsking) return;
    this.isAsking = true;
    const choose = (act) => () => {
      dialog.close();
      act();
    };
    const dialog = openDialog(
      t("This image is open twice"),
      el("p", {}, t("This image was also changed in another tab or on another computer.")),
      el(
        "div",
        { class: "dialog-actions" },
        el("button", { class: "button", type: "button", onclick: choose(() => this.takeOther(keeper)) }, t("Use the other version")),
        el("button", { class: "button button-primary", type: "button", onclick: choose(() => keeper.overrule().catch((problem) => this.trouble(problem))) }, t("Keep this version")),
      ),
    );
    dialog.addEventListener("close", () => (this.isAsking = false));
  }

  takeOther(keeper) {
    keeper.forget();
    void this.next(); // the server returns a task that is already leased first, with its newest draft
  }

  async guidelines() {
    if (document.getElementById("guidelines-dialog")) return;
    try {
      await openGuidelines(this.task?.dataset ?? this.dataset);
      byId("guidelines").classList.remove("is-new");
    } catch (problem) {
      toast(problem.message, "bad");
    }
  }
}

void new Page().start();
