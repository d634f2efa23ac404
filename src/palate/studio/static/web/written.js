// What people and models wrote, as it was written instead of as it is shown: a button (data-do="written") and the key W.

const KEPT = "palate-as-written"; // for this tab, from one task to the next
const root = document.documentElement;

function show(asWritten) {
  root.classList.toggle("as-written", asWritten);
  for (const button of document.querySelectorAll("[data-do=written]")) button.setAttribute("aria-pressed", String(asWritten));
  sessionStorage.setItem(KEPT, asWritten ? "yes" : "");
}

export const toggleWritten = () => show(!root.classList.contains("as-written"));

export function isWrittenKey(event) {
  const typing = event.target.matches("textarea, select, input:not([type=radio], [type=checkbox])") && !event.target.disabled;
  return event.key.toLowerCase() === "w" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey && !document.querySelector("dialog:modal");
}

show(sessionStorage.getItem(KEPT) === "yes");
