// The bar on top of every page: the product's name, links to the pages, and who is signed in.

import { api } from "./api.js";
import { el, toast } from "./dom.js";
import { unseenFailures } from "./failures.js";
import { roleName } from "./names.js";
import { plural, t } from "./strings.js";

const PAGES = [
  { name: "work", title: t("Work"), roles: ["annotator", "reviewer", "admin"] },
  { name: "annotate", title: t("Annotate"), roles: ["annotator", "reviewer", "admin"] },
  { name: "review", title: t("Review"), roles: ["reviewer", "admin"] },
  { name: "browse", title: t("Browse"), roles: ["annotator", "reviewer", "admin"] },
  { name: "dashboard", title: t("Dashboard"), roles: ["reviewer", "admin"] },
  { name: "team", title: t("Team"), roles: ["admin"] },
];

/** Fill `<header id="header">` (made if it is not there). Resolves to Me, or to null if the
 * server cannot be reached; the bar then has no name. */
export async function mountHeader(current) {
  const header = document.getElementById("header") ?? el("header", { id: "header" });
  if (!header.isConnected) document.body.prepend(header);
  header.classList.add("header");
  header.replaceChildren(brand());
  let me = null;
  try {
    me = await api.me();
  } catch (problem) {
    if (problem.status !== 401) toast(problem.message, "bad");
    return null;
  }
  header.append(navigation(current, me), who(me));
  if (me.role === "admin" && current !== "dashboard") void tellFailures(header);
  return me;
}

function brand() {
  const mark = el("span", { class: "brand-mark", "aria-hidden": "true" });
  return el("a", { class: "brand", href: "/" }, mark, t("open data engine"));
}

function navigation(current, me) {
  const links = PAGES.filter((page) => page.roles.includes(me.role)).map((page) =>
    el("a", { href: `/${page.name}`, "aria-current": page.name === current ? "page" : null }, page.title),
  );
  return el("nav", { "aria-label": t("Pages") }, links);
}

/** Marks the link to the dashboard if jobs have failed. */
async function tellFailures(header) {
  try {
    const failed = unseenFailures(await api.jobs());
    const text = plural(failed.length, "{n} job failed", "{n} jobs failed");
    if (failed.length) header.querySelector('nav a[href="/dashboard"]').append(el("span", { class: "badge badge-bad" }, text));
  } catch (problem) {
    console.error(problem); // the page itself works
  }
}

function who(me) {
  const name = el("span", { class: "who-name" }, me.name);
  if (me.is_local)
    return el(
      "div",
      { class: "who", title: t("This server only answers this machine, so nobody needs to sign in.") },
      name,
      el("span", { class: "badge" }, t("this machine")),
    );
  const leave = async () => {
    try {
      await api.signOut();
      location.assign("/sign-in");
    } catch (problem) {
      toast(problem.message, "bad");
    }
  };
  return el(
    "div",
    { class: "who" },
    name,
    el("span", { class: "badge" }, roleName(me.role)),
    el("button", { class: "button button-quiet", type: "button", onclick: leave }, t("Sign out")),
  );
}
