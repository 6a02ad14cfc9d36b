// The status view: what the service is, and how fast it answered this page.

import { $, onLanguage, request, requests, row, t } from "./texts.js";

let status = null;
let readiness = null;

export async function loadStatus() {
  const [told, ready] = await Promise.all([
    request("v1/status").then((response) => (response.ok ? response.json() : null), () => null),
    request("readyz").then((response) => response.json(), () => null),
  ]);
  status = told;
  readiness = ready;
  return told;
}

function runningFor(seconds) {
  const whole = Math.floor(seconds);
  return t("hours")(Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60);
}

function showService() {
  $("state").textContent = readiness === null ? t("offline") : t(readiness.status === "ready" ? "ready" : "notReady");
  if (!status) {
    $("facts").replaceChildren();
    $("lineage").replaceChildren();
    return;
  }
  const facts = [
    row(t("release"), status.version), row(t("model"), status.model), row(t("uptime"), runningFor(status.uptime_s)),
    row(t("limits"), t("limitsText")(status.limits.question_chars, status.limits.answer_tokens)),
    row(t("condense"), t(status.condense === "rule" ? "rule" : "alone")),
    row(t("feedback"), t(status.feedback ? "on" : "off")),
  ];
  if (status.index) {
    facts.push(row(t("indexVersion"), `${status.index.version}${status.index.current ? "" : ` (${t("behind")})`}`));
  }
  $("facts").replaceChildren(...facts);
  $("lineage").replaceChildren(...Object.entries(status.lineage).map(([name, digest]) => {
    const pair = row(name, digest.slice(0, 16));
    pair.title = digest;
    return pair;
  }));
}

function milliseconds(ms) {
  return ms < 1000 ? `${ms.toFixed(0)} ms` : t("seconds")(ms);
}

function showRequests() {
  const good = requests.filter((one) => !one.failed);
  const sorted = good.map((one) => one.ms).sort((a, b) => a - b);
  const median = sorted.length ? milliseconds(sorted[Math.floor(sorted.length / 2)]) : "–";
  $("counts").replaceChildren(
    row(t("asked"), String(requests.length)), row(t("hits"), String(requests.filter((one) => one.cached).length)),
    row(t("failures"), String(requests.length - good.length)), row(t("median"), median),
  );
  const last = good.slice(-50).map((one) => one.ms);
  const most = Math.max(...last, 1);
  const step = 300 / Math.max(last.length - 1, 1);
  const points = last.map((ms, place) => `${(place * step).toFixed(1)},${(57 - (54 * ms) / most).toFixed(1)}`);
  if (points.length === 1) points.push(`300,${points[0].split(",")[1]}`);
  $("sparkline").querySelector("polyline").setAttribute("points", points.join(" "));
  const text = last.length
    ? t("latency")(last.length, milliseconds(Math.min(...last)), milliseconds(Math.max(...last)))
    : t("noRequests");
  $("latency").textContent = text;
  $("sparkline").setAttribute("aria-label", text);
}

function show() {
  showService();
  showRequests();
}

export async function refreshStatus() {
  await loadStatus();
  show();
}

onLanguage(show);
$("refresh").addEventListener("click", refreshStatus);
