"""Rows of keys that several recipes have; every recipe gets them, with runs of its own stage."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.cluster.scripted import ScriptedMachines
from tests.stages.effects.rows import Effect, Row, under
from tests.stages.effects.runs import Outcome, Update

from palate.cluster import restarting
from palate.cluster.places import Needs
from palate.corpus.reading import Read, prompt_of
from palate.errors import PeerError
from palate.lm.sources.zoo import load_chat, locate


@dataclass(frozen=True)
class Ends:
    """One of the two runs ends with an error that says why, the other one does not."""

    why: str
    first: bool

    def __call__(self, a: Outcome, b: Outcome) -> None:
        ended, other = (a, b) if self.first else (b, a)
        assert self.why in ended.error
        assert ended.error
        assert not other.error


def refused(why: str) -> Effect:
    """The second value ends the run."""
    return Ends(why, first=False)


def cured(why: str) -> Effect:
    """Without the key the run ends."""
    return Ends(why, first=True)


def close(a: Any, b: Any) -> bool:
    """Equal up to the rounding of fp32."""
    return torch.allclose(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-4, atol=2e-6)


# What every recipe has.


def every(section: str, kind: str, *, more_models: Mapping[str, Any] | None = None) -> list[Row]:
    """Keys of all recipes; ``section`` names the data, which is of this kind.

    Args:
        more_models: settings with which models take part that otherwise would not.
    """
    return [
        Row("stage", (None, "nonsense"), refused("'stage'")),
        Row("model", ("$model", "tiny"), begins_with_the_model),
        Row("chat_template", ("", "plain"), lays_out),
        Row("precision", ("fp32", "bf16"), learns_in, more_models or {}),
        *under(section, data(section, kind)),
    ]


def begins_with_the_model(a: Outcome, b: Outcome) -> None:
    """The frozen weights of what comes out are those of the model that was named."""
    for outcome in (a, b):
        named = load_file(locate(outcome.recipe.model) / "model.safetensors")
        assert torch.equal(outcome.weights["model.embed_tokens.weight"], named["model.embed_tokens.weight"])
    assert not torch.equal(*(outcome.weights["model.embed_tokens.weight"] for outcome in (a, b)))


def lays_out(a: Outcome, b: Outcome) -> None:
    """What was computed was laid out by the template, and the model that comes out has it."""
    layouts = [load_chat("tiny").fingerprint, load_chat("tiny", chat_template="plain").fingerprint]
    assert [load_chat(str(outcome.directory)).fingerprint for outcome in (a, b)] == layouts
    assert a.passes[0] != b.passes[0]
    for outcome, layout in zip((a, b), layouts, strict=True):
        assert {rollout.layout for rollout in outcome.rollouts} <= {layout}


def multiplies_in(a: Outcome, b: Outcome) -> None:
    """Every model of the run multiplies in it."""
    assert a.dtypes == {torch.float32}
    assert b.dtypes == {torch.bfloat16}


def learns_in(a: Outcome, b: Outcome) -> None:
    """Every model of the run multiplies in it; what is written is fp32 all the same."""
    multiplies_in(a, b)
    for outcome in (a, b):
        assert {tensor.dtype for tensor in outcome.weights.values()} == {torch.float32}


# Where records come from.


def data(section: str, kind: str) -> list[Row]:
    """Keys of a section that names data of one kind: prompts, rankings, thumbs, demonstrations or texts.

    Prompts are read from judgements here, as a recipe may; a thumb is a judgement like others until it is learned from.
    """
    judged = kind in ("prompts", "rankings", "thumbs")
    shape = "rankings" if judged else kind
    fields = {
        "rankings": {"prompt": "q", "a": "x", "b": "y", "preferred": "better"},
        "demonstrations": {"prompt": "q", "response": "x"},
        "texts": {"text": "q"},
    }[shape]
    first = next(iter(fields))
    columns = {f"{section}.path": f"$columns_{shape}"}
    named = columns | {f"{section}.fields": fields}
    told = {"lft": "a", "rgt": "b"}

    def found(outcome: Outcome) -> Read[Any]:
        return outcome.read[section]

    def texts(outcome: Outcome) -> list[str]:
        return [prompt_of(record).text for record in found(outcome).records]

    def from_the_file(a: Outcome, b: Outcome) -> None:
        for outcome, path in ((a, "records"), (b, "others")):
            assert {file.stem for file, _ in found(outcome).places} == {f"{path}_{kind}"}
            used = {prompt.messages[0].content for rollout in outcome.rollouts for prompt in rollout.prompts}
            assert kind != "prompts" or used <= set(texts(outcome))
        assert not set(texts(a)) & set(texts(b))

    def in_other_words(a: Outcome, b: Outcome) -> None:
        assert [f"{text} Why?" for text in texts(a)] == texts(b)

    def keeps_tags(a: Outcome, b: Outcome) -> None:
        assert ["topic" in "".join(found(outcome).remarks) for outcome in (a, b)] == [True, False]
        if kind != "texts":
            tags = [{prompt_of(record).tags.get("topic") for record in found(outcome).records} for outcome in (a, b)]
            assert tags == [{None}, {"tea", "mills"}]

    def so_many(a: Outcome, b: Outcome) -> None:
        assert len(found(a).records) > len(found(b).records) == 5
        assert set(texts(b)) < set(texts(a))

    reading = [
        Row("format", ("auto", "nonsense"), refused("no format 'nonsense'")),
        Row("fields", (fields, fields | {first: "{q} Why?"}), in_other_words, columns),
        Row("tags", ([], ["topic"]), keeps_tags, named),
        Row("ignore", ([], ["label"]), cured("label"), {f"{section}.path": f"$labelled_{shape}"}),
        Row("verdicts", ({}, told), cured("lft"), {f"{section}.path": "$judged"})
        if judged
        else Row("verdicts", ({}, {"lft": "nonsense"}), refused("nonsense")),
        Row(
            "join",
            ({}, {"id": "$passages" if kind == "texts" else "$questions"}),
            cured(""),
            {f"{section}.path": f"$halves_{shape}"},
        ),
        Row("limit", (0, 5), so_many),
    ]
    return [
        Row("path", (f"$records_{kind}", f"$others_{kind}"), from_the_file),
        *[replace(row, only_reads=section) for row in reading],
    ]


# What every stage that trains has.


def training(four_steps: dict[str, Any], *, without_scale: dict[str, Any], reads: str) -> list[Row]:
    """Keys of every stage that trains.

    Args:
        four_steps: settings with which a run has four steps.
        without_scale: settings with which Adam does not blow rounding up to a full step.
        reads: the section that names its data.
    """
    return [
        Row("frozen_layers", (0, 2), stay_as_they_are),
        Row("checkpoint_every", (1, 3), saves_after, four_steps | {"keep_checkpoints": 9}),
        Row("keep_checkpoints", (1, 2), keeps_so_many, four_steps | {"checkpoint_every": 1}),
        Row("microbatch_tokens", (4096, 160), computes_in_parts, without_scale),
        Row("recompute_activations", (False, True), keeps_less),
        Row("cluster.shard", ("none", "weights"), has_nobody_to_share_with),
        *under("adapter", adapter()),
        Row("seeds.initial", (None, 1), draws_its_adapter, {"adapter.rank": 2}),
        *under("cluster", cluster(reads)),
    ]


def draws_its_adapter(a: Outcome, b: Outcome) -> None:
    """What is drawn to begin with differs, and the data is met in the same order."""
    for name in a.updates:
        first, second = (outcome.updates[name][0] for outcome in (a, b))
        assert name == "value" or not torch.equal(first.before, second.before)
        assert [part.tokens.tolist() for part in first.learned] == [part.tokens.tolist() for part in second.learned]


def stay_as_they_are(a: Outcome, b: Outcome) -> None:
    """Embeddings and so many layers do not move and are not computed again, everything else moves."""
    assert set(a.from_trunk) == {False}
    assert set(b.from_trunk) == {True}
    for outcome, layers in ((a, 0), (b, 2)):
        named = load_file(locate(outcome.recipe.model) / "model.safetensors")
        still = {key for key, tensor in named.items() if torch.equal(tensor, outcome.weights[key])}
        lower = ("model.embed_tokens", *(f"model.layers.{layer}." for layer in range(layers)))
        assert still == {key for key in named if layers and key.startswith(lower)}


def has_nobody_to_share_with(a: Outcome, b: Outcome) -> None:
    """One process says so, and learns the same; what several do is in `tests/stages/test_in_processes.py`."""
    said = [[note for note in outcome.report["notes"] if "does nothing in one process" in note] for outcome in (a, b)]
    assert [len(each) for each in said] == [0, 1]
    assert all(torch.equal(a.weights[key], weight) for key, weight in b.weights.items())


def saves_after(a: Outcome, b: Outcome) -> None:
    """Every so many steps, and after the last."""
    assert [names[-1] for names in a.saved] == [f"step-{step:06d}" for step in (1, 2, 3, 4)]
    assert [names[-1] for names in b.saved] == [f"step-{step:06d}" for step in (3, 4)]


def keeps_so_many(a: Outcome, b: Outcome) -> None:
    assert [len(names) for names in a.saved] == [1, 1, 1, 1]
    assert [len(names) for names in b.saved] == [1, 2, 2, 2]


def computes_in_parts(a: Outcome, b: Outcome) -> None:
    """Smaller forward passes, and the same numbers."""
    for outcome in (a, b):
        limit = outcome.recipe.microbatch_tokens
        assert all(tokens <= limit or count == 1 for tokens, count in outcome.passes)
    assert len(b.passes) > len(a.passes)
    for key, tensor in a.weights.items():
        torch.testing.assert_close(tensor, b.weights[key], rtol=1e-4, atol=2e-6)


# Adapters.


def adapter() -> list[Row]:
    """Keys of the section that has them learned."""
    return [
        Row("rank", (2, 3), has_the_rank),
        Row("alpha", (4.0, 12.0), learns_more_strongly(3.0)),
        Row("targets", (["q_proj"], ["v_proj", "down_proj"]), learns_there),
        Row("rank_stabilized", (False, True), learns_more_strongly(2.0), {"adapter.rank": 4}),
        Row("merge", (False, True), writes_a_whole_model),
    ]


def adapters(outcome: Outcome) -> dict[str, torch.Tensor]:
    """As they were written, without a head, by names that begin as those of the weights do."""
    found = load_file(outcome.directory / "model" / "adapter_model.safetensors")
    return {name.removeprefix("base_model.model."): tensor for name, tensor in found.items() if "lora_" in name}


def has_the_rank(a: Outcome, b: Outcome) -> None:
    for outcome, rank in ((a, 2), (b, 3)):
        assert {min(tensor.shape) for tensor in adapters(outcome).values()} == {rank}


def learns_there(a: Outcome, b: Outcome) -> None:
    """In every layer that is not frozen, and nowhere else."""
    for outcome, targets in ((a, {"q_proj"}), (b, {"v_proj", "down_proj"})):
        assert {name.split(".")[4] for name in adapters(outcome)} == targets
        assert {name.split(".")[2] for name in adapters(outcome)} == {"1", "2"}
        for updates in outcome.updates.values():
            learned = set(updates[0].names) - {"score.weight"}
            assert {name.split(".")[4] for name in learned} == targets


def learns_more_strongly(times: float) -> Effect:
    """While nothing is learned yet the gradient is that of the same network, so many times as large."""

    def effect(a: Outcome, b: Outcome) -> None:
        for name in a.updates:
            first, second = (outcome.updates[name][0] for outcome in (a, b))
            if name != "value":  # whose model may have learned before
                inside = slice(None, -32 if first.names[-1] == "score.weight" else None)
                assert first.gradient[inside].any()
                torch.testing.assert_close(
                    second.gradient[inside], times * first.gradient[inside], rtol=1e-3, atol=1e-6
                )

    return effect


def writes_a_whole_model(a: Outcome, b: Outcome) -> None:
    """The same weights with the same change inside."""
    named, change = load_file(locate(b.recipe.model) / "model.safetensors"), adapters(a)
    scale = b.recipe.adapter.alpha / b.recipe.adapter.rank
    for name, weight in named.items():
        place = name.removesuffix(".weight")
        if f"{place}.lora_A.weight" in change:
            weight = weight + scale * change[f"{place}.lora_B.weight"] @ change[f"{place}.lora_A.weight"]
        torch.testing.assert_close(b.weights[name], weight, rtol=1e-5, atol=1e-6)
    assert not (b.directory / "model" / "adapter_config.json").exists()


# Several processes.


def cluster(reads: str) -> list[Row]:
    """Keys of the section that says how many, and where: the launcher's, no stage asks for them."""
    samples = reads == "prompts"
    rows = [
        Row("engines", (0, 2), asks_for_places if samples else refused("this stage samples nothing; leave it out")),
        Row("trainers", (1, 2), asks_for_places),
        Row("cpus", (1, 3), asks_for_places),
        Row("gpus", (0, 1), asks_for_places),
        Row("restarts", (3, 1), starts_again_so_often),
    ]
    return [replace(row, only_reads=reads) for row in rows]


def asks_for_places(a: Outcome, b: Outcome) -> None:
    """So many, each with so many cores and GPUs."""
    for outcome in (a, b):
        machines, section = ScriptedMachines([[(rank, 0)] for rank in range(9)]), outcome.recipe.cluster
        assert restarting.run(machines, [], section, say=print) == 0
        assert machines.needs == Needs(
            trainers=section.trainers, engines=section.engines, cpus=section.cpus, gpus=section.gpus
        )
        assert len(machines.served.addresses if machines.served else ()) == section.engines


def starts_again_so_often(a: Outcome, b: Outcome) -> None:
    for outcome, count in ((a, 3), (b, 1)):
        machines = ScriptedMachines(*[[[(0, 3)]]] * 9)
        with pytest.raises(PeerError):
            restarting.run(machines, [], outcome.recipe.cluster, say=print)
        assert len(machines.commands) == count + 1


# Memory.


def keeps_less(a: Outcome, b: Outcome) -> None:
    """Both layers above the frozen one run again for every gradient; what is learned has the same bits."""
    gradients = sum(len(update.learned) for updates in b.updates.values() for update in updates)
    assert b.layers - a.layers == 2 * gradients > 0
    for name, updates in a.updates.items():
        for update, same in zip(updates, b.updates[name], strict=True):
            assert torch.equal(update.gradient, same.gradient)
            assert torch.equal(update.after, same.after)


# Optimizers.


def optimizer(section: str, name: str, two_updates: dict[str, Any]) -> list[Row]:
    """Keys of an optimizer; two updates show every one of them.

    Args:
        section: of the recipe.
        name: of the optimizer in metrics.
        two_updates: settings with which it has two.

    The first of each key's two values are those of one run.
    """

    def follows(a: Outcome, b: Outcome) -> None:
        for outcome in (a, b):
            settings = outcome.recipe
            for part in section.split("."):
                settings = getattr(settings, part)
            assert len(outcome.updates[name]) == 2
            check_adamw(outcome.updates[name], settings)
        changes = [outcome.updates[name][1].after - outcome.updates[name][0].before for outcome in (a, b)]
        assert not torch.allclose(*changes, rtol=1e-2, atol=0)

    without_frozen = two_updates | {"frozen_layers": 0, f"{section}.learning_rate": 1e-2}
    values: dict[str, tuple[Any, Any]] = {
        "learning_rate": (1e-2, 2e-2),
        "schedule": ("constant", "cosine"),
        "warmup": (0.0, 1.0),
        "weight_decay": (0.0, 0.5),
        "beta1": (0.9, 0.5),
        "beta2": (0.99, 0.5),
        "epsilon": (1e-3, 1e-2),
        "max_grad_norm": (0.0, 1e-3),
    }
    given = two_updates | {f"{section}.{key}": pair[0] for key, pair in values.items()}
    there = importlib.util.find_spec("bitsandbytes") is not None
    rows = [
        *(Row(key, pair, follows, given) for key, pair in values.items()),
        Row("decay_to", (0.0, 0.5), follows, given | {f"{section}.schedule": "linear"}),
        Row("state_bits", (32, 8), rounds_states(name) if there else refused("palate[bitsandbytes]"), without_frozen),
    ]
    return under(section, rows)


def rounds_states(name: str) -> Effect:
    """The same way, but for rounding: of the embeddings, since smaller weights keep theirs in fp32."""

    def effect(a: Outcome, b: Outcome) -> None:
        assert len(a.updates[name]) == len(b.updates[name]) == 2
        changes = [outcome.updates[name][1].after - outcome.updates[name][0].before for outcome in (a, b)]
        assert not torch.allclose(*changes, rtol=1e-3, atol=0)
        assert torch.cosine_similarity(*changes, dim=0) > 0.98

    return effect


def check_adamw(updates: list[Update], settings: Any) -> None:
    """Loshchilov and Hutter 2019, algorithm 2, from the gradients as they were accumulated."""
    m = v = torch.zeros_like(updates[0].gradient)
    for number, update in enumerate(updates):
        gradient, norm = update.gradient, float(update.gradient.norm())
        if settings.max_grad_norm and norm > settings.max_grad_norm:
            gradient = gradient * settings.max_grad_norm / norm
        m = settings.beta1 * m + (1 - settings.beta1) * gradient
        v = settings.beta2 * v + (1 - settings.beta2) * gradient**2
        m_hat, v_hat = m / (1 - settings.beta1 ** (number + 1)), v / (1 - settings.beta2 ** (number + 1))
        rate = learning_rate(settings, number, len(updates))
        step = m_hat / (v_hat.sqrt() + settings.epsilon) + settings.weight_decay * update.before
        torch.testing.assert_close(update.after - update.before, -rate * step, rtol=1e-3, atol=2e-6)


def learning_rate(settings: Any, number: int, total: int) -> float:
    """Of update ``number`` of ``total``: up linearly over the warm-up, then down to its floor after the last one."""
    warmup = round(settings.warmup * total)
    if number < warmup:
        return float(settings.learning_rate * (number + 1) / (warmup + 1))
    left = 1 - (number - warmup) / (total - warmup)
    cosine = 0.5 - 0.5 * torch.cos(torch.tensor(torch.pi * left)).item()
    above = {"linear": left, "cosine": cosine}.get(settings.schedule, 1.0)
    floor = settings.decay_to if settings.schedule != "constant" else 0.0
    return float(settings.learning_rate * (floor + (1 - floor) * above))
