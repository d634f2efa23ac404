"""What counts as a word, a repetition and a finished sentence."""

from __future__ import annotations

import pytest

from palate.words import count_words, is_finished, odd_share, repeated_share, split_words, stutter_share


def test_words() -> None:
    assert split_words('I\'d say: "Well-known" -- (yes)!') == ["i'd", "say", "well-known", "yes"]
    assert count_words("I'd say -- yes!") == 4
    assert split_words(" ... \n") == []
    assert split_words("x\u00b2 _a_ \u00dc4") == [
        "x\u00b2",
        "a",
        "\u00fc4",
    ]  # letters and digits are alnum as a whole or not


def test_repetition() -> None:
    words = list("abcabcd")  # runs: abc bca cab abc bcd
    assert repeated_share(words, 3) == pytest.approx(1 / 5)
    assert repeated_share(["a"], 3) == 0
    assert stutter_share(["the", "the", "cat", "sat", "sat", "sat"]) == pytest.approx(3 / 6)
    assert stutter_share([]) == 0


def test_odd_characters() -> None:
    assert odd_share("Plain prose, isn't it? \u201cYes\u201d \u2013 50%.") == 0
    assert odd_share("Gr\u00fc\u00dfe, \u4f60\u597d") == 0  # letters of any language
    assert odd_share("##ab") == 0.5
    assert odd_share("") == 0


@pytest.mark.parametrize(
    "text", ["Yes.", "Really?", 'He said "go!"', "(Done.)", "Well...", "\u597d\u3002", "**So.**\n"]
)
def test_finished(text: str) -> None:
    assert is_finished(text)


@pytest.mark.parametrize("text", ["", "and then", "a list:", "1. milk\n2.5", "one, two,"])
def test_unfinished(text: str) -> None:
    assert not is_finished(text)
