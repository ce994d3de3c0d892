// Gives, replaces and undoes verdicts on the review page.

import { ask, toast } from "../shared/dom.js";
import { count } from "../shared/format.js";
import { t } from "../shared/strings.js";
import { REASONS } from "./keys.js";
import * as view from "./view.js";

export class Judging {
  /** @param {import("./review.js").Review} review */
  constructor(review) {
    this.review = review;
    this.isAsking = false; // a question about discarding a fix is open
    /** @type {number | null} index of the mask whose reject may still get a reason */
    this.reasonFor = null;
  }

  get isAskingReason() {
    return this.reasonFor !== null;
  }

  /** Id of the selected mask. */
  get #id() {
    return this.review.idOf(this.review.index);
  }

  judge(verdict, more = {}) {
    const { review } = this;
    review.settleTime();
    review.verdicts.set([this.#id], { verdict, reason: null, fix: null, ...more });
    review.refresh([review.index]);
  }

  /** Whether the masks' verdicts may be replaced: none of them is a fix, or the reviewer agrees to discard it. */
  async mayReplace(ids, action) {
    const { verdicts, task } = this.review;
    if (!ids.some((id) => verdicts.get(id)?.fix)) return true;
    if (this.isAsking) return false;
    this.isAsking = true;
    const text = t("This mask has a finished fix, which will be discarded.");
    const isGivenUp = await ask(t("Discard the fix?"), text, action, { back: t("Keep the fix"), isLoss: true });
    this.isAsking = false;
    return isGivenUp && this.review.task === task;
  }

  async accept() {
    this.closeReasons(true);
    if (!(await this.mayReplace([this.#id], t("Accept the mask as it was")))) return;
    this.judge("accept");
    this.review.goLeft();
  }

  acceptRest() {
    this.closeReasons();
    const { review } = this;
    const { verdicts } = review;
    const ids = verdicts.left();
    if (!ids.length || review.candidates.sets.length) return;
    review.settleTime();
    verdicts.set(ids, { verdict: "accept", reason: null, fix: null });
    review.refresh(ids.map((id) => verdicts.ids.indexOf(id)));
    toast(t("{n} accepted. U undoes it, Ctrl+Enter submits.", { n: count(ids.length) }));
  }

  async undo() {
    this.closeReasons();
    const { review } = this;
    const { verdicts } = review;
    if (!(await this.mayReplace(verdicts.lastStep(), t("Undo the fix")))) return;
    const indices = verdicts.undo().map((id) => verdicts.ids.indexOf(id));
    if (!indices.length) {
      toast(t("Nothing to undo."));
      return;
    }
    review.refresh(indices);
    review.select(indices[0]);
  }

  /** Rejects at once and asks for a reason. */
  async reject() {
    this.closeReasons(true);
    if (!(await this.mayReplace([this.#id], t("Reject it")))) return;
    this.judge("reject");
    this.reasonFor = this.review.index;
    view.askReason(
      (number) => this.giveReason(number),
      () => this.closeReasons(true),
    );
  }

  giveReason(number) {
    const { review, reasonFor } = this;
    review.verdicts.amend(review.idOf(reasonFor), { reason: REASONS[number][0] });
    review.refresh([reasonFor]);
    this.closeReasons(true);
  }

  closeReasons(advances = false) {
    if (!this.isAskingReason) return;
    this.reasonFor = null;
    view.hideReasons();
    if (advances) this.review.goLeft();
  }
}
