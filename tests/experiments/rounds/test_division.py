"""Fresh prompts for every round: none twice, none that is measured on, the same ones whatever else is asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.corpus.splits import conversation_id
from palate.errors import DataError
from palate.experiments.rounds.division import Division, divided
from palate.records import Message, Prompt


def dialogue(number: int, turns: int = 1) -> Prompt:
    """Branches of one conversation begin alike."""
    said = [Message(role="user", content=f"What of {number}?")]
    for turn in range(1, turns):
        said += [Message(role="assistant", content=f"{turn}."), Message(role="user", content=f"And {turn}?")]
    return Prompt(messages=tuple(said))


def attempt(*prompts: list[Prompt], **how: int) -> Division | str:
    """What is divided, or why it cannot be."""
    try:
        return divided(*prompts, **how)
    except DataError as error:
        return str(error)


PROMPTS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 3)), unique=True, min_size=1, max_size=60).map(
    lambda places: [dialogue(number, turns) for number, turns in places]
)


@given(PROMPTS, st.sets(st.integers(0, 30), max_size=8), st.integers(1, 4), st.integers(0, 6), st.integers(0, 5))
def test_no_conversation_is_used_twice_or_held_out(
    prompts: list[Prompt], measured: set[int], rounds: int, each: int, seed: int
) -> None:
    held_out = [dialogue(number) for number in measured]
    kept = {conversation_id(prompt) for prompt in held_out}
    free = [prompt for prompt in prompts if conversation_id(prompt) not in kept]
    found = attempt(prompts, held_out, rounds=rounds, each=each, seed=seed)
    if isinstance(found, str):
        assert f"and there are {len(free)}" in found
        assert len(free) < rounds * max(1, each) or "none of which is in two" in found
        return
    used = [{conversation_id(prompt) for prompt in share} for share in found.rounds]
    assert sum(map(len, used)) == len(set().union(*used)), "in two rounds"
    assert not set().union(*used) & kept
    everything = [prompt.id for share in found.rounds for prompt in share]
    assert len(everything) == len(set(everything))
    assert len(everything) + found.unused + found.held_out == len(prompts)
    assert found.held_out == len(prompts) - len(free)
    if each:
        assert [len(share) for share in found.rounds] == [each] * rounds
    else:
        assert found.unused == 0
    assert divided(prompts[::-1], held_out, rounds=rounds, each=each, seed=seed) == found


def test_more_rounds_get_other_prompts_and_the_first_keep_theirs() -> None:
    prompts = [dialogue(number) for number in range(20)]
    few, many = (divided(prompts, [], rounds=rounds, each=4, seed=1) for rounds in (2, 5))
    assert many.rounds[:2] == few.rounds
    assert (few.unused, many.unused) == (12, 0)
    assert divided(prompts, [], rounds=2, each=4, seed=2).rounds != few.rounds


def test_even_shares_use_everything() -> None:
    found = divided([dialogue(number) for number in range(11)], [dialogue(3)], rounds=3, seed=0)
    assert sorted(map(len, found.rounds)) == [3, 3, 4]
    assert found.held_out == 1


@pytest.mark.parametrize(
    ("count", "rounds", "each", "message"),
    [
        (7, 2, 4, "prompts_per_round = 4 in 2 rounds needs 8 prompts, and there are 6 beside the 1 that are held out"),
        (2, 3, 0, "3 rounds need at least 3 prompts, and there are 1 beside the 1 that are held out"),
    ],
)
def test_too_few_are_counted(count: int, rounds: int, each: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        divided([dialogue(number) for number in range(count)], [dialogue(0)], rounds=rounds, each=each, seed=0)
