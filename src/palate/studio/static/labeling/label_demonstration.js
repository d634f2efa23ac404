// Writing the response that one would like to see.

import { refresh } from "./label_preview.js";

const segmenter = new Intl.Segmenter(undefined, { granularity: "word" });

export function open(task, changed) {
  const text = document.querySelector("#text");
  const words = document.querySelector("#words");

  function count() {
    const number = [...segmenter.segment(text.value)].filter((each) => each.isWordLike).length;
    words.textContent = `${number} ${number === 1 ? "word" : "words"}`;
  }

  text.addEventListener("input", () => {
    count();
    changed();
  });

  return {
    start: () => text.focus({ preventScroll: true }),
    read: () => ({ text: text.value }),
    form: () => ({ text: text.value }),
    write(draft) {
      if (text.value === text.defaultValue) text.value = draft.text ?? ""; // unless somebody was writing already
      else changed();
      count();
      if (text.value) refresh();
    },
    problem: () => (text.value.trim() ? null : { text: "Write a response first.", focus: text }),
    key: () => false,
  };
}
