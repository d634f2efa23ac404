// A textarea of Markdown (#text) and beside it how it will look (#preview), made safe by the server.

import { call } from "../web/palate.js";

const DELAY_MS = 300;

const text = document.querySelector("#text");
const preview = document.querySelector("#preview");
let timer;
let latest = 0;

export async function refresh() {
  const number = ++latest;
  try {
    const { html } = await call("POST", "/api/tasks/preview", { text: text.value });
    if (number === latest && html) preview.innerHTML = html; // sanitised on the server
  } catch {
    // the text itself is what counts; the next change tries again
  }
}

text.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(refresh, DELAY_MS);
});
