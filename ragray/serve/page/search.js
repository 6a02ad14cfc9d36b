// The search view: for each hit its rank in every list, and what each term adds to its scores.

import { fillMarked, fillRanks, openPassage, termTable } from "./passages.js";
import { $, explain, make, note, onLanguage, post, t } from "./texts.js";

let found = null; // the last search result

function showHit(hit) {
  const item = make("li");
  const heading = make("h3");
  const button = make("button");
  fillMarked(button, `${hit.rank}. ${hit.title || t("untitled")}`, hit.terms);
  button.type = "button";
  button.setAttribute("aria-haspopup", "dialog");
  button.addEventListener("click", () => openPassage(hit, hit.terms));
  heading.append(button);
  const text = make("p");
  fillMarked(text, hit.text, hit.terms);
  const list = make("dl");
  fillRanks(list, hit);
  const details = make("details");
  details.append(make("summary", "", t("terms")), termTable(hit.terms));
  item.append(heading, text, list, details);
  return item;
}

function showFound() {
  if (!found) return;
  $("found").textContent = t("found")(found.hits.length, found.timings_ms.total);
  $("hits").replaceChildren(...found.hits.map(showHit));
}

onLanguage(showFound);

$("find").addEventListener("submit", async (event) => {
  event.preventDefault();
  const query = $("query").value.trim();
  if (!query) return;
  const begun = performance.now();
  try {
    found = await (await post("v1/search", { query, top_k: 10, explain: true })).json();
    note(begun, false, false);
    showFound();
  } catch (error) {
    found = null;
    note(begun, false, true);
    $("found").textContent = explain(error);
    $("hits").replaceChildren();
  }
});
