// The bar that tells about a lost connection or a lost hold on the task.

import { el } from "./dom.js";

export class Banner {
  constructor(root) {
    this.root = root;
    this.message = null; // {text, isBad, buttons}: goes before being offline
    this.isOffline = false;
  }

  /** `buttons`: pairs of text and what it does. */
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
      text: "The server cannot be reached. Go on: everything is kept in this browser and sent as soon as it is back.",
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
