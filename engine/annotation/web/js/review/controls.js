// Keys and buttons of the review page: what each of them does.

import { commandOf, isForControl, showKeys } from "./keys.js";
import { nextShow } from "./single.js";

const HOLD_MS = 250;
const INPUTS = ["pointermove", "pointerdown", "keydown", "wheel"];
const REPEATED = ["left", "right", "up", "down", "zoomIn", "zoomOut"]; // while their key is held
const ONE = ["accept", "reject", "fix", "labelList", "labelConfirm"]; // mask, which is in sight first
const BUTTONS = {
  submit: "submit",
  skip: "skip",
  stop: "putBack",
  keys: "help",
  previous: "left",
  next: "right",
  "accept-rest": "acceptRest",
  "close-single": "look",
};

export class Controls {
  constructor(review) {
    this.review = review;
    this.commands = { ...this.verdictCommands(), ...this.viewCommands() };
    this.heldSince = 0; // when Y went down
    this.listen();
  }

  verdictCommands() {
    const { review } = this;
    const { judging } = review;
    return {
      accept: () => judging.accept(),
      reject: () => judging.reject(),
      fix: () => review.fix(),
      undo: () => judging.undo(),
      acceptRest: () => judging.acceptRest(),
      submit: () => review.submit(),
      skip: () => review.skip(),
      putBack: () => review.putBack(),
      labelList: () => review.labelling.pick(),
      labelConfirm: () => review.labelling.confirm(),
      help: () => showKeys(review.labelling.categories.isUsed),
    };
  }

  viewCommands() {
    const { review } = this;
    const { single, grid } = review;
    const ifOpen = (act) => () => single.isOpen && act();
    const rows = (count) => () => review.move(single.isOpen ? count : count * grid.columns);
    return {
      look: () => this.look(),
      comment: () => review.comments.startPinning(),
      back: () => this.back(),
      show: () => review.setShow(nextShow(review.show)),
      left: () => review.move(-1),
      right: () => review.move(1),
      up: rows(-1),
      down: rows(1),
      first: () => review.move(-Infinity),
      last: () => review.move(Infinity),
      nextLeft: () => review.goLeft(),
      whole: ifOpen(() => single.toggleWhole()),
      zoomIn: ifOpen(() => single.zoom(1.4)),
      zoomOut: ifOpen(() => single.zoom(1 / 1.4)),
    };
  }

  /** Enter: "no reason" if a reason is asked for, else opens or closes the single view. */
  look() {
    const { review } = this;
    if (review.judging.isAskingReason) review.judging.closeReasons(true);
    else if (review.single.isOpen) review.closeSingle();
    else review.look(review.index);
  }

  /** Escape: undoes a reject while its reason is asked for, else closes the single view. */
  back() {
    const { review } = this;
    if (review.judging.isAskingReason) review.judging.undo();
    else if (review.single.onPlace) review.comments.stopPinning();
    else if (review.single.isOpen) review.closeSingle();
  }

  run(command) {
    if (!this.review.isReady) return;
    if (this.review.candidates.isOpen && ONE.includes(command)) this.review.candidates.setOpen(false);
    else if (command.startsWith("reason:")) this.review.judging.giveReason(Number(command.slice(7)));
    else this.commands[command]?.();
  }

  listen() {
    const { clock } = this.review;
    for (const name of INPUTS) document.addEventListener(name, () => clock.touch(), { passive: true, capture: true });
    setInterval(() => clock.tick(), 1_000);
    document.addEventListener("keydown", (event) => this.onKey(event));
    document.addEventListener("keyup", (event) => this.onKeyUp(event));
    for (const button of document.querySelectorAll("[data-command]")) this.bind(button, button.getAttribute("data-command"));
    for (const [id, command] of Object.entries(BUTTONS)) this.bind(document.getElementById(id), command);
  }

  /** A button pressed with the mouse does not keep the focus, so that Enter stays a command of the page. */
  bind(button, command) {
    button.addEventListener("click", (event) => {
      if (event.detail > 0) button.blur();
      this.run(command);
    });
  }

  onKey(event) {
    if (!this.review.isReady || isForControl(event)) return;
    if (event.key.toLowerCase() === "y" && !event.ctrlKey) {
      this.onBeforeKey(event);
      return;
    }
    const { labelling, judging, candidates } = this.review;
    const label = judging.isAskingReason || candidates.isOpen ? undefined : labelling.categories.forKey(event);
    if (label !== undefined) {
      event.preventDefault();
      if (!event.repeat) labelling.give(label);
      return;
    }
    const command = commandOf(event, judging.isAskingReason);
    if (!command) return;
    event.preventDefault();
    if (!event.repeat || REPEATED.includes(command)) this.run(command);
  }

  /** Y shows the mask before its fix: while it is held, or until the next short press. */
  onBeforeKey(event) {
    const { single } = this.review;
    if (event.repeat || !single.isOpen) return;
    this.heldSince = performance.now();
    single.setBefore(!single.isBefore);
  }

  onKeyUp(event) {
    if (event.key.toLowerCase() !== "y" || !this.heldSince) return;
    const { single } = this.review;
    if (single.isOpen && performance.now() - this.heldSince > HOLD_MS) single.setBefore(!single.isBefore);
    this.heldSince = 0;
  }
}
