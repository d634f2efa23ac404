// Tokens: make one, show its secret once, revoke.

import { call, notice } from "./palate.js";

const form = document.querySelector("#make");
const made = document.querySelector("#made");
const secret = document.querySelector("#secret");
const error = form.querySelector(".form-error");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  error.hidden = true;
  try {
    const token = await call("POST", "/api/tokens", { name: form.elements.name.value });
    secret.value = token.secret;
    form.hidden = true;
    made.hidden = false;
    secret.focus();
    secret.select();
  } catch (failure) {
    error.textContent = failure.message;
    error.hidden = false;
  }
});

document.querySelector("#copy").addEventListener("click", async () => {
  secret.select();
  try {
    await navigator.clipboard.writeText(secret.value);
    notice("Copied.");
  } catch {
    notice("The token is selected: copy it with the keyboard.");
  }
});

document.querySelector("#done").addEventListener("click", () => window.location.reload());

for (const button of document.querySelectorAll("[data-revoke]")) {
  button.addEventListener("click", async () => {
    if (!window.confirm(`Revoke “${button.dataset.name}”? Programs that use it stop working at once.`)) return;
    try {
      await call("DELETE", `/api/tokens/${encodeURIComponent(button.dataset.revoke)}`);
      window.location.reload();
    } catch (failure) {
      notice(failure.message);
    }
  });
}
