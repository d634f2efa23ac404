// Two responses and seven verdicts between them, from "A is much better" to "B is much better".

import { choose, chosen, countFlags, digitOf, readCards, unrated, writeCards } from "./label_cards.js";

const WIDEST = 3;
const BETTER = 2;

export function open(task, changed, announce) {
  const cards = [...document.querySelectorAll(".response")];

  function show() {
    const verdict = chosen("verdict");
    cards[0].classList.toggle("current", verdict !== null && verdict < 0);
    cards[1].classList.toggle("current", verdict !== null && verdict > 0);
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
    const ranks = verdict === null ? [null, null] : verdict < 0 ? [1, 2] : verdict > 0 ? [2, 1] : [1, 1];
    return { ranks, strength: verdict === null ? null : Math.abs(verdict), ...readCards(task) };
  }

  document.querySelector("#judgement").addEventListener("change", () => {
    show();
    countFlags(2);
    changed();
  });

  return {
    start() {}, // arrows and digits work from anywhere
    read,
    form: read,
    write(draft) {
      const [first, second] = draft.ranks ?? [];
      const known = first != null && second != null;
      choose("verdict", known ? Math.sign(first - second) * (draft.strength ?? 2) : null);
      writeCards(task, draft);
      show();
    },
    problem() {
      if (chosen("verdict") === null) return { text: "Say first which one is better, or that they are about the same.", focus: document.querySelector("input[name=verdict]") };
      return unrated(task);
    },
    // "better", and the arrows say how much; the same letter once more changes nothing
    pick(place) {
      const now = chosen("verdict") ?? 0;
      decide(Math.sign(now) === (place ? 1 : -1) ? now : place ? BETTER : -BETTER);
    },
    key(event) {
      const digit = digitOf(event);
      const inGroup = event.target.matches("input[type=radio]");
      const now = chosen("verdict");
      if (digit !== null && !event.shiftKey && digit >= 1 && digit <= 2 * WIDEST + 1) decide(digit - 1 - WIDEST);
      else if (!inGroup && event.key === "ArrowLeft") decide(now === null ? -1 : Math.max(now - 1, -WIDEST));
      else if (!inGroup && event.key === "ArrowRight") decide(now === null ? 1 : Math.min(now + 1, WIDEST));
      else return false;
      return true;
    },
  };
}
