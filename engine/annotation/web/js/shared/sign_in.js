// Signs in with the token of a one-time link. The token is behind the # so that no server log has it.

import { api } from "./api.js";
import { el } from "./dom.js";

const ADD = "dataengine annotators add NAME --role annotator";

function show(state, title, ...content) {
  document.body.dataset.state = state;
  document.getElementById("title").textContent = title;
  document.getElementById("text").replaceChildren(...content);
}

function howToGetALink() {
  return [el("p", {}, "Whoever runs the server makes a link for you, which works once:"), el("pre", {}, ADD)];
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
  show("busy", "Signing in …");
  try {
    await api.signIn(token);
    location.replace("/");
  } catch (problem) {
    if (problem.isTemporary) {
      const again = el(
        "button",
        { class: "button button-primary", type: "button", onclick: () => signIn(token) },
        "Try again",
      );
      show("error", "That did not work yet", el("p", {}, `${problem.message} Your link is still good.`), again);
    } else if (await isSignedIn()) {
      location.replace("/"); // the same link once more, from a mail or a bookmark
    } else {
      show(
        "error",
        "This link does not work",
        el("p", {}, "It was used already, or it has run out."),
        ...howToGetALink(),
      );
    }
  }
}

function start() {
  const token = location.hash.slice(1);
  // Out of the address bar and the history at once: neither a screenshot nor "back" has it.
  history.replaceState(null, "", "/sign-in");
  if (token) signIn(token);
  else show("ready", "Sign in", el("p", {}, "You need a link to sign in."), ...howToGetALink());
}

start();
// A link pasted into this very tab only changes the part behind the #.
window.addEventListener("hashchange", start);
