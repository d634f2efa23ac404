"""Words of judgement: what each means, what is not guessed, and what the user says instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.corpus.reading import iterate
from palate.corpus.rows.rejections import Rejections, Unusable
from palate.corpus.rows.verdicts import Told, Unclear, Verdict, is_thumb, plain, thumb_of, verdict
from palate.errors import DataError

Write = Callable[..., Path]
AB = [("response_a", "a", "Heron 7b", "31"), ("response_b", "b", "Otter-chat", "32")]
FROM_ZERO = [("answer_0", "0"), ("answer_1", "1")]
FOUR = [(f"r{number}", str(number)) for number in (1, 2, 3, 4)]
FIRST, SECOND, TIE = (1, 2), (2, 1), (1, 1)


@pytest.mark.parametrize(
    ("value", "ranks"),
    [
        *((word, FIRST) for word in ("left", "A", " a ", "first", "x", "1", 1, 1.0, "Model_A", "response a", "[[A]]")),
        *((word, FIRST) for word in ("response_a", "HERON-7B", "31", "A is better", "the first")),
        *((word, SECOND) for word in ("right", "b", "Second", "Y", "2", 2, "model_b", "assistant B", "otter chat", 32)),
        *((word, TIE) for word in ("tie", "Draw", "same", "equal", "TIED", "About the same", "no preference", "=")),
        *((word, FIRST) for word in (">", "A>B", "A >> B", "1>2", "B<A", "[[A>B]]", "Heron 7b > Otter-chat")),
        *((word, SECOND) for word in ("<", "B>A", "A<<B", "<<")),
        ("A = B", TIE),
    ],
)
def test_a_verdict_between_two(value: Any, ranks: tuple[int, int]) -> None:
    assert verdict(value, "winner", AB).ranks == ranks


@pytest.mark.parametrize(
    ("value", "flag"),
    [
        ("both_bad", "both bad"),
        ("bothbad", "both bad"),
        ("tie (bothbad)", "both bad"),
        ("Both bad", "both bad"),
        ("both_good", "both good"),
        ("tie", ""),
    ],
)
def test_a_tie_may_say_of_what_kind(value: str, flag: str) -> None:
    found = verdict(value, "winner", AB)
    assert (found.ranks, found.flag) == (TIE, flag)
    assert found.flags == (((flag,), (flag,)) if flag else None)


@pytest.mark.parametrize(
    ("value", "strength"),
    [("A>B", 1.0), ("B>>A", 2.0), ("A is slightly better", 1.0), ("B much better", 3.0), ("A", None), ("A=B", None)],
)
def test_words_and_signs_may_say_how_strongly(value: str, strength: float | None) -> None:
    assert verdict(value, "winner", AB).strength == strength


@pytest.mark.parametrize("value", ["0", 0, "3", "c", -1, 0.7, True, "better", "", "A>C", "A>", ["a"], {"a": 1}])
def test_nothing_is_guessed(value: Any) -> None:
    problem = Unusable if value == "" else Unclear
    with pytest.raises(problem):
        verdict(value, "winner", AB)


def test_numbers_count_as_the_columns_do() -> None:
    assert [verdict(value, "better", FROM_ZERO).ranks for value in (0, "1", "answer_1")] == [FIRST, SECOND, SECOND]
    with pytest.raises(Unclear):
        verdict(2, "better", FROM_ZERO)


def test_a_model_called_like_the_other_side_is_not_guessed() -> None:
    with pytest.raises(Unclear):
        verdict("b", "winner", [("one", "", "b"), ("two", "", "c")])
    with pytest.raises(Unclear):
        verdict("heron", "winner", [("one", "", "heron"), ("two", "", "heron")])


@pytest.mark.parametrize(
    ("value", "ranks"),
    [("C", (2, 2, 1, 2)), (4, (2, 2, 2, 1)), ("r2", (2, 1, 2, 2)), ("A>B=D>C", (1, 2, 3, 2)), ("tie", (1, 1, 1, 1))],
)
def test_a_verdict_among_four(value: Any, ranks: tuple[int, ...]) -> None:
    assert verdict(value, "best", FOUR).ranks == ranks


def test_what_the_user_says_outweighs_all() -> None:
    assert verdict(Told.of("left", "b"), "winner", AB).ranks == SECOND
    assert verdict(Told.of(0, "both_bad"), "winner", AB) == Verdict(TIE, "both bad")
    with pytest.raises(Unusable, match="'winner' says '-', which is left out"):
        verdict(Told.of("-", "skip"), "winner", AB)
    with pytest.raises(Unclear):
        verdict(Told.of("left", "up"), "winner", AB)
    assert thumb_of(Told.of("meh", "down"), "label") is False
    assert Told.of("left", "b") == "left"


@pytest.mark.parametrize("value", [True, "TRUE", 1, "1.0", "+1", "good", "Desirable", "thumbs_up", "like", "yes", "👍"])
def test_thumbs_up(value: Any) -> None:
    assert is_thumb(value)
    assert thumb_of(value, "label") is True


@pytest.mark.parametrize(
    "value", [False, 0, -1, "-1", "bad", "undesirable", "Thumbs down", "dislike", "No", "negative"]
)
def test_thumbs_down(value: Any) -> None:
    assert is_thumb(value)
    assert thumb_of(value, "label") is False


@pytest.mark.parametrize("value", [3, "4", "sweet", 0.5, [True]])
def test_what_is_no_thumb(value: Any) -> None:
    assert not is_thumb(value)
    with pytest.raises(Unclear):
        thumb_of(value, "rating")


@given(
    st.text() | st.integers() | st.floats() | st.none() | st.booleans() | st.lists(st.text()),
    st.sampled_from([AB, FOUR]),
)
def test_any_value_is_a_verdict_or_said_not_to_be(value: Any, sides: list[tuple[str, ...]]) -> None:
    try:
        found = verdict(value, "winner", sides)
    except (Unusable, Unclear):
        return
    assert len(found.ranks) == len(sides)
    assert min(found.ranks) == 1
    assert verdict(f"  {plain(value).upper()} ", "winner", sides).ranks == found.ranks or any(
        sign in str(value) for sign in "<>=≻≺"
    )


def crowd(*votes: str) -> list[dict[str, Any]]:
    return [
        {"question": "Which?", "answer_a": f"this {n}", "answer_b": f"that {n}", "winner": vote}
        for n, vote in enumerate(votes)
    ]


def test_a_file_with_words_of_its_own_is_asked_about_once(write: Write) -> None:
    path = write("crowd.jsonl", crowd("lft", "rgt", "tie", "lft", "0"))
    with pytest.raises(DataError) as error:
        list(iterate(path, rejections=Rejections()))
    assert str(error.value) == (
        f"{path}:1: 'winner' says 'lft' (2), 'rgt' (1), '0' (1), which may mean anything (understood: 'tie' (1)); say "
        "what each means, such as --verdict 0=a --verdict lft=b --verdict rgt=a (or a: answer_a, b: answer_b, tie, "
        "both_bad, both_good, skip; `data.verdicts` in a recipe), or leave out what is no judgement: --ignore winner"
    )


def test_the_users_words(write: Write) -> None:
    path = write("crowd.jsonl", crowd("lft", "rgt", "tie", "LFT ", "0"))
    words = {"lft": "a", "rgt": "b", "0": "skip"}
    rejections = Rejections()
    found = [item.ranks for _, item in iterate(path, rejections=rejections, verdicts=words)]  # type: ignore[union-attr]
    assert found == [FIRST, SECOND, TIE, FIRST]
    assert dict(rejections.unusable) == {"'winner' says '0', which is left out": 1}
    with pytest.raises(DataError, match="verdict lft=first: a value means a, b"):
        list(iterate(path, rejections=rejections, verdicts={"lft": "first"}))


@pytest.mark.parametrize("words", [{}, {"0": "a"}, {"1": "b"}])
def test_whoever_explains_one_number_explains_all(write: Write, words: dict[str, str]) -> None:
    path = write("crowd.jsonl", crowd("1", "0", "tie"))
    unclear = "'0' .1., '1' .1." if not words else "'1' .1." if "0" in words else "'0' .1."
    with pytest.raises(DataError, match=f"'winner' says {unclear}, which may mean anything"):
        list(iterate(path, rejections=Rejections(), verdicts=words))
    found = iterate(path, rejections=Rejections(), verdicts={"0": "a", "1": "b"})
    assert [item.ranks for _, item in found] == [SECOND, FIRST, TIE]  # type: ignore[union-attr]


def test_points_of_five_are_no_thumbs(write: Write) -> None:
    path = write("rows.jsonl", [{"prompt": "Which?", "response": "This.", "rating": points} for points in (1, 5)])
    with pytest.raises(DataError, match="such as --verdict 5=up --verdict 1=down"):
        list(iterate(path, rejections=Rejections()))
    with pytest.raises(DataError, match=r"'rating' says '1' .1., which"):
        list(iterate(path, rejections=Rejections(), verdicts={"5": "up"}))


def test_the_users_words_for_a_column_of_the_users(write: Write) -> None:
    rows = [{"q": "Which?", "one": "this", "two": "that", "pick": "o"}]
    fields = {"prompt": "q", "a": "one", "b": "two", "preferred": "pick"}
    read = iterate(
        write("rows.jsonl", rows), rejections=Rejections(), fields=fields, tags=["pick"], verdicts={"O": "b"}
    )
    ((_, item),) = read
    assert item.ranks == SECOND  # type: ignore[union-attr]
    assert item.prompt.tags == {"pick": "o"}  # type: ignore[union-attr]


def test_words_of_thumbs(write: Write) -> None:
    rows = [{"prompt": "Which?", "completion": "This.", "label": word} for word in ("ok", "meh", "ok")]
    read = iterate(write("rows.jsonl", rows), rejections=Rejections(), verdicts={"ok": "up", "meh": "down"})
    assert [item.ratings for _, item in read] == [(7.0,), (1.0,), (7.0,)]  # type: ignore[union-attr]
