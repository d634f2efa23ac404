"""Rows of pretraining."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load_file
from tests.stages.effects.rows import Effect, Row, under
from tests.stages.effects.runs import Outcome
from tests.stages.effects.shared import (
    adapter,
    begins_with_the_model,
    cluster,
    computes_in_parts,
    data,
    has_nobody_to_share_with,
    keeps_less,
    keeps_so_many,
    learns_in,
    optimizer,
    refused,
    saves_after,
)
from tests.stages.effects.supervised import begins_alike, joined, learned

from palate.lm.sources.zoo import load_chat, locate

NEW = {"model": None, "frozen_layers": None, "steps": 1}
"""Settings with which the model is a new one."""
SMALL = NEW | {"architecture.preset": "1m", "vocabulary.size": 259}
SAMPLED = {"steps": 1, "num_samples": 3, "sequence_length": 64}


def pretrain() -> list[Row]:
    """Keys of pretraining."""
    named = {"held_out.path": "$records_texts"}
    held_out = [
        replace(row, given=named | dict(row.given), only_reads="held_out")
        for row in under("held_out", data("held_out", "texts"))
    ]
    return [
        Row("stage", (None, "nonsense"), refused("'stage'")),
        Row("model", ("$model", "tiny"), begins_with_the_model, {"steps": 1}),
        Row("chat_template", ("", "plain"), is_saved_with_it, {"steps": 1}),
        Row("precision", ("fp32", "bf16"), learns_in, {"steps": 1}),
        *under("data", data("data", "texts")),
        *held_out,
        Row("held_out_fraction", (0.3, 0.6), learns_less),
        Row("frozen_layers", (0, 2), stay, {"steps": 2}),
        Row("checkpoint_every", (1, 3), saves_after, {"steps": 4, "keep_checkpoints": 9}),
        Row("keep_checkpoints", (1, 2), keeps_so_many, {"steps": 4, "checkpoint_every": 1}),
        Row("microbatch_tokens", (4096, 160), computes_in_parts, {"optimizer.epsilon": 1e-2}),
        Row("recompute_activations", (False, True), keeps_less, {"steps": 2}),
        Row("cluster.shard", ("none", "weights"), has_nobody_to_share_with, {"steps": 2}),
        *under("adapter", adapter()),
        *under("cluster", cluster("data")),
        Row("seed", (0, 1), orders_anew, {"batch_size": 2, "steps": 2}),
        Row("seeds.order", (None, 1), begins_alike(orders_anew, "policy"), {"batch_size": 2, "steps": 2}),
        Row("seeds.initial", (None, 1), draws_its_weights, SMALL),
        Row("sequence_length", (32, 16), in_rows, {"steps": 2}),
        Row("batch_size", (2, 3), in_rows, {"steps": 2}),
        Row("epochs", (1, 2), passes),
        Row("steps", (2, 3), makes_so_many),
        Row("evaluate_every", (1, 2), measures_after, {"steps": 3}),
        Row("num_samples", (1, 2), writes_so_many, SAMPLED),
        Row("sampling.temperature", (1e-4, 2.0), draws_the_likeliest, SAMPLED | {"sampling.max_new_tokens": 8}),
        Row("sampling.max_new_tokens", (4, 9), draws_so_long, SAMPLED),
        Row("sampling.num_slots", (1, 4), draws_side_by_side, SAMPLED | {"sampling.max_new_tokens": 8}),
        *under("architecture", architecture()),
        Row("vocabulary.size", (259, 300), has_so_many_tokens, SMALL),
        Row("vocabulary.model", ("", "tiny"), has_its_tokens, SMALL | {"vocabulary.size": 300}),
        *optimizer("optimizer", "policy", {"steps": 2}),
    ]


def architecture() -> list[Row]:
    """Keys of the shape of a new model."""

    def has(name: str) -> Effect:
        def effect(a: Outcome, b: Outcome) -> None:
            for outcome in (a, b):
                config = json.loads((outcome.directory / "model" / "config.json").read_text(encoding="utf-8"))
                assert config[name] == getattr(outcome.recipe.architecture, key)

        key = {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"}.get(name, name)
        key = {"num_key_value_heads": "num_kv_heads"}.get(key, key)
        return effect

    def has_an_unembedding(a: Outcome, b: Outcome) -> None:
        assert ["lm_head.weight" in outcome.weights for outcome in (a, b)] == [False, True]

    return [
        Row("preset", ("1m", "5m"), has_the_size, SMALL),
        Row("num_layers", (2, 3), has("num_hidden_layers"), SMALL),
        Row("num_heads", (2, 8), has("num_attention_heads"), SMALL),
        Row("num_kv_heads", (1, 4), has("num_key_value_heads"), SMALL),
        Row("hidden_size", (64, 96), has("hidden_size"), SMALL),
        Row("intermediate_size", (64, 96), has("intermediate_size"), SMALL),
        Row("tie_embeddings", (True, False), has_an_unembedding, SMALL),
    ]


def counts(outcome: Outcome) -> list[int]:
    """Tokens that were foretold in each step: all but the first of each part."""
    return [sum(len(part) - 1 for part in step) for step in learned(outcome, "policy")]


def is_saved_with_it(a: Outcome, b: Outcome) -> None:
    layouts = [load_chat("tiny").fingerprint, load_chat("tiny", chat_template="plain").fingerprint]
    assert [load_chat(str(outcome.directory)).fingerprint for outcome in (a, b)] == layouts


def learns_less(a: Outcome, b: Outcome) -> None:
    """Every document is on one of the sides."""
    for outcome in (a, b):
        assert outcome.report["documents"] + outcome.report["held_out_documents"] == 12
        assert sum(counts(outcome)) == outcome.report["tokens"]
    assert b.report["documents"] < a.report["documents"]


def stay(a: Outcome, b: Outcome) -> None:
    """Embeddings and so many layers do not move, everything else does."""
    for outcome, layers in ((a, 0), (b, 2)):
        named = load_file(locate(outcome.recipe.model) / "model.safetensors")
        still = {key for key, tensor in named.items() if torch.equal(tensor, outcome.weights[key])}
        lower = ("model.embed_tokens", *(f"model.layers.{layer}." for layer in range(layers)))
        assert still == {key for key in named if layers and key.startswith(lower)}


def orders_anew(a: Outcome, b: Outcome) -> None:
    assert counts(a) == counts(b)
    assert learned(a, "policy")[0] != learned(b, "policy")[0]


def draws_its_weights(a: Outcome, b: Outcome) -> None:
    assert not torch.equal(*(outcome.updates["policy"][0].before for outcome in (a, b)))
    assert learned(a, "policy") == learned(b, "policy")


def in_rows(a: Outcome, b: Outcome) -> None:
    """Of so many tokens, and so many of them in a step."""
    for outcome in (a, b):
        recipe = outcome.recipe
        assert counts(outcome) == 2 * [recipe.batch_size * recipe.sequence_length]
        assert max(len(part) for step in learned(outcome, "policy") for part in step) == recipe.sequence_length + 1
    assert counts(a) != counts(b)


def passes(a: Outcome, b: Outcome) -> None:
    """Every token once in each, in other rows each time."""
    assert [outcome.report["passes"] for outcome in (a, b)] == [1.0, 2.0]
    once, twice = joined(learned(a, "policy")), joined(learned(b, "policy"))
    tokens = sorted(token for part in once for token in part[1:])
    assert sorted(token for part in twice for token in part[1:]) == sorted(2 * tokens)
    assert sorted(once) != sorted(twice[len(twice) // 2 :])


def makes_so_many(a: Outcome, b: Outcome) -> None:
    assert [len(outcome.updates["policy"]) for outcome in (a, b)] == [2, 3]


def measures_after(a: Outcome, b: Outcome) -> None:
    """Every so many steps, and after the last."""
    assert [value is None for value in a.column("pretrain/bits_per_byte")] == [False, False, False]
    assert [value is None for value in b.column("pretrain/bits_per_byte")] == [True, False, False]


def texts(outcome: Outcome) -> list[tuple[str, str]]:
    return [(row["prompt"], row["response"]) for row in outcome.lines("samples.jsonl")]


def writes_so_many(a: Outcome, b: Outcome) -> None:
    assert [len(texts(outcome)) for outcome in (a, b)] == [1, 2]
    assert texts(a) == texts(b)[:1]


def draws_the_likeliest(a: Outcome, b: Outcome) -> None:
    """At a temperature near zero: what transformers finds likeliest after the same beginning."""
    from transformers import AutoModelForCausalLM

    kind: Any = AutoModelForCausalLM
    network, chat = kind.from_pretrained(a.directory / "model"), load_chat(str(a.directory))
    for prompt, response in texts(a):
        tokens = [chat.stop_id, *chat.text_tokens(prompt)[:-1]]
        begun = len(tokens)
        while (len(tokens) < begun + 8 and tokens[-1] != chat.stop_id) or len(tokens) == begun:
            tokens.append(int(network(torch.tensor([tokens])).logits[0, -1].argmax()))
        assert chat.text(tokens[begun:]) == response
    assert texts(a) != texts(b)


def draws_so_long(a: Outcome, b: Outcome) -> None:
    assert a.token_steps[-1] <= 4 < b.token_steps[-1] <= 9


def draws_side_by_side(a: Outcome, b: Outcome) -> None:
    assert a.token_steps[-1] > b.token_steps[-1]
    assert texts(a) == texts(b)


def has_the_size(a: Outcome, b: Outcome) -> None:
    for outcome, size in ((a, 1e6), (b, 5e6)):
        own = 4096 - outcome.report["vocabulary"]
        whole = outcome.report["weights"] + own * outcome.weights["model.embed_tokens.weight"].shape[1]
        assert 0.85 * size < whole < 1.15 * size


def has_so_many_tokens(a: Outcome, b: Outcome) -> None:
    assert [len(load_chat(str(outcome.directory)).tokenizer) for outcome in (a, b)] == [259, 300]
    assert [len(outcome.weights["model.embed_tokens.weight"]) for outcome in (a, b)] == [259, 300]


def has_its_tokens(a: Outcome, b: Outcome) -> None:
    tiny = load_chat("tiny").tokenizer.get_vocab()
    assert [load_chat(str(outcome.directory)).tokenizer.get_vocab() == tiny for outcome in (a, b)] == [False, True]
