"""A model whose parts are of comparable size, and a little data of every kind for it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from palate.lm import decoder
from palate.lm.kernels import products
from palate.lm.sources.builtin import byte_tokenizer
from palate.records import Demonstration, Prompt, Ranking, Record, Response


@pytest.fixture(autouse=True)
def _trials_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which numbers of rows agree is tried once a process, by whichever test comes first: in a thread not followed."""
    tried = products.least_of_one_order

    def aside(*shape: int) -> int | None:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(tried, *shape).result()

    monkeypatch.setattr(products, "least_of_one_order", aside)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths: models, prompts, demonstrations, rankings and thumbs."""
    directory = tmp_path_factory.mktemp("estimate")
    write_model(directory / "model")
    write_model(directory / "other", seed=1)
    write_model(directory / "capped", "Gemma2", head_dim=16, query_pre_attn_scalar=16)
    prompts = [Prompt.from_text("What of " + "it, " * (3 + number % 4) + f"{number}?") for number in range(40)]
    answers = ("It is good.", "It is bad and goes on for rather too long.", "Hm.", "What of it?")
    records: dict[str, list[Record]] = {
        "prompts": list(prompts),
        "demonstrations": [
            Demonstration(prompt=prompt, response=Response(text="Yes, it is fine." + " Very." * (number % 3)))
            for number, prompt in enumerate(prompts)
        ],
        "rankings": [
            Ranking(
                prompt=prompt,
                responses=tuple(Response(text=text) for text in answers),
                ranks=(1, 3, 2, 2),
                labeler="ann",
            )
            for prompt in prompts
        ],
        "thumbs": [
            Ranking(
                prompt=prompt,
                responses=(Response(text=answers[number % 4]),),
                ranks=(1,),
                ratings=(7.0 if number % 3 else 1.0,),
            )
            for number, prompt in enumerate(prompts)
        ],
    }
    for name, rows in records.items():
        path = directory / f"{name}.jsonl"
        path.write_text("".join(row.to_json() + "\n" for row in rows), encoding="utf-8")
    choices = [
        {
            "query": f"What of {number}?",
            "choices": [f"{answer} {'And so on. ' * (number % 5)}" for answer in answers],
            "gold": 0,
        }
        for number in range(60)
    ]
    (directory / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in choices), encoding="utf-8")
    (directory / "texts.txt").write_text("A mill by a river turned all day. " * 300, encoding="utf-8")
    models = {name: str(directory / name) for name in ("model", "other", "capped")}
    models |= {"choices": str(directory / "choices.jsonl"), "texts": str(directory / "texts.txt")}
    return {name: str(directory / f"{name}.jsonl") for name in records} | models


def write_model(directory: Path, family: str = "Llama", *, seed: int = 0, **sizes: Any) -> None:
    """Four layers of width 64 and 3,000 tokens: embeddings, layers and a few hundred rows weigh about the same."""
    import transformers

    tokenizer: Any = byte_tokenizer()
    config = getattr(transformers, f"{family}Config")(
        vocab_size=3000,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = getattr(transformers, f"{family}ForCausalLM")(config).state_dict()
    directory.mkdir()
    decoder.write(directory, config, state, "ForCausalLM")
    tokenizer.save_pretrained(directory)
