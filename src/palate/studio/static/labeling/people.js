// Invitations: the link is shown once, to be copied.

import { call, notice } from "../web/palate.js";

const form = document.querySelector("#invite");
const made = document.querySelector("#made");
const link = document.querySelector("#link");
const error = form.querySelector(".form-error");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  error.hidden = true;
  const { role, days, note } = form.elements;
  try {
    const invitation = await call("POST", "/api/invitations", { role: role.value, days: Number(days.value), note: note.value });
    link.value = invitation.link;
    document.querySelector("#for-whom").textContent = invitation.note ? `for ${invitation.note}` : `for a ${invitation.role}`;
    form.hidden = true;
    made.hidden = false;
    link.focus();
    link.select();
  } catch (failure) {
    error.textContent = failure.message;
    error.hidden = false;
  }
});

document.querySelector("#copy").addEventListener("click", async () => {
  link.select();
  try {
    await navigator.clipboard.writeText(link.value);
    notice("Copied.");
  } catch {
    notice("The link is selected: copy it with the keyboard.");
  }
});

document.querySelector("#done").addEventListener("click", () => window.location.reload());
