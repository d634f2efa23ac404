// A chosen file is sent once; what is shown of it says how it would be read, and what is chosen there is sent along when
// the form is: <form data-file> with a file field and a place with data-shown.

import { call } from "../web/palate.js";

// "left = a" on each line -> {left: "a"}
function pairs(text) {
  const lines = text.split("\n").filter((line) => line.includes("="));
  return Object.fromEntries(lines.map((line) => [line.slice(0, line.lastIndexOf("=")).trim(), line.slice(line.lastIndexOf("=") + 1).trim()]));
}

function said(shown) {
  const how = { format: "auto", fields: {}, tags: [], ignore: [], verdicts: {} };
  for (const field of shown.querySelectorAll("[data-how]")) {
    const { how: what, key } = field.dataset;
    if (what === "format") how.format = field.value;
    else if (what === "verdicts") how.verdicts = pairs(field.value);
    else if (what === "fields" && field.value) how.fields[key] = field.value;
    else if (what === "column" && field.value) how[field.value].push(key);
  }
  return how;
}

for (const form of document.querySelectorAll("form[data-file]")) {
  const shown = form.querySelector("[data-shown]");
  const chosen = form.querySelector("input[type=file]");
  const error = form.querySelector(".form-error");
  const hidden = (name) => form.querySelector(`input[type=hidden][name=${name}]`);
  let latest = 0;

  async function show(asking) {
    const number = ++latest;
    error.hidden = true;
    shown.setAttribute("aria-busy", "true");
    try {
      const seen = await asking;
      if (number !== latest) return;
      hidden("upload").value = seen.id;
      shown.innerHTML = seen.html; // made on the server, with every text escaped
      hidden("how").value = JSON.stringify(said(shown));
    } catch (failure) {
      if (number !== latest) return;
      error.textContent = failure.message;
      error.hidden = false;
    } finally {
      shown.removeAttribute("aria-busy");
    }
  }

  function forget() {
    latest += 1;
    hidden("upload").value = hidden("how").value = "";
    shown.replaceChildren();
  }

  chosen.addEventListener("change", () => {
    forget();
    if (!chosen.files.length) return;
    const body = new FormData();
    body.set("file", chosen.files[0]);
    show(call("POST", "/api/uploads", body));
  });
  form.addEventListener("reset", forget);
  shown.addEventListener("change", () => (hidden("how").value = JSON.stringify(said(shown))));
  shown.addEventListener("click", (event) => {
    if (!event.target.matches("[data-reread]")) return;
    show(call("POST", `/api/uploads/${encodeURIComponent(hidden("upload").value)}/preview`, said(shown))).then(() => shown.querySelector("summary")?.focus());
  });
}
