"""TRL's trainers and transformers' `generate`, with settings that suit them.

Gradient checkpointing, which TRL switches on by default, is off unless asked for: it saves memory and costs a third of
the time. With bf16 the weights stay in fp32, as Palate's do, and products run under autocast. No row is cut to TRL's
default of 1,024 tokens.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import transformers
import trl
import work
from datasets import Dataset
from sides.gate import Gate
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

ENDLESS = 10**6


class Turns(TrainerCallback):
    """Lets a trainer do one optimizer step at a time; ``facts`` are read from the last log."""

    def __init__(self, gate: Gate, **facts: Any) -> None:
        self.gate, self.facts, self.logged = gate, facts, {}

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Wait."""
        self.gate.begin()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Comes after the step; it is only remembered."""
        self.logged = logs

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Answer."""
        self.gate.end(**self.facts, logged=self.logged)


def main() -> None:
    """One task, until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=[*TASKS])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--rows", choices=[*work.SIZES], default="short")
    parser.add_argument("--adapter", type=int, default=0, help="the rank; 0: the weights learn")
    arguments = parser.parse_args()
    arguments.sizes = work.SIZES[arguments.rows]
    gate = Gate(trl=trl.__version__, transformers=transformers.__version__, torch=torch.__version__)
    TASKS[arguments.task](arguments, gate)


def settings(arguments: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """What all trainers share."""
    return {
        "output_dir": str(arguments.work / "trl"),
        "max_steps": ENDLESS,
        "learning_rate": work.LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "adam_beta1": work.BETAS[0],
        "adam_beta2": work.BETAS[1],
        "adam_epsilon": work.EPSILON,
        "max_grad_norm": 1.0,
        "bf16": arguments.precision == "bf16",
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "gradient_checkpointing": arguments.checkpointing,
    } | more


def adapter(arguments: argparse.Namespace, task: str = "CAUSAL_LM") -> Any:
    """On every weight of every layer, as Palate's; a scalar head is trained whole. None: the weights learn."""
    if not arguments.adapter:
        return None
    from peft import LoraConfig

    rank = arguments.adapter
    return LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type=task)


def language_model(arguments: argparse.Namespace, name: str) -> tuple[Any, Any]:
    """Model and tokenizer."""
    directory = arguments.work / name
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(directory)


def turn(role: str, text: str) -> list[dict[str, str]]:
    """A conversation of one turn."""
    return [{"role": role, "content": text}]


def generate(arguments: argparse.Namespace, gate: Gate) -> None:
    """`generate`, every response as long as the others."""
    model, tokenizer = language_model(arguments, "endless")
    model.to("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16 if arguments.precision == "bf16" else None)
    model.generation_config.eos_token_id = None
    rows = work.read(arguments.work, "prompts.jsonl")
    prompts = [turn("user", row["prompt"]) for row in rows]
    batch = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    batch = batch.to(model.device)
    while True:
        gate.begin()
        out = model.generate(
            **batch,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=arguments.sizes.new,
            num_return_sequences=work.SAMPLES_EACH,
        )
        width = batch["input_ids"].shape[1]
        gate.end(tokens=int(out[:, width:].numel()), prompt_tokens=int(batch["input_ids"].numel()))


def rloo(arguments: argparse.Namespace, gate: Gate) -> None:
    """Eight prompts, four responses each, four microbatches of eight."""
    model, tokenizer = language_model(arguments, "endless")
    rows = work.read(arguments.work, "rl_prompts.jsonl")
    config = trl.RLOOConfig(
        **settings(arguments),
        per_device_train_batch_size=8,
        gradient_accumulation_steps=work.RL_PROMPTS * work.RL_SAMPLES // 8,
        num_generations=work.RL_SAMPLES,
        max_completion_length=arguments.sizes.new,
        beta=work.KL_COEF,
        temperature=1.0,
    )

    def reward(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
        return work.letters([completion[0]["content"] for completion in completions])

    trainer = trl.RLOOTrainer(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": turn("user", row["prompt"])} for row in rows]),
        processing_class=tokenizer,
        peft_config=adapter(arguments),
        callbacks=[Turns(gate, tokens=work.RL_PROMPTS * work.RL_SAMPLES * arguments.sizes.new)],
    )
    trainer.train()


def pairs(arguments: argparse.Namespace, size: int) -> list[dict[str, Any]]:
    """All ordered pairs of the rankings, as TRL wants them."""
    return [
        {
            "prompt": turn("user", row["prompt"]),
            "chosen": turn("assistant", row["responses"][better]),
            "rejected": turn("assistant", row["responses"][worse]),
        }
        for row in work.read(arguments.work, f"rankings-{size}.jsonl")
        for better in range(size)
        for worse in range(better + 1, size)
    ]


def reward_model(arguments: argparse.Namespace, gate: Gate, size: int) -> None:
    """All pairs of eight rankings in one optimizer step, eight pairs to a microbatch."""
    directory = arguments.work / "reward"
    model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1, dtype=torch.float32)
    rows = pairs(arguments, size)
    config = trl.RewardConfig(
        **settings(arguments),
        per_device_train_batch_size=8,
        gradient_accumulation_steps=len(rows) // 8,
        max_length=work.LONGEST,
    )
    trl.RewardTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(directory),
        peft_config=adapter(arguments, "SEQ_CLS"),
        callbacks=[Turns(gate)],
    ).train()


def dpo(arguments: argparse.Namespace, gate: Gate) -> None:
    """Eight pairs, the reference included; two microbatches, since one of eight pairs of logits does not fit 24 GB."""
    model, tokenizer = language_model(arguments, "model")
    config = trl.DPOConfig(
        **settings(arguments),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        beta=work.DPO_BETA,
        max_length=work.LONGEST,
    )
    trl.DPOTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(pairs(arguments, 2)),
        processing_class=tokenizer,
        peft_config=adapter(arguments),
        callbacks=[Turns(gate)],
    ).train()


def sft(arguments: argparse.Namespace, gate: Gate) -> None:
    """Sixteen demonstrations, the loss on their responses only; four at a time: all at once they take 18 GB."""
    model, tokenizer = language_model(arguments, "model")
    rows = [
        {"prompt": turn("user", row["prompt"]), "completion": turn("assistant", row["response"])}
        for row in work.read(arguments.work, "demonstrations.jsonl")
    ]
    config = trl.SFTConfig(
        **settings(arguments),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=4,
        completion_only_loss=True,
        max_length=work.LONGEST,
    )
    trl.SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=adapter(arguments),
        callbacks=[Turns(gate)],
    ).train()


TASKS = {
    "sampling": generate,
    "rloo": rloo,
    "reward-2": lambda arguments, gate: reward_model(arguments, gate, 2),
    "reward-4": lambda arguments, gate: reward_model(arguments, gate, 4),
    "dpo": dpo,
    "sft": sft,
}

if __name__ == "__main__":
    main()
