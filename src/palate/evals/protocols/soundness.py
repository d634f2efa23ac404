"""Does a model find sound answers likelier than made-up ones, answer by answer as people marked them?

HaluEval's general set (Li et al. 2023, arXiv 2305.11747): queries of real users, each with one answer, which people
marked as hallucinated or not. There are no pairs in it, so the number is the probability that a sound answer has fewer
bits a byte than a hallucinated one: the area under the curve (Hanley and McNeil 1982), 1/2 for a coin. What one answer
is worth is its pseudo-value,

    area + N / N_own (share of the other kind that it stands right of - area),

whose mean over the N answers is the area, and whose spread is DeLong's (1988): so areas of two models on the same
answers are compared in pairs, like everything else. Hallucinated answers are also longer: what length alone tells
apart stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from palate.evals.protocols.items import (
    Item,
    Likelihood,
    Measure,
    Protocol,
    Reply,
    Scores,
    Shape,
    read_items,
    text_of,
)
from palate.intervals import Floats
from palate.records import Prompt
from palate.words import count_words

AREA = Measure(
    name="area", label="a sound answer is likelier than a made-up one", better="higher", unit="area", compared=True
)


def reply_scores(answers: Sequence[Likelihood], *, sound: bool, text: str) -> Scores:
    """Of one answer."""
    (reply,) = answers
    return {
        "likelier": reply.logprob / len(text.encode()),
        "sound": float(sound),
        "shorter": -float(count_words(text)),
    }


def areas(scores: Sequence[Scores]) -> list[Scores]:
    """With the pseudo-values of likelihood and of brevity."""
    sound = np.array([score["sound"] for score in scores])
    likelier, shorter = (pseudo_values([score[name] for score in scores], sound) for name in ("likelier", "shorter"))
    return [
        {**score, "area": float(one), "area_of_brevity": float(other)}
        for score, one, other in zip(scores, likelier, shorter, strict=True)
    ]


def pseudo_values(values: ArrayLike, positive: ArrayLike) -> Floats:
    """[N] whose mean is the probability that a positive case has the larger value, a tie half; NaN without both kinds.

    Args:
        values: [N].
        positive: [N], 1 or 0.
    """
    value, is_positive = np.asarray(values, dtype=np.float64), np.asarray(positive, dtype=np.float64) == 1
    upper, lower = np.sort(value[is_positive]), np.sort(value[~is_positive])
    if not len(upper) or not len(lower):
        return np.full(len(value), np.nan)
    placed = np.where(is_positive, _share_below(lower, value), 1 - _share_below(upper, value))
    area = placed[is_positive].mean()
    own = np.where(is_positive, len(upper), len(lower))
    found: Floats = area + len(value) / own * (placed - area)
    return found


def _share_below(sorted_values: Floats, value: Floats) -> Floats:
    """Of each: how many of the others are below it, of equal ones half."""
    left, right = (np.searchsorted(sorted_values, value, side=side) for side in ("left", "right"))
    found: Floats = (left + right) / 2 / len(sorted_values)
    return found


def _answer(row: Mapping[str, Any]) -> Item:
    marked = str(row["hallucination"]).strip().lower()
    if marked not in ("yes", "no"):
        raise ValueError("hallucination is neither yes nor no")
    text = text_of(row, "chatgpt_response").strip()
    prompt = Prompt.from_text(text_of(row, "user_query").strip())
    return Item(asked=(Reply(prompt, text),), score=partial(reply_scores, sound=marked == "no", text=text))


SOUNDNESS: dict[str, Protocol] = {
    "hallucination": Protocol(
        title="Hallucination",
        about="Answers that people marked as hallucinated or not, in the chat's form: how often a sound one has fewer "
        "bits a byte than a made-up one, of all such pairs. No answer is generated; what a model makes up when it is "
        "asked is in the section on abstention.",
        read=lambda path: read_items(path, (Shape(("user_query", "chatgpt_response", "hallucination"), _answer),)),
        asks="replies",
        measures=(
            AREA,
            Measure(
                name="area_of_brevity", label="a sound answer is shorter (no model)", better="neither", unit="area"
            ),
        ),
        quick=60,
        across=areas,
    )
}
