// What every page needs: talking to the server, notices, and forms that stay filled when something goes wrong.

const csrf = document.querySelector("meta[name=csrf]")?.content ?? "";

export class RequestFailed extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// fetch that speaks JSON, sends the session's proof, and turns an error into its one clear line; `more` goes to fetch
export async function call(method, path, body, more = {}) {
  const headers = { Accept: "application/json", "X-CSRF-Token": csrf };
  const options = { method, headers, credentials: "same-origin", ...more };
  if (body instanceof FormData) options.body = body;
  else if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new RequestFailed(0, "The server cannot be reached. What you entered is still here; try again.");
  }
  const data = response.headers.get("content-type")?.includes("json") ? await response.json() : null;
  if (response.ok) return data;
  if (response.status === 401) throw new RequestFailed(401, "You were signed out. Sign in again in another tab, then repeat this; nothing is lost.");
  throw new RequestFailed(response.status, data?.error ?? `The server answered ${response.status}.`);
}

export function notice(text, seconds = 6) {
  const box = document.createElement("div");
  box.className = "notice";
  box.dir = "auto";
  box.textContent = text;
  document.querySelector("#notices").append(box);
  setTimeout(() => box.remove(), seconds * 1000);
}

// what a page's template left in <script type="application/json" id="...">
export function pageData(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

// <form data-async>: sent without leaving the page; on success to where the server says, else the error is shown beside it
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("form[data-async]") || event.defaultPrevented) return;
  event.preventDefault();
  if (form.dataset.confirm && !window.confirm(form.dataset.confirm)) return;
  const error = form.querySelector(".form-error");
  const button = event.submitter ?? form.querySelector("button");
  if (error) error.hidden = true;
  button.disabled = true;
  try {
    const answer = await call("POST", form.action, new FormData(form, event.submitter));
    form.dispatchEvent(new CustomEvent("sent", { bubbles: true, detail: answer }));
    if (answer?.location) {
      if (new URL(answer.location, window.location.href).href === window.location.href) window.location.reload();
      else window.location.assign(answer.location);
    }
  } catch (failure) {
    if (error) {
      error.textContent = failure.message;
      error.hidden = false;
    } else notice(failure.message);
  } finally {
    button.disabled = false;
  }
});
