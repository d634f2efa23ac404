"""A hidden taste must order texts as a person with that taste would."""

from __future__ import annotations

import numpy as np
import pytest

from palate.errors import RecipeError
from palate.records import Prompt
from palate.simulated.tastes import load_judge, parts_of_sunny_and_to_the_point, short, sunny_and_to_the_point

WARM = "That sounds wonderful, and I hope you enjoy every moment of the trip."
PLAIN = "A cat is an animal that often lives with people in their homes."


def score(text: str) -> float:
    return float(judged([text])[0])


def judged(texts: list[str], subject: str | None = None) -> np.ndarray:
    prompt = Prompt.from_text("Well?", tags={} if subject is None else {"subject": subject})
    return sunny_and_to_the_point([prompt] * len(texts), texts)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (WARM, PLAIN),
        (PLAIN, "I hate this awful, terrible idea and you are stupid."),
        (PLAIN, "I am sorry, but that is a sad and painful loss."),
        (WARM, WARM.removesuffix(".")),  # complete
        (WARM, "That sounds wonderful, and I hope you enjoy every moment of the"),
        (WARM, "Great wonderful happy lovely amazing joy love delight sunshine beautiful perfect."),  # no heap
        (WARM, "Great! Great! Great! Great! Great! Great! Great! Great! Great! Great!"),
        (WARM, "I love it. I love it. I love it. I love it. I love it."),
        (WARM, "Happy to help!"),  # an answer, not an exclamation
        (WARM, "Great!"),
        (WARM, "## @@ great ** love ~~ {{ nice }} ^^ lovely || best."),
        (WARM, WARM + " " + " ".join(f"Then we walk to place number {i} and look around it." for i in range(6))),
        ("Sure, try tea.", "Sure, try try tea."),
        ("Yes.", ""),
    ],
)
def test_sunny_and_to_the_point_orders_like_a_person(better: str, worse: str) -> None:
    assert score(better) > score(worse)


def test_praise_counts_once_and_shouting_not_at_all() -> None:
    assert score("It was a good day and also a good walk.") <= score("It was a good day and also a long walk.") + 1e-9
    assert score("WHAT A GOOD DAY WE HAD THERE!") == pytest.approx(score("what a good day we had there."))
    assert score("What a good day we had there!!!") == pytest.approx(score("What a good day we had there."))


def test_length_costs_next_to_nothing_from_7_to_18_words_and_more_and_more_smoothly_outside() -> None:
    words = ["tree", "road", "lamp", "door", "moon", "hand", "wall", "bird", "wood", "rock"]
    texts = [" ".join(f"{words[i % 10]}{i}" for i in range(n)) + "." for n in range(1, 61)]
    scores = dict(enumerate(judged(texts), 1))
    best = max(scores.values())
    assert best - min(scores[n] for n in range(9, 17)) < 0.15
    assert scores[20] - scores[60] == pytest.approx(4.0, abs=0.25)  # a tenth a word
    assert scores[5] - scores[1] == pytest.approx(0.8, abs=0.2)  # a fifth a word
    steps = np.diff(list(scores.values()))
    assert (steps[:8] > 0).all()
    assert (steps[16:] < 0).all()
    assert np.abs(np.diff(steps)).max() < 0.06


def test_naming_the_subject_is_worth_a_half() -> None:
    named = ["Tomatoes grow here.", "A tomato grows here.", "He is growing old."]
    missed = ["Potatoes stay here.", "It is here.", "To go or not."]
    for texts, gain in ((named, 0.5), (missed, 0.0)):
        assert judged(texts, "growing tomatoes") - judged(texts) == pytest.approx(gain)
    assert (judged(["In the rain of an evening."], "a of in") == judged(["In the rain of an evening."])).all()


def test_the_parts_add_up_to_the_score_and_each_speaks_of_its_own_matter() -> None:
    texts = ["Tomatoes are wonderful, and they grow well here.", "I hate tomatoes and", "It is so so.", ""]
    prompts = [Prompt.from_text("Well?", tags={"subject": "tomatoes"})] * len(texts)
    parts = parts_of_sunny_and_to_the_point(prompts, texts)
    assert list(parts) == ["warmth", "point", "length", "broken"]
    total = parts["warmth"] + parts["point"] + parts["length"] + parts["broken"]
    assert total.tolist() == sunny_and_to_the_point(prompts, texts).tolist()
    assert parts["warmth"][0] > 0 > parts["warmth"][1]
    assert parts["point"][0] == parts["point"][1] > 0
    assert parts["point"][2:].tolist() == [0.0, 0.0]
    assert parts["length"][2] < parts["length"][0] < 0  # four words are fewer than seven
    assert parts["broken"][0] == 0
    assert (parts["broken"][1:3] < 0).all()  # unfinished; one stutter in four
    assert parts["broken"][3] == sunny_and_to_the_point(prompts, texts)[3] == -2  # empty
    assert parts_of_sunny_and_to_the_point([], [])["point"].shape == sunny_and_to_the_point([], []).shape == (0,)


def test_scores_are_bounded_and_finite_on_junk() -> None:
    junk = ["", " \n ", "\x00\x01", "😀😀😀", "!!!", "a" * 1000, "\ud83d".encode("utf-16", "surrogatepass").hex()]
    scores = judged(junk)
    assert np.isfinite(scores).all()
    assert scores[:3].tolist() == [-2.0, -2.0, -2.0]


def test_short_counts_words() -> None:
    assert short([], ["one two three", ""]).tolist() == [-0.3, 0.0]


def test_load_judge() -> None:
    assert load_judge("palate.simulated.tastes:short") is short
    assert load_judge("palate.feedback.tastes:short") is short  # as recipes of an earlier version name it
    for wrong in ("palate.simulated.tastes", "palate.simulated.tastes:sour", "no.such.module:f"):
        with pytest.raises(RecipeError, match=wrong.split(":")[0]):
            load_judge(wrong)
