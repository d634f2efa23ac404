// Forms that speak to the API: <form data-api="/api/things" data-then="/things/{id}">. Field names are the keys of the
// JSON that is sent; data-as="list" gathers checked boxes of one name, data-as="number" makes a number (nothing: null).
// A form with a file is sent as it is. What comes back fills in data-then, or goes to whoever listens to "sent".

import { call, notice } from "./palate.js";

export function values(form) {
  const body = {};
  for (const field of form.elements) {
    if (!field.name || field.matches(":disabled") || field.name === "csrf") continue;
    const kind = field.dataset.as ?? field.type;
    if (kind === "list") {
      body[field.name] ??= [];
      if (field.checked || field.selected) body[field.name].push(field.value);
    } else if (kind === "checkbox") body[field.name] = field.checked;
    else if (kind === "radio") {
      if (field.checked) body[field.name] = field.value;
    } else if (kind === "number") body[field.name] = field.value === "" ? null : Number(field.value);
    else body[field.name] = field.value;
  }
  return body;
}

// with a file: as a browser sends it, and lists as one text with commas
function withFile(form) {
  const body = new FormData(form);
  if (body.get("upload")) body.delete("file"); // it was sent before
  for (const [name, value] of Object.entries(values(form))) if (Array.isArray(value)) body.set(name, value.join(","));
  return body;
}

// <input type="checkbox" data-reveals="id">: shows a fieldset, whose fields are sent only while it is shown
document.addEventListener("change", ({ target }) => {
  const part = target.dataset?.reveals && document.getElementById(target.dataset.reveals);
  if (part) part.hidden = part.disabled = !target.checked;
});

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("form[data-api]")) return;
  event.preventDefault();
  if (form.dataset.confirm && !window.confirm(form.dataset.confirm)) return;
  const error = form.querySelector(".form-error");
  const button = event.submitter ?? form.querySelector("button");
  if (error) error.hidden = true;
  button.disabled = true;
  button.setAttribute("aria-busy", "true");
  try {
    const body = form.querySelector("input[type=file]") ? withFile(form) : values(form);
    const answer = await call("POST", form.dataset.api, body);
    form.dispatchEvent(new CustomEvent("sent", { bubbles: true, detail: answer }));
    if (form.dataset.then) {
      const next = form.dataset.then.replace("{id}", answer?.id ?? "");
      if (next === "reload") window.location.reload();
      else window.location.assign(next);
    }
  } catch (failure) {
    if (error) {
      error.textContent = failure.message;
      error.hidden = false;
    } else notice(failure.message);
  } finally {
    button.disabled = false;
    button.removeAttribute("aria-busy");
  }
});
