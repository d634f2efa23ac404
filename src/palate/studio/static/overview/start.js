// Results of imports beside their forms, and counters that follow what happens elsewhere.

import { call } from "../web/palate.js";

function sentence(parts) {
  return parts.filter(Boolean).join("; ") + ".";
}

function told(result) {
  const box = document.createElement("div");
  const first = document.createElement("p");
  first.textContent = sentence([
    `${result.added.toLocaleString()} new ${result.added === 1 ? "prompt" : "prompts"}`,
    result.known && `${result.known.toLocaleString()} were there already`,
  ]);
  first.className = result.added ? "alert good" : "alert warn";
  box.append(first);
  if (result.rejected.length) {
    const list = document.createElement("ul");
    for (const each of result.rejected) {
      const line = document.createElement("li");
      const where = each.lines.length ? ` (line ${each.lines.join(", ")}${each.count > each.lines.length ? ", …" : ""})` : "";
      line.textContent = `${each.count} left out: ${each.reason}${where}`;
      list.append(line);
    }
    box.append(list);
  }
  return box;
}

for (const form of document.querySelectorAll(".importer")) {
  form.addEventListener("sent", (event) => {
    form.querySelector(".result").replaceChildren(told(event.detail));
    form.reset();
    look();
  });
}

// "another model" is what was typed
const path = document.querySelector("[data-path]");
if (path) {
  const other = document.querySelector("#other-model");
  path.addEventListener("input", () => {
    other.value = path.value;
    other.checked = path.value !== "";
  });
}

const sampling = document.querySelector("#sampling");

async function look() {
  const counts = await call("GET", "/api/counts").catch(() => null);
  for (const place of counts ? document.querySelectorAll("[data-count]") : []) {
    const text = counts[place.dataset.count].toLocaleString();
    if (place.textContent !== text) place.textContent = text;
  }
  if (!sampling || !["queued", "running"].includes(sampling.dataset.state)) return;
  const run = await call("GET", `/api/runs/${sampling.dataset.run}`).catch(() => null);
  if (!run) return;
  if (run.state !== sampling.dataset.state) return window.location.reload();
  const bar = sampling.querySelector("progress");
  bar.max = run.total ?? 1;
  bar.value = run.step;
  bar.nextElementSibling.textContent = run.total ? `${run.step} of ${run.total}` : "starting";
}

setInterval(() => document.hidden || look(), 2000);
