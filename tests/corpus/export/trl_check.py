"""TRL's own look at exported files: python trl_check.py FOLDER, in an environment that has trl and not necessarily us.

The folder holds one `NAME.jsonl` for each format of TRL's that we write. Each is loaded by `datasets`, every row goes
through TRL's functions for data, and the trainer that the format is for prepares the file and makes two steps with a
model of a few thousand random weights. What was found is printed as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from trl.data_utils import (
    apply_chat_template,
    extract_prompt,
    is_conversational,
    maybe_apply_chat_template,
    maybe_extract_prompt,
    unpair_preference_dataset,
)

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PAIRS = {"trl-explicit", "trl-conversational", "trl-implicit", "trl-implicit-text"}
TEXTS = {"trl-explicit", "trl-implicit-text", "trl-kto-text", "trl-prompt-completion-text"}
TRAINERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(PAIRS, ("Reward", "DPO", "KTO")),
    **dict.fromkeys(("trl-kto", "trl-kto-text"), ("KTO",)),
    **dict.fromkeys(("trl-prompt-completion", "trl-prompt-completion-text", "messages"), ("SFT",)),
}


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for every byte."""
    vocabulary = {character: number for number, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokens = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    special = {"eos_token": "<eos>", "pad_token": "<pad>"}
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokens, extra_special_tokens=["<system>", "<user>", "<assistant>"], **special
    )
    made.chat_template = TEMPLATE
    return made


def look(name: str, dataset: datasets.Dataset, tokens: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Every row through TRL's functions for data."""
    rows = list(dataset)
    assert all(is_conversational(row) == (name not in TEXTS) for row in rows)
    found: dict[str, Any] = {"rows": len(rows), "columns": sorted(dataset.column_names)}
    if name in PAIRS:
        extracted = [maybe_extract_prompt(row) for row in rows]
        assert all(row["chosen"] != row["rejected"] and row["prompt"] for row in extracted)
        if name == "trl-implicit":  # the prompt is all but the answer
            assert all(len(row["chosen"]) == len(row["rejected"]) == 1 for row in extracted)
            assert all(row["prompt"][-1]["role"] != "assistant" for row in extracted)
        pairs = dataset.map(extract_prompt) if "implicit" in name else dataset
        unpaired = unpair_preference_dataset(pairs.select_columns(["prompt", "chosen", "rejected"]))
        assert len(unpaired) == 2 * len(rows)
        assert sorted(set(unpaired["label"])) == [False, True]
    for row in rows:
        templated = maybe_apply_chat_template(row, tokens)
        assert all(isinstance(value, str) for key, value in templated.items() if key not in ("label", "margin"))
        if name not in TEXTS:
            assert templated == apply_chat_template(row, tokens)
            assert all(turn["content"] in json_free(templated) for turn in every_turn(row))
    return found


def every_turn(row: dict[str, Any]) -> list[dict[str, str]]:
    return [turn for value in row.values() if isinstance(value, list) for turn in value]


def json_free(templated: dict[str, Any]) -> str:
    return "".join(str(value) for value in templated.values())


def train(trainer: str, dataset: datasets.Dataset, tokens: PreTrainedTokenizerFast, folder: str) -> float:
    """Two steps of a trainer, on one batch each; its last loss."""
    shape = {
        "vocab_size": len(tokens),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "pad_token_id": tokens.pad_token_id,
        "eos_token_id": tokens.eos_token_id,
        "bos_token_id": None,
    }
    torch.manual_seed(0)
    kind: Callable[..., Any] = LlamaForSequenceClassification if trainer == "Reward" else LlamaForCausalLM
    config = LlamaConfig(**shape, **({"num_labels": 1} if trainer == "Reward" else {}))
    reference = {"ref_model": kind(config)} if trainer in ("DPO", "KTO") else {}
    settings = getattr(trl, f"{trainer}Config")(
        output_dir=folder,
        max_steps=2,
        per_device_train_batch_size=len(dataset),
        report_to=[],
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
        max_length=512,
    )
    made = getattr(trl, f"{trainer}Trainer")(
        model=kind(config), args=settings, train_dataset=dataset, processing_class=tokens, **reference
    )
    assert len(made.train_dataset) >= len(dataset), "rows were dropped"
    return float(made.train().training_loss)


def main(folder: Path) -> None:
    """Check every file, and print what was seen."""
    datasets.disable_progress_bars()
    tokens = tokenizer()
    seen: dict[str, Any] = {"trl": trl.__version__}
    with tempfile.TemporaryDirectory() as scratch:
        for path in sorted(folder.glob("*.jsonl")):
            name = path.stem
            dataset = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=scratch)
            seen[name] = look(name, dataset, tokens)
            losses = {each: train(each, dataset, tokens, scratch) for each in TRAINERS[name]}
            assert all(0 < loss < float("inf") for loss in losses.values()), losses
            seen[name]["trained"] = sorted(losses)
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
