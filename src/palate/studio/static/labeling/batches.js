// A file that made a batch: on to it, unless there is something to read first.

import { call } from "../web/palate.js";

document.querySelector("#from-file")?.addEventListener("sent", (event) => {
  const made = event.detail;
  if (!made.rejected.length) return window.location.assign(`/batches/${made.id}`);
  const box = document.createElement("div");
  box.className = "alert warn";
  const said = document.createElement("p");
  said.textContent = `${made.added} items were made; some rows were left out:`;
  const list = document.createElement("ul");
  for (const each of made.rejected) {
    const line = document.createElement("li");
    line.textContent = `${each.count}: ${each.reason}${each.lines.length ? ` (line ${each.lines.join(", ")})` : ""}`;
    list.append(line);
  }
  const on = document.createElement("a");
  on.href = `/batches/${made.id}`;
  on.textContent = "Look at the batch";
  box.append(said, list, on);
  event.target.querySelector(".result").replaceChildren(box);
});

// answers that went back to an agent: what went, and what happens next
document.querySelector("#go-on")?.addEventListener("sent", (event) => {
  const { answers, skipped, left_out: left, open, job_id: job, run } = event.detail;
  const counts = [`${answers} answers`, skipped && `${skipped} skipped`, left && `${left} judgements that do not count`, open && `${open} comparisons that nobody has dealt with`];
  const said = document.createElement("p");
  said.textContent = `Given to ${run}: ${counts.filter(Boolean).join(", ")}. `;
  if (job) said.append(Object.assign(document.createElement("a"), { href: `/runs/${job}`, textContent: "Look at the run" }));
  else said.append("Give the command of the run again: it goes on from there.");
  const box = document.createElement("div");
  box.className = open ? "alert warn" : "alert good";
  box.append(said);
  event.target.parentElement.querySelector(".result").replaceChildren(box);
});

// progress of one batch
const numbers = document.querySelector("[data-batch]");
if (numbers) {
  setInterval(async () => {
    if (document.hidden) return;
    const batch = await call("GET", `/api/batches/${numbers.dataset.batch}`).catch(() => null);
    if (!batch) return;
    for (const place of numbers.querySelectorAll("[data-count]")) place.textContent = batch[place.dataset.count].toLocaleString();
  }, 3000);
}
