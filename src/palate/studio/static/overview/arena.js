// An arena whose answers are being written: shows how far they are, and the page anew when something changes.

import { call } from "../web/palate.js";

const drawing = document.querySelector("#drawing");
let said = null;

async function look() {
  const arena = await call("GET", `/api/arenas/${encodeURIComponent(drawing.dataset.arena)}`);
  const now = `${arena.state} ${arena.drawing?.state} ${arena.drawing?.message} ${Boolean(arena.drawing?.total)}`;
  if (said !== null && now !== said) return window.location.reload();
  said = now;
  const bar = drawing.querySelector("progress");
  if (bar && arena.drawing) {
    bar.value = arena.drawing.step;
    bar.nextElementSibling.textContent = `${arena.drawing.step} of ${arena.drawing.total}`;
  }
  setTimeout(watch, 3000);
}

function watch() {
  look().catch(() => setTimeout(watch, 10000)); // the server may be starting again
}

if (drawing) watch();
