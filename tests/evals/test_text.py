"""Fluency signals by hand."""

from __future__ import annotations

import pytest

from palate.errors import DataError
from palate.evals.text import is_clean, signals_of_each, text_signals


def test_signals_by_hand() -> None:
    signals = text_signals(["The cat sat.", "The cat sat.", "go go go go", ""])
    assert signals.mean_words == pytest.approx(10 / 4)
    assert signals.distinct_1 == pytest.approx(4 / 10)  # the cat sat go
    assert signals.distinct_2 == pytest.approx(3 / 7)  # the cat, cat sat, go go of 2 + 2 + 3
    assert signals.repeated_3 == pytest.approx((1 / 2) / 4)  # "go go go" twice
    assert signals.finished == 0.5
    assert signals.under_four_words == 0.75
    assert signals.empty == 0.25
    assert signals.duplicates == 0.5


def test_the_signals_of_each_response() -> None:
    each = signals_of_each(["The cat sat.", "The cat sat.", "go go go go", ""])
    assert each["mean_words"].tolist() == [3, 3, 4, 0]
    assert each["finished"].tolist() == [1, 1, 0, 0]
    assert each["under_four_words"].tolist() == [1, 1, 0, 1]
    assert each["duplicates"].tolist() == [1, 1, 0, 0]


def test_as_metrics() -> None:
    metrics = text_signals(["Yes."]).as_metrics()
    assert metrics["text/mean_words"] == 1
    assert metrics["text/duplicates"] == 0
    with pytest.raises(DataError, match="no responses"):
        text_signals([])


def test_is_clean() -> None:
    assert is_clean("Water boils at 100 degrees.")
    for text in ("Water boils at", "Ok.", "It is is hot.", "I like it. I like it.", "## {} [] hot day."):
        assert not is_clean(text)


def test_the_shortest_clean_text_and_the_odd_characters_it_may_have() -> None:
    assert is_clean("It is hot.")
    assert not is_clean("Very hot.")
    assert is_clean("Very hot.", min_words=2)
    odd = "## It is h{}t."  # two odd characters; 0.02 of them are borne
    assert is_clean(odd.format("o" * 88))
    assert not is_clean(odd.format("o" * 87))


def test_signals_of_one_word_and_of_many_responses() -> None:
    signals = text_signals(["Hm", "a b c a b c", "x"])
    assert signals.distinct_2 == pytest.approx(3 / 5)
    assert signals.repeated_3 == pytest.approx((1 / 4) / 3)
    assert (signals.finished, signals.empty, signals.duplicates) == (0, 0, 0)
    assert text_signals(["one", "two"]).distinct_2 == 0, "no pair of words at all"
    assert text_signals(["a", "a", "a", "b"]).duplicates == 0.75
    assert list(signals.as_metrics("x/")) == [f"x/{name}" for name in signals.__dataclass_fields__]
