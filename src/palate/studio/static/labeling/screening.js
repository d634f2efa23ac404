// A test is made of the items that are ticked, each with the ranks chosen beside its responses.

import { call } from "../web/palate.js";

const form = document.querySelector("#test");
const error = form?.querySelector(".form-error");
const chosen = document.querySelector("#chosen");

function items() {
  const used = [...form.querySelectorAll("[data-item]")].filter((card) => card.querySelector("[name=use]").checked);
  return used.map((card) => ({
    item_id: card.dataset.item,
    ranks: [...card.querySelectorAll("[name=ranks]")].map((select) => Number(select.value)),
  }));
}

form?.addEventListener("change", (event) => {
  if (event.target.name === "ranks") event.target.closest("[data-item]").querySelector("[name=use]").checked = true;
  const count = items().length;
  chosen.textContent = count === 0 ? "No item chosen yet." : count === 1 ? "1 item chosen." : `${count} items chosen.`;
});

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  error.hidden = true;
  try {
    const known = items();
    if (known.length === 0) throw new Error("Tick at least one item.");
    if (known.some((item) => item.ranks.includes(0))) throw new Error("Give every response of the chosen items a rank.");
    const threshold = Number(form.elements.threshold.value) / 100;
    const test = await call("POST", "/api/screening", { name: form.elements.name.value, threshold, items: known });
    window.location.assign(`/screening/${test.id}`);
  } catch (failure) {
    error.textContent = failure.message;
    error.hidden = false;
  }
});

// a test made of a file: on to it
document.querySelector("#from-file")?.addEventListener("sent", (event) => window.location.assign(event.detail.location));
