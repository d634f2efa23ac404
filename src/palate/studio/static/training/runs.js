// Runs as they go: the changing parts of a page come as HTML from the server, every two seconds.

import { call } from "../web/palate.js";

const EVERY = 2000;

// new HTML in place of the old, unless it is the same; what somebody has unfolded or chosen stays so
function renew(place, html) {
  if (place.dataset.html === html) return;
  const first = place.dataset.html === undefined;
  place.dataset.html = html;
  if (first && place.innerHTML.trim() === html.trim()) return;
  const open = [...place.querySelectorAll("details")].map((each) => each.open);
  const chosen = [...place.querySelectorAll("input:checked")].map((each) => each.value);
  const inside = place.contains(document.activeElement);
  const choosing = inside && document.activeElement.matches("[type=radio]");
  const log = place.querySelector(".log");
  const atEnd = !log || log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  if (inside && !choosing && !log) return delete place.dataset.html; // nothing is taken away under somebody's hands
  place.innerHTML = html;
  place.querySelectorAll("details").forEach((each, index) => {
    if (index in open) each.open = open[index];
  });
  for (const each of place.querySelectorAll("input")) if (chosen.includes(each.value)) each.checked = true;
  if (choosing) place.querySelector("input:checked")?.focus({ preventScroll: true });
  const fresh = place.querySelector(".log");
  if (fresh && atEnd) fresh.scrollTop = fresh.scrollHeight;
}

const run = document.querySelector("#run");
async function lookAtRun() {
  const answer = await call("GET", `/runs/${run.dataset.run}/live`).catch(() => null);
  if (!answer) return;
  run.dataset.state = answer.state;
  for (const place of run.querySelectorAll("[data-part]")) renew(place, answer.html[place.dataset.part]);
  for (const form of document.querySelectorAll("[data-when]")) form.hidden = !form.dataset.when.split(" ").includes(answer.state);
}
if (run) {
  const log = run.querySelector(".log");
  if (log) log.scrollTop = log.scrollHeight;
  setInterval(() => {
    if (!document.hidden && ["queued", "running"].includes(run.dataset.state)) lookAtRun();
  }, EVERY);
  document.addEventListener("sent", lookAtRun);
}

const list = document.querySelector("[data-live]");
if (list) {
  setInterval(async () => {
    if (document.hidden) return;
    const answer = await call("GET", list.dataset.live).catch(() => null);
    if (answer) renew(list, answer.html);
  }, EVERY);
}
