// The bar that reports a lost connection or a lost lease.

import { el } from "./dom.js";
import { t } from "./strings.js";

export class Banner {
  constructor(root) {
    this.root = root;
    this.message = null; // {text, isBad, buttons}: shown in preference to being offline
    this.isOffline = false;
  }

  /** `buttons`: pairs of text and function. */
  show(text, isBad, buttons) {
    this.message = { text, isBad, buttons };
    this.render();
  }

  setOffline(isOffline) {
    this.isOffline = isOffline;
    this.render();
  }

  clear() {
    this.message = null;
    this.isOffline = false;
    this.render();
  }

  render() {
    const offline = {
      text: t("The server cannot be reached. You can continue: your work is kept in this browser and sent when the connection is back."),
      isBad: false,
      buttons: [],
    };
    const message = this.message ?? (this.isOffline ? offline : null);
    this.root.hidden = !message;
    if (!message) return;
    this.root.classList.toggle("banner-bad", message.isBad);
    const buttons = message.buttons.map(([text, act]) =>
      el("button", { class: "button", type: "button", onclick: act }, text),
    );
    this.root.replaceChildren(el("span", {}, message.text), ...buttons);
  }
}
