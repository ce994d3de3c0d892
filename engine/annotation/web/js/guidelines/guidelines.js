// Guidelines: what annotators of a dataset read, written by the person in charge, with pictures and history.

import { api } from "../shared/api.js";
import { ask, byId, el, openDialog, toast } from "../shared/dom.js";
import { dateTime } from "../shared/format.js";
import { mountHeader } from "../shared/header.js";
import { t } from "../shared/strings.js";

const PREVIEW_MS = 400; // after the last key

class GuidelinesPage {
  constructor(me) {
    this.me = me;
    this.params = new URLSearchParams(location.search);
    this.isEditing = false;
    byId("dataset").addEventListener("change", (event) => this.choose(event.target.value));
    byId("edit").addEventListener("click", () => this.edit(this.now.markdown));
    byId("cancel").addEventListener("click", () => this.cancel());
    byId("history").addEventListener("click", () => this.history());
    byId("editor").addEventListener("submit", (event) => this.save(event));
    const text = byId("markdown");
    text.addEventListener("input", () => this.soon());
    byId("picture").addEventListener("change", (event) => this.addPictures(event.target.files, event.target));
    text.addEventListener("paste", (event) => this.take(event, event.clipboardData));
    text.addEventListener("drop", (event) => this.take(event, event.dataTransfer));
    window.addEventListener("beforeunload", (event) => this.isChanged && event.preventDefault());
  }

  get dataset() {
    return byId("dataset").value;
  }

  get isChanged() {
    return this.isEditing && byId("markdown").value !== this.now.markdown;
  }

  async mayLeave() {
    return !this.isChanged || (await ask(t("Leave without saving?"), t("What you have written is lost."), t("Leave"), { isLoss: true }));
  }

  async start() {
    try {
      const { datasets } = await api.work(new Date());
      const names = datasets.map((one) => one.name);
      const asked = this.params.get("dataset");
      byId("dataset").replaceChildren(...names.map((name) => el("option", { value: name, selected: name === asked }, name)));
      byId("dataset").parentElement.hidden = !names.length;
      await this.refresh();
    } catch (problem) {
      this.tell(problem);
    }
  }

  tell(problem) {
    byId("banner").textContent = problem.message;
    byId("banner").hidden = problem.status === 401;
  }

  async choose(name) {
    if (!(await this.mayLeave())) {
      byId("dataset").value = this.now.dataset;
      return;
    }
    this.params.set("dataset", name);
    history.replaceState(null, "", `?${this.params}`);
    this.show(false);
    await this.refresh();
  }

  async refresh() {
    try {
      this.now = await api.guidelines(this.dataset || null);
    } catch (problem) {
      this.tell(problem);
      return;
    }
    const { version, author, at } = this.now;
    byId("shown").innerHTML = this.now.html; // the server escapes HTML in the Markdown
    byId("version").textContent = version
      ? t("version {version}, by {author}, {time}", { version, author: author ?? t("a command"), time: dateTime(at) })
      : t("the usual ones: this dataset has none of its own");
    byId("edit").hidden = this.me.role !== "admin" || !this.dataset;
    byId("history").hidden = this.me.role === "annotator" || !version;
    byId("banner").hidden = true;
    document.body.dataset.state = "ready";
  }

  show(isEditing) {
    this.isEditing = isEditing;
    byId("editor").hidden = !isEditing;
    byId("shown").hidden = isEditing;
    byId("edit").disabled = isEditing;
  }

  edit(markdown) {
    this.show(true);
    byId("markdown").value = markdown;
    byId("markdown").focus();
    void this.preview();
  }

  async cancel() {
    if (await this.mayLeave()) this.show(false);
  }

  soon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.preview(), PREVIEW_MS);
  }

  async preview() {
    const markdown = byId("markdown").value;
    try {
      const { html } = await api.previewGuidelines(this.dataset, markdown);
      if (byId("markdown").value === markdown) byId("preview").innerHTML = html; // escaped by the server
    } catch (problem) {
      toast(problem.message, "bad");
    }
  }

  async save(event) {
    event.preventDefault();
    byId("save").disabled = true;
    try {
      await api.setGuidelines(this.dataset, byId("markdown").value, this.now.version);
      this.show(false);
      await this.refresh();
      toast(t("Saved: annotators see it from now on."), "good");
    } catch (problem) {
      if (problem.error === "outdated") await this.outdated();
      else toast(problem.message, "bad");
    } finally {
      byId("save").disabled = false;
    }
  }

  /** Somebody else has saved a version: shows it, and lets the writer go on from it. */
  async outdated() {
    const theirs = await api.guidelines(this.dataset);
    const text = t("{author} saved version {version} meanwhile. Copy what you need from it into yours; then save again.", {
      author: theirs.author ?? t("Somebody"),
      version: theirs.version,
    });
    const box = el("div", { class: "guidelines" });
    box.innerHTML = theirs.html; // escaped by the server
    openDialog(t("There is a newer version"), el("p", {}, text), box).id = "newer";
    this.now = { ...theirs };
  }

  take(event, data) {
    if (!data?.files.length) return;
    event.preventDefault();
    void this.addPictures(data.files);
  }

  async addPictures(files, input = null) {
    for (const file of [...files]) {
      try {
        const { name } = await api.addGuidelinePicture(this.dataset, file);
        this.insert(`![${file.name.replace(/\.[^.]*$/, "")}](${name})`);
      } catch (problem) {
        toast(problem.message, "bad");
      }
    }
    if (input) input.value = "";
  }

  insert(text) {
    const area = byId("markdown");
    area.setRangeText(text, area.selectionStart, area.selectionEnd, "end");
    area.focus();
    void this.preview();
  }

  async history() {
    try {
      const versions = await api.guidelinesHistory(this.dataset);
      const list = el("ul", { class: "versions" }, versions.map((one) => this.versionRow(one)));
      this.dialog = openDialog(t("History of {dataset}", { dataset: this.dataset }), list);
      this.dialog.id = "versions";
    } catch (problem) {
      toast(problem.message, "bad");
    }
  }

  versionRow({ version, author, at, markdown }) {
    const read = async () => {
      const text = el("pre", { tabindex: 0 }, markdown);
      openDialog(t("Version {version}", { version }), text);
    };
    const use = () => {
      this.dialog.close();
      this.edit(markdown);
    };
    return el(
      "li",
      {},
      el("strong", {}, t("Version {version}", { version })),
      el("span", { class: "muted" }, `${author ?? t("a command")}, ${dateTime(at)}`),
      el("span", { class: "spacer" }),
      el("button", { class: "button", type: "button", "aria-label": t("Read version {version}", { version }), onclick: read }, t("Read")),
      this.me.role === "admin" && version !== this.now.version && el("button", { class: "button", type: "button", "aria-label": t("Write from version {version}", { version }), onclick: use }, t("Write from it")),
    );
  }
}

const me = await mountHeader("guidelines");
if (me) void new GuidelinesPage(me).start();
