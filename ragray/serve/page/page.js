// The page of ragray: a streaming chat with citations, and a search view. No build step, nothing from elsewhere.
// All that comes from the server is inserted as text, never as HTML.
"use strict";

const TEXTS = {
  en: {
    skip: "Skip to content", views: "Views", chat: "Ask", search: "Search", language: "中文", languageName: "Switch to Chinese",
    conversation: "Conversation", welcome: "Answers come from the indexed documents, with the passages that they rest on.",
    question: "Your question", askHint: "Enter sends, Shift+Enter starts a new line", send: "Send", stop: "Stop",
    query: "Search the passages", find: "Search", close: "Close", you: "You", assistant: "Assistant",
    citation: "Passage", stopped: "Stopped.", cached: "from the cache",
    seconds: (ms) => `${(ms / 1000).toFixed(2)} s`, found: (n, ms) => `${n} passages in ${ms.toFixed(1)} ms`,
    fused: "Fused rank", bm25: "BM25 rank", tfidf: "TF-IDF rank", prior: "Learned prior", score: (s) => `(score ${s})`, none: "not listed",
    offline: "The server cannot be reached.", broken: "The answer broke off.", untitled: "Untitled passage",
    cut: "This answer was cut at the length limit.",
  },
  zh: {
    skip: "跳到内容", views: "视图", chat: "提问", search: "检索", language: "English", languageName: "切换到英文",
    conversation: "对话", welcome: "回答来自已索引的文档，并附上所依据的段落。",
    question: "您的问题", askHint: "回车发送，Shift+回车换行", send: "发送", stop: "停止",
    query: "检索段落", find: "检索", close: "关闭", you: "您", assistant: "助手",
    citation: "段落", stopped: "已停止。", cached: "来自缓存",
    seconds: (ms) => `${(ms / 1000).toFixed(2)} 秒`, found: (n, ms) => `${n} 个段落，用时 ${ms.toFixed(1)} 毫秒`,
    fused: "融合排名", bm25: "BM25 排名", tfidf: "TF-IDF 排名", prior: "先验加分", score: (s) => `（得分 ${s}）`, none: "未列出",
    offline: "无法连接服务器。", broken: "回答中断了。", untitled: "无标题段落",
    cut: "回答达到长度上限，被截断。",
  },
};

const $ = (id) => document.getElementById(id);
let language = localStorage.getItem("ragray-language") || (navigator.language.startsWith("zh") ? "zh" : "en");
let found = null; // the last search result
let running = null; // AbortController of the answer that is being written
const t = (name) => TEXTS[language][name];

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// ---- language ----

function showLanguage() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = t(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", t(element.dataset.label));
  for (const element of document.querySelectorAll("[data-placeholder]")) element.placeholder = t(element.dataset.placeholder);
  $("language").textContent = t("language");
  $("language").setAttribute("aria-label", t("languageName"));
  if (found) showFound();
}

$("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("ragray-language", language);
  showLanguage();
});

// ---- tabs ----

const tabs = [$("tab-chat"), $("tab-search")];

function choose(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = !chosen;
  }
}

tabs.forEach((tab, place) => {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const next = tabs[(place + 1) % tabs.length];
    choose(next);
    next.focus();
  });
});

// ---- passages ----

function ranks(list, hit) {
  list.replaceChildren();
  const rows = [
    ["fused", hit.rank, hit.score], ["bm25", hit.bm25_rank, hit.bm25_score], ["tfidf", hit.tfidf_rank, hit.tfidf_score],
  ];
  for (const [name, rank, score] of rows) {
    const row = make("div");
    const text = rank === null ? t("none") : `${rank} ${t("score")(Number(score).toPrecision(3))}`;
    row.append(make("dt", "", t(name)), make("dd", "", text));
    list.append(row);
  }
  if (hit.prior) {
    const row = make("div");
    row.append(make("dt", "", t("prior")), make("dd", "", `+${Number(hit.prior).toPrecision(3)}`));
    list.append(row);
  }
}

function openPassage(hit) {
  $("passage-title").textContent = hit.title || t("untitled");
  $("passage-source").textContent = `${hit.source} · ${hit.doc_id}`;
  $("passage-text").textContent = hit.text;
  ranks($("passage-ranks"), hit);
  $("passage").showModal();
}

$("passage").addEventListener("click", (event) => {
  if (event.target === $("passage")) $("passage").close(); // the backdrop
});

// ---- chat ----

function addTurn(who, text) {
  const turn = make("article", `turn ${who === "you" ? "mine" : ""}`);
  const body = make("p", "text", text);
  const heading = make("h2", "", t(who));
  heading.dataset.text = who;
  turn.append(heading, body);
  $("welcome").hidden = true;
  $("log").append(turn);
  toEnd();
  return { turn, body };
}

function toEnd() {
  $("log").scrollTop = $("log").scrollHeight;
}

// Server-sent events of a response, parsed; "[DONE]" ends them.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    waiting += value;
    const parts = waiting.split("\n\n");
    waiting = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function post(path, body, signal) {
  const response = await fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
  });
  if (response.ok) return response;
  const problem = await response.json().catch(() => null);
  throw new Error(problem?.error?.message || `HTTP ${response.status}`);
}

async function writeAnswer(question, { turn, body }, signal) {
  const request = { messages: [{ role: "user", content: question }], stream: true };
  const response = await post("v1/chat/completions", request, signal);
  let last = null;
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    const [choice] = event.choices;
    if (choice?.delta.content) body.append(choice.delta.content);
    if (choice?.finish_reason) last = event;
    toEnd();
  }
  if (!last) throw new Error(t("broken"));
  finishAnswer(turn, last);
}

function finishAnswer(turn, last) {
  const list = make("ul", "citations");
  for (const citation of last.citations) {
    const item = make("li");
    const button = make("button", "", `[${citation.number}] ${citation.title || t("untitled")}`);
    button.type = "button";
    button.setAttribute("aria-haspopup", "dialog");
    button.setAttribute("aria-label", `${t("citation")} ${citation.number}: ${citation.title || t("untitled")}`);
    button.addEventListener("click", () => openPassage(citation));
    item.append(button);
    list.append(item);
  }
  if (last.citations.length) turn.append(list);
  const notes = [t("seconds")(last.timings_ms.total)];
  if (last.cache === "hit") notes.push(t("cached"));
  if (last.choices[0].finish_reason === "length") notes.push(t("cut"));
  turn.append(make("p", "note", notes.join(" · ")));
}

function explain(error) {
  if (error.name === "AbortError") return t("stopped");
  return error instanceof TypeError ? t("offline") : error.message;
}

async function ask(question) {
  addTurn("you", question);
  const answer = addTurn("assistant", "");
  answer.turn.classList.add("running");
  answer.turn.setAttribute("aria-busy", "true");
  running = new AbortController();
  setRunning(true);
  try {
    await writeAnswer(question, answer, running.signal);
  } catch (error) {
    if (error.name !== "AbortError") answer.turn.classList.add("failed");
    if (answer.body.textContent) answer.turn.append(make("p", "note", explain(error)));
    else answer.body.textContent = explain(error);
  } finally {
    running = null;
    answer.turn.classList.remove("running");
    answer.turn.removeAttribute("aria-busy");
    setRunning(false);
    toEnd();
  }
}

function setRunning(on) {
  $("send").hidden = on;
  $("stop").hidden = !on;
  if (!on) $("question").focus();
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question || running) return;
  $("question").value = "";
  ask(question);
});

$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("ask").requestSubmit();
});

$("stop").addEventListener("click", () => running?.abort());

// ---- search ----

function showHit(hit) {
  const item = make("li");
  const heading = make("h3");
  const button = make("button", "", `${hit.rank}. ${hit.title || t("untitled")}`);
  button.type = "button";
  button.setAttribute("aria-haspopup", "dialog");
  button.addEventListener("click", () => openPassage(hit));
  heading.append(button);
  const list = make("dl");
  ranks(list, hit);
  item.append(heading, make("p", "", hit.text), list);
  return item;
}

function showFound() {
  $("found").textContent = t("found")(found.hits.length, found.timings_ms.total);
  $("hits").replaceChildren(...found.hits.map(showHit));
}

$("find").addEventListener("submit", async (event) => {
  event.preventDefault();
  const query = $("query").value.trim();
  if (!query) return;
  try {
    found = await (await post("v1/search", { query, top_k: 10 })).json();
    showFound();
  } catch (error) {
    found = null;
    $("found").textContent = explain(error);
    $("hits").replaceChildren();
  }
});

// ---- start ----

showLanguage();
fetch("v1/models").then((response) => response.json()).then((models) => {
  $("model").textContent = models.data[0].id;
}, () => { $("model").textContent = ""; });
$("question").focus();
