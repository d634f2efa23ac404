// What somebody does before the modules of a page listen is kept, and done again when they do: on a slow line a form is
// there to be filled in and sent before its script is. Not a module itself: it is read before anything can be pressed.

(() => {
  const kept = [];
  const sent = new Set(); // once, however often somebody presses
  const waits = "form[data-api], form[data-async]";

  function keep(event) {
    const { type, target, submitter } = event;
    if (type === "submit" && target.matches(waits)) {
      event.preventDefault();
      if (!sent.has(target)) kept.push(() => target.requestSubmit(submitter));
      sent.add(target);
    } else if (type === "change" || (type === "click" && target.matches("button[type=button]"))) {
      kept.push(() => target.dispatchEvent(new Event(type, { bubbles: true, cancelable: true })));
    }
  }

  const types = ["submit", "change", "click"];
  for (const type of types) document.addEventListener(type, keep, true);
  // the modules have run by now: a browser waits for them
  document.addEventListener("DOMContentLoaded", () => {
    for (const type of types) document.removeEventListener(type, keep, true);
    for (const again of kept) again();
  });
})();
