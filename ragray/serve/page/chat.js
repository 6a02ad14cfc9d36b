// The chat: questions with the conversation before them, streamed answers, citations, thumbs.

import { openCitation } from "./passages.js";
import { $, explain, make, note, onLanguage, post, Refused, t } from "./texts.js";

const MOST_MESSAGES = 12; // of the conversation, sent along
let conversation = []; // {role, content}
let running = null; // AbortController of the answer that is being written
let thumbs = false; // whether the server keeps feedback

export function offerThumbs(on) {
  thumbs = on;
}

// A choice where there is more than one model.
export function offerModels(models) {
  $("choice").hidden = models.length < 2;
  $("choice").replaceChildren(...models.map((model) => make("option", "", model)));
}

// Whether an answer was made before, for this question or for a near one.
function isCached(last) {
  return last.cache === "hit" || last.cache === "semantic";
}

function addTurn(who, text) {
  const turn = make("article", `turn ${who === "you" ? "mine" : ""}`);
  const body = make("p", "text", text);
  turn.append(make("h2", "", undefined, who), body);
  $("welcome").hidden = true;
  $("restart").hidden = false;
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

function chosenModel() {
  return $("choice").hidden ? {} : { model: $("choice").value };
}

async function writeAnswer(messages, { turn, body }, signal) {
  const response = await post("v1/chat/completions", { messages, stream: true, ...chosenModel() }, signal);
  let last = null;
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    const [choice] = event.choices;
    if (choice?.delta.content) body.append(choice.delta.content);
    if (choice?.finish_reason) last = event;
    toEnd();
  }
  if (!last) throw new Error(t("broken"));
  finishAnswer({ turn, body }, last, messages[messages.length - 1].content);
  return last;
}

function citationButton(citation, query, className, text) {
  const button = make("button", className, text);
  button.type = "button";
  button.setAttribute("aria-haspopup", "dialog");
  button.setAttribute("aria-label", `${t("citation")} ${citation.number}: ${citation.title || t("untitled")}`);
  button.addEventListener("click", () => openCitation(citation, query));
  return button;
}

// The marks in the text, such as [1], open their passages.
function linkMarks(body, citations, query) {
  const byNumber = new Map(citations.map((citation) => [String(citation.number), citation]));
  const parts = body.textContent.split(/\[(\d{1,2})\]/);
  body.replaceChildren(...parts.map((part, place) => {
    if (place % 2 === 0) return part;
    const citation = byNumber.get(part);
    return citation ? citationButton(citation, query, "ref", `[${part}]`) : `[${part}]`;
  }));
}

function finishAnswer({ turn, body }, last, question) {
  const query = last.retrieval_query;
  linkMarks(body, last.citations, query);
  if (last.citations.length) {
    const list = make("ul", "citations");
    for (const citation of last.citations) {
      const item = make("li");
      item.append(citationButton(citation, query, "", `[${citation.number}] ${citation.title || t("untitled")}`));
      list.append(item);
    }
    turn.append(list);
  }
  const notes = make("p", "note");
  const fill = () => {
    const texts = [t("seconds")(last.timings_ms.total)];
    if (isCached(last)) texts.push(t("cached"));
    if (last.declined) texts.push(t("declined"));
    if (last.choices[0].finish_reason === "length") texts.push(t("cut"));
    if (query.trim() !== question.trim()) texts.push(t("searched")(query));
    notes.textContent = texts.join(" · ");
  };
  fill();
  onLanguage(fill);
  turn.append(notes);
  if (thumbs) turn.append(rating(last.id, query, body.textContent)); // as searched: it makes sense alone
}

// ---- feedback ----

async function rate(id, question, answer, more) {
  const body = { completion_id: id, ...more };
  try {
    return await post("v1/feedback", body);
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 404) throw error;
    return post("v1/feedback", { ...body, question, answer }); // this replica did not give the answer, or forgot it
  }
}

function thumb(name, label) {
  const button = make("button", "thumb");
  button.type = "button";
  button.dataset.label = label;
  button.setAttribute("aria-label", t(label));
  button.setAttribute("aria-pressed", "false");
  const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#${name}`);
  icon.setAttribute("aria-hidden", "true");
  icon.append(use);
  button.append(icon);
  return button;
}

function rating(id, question, answer) {
  const box = make("div", "rating");
  const up = thumb("thumb-up", "helpful");
  const down = thumb("thumb-down", "unhelpful");
  const state = make("span", "note");
  state.setAttribute("role", "status");
  const send = async (more, button) => {
    try {
      await rate(id, question, answer, more);
      for (const other of [up, down]) other.setAttribute("aria-pressed", String(other === button));
      state.textContent = t("thanks");
      return true;
    } catch (error) {
      state.textContent = explain(error);
      return false;
    }
  };
  const form = correction(id, (text) => send({ rating: "down", corrected_answer: text }, down));
  up.addEventListener("click", () => {
    form.hidden = true;
    send({ rating: "up" }, up);
  });
  down.addEventListener("click", async () => {
    if (await send({ rating: "down" }, down)) form.hidden = false;
    toEnd();
  });
  box.append(up, down, state, form);
  return box;
}

function correction(id, send) {
  const form = make("form", "correction");
  form.hidden = true;
  const label = make("label", "", undefined, "correction");
  const field = make("textarea");
  field.id = `correction-${id}`;
  field.rows = 2;
  field.maxLength = 8000;
  field.required = true;
  label.htmlFor = field.id;
  const button = make("button", "", undefined, "sendCorrection");
  form.append(label, field, button);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await send(field.value)) form.hidden = true;
  });
  return form;
}

// ---- asking ----

async function ask(question) {
  addTurn("you", question);
  const answer = addTurn("assistant", "");
  answer.turn.classList.add("running");
  answer.turn.setAttribute("aria-busy", "true");
  running = new AbortController();
  setRunning(true);
  const begun = performance.now();
  const messages = [...conversation, { role: "user", content: question }].slice(-MOST_MESSAGES);
  try {
    const last = await writeAnswer(messages, answer, running.signal);
    conversation = [...messages, { role: "assistant", content: answer.body.textContent }];
    note(begun, isCached(last), false);
  } catch (error) {
    if (error.name !== "AbortError") {
      answer.turn.classList.add("failed");
      note(begun, false, true);
    }
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

$("restart").addEventListener("click", () => {
  running?.abort();
  conversation = [];
  for (const turn of $("log").querySelectorAll(".turn")) turn.remove();
  $("welcome").hidden = false;
  $("restart").hidden = true;
  $("question").focus();
});
