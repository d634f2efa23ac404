// The chat: holds one conversation, sends what the person does, and shows what comes back.

import { call, notice, pageData } from "../web/palate.js";
import { isWrittenKey, toggleWritten } from "../web/written.js";
import { stream } from "./chat_stream.js";
import { chipsOf, drawnOf, listItem, make, turnOf } from "./chat_view.js";

const page = pageData("chat-data");
const $ = (id) => document.getElementById(id);
const defaults = { two_answers: false, second_model_id: null, temperature: 0.7, max_new_tokens: 256, principles: [], consent: null };

let lines = page.conversations;
let conversation = page.conversation;
let fresh = { model_id: page.models[0]?.id, settings: { ...defaults } }; // of a conversation that is not begun yet
let reading = false; // a stream of our own is under way
let stopping = false;
let readySince = null; // when two answers were there to be compared

const settings = () => (conversation ?? fresh).settings;
const pathOf = (rest = "") => `/api/chat/conversations/${encodeURIComponent(conversation.id)}${rest}`;
const answerPath = (answer, rest) => `/api/chat/answers/${encodeURIComponent(answer.id)}/${rest}`;
const isWriting = () => Boolean(conversation?.turns.some((turn) => turn.variants.some((answer) => answer.state === "streaming")));
const waitingPair = () => {
  const last = conversation?.turns.at(-1);
  return last?.pair && last.variants.every((answer) => answer.can_judge) ? last : null;
};

// --- showing

function show(next) {
  conversation = next;
  if (next) remember(next);
  const scroll = $("scroll");
  const atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 120;
  const turns = conversation?.turns ?? [];
  const lastOfMine = turns.findLast((turn) => turn.role === "user");
  const isQuiet = !isWriting() && !reading;
  const focused = whereFocusIs();
  $("turns").replaceChildren(...turns.map((turn) => turnOf(turn, { isLast: turn === turns.at(-1), isLastOfMine: turn === lastOfMine, isQuiet }, acts)));
  $("welcome").hidden = Boolean(conversation);
  $("title").textContent = conversation?.title || "New conversation";
  $("rename").hidden = $("delete").hidden = !conversation;
  $("conversation-list").replaceChildren(...lines.map((line) => listItem(line, conversation?.id)));
  showState();
  if (atEnd) scroll.scrollTop = scroll.scrollHeight;
  if (focused) focusOn(focused);
}

// turns are made anew each time, and whoever uses the keyboard must not lose their place
function whereFocusIs() {
  const button = document.activeElement?.closest("#turns button");
  return button && { turn: [...$("turns").children].indexOf(button.closest("#turns > li")), label: labelOf(button) };
}

function focusOn({ turn, label }) {
  const buttons = [...($("turns").children[turn]?.querySelectorAll("button:enabled") ?? [])];
  const same = buttons.find((button) => labelOf(button) === label) ?? buttons[0] ?? $("message");
  same.focus({ preventScroll: true });
}

function labelOf(button) {
  return button.getAttribute("aria-label") ?? button.textContent;
}

function showState() {
  const busy = reading || isWriting();
  const pair = waitingPair();
  if (!pair) readySince = null;
  else readySince ??= performance.now();
  $("send").hidden = busy;
  $("stop").hidden = !busy;
  $("blocked").hidden = !pair;
  $("message").disabled = Boolean(pair);
  const chosen = settings();
  const count = page.principles ? chosen.principles.length : 0;
  const isChosen = page.best_of > 1 && chosen.temperature > 0 && (page.is_rewarded || count);
  const byMine = count ? ` by my ${count === 1 ? "principle" : `${count} principles`}` : "";
  $("mode").textContent = chosen.two_answers ? "Two answers, names hidden" : nameOf((conversation ?? fresh).model_id) + (isChosen ? `, one of ${page.best_of} answers${byMine}` : "");
}

function nameOf(id) {
  return page.models.find((model) => model.id === id)?.name ?? "";
}

function remember({ id, title, updated_at }) {
  lines = [{ id, title, updated_at }, ...lines.filter((line) => line.id !== id)].sort((a, b) => b.updated_at - a.updated_at);
}

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

// do something that answers with the conversation; what goes wrong is said above the message box
async function change(method, path, body) {
  problem("");
  try {
    show(await call(method, path, body));
    return true;
  } catch (failure) {
    problem(failure.message);
    return false;
  }
}

// --- writing

// true if the server took it, however the answer ended
async function write(method, path, body) {
  if (reading) return false;
  problem("");
  reading = true;
  stopping = false;
  showState();
  $("status").textContent = "The answer is being written.";
  let texts = [];
  let taken = false;
  try {
    for await (const { event, data } of stream(method, path, body)) {
      if (event === "start") {
        taken = true;
        show(data);
        texts = [...$("turns").querySelectorAll(".text.cursor")];
        $("scroll").scrollTop = $("scroll").scrollHeight;
      } else if (event === "drawn") texts[0]?.replaceChildren(drawnOf(data));
      else if (event === "piece") append(texts[data.place], data.text);
      else if (event === "end") {
        reading = false;
        show(data);
        if (waitingPair()) $("turns").lastElementChild.scrollIntoView({ block: "start" });
      }
    }
    $("status").textContent = waitingPair() ? "Both answers are there. Say which one is better." : "The answer is finished.";
  } catch (failure) {
    problem(failure.message ?? "The connection broke off. What was written until then is kept.");
    $("status").textContent = "";
  } finally {
    if (reading) {
      reading = false;
      if (conversation && taken) await follow();
      else showState();
    }
  }
  return taken;
}

function append(box, text) {
  if (!box) return;
  const scroll = $("scroll");
  const atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 120;
  box.querySelector(".drawn")?.remove();
  box.append(text);
  if (atEnd) scroll.scrollTop = scroll.scrollHeight;
}

// an answer that is being written for another tab, or whose stream broke off
async function follow() {
  for (;;) {
    try {
      show(await call("GET", pathOf()));
    } catch (failure) {
      return problem(failure.message);
    }
    if (!isWriting() || reading) return;
    await new Promise((done) => setTimeout(done, 1000));
  }
}

async function begin() {
  const begun = await call("POST", "/api/chat/conversations", fresh);
  conversation = begun;
  window.history.pushState(null, "", `/chat/${encodeURIComponent(begun.id)}`);
}

async function send() {
  const box = $("message");
  const text = box.value;
  if (!text.trim() || reading || waitingPair()) return;
  problem("");
  try {
    if (!conversation) await begin();
  } catch (failure) {
    return problem(failure.message);
  }
  box.value = "";
  if (!(await write("POST", pathOf("/messages"), { text }))) box.value = text;
  if (!box.disabled) box.focus();
}

async function stop() {
  if (stopping || !conversation) return;
  stopping = true;
  try {
    const stopped = await call("POST", pathOf("/stop"));
    if (!reading) show(stopped); // else the stream says how it ended
  } catch (failure) {
    problem(failure.message);
  }
  stopping = false;
}

// --- asking

// opens a dialog; gives the value of the button that closed it, empty for Escape
function ask(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue), { once: true }));
}

async function consented() {
  if (settings().consent !== null) return true;
  const said = await ask($("consent"));
  return said ? change("PATCH", pathOf(), { consent: said === "yes" }) : false;
}

async function askText({ title, hint, save, text }) {
  $("write-title").textContent = title;
  $("write-hint").textContent = hint;
  $("write-save").textContent = save;
  $("write-text").value = text;
  const said = await ask($("write"));
  return said === "save" && $("write-text").value.trim() ? $("write-text").value : null;
}

// --- what the buttons of a turn do

const acts = {
  async thumb(answer, up) {
    const { thumb, reasons, comment } = answer.reaction;
    const same = thumb === (up ? "up" : "down");
    if (!(await consented())) return;
    if (!same && !(await change("PUT", answerPath(answer, "thumb"), { up }))) return;
    await acts.reasons(answer, up, same ? reasons : [], same ? comment : "");
  },
  async reasons(answer, up, reasons, comment) {
    $("reasons-title").textContent = up ? "Thank you. What was good?" : "Thank you. What was wrong?";
    $("reason-chips").replaceChildren(...chipsOf(up ? "up" : "down", reasons));
    $("reason-comment").value = comment;
    const said = await ask($("reasons"));
    if (said === "remove") await change("DELETE", answerPath(answer, "thumb"));
    if (said !== "save") return;
    const chosen = [...$("reason-chips").querySelectorAll(":checked")].map((input) => input.value);
    const words = $("reason-comment").value.trim();
    if (chosen.length || words || reasons.length || comment) await change("PUT", answerPath(answer, "thumb"), { up, reasons: chosen, comment: words });
  },
  async edit(answer) {
    if (!(await consented())) return;
    const text = await askText({ title: "Write the answer you wanted", hint: "Change as little or as much as you like. The conversation goes on with your version.", save: "Save my version", text: answer.text });
    if (text !== null) await change("PUT", answerPath(answer, "edit"), { text });
  },
  async compare(answer, verdict) {
    if (await consented()) await change("PUT", answerPath(answer, "comparison"), { verdict });
  },
  async choose(better) {
    const seconds = readySince === null ? null : Math.round((performance.now() - readySince) / 100) / 10;
    if (!(await consented())) return;
    if (await change("POST", pathOf("/choice"), { better, seconds })) $("message").focus();
  },
  async reword(message) {
    const text = await askText({ title: "Change your message", hint: "The answer to it is replaced by a new one.", save: "Send it again", text: message.text });
    if (text !== null) await write("PUT", pathOf("/messages/last"), { text });
  },
  again: () => write("POST", pathOf("/answers")),
  show: (answer) => change("POST", answerPath(answer, "show")),
  async copy(answer) {
    try {
      await navigator.clipboard.writeText(answer.text);
      notice("Copied.");
    } catch {
      notice("The browser does not allow copying here.");
    }
  },
};

// --- the bar at the top

async function openSettings() {
  const now = conversation ?? fresh;
  $("model").value = now.model_id;
  $("two-answers").checked = now.settings.two_answers;
  $("second-model").value = now.settings.second_model_id ?? "";
  $("second-field").hidden = !now.settings.two_answers;
  choose($("length"), now.settings.max_new_tokens);
  choose($("temperature"), now.settings.temperature);
  if (page.principles) $("principles").value = now.settings.principles.join("\n");
  const consent = now.settings.consent;
  $("consent-unasked").hidden = consent !== null;
  document.querySelector(`[name=consent][value="${consent === null ? "" : consent ? "yes" : "no"}"]`).checked = true;
  if ((await ask($("settings"))) !== "save") return;
  const said = document.querySelector("[name=consent]:checked").value;
  const chosen = {
    two_answers: $("two-answers").checked,
    second_model_id: $("second-model").value || null,
    temperature: Number($("temperature").value),
    max_new_tokens: Number($("length").value),
    ...(page.principles ? { principles: principlesIn($("principles").value) } : {}),
  };
  const wish = said === "" ? consent : said === "yes";
  if (!conversation) {
    fresh = { model_id: $("model").value, settings: { ...fresh.settings, ...chosen, consent: wish } };
    $("first-model").value = fresh.model_id;
    return showState();
  }
  await change("PATCH", pathOf(), { model_id: $("model").value, ...chosen, ...(wish === consent ? {} : { consent: wish }) });
}

// one a line, each once
function principlesIn(text) {
  return [...new Set(text.split("\n").map((line) => line.trim()).filter(Boolean))];
}

// says what is too much while it is being written, so that nothing is lost when the form is sent
function checkPrinciples() {
  const { most, longest } = page.principles;
  const said = principlesIn($("principles").value);
  const tooLong = said.find((line) => line.length > longest);
  $("principles").setCustomValidity(said.length > most ? `At most ${most} principles, please.` : tooLong ? `At most ${longest} characters a line, please: “${tooLong.slice(0, 30)}…”` : "");
}

// values that were set by a program need an entry of their own
function choose(select, value) {
  if (![...select.options].some((option) => Number(option.value) === value)) select.append(make("option", { value: String(value) }, String(value)));
  select.value = String(value);
}

async function rename() {
  $("new-title").value = conversation.title;
  if ((await ask($("renaming"))) === "save" && $("new-title").value.trim()) await change("PATCH", pathOf(), { title: $("new-title").value });
}

async function remove() {
  $("withdraw").checked = false;
  if ((await ask($("deleting"))) !== "delete") return;
  try {
    await call("DELETE", pathOf(`?withdraw=${$("withdraw").checked}`));
    window.location.assign("/chat");
  } catch (failure) {
    problem(failure.message);
  }
}

function toggleList() {
  const open = $("conversations").classList.toggle("open");
  $("toggle-list").setAttribute("aria-expanded", String(open));
}

// --- wiring

for (const select of document.querySelectorAll("select.models")) select.append(...page.models.map((model) => make("option", { value: model.id }, model.name)));
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("message").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
$("principles")?.addEventListener("input", checkPrinciples);
$("stop").addEventListener("click", stop);
$("open-settings").addEventListener("click", openSettings);
$("rename").addEventListener("click", rename);
$("delete").addEventListener("click", remove);
$("toggle-list").addEventListener("click", toggleList);
$("two-answers").addEventListener("change", () => ($("second-field").hidden = !$("two-answers").checked));
$("first-model").addEventListener("change", () => {
  fresh.model_id = $("first-model").value;
  showState();
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea, select") && !event.target.disabled;
  if (typing || document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (isWrittenKey(event)) toggleWritten();
  if (event.key === "Escape" && (reading || isWriting())) stop();
  if (waitingPair() && ["0", "1", "2"].includes(event.key)) acts.choose(event.key === "0" ? null : Number(event.key) - 1);
});
document.querySelector("[data-do=written]").addEventListener("click", toggleWritten);
window.addEventListener("popstate", () => window.location.reload());

show(conversation);
$("scroll").scrollTop = $("scroll").scrollHeight;
if (isWriting()) follow();
else if (!conversation) $("message").focus();
