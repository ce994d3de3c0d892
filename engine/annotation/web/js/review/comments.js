// Comments on the review page: pins on the large view, and the return of an image to its annotator.

import { api } from "../shared/api.js";
import { ask, byId, toast } from "../shared/dom.js";
import { plural, t } from "../shared/strings.js";
import { Thread } from "../shared/thread.js";

export class Comments {
  /** @param {import("./review.js").Review} review */
  constructor(review) {
    this.review = review;
    const { single } = review;
    const scale = () => single.view.scale / devicePixelRatio;
    this.thread = new Thread({
      toScreen: (x, y) => (single.view ? [(x - single.view.x) * scale(), (y - single.view.y) * scale()] : [-99, -99]),
      show: (x, y) => this.show(x, y),
      changed: () => this.showState(),
    });
    byId("single-verdict").after(this.thread.root);
    single.canvas.parentElement.append(this.thread.pins);
    single.on.drawn = () => this.thread.layOut();
    byId("return").addEventListener("click", () => this.giveBack());
  }

  /** An image with open comments opens large, so that the pins are in sight. */
  async open(task) {
    await this.thread.open(task);
    if (this.review.task === task && this.thread.isOpen && !this.review.single.isOpen && !this.review.fixing) this.showWhole();
  }

  close() {
    this.stopPinning();
    this.thread.close();
    byId("return").hidden = true;
  }

  showState() {
    byId("return").hidden = !this.thread.task || !this.thread.hasMine;
  }

  showWhole() {
    const { review } = this;
    if (!review.single.isOpen) review.look(review.index);
    if (!review.single.isWhole) review.single.toggleWhole();
  }

  show(x, y) {
    const { review } = this;
    if (!review.single.isOpen) review.look(review.index);
    review.single.center(x, y);
  }

  /** The next click on the picture is the place of a comment. */
  startPinning() {
    const { review } = this;
    const { single } = review;
    if (!single.isOpen) this.showWhole();
    this.thread.askPlace();
    single.canvas.parentElement.dataset.pinning = "true";
    single.onPlace = (x, y) => {
      this.stopPinning();
      this.thread.pinAt({ x, y, mask_id: review.idOf(review.index) });
    };
  }

  stopPinning() {
    const { single } = this.review;
    if (single.onPlace) this.thread.pinAt(null);
    single.onPlace = null;
    delete single.canvas.parentElement.dataset.pinning;
  }

  async giveBack() {
    const { review } = this;
    if (review.state !== "ready") return;
    const given = review.verdicts.entries.size;
    const lost = given ? `${plural(given, "The verdict given here is dropped.", "The {n} verdicts given here are dropped.")} ` : "";
    const text = lost + t("The annotator reads the comments, corrects the masks or answers, and the image comes back to you.");
    if (!(await ask(t("Return this image?"), text, t("Return it"), { isLoss: given > 0 }))) return;
    if (!(await this.send())) return;
    const { id, lease_id } = review.task;
    await review.finish(() => api.giveBack(id, lease_id), t("Returned to the annotator."), { isJudged: true });
  }

  /** Sends a comment that is written but not sent; false if it was refused. */
  async send() {
    try {
      await this.thread.flush();
      return true;
    } catch (problem) {
      toast(problem.message, "bad");
      return false;
    }
  }
}
