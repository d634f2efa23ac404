// Two moving clips and three verdicts: the one, the other, or neither.

import { choose, chosen } from "./label_cards.js";

const VERDICTS = { ArrowLeft: -1, ArrowDown: 0, "=": 0, ArrowRight: 1 };

// stopped: the first moment of each clip; moving again, both begin together
export function toggleStill() {
  const button = document.querySelector("[data-do=still]");
  const still = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(still));
  for (const image of document.querySelectorAll("img.clip")) {
    const address = image.getAttribute("src").split("?")[0];
    image.src = still ? `${address}?still=true` : `${address}?again=${Date.now()}`;
  }
}

export function open(task, changed, announce) {
  const cards = [...document.querySelectorAll(".response")];

  function show() {
    const verdict = chosen("verdict");
    cards[0].classList.toggle("current", verdict === -1);
    cards[1].classList.toggle("current", verdict === 1);
  }

  function decide(verdict) {
    choose("verdict", verdict);
    show();
    changed();
    const input = document.querySelector("input[name=verdict]:checked");
    input.focus({ preventScroll: true });
    announce(input.nextElementSibling.querySelector(".full").textContent.trim());
  }

  function read() {
    const verdict = chosen("verdict");
    return { ranks: verdict === null ? [null, null] : [[1, 2], [1, 1], [2, 1]][verdict + 1] };
  }

  document.querySelector("#judgement").addEventListener("change", () => {
    show();
    changed();
  });

  return {
    start() {
      if (matchMedia("(prefers-reduced-motion: reduce)").matches) toggleStill();
    },
    read,
    form: read,
    write(draft) {
      const [first, second] = draft.ranks ?? [];
      choose("verdict", first != null && second != null ? Math.sign(first - second) : null);
      show();
    },
    problem() {
      return chosen("verdict") === null ? { text: "Say first in which clip it does better, or that it does in neither.", focus: document.querySelector("input[name=verdict]") } : null;
    },
    pick(place) {
      decide(place ? 1 : -1);
    },
    key(event) {
      if (!(event.key in VERDICTS)) return false;
      decide(VERDICTS[event.key]);
      return true;
    },
  };
}
