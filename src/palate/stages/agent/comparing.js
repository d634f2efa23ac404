// Pairs of clips, compared on a page of its own: what was chosen is saved as a file of rankings, one a line.
"use strict";

const pairs = JSON.parse(document.getElementById("pairs").textContent);
const form = document.querySelector("form");
const RANKS = { a: [1, 2], neither: [1, 1], b: [2, 1] };

function answered() {
  const choices = pairs.map((_, place) => form.elements[`pair-${place}`].value);
  return pairs.map((pair, place) => ({ ...pair, ranks: RANKS[choices[place]], labeler: form.elements.labeler.value.trim() }))
    .filter((ranking) => ranking.ranks);
}

function tell() {
  const count = answered().length;
  document.querySelector("output").textContent = `${count} of ${pairs.length} compared`;
  document.querySelector("button").disabled = count === 0;
}

form.addEventListener("change", tell);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const lines = answered().map((ranking) => JSON.stringify(ranking) + "\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  link.download = form.dataset.file;
  link.click();
  URL.revokeObjectURL(link.href);
});
tell();
