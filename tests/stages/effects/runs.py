"""Whole stages on the tiny model, watched: what they read, drew, computed, learned, logged and wrote.

A run is made once however many tests look at it: `Runs` keeps what came of it under its stage and its recipe, in which
a key that was left out stands with its default. Nothing is drawn: pictures take longer than all the rest of such a run.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from email.message import Message
from functools import cached_property
from importlib import import_module
from pathlib import Path
from string import Template
from typing import Any
from urllib.error import HTTPError

import pytest
import torch
from safetensors.torch import load_file
from tests.scripted_vllm import ScriptedVLLM
from torch import Tensor

from palate import recipe as recipes
from palate.commands import STAGES
from palate.corpus import reading
from palate.errors import PalateError
from palate.evals import plots
from palate.evals.card import pictures
from palate.evals.page import Report
from palate.lm.batch import Sequences
from palate.lm.decoder import DecoderLayer
from palate.lm.model import Model
from palate.lm.optim import Optimizer
from palate.recipe import Data, Section, parse_recipe
from palate.rewards.judges import endpoint_client
from palate.rollout import local, vllm
from palate.rollout.engine import Rollout
from palate.rollout.local import LocalEngine
from palate.rollout.servers import vllm_server
from palate.run import checkpoints
from palate.run.directory import Run
from palate.stages import common
from palate.stages.agent import agent
from palate.stages.measuring import card

RECIPES: dict[str, type[Section]] = {stage.name: getattr(recipes, stage.recipe) for stage in STAGES}
RECIPES["agent"] = recipes.AgentRecipe
"""The recipe of every command that takes one."""
TRAIN: dict[str, Callable[..., None]] = {
    stage.name: getattr(import_module(stage.module), stage.function) for stage in STAGES
}
TRAIN["agent"] = agent.train


@dataclass(frozen=True, kw_only=True)
class Update:
    """One optimizer step.

    Attributes:
        names: of everything that is trained.
        gradient, before, after: [N] of all of it, in this order; the gradient as it was accumulated, not clipped yet.
        learned: the sequences of the forward passes that the gradient came from.
    """

    names: list[str]
    gradient: Tensor
    before: Tensor
    after: Tensor
    learned: list[Sequences]


KEY, KEY_VARIABLE = "a-key-of-nobody-17", "PALATE_TEST_KEY"


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A request to an endpoint.

    Attributes:
        together: requests that were under way when it came, itself among them.
    """

    address: str
    headers: Mapping[str, str]
    timeout: float
    asked: Mapping[str, Any]
    together: int


@dataclass(kw_only=True)
class Outcome:
    """What came of a run.

    Attributes:
        error: what it ended with; empty if it ended well.
        recipe: as it was parsed; absent where it was refused.
        metrics: a row for each step.
        report: of the run; empty if it did not end well.
        read: by the section that names it: what was read.
        rollouts: in the order in which they were drawn.
        token_steps: for each of them, how often every slot of the sampler was given a token.
        layers: how often a layer of a network was run.
        passes: tokens computed in each forward pass outside the sampler, and the number of its prompts.
        from_trunk: for each forward pass that a gradient came from: whether it was given the frozen layers' output.
        dtypes: of matrix products, in every model that computed something.
        saved: names of the checkpoints there after each time that one was written.
        updates: by the optimizer's name.
        sent: requests to endpoints.
        served: requests to servers that sample.
    """

    directory: Path
    error: str = ""
    recipe: Any = None
    metrics: list[dict[str, float]] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    read: dict[str, reading.Read[Any]] = field(default_factory=dict)
    rollouts: list[Rollout] = field(default_factory=list)
    token_steps: list[int] = field(default_factory=list)
    layers: int = 0
    passes: list[tuple[int, int]] = field(default_factory=list)
    from_trunk: list[bool] = field(default_factory=list)
    dtypes: set[torch.dtype] = field(default_factory=set)
    saved: list[list[str]] = field(default_factory=list)
    updates: dict[str, list[Update]] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    served: list[Sent] = field(default_factory=list)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Of the model that was written."""
        return load_file(self.directory / "model" / "model.safetensors")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Of a file of JSON lines in the run's directory."""
        return [json.loads(line) for line in (self.directory / name).read_text(encoding="utf-8").splitlines()]

    def column(self, metric: str) -> list[float | None]:
        """A metric over the steps; None where it was not logged."""
        return [row.get(metric) for row in self.metrics]


Spoil = Callable[[Rollout], Rollout]
"""What a faulty sampler does to a rollout."""


class _ReadEnough(Exception):
    """A section was read, and nothing else is asked of the run."""


class Runs:
    """Every run that was asked for so far, by its stage and its recipe.

    Args:
        bases: by stage: the recipe that all its runs are variations of.
        files: by name: paths that stand for ``$name`` in settings.
        directory: for the runs.
    """

    def __init__(self, bases: Mapping[str, dict[str, Any]], files: Mapping[str, str], directory: Path) -> None:
        self.bases, self.files, self.directory = bases, files, directory
        self._kept: dict[str, Outcome] = {}

    def __call__(
        self, stage: str, changes: Mapping[str, Any], *, spoil: Spoil | None = None, only_reads: str = ""
    ) -> Outcome:
        """The outcome of the base recipe with these keys, ``a.b`` reaching into sections, set to other values.

        Args:
            spoil: what a faulty sampler does.
            only_reads: the run ends as soon as this section was read.
        """
        tree = deepcopy(self.bases[stage])
        for key, value in changes.items():
            put(tree, key.split("."), deepcopy(value))
        directory = self.directory / f"{len(self._kept)}"
        try:
            recipe = parse_recipe(RECIPES[stage], filled_in(tree, self.files))
        except PalateError as error:
            return Outcome(directory=directory, error=str(error))
        name = " ".join([stage, getattr(spoil, "__name__", ""), only_reads, recipe.model_dump_json()])
        if name not in self._kept:
            self._kept[name] = watched(stage, recipe, directory, spoil, only_reads)
        return self._kept[name]


def put(tree: Any, path: list[str], value: Any) -> None:
    """Set one key of a recipe; None takes it out."""
    *parents, last = path
    for part in parents:
        tree = tree[int(part)] if isinstance(tree, list) else tree.setdefault(part, {})
    if value is None:
        tree.pop(last, None)
    else:
        tree[last] = deepcopy(value)


def filled_in(value: Any, files: Mapping[str, str]) -> Any:
    """The settings with paths for ``$name``."""
    if isinstance(value, dict):
        return {key: filled_in(each, files) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [filled_in(each, files) for each in value]
    return Template(value).substitute(files) if isinstance(value, str) else value


def watched(stage: str, recipe: Section, directory: Path, spoil: Spoil | None, only_reads: str) -> Outcome:
    """Run a stage."""
    outcome = Outcome(directory=directory, recipe=recipe)
    with pytest.MonkeyPatch.context() as patch, suppress(_ReadEnough):
        watch(outcome, patch, spoil, only_reads)
        try:
            TRAIN[stage](recipe, Run.open(directory, recipe))
        except PalateError as error:
            outcome.error = str(error)
    if (directory / "metrics.jsonl").exists():
        outcome.metrics = outcome.lines("metrics.jsonl")
    if (directory / "report.json").exists():
        outcome.report = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    return outcome


def watch(outcome: Outcome, patch: pytest.MonkeyPatch, spoil: Spoil | None, only_reads: str) -> None:
    """Let the outcome know what happens."""
    learning: list[tuple[Model, Sequences]] = []
    read, generate, hidden = reading._read, LocalEngine.generate, Model.hidden
    layer = DecoderLayer.forward
    token_steps, save, step = local.steps, checkpoints.save, Optimizer.step

    def reads(data: Any, kind: Any) -> Any:
        found = read(data, kind)
        name = next((name for name, section in sections_of_data(outcome.recipe) if section is data), "what was named")
        outcome.read.setdefault(name, found)
        if name == only_reads:
            raise _ReadEnough
        return found

    def generates(self: LocalEngine, *args: Any, **kwargs: Any) -> Rollout:
        outcome.dtypes.add(self.model.model.dtype)
        rollout = generate(self, *args, **kwargs)
        outcome.rollouts.append(rollout if spoil is None else spoil(rollout))
        return outcome.rollouts[-1]

    def counts(*args: Any) -> Iterator[None]:
        outcome.token_steps.append(0)
        for each in token_steps(*args):
            outcome.token_steps[-1] += 1
            yield each

    def runs_a_layer(self: DecoderLayer, *args: Any) -> Tensor:
        outcome.layers += 1
        return layer(self, *args)

    def hides(self: Model, sequences: Sequences, sequence: Tensor, position: Tensor, trunk: Any) -> Tensor:
        outcome.dtypes.add(self.model.dtype)
        outcome.passes.append((computed(sequences), len(torch.unique(sequences.group_ids))))
        if torch.is_grad_enabled():
            learning.append((self, sequences))
            outcome.from_trunk.append(trunk is not None)
        return hidden(self, sequences, sequence, position, trunk)

    def saves(directory: Path, *args: Any, **kwargs: Any) -> None:
        save(directory, *args, **kwargs)
        outcome.saved.append(sorted(path.name for path in directory.glob("step-*")))

    def steps(self: Optimizer, number: int) -> dict[str, float]:
        own = {id(parameter) for parameter in self.parameters.values()}
        learned = [sequences for model, sequences in learning if own & set(map(id, model.parameters()))]
        learning[:] = [
            (model, sequences) for model, sequences in learning if not own & set(map(id, model.parameters()))
        ]
        gradient = flat([torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters.values()])
        before = flat(self.parameters.values())
        told = step(self, number)
        after = flat(self.parameters.values())
        update = Update(names=list(self.parameters), gradient=gradient, before=before, after=after, learned=learned)
        outcome.updates.setdefault(self.name, []).append(update)
        return told

    patch.setattr(vllm_server, "send", servers(outcome.served))
    patch.setattr(vllm_server, "LOOK_EVERY", 0.0)
    patch.setattr(vllm, "LONGEST_WAIT", 0.0)
    patch.setattr(vllm, "PROBED", 2)
    patch.setattr(endpoint_client, "send", endpoint(outcome.sent))
    patch.setattr(endpoint_client, "LONGEST_WAIT", 0.0)
    patch.setenv(KEY_VARIABLE, KEY)
    patch.setattr(reading, "_read", reads)
    patch.setattr(LocalEngine, "generate", generates)
    patch.setattr(local, "steps", counts)
    patch.setattr(Model, "hidden", hides)
    patch.setattr(DecoderLayer, "forward", runs_a_layer)
    patch.setattr(checkpoints, "save", saves)
    patch.setattr(Optimizer, "step", steps)
    patch.setattr(common, "stage_report", lambda *_, **__: None)
    for drawing in ("before_after", "win_rate_by_length"):
        patch.setattr(plots, drawing, lambda *_: "")
    patch.setattr(Report, "figure", lambda *_: None)
    patch.setattr(pictures, "render", lambda *_: "")
    patch.setattr(card, "cache_directory", lambda: outcome.directory)  # or what one run asked, the next would know


def endpoint(sent: list[Sent]) -> Callable[..., bytes]:
    """An endpoint that says `A` to everything, 10 tokens at a time; the model `busy` only if asked a third time."""
    lock, under_way = threading.Lock(), []

    def send(address: str, body: bytes, headers: Mapping[str, str], timeout: float) -> bytes:
        asked = json.loads(body)
        with lock:
            under_way.append(body)
            told = Sent(address=address, headers=headers, timeout=timeout, asked=asked, together=len(under_way))
            sent.append(told)
            times = sum(each.asked == asked for each in sent)
        threading.Event().wait(0.002)
        with lock:
            under_way.remove(body)
        if asked["model"] == "busy" and times < 3:
            raise HTTPError(address, 503, "Service Unavailable", Message(), io.BytesIO())
        tops = [{"token": "A", "logprob": -0.1}, {"token": "B", "logprob": -2.4}]
        choice = {
            "message": {"content": "A"},
            "finish_reason": "stop",
            "logprobs": {"content": [{"top_logprobs": tops}]},
        }
        return json.dumps({"choices": [choice], "usage": {"total_tokens": 10}}).encode()

    return send


def servers(served: list[Sent]) -> Callable[..., bytes]:
    """Servers that draw with the weights they are given; what is the matter with one is in its name."""
    made: dict[str, ScriptedVLLM] = {}

    def send(method: str, address: str, body: bytes | None, headers: Mapping[str, str], timeout: float) -> bytes:
        asked, name = json.loads(body or b"{}"), address.split("/")[2].partition(".")[0]
        served.append(Sent(address=address, headers=headers, timeout=timeout, asked=asked, together=0))
        if name not in made:
            server = made[name] = ScriptedVLLM()
            server.dead, server.back_after = name == "late", 3
            server.twists = (lambda logprob: logprob - 0.002) if name == "modest" else server.twists
        if name == "busy" and len(made[name].seeds) == 1:  # after the probe
            made[name].failures = [503, 503]
            made[name].seeds.clear()
        return made[name].send(method, address, body, headers, timeout)

    return send


def sections_of_data(section: Section, prefix: str = "") -> Iterator[tuple[str, Data]]:
    """Every section of a recipe that names data, by its name."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Data):
            yield prefix + name, value
        elif isinstance(value, Section):
            yield from sections_of_data(value, f"{prefix}{name}.")
        elif isinstance(value, tuple):
            for place, each in enumerate(each for each in value if isinstance(each, Section)):
                yield from sections_of_data(each, f"{prefix}{name}.{place}.")


def flat(tensors: Any) -> Tensor:
    """Copies of them all, one after the other."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def computed(sequences: Sequences) -> int:
    """Tokens of a forward pass: every response, and every prompt once."""
    prompts = dict(zip(sequences.group_ids.tolist(), sequences.prompt_lengths.tolist(), strict=True))
    return int((sequences.lengths - sequences.prompt_lengths).sum()) + sum(prompts.values())
