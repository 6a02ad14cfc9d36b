// Passages: their ranks, the terms that found them, marked in the text, and the dialog that shows one.

import { $, make, post, row, t } from "./texts.js";

const CJK = /[\u2e80-\u9fff\uac00-\ud7af]/;

// Terms are stems ("instal", "polici"): a word is one of them when it begins with it and ends soon after.
function isOf(word, term) {
  const lower = word.toLowerCase();
  if (lower === term) return true;
  const stem = term.endsWith("i") ? term.slice(0, -1) : term;
  return stem.length > 2 && lower.startsWith(stem) && lower.length - stem.length <= 5;
}

// Where the terms stand in a text: [begin, end] pairs, ascending, none overlapping.
export function places(text, terms) {
  const found = [];
  for (const match of text.matchAll(/[\p{L}\p{N}_]+/gu)) {
    if (CJK.test(match[0])) continue;
    if (terms.some((term) => isOf(match[0], term))) found.push([match.index, match.index + match[0].length]);
  }
  for (const term of terms.filter((one) => CJK.test(one))) {
    for (let at = text.indexOf(term); at >= 0; at = text.indexOf(term, at + 1)) found.push([at, at + term.length]);
  }
  for (const term of terms.filter((one) => !CJK.test(one))) { // a Latin word inside Chinese text
    const lower = text.toLowerCase();
    for (let at = lower.indexOf(term); at >= 0; at = lower.indexOf(term, at + 1)) {
      const before = lower[at - 1] || " ", after = lower[at + term.length] || " ";
      if (/[a-z0-9]/.test(before) || /[a-z0-9]/.test(after)) continue;
      found.push([at, at + term.length]);
    }
  }
  found.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const merged = [];
  for (const [begin, end] of found) {
    const last = merged[merged.length - 1];
    if (last && begin <= last[1]) last[1] = Math.max(last[1], end);
    else merged.push([begin, end]);
  }
  return merged;
}

// The text of a passage, with the terms marked that add to its scores.
export function fillMarked(element, text, terms) {
  element.replaceChildren();
  const there = terms.filter((one) => one.bm25 > 0 || one.tfidf > 0).map((one) => one.term);
  let at = 0;
  for (const [begin, end] of places(text, there)) {
    element.append(text.slice(at, begin), make("mark", "", text.slice(begin, end)));
    at = end;
  }
  element.append(text.slice(at));
}

export function fillRanks(list, hit) {
  list.replaceChildren();
  const rows = [
    ["fused", hit.rank, hit.score], ["bm25", hit.bm25_rank, hit.bm25_score], ["tfidf", hit.tfidf_rank, hit.tfidf_score],
  ];
  if (typeof hit.dense_score === "number") rows.push(["dense", hit.dense_rank, hit.dense_score]);
  for (const [name, rank, score] of rows) {
    const text = rank === null ? t("none") : `${rank} ${t("score")(Number(score).toPrecision(3))}`;
    list.append(row(t(name), text));
  }
  if (typeof hit.rerank_score === "number") list.append(row(t("rerank"), hit.rerank_score.toPrecision(3)));
  if (hit.prior) list.append(row(t("prior"), `+${Number(hit.prior).toPrecision(3)}`));
}

function part(value, most) {
  const cell = make("td");
  const bar = make("span", "bar");
  bar.style.setProperty("width", `${Math.round((60 * value) / (most || 1))}px`);
  cell.append(bar, value.toFixed(3));
  return cell;
}

// What each term adds to the scores of a hit, as a table.
export function termTable(terms) {
  if (!terms.length) return make("p", "note", t("noTerms"));
  const table = make("table", "terms");
  table.append(make("caption", "", t("terms")));
  const head = make("tr");
  for (const name of ["term", "bm25Part", "tfidfPart"]) {
    const cell = make("th", "", t(name));
    cell.scope = "col";
    head.append(cell);
  }
  const most = { bm25: Math.max(...terms.map((one) => one.bm25)), tfidf: Math.max(...terms.map((one) => one.tfidf)) };
  const body = make("tbody");
  for (const one of terms) {
    const line = make("tr");
    const name = make("th", "", one.term);
    name.scope = "row";
    line.append(name, part(one.bm25, most.bm25), part(one.tfidf, most.tfidf));
    body.append(line);
  }
  const top = make("thead");
  top.append(head);
  table.append(top, body);
  return table;
}

let shown = 0; // number of the passage that is open, so that a late answer fills no other

export function openPassage(hit, terms) {
  shown += 1;
  fillMarked($("passage-title"), hit.title || t("untitled"), terms || []);
  $("passage-source").textContent = `${hit.source} · ${hit.doc_id}`;
  fillMarked($("passage-text"), hit.text, terms || []);
  fillRanks($("passage-ranks"), hit);
  $("passage-terms").replaceChildren(...(terms ? [termTable(terms)] : []));
  if (!$("passage").open) $("passage").showModal();
  $("passage").scrollTop = 0;
  return shown;
}

// A citation has no terms: the search that found it is asked again for them.
export async function openCitation(citation, query) {
  const mine = openPassage(citation, null);
  try {
    const found = await (await post("v1/search", { query, top_k: 20, explain: true })).json();
    const hit = found.hits.find((one) => one.doc_id === citation.doc_id);
    if (hit && mine === shown && $("passage").open) openPassage(citation, hit.terms);
  } catch { /* the passage is there, only its marks are not */ }
}

$("passage").addEventListener("click", (event) => {
  if (event.target === $("passage")) $("passage").close(); // the backdrop
});
