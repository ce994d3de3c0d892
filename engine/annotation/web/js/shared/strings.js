// The page's texts in the reader's language. English is the source: `t("Skip")` is "Skip" where a translation
// has no other text for it. `strings/en.json` lists all texts (docs/translating.md).

/** Languages with a file `strings/CODE.json`; English needs none here. */
const LANGUAGES = ["en"];

/** The first of the browser's languages that the page has, else English. */
export const LANGUAGE =
  (globalThis.navigator?.languages ?? []).map((tag) => tag.split("-")[0]).find((code) => LANGUAGES.includes(code)) ?? "en";

/** @type {Record<string, string | Record<string, string>>} texts by their English ones; forms of plurals by Intl's names */
const texts = LANGUAGE === "en" ? {} : await (await fetch(`/static/strings/${LANGUAGE}.json`)).json();
const rules = new Intl.PluralRules(LANGUAGE);
const numbers = new Intl.NumberFormat(LANGUAGE);

if (LANGUAGE !== "en" && globalThis.document) translatePage(document);

/** The text for an English one; `{name}` is replaced by the value of that name. */
export function t(english, values = {}) {
  return filled(String(texts[english] ?? english), values);
}

/** The text for a number of things: `plural(2, "{n} mask", "{n} masks")`. A translation has it under `other`. */
export function plural(n, one, other, values = {}) {
  const known = texts[other];
  const form = typeof known === "object" ? (known[rules.select(n)] ?? known.other) : n === 1 ? one : other;
  return filled(form, { n: numbers.format(n), ...values });
}

/** The same as `t` with nodes as values, for `el`: an array of texts and nodes. */
export function pieces(english, nodes) {
  return t(english)
    .split(/\{(\w+)\}/)
    .map((piece, index) => (index % 2 ? nodes[piece] : piece))
    .filter((piece) => piece !== "");
}

const filled = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));

/** Replaces the texts of a page's HTML: title, text, and the attributes that people read. */
function translatePage(page) {
  page.documentElement.lang = LANGUAGE;
  page.title = t(page.title);
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const english = node.data.trim().replace(/\s+/g, " ");
    if (english) node.data = node.data.replace(node.data.trim(), () => t(english));
  }
  for (const name of ["title", "placeholder", "aria-label", "alt"])
    for (const node of page.querySelectorAll(`[${name}]`)) node.setAttribute(name, t(node.getAttribute(name)));
}
