"""Rows of fine-tuning on demonstrations, and of every stage that learns from records as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tests.stages.effects.rows import Effect, Row, under
from tests.stages.effects.runs import Outcome
from tests.stages.effects.shared import every, optimizer, refused, training

from palate.corpus.reading import prompt_of
from palate.lm.sources.zoo import load_chat

Tokens = tuple[int, ...]


def sft() -> list[Row]:
    """Keys of supervised fine-tuning."""
    one_batch = {"batch_size": 16}
    return [
        *learning("demonstrations", "policy", one_batch, {"batch_size": 3}, left_out=2),
        Row("batch_size", (2, 3), in_batches),
    ]


def learning(
    kind: str, name: str, one_batch: dict[str, Any], small_batches: dict[str, Any], *, left_out: int
) -> list[Row]:
    """Keys of a stage that learns from records of one kind.

    Args:
        name: of its optimizer in metrics.
        one_batch: settings with which an epoch is one step.
        small_batches: with which it is several.
        left_out: records that are longer than 200 tokens.
    """

    def orders_anew(a: Outcome, b: Outcome) -> None:
        """The same records in another order."""
        first, second = (joined(learned(outcome, name)) for outcome in (a, b))
        assert first != second
        assert sorted(first) == sorted(second)

    def passes(a: Outcome, b: Outcome) -> None:
        """All of them in every epoch, each time in another order."""
        steps = learned(b, name)
        once, again = joined(steps[: len(steps) // 2]), joined(steps[len(steps) // 2 :])
        assert len(steps) == 2 * len(learned(a, name))
        assert sorted(once) == sorted(again) == sorted(joined(learned(a, name)))
        assert once != again

    def leaves_out_long_ones(a: Outcome, b: Outcome) -> None:
        assert [outcome.report["left_out"] for outcome in (a, b)] == [0, left_out]
        longest = [max(map(len, joined(learned(outcome, name)))) for outcome in (a, b)]
        assert longest[1] <= 200 < longest[0]

    return [
        *every("data", kind),
        *training(one_batch | {"epochs": 4}, without_scale={"optimizer.epsilon": 1e-2}, reads="data"),
        Row("seed", (0, 1), orders_anew, small_batches),
        Row("seeds.order", (None, 1), begins_alike(orders_anew, name), small_batches),
        Row("epochs", (1, 2), passes, small_batches),
        Row("max_length", (1024, 200), leaves_out_long_ones),
        Row("max_left_out", (0.5, 0.1), refused("more than max_left_out = 0.1 allows"), {"max_length": 200}),
        *under("holdout", holdout(kind, name)),
        *optimizer("optimizer", name, one_batch | {"epochs": 2}),
    ]


def begins_alike(effect: Effect, name: str) -> Effect:
    """Besides, the weights are the same to begin with."""

    def both(a: Outcome, b: Outcome) -> None:
        assert torch.equal(*(outcome.updates[name][0].before for outcome in (a, b)))
        effect(a, b)

    return both


def in_batches(a: Outcome, b: Outcome) -> None:
    """Of so many; what is left at an epoch's end is a smaller one."""
    for outcome, size in ((a, 2), (b, 3)):
        sizes = [len(step) for step in learned(outcome, "policy")]
        count = sum(sizes)
        assert sizes == [size] * (count // size) + [count % size] * (count % size > 0)


# What was learned.


def learned(outcome: Outcome, name: str) -> list[list[Tokens]]:
    """For every step the sequences it learned from, prompt and response."""
    return [
        [
            tuple(tokens[:length])
            for part in update.learned
            for tokens, length in zip(part.tokens.tolist(), part.lengths.tolist(), strict=True)
        ]
        for update in outcome.updates[name]
    ]


def joined(steps: Iterable[list[Tokens]]) -> list[Tokens]:
    """Those of several steps."""
    return [sequence for step in steps for sequence in step]


def prompts_learned(outcome: Outcome, name: str) -> set[str]:
    """Texts of the prompts behind them."""
    chat, sequences = load_chat(outcome.recipe.model), set(joined(learned(outcome, name)))
    prompts = {prompt.text: chat.prompt_tokens(prompt) for prompt in map(prompt_of, outcome.read["data"].records)}
    return {text for text, opened in prompts.items() if any(list(each[: len(opened)]) == opened for each in sequences)}


# Which prompts are held out.


def holdout(kind: str, name: str) -> list[Row]:
    """Keys of the section that holds out prompts."""
    columns = {
        "data.path": f"$columns_{kind}",
        "data.fields": {
            "demonstrations": {"prompt": "q", "response": "x"},
            "rankings": {"prompt": "q", "a": "x", "b": "y", "preferred": "better"},
            "thumbs": {},
        }[kind],
        "data.tags": ["topic", "mood"],
    }

    def learns_less(a: Outcome, b: Outcome) -> None:
        """What is held out stays so when more is."""
        assert prompts_learned(b, name) < prompts_learned(a, name)

    def holds_out(outcome: Outcome) -> None:
        tag, value = outcome.recipe.holdout.tag, outcome.recipe.holdout.value
        about = {record.prompt.text: record.prompt.tags[tag] for record in outcome.read["data"].records}
        assert prompts_learned(outcome, name) == {text for text, its in about.items() if its != value}

    def by_what_they_are_about(a: Outcome, b: Outcome) -> None:
        holds_out(a)
        holds_out(b)
        assert prompts_learned(a, name) != prompts_learned(b, name)

    return [
        Row("fraction", (0.3, 0.6), learns_less),
        Row("tag", ("mood", "topic"), by_what_they_are_about, columns | {"holdout.value": "tea"}),
        Row("value", ("tea", "mills"), by_what_they_are_about, columns | {"holdout.tag": "topic"}),
    ]
