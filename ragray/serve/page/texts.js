// The page's words in two languages, and small helpers that all of its modules share.
// All that comes from the server is inserted as text, never as HTML.

const TEXTS = {
  en: {
    skip: "Skip to content", views: "Views", chat: "Ask", search: "Search", status: "Status",
    language: "中文", languageName: "Switch to Chinese",
    conversation: "Conversation", welcome: "Answers come from the indexed documents, with the passages that they rest on.",
    question: "Your question", askHint: "Enter sends, Shift+Enter starts a new line",
    send: "Send", stop: "Stop", restart: "New conversation",
    query: "Search the passages", find: "Search", close: "Close", you: "You", assistant: "Assistant",
    citation: "Passage", stopped: "Stopped.", cached: "from the cache", declined: "not answered by the documents",
    searched: (query) => `Searched for: ${query}`,
    seconds: (ms) => `${(ms / 1000).toFixed(2)} s`, found: (n, ms) => `${n} passages in ${ms.toFixed(1)} ms`,
    fused: "Fused rank", bm25: "BM25 rank", tfidf: "TF-IDF rank", dense: "Embedding rank", prior: "Learned prior",
    score: (s) => `(score ${s})`, none: "not listed", rerank: "Reranker's score",
    terms: "What each term adds", term: "Term", bm25Part: "BM25", tfidfPart: "TF-IDF", noTerms: "No term of the query is in this passage.",
    offline: "The server cannot be reached.", broken: "The answer broke off.", untitled: "Untitled passage",
    cut: "This answer was cut at the length limit.",
    helpful: "This answer helped", unhelpful: "This answer did not help", thanks: "Thank you.",
    correction: "What should the answer have been? (optional)", sendCorrection: "Send correction",
    service: "Service", versions: "Versions", thisPage: "Requests of this page", refresh: "Refresh",
    ready: "Ready: retriever and generator answer.", notReady: "Not ready.", unknown: "unknown",
    release: "Release", model: "Model", uptime: "Running for", indexVersion: "Index version", behind: "a newer one cannot be opened",
    limits: "Longest question, answer", limitsText: (c, n) => `${c} characters, ${n} tokens`,
    feedback: "Feedback", condense: "Follow-up questions", on: "kept", off: "off", rule: "made whole by a rule", alone: "searched as they stand",
    asked: "Requests", hits: "From the cache", failures: "Failed", median: "Median latency",
    latency: (n, low, high) => `Latency of the last ${n} requests: ${low} to ${high}`, noRequests: "No request yet.",
    key: "API key", useKey: "Use this key", keyHint: "This server wants an API key. It is kept until this tab is closed.",
    hours: (h, m, s) => `${h} h ${m} min ${s} s`,
  },
  zh: {
    skip: "跳到内容", views: "视图", chat: "提问", search: "检索", status: "状态",
    language: "English", languageName: "切换到英文",
    conversation: "对话", welcome: "回答来自已索引的文档，并附上所依据的段落。",
    question: "您的问题", askHint: "回车发送，Shift+回车换行",
    send: "发送", stop: "停止", restart: "新对话",
    query: "检索段落", find: "检索", close: "关闭", you: "您", assistant: "助手",
    citation: "段落", stopped: "已停止。", cached: "来自缓存", declined: "文档没有回答",
    searched: (query) => `检索内容：${query}`,
    seconds: (ms) => `${(ms / 1000).toFixed(2)} 秒`, found: (n, ms) => `${n} 个段落，用时 ${ms.toFixed(1)} 毫秒`,
    fused: "融合排名", bm25: "BM25 排名", tfidf: "TF-IDF 排名", dense: "向量排名", prior: "先验加分",
    score: (s) => `（得分 ${s}）`, none: "未列出", rerank: "重排得分",
    terms: "各词的贡献", term: "词", bm25Part: "BM25", tfidfPart: "TF-IDF", noTerms: "这个段落不含查询的任何词。",
    offline: "无法连接服务器。", broken: "回答中断了。", untitled: "无标题段落",
    cut: "回答达到长度上限，被截断。",
    helpful: "这个回答有帮助", unhelpful: "这个回答没有帮助", thanks: "谢谢。",
    correction: "正确的回答应该是什么？（可不填）", sendCorrection: "提交更正",
    service: "服务", versions: "版本", thisPage: "本页的请求", refresh: "刷新",
    ready: "就绪：检索和生成都能应答。", notReady: "未就绪。", unknown: "未知",
    release: "发行版本", model: "模型", uptime: "已运行", indexVersion: "索引版本", behind: "无法打开更新的版本",
    limits: "问题和回答的长度上限", limitsText: (c, n) => `${c} 个字符，${n} 个 token`,
    feedback: "反馈", condense: "追问", on: "保存", off: "关闭", rule: "按规则补全", alone: "按原文检索",
    asked: "请求", hits: "来自缓存", failures: "失败", median: "延迟中位数",
    latency: (n, low, high) => `最近 ${n} 次请求的延迟：${low} 到 ${high}`, noRequests: "还没有请求。",
    key: "API 密钥", useKey: "使用此密钥", keyHint: "此服务需要 API 密钥。密钥只保存到关闭本标签页为止。",
    hours: (h, m, s) => `${h} 小时 ${m} 分 ${s} 秒`,
  },
};

export const $ = (id) => document.getElementById(id);

const localStorageOf = () => localStorage;
const sessionStorageOf = () => sessionStorage;
let language = stored(localStorageOf, "ragray-language") || (navigator.language.startsWith("zh") ? "zh" : "en");
const listeners = [];

export const t = (name) => TEXTS[language][name];

function stored(storage, name) {
  try {
    return storage().getItem(name);
  } catch {
    return null; // storage is off in this browser
  }
}

function keep(storage, name, value) {
  try {
    storage().setItem(name, value);
  } catch { /* kept for this page only */ }
}

// Calls back when the language changes: for texts that are made of data.
export function onLanguage(callback) {
  listeners.push(callback);
}

export function showLanguage() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = t(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", t(element.dataset.label));
  for (const element of document.querySelectorAll("[data-placeholder]")) element.placeholder = t(element.dataset.placeholder);
  $("language").textContent = t("language");
  $("language").setAttribute("aria-label", t("languageName"));
  for (const callback of listeners) callback();
}

export function switchLanguage() {
  language = language === "zh" ? "en" : "zh";
  keep(localStorageOf, "ragray-language", language);
  showLanguage();
}

// An element; a text by its name follows the language.
export function make(tag, className, text, name) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  if (name) {
    element.dataset.text = name;
    element.textContent = t(name);
  }
  return element;
}

export function row(label, value) {
  const pair = make("div");
  pair.append(make("dt", "", label), make("dd", "", value));
  return pair;
}

// ---- requests, and what the status view tells of them ----

export const requests = []; // {ms, cached, failed}, the last 200

export function note(begun, cached, failed) {
  requests.push({ ms: performance.now() - begun, cached, failed });
  if (requests.length > 200) requests.shift();
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let key = stored(sessionStorageOf, "ragray-key");

export function useKey(text) {
  key = text;
  keep(sessionStorageOf, "ragray-key", text);
}

// A request with the key, where there is one; a server that wants one makes the page ask for it.
export async function request(path, options = {}) {
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) $("key-form").hidden = false;
  return response;
}

export async function post(path, body, signal) {
  const response = await request(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
  });
  if (response.ok) return response;
  const problem = await response.json().catch(() => null);
  throw new Refused(response.status, problem?.error?.message || `HTTP ${response.status}`);
}

export function explain(error) {
  if (error.name === "AbortError") return t("stopped");
  return error instanceof TypeError ? t("offline") : error.message;
}
