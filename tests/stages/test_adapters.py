"""Stages that learn adapters: what moves, what is in memory, what is written; and a run is a model like any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.stages.test_stages import STAGES
from torch import nn

from palate.cli import main
from palate.lm import model as lm_model
from palate.lm.adapters import adapted
from palate.lm.batch import Sequences
from palate.lm.decoder import Decoder
from palate.lm.model import Model, ScalarModel
from palate.lm.optim import Optimizer
from palate.lm.projection import Projecting, Projection
from palate.lm.sources.zoo import load_language_model, load_scalar_model, locate
from palate.recipe import PPORecipe, RLRecipe, parse_recipe
from palate.rewards.heads import stacked
from palate.rewards.learned import LearnedReward, raw_scores
from palate.run.directory import Run
from palate.stages import common
from palate.stages.reinforcement import ppo, reinforce
from palate.stages.reinforcement.actors import Actors, Asked

ADAPTER = {"rank": 2, "targets": ["q_proj", "v_proj", "up_proj"]}
Settings = dict[str, dict[str, Any]]


def train(stage: str, tree: dict[str, Any], out: Path, *, resume: bool = False) -> None:
    kind, stage_train = STAGES[stage]
    recipe = parse_recipe(kind, tree)
    stage_train(recipe, Run.open(out, recipe, resume=resume))


@pytest.fixture(scope="module")
def made(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A run with adapters; each is made once."""
    kept: dict[str, Path] = {}

    def made(stage: str, **changes: Any) -> Path:
        tree = settings[stage] | {"adapter": ADAPTER} | changes
        name = json.dumps([stage, tree], sort_keys=True)
        if name not in kept:
            kept[name] = tmp_path_factory.mktemp(stage) / "run"
            train(stage, tree, kept[name])
        return kept[name]

    return made


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", sorted(STAGES))
def test_adapters_and_heads_alone_learn(
    stage: str, precision: str, made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizers, begin = [], Optimizer.__init__

    def begins(self: Optimizer, model: Model, *args: Any, **kwargs: Any) -> None:
        begin(self, model, *args, **kwargs)
        frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
        optimizers.append((self, model, frozen))

    monkeypatch.setattr(Optimizer, "__init__", begins)
    run = made(stage, precision=precision, seed=7)
    expected = {
        f"model.layers.{layer}.{place}.adapter.lora_{which}"
        for layer in (1, 2)
        for place in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
        for which in "AB"
    }
    assert len(optimizers) == (2 if stage == "ppo" else 1)
    for optimizer, model, frozen in optimizers:
        head = {"score.weight"} if optimizer.name in ("reward", "value") else set()
        assert optimizer.parameters.keys() == expected | head
        now = dict(model.named_parameters())
        assert all(torch.equal(weight, now[name]) for name, weight in frozen.items())
        assert len(frozen) == len(now) - len(expected | head)
    written = load_file(run / "model" / "adapter_model.safetensors")
    assert all(tensor.any() for tensor in written.values())
    assert len(written) == 12 + (stage == "reward")
    if stage in ("ppo", "reinforce"):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [row["sampler/gap"] < 2e-4 for row in rows] == [True, True]
        assert rows[0]["objective/kl"] == pytest.approx(0, abs=1e-3 if precision == "fp32" else 0.05)
        assert abs(rows[1]["objective/kl"]) > 2e-5


def memory(*models: nn.Module) -> int:
    """Bytes of all distinct memory behind the parameters and buffers of these models."""
    tensors = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def test_ppo_holds_one_base(
    settings: Settings, made: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Policy, reference, reward model and value model; their packed copies too."""
    held: list[Model] = []
    load = ppo.load_value_model

    def loads(recipe: PPORecipe, actors: Any, run: Run) -> Any:
        value_model = load(recipe, actors, run)
        held.extend([actors.policy, actors.reference, *(s.model for s in actors.rewards.learned), value_model])
        return value_model

    monkeypatch.setattr(ppo, "load_value_model", loads)
    rewards = [{"model": str(made("reward"))}]
    train("ppo", settings["ppo"] | {"adapter": ADAPTER, "rewards": rewards, "value_model": ""}, tmp_path / "run")
    policy, reference, reward, value = held
    base = load_language_model("tiny", precision="fp32").model
    own = [sum(p.numel() * 4 for a in adapted(model).values() for p in a.parameters()) for model in held]
    head = policy.model.shape.hidden_size * 4
    buffers = sum(memory(model) - sum(p.numel() * 4 for p in model.parameters()) for model in held[2:])
    assert own[0] == own[2] == own[3] > 0 == own[1]
    assert memory(*held) <= memory(base) + sum(own) + 2 * head + buffers
    assert memory(*held) < 1.5 * memory(base)
    for module, twin in zip(base.modules(), reference.modules(), strict=True):
        assert type(module) is type(twin)
    for name, module in reference.named_modules():
        if isinstance(module, Projection | Projecting):
            others = [model.get_submodule(name) for model in held if name != "lm_head" or model in (policy, reference)]
            assert all(other.kept is module.kept for other in others), name
    assert reward is not value
    assert not any(p.requires_grad for model in (reference, reward) for p in model.parameters())


def test_a_trunk_below_the_adapters_changes_nothing(
    settings: Settings, made: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is computed once for all models, or by each of them in every pass."""
    tree = settings["ppo"] | {
        "adapter": ADAPTER,
        "frozen_layers": 2,
        "rewards": [{"model": str(made("reward", frozen_layers=2))}],
        "value_model": "",
        "optimizer": {"epsilon": 1e-3},
        "value_optimizer": {"epsilon": 1e-3},
    }
    passes: list[str] = []
    above = Decoder.rows_above
    monkeypatch.setattr(Decoder, "rows_above", lambda *args: passes.append("above") or above(*args))
    train("ppo", tree, tmp_path / "once")
    assert passes
    passes.clear()
    monkeypatch.setattr(lm_model, "TRUNK_BYTES", 0)
    train("ppo", tree, tmp_path / "each")
    assert not passes
    once, each = (load_file(tmp_path / name / "model" / "adapter_model.safetensors") for name in ("once", "each"))
    assert {name.split(".")[4] for name in once} == {"2"}
    for name, tensor in once.items():
        torch.testing.assert_close(tensor, each[name], rtol=1e-4, atol=2e-6)


class Killed(Exception):
    """In the middle of a step."""


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_resumed_it_ends_with_the_same_bits(
    stage: str, settings: Settings, made: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = {"checkpoint_every": 2} | ({"batch_size": 4, "epochs": 1} if stage == "sft" else {"steps": 5})
    whole = made(stage, **longer)
    log = Run.log

    def dies(self: Run, step: int, metrics: dict[str, float]) -> None:
        if step == 3:
            raise Killed
        log(self, step, metrics)

    tree = settings[stage] | {"adapter": ADAPTER} | longer
    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", dies)
        with pytest.raises(Killed):
            train(stage, tree, tmp_path / "run")
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    state = load_file(checkpoint / "policy.safetensors")
    assert all("adapter.lora_" in name for name in state)  # only what learns
    train(stage, tree, tmp_path / "run", resume=True)
    names = ("adapter_model.safetensors", "adapter_config.json")
    for name in names:
        assert (tmp_path / "run" / "model" / name).read_bytes() == (whole / "model" / name).read_bytes()


def test_several_heads_on_adapters_are_saved_loaded_and_resumed_alike(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reward model of three heads that learned adapters alone."""
    tree = settings["reward"] | {"adapter": ADAPTER, "heads": 3, "epochs": 1, "checkpoint_every": 1}
    tree |= {"batch_responses": 8}
    learned, log, save = [], Run.log, common.save

    def keeps(model: ScalarModel, *args: Any, **kwargs: Any) -> None:
        learned.append(model)
        save(model, *args, **kwargs)

    def dies(self: Run, step: int, metrics: dict[str, float]) -> None:
        if step == 2:
            raise Killed
        log(self, step, metrics)

    monkeypatch.setattr(common, "save", keeps)
    train("reward", tree, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", dies)
        with pytest.raises(Killed):
            train("reward", tree, tmp_path / "killed")
    train("reward", tree, tmp_path / "killed", resume=True)
    for name in ("adapter_model.safetensors", "adapter_config.json", "heads.json"):
        whole = (tmp_path / "whole" / "model" / name).read_bytes()
        assert (tmp_path / "killed" / "model" / name).read_bytes() == whole, name
    sequences = Sequences.pack([[5, 6, 7], [5, 9]], [[8, 9], [7, 3, 4]])
    in_memory = raw_scores(learned[0], sequences, 4096)
    assert in_memory.shape == (2, 3)
    assert len({round(score, 5) for score in in_memory[0].tolist()}) == 3
    reward = LearnedReward(str(tmp_path / "killed"), precision="fp32")
    torch.testing.assert_close(raw_scores(reward.model, sequences, 4096), in_memory, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(reward.score(sequences, None), stacked(reward.heads, in_memory), rtol=1e-5, atol=1e-5)


def test_a_run_is_a_model_wherever_one_is_named(
    settings: Settings, made: Callable[..., Path], tmp_path: Path, toml: Callable[[dict[str, Any]], Path]
) -> None:
    """From the first stage to the last, each beginning with the adapters of the one before."""
    sft = made("sft")
    reward = made("reward", model=str(sft))
    assert (locate(str(reward)) / "normalization.json").exists()
    policy = made(
        "ppo", model=str(sft), rewards=[{"model": str(reward)}], value_model="", adapter=ADAPTER | {"rank": 3}
    )
    again = made("dpo", model=str(policy))
    bases = [json.loads((run / "model" / "base.json").read_text())["places"][-1] for run in (reward, policy, again)]
    assert bases == [str((run / "model").resolve()) for run in (sft, sft, policy)]
    drawing = {
        "precision": "fp32",
        "model": str(policy),
        "prompts": settings["ppo"]["prompts"] | {"limit": 3},
        "sampling": {"max_new_tokens": 4},
    }
    judge = {"model": str(reward)}
    assert main(["sample", str(toml(drawing)), "--out", str(tmp_path / "sample")]) == 0
    assert main(["best-of-n", str(toml(drawing | {"rewards": [judge]})), "--out", str(tmp_path / "best")]) == 0
    comparison = drawing | {"baseline": str(sft), "judge": judge}
    assert main(["eval", str(toml(comparison)), "--out", str(tmp_path / "eval")]) == 0
    assert load_scalar_model(str(reward)).weights != load_language_model(str(sft)).weights


def test_a_run_on_a_run_begins_where_that_one_ended(made: Callable[..., Path]) -> None:
    first = made("sft")
    before, after = (json.loads((run / "report.json").read_text()) for run in (first, made("sft", model=str(first))))
    assert after["perplexity_before"] == pytest.approx(before["perplexity"], rel=1e-5)
    assert before["perplexity"] < before["perplexity_before"] - 0.1


def test_without_adapters_a_run_goes_on_with_all_weights(
    settings: Settings, made: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was learned beside them is inside them from the first step on, in the reference as well."""
    begun, load = made("sft", frozen_layers=0), reinforce.load_actors  # it has adapters in what is now frozen

    def loads(recipe: RLRecipe, asked: Asked, run: Run) -> Actors:
        actors = load(recipe, asked, run)
        policy, reference = actors.policy, actors.reference
        assert not adapted(policy)
        lower = (
            zip(a.parameters(), b.parameters(), strict=True)
            for a, b in zip(policy.model.lower(1), reference.model.lower(1), strict=True)
        )
        assert all(mine is its for pairs in lower for mine, its in pairs)
        assert policy.trunk_key == reference.trunk_key
        return actors

    monkeypatch.setattr(reinforce, "load_actors", loads)
    tree = settings["reinforce"] | {"model": str(begun), "steps": 1, "optimizer": {"learning_rate": 1e-12}}
    train("reinforce", tree, tmp_path / "run")
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert abs(row["objective/kl"]) < 1e-4  # so it is in the reference's
    written = load_file(tmp_path / "run" / "model" / "model.safetensors")
    base, change = load_file(locate("tiny") / "model.safetensors"), load_file(begun / "model/adapter_model.safetensors")
    place = "model.layers.2.self_attn.v_proj"
    a, b = (change[f"base_model.model.{place}.lora_{which}.weight"] for which in "AB")
    torch.testing.assert_close(written[f"{place}.weight"], base[f"{place}.weight"] + 16 * b @ a, atol=1e-6, rtol=0)
    assert (b @ a).any()


def test_a_place_that_is_not_there_is_one_line(
    settings: Settings, toml: Callable[[dict[str, Any]], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = toml(settings["sft"] | {"adapter": {"targets": ["query"]}})
    assert main(["sft", str(recipe), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("palate: adapter.targets: no layer that learns has query; it has q_proj, k_proj, v_proj, o_")
