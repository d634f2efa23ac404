"""Fresh prompts for every round: no conversation in two of them, and none of those that are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from palate.corpus.splits import conversation_id
from palate.errors import DataError
from palate.randomness import permutation
from palate.records import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Who gets which prompt.

    Attributes:
        rounds: the prompts of each round.
        held_out: how many were left out because their conversation is measured on.
        unused: how many no round asked for.
    """

    rounds: tuple[tuple[Prompt, ...], ...]
    held_out: int
    unused: int


def divided(
    prompts: Sequence[Prompt], held_out: Sequence[Prompt], *, rounds: int, each: int = 0, seed: int
) -> Division:
    """Whole conversations (by their first turns, as in `corpus/splits.py`) in random order, dealt to the rounds.

    Args:
        prompts: all different.
        held_out: those that are measured on.
        each: prompts of a round, the same ones whatever the number of rounds; 0 divides all of them evenly.

    Raises:
        DataError: there are too few.
    """
    measured = {conversation_id(prompt) for prompt in held_out}
    conversations: dict[str, list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda prompt: prompt.id):  # the order of the file says nothing
        if (key := conversation_id(prompt)) not in measured:
            conversations.setdefault(key, []).append(prompt)
    keys = sorted(conversations)
    order = [conversations[keys[place]] for place in permutation(len(keys), seed, "rounds")]
    fresh = sum(map(len, order))
    shares = _of_size(order, rounds, each) if each else [_flat(order[number::rounds]) for number in range(rounds)]
    if min(map(len, shares)) < max(1, each):
        asked = f"prompts_per_round = {each} in {rounds} rounds needs" if each else f"{rounds} rounds need at least"
        beside = f" beside the {len(prompts) - fresh} that are held out" if fresh < len(prompts) else ""
        beside += ", in conversations none of which is in two rounds" if fresh >= rounds * max(1, each) else ""
        raise DataError(
            f"{asked} {rounds * max(1, each)} prompts, and there are {fresh}{beside}: add prompts, or ask for less"
        )
    return Division(
        rounds=tuple(map(tuple, shares)), held_out=len(prompts) - fresh, unused=fresh - sum(map(len, shares))
    )


def _of_size(conversations: Sequence[Sequence[Prompt]], rounds: int, each: int) -> list[list[Prompt]]:
    """So many prompts for every round; what is left of a conversation that is cut goes to nobody."""
    left, shares = iter(conversations), []
    for _ in range(rounds):
        share: list[Prompt] = []
        while len(share) < each and (conversation := next(left, None)) is not None:
            share += conversation
        shares.append(share[:each])
    return shares


def _flat(conversations: Sequence[Sequence[Prompt]]) -> list[Prompt]:
    return [prompt for conversation in conversations for prompt in conversation]
