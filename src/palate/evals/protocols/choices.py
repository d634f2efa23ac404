r"""Multiple choice by likelihood, as lm-evaluation-harness 0.4.13 has it (Gao et al.): nothing is generated.

Every choice is a continuation of the question. `acc`: the right one has the largest summed log-probability; `acc_norm`:
the largest one divided by the number of its characters. The first of equals wins. In Winogrande the contexts differ and
the continuation is the same ("partial evaluation", Trinh and Le 2018, arXiv 1806.02847).

Each set is read in the form in which its authors publish it, whose prompts are the harness's to the letter, or as
``query, choices, gold``, in which MosaicML's llm-foundry and others pass the same sets on.

Beside these: the Brier score (1950) of the probabilities that the choices have among themselves, and how sure the model
is of its favourite, for calibration. Few-shot examples are left out.
"""

from __future__ import annotations

import bz2
import gzip
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from palate.errors import DataError
from palate.evals.protocols.items import (
    Continuation,
    Item,
    Likelihood,
    Measure,
    Protocol,
    Scores,
    Shape,
    read_items,
    text_of,
)

ACC = Measure(name="acc", label="accuracy", better="higher", compared=True, luck="chance")
ACC_NORM = replace(ACC, name="acc_norm", label="accuracy by characters")
BRIER = Measure(name="brier", label="Brier score", better="lower", unit="squares", trifle=0.005)
PER_CHOICES = (ACC, replace(ACC_NORM, compared=False), BRIER)
PER_CHARACTERS = (ACC_NORM, replace(ACC, compared=False), BRIER)


def choice_scores(answers: Sequence[Likelihood], *, gold: int, characters: Sequence[int]) -> Scores:
    """Of one question.

    Args:
        answers: [C] one for each choice.
        gold: which is right.
        characters: [C] of each choice, without the blank before it.
    """
    logprobs = [answer.logprob for answer in answers]
    picked = _largest(logprobs)
    by_character = _largest([logprob / length for logprob, length in zip(logprobs, characters, strict=True)])
    weights = [math.exp(logprob - max(logprobs)) for logprob in logprobs]
    shares = [weight / sum(weights) for weight in weights]
    return {
        "acc": float(picked == gold),
        "acc_norm": float(by_character == gold),
        "brier": sum((share - (place == gold)) ** 2 for place, share in enumerate(shares)),
        "confidence": max(shares),
        "chance": 1 / len(shares),
        "picked": float(picked),
        "picked_by_character": float(by_character),
        "gold": float(gold),
    }


def _largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda place: values[place])


def question(context: str, choices: Sequence[Any], gold: Any) -> Item:
    """A question whose choices continue it, after a blank.

    Raises:
        ValueError: there are fewer than two choices, one is no text, or none is the right one.
    """
    return _item([(context, f" {choice}") for choice in _texts(choices)], _texts(choices), gold)


def _item(asked: Sequence[tuple[str, str]], choices: Sequence[str], gold: Any) -> Item:
    place = int(gold)
    if not 0 <= place < len(choices):
        raise ValueError(f"the right choice is number {place} of {len(choices)}, counted from 0")
    return Item(
        asked=tuple(Continuation(*pair) for pair in asked),
        score=partial(choice_scores, gold=place, characters=tuple(map(len, choices))),
    )


def _texts(choices: Sequence[Any]) -> list[str]:
    if not isinstance(choices, list | tuple) or len(choices) < 2:
        raise ValueError("there must be two choices at least")
    if not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise ValueError("a choice holds no text")
    return list(choices)


def _answer_line(query: str) -> str:
    """The question and the line on which it is answered, if it has none yet."""
    query = query.rstrip("\n")
    return query if query.endswith("Answer:") else f"{query}\nAnswer:"


def _given(row: Mapping[str, Any], *, answer_line: bool = True) -> Item:
    query = text_of(row, "query")
    return question(_answer_line(query) if answer_line else query, row["choices"], row["gold"])


def _labelled(row: Mapping[str, Any], context: str) -> Item:
    """ARC, OpenBookQA and CommonsenseQA say which is right by its label."""
    labels, texts = row["choices"]["label"], row["choices"]["text"]
    return question(context, texts, list(labels).index(str(row["answerKey"]).strip()))


def _arc(row: Mapping[str, Any]) -> Item:
    return _labelled(row, f"Question: {text_of(row, 'question')}\nAnswer:")


def _piqa(row: Mapping[str, Any]) -> Item:
    return question(f"Question: {text_of(row, 'goal')}\nAnswer:", [row["sol1"], row["sol2"]], row["label"])


def _commonsense(row: Mapping[str, Any]) -> Item:
    """The choices stand in the question, and their letters are what is continued with."""
    labels, texts = list(row["choices"]["label"]), list(row["choices"]["text"])
    listed = "\n".join(f"{label}. {text}" for label, text in zip(labels, texts, strict=True))
    context = f"Question: {text_of(row, 'question').strip()}\n{listed}\nAnswer:"
    return question(context, labels, labels.index(str(row["answerKey"]).strip()))


def _given_commonsense(row: Mapping[str, Any]) -> Item:
    query = text_of(row, "query").replace("\nChoices:\n", "\n", 1)
    return question(_answer_line(query), row["choices"], row["gold"])


def _boolq(row: Mapping[str, Any]) -> Item:
    answer = row["label"] if "label" in row else row["answer"]
    query = f"{text_of(row, 'passage')}\nQuestion: {text_of(row, 'question')}?\nAnswer:"
    return question(query, ["no", "yes"], answer)


def _given_boolq(row: Mapping[str, Any]) -> Item:
    query = text_of(row, "query").removeprefix("Passage: ")
    return question(_answer_line(query), row["choices"], row["gold"])


def _winogrande(row: Mapping[str, Any]) -> Item:
    before, gap, after = text_of(row, "sentence").partition("_")
    if not gap:
        raise ValueError("the sentence has no gap: _")
    options = _texts([row["option1"], row["option2"]])
    return _item([(before + option, f" {after.strip()}") for option in options], options, int(row["answer"]) - 1)


def _given_winogrande(row: Mapping[str, Any]) -> Item:
    contexts = _texts(row["context_options"])
    ending = text_of(row, "continuation").strip()
    return _item([(context, f" {ending}") for context in contexts], contexts, row["gold"])


def _hellaswag(row: Mapping[str, Any]) -> Item:
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return question(_cleaned(context), [_cleaned(ending) for ending in row["endings"]], row["label"])


def _cleaned(text: str) -> str:
    """Without the marks that WikiHow has left in HellaSwag, as the harness takes them out."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _read_hellaswag(path: Path) -> Sequence[Item]:
    """JSON lines, or the text that has six lines for each question: context, the right one's number, four endings."""
    name = path.name.lower()
    if not name.removesuffix(".gz").removesuffix(".bz2").endswith(".txt"):
        return read_items(path, HELLASWAG_SHAPES)
    opened = bz2.open if name.endswith(".bz2") else gzip.open if name.endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", path=path) from None
    return list(_six_lines(path, lines[:-1] if lines[-1] == "" else lines))


def _six_lines(path: Path, lines: Sequence[str]) -> Iterator[Item]:
    if not lines or len(lines) % 6:
        raise DataError(f"{len(lines)} lines are no whole number of questions, of six lines each", path=path)
    for start in range(0, len(lines), 6):
        context, gold, *endings = lines[start : start + 6]
        try:
            yield question(context, endings, gold)
        except ValueError as error:
            raise DataError(f"the question cannot be used: {error}", path=path, line=start + 1) from None


_GIVEN = Shape(("query", "choices", "gold"), _given)
_ARC_SHAPES = (Shape(("question", "choices", "answerKey"), _arc), _GIVEN)
_PLAIN = Shape(("query", "choices", "gold"), partial(_given, answer_line=False))
HELLASWAG_SHAPES = (Shape(("activity_label", "ctx_a", "ctx_b", "endings", "label"), _hellaswag), _PLAIN)
_LIKE = "Zero-shot, as in lm-evaluation-harness 0.4.13."


def _protocol(
    title: str, about: str, shapes: Sequence[Shape], measures: tuple[Measure, ...], quick: int = 100
) -> Protocol:
    return Protocol(
        title=title,
        about=about,
        read=lambda path: read_items(path, shapes),
        asks="continuations",
        measures=measures,
        quick=quick,
    )


CHOICES: dict[str, Protocol] = {
    "arc_easy": _protocol("ARC, easy", f"Science questions of a school. {_LIKE}", _ARC_SHAPES, PER_CHOICES),
    "arc_challenge": _protocol("ARC, challenge", f"The harder ones of them. {_LIKE}", _ARC_SHAPES, PER_CHARACTERS),
    "piqa": _protocol(
        "PIQA",
        f"Which of two ways works, of everyday physics. {_LIKE}",
        (Shape(("goal", "sol1", "sol2", "label"), _piqa), _GIVEN),
        PER_CHARACTERS,
    ),
    "hellaswag": Protocol(
        title="HellaSwag",
        about=f"Which of four endings goes on. {_LIKE} From a text of six lines a question, contexts are taken as they "
        "stand there: the harness capitalises the last sentence's beginning, which such a file no longer tells.",
        read=_read_hellaswag,
        asks="continuations",
        measures=PER_CHARACTERS,
        quick=60,
    ),
    "openbookqa": _protocol(
        "OpenBookQA",
        f"Science, from general facts. {_LIKE}",
        (
            Shape(("question_stem", "choices", "answerKey"), lambda row: _labelled(row, text_of(row, "question_stem"))),
            _PLAIN,
        ),
        PER_CHARACTERS,
    ),
    "winogrande": _protocol(
        "Winogrande",
        f"Whom or what a sentence speaks of. {_LIKE} The same ending is scored after both contexts.",
        (
            Shape(("sentence", "option1", "option2", "answer"), _winogrande),
            Shape(("context_options", "continuation", "gold"), _given_winogrande),
        ),
        (ACC, BRIER),
    ),
    "boolq": _protocol(
        "BoolQ",
        f"Yes or no, from a passage. {_LIKE}",
        (
            Shape(("passage", "question", "label"), _boolq),
            Shape(("passage", "question", "answer"), _boolq),
            Shape(("query", "choices", "gold"), _given_boolq),
        ),
        (ACC, BRIER),
        quick=50,
    ),
    "commonsense_qa": _protocol(
        "CommonsenseQA",
        f"The choices stand in the question, and its answer is a letter. {_LIKE}",
        (
            Shape(("question", "choices", "answerKey"), _commonsense),
            Shape(("query", "choices", "gold"), _given_commonsense),
        ),
        (ACC, BRIER),
    ),
}
