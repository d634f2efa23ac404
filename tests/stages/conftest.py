"""Small data of every kind, and the recipes that use it with the tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from palate.demo.prompts import demo_prompts
from palate.lm.sources.zoo import load_language_model, save
from palate.records import Demonstration, Ranking, Record, Response

ANSWERS = ("It is good.", "It is bad and goes on for rather too long.", "Hm.", "What?")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of prompts, demonstrations, rankings, thumbs, texts and documents."""
    directory = tmp_path_factory.mktemp("data")

    def write(name: str, records: Sequence[Record]) -> str:
        path = directory / name
        path.write_text("".join(record.to_json() + "\n" for record in records), encoding="utf-8")
        return str(path)

    prompts = demo_prompts(held_out=False)[:40]
    texts = directory / "texts.txt"
    texts.write_text(
        "Once there was a mill by a river.\n\nIt turned all day, and nobody knew why. " * 20, encoding="utf-8"
    )
    documents = directory / "documents.jsonl"
    documents.write_text(
        "".join(
            json.dumps({"text": f"Of mill {number} by the river. " + "It turned all day, and nobody knew why. " * 3})
            + "\n"
            for number in range(40)
        ),
        encoding="utf-8",
    )
    return {
        "documents": str(documents),
        "prompts": write("prompts.jsonl", prompts),
        "demonstrations": write(
            "demonstrations.jsonl",
            [
                Demonstration(prompt=prompt, response=Response(text="Yes, it is fine." + " Very." * (number % 3)))
                for number, prompt in enumerate(prompts)
            ],
        ),
        "rankings": write(
            "rankings.jsonl",
            [
                Ranking(
                    prompt=prompt,
                    responses=tuple(Response(text=text) for text in ANSWERS),
                    ranks=(1, 3, 2, 2) if labeler == "ann" else (1, 4, 3, 2),
                    labeler=labeler,
                )
                for prompt in prompts
                for labeler in ("ann", "bob")
            ],
        ),
        "thumbs": write(
            "thumbs.jsonl",
            [
                Ranking(
                    prompt=prompt,
                    responses=(Response(text=ANSWERS[number % 4]),),
                    ranks=(1,),
                    ratings=(7.0 if number % 4 == 0 else 1.0,),
                )
                for number, prompt in enumerate(prompts)
            ],
        ),
        "texts": str(texts),
    }


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model like the tiny one that would say other things."""
    directory = tmp_path_factory.mktemp("teacher") / "model"
    loaded, generator = load_language_model("tiny", precision="fp32"), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter += 0.3 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    save(loaded.model, loaded.chat, directory)
    return str(directory)


@pytest.fixture(scope="session")
def settings(data: dict[str, str], teacher: str) -> dict[str, dict[str, Any]]:
    """Recipe trees by stage, small enough for a test."""
    base: dict[str, Any] = {"model": "tiny", "precision": "fp32", "frozen_layers": 1}
    rl = base | {
        "prompts": {"path": data["prompts"]},
        "rewards": [{"length": 3.0}, {"function": "palate.simulated.tastes:short", "weight": 0.5}],
        "sampling": {"max_new_tokens": 8},
        "prompts_per_step": 4,
        "steps": 2,
    }
    return {
        "pretrain": base
        | {"data": {"path": data["documents"]}, "held_out_fraction": 0.2, "sequence_length": 64, "batch_size": 8},
        "sft": base | {"data": {"path": data["demonstrations"]}},
        "reward": base | {"data": {"path": data["rankings"]}, "batch_responses": 16},
        "dpo": base | {"data": {"path": data["rankings"]}},
        "kto": base | {"data": {"path": data["thumbs"]}, "batch_size": 18},
        "reinforce": rl,
        "online-dpo": rl,
        "raft": rl,
        "distill": rl | {"teachers": [teacher, "tiny"]},
        "ppo": rl | {"value_model": "tiny", "epochs": 2, "minibatches": 2},
    }


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Write a recipe tree to a file."""
    import tomli_w

    def write(tree: dict[str, Any]) -> Path:
        path = tmp_path / "recipe.toml"
        path.write_text(tomli_w.dumps(tree), encoding="utf-8")
        return path

    return write
