// Counts follow the choice; the button downloads exactly what they are of.

const form = document.querySelector("#choose");
const counts = document.querySelector("#counts");
const button = document.querySelector("#download");
const error = document.querySelector(".form-error");
let latest = 0;

async function count() {
  const number = ++latest;
  const wish = new URLSearchParams(new FormData(form));
  error.hidden = true;
  counts.setAttribute("aria-busy", "true");
  button.disabled = true;
  try {
    const answer = await fetch(`/exports/counts?${wish}`, { headers: { Accept: "text/html" } });
    if (!answer.ok) throw new Error(`The server answered ${answer.status}. Reload the page.`);
    const text = await answer.text();
    if (number !== latest) return;
    counts.innerHTML = text; // made by our own template, which escapes everything
    button.formAction = `/api/exports/${encodeURIComponent(wish.get("format"))}`;
    button.disabled = counts.querySelectorAll(".value")[1].textContent === "0";
    history.replaceState(null, "", `/exports?${wish}`);
  } catch (failure) {
    if (number !== latest) return;
    error.textContent = failure.message;
    error.hidden = false;
  } finally {
    counts.removeAttribute("aria-busy");
  }
}

form.addEventListener("change", count);
