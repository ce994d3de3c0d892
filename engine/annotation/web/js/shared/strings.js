// The page's texts in the reader's language. English is the source: `t("Skip")` is "Skip" where a translation
// has no other text for it. `strings/en.json` lists all texts (docs/translating.md).

/** Languages with a file `strings/CODE.json`; English needs none here. */
const LANGUAGES = ["en"];

/** @type {readonly string[]} the reader's, the preferred one first: "de-AT", "en" */
const tags = globalThis.navigator?.languages ?? [];
const baseOf = (tag) => tag.split("-")[0];
const wanted = tags.flatMap((tag) => [tag, baseOf(tag)]).find((code) => LANGUAGES.includes(code)) ?? "en";
const translation = wanted === "en" ? null : await read(wanted);

/** The page's language: the first of the browser's languages that the page has, else English. */
export const LANGUAGE = translation ? wanted : "en";

/** The same with the reader's country, for numbers and dates. */
export const LOCALE = tags.find((tag) => baseOf(tag) === baseOf(LANGUAGE)) ?? LANGUAGE;

/** @type {Map<string, string | Record<string, string>>} texts by their English ones; forms of plurals by Intl's names */
const texts = translation ?? new Map();
const rules = new Intl.PluralRules(LANGUAGE);
const numbers = new Intl.NumberFormat(LOCALE);
/** @type {Map<string, string[]>} texts and, at odd places, the names between them */
const parted = new Map();

if (translation && globalThis.document) translatePage(document);

/** A language's texts; null, and the page stays English, if they cannot be read. */
async function read(code) {
  try {
    const answer = await fetch(`/static/strings/${code}.json`);
    if (!answer.ok) throw new Error(`strings/${code}.json: ${answer.status}`);
    return new Map(Object.entries(await answer.json()));
  } catch (problem) {
    console.error("The translation could not be read", problem);
    return null;
  }
}

/** The text for an English one; `{name}` is replaced by the value of that name.
 * @param {string} english
 * @param {Record<string, unknown> | null} [values]
 * @returns {string} */
export function t(english, values = null) {
  const found = texts.get(english);
  const text = typeof found === "string" && found ? found : english; // empty: not translated yet
  return values ? filled(text, values) : text;
}

/** The text for a number of things: `plural(2, "{n} mask", "{n} masks")`. A translation has it under `other`.
 * @param {number} n
 * @param {string} one
 * @param {string} other
 * @param {Record<string, unknown>} [values]
 * @returns {string} */
export function plural(n, one, other, values = {}) {
  const known = texts.get(other);
  const form = typeof known === "object" ? known[rules.select(n)] || known.other : "";
  return filled(form || (n === 1 ? one : other), { n: numbers.format(n), ...values });
}

/** The same as `t` with nodes as values, for `el`: an array of texts and nodes.
 * @param {string} english
 * @param {Record<string, any>} nodes
 * @returns {any[]} */
export function pieces(english, nodes) {
  return partsOf(t(english))
    .map((part, index) => (index % 2 ? valueOf(nodes, part) : part))
    .filter((piece) => piece !== "");
}

const valueOf = (values, name) => (name in values ? values[name] : `{${name}}`);

function filled(text, values) {
  const parts = partsOf(text);
  let found = parts[0];
  for (let i = 1; i < parts.length; i += 2) found += valueOf(values, parts[i]) + parts[i + 1];
  return found;
}

/** Split once: lists of thousands of masks have a text each. */
function partsOf(text) {
  let parts = parted.get(text);
  if (!parts) parted.set(text, (parts = text.split(/\{(\w+)\}/)));
  return parts;
}

/** Replaces the texts of a page's HTML: title, text without the names of keys, and the attributes that people read. */
function translatePage(page) {
  page.documentElement.lang = LANGUAGE;
  page.title = t(page.title);
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const english = node.data.trim().replace(/\s+/g, " ");
    if (english && !node.parentElement.closest("kbd")) node.data = node.data.replace(node.data.trim(), () => t(english));
  }
  for (const name of ["title", "placeholder", "aria-label", "alt"])
    for (const node of page.querySelectorAll(`[${name}]`)) node.setAttribute(name, t(node.getAttribute(name)));
}
