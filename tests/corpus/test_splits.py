"""Held-out prompts: whole conversations, the same ones whatever else is in the data."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.corpus.splits import SHARES, conversation_id, large_enough, split
from palate.errors import DataError
from palate.recipe import Holdout
from palate.records import Demonstration, Message, Prompt, Response

HALF = Holdout(fraction=0.5)


def shown(text: str, response: str = "r", **tags: str) -> Demonstration:
    return Demonstration(prompt=Prompt.from_text(text, tags=tags), response=Response(text=response))


def chat(*turns: str) -> Prompt:
    return Prompt(
        messages=tuple(
            Message(role="assistant" if place % 2 else "user", content=turn) for place, turn in enumerate(turns)
        )
    )


MANY = [shown(f"prompt {number // 2}", f"response {number}") for number in range(400)]


@settings(max_examples=20)
@given(st.permutations(range(40)), st.integers(20, 40))
def test_the_side_of_a_prompt_depends_on_nothing_else(order: list[int], count: int) -> None:
    records = [MANY[place] for place in order[:count]]
    train, validation = split(records, HALF)
    _, all_held_out = split(MANY[:40], HALF)
    assert validation == [record for record in records if record in all_held_out]
    assert train == [record for record in records if record not in all_held_out]


def test_the_share_is_about_the_fraction_and_larger_fractions_hold_out_more() -> None:
    held_out = [{record.id for record in split(MANY, Holdout(fraction=f))[1]} for f in (0.1, 0.3, 0.5)]
    assert [round(len(ids) / len(MANY), 2) for ids in held_out] == [0.14, 0.34, 0.51]
    assert held_out[0] < held_out[1] < held_out[2]


def test_prompts_are_never_divided() -> None:
    train, validation = split(MANY, HALF)
    assert not {record.prompt.id for record in train} & {record.prompt.id for record in validation}


def test_the_turns_of_a_conversation_stay_together() -> None:
    prompts = [chat(f"q{n}", *turns) for n in range(20) for turns in ((), ("a", "b"), ("c", "d", "e", "f"))]
    for side in split(prompts, HALF):
        assert len(side) % 3 == 0
    with_system = Prompt(messages=(Message(role="system", content="s"), *chat("q", "a", "b").messages))
    assert conversation_id(with_system) == Prompt.from_text("q", system="s").id
    assert conversation_id(chat("q", "a", "b")) == Prompt.from_text("q").id


def test_by_tag() -> None:
    records = [shown("a", topic="tea"), shown("b", topic="pie "), shown("c")]
    train, validation = split(records, Holdout(tag="topic", value=" pie"))
    assert [record.prompt.text for record in validation] == ["b"]
    assert [record.prompt.text for record in train] == ["a", "c"]


def test_by_a_key_of_ones_own() -> None:
    train, validation = split([str(number) for number in range(50)], HALF, key=Prompt.from_text)
    assert len(train) + len(validation) == 50


@pytest.mark.parametrize(
    ("holdout", "message"),
    [
        (
            Holdout(tag="topic", value="cake"),
            "leaves nothing for validation; values of 'topic': '', 'pie', 'tea'",
        ),
        (Holdout(tag="subject", value="x"), "holdout: no prompt has the tag 'subject'; the tags are topic"),
        (Holdout(fraction=0.001), "holdout.fraction = 0.001 of 3 prompts leaves none for validation"),
        (Holdout(fraction=0.999), "holdout.fraction = 0.999 of 3 prompts leaves none for training"),
    ],
)
def test_a_side_without_records_is_an_error(holdout: Holdout, message: str) -> None:
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        split([shown("a", topic="tea"), shown("b", topic="pie"), shown("c")], holdout)


def test_no_records_and_no_tags() -> None:
    with pytest.raises(DataError, match="nothing to split"):
        split([], HALF)
    with pytest.raises(DataError, match="name the column in the data's `tags`"):
        split([shown("a")], Holdout(tag="topic", value="x"))


def test_a_larger_share_is_taken_where_little_data_leaves_none() -> None:
    prompts = [Prompt.from_text(f"What of {number}?") for number in range(300)]
    few = next(prompts[start : start + 4] for start in range(290) if not validated(prompts[start : start + 4], 0.1))
    larger = large_enough(few, Holdout(fraction=0.1)).fraction
    assert larger in SHARES
    assert validated(few, larger)
    assert not any(validated(few, share) for share in SHARES if share < larger)
    assert large_enough(prompts, Holdout(fraction=0.1)) == Holdout(fraction=0.1)
    with pytest.raises(DataError, match="of 1 prompts leaves none"):
        large_enough(prompts[:1], Holdout(fraction=0.1))


def validated(prompts: list[Prompt], fraction: float) -> bool:
    """Whether both sides have something."""
    try:
        return all(split(prompts, Holdout(fraction=fraction)))
    except DataError:
        return False
