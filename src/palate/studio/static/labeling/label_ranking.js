// Ranking K responses: keys and buttons first, dragging as an addition, and a board that always shows where all are.

import { choose, chosen, countFlags, digitOf, letterOf, listed, readCards, unrated, writeCards } from "./label_cards.js";

const DRAG_PIXELS = 6;

export function open(task, changed, announce) {
  const cards = [...document.querySelectorAll(".response")];
  const columns = [...document.querySelectorAll(".column")];
  const ranked = task.count > 1;
  let current = 0;
  let scrolling = false; // by hand, so that the response in view is the one that is meant

  const rankOf = (place) => (ranked ? chosen(`rank-${place}`) : 1);
  const ranks = () => cards.map((_, place) => rankOf(place));

  function standing(place) {
    const rank = rankOf(place);
    if (rank === null) return "not ranked";
    const ties = cards.flatMap((_, other) => (other !== place && rankOf(other) === rank ? [letterOf(other)] : []));
    return `rank ${rank}${ties.length ? `, tied with ${listed(ties)}` : ""}`;
  }

  function chip(place) {
    const button = document.createElement("button");
    button.type = "button";
    button.tabIndex = -1;
    button.className = "chip";
    button.dataset.drag = place;
    button.textContent = letterOf(place);
    button.setAttribute("aria-label", `Response ${letterOf(place)}, ${standing(place)}`);
    button.classList.toggle("current", place === current);
    return button;
  }

  function render() {
    if (!ranked) return;
    for (const column of columns) {
      const rank = Number(column.dataset.rank) || null;
      const here = cards.flatMap((_, place) => (rankOf(place) === rank ? [chip(place)] : []));
      column.querySelector(".chips").replaceChildren(...here);
    }
    cards.forEach((card, place) => {
      card.classList.toggle("current", place === current);
      card.querySelector(".standing").textContent = standing(place);
      card.querySelector(".standing").classList.toggle("set", rankOf(place) !== null);
    });
    document.querySelector("#current").textContent = `${letterOf(current)}: ${standing(current)}`;
  }

  function rank(place, value) {
    choose(`rank-${place}`, value);
    render();
    changed();
    announce(`${letterOf(place)}: ${standing(place)}`);
  }

  function focus(place) {
    current = Math.max(0, Math.min(place, cards.length - 1));
    scrolling = false;
    const card = cards[current];
    card.focus({ preventScroll: true });
    card.scrollIntoView({ behavior: "instant", block: card.offsetHeight > innerHeight * 0.6 ? "start" : "nearest" });
    render();
  }

  // a response by its letter, or a chip: picked up after a few pixels, put down on a column
  function drag(event) {
    const handle = event.target.closest("[data-drag]");
    if (!handle || event.button !== 0 || !ranked) return;
    const place = Number(handle.dataset.drag);
    const start = [event.clientX, event.clientY];
    let ghost = null;
    let target = null;
    const move = ({ clientX, clientY }) => {
      if (!ghost && Math.hypot(clientX - start[0], clientY - start[1]) < DRAG_PIXELS) return;
      if (!ghost) {
        ghost = chip(place);
        ghost.classList.add("ghost");
        document.body.append(ghost);
      }
      ghost.style.left = `${clientX}px`;
      ghost.style.top = `${clientY}px`;
      target = document.elementFromPoint(clientX, clientY)?.closest(".column") ?? null;
      for (const column of columns) column.classList.toggle("over", column === target);
    };
    const end = ({ type }) => {
      for (const name of ["pointermove", "pointerup", "pointercancel"]) removeEventListener(name, name === "pointermove" ? move : end);
      for (const column of columns) column.classList.remove("over");
      ghost?.remove();
      if (ghost && target && type === "pointerup") {
        current = place;
        rank(place, Number(target.dataset.rank) || null);
      } else if (!ghost && handle.matches(".chip")) focus(place);
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", end);
    addEventListener("pointercancel", end);
    event.preventDefault(); // no text is selected, and the response in focus stays it
  }

  // scrolled by thumb: the response across the upper part of the screen is meant
  function follow() {
    if (!scrolling) return;
    const line = innerHeight * 0.4;
    const place = cards.findIndex((card) => card.getBoundingClientRect().bottom > line);
    if (place >= 0 && place !== current) {
      current = place;
      render();
    }
  }

  document.addEventListener("pointerdown", drag);
  document.addEventListener("touchmove", () => (scrolling = true), { passive: true });
  document.addEventListener("scroll", follow, { passive: true });
  cards.forEach((card, place) => {
    card.addEventListener("focusin", () => {
      current = place;
      scrolling = false;
      render();
    });
    card.addEventListener("change", (event) => {
      countFlags(task.count);
      if (!event.target.name.startsWith("rank-")) return changed();
      rank(place, chosen(`rank-${place}`));
    });
  });
  for (const column of columns) {
    const head = column.querySelector("button.head");
    head?.addEventListener("pointerdown", (event) => event.preventDefault()); // focus stays where it is
    head?.addEventListener("click", () => rank(current, Number(column.dataset.rank)));
  }
  for (const step of document.querySelectorAll("[data-step]")) step.addEventListener("click", () => focus(current + Number(step.dataset.step)));
  render();

  return {
    start: () => cards[0].focus({ preventScroll: true }),
    read: () => ({ ranks: ranks(), ...readCards(task) }),
    write(draft) {
      if (ranked) cards.forEach((_, place) => choose(`rank-${place}`, draft.ranks?.[place] ?? null));
      writeCards(task, draft);
      render();
    },
    problem() {
      const missing = ranks().flatMap((value, place) => (value === null ? [place] : []));
      if (missing.length) return { text: `Rank ${listed(missing.map(letterOf))} first.`, focus: cards[missing[0]] };
      return unrated(task);
    },
    form: () => ({ ranks: ranks(), ...readCards(task) }),
    pick: focus,
    key(event) {
      const digit = digitOf(event);
      const inGroup = event.target.matches("input[type=radio]");
      if (digit !== null && event.shiftKey && task.asked.ratings) {
        if (digit < 1 || digit > 7) return false;
        choose(`rating-${current}`, digit);
        changed();
        const word = document.querySelector(`input[name="rating-${current}"]:checked + span`).textContent;
        announce(`${letterOf(current)}: ${word}`);
      } else if (digit !== null && !event.shiftKey && ranked && digit <= task.count) rank(current, digit || null);
      else if (event.key === "Backspace" && ranked) rank(current, null);
      else if (event.key.toLowerCase() === "j" || (!inGroup && ["ArrowRight", "ArrowDown"].includes(event.key))) focus(current + 1);
      else if (event.key.toLowerCase() === "k" || (!inGroup && ["ArrowLeft", "ArrowUp"].includes(event.key))) focus(current - 1);
      else if (event.key.toLowerCase() === "l" && task.asked.flags.length) {
        const flags = cards[current].querySelector(".flags");
        flags.open = !flags.open;
        (flags.open ? flags.querySelector("input") : cards[current]).focus();
      } else if (event.key === "Escape" && event.target.closest(".response")) cards[current].focus();
      else return false;
      return true;
    },
  };
}
