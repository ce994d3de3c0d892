// A small part of Markdown as elements: headings, paragraphs, lists, code, emphasis, links to the web.
// Text only ever becomes text nodes, so nothing in it can become markup.

import { el } from "./dom.js";

const INLINE = /\*\*(.+?)\*\*|\*([^*\s][^*]*)\*|`([^`]+)`|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/g;

export function markdown(text) {
  const root = el("div", { class: "guidelines" });
  const lines = text.replace(/\r/g, "").split("\n");
  for (let i = 0; i < lines.length; ) i = block(root, lines, i);
  return root;
}

/** Adds the block that begins at line i; returns the line after it. */
function block(root, lines, i) {
  const line = lines[i];
  if (line.startsWith("```")) return codeBlock(root, lines, i);
  const heading = /^(#{1,6})\s+(.*)/.exec(line);
  if (heading) {
    // the dialog's title is the page's h2
    root.append(el("h3", {}, inline(heading[2])));
    return i + 1;
  }
  if (itemOf(line)) return list(root, lines, i);
  if (line.trim() === "") return i + 1;
  return paragraph(root, lines, i);
}

function codeBlock(root, lines, i) {
  const end = lines.findIndex((line, at) => at > i && line.startsWith("```"));
  const last = end < 0 ? lines.length : end;
  root.append(el("pre", {}, el("code", {}, lines.slice(i + 1, last).join("\n"))));
  return last + 1;
}

function itemOf(line) {
  return /^\s*(?:([-*+])|\d+[.)])\s+(.*)/.exec(line);
}

function list(root, lines, i) {
  const items = el(itemOf(lines[i])[1] ? "ul" : "ol");
  for (; i < lines.length; i += 1) {
    const item = itemOf(lines[i]);
    if (item) items.append(el("li", {}, inline(item[2])));
    else if (/^\s+\S/.test(lines[i])) items.lastChild.append(" ", ...inline(lines[i].trim()));
    else break;
  }
  root.append(items);
  return i;
}

function paragraph(root, lines, i) {
  const start = i;
  while (i < lines.length && lines[i].trim() !== "" && !itemOf(lines[i]) && !/^(#|```)/.test(lines[i])) i += 1;
  const end = Math.max(i, start + 1);
  root.append(el("p", {}, inline(lines.slice(start, end).join(" "))));
  return end;
}

function inline(text) {
  const parts = [];
  let last = 0;
  for (const match of text.matchAll(INLINE)) {
    parts.push(text.slice(last, match.index));
    const [all, strong, em, code, label, href] = match;
    if (strong) parts.push(el("strong", {}, strong));
    else if (em) parts.push(el("em", {}, em));
    else if (code) parts.push(el("code", {}, code));
    else parts.push(el("a", { href, target: "_blank", rel: "noreferrer" }, label));
    last = match.index + all.length;
  }
  parts.push(text.slice(last));
  return parts.filter((part) => part !== "");
}
