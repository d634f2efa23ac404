"""The numbers a stage logs are those of the whole step, of the updates that were made, and defined."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import scripted_vllm
from tests.scripted_endpoint import ScriptedEndpoint, serving
from tests.stages.effects.agents import BASE as AGENT
from tests.stages.effects.runs import filled_in

from palate import randomness
from palate import recipe as recipes
from palate.commands import STAGES as STAGE_COMMANDS
from palate.commands import Stage
from palate.errors import DataError, TrainingError
from palate.evals import report
from palate.lm.optim import Optimizer
from palate.lm.sources.zoo import load_scalar_model, save
from palate.recipe import PPORecipe, ReinforceRecipe, parse_recipe
from palate.records import Prompt, Ranking, Response
from palate.rewards import learned
from palate.rewards.heads import Head, files_of
from palate.rewards.learned import raw_scores
from palate.rewards.mix import MixedScores
from palate.rewards.verifiers.verdict import Verdict
from palate.run.directory import Run
from palate.run.metrics import METRICS, headline
from palate.stages import reward
from palate.stages.agent import agent
from palate.stages.ai_feedback import judge
from palate.stages.reinforcement import ppo, reinforce, watching
from palate.stages.reinforcement import step as step_of
from palate.studio.training import progress

Settings = dict[str, dict[str, Any]]
STAGES: dict[str, tuple[Any, Any]] = {"ppo": (PPORecipe, ppo.train), "reinforce": (ReinforceRecipe, reinforce.train)}
OTHERS: dict[str, tuple[Any, Any]] = {
    "reward": (recipes.RewardRecipe, reward.train),
    "judge": (recipes.JudgeRecipe, judge.judge),
}
STARTER = str(Path(__file__).parents[2] / "recipes" / "constitutions" / "starter.toml")


def logged(stage: str, tree: dict[str, Any], out: Path) -> list[dict[str, float]]:
    command = next(each for each in STAGE_COMMANDS if each.name == stage)
    return rows_logged(getattr(recipes, command.recipe), stage_of(command), tree, out)


def stage_of(command: Stage) -> Any:
    return getattr(import_module(command.module), command.function)


def test_the_learning_rate_falls_over_the_updates_that_are_made(settings: Settings, tmp_path: Path) -> None:
    rate = {"learning_rate": 1e-3, "schedule": "linear", "warmup": 0.0}
    tree = settings["ppo"] | {"steps": 10, "value_warmup": 8, "epochs": 1, "minibatches": 1, "optimizer": rate}
    rows = logged("ppo", tree, tmp_path / "run")
    rates = [row.get("policy/learning_rate") for row in rows]
    assert rates == [None] * 8 + [pytest.approx(1e-3), pytest.approx(5e-4)]  # the next one would be zero
    assert [row["value/learning_rate"] for row in rows][-1] == pytest.approx(1e-5 * 0.1)


@pytest.mark.parametrize("stage", [*sorted(STAGES), "raft", "online-dpo", "distill"])
def test_the_time_of_a_step_holds_all_of_it(
    stage: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(self: Optimizer, number: int) -> dict[str, float]:
        time.sleep(0.2)
        return step(self, number)

    step = Optimizer.step
    monkeypatch.setattr(Optimizer, "step", slowly)
    row = logged(stage, settings[stage] | {"steps": 1}, tmp_path / "run")[0]
    assert row["time/step_s"] > row["time/rollout_s"] + 0.2


def test_a_rollout_of_one_response(settings: Settings, tmp_path: Path) -> None:
    """Nothing varies in it: correlation and explained variance are undefined, and nothing is to blame."""
    one = {"prompts_per_step": 1, "responses_per_prompt": 1, "epochs": 1, "minibatches": 1}
    rows = logged("ppo", settings["ppo"] | one, tmp_path / "run")
    assert [row["objective/length_correlation"] for row in rows] == [0.0, 0.0]
    sampling = {"sampling": {"max_new_tokens": 1}}
    rows = logged("ppo", settings["ppo"] | one | sampling | {"gae_lambda": 1.0}, tmp_path / "token")
    assert all("value/explained_variance" not in row for row in rows)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([2.0, 4.0, 6.0], [3.0, 2.0, 1.0], -1.0),
        ([2.0, 2.0, 2.0], [3.0, 2.0, 1.0], 0.0),  # every response was cut off at the same length
        ([2.0, 4.0, 6.0], [1.0, 1.0, 1.0], 0.0),
        ([1.0, 2.0, 4.0, 1.0], [1.0, 3.0, 2.0, 0.0], 3 / 30**0.5),
    ],
)
def test_a_correlation_by_hand(one: list[float], other: list[float], expected: float) -> None:
    told = watching.correlation(torch.tensor(one), torch.tensor(other))
    assert told == pytest.approx(expected)


@pytest.mark.parametrize(("stage", "times"), [("reinforce", 1), ("raft", 1), ("online-dpo", 1), ("distill", 2)])
def test_reward_models_score_in_microbatches_of_the_recipe(
    stage: str, times: int, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a step's responses; each teacher's answers are judged apart."""
    asked: list[int] = []

    def counted(model: Any, sequences: Any, max_tokens: int, trunk: Any = None) -> Any:
        asked.append(max_tokens)
        return raw_scores(model, sequences, max_tokens, trunk)

    monkeypatch.setattr(learned, "raw_scores", counted)
    tree = settings[stage] | {"rewards": [{"model": "tiny"}], "microbatch_tokens": 100, "steps": 1}
    logged(stage, tree, tmp_path / "run")
    assert asked == [100] * times


def test_the_prompts_of_a_step_cost_one_shuffle_for_each_pass(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = parse_recipe(ReinforceRecipe, settings["reinforce"] | {"prompts_per_step": 8})
    prompts = [Prompt.from_text(str(number)) for number in range(11)]
    endless = [
        prompts[place]
        for number in range(5)
        for place in randomness.permutation(11, recipe.seed, "reinforce", "prompts", number)
    ]
    shuffles: list[int] = []

    def counted(count: int, *key: int | str) -> Any:
        shuffles.append(int(key[-1]))
        return randomness.permutation(count, *key)

    monkeypatch.setattr(step_of, "permutation", counted)
    key = (recipe.seed, recipe.stage)
    picked = [prompt for step in range(5) for prompt in step_of.prompts_of_step(prompts, step, count=8, key=key)]
    assert picked == endless[:40]
    assert shuffles == [0, 0, 1, 1, 2, 2, 2, 3]  # two in a step in which a pass ends


@pytest.mark.parametrize("gap", [0.2, -0.2, float("nan")])
def test_a_sampler_that_is_not_the_trainer_is_told_what_to_do(gap: float) -> None:
    watching.check_on_policy([torch.full((6,), 0.01)], 2, clip_range=0.2, step=7)
    with pytest.raises(TrainingError, match=r'^step 7: sampling and training differ by .* precision = "fp32"'):
        watching.check_on_policy([torch.full((6,), gap)], 2, clip_range=0.2, step=7)


def test_how_well_sampler_and_trainer_agree_by_hand() -> None:
    """One token in a microbatch of its own, far off, is one of a hundred tokens: no microbatch is judged alone."""
    far, near = torch.tensor([-0.3]), torch.zeros(99)
    told = watching.check_on_policy([far, near], 4, clip_range=0.2, step=0)
    assert told == {
        "sampler/gap": pytest.approx(0.003),
        "sampler/gap_max": pytest.approx(0.3),
        "sampler/kl_k3": pytest.approx((np.exp(-0.3) - 1 + 0.3) / 4),
        "sampler/outside_clip_range": pytest.approx(0.01),
    }
    assert watching.check_on_policy([torch.cat([near, far])], 4, clip_range=0.2, step=0) == pytest.approx(told)
    assert watching.check_on_policy([far, near], 4, clip_range=0.3, step=0)["sampler/outside_clip_range"] == 0.0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", sorted(STAGES))
def test_the_agreement_is_that_of_all_tokens_whatever_the_microbatches(
    stage: str, precision: str, settings: Settings, tmp_path: Path
) -> None:
    told = []
    for size in (1, 64, 4096):
        tree = settings[stage] | {"precision": precision, "steps": 1, "microbatch_tokens": size}
        (row,) = logged(stage, tree, tmp_path / str(size))
        told.append(row["sampler/gap"])
        assert 0 < row["sampler/gap"] < row["sampler/gap_max"]
        assert row["sampler/outside_clip_range"] == 0.0
        assert row["sampler/kl_k3"] < 1e-3
    assert max(told) < (1e-5 if precision == "fp32" else 0.01)


def test_text_for_fewer_sequences_than_a_step_takes(settings: Settings, tmp_path: Path, data: dict[str, str]) -> None:
    pretraining = {"data": {"path": data["texts"]}, "sequences_per_step": 64, "sequence_length": 128}
    with pytest.raises(DataError, match=r"enough for \d+ sequences of 128 tokens, but pretraining\.sequences_per_step"):
        logged("ppo", settings["ppo"] | {"pretraining": pretraining}, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.fixture(scope="module")
def runs_of_every_stage(
    settings: Settings, data: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[list[dict[str, float]], float]]:
    """By the command: what a run with every setting as it comes has logged, step by step, and its seconds."""
    trees = settings | {
        "sample": {
            "model": "tiny",
            "precision": "fp32",
            "prompts": {"path": data["prompts"], "limit": 2},
            "sampling": {"max_new_tokens": 4},
        }
    }
    trees |= {"best-of-n": trees["sample"] | {"rewards": [{"length": 3.0}]}}
    judged = {"candidates": {"path": data["rankings"], "limit": 2}, "constitution": STARTER}
    trees |= {"judge": {key: trees["sample"][key] for key in ("model", "precision")} | judged}
    trees |= {"revise": trees["sample"] | {"constitution": STARTER, "keep_cut_off": True}}
    trees |= {"eval": trees["sample"] | {"baseline": "tiny", "judge": {"length": 3.0}}}
    with_steps = [stage for stage in STAGE_COMMANDS if stage.name != "card"]  # which has none, and logs nothing
    assert set(trees) == {stage.name for stage in with_steps}
    found = {}
    for stage in with_steps:
        out, began = tmp_path_factory.mktemp("every") / "run", time.perf_counter()
        rows = rows_logged(getattr(recipes, stage.recipe), stage_of(stage), trees[stage.name], out)
        found[stage.name] = rows, time.perf_counter() - began
    return found


@pytest.fixture(scope="module")
def rows_of_every_stage(
    runs_of_every_stage: dict[str, tuple[list[dict[str, float]], float]],
) -> dict[str, list[dict[str, float]]]:
    return {stage: rows for stage, (rows, _) in runs_of_every_stage.items()}


@pytest.fixture(scope="module")
def logged_by_every_stage(rows_of_every_stage: dict[str, list[dict[str, float]]]) -> dict[str, set[str]]:
    """By the command: the names that were logged in any of its steps."""
    return {stage: names_in(rows) for stage, rows in rows_of_every_stage.items()}


def rows_logged(kind: Any, train: Any, tree: dict[str, Any], out: Path) -> list[dict[str, float]]:
    parsed = parse_recipe(kind, tree)
    train(parsed, Run.open(out, parsed))
    rows = out / "metrics.jsonl"
    return [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()] if rows.exists() else []


def names_in(rows: list[dict[str, float]]) -> set[str]:
    return {name for row in rows for name in row} - {"step"}


def test_the_parts_of_a_step_take_some_of_its_time(rows_of_every_stage: dict[str, list[dict[str, float]]]) -> None:
    """Whatever is measured apart is a part: none is negative, and no second counts twice."""
    timed = {stage: rows for stage, rows in rows_of_every_stage.items() if "time/step_s" in names_in(rows)}
    assert {"ppo", "reinforce", "online-dpo", "raft", "distill"} <= set(timed)
    for rows in timed.values():
        for row in rows:
            parts = [row[name] for name in ("time/rollout_s", "time/score_s") if name in row]
            assert all(part > 0 for part in parts)
            assert sum(parts) < row["time/step_s"]


def test_steps_take_no_longer_than_their_run(
    runs_of_every_stage: dict[str, tuple[list[dict[str, float]], float]],
) -> None:
    for stage, (rows, seconds) in runs_of_every_stage.items():
        assert sum(row.get("time/step_s", 0.0) for row in rows) < seconds, stage


ELSEWHERE: tuple[str, dict[str, Any]] = ("judge", {"model": "big", "endpoint": {"url": "$endpoint"}})
BY_SERVERS = ("reinforce", {"engine": {"kind": "vllm", "servers": ["$vllm"]}})
ONLY_WITH: dict[str, tuple[str, dict[str, Any]]] = {
    "policy/pretraining_loss": (
        "ppo",
        {"pretraining": {"data": {"path": "$texts"}, "sequences_per_step": 2, "sequence_length": 32}},
    ),
    "objective/spread": ("reinforce", {"rewards": [{"model": "$two_heads"}]}),
    "objective/verified/NAME": ("reinforce", {"rewards": [{"verifier": {"kind": "shape", "max_words": 2}}]}),
    "endpoint/requests": ELSEWHERE,
    "endpoint/tokens": ELSEWHERE,
    "endpoint/from_cache": ELSEWHERE,
    "sampler/truncated": BY_SERVERS,
    "sampler/retries": BY_SERVERS,
    "policy/kl_loss": ("reinforce", {"kl_loss_coef": 0.1}),
    "objective/groups_resampled": ("reinforce", {"max_resamples": 1}),
    "sampler/staleness": ("reinforce", {"one_step_ahead": True, "steps": 2}),
    "overoptimization/held_out": ("reinforce", {"overoptimization": {"held_out": ["$two_heads"]}}),
    "overoptimization/passed": ("reinforce", {"overoptimization": {"max_distance": 1.0}}),
    "reward/rating_loss": ("reward", {"data": {"path": "$told"}, "objectives": [{"learns": "both"}]}),
    "reward/rating_error": ("reward", {"data": {"path": "$told"}, "objectives": [{"learns": "both"}]}),
    "reward/flag_loss": ("reward", {"data": {"path": "$told"}, "objectives": [{"flag": "hallucination"}]}),
}
"""Metrics that a stage logs only with a setting."""


def written_told(path: Path) -> str:
    """Rankings with ratings and flags."""
    records = (
        Ranking(
            prompt=Prompt.from_text(f"What of {n}?"),
            responses=(Response(text=f"Much of {n}."), Response(text=f"No {n}.")),
            ranks=(1, 2),
            ratings=(6, 1 + n % 3),
            flags=((), ("hallucination",) if n % 2 else ()),
        )
        for n in range(24)
    )
    path.write_text("".join(record.to_json() + "\n" for record in records), encoding="utf-8")
    return str(path)


@pytest.fixture
def endpoint() -> Iterator[ScriptedEndpoint]:
    with serving() as served:
        yield served


@pytest.fixture
def vllm() -> Iterator[str]:
    with scripted_vllm.serving(scripted_vllm.ScriptedVLLM()) as address:
        yield address


def test_what_is_logged_is_explained_and_what_is_explained_is_logged(
    logged_by_every_stage: dict[str, set[str]],
    settings: Settings,
    data: dict[str, str],
    endpoint: ScriptedEndpoint,
    vllm: str,
    tmp_path: Path,
) -> None:
    usual = set().union(*logged_by_every_stage.values())
    pytest.importorskip("gymnasium", reason="an agent logs as well, and needs palate[gym]")
    agent_tree = AGENT | {"steps": 2, "steps_per_rollout": 200}
    usual |= names_in(rows_logged(recipes.AgentRecipe, agent.train, agent_tree, tmp_path / "agent"))
    usual = {name if name in METRICS else f"{name.rpartition('/')[0]}/NAME" for name in usual}
    made = {"told": written_told(tmp_path / "told.jsonl"), "two_heads": str(tmp_path / "two_heads")}
    made |= {"endpoint": endpoint.url, "vllm": vllm}
    two_heads = load_scalar_model("tiny", precision="fp32", heads=2)
    save(two_heads.model, two_heads.chat, Path(made["two_heads"]), extra_files=files_of([Head(), Head()]))
    assert usual == set(METRICS) - set(ONLY_WITH)
    bases = settings | {"judge": {"candidates": {"path": data["rankings"], "limit": 1}, "constitution": STARTER}}
    for number, (name, (stage, setting)) in enumerate(ONLY_WITH.items()):
        tree = bases[stage] | ({"steps": 1} if stage in STAGES else {}) | filled_in(setting, data | made)
        kind, train = (STAGES | OTHERS)[stage]
        logged = names_in(rows_logged(kind, train, tree, tmp_path / str(number)))
        assert name in {name if name in METRICS else f"{name.rpartition('/')[0]}/NAME" for name in logged}


def test_terms_and_spread_are_means_over_all_that_was_scored() -> None:
    """Responses that gave way to others are among them."""
    told = [
        MixedScores(
            total=torch.tensor(sums), terms={"a": torch.tensor(a), "b": torch.tensor(b)}, spread=torch.tensor(apart)
        )
        for sums, a, b, apart in (([3.0, 0.0], [2.0, 1.0], [1.0, -1.0], [0.5, 0.1]), ([9.0], [6.0], [3.0], [0.0]))
    ]
    assert watching.measure_terms(told) == pytest.approx(
        {"objective/terms/a": 3.0, "objective/terms/b": 1.0, "objective/spread": 0.2}
    )
    alone = [MixedScores(total=torch.ones(2), terms={"a": torch.ones(2)}, spread=None)]
    assert watching.measure_terms(alone) == {}


def test_what_verifiers_said_is_a_mean_over_all_that_was_scored_without_its_weight() -> None:
    told = [
        MixedScores(
            total=torch.zeros(len(scores)),
            terms={"number": torch.zeros(len(scores))},
            spread=None,
            verdicts={"number": [Verdict(score, "") for score in scores]},
        )
        for scores in ([1.0, 0.0, 1.0], [0.5])
    ]
    assert watching.measure_terms(told) == {"objective/verified/number": 0.625}


def test_the_metrics_of_a_step_from_those_of_its_updates() -> None:
    """Weighted by tokens, or by updates where a number is of an update; what is known of the first alone stays."""
    first = {"policy/loss": 1.0, "policy/ratio_max": 1.2, "policy/grad_norm": 2.0, "sampler/gap": 0.1}
    second = {"policy/loss": 5.0, "policy/ratio_max": 1.1, "policy/grad_norm": 4.0}
    assert watching.mean_of_updates([(3, first), (1, second)]) == pytest.approx(
        {"policy/loss": 2.0, "policy/ratio_max": 1.2, "policy/grad_norm": 3.0, "sampler/gap": 0.1}
    )
    assert watching.mean_of_updates([(3, first)]) == first


def test_what_is_plotted_is_logged(logged_by_every_stage: dict[str, set[str]]) -> None:
    """A curve of what nobody logs is never seen, and a headline neither."""
    for names in report.CURVES.values():
        assert set(names) <= set(METRICS)
    for curve in progress.CURVES:
        assert set(curve.metrics) <= set(METRICS)
    for stage, names in logged_by_every_stage.items():
        if stage not in ("best-of-n", "eval"):  # they have no steps
            assert headline(dict.fromkeys(names, 1.0)), f"no line of the terminal says how {stage} goes"
