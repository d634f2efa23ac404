"""Supervised fine-tuning, step by step: the same losses, weights and report as by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.stages.in_transformers import AdamW, Network, assert_moved_alike, run_stage, written

from palate.lm.sources.zoo import locate
from palate.randomness import permutation
from palate.recipe import SFTRecipe
from palate.records import Demonstration, Message, Prompt, Response
from palate.stages import sft

OPTIMIZER = {
    "learning_rate": 0.5,
    "schedule": "cosine",
    "warmup": 0.25,
    "weight_decay": 0.02,
    "beta1": 0.8,
    "beta2": 0.9,
    "epsilon": 1.0,
    "max_grad_norm": 2.0,
}
RATES = [0.5 / 3, 1.0 / 3, *(0.25 * (1 + math.cos(math.pi * done / 4)) for done in range(4))]
"""A quarter of six steps, rounded to two, to warm up in; then four steps down a cosine that would reach zero next."""


def demonstrations() -> list[Demonstration]:
    """Of several lengths; two held out; one is a longer conversation, in which one answer is context only."""
    said = ["Yes.", "No, not at all, and never.", "Hm", "It is so.", "Perhaps, or perhaps not", "Tea", "", "Ask again!"]
    plain = [
        Demonstration(
            prompt=Prompt.from_text(
                f"Is it so, {number * 'really '}?", tags={"split": "test" if number < 2 else "train"}
            ),
            response=Response(text=text),
        )
        for number, text in enumerate(said)
    ]
    turns = [
        ("system", "Be kind."),
        ("user", "One?"),
        ("assistant", "1"),
        ("user", "Two?"),
        ("assistant", "Not learned"),
    ]
    messages = [Message(role=role, content=text, learn=text != "Not learned") for role, text in turns]
    prompt = Prompt(messages=(*messages, Message(role="user", content="Three?")), tags={"split": "train"})
    return [*plain, Demonstration(prompt=prompt, response=Response(text="3 it is"))]


def learned_logprobs(network: Network, item: Demonstration) -> torch.Tensor:
    """Of every token that is to be learned: the assistant's own turns, each with its stop token, and nothing else."""
    turns = item.messages
    return torch.cat(
        [
            network.logprobs(network.opened(turns[:place]), network.said(turn.content))
            for place, turn in enumerate(turns)
            if turn.role == "assistant" and turn.learn
        ]
    )


def perplexity(network: Network, items: list[Demonstration]) -> float:
    with torch.no_grad():
        return float((-torch.cat([learned_logprobs(network, item) for item in items]).mean()).exp())


@pytest.mark.parametrize("microbatch_tokens", [4096, 64])
def test_every_step_is_the_one_computed_by_hand(microbatch_tokens: int, tmp_path: Path) -> None:
    tree = {
        "model": "tiny",
        "seed": 5,
        "data": written(tmp_path / "data.jsonl", demonstrations()) | {"tags": ["split"]},
        "holdout": {"tag": "split", "value": "test"},
        "epochs": 2,
        "batch_size": 3,
        "microbatch_tokens": microbatch_tokens,
        "optimizer": OPTIMIZER,
    }
    rows, report = run_stage(SFTRecipe, sft.train, tree, tmp_path / "run")

    network = Network(locate("tiny"))
    held_out, learned = demonstrations()[:2], demonstrations()[2:]
    adamw = AdamW(network.network, **{key: OPTIMIZER[key] for key in AdamW.SETTINGS})
    before = perplexity(network, held_out)
    orders = [permutation(7, 5, "sft", "order", epoch).tolist() for epoch in range(2)]
    batches = [order[start : start + 3] for order in orders for start in (0, 3, 6)]
    clipped = set()
    for row, batch, rate in zip(rows, batches, RATES, strict=True):
        logprobs = torch.cat([learned_logprobs(network, learned[number]) for number in batch])
        loss = -logprobs.mean()  # over the tokens of all of them together
        norm = adamw.step(loss, rate)
        clipped.add(norm > 2.0)
        assert row["sft/loss"] == pytest.approx(loss.item(), rel=1e-4)
        assert row["sft/perplexity"] == pytest.approx(math.exp(loss.item()), rel=1e-3)
        assert row["policy/grad_norm"] == pytest.approx(norm, rel=1e-3)
        assert row["policy/learning_rate"] == pytest.approx(rate)
    assert clipped == {True, False}
    assert_moved_alike(tmp_path / "run", network.network)
    assert report["perplexity_before"] == pytest.approx(before, rel=1e-4)
    assert report["perplexity"] == pytest.approx(perplexity(network, held_out), rel=1e-3)
    assert before != pytest.approx(report["perplexity"], rel=0.05)
    assert report["demonstrations"] == 7
