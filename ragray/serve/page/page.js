// The page of ragray: a streaming chat with citations, a search view, a status view. No build step, nothing from
// elsewhere. This module starts the others and switches between the views.

import { offerModels, offerThumbs } from "./chat.js";
import "./search.js";
import { loadStatus, refreshStatus } from "./status.js";
import { $, showLanguage, switchLanguage, useKey } from "./texts.js";

const tabs = [$("tab-chat"), $("tab-search"), $("tab-status")];
const KEYS = { ArrowLeft: (place) => place - 1, ArrowRight: (place) => place + 1, Home: () => 0, End: () => -1 };

function choose(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (tab === $("tab-status")) refreshStatus();
}

tabs.forEach((tab, place) => {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    if (!(event.key in KEYS)) return;
    event.preventDefault();
    const next = tabs.at(KEYS[event.key](place) % tabs.length);
    choose(next);
    next.focus();
  });
});

$("language").addEventListener("click", switchLanguage);
showLanguage();

async function start() {
  const status = await loadStatus();
  if (!status) return;
  $("key-form").hidden = true;
  $("model").textContent = status.model;
  $("question").maxLength = $("query").maxLength = status.limits.question_chars;
  offerModels(status.models);
  offerThumbs(status.feedback);
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey($("key").value.trim());
  $("key").value = "";
  $("key-form").hidden = true;
  start();
  $("question").focus();
});

start();
$("question").focus();
