"""What a stage should have computed, as the papers say it and without a line of ours.

The network is transformers', in fp64, run on one whole sequence at a time: nothing is packed, padded, shared or frozen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from palate.lm.sources.zoo import locate
from palate.recipe import parse_recipe
from palate.records import Message, Prompt, Record
from palate.run.directory import Run
from palate.stages import common

STOP = "<|im_end|>"


class Network:
    """A model directory as transformers reads it.

    Args:
        kind: `AutoModelForCausalLM`, or `AutoModelForSequenceClassification`.
        num_labels: of the latter.
    """

    def __init__(self, directory: Path | str, kind: Any = AutoModelForCausalLM, *, num_labels: int = 1) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        labels = {} if kind is AutoModelForCausalLM else {"num_labels": num_labels}
        self.network: Any = kind.from_pretrained(directory, dtype=torch.float64, **labels)
        self.stop = int(self.tokenizer.convert_tokens_to_ids(STOP))

    def write(self, directory: Path) -> str:
        """As a directory, in fp32."""
        self.network.float().save_pretrained(directory)
        self.network.double()
        self.tokenizer.save_pretrained(directory)
        return str(directory)

    def tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text).input_ids)

    def opened(self, messages: Sequence[Message]) -> list[int]:
        """A conversation and the beginning of the assistant's turn, in the layout of the tiny model."""
        turns = "".join(f"<|im_start|>{turn.role}\n{turn.content}{STOP}\n" for turn in messages)
        return self.tokens(turns + "<|im_start|>assistant\n")

    def said(self, text: str) -> list[int]:
        """A response and its stop token."""
        return [*self.tokens(text), self.stop]

    def logprobs(self, before: Sequence[int], after: Sequence[int], *, temperature: float = 1.0) -> Tensor:
        """[T] log p of every token of ``after``, given all that stands before it."""
        logits = self.network(input_ids=torch.tensor([[*before, *after]])).logits[0] / temperature
        ahead = logits.log_softmax(-1)[len(before) - 1 : -1]
        return ahead.gather(1, torch.tensor(after)[:, None])[:, 0]

    def score(self, prompt: Prompt, text: str) -> Tensor:
        """The number at the last token of prompt and response."""
        return self.scores(prompt, text)[0]

    def scores(self, prompt: Prompt, text: str) -> Tensor:
        """[H] all the numbers there."""
        tokens = torch.tensor([self.opened(prompt.messages) + self.said(text)])
        return self.network(input_ids=tokens).logits[0]

    @torch.no_grad()
    def draw(self, prompt: Prompt, uniforms: Sequence[float], *, temperature: float) -> tuple[list[int], float]:
        """A response token by token, each where the cumulative distribution first exceeds its number; and its log p."""
        before, drawn, total = self.opened(prompt.messages), [], 0.0
        for uniform in uniforms:
            logits = self.network(input_ids=torch.tensor([before + drawn])).logits[0, -1]
            p = (logits / temperature).softmax(0)
            drawn.append(int((p.cumsum(0) > uniform).nonzero()[0]))
            total += float(p[drawn[-1]].log())
            if drawn[-1] == self.stop:
                break
        return drawn, total

    def text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True)).strip()


@dataclass
class AdamW:
    """Loshchilov and Hutter 2019, algorithm 2, after Pascanu et al. 2013's clipping of the gradient's norm.

    With an epsilon far above the gradients its steps are nearly proportional to them, so that a wrong scale shows.
    """

    SETTINGS = ("beta1", "beta2", "epsilon", "weight_decay", "max_grad_norm")

    network: Any
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    max_grad_norm: float
    steps: int = 0
    moments: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def step(self, loss: Tensor, rate: float) -> float:
        """One step down the loss at this learning rate; the norm that the gradient had."""
        names, weights = zip(*self.network.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss, weights)
        norm = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
        shrink = min(1.0, self.max_grad_norm / norm) if self.max_grad_norm else 1.0
        self.steps += 1
        for name, weight, gradient in zip(names, weights, gradients, strict=True):
            g = shrink * gradient
            m, v = self.moments.get(name, (0.0, 0.0))
            m, v = self.beta1 * m + (1 - self.beta1) * g, self.beta2 * v + (1 - self.beta2) * g**2
            self.moments[name] = m, v
            unbiased = m / (1 - self.beta1**self.steps), v / (1 - self.beta2**self.steps)
            with torch.no_grad():
                weight -= rate * (unbiased[0] / (unbiased[1].sqrt() + self.epsilon) + self.weight_decay * weight)
        return norm


def run_stage(kind: Any, train: Any, tree: dict[str, Any], out: Path) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Run a stage: the metrics of its steps, and its report; nothing is drawn, which takes longer than the rest."""
    recipe = parse_recipe(kind, {"precision": "fp32", **tree})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "stage_report", lambda *_, **__: None)
        train(recipe, Run.open(out, recipe))
    path = out / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines], json.loads((out / "report.json").read_text(encoding="utf-8"))


def written(path: Path, records: Sequence[Record]) -> dict[str, str]:
    """Records as a recipe's section of data."""
    path.write_text("".join(record.to_json() + "\n" for record in records), encoding="utf-8")
    return {"path": str(path)}


def assert_moved_alike(out: Path, network: Any, start: Path | str = "tiny") -> None:
    """The weights that a run wrote went as far from where they began as the network's did."""
    before, after = load_file(locate(str(start)) / "model.safetensors"), load_file(out / "model" / "model.safetensors")
    farthest = 0.0
    for name, weight in network.named_parameters():
        expected = weight.detach() - before[name]
        farthest = max(farthest, float(expected.abs().max()))
        torch.testing.assert_close(after[name].double() - before[name], expected, rtol=2e-3, atol=2e-6, msg=name)
    assert farthest > 1e-3, "nothing moved far enough to be seen"


def softplus(x: float) -> float:
    """-log sigmoid(-x)."""
    return float(np.logaddexp(0.0, x))
