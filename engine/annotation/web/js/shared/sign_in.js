// Signs in with the token of a one-time link. The token follows the # so that it is in no server log.

import { api } from "./api.js";
import { el } from "./dom.js";
import { t } from "./strings.js";

const ADD = "dataengine annotators add NAME --role annotator";

function show(state, title, ...content) {
  document.body.dataset.state = state;
  document.getElementById("title").textContent = title;
  document.getElementById("text").replaceChildren(...content);
}

function howToGetALink() {
  return [el("p", {}, t("Ask an administrator of the server for a sign-in link. A link works once; this command makes one:")), el("pre", {}, ADD)];
}

async function isSignedIn() {
  try {
    await api.me();
    return true;
  } catch {
    return false;
  }
}

async function signIn(token) {
  show("busy", t("Signing in …"));
  try {
    await api.signIn(token);
    location.replace("/");
  } catch (problem) {
    if (problem.isTemporary) {
      const again = el(
        "button",
        { class: "button button-primary", type: "button", onclick: () => signIn(token) },
        t("Try again"),
      );
      show("error", t("Signing in failed"), el("p", {}, t("{problem} Your link is still valid.", { problem: problem.message })), again);
    } else if (await isSignedIn()) {
      location.replace("/"); // the same link again, from a mail or a bookmark
    } else {
      show(
        "error",
        t("This link does not work"),
        el("p", {}, t("It was already used, or it has expired.")),
        ...howToGetALink(),
      );
    }
  }
}

function start() {
  const token = location.hash.slice(1);
  // removed from the address bar and the history, so that neither a screenshot nor "back" shows it
  history.replaceState(null, "", "/sign-in");
  if (token) signIn(token);
  else show("ready", t("Sign in"), el("p", {}, t("You need a link to sign in.")), ...howToGetALink());
}

start();
// a link pasted into this tab only changes the part after the #
window.addEventListener("hashchange", start);
