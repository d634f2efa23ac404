// What the chat looks like: a conversation in, elements out. Nothing here talks to the server.

import { pageData } from "../web/palate.js";

const { icons, reasons } = pageData("chat-data");

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `${icons}#${name}`);
  svg.append(use);
  return svg;
}

function iconButton(name, label, onclick, attributes = {}) {
  return make("button", { type: "button", class: "quiet", "aria-label": label, title: label, onclick, ...attributes }, icon(name));
}

// the text of an answer: safe HTML from the server once it is finished, plain text while it is being written
export function textOf(answer) {
  const box = make("div", { class: answer.html ? "text" : "text plain", dir: "auto" });
  if (answer.html) {
    const shown = make("div", { class: "shown" });
    shown.innerHTML = answer.html; // sanitised by the server
    for (const code of shown.querySelectorAll("pre")) code.tabIndex = 0; // scrolled with the keyboard, too
    box.append(shown, make("div", { class: "written", dir: "auto" }, answer.text));
  } else if (answer.state === "streaming") {
    box.classList.add("cursor");
    box.append(answer.text);
  } else if (answer.state === "failed") box.append(make("p", { class: "alert warn" }, answer.text || "This answer failed."));
  else box.append(make("p", { class: "waiting" }, answer.state === "stopped" ? "Stopped before anything was written." : "The model said nothing."));
  return box;
}

export function listItem(line, current) {
  const link = make("a", { href: `/chat/${encodeURIComponent(line.id)}`, "aria-current": line.id === current ? "page" : null, title: line.title, dir: "auto" });
  link.append(line.title || "New conversation");
  return make("li", {}, link);
}

// one turn; `acts` holds what the buttons do
export function turnOf(turn, { isLast, isLastOfMine, isQuiet }, acts) {
  if (turn.role === "user") return mine(turn.variants[0], isLastOfMine && isQuiet, acts);
  if (turn.pair) return pairOf(turn, acts);
  const chosen = turn.variants.find((answer) => answer.chosen) ?? turn.variants.at(-1);
  return answerOf(turn, chosen, isLast && isQuiet, acts);
}

function mine(message, canChange, acts) {
  const item = make("li", { class: "mine" }, make("div", { class: "said", dir: "auto" }, message.text));
  if (canChange) item.append(make("div", { class: "tools" }, iconButton("edit", "Change my message", () => acts.reword(message))));
  return item;
}

function pairOf(turn, acts) {
  const busy = turn.variants.some((answer) => answer.state === "streaming");
  const judgeable = !busy && turn.variants.every((answer) => answer.can_judge);
  const options = turn.variants.map((answer, place) =>
    make(
      "section",
      { class: "option", "aria-label": `Answer ${place + 1}` },
      make("h2", {}, `Answer ${place + 1}`),
      textOf(answer),
      judgeable && make("button", { type: "button", onclick: () => acts.choose(place) }, "This one is better ", make("kbd", { "aria-hidden": "true" }, String(place + 1))),
    ),
  );
  const same = make("button", { type: "button", onclick: () => acts.choose(null) }, "About the same ", make("kbd", { "aria-hidden": "true" }, "0"));
  const failed = !busy && !judgeable;
  return make(
    "li",
    { class: "pair", "aria-busy": String(busy) },
    make("div", { class: "options" }, ...options),
    judgeable && make("div", { class: "same" }, same),
    failed && make("div", { class: "tools" }, iconButton("again", "Try again", acts.again)),
  );
}

function answerOf(turn, answer, canChange, acts) {
  const about = [];
  if (answer.yours) about.push(make("span", { class: "badge" }, "Your version"));
  else if (answer.model) about.push(make("bdi", {}, answer.model));
  if (answer.state === "stopped") about.push(make("span", { class: "badge warn" }, "stopped"));
  const item = make("li", { class: "answer", "aria-busy": String(answer.state === "streaming") });
  if (about.length) item.append(make("p", { class: "note" }, ...about));
  item.append(textOf(answer));
  if (answer.state !== "streaming") item.append(toolsOf(turn, answer, canChange, acts));
  if (answer.selection) item.append(selectionOf(answer.selection));
  if (canChange && answer.can_compare && answer.state === "done" && !answer.reaction.verdict) item.append(comparison(answer, acts));
  return item;
}

// how far the answers are drawn of which one will be shown
export function drawnOf({ count, n }) {
  const words = count < n ? `${count} of ${n} answers are drawn. One of them will be shown.` : "One of them is being chosen.";
  return make("span", { class: "drawn" }, make("progress", { max: n, value: count, "aria-label": "Answers drawn" }), words);
}

function selectionOf({ n, taken }) {
  return make("details", { class: "selection" }, make("summary", {}, `One of ${n} answers`), ...wordsOf(n, taken).map((words) => make("p", {}, words)), taken?.terms.length ? termsOf(taken) : null);
}

function wordsOf(n, taken) {
  if (!taken) return [`${n} answers were drawn. For most messages the one that fits best is shown, for some a random one, to see whether choosing helps. Which of the two this is you can read here once you have given a thumb.`];
  const [score, best, lead] = [taken.score, taken.best, taken.lead].map((number) => number.toFixed(2));
  if (taken.terms.length && !taken.at_random) {
    return [
      `${n} answers were drawn, and this one has the most: ${score}, which is ${lead} more than the next. ${taken.decided.principle === null ? "The reward model" : `“${taken.decided.principle}”`} made the most of the difference.`,
      klOf(n, taken),
    ];
  }
  if (taken.at_random) return [`${n} answers were drawn, and this one was taken at random, to see whether choosing helps. The reward model gives it ${score}; the best had ${best}.`];
  return [
    `${n} answers were drawn, and a reward model likes this one best: it gives it ${score}, which is ${lead} more than the next.`,
    klOf(n, taken),
  ];
}

function klOf(n, taken) {
  return `Choosing so makes answers differ from what the model says by itself, by at most ${taken.kl_bound.toFixed(2)} nats (log n − (n − 1)/n, with n = ${n}).`;
}

// what the score is made of, one part a line
function termsOf({ terms, at_random }) {
  const signed = (number) => (number > 0 ? "+" : number < 0 ? "−" : "") + Math.abs(number).toFixed(2);
  const head = make("tr", {}, make("th", { scope: "col" }, "By"), make("th", { scope: "col", class: "number" }, "This answer"), make("th", { scope: "col", class: "number" }, at_random ? "Against the best other" : "More than the next"));
  const rows = terms.map(({ principle, score, lead }) => make("tr", {}, make("th", { scope: "row", dir: "auto" }, principle ?? "the reward model"), make("td", { class: "number" }, signed(score)), make("td", { class: "number" }, signed(lead))));
  return make("table", {}, make("caption", { class: "visually-hidden" }, "What its score is made of"), make("thead", {}, head), make("tbody", {}, ...rows));
}

function toolsOf(turn, answer, canChange, acts) {
  const tools = make("div", { class: "tools" });
  const { thumb, verdict, edited } = answer.reaction;
  if (canChange && turn.variants.length > 1) tools.append(switcher(turn, answer, acts));
  if (answer.can_judge) {
    tools.append(
      iconButton("up", "Good answer", () => acts.thumb(answer, true), { "aria-pressed": String(thumb === "up") }),
      iconButton("down", "Bad answer", () => acts.thumb(answer, false), { "aria-pressed": String(thumb === "down") }),
    );
    if (canChange) tools.append(iconButton("edit", edited ? "Write my version again" : "Write the answer I wanted", () => acts.edit(answer)));
  }
  if (canChange) tools.append(iconButton("again", "Answer again", acts.again));
  if (answer.text && answer.state !== "failed") tools.append(iconButton("copy", "Copy", () => acts.copy(answer)));
  const said = [...whyOf(answer), verdict && verdictText(verdict)].filter(Boolean);
  if (said.length) tools.append(make("span", { class: "said-why" }, said.join(" · ")));
  return tools;
}

function whyOf({ reaction }) {
  if (!reaction.thumb) return [];
  return reaction.reasons.map((reason) => reasons[reaction.thumb][reason] ?? reason);
}

function verdictText(verdict) {
  return { better: "You found it better than the one before", worse: "You found it worse than the one before", same: "You found it as good as the one before" }[verdict];
}

function switcher(turn, answer, acts) {
  const at = turn.variants.indexOf(answer);
  const go = (to) => () => acts.show(turn.variants[to]);
  return make(
    "span",
    { class: "variants", role: "group", "aria-label": "Variants of this answer" },
    iconButton("previous", "Previous variant", go(at - 1), { disabled: at === 0 }),
    make("span", {}, `${at + 1} of ${turn.variants.length}`),
    iconButton("next", "Next variant", go(at + 1), { disabled: at === turn.variants.length - 1 }),
  );
}

function comparison(answer, acts) {
  const button = (verdict, text) => make("button", { type: "button", onclick: () => acts.compare(answer, verdict) }, text);
  return make("div", { class: "ask", role: "group", "aria-label": "Compare with the answer before" }, make("span", {}, "Was this one better than the one before?"), button("better", "Better"), button("same", "The same"), button("worse", "Worse"));
}

export function chipsOf(kind, chosen) {
  return Object.entries(reasons[kind]).map(([key, label]) => {
    const input = make("input", { type: "checkbox", value: key });
    input.checked = chosen.includes(key);
    return make("label", { class: "chip" }, input, make("span", {}, label));
  });
}
