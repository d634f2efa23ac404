"""Signs of over-optimisation: numbers by hand, planted runs, unharmed ones, and what is kept of a real run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.stages.effects import judges
from torch import Tensor

from palate.errors import RecipeError
from palate.evals import plots
from palate.lm.sources.zoo import load_language_model
from palate.recipe import Overoptimization, ReinforceRecipe, parse_recipe
from palate.rewards.mix import MixedScores
from palate.run.directory import Run
from palate.stages.reinforcement import peak, reinforce
from palate.stages.reinforcement.peak import KEPT, Block, PeakWatch, moments, signs, together

PROMPTS, EACH = 16, 4


def block(step: int, **means: float) -> Block:
    """Every figure with a variance of 0.0008, so that a difference of 0.16 is four standard errors."""
    known = {"score": 0.0, "kl": 0.0, "length": 20.0, "length_correlation": 0.0} | means
    return Block(step=step, moments={name: (value, 0.0008) for name, value in known.items()})


def found(*blocks: Block, sureness: float = 4.0, max_distance: float | None = None) -> set[str]:
    return set(signs(blocks, sureness=sureness, max_distance=max_distance))


def test_each_sign_by_hand() -> None:
    first, best = block(3, held_out=0.1), block(7, held_out=0.5, score=1.0)
    assert found(first) == set()
    assert found(first, best, block(11, held_out=0.339, score=1.1)) == {"held_out"}
    assert found(first, best, block(11, held_out=0.341, score=1.1)) == set(), "not sure enough"
    assert found(first, best, block(11, held_out=0.2, score=0.9)) == set(), "both fall: that is no over-optimisation"
    assert found(block(3, spread=0.2), block(7, spread=0.37, score=0.1)) == {"spread"}
    assert found(block(3, spread=0.2), block(7, spread=0.37, score=-0.1)) == set()
    assert found(block(3, kl=4.1), max_distance=2.0) == {"distance"}
    assert found(block(3, kl=3.9), max_distance=2.0) == set()
    assert found(block(3, kl=-0.1), max_distance=0.1) == set()
    longer = block(7, length=20.2, length_correlation=0.1)
    assert found(block(3), longer) == {"length"}
    assert found(block(3), block(7, length=20.2, length_correlation=-0.1)) == set()
    said = signs([first, best, block(11, held_out=0.3, score=1.1)], sureness=4, max_distance=None)["held_out"]
    assert said == "the held-out score fell by 0.20 since step 8 (5.0 standard errors) while the reward rose"


def test_moments_are_by_prompt_and_those_of_a_block_of_its_steps() -> None:
    values = torch.tensor([1.0, 3.0, 5.0, 5.0, 0.0, 2.0])  # prompts: 2, 5, 1
    mean, variance = moments(values, each=2)
    assert (mean, variance) == pytest.approx((8 / 3, np.var([2, 5, 1], ddof=1) / 3))
    steps = [{"a": (1.0, 0.2), "b": (0.0, 0.0)}, {"a": (3.0, 0.4)}]
    assert together(steps) == {"a": pytest.approx((2.0, 0.6 / 4))}


class Planted:
    """A watch that sees scripted steps; what it keeps and says is remembered."""

    def __init__(self, **settings: Any) -> None:
        self.kept: list[int] = []
        self.said: list[str] = []
        self.step = 0
        self.watch = PeakWatch(
            Overoptimization(**settings), self.mix(), keep=lambda: self.kept.append(self.step), note=self.said.append
        )

    def mix(self) -> Any:
        def held_out(*_: object) -> Tensor:
            return self.held_out

        return held_out

    def see(self, score: Tensor, held_out: Tensor, spread: Tensor, kl: float = 0.0) -> dict[str, float]:
        self.held_out = held_out
        groups = torch.arange(PROMPTS).repeat_interleave(EACH)
        rollout: Any = SimpleNamespace(
            sequences=SimpleNamespace(group_ids=groups, mask=torch.ones(PROMPTS * EACH, 5)),
            prompts=(),
            texts=(),
            sampled_tokens=lambda _: None,
        )
        mixed = MixedScores(total=score, terms={}, spread=spread, verdicts={})
        metrics = {"objective/kl": kl, "objective/length_correlation": 0.0}
        told = self.watch.see(self.step, rollout, score, [mixed], None, metrics)
        self.step += 1
        return told


def noise(seed: int) -> Callable[[float], Tensor]:
    """Responses that differ by prompt and by themselves, both by half a unit."""
    numbers = np.random.default_rng(seed)

    def around(mean: float) -> Tensor:
        prompts = np.repeat(numbers.normal(scale=0.5, size=PROMPTS), EACH)
        return torch.from_numpy(mean + prompts + numbers.normal(scale=0.5, size=PROMPTS * EACH))

    return around


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_fall_is_seen_where_it_is_and_the_policy_from_before_is_kept(seed: int) -> None:
    """Held out it rises for 16 steps, and falls by a unit within the next 8."""
    run, around = Planted(held_out=("anything",)), noise(seed)
    passed = []
    for step in range(40):
        gold = step / 16 if step < 16 else max(0.0, 1 - (step - 16) / 8)
        told = run.see(around(step / 20), around(gold), torch.full((PROMPTS * EACH,), 0.3))
        passed.append(told["overoptimization/passed"])
    first = passed.index(1.0)
    assert first in (23, 27), "at a block's end, when it has fallen by more than noise"
    assert passed == [0.0] * first + [1.0] * (40 - first)
    assert run.kept[-1] == run.watch.kept
    assert run.watch.kept in (15, 19), "the block before the fall"
    before = [block for block in run.watch.blocks if block.step < first]
    assert run.watch.kept == max(before, key=lambda block: block.mean("held_out")).step, "and the best of them"
    (said,) = run.said
    assert said.startswith(f"step {first + 1}: over-optimisation? the held-out score fell by ")
    assert said.endswith(f"the policy of step {run.watch.kept + 1} is kept in {KEPT}/")
    assert run.watch.numbers == {"peak_passed_at": first + 1, "kept_from_step": run.watch.kept + 1}


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_spread_is_seen_without_a_held_out_reward(seed: int) -> None:
    run, around = Planted(max_distance=99.0), noise(seed)
    run.watch.held_out = None
    for step in range(40):
        run.see(around(step / 20), around(0), 0.3 + 0.05 * around(0) + (0.1 if step >= 20 else 0.0))
    assert run.watch.passed == 23
    assert run.watch.kept == 19
    assert "the ensemble's members came apart" in run.watch.warning


@pytest.mark.parametrize("seed", range(5))
def test_an_unharmed_run_is_not_warned_of(seed: int) -> None:
    """Everything rises, or stays with its noise, for 120 steps."""
    run, around = Planted(held_out=("anything",), max_distance=2.0), noise(seed)
    for step in range(120):
        run.see(around(step / 40), around(min(1.0, step / 40)), 0.3 + 0.05 * around(0), kl=min(3.0, step / 20))
    assert run.said == []
    assert run.watch.numbers["peak_passed_at"] is None


def test_a_watch_goes_on_from_its_state() -> None:
    run, again, around = Planted(held_out=("x",)), Planted(held_out=("x",)), noise(3)
    steps = [[around(step / 20), around(1 - step / 10), 0.1 * around(3)] for step in range(20)]
    for number in range(10):
        run.see(*steps[number])
    again.watch.load_state_dict(run.watch.state_dict())
    again.step = 10
    for number in range(10, 20):
        assert run.see(*steps[number]) == again.see(*steps[number])
    assert run.watch.state_dict() == again.watch.state_dict()
    assert run.watch.warning
    late = Planted(held_out=("x",))
    late.watch.load_state_dict(run.watch.state_dict())
    assert late.said == [run.watch.warning], "the report of a resumed run has it too"


class LikesLength:
    """Held out is the opposite of what is learned."""

    learned: Sequence[Any] = ()

    def __init__(self, *_: object, **__: object) -> None:
        self.hashes: dict[str, str] = {}

    def __call__(self, prompts: Sequence[Any], texts: Sequence[str], tokens: object) -> Tensor:
        return -torch.tensor(judges.brevity(prompts, list(texts)), dtype=torch.float64)


def test_of_a_real_run_the_policy_from_before_is_kept_whole(
    settings: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(plots, "render", lambda *_: "<svg></svg>")
    monkeypatch.setattr(peak, "Mix", LikesLength)
    monkeypatch.setattr(peak, "check_readers", lambda *_: None)
    base = settings["reinforce"] | {
        "rewards": [{"function": "tests.stages.effects.judges:brevity"}],
        "optimizer": {"learning_rate": 1e-2, "schedule": "constant"},
        "kl_coef": 0.0,
        "min_entropy": 0.0,
        "checkpoint_every": 1,
        "prompts_per_step": 8,
    }
    watched = base | {"steps": 12, "overoptimization": {"held_out": ["tiny"], "every": 2, "sureness": 0.1}}
    recipe = parse_recipe(ReinforceRecipe, watched)
    out = tmp_path / "whole"
    reinforce.train(recipe, Run.open(out, recipe))
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    passed, kept = report["peak_passed_at"], report["kept_from_step"]
    assert passed % 2 == kept % 2 == 0
    assert kept < passed <= 12
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"step {passed}: over")][:1]
    assert f"the policy of step {kept} is kept in {KEPT}/" in line
    assert report["notes"] == [line]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Is the peak passed?" in page
    rows = [json.loads(each) for each in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["overoptimization/passed"] for row in rows] == [0.0] * (passed - 1) + [1.0] * (13 - passed)
    assert all(math.isfinite(row["overoptimization/held_out"]) for row in rows)

    # what is kept is the policy that was measured in that step, and nothing of the run has changed by watching
    before, shorter = tmp_path / "before", parse_recipe(ReinforceRecipe, base | {"steps": kept - 1})
    reinforce.train(shorter, Run.open(before, shorter))
    weights, expected = (load_file(place / "model" / "model.safetensors") for place in (out / KEPT, before))
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert load_language_model(str(out / KEPT)).model.config.vocab_size > 0

    # stopped after the warning and gone on: the same bits, and the warning in the report
    log, stopped = Run.log, tmp_path / "stopped"

    def interrupted(run: Run, step: int, metrics: Any) -> None:
        log(run, step, metrics)
        if step == passed:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", interrupted)
        begun = Run.open(stopped, recipe)
        with pytest.raises(KeyboardInterrupt):
            reinforce.train(recipe, begun)
    reinforce.train(recipe, Run.open(stopped, recipe, resume=True))
    for name in ("model", f"{KEPT}/model"):
        path = Path(name) / "model.safetensors"
        assert (out / path).read_bytes() == (stopped / path).read_bytes()
    assert json.loads((stopped / "report.json").read_text(encoding="utf-8"))["notes"] == [line]


def test_what_cannot_be_seen_is_refused(settings: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(RecipeError, match="overoptimization has nothing to look at: name held_out, max_distance"):
        parse_recipe(ReinforceRecipe, settings["reinforce"] | {"overoptimization": {}})
    learned = {"rewards": [{"model": "a"}], "overoptimization": {"held_out": ["a"]}}
    with pytest.raises(RecipeError, match="the policy learns from a, which is then not held out"):
        parse_recipe(ReinforceRecipe, settings["reinforce"] | learned)
