// A review: ranks are asked for only where the reviewer settles the item; the time they take is sent along.

import { isWrittenKey, toggleWritten } from "../web/written.js";

const form = document.querySelector("#decision");
const own = [...form.querySelectorAll(".own")];
const began = performance.now();

function settles() {
  return form.elements.decision.value === "settle";
}

function show() {
  for (const part of own) {
    part.hidden = !settles();
    for (const input of part.querySelectorAll("input")) {
      input.disabled = !settles();
      input.required = settles();
    }
  }
  form.elements.note.required = form.elements.decision.value === "discard";
}

form.addEventListener("change", (event) => {
  if (event.target.name !== "decision") return;
  show();
  if (settles()) form.querySelector(".responses").scrollIntoView({ block: "start" });
});

// before the form is sent by palate.js: the ranks in the order of the places, and the time
document.addEventListener(
  "submit",
  (event) => {
    if (event.target !== form) return;
    form.elements.seconds.value = Math.round((performance.now() - began) / 100) / 10;
    for (const old of form.querySelectorAll("[name=rank]")) old.remove();
    if (!settles()) return;
    for (const part of own) {
      const field = document.createElement("input");
      field.type = "hidden";
      field.name = "rank";
      field.value = part.querySelector("input:checked").value;
      form.append(field);
    }
  },
  { capture: true },
);

show();
document.querySelector("[data-do=written]").addEventListener("click", toggleWritten);
document.addEventListener("keydown", (event) => isWrittenKey(event) && toggleWritten());
