// Ratings and flags beside each response, read from the form and put back into it.

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

export const letterOf = (place) => LETTERS[place];

// 1 for the key B, if there is a response B; null for other keys
export function placeOf(key, count) {
  const place = key.length === 1 ? LETTERS.indexOf(key.toUpperCase()) : -1;
  return place >= 0 && place < count ? place : null;
}

const inputs = (name) => [...document.querySelectorAll(`input[name="${name}"]`)];
const places = (count) => [...Array(count).keys()];

export function chosen(name) {
  const input = inputs(name).find((each) => each.checked);
  return input ? Number(input.value) : null;
}

export function choose(name, value) {
  for (const input of inputs(name)) input.checked = value !== null && Number(input.value) === value;
}

export function readCards({ count, asked }) {
  return {
    ratings: asked.ratings ? places(count).map((place) => chosen(`rating-${place}`)) : null,
    flags: asked.flags.length ? places(count).map((place) => inputs(`flag-${place}`).filter((each) => each.checked).map((each) => each.value)) : null,
  };
}

export function writeCards({ count }, draft) {
  for (const place of places(count)) {
    choose(`rating-${place}`, draft.ratings?.[place] ?? null);
    for (const input of inputs(`flag-${place}`)) input.checked = draft.flags?.[place]?.includes(input.value) ?? false;
  }
  countFlags(count);
}

// a folded list shows how many of it are set
export function countFlags(count) {
  for (const place of places(count)) {
    const badge = document.querySelector(`[data-flag-count="${place}"]`);
    if (!badge) continue;
    const number = inputs(`flag-${place}`).filter((each) => each.checked).length;
    badge.textContent = `${number} set`;
    badge.hidden = number === 0;
  }
}

// "A", "A and B", "A, B and C"
export function listed(letters) {
  return letters.length < 2 ? letters.join("") : `${letters.slice(0, -1).join(", ")} and ${letters.at(-1)}`;
}

// what is missing: {text, focus}, or null
export function unrated(task) {
  const { ratings } = readCards(task);
  const missing = (ratings ?? []).flatMap((rating, place) => (rating === null ? [place] : []));
  if (!missing.length) return null;
  return { text: `Say how good ${listed(missing.map(letterOf))} ${missing.length > 1 ? "are" : "is"} first.`, focus: inputs(`rating-${missing[0]}`)[0] };
}

// 1 for the key 1 on any keyboard, with or without shift
export function digitOf(event) {
  const found = /^(?:Digit|Numpad)(\d)$/.exec(event.code);
  return found ? Number(found[1]) : null;
}
