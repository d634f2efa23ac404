// The work screen: opening the right kind of task, handing in, skipping, undoing, and the keys for all of it.

import { call, notice } from "../web/palate.js";
import { placeOf } from "./label_cards.js";
import { toggleStill } from "./label_clips.js";
import { Clock } from "./label_clock.js";
import { Saver } from "./label_saving.js";
import { toggleWritten } from "../web/written.js";

const KINDS = { ranking: "./label_ranking.js", pair: "./label_pair.js", clips: "./label_clips.js", arena: "./label_pair.js", demonstration: "./label_demonstration.js" };
const RETRIES = 2;

const find = (selector) => document.querySelector(selector);
const data = (id) => JSON.parse(document.getElementById(id)?.textContent ?? "null");
const isUncertain = (failure) => failure.status === 0 || failure.status >= 500;
const task = data("task");
const last = task ? task.last : data("last");

async function undo() {
  if (!last) return notice("There is nothing to undo.");
  try {
    await desk?.saver.flush();
    await call("POST", `/api/tasks/${last.id}/${last.state === "skipped" ? "reopen" : "undo"}`);
    location.assign(`/label/${last.id}`);
  } catch (failure) {
    notice(failure.message);
  }
}

// said on the page that follows
function sayNext(text) {
  sessionStorage.setItem("palate-notice", text);
}

function sayNow() {
  const text = sessionStorage.getItem("palate-notice");
  if (!text) return;
  sessionStorage.removeItem("palate-notice");
  notice(last ? `${text} Press U to undo.` : text);
  if (!last) return;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Undo";
  button.addEventListener("click", undo);
  find("#notices .notice:last-child").append(button);
}

// "palate-keys" off: letters and digits do nothing, as those who speak to their computer need it
const keys = { get on() { return localStorage.getItem("palate-keys") !== "off"; } };

class Desk {
  constructor(kind) {
    this.editing = task.state === "submitted";
    this.button = find("#submit");
    this.busy = false;
    this.sent = null; // a form whose reply got lost
    this.kind = kind.open(task, () => this.saver.changed(), (text) => (find("#announcer").textContent = text));
    this.saver = new Saver({
      task,
      read: () => ({ ...this.kind.read(), comment: find("#comment").value, seconds: this.clock?.read() ?? 0 }),
      tell: (state, text) => this.tell(state, text),
      isActive: () => this.clock.isActive(),
      local: this.editing,
    });
    const draft = this.saver.restore();
    this.clock = new Clock(draft?.seconds ?? 0, find("#clock"));
    this.kind.write(draft ?? {});
    if (draft) {
      find("#comment").value = draft.comment ?? "";
      this.tell("saved", this.editing ? "" : "Restored");
    }
    find("#comment").addEventListener("input", () => this.saver.changed());
    find("#judgement").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.kind.start();
  }

  tell(state, text) {
    const element = find("#saved");
    element.textContent = text;
    element.className = `note ${state}`;
    if (state === "bad") find("#announcer").textContent = text;
  }

  complain(text) {
    find("#problem").textContent = text;
    find("#problem").hidden = !text;
  }

  // the same form that may have arrived keeps its seconds, so that the server knows it again
  form(confirmed) {
    const content = { ...this.kind.form(), comment: find("#comment").value };
    const said = JSON.stringify(content);
    const again = this.sent?.said === said && (confirmed || this.sent.uncertain);
    if (!again) this.sent = { said, seconds: this.clock.read() };
    return { ...content, seconds: this.sent.seconds, confirmed };
  }

  async submit(confirmed = false) {
    if (this.busy) return;
    const problem = this.kind.problem();
    this.complain(problem?.text ?? "");
    if (problem) return problem.focus.focus();
    this.busy = this.button.disabled = true;
    this.saver.stop();
    try {
      const reply = await this.send(this.form(confirmed));
      if (reply.stored) return await this.finish(reply);
      this.ask(reply.questions);
    } catch (failure) {
      this.complain(isUncertain(failure) ? `Not handed in yet. ${failure.message} It is kept in this browser.` : failure.message);
    }
    this.saver.resume();
    this.busy = this.button.disabled = false;
  }

  async send(form) {
    const [method, path] = this.editing ? ["PUT", "correction"] : ["POST", "submit"];
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await call(method, `/api/tasks/${task.id}/${path}`, form);
      } catch (failure) {
        const arrived = failure.status === 409 && this.sent.uncertain && (await call("GET", `/api/tasks/${task.id}`)).state === "submitted";
        if (arrived) return call("PUT", `/api/tasks/${task.id}/correction`, { ...form, confirmed: true });
        if (!isUncertain(failure)) throw failure;
        this.sent.uncertain = true;
        if (attempt === RETRIES) throw failure;
        await new Promise((resolve) => setTimeout(resolve, 1000 * (attempt + 1)));
      }
    }
  }

  ask(questions) {
    const items = questions.map((text) => Object.assign(document.createElement("li"), { textContent: text }));
    find("#questions").replaceChildren(...items);
    find("#nudge").showModal();
  }

  async finish(reply) {
    this.saver.forget();
    if (this.editing) {
      sayNext("The correction is kept. Thank you!");
      return location.assign("/label");
    }
    sayNext(reply.surplus ? "Thank you! Others had finished this one meanwhile; yours is kept all the same." : "Handed in.");
    if (reply.screening) return location.assign("/label/done");
    return this.next();
  }

  async next() {
    try {
      const { task: found } = await call("POST", "/api/tasks/claim", { batch_id: task.batch_id });
      location.assign(found ? `/label/${found.id}` : "/label/done");
    } catch (failure) {
      if (failure.status === 0) this.complain("That is done and kept. The server cannot be reached just now: reload the page to go on.");
      else location.assign("/label/done");
    }
  }

  async skip(form) {
    const error = form.querySelector(".form-error");
    const fields = new FormData(form);
    this.saver.stop();
    try {
      await call("POST", `/api/tasks/${task.id}/skip`, { reason: fields.get("reason"), note: fields.get("note") });
      this.saver.forget();
      sayNext("Skipped.");
      find("#skip").close();
      await this.next();
    } catch (failure) {
      error.textContent = failure.message;
      error.hidden = false;
      this.saver.resume();
    }
  }
}

function toggleGuidelines() {
  const panel = find("#guidelines");
  if (panel.open) return panel.close();
  if (matchMedia("(min-width: 70rem)").matches) panel.show(); // beside the work
  else panel.showModal();
  panel.querySelector("[data-close]").focus();
}

const ACTIONS = {
  undo,
  guidelines: toggleGuidelines,
  help: () => find("#help").showModal(),
  skip: () => find("#skip")?.showModal(),
  written: toggleWritten,
  still: toggleStill,
};
// A, B, C ... are the responses: no other key is one of the first nine letters
const SHORTCUTS = { u: "undo", r: "guidelines", s: "skip", w: "written", p: "still", "?": "help" };

function onKey(event) {
  if (event.defaultPrevented || find("dialog:modal")) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    return desk?.submit();
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("textarea, select, input:not([type=radio], [type=checkbox])")) return event.key === "Escape" && event.target.blur();
  if (event.key === "Escape" && find("#guidelines")?.open) return find("#guidelines").close();
  if (event.key === "Enter" && desk && event.target.matches(".response, body, main")) return desk.submit();
  if (!keys.on) return;
  const action = event.repeat ? undefined : SHORTCUTS[event.key.toLowerCase()];
  const place = desk?.kind.pick ? placeOf(event.key, task.count) : null;
  if (place !== null) desk.kind.pick(place);
  else if (action && find(`[data-do=${action}]`)) ACTIONS[action]();
  else if (event.key.toLowerCase() === "n" && desk) find("#comment").focus();
  else if (!desk?.kind.key(event)) return;
  event.preventDefault();
}

let desk = null;
if (task && find("#judgement")) {
  desk = new Desk(await import(KINDS[task.kind]));
  for (const button of document.querySelectorAll("#nudge [data-answer]")) {
    button.addEventListener("click", () => {
      find("#nudge").close();
      if (button.dataset.answer === "submit") desk.submit(true);
    });
  }
  find("#skip-form").addEventListener("submit", (event) => {
    event.preventDefault();
    desk.skip(event.target);
  });
  find("#single-keys").checked = keys.on;
  find("#single-keys").addEventListener("change", (event) => localStorage.setItem("palate-keys", event.target.checked ? "on" : "off"));
}
document.addEventListener("keydown", onKey);
document.documentElement.dataset.keys = "ready"; // from now on: what was pressed before went nowhere
for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", () => ACTIONS[button.dataset.do]());
for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
sayNow();
