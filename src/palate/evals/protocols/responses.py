"""What a model says when it is asked: answers to sums, and the form of its text; no judge and no reward.

A prompt is what counts, with all responses to it. Sums (GSM8K: Cobbe et al. 2021, arXiv 2110.14168) are right if the
last number is the known one, as in training on verified answers (`rewards/verifiers/number.py`): zero-shot and sampled,
so a variant. The form of text is the signals of `evals/text.py`; how much of what is said to one prompt is said by one
response alone, and how alike its responses are (self-BLEU); and how often the reader is praised, as patterns tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

from palate.corpus import read_prompts
from palate.corpus.mined.phrases import Patterns, patterns
from palate.evals.protocols.items import Item, Measure, Protocol, Said, Scores, Shape, read_items, text_of
from palate.evals.text import self_bleu, signals_of_each
from palate.recipe import Data
from palate.records import Prompt
from palate.rewards.verifiers.number import answer_of
from palate.words import ngrams, split_words

ASKED_TO_END = "Think step by step, and write the answer after #### on a line of its own."


def sum_scores(answers: Sequence[Said], *, right: Fraction) -> Scores:
    """Of one sum: the share of the responses that come to the right number."""
    return {
        "right": sum(answer_of(said.text) == right for said in answers) / len(answers),
        "cut_off": sum(not said.ended for said in answers) / len(answers),
    }


@cache
def _praising() -> Patterns:
    return patterns("", "praise.txt")


def form_scores(answers: Sequence[Said]) -> Scores:
    """Of the responses to one prompt: means of what each is like, and how much of it only one of them says."""
    texts = [said.text for said in answers]
    each = {name: float(values.mean()) for name, values in signals_of_each(texts).items()}
    pairs = [set(ngrams(split_words(text), 2)) for text in texts]
    counts = Counter(pair for found in pairs for pair in found)
    said_once = sum(count == 1 for count in counts.values()) / len(counts) if counts else 0.0
    each |= {"self_bleu": self_bleu(texts), "praises": sum(bool(_praising().find(text)) for text in texts) / len(texts)}
    return each | {"said_once": said_once, "cut_off": sum(not said.ended for said in answers) / len(answers)}


def _sum(row: Mapping[str, Any]) -> Item:
    right = answer_of(text_of(row, "answer"))
    if right is None:
        raise ValueError("the answer holds no number")
    prompt = Prompt.from_text(f"{text_of(row, 'question').strip()}\n{ASKED_TO_END}")
    return Item(asked=(prompt,), score=partial(sum_scores, right=right))


def _read_prompts(path: Path) -> Sequence[Item]:
    return [Item(asked=(prompt,), score=form_scores) for prompt in read_prompts(Data(path=str(path))).records]


RESPONSES: dict[str, Protocol] = {
    "gsm8k": Protocol(
        title="GSM8K",
        about="Sums; the last number of a response counts. A variant: zero-shot, in the chat's form, sampled.",
        read=lambda path: read_items(path, (Shape(("question", "answer"), _sum),)),
        asks="prompts",
        measures=(
            Measure(name="right", label="right answers", better="higher", compared=True),
            Measure(name="cut_off", label="cut off", better="lower"),
        ),
        quick=12,
    ),
    "form": Protocol(
        title="Form of responses",
        about="Length, repetition and the like, of responses to prompts; no judge.",
        read=_read_prompts,
        asks="prompts",
        measures=(
            Measure(name="mean_words", label="words", better="neither", unit="words", compared=True),
            Measure(name="repeated_3", label="repeated runs of three words", better="lower", compared=True),
            Measure(name="finished", label="end a sentence", better="higher", compared=True),
            Measure(name="self_bleu", label="alike, of one prompt (self-BLEU)", better="lower", compared=True),
            Measure(name="praises", label="praise the reader", better="lower", compared=True),
            Measure(name="said_once", label="word pairs said by one response alone", better="neither"),
            Measure(name="under_four_words", label="under four words", better="lower"),
            Measure(name="cut_off", label="cut off", better="lower"),
        ),
        quick=24,
    ),
}
