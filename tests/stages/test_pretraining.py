"""Pretraining: what is learned from and what is not, the numbers by hand, and what is said before the first step."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from palate.corpus.splits import split_texts
from palate.errors import DataError, RecipeError
from palate.lm.batch import Sequences
from palate.lm.model import Model
from palate.lm.sources.zoo import load_chat
from palate.recipe import PretrainRecipe, parse_recipe
from palate.records import text_id
from palate.run.directory import Run
from palate.stages import pretrain
from palate.stages.estimate.trial import estimate

WORDS = ("mill", "river", "bell", "moss", "bread", "rain", "rope", "chalk", "wool", "ink")


def texts(count: int) -> list[str]:
    return [" ".join(f"{WORDS[(n * k) % 10]}{n}" for k in range(1, 6)) + "." for n in range(count)]


def write(path: Path, rows: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows), encoding="utf-8")
    return str(path)


def tree(path: str, **more: Any) -> dict[str, Any]:
    return {
        "model": "tiny",
        "precision": "fp32",
        "data": {"path": path},
        "held_out_fraction": 0.3,
        "sequence_length": 32,
        "batch_size": 4,
        "num_samples": 0,
        "steps": 1,
    } | more


def run(settings: dict[str, Any], out: Path) -> dict[str, Any]:
    recipe = parse_recipe(PretrainRecipe, settings)
    pretrain.train(recipe, Run.open(out, recipe))
    return dict(json.loads((out / "report.json").read_text(encoding="utf-8")))


def test_nothing_that_trains_sees_a_held_out_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the weights nor the tokenizer; and a copy in capitals is on the side of its original."""
    rows = texts(40)
    copies = [text.upper().replace(" ", "  ") for text in rows[:20]]
    learned: list[Sequences] = []
    told: list[str] = []
    hidden, trains = Model.hidden, pretrain.train_tokenizer

    def watched(self: Model, sequences: Sequences, *args: Any) -> Any:
        if torch.is_grad_enabled():
            learned.append(sequences)
        return hidden(self, sequences, *args)

    def trained(given: list[str], size: int) -> Any:
        told.extend(given)
        return trains(given, size)

    monkeypatch.setattr(Model, "hidden", watched)
    monkeypatch.setattr(pretrain, "train_tokenizer", trained)
    new = {"architecture": {"preset": "1m", "num_layers": 1}, "vocabulary": {"size": 259}}
    path = write(tmp_path / "texts.jsonl", rows + copies)
    one_row = {"sequence_length": 4096, "steps": None}  # so that no word is divided
    report = run(tree(path, model="", **one_row, **new), tmp_path / "run")

    chat = load_chat(str(tmp_path / "run"))
    parts = [
        ids[:length]
        for batch in learned
        for ids, length in zip(batch.tokens.tolist(), batch.lengths.tolist(), strict=True)
    ]
    seen = " ".join(chat.tokenizer.decode(part) for part in parts).casefold()
    held_out = {text_id(text) for text in split_texts(rows + copies, 0.3)[1]}
    assert 0 < len(held_out) < 40
    assert not held_out & {text_id(text) for text in told}
    for text in rows:
        name = text.split()[0]  # in no other document
        assert (f"{name} " in seen) is (text_id(text) not in held_out), text
    assert report["documents"] + report["held_out_documents"] == 60
    assert report["documents"] == len(told)


def test_documents_that_are_named_are_taken_out_of_the_text(tmp_path: Path) -> None:
    path = write(tmp_path / "texts.jsonl", texts(20))
    others = write(tmp_path / "others.jsonl", [texts(20)[3].title(), "Something else altogether."])
    report = run(tree(path, held_out={"path": others}), tmp_path / "run")
    assert (report["documents"], report["held_out_documents"]) == (19, 2)
    assert any("is held out" in note and "texts.jsonl:4" in note for note in report["notes"])
    with pytest.raises(DataError, match="every document of it is among those that are held out"):
        run(tree(path, held_out={"path": path}), tmp_path / "again")


def test_bits_per_byte_by_hand(tmp_path: Path) -> None:
    """From transformers' numbers for each document by itself, its end included; rows are longer than they are."""
    from transformers import AutoModelForCausalLM

    rows = ["ab é", "The mill turned."]
    settings = tree(
        write(tmp_path / "texts.jsonl", texts(8)),
        held_out={"path": write(tmp_path / "others.jsonl", rows)},
        sequence_length=64,
        num_samples=2,
        sampling={"max_new_tokens": 5},
    )
    report = run(settings, tmp_path / "run")
    kind: Any = AutoModelForCausalLM
    network, chat = kind.from_pretrained(tmp_path / "run" / "model"), load_chat(str(tmp_path / "run"))
    nats, count = 0.0, 0
    for text in rows:
        ids = torch.tensor([[chat.stop_id, *chat.text_tokens(text)]])
        logprobs = network(ids).logits[0, :-1].detach().log_softmax(-1)
        nats -= float(logprobs.gather(-1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
    assert report["bits_per_byte"] == pytest.approx(
        nats / math.log(2) / sum(len(text.encode()) for text in rows), rel=1e-4
    )
    assert report["held_out_loss"] == pytest.approx(nats / count, rel=1e-4)
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in samples] == ["ab é", "The mill"]


@pytest.mark.parametrize(
    ("steps", "words"), [(1, ""), (8, "up to 4 do little harm"), (60, "more text would help more")]
)
def test_it_says_how_often_the_data_repeats(steps: int, words: str, tmp_path: Path) -> None:
    path = write(tmp_path / "texts.jsonl", texts(12))
    report = run(tree(path, steps=steps), tmp_path / "run")
    notes = [note for note in report["notes"] if "the data repeats" in note]
    assert len(notes) == bool(words)
    assert all(words in note for note in notes)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["pretrain/tokens"] == report["tokens_seen"]
    assert rows[-1]["pretrain/passes"] == pytest.approx(report["tokens_seen"] / report["tokens"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"epochs": 1, "steps": 2}, "epochs and steps both say"),
        ({"model": "", "adapter": {}}, "are for a model that goes on"),
        ({"architecture": {"preset": "10m"}}, "are of a new model"),
        ({"sequence_length": 2048}, "more than the 2048 the model was made for"),
        ({"num_samples": 1, "model": "", "sequence_length": 20}, "do not fit the model's context of 21"),
        ({"held_out_fraction": 1e-9}, "leaves none to measure on"),
        ({"model": "", "architecture": {"num_heads": 7}}, "does not divide into 7 heads"),
    ],
)
def test_mistakes_are_told_before_the_first_step(more: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = write(tmp_path / "texts.jsonl", texts(12))
    with pytest.raises((RecipeError, DataError), match=words):
        run(tree(path, **more), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_estimate_of_a_new_model(tmp_path: Path) -> None:
    path = write(tmp_path / "texts.jsonl", texts(40))
    new = {"model": "", "architecture": {"preset": "1m"}, "vocabulary": {"size": 300}, "steps": 50}
    recipe = parse_recipe(PretrainRecipe, tree(path, **new))
    said = estimate(pretrain.train, recipe, memory=2**34, on_gpu=True)
    assert "memory at the peak" in said
    assert "in 50 steps" in said
    assert "s a step" in estimate(pretrain.train, recipe)
