// Fresh panels every ten seconds, unless paused, hidden, or being read.

const EVERY = 10_000;
const panels = document.querySelector("#panels");
const fresh = document.querySelector("#fresh");
const news = document.querySelector("#news");
const pause = document.querySelector("#pause");
let paused = false;
let shown = "";

const isBeingRead = () =>
  panels.querySelector("details[open]") || panels.contains(document.activeElement) || !window.getSelection().isCollapsed;

async function refresh() {
  if (paused || document.hidden || isBeingRead()) return;
  try {
    const answer = await fetch("/dashboard/panels", { headers: { Accept: "text/html" }, redirect: "error" });
    if (!answer.ok) throw new Error();
    const html = await answer.text();
    fresh.textContent = `As of ${new Date().toISOString().slice(11, 16)} UTC`;
    if (html === shown) return;
    shown = html;
    const before = panels.querySelector("[data-news]").dataset.news;
    panels.innerHTML = html; // made by our own template, which escapes everything
    const now = panels.querySelector("[data-news]").dataset.news;
    if (now !== before) news.textContent = now;
  } catch {
    fresh.textContent = "The server cannot be reached; trying again";
  }
}

pause.addEventListener("click", () => {
  paused = !paused;
  pause.textContent = paused ? "Go on" : "Pause";
  if (!paused) refresh();
});
document.addEventListener("visibilitychange", refresh);
setInterval(refresh, EVERY);
