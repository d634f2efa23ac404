"""What a reward function may give, and the one line for everything else."""

from __future__ import annotations

import json
import math
import sys
import types
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.cli import main
from palate.errors import PalateError, RecipeError, RewardError
from palate.evals.winrate import both_orders
from palate.lm.sources.zoo import load_scalar_model, save
from palate.recipe import Reward
from palate.records import Prompt
from palate.rewards.learned import LearnedReward
from palate.rewards.mix import Mix
from palate.rewards.rules import FunctionReward
from palate.scores import ask
from palate.simulated.labelers import rank_candidates

PROMPTS = [Prompt.from_text(text) for text in ("a", "b", "c")]
TEXTS = ["one", "two\nlines", "three"]
NAN, INF = math.nan, math.inf


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A user's module."""
    module = types.ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", module)
    return module


def given_by(returned: object) -> Callable[..., Any]:
    return lambda prompts, texts: returned


@pytest.mark.parametrize(
    "returned",
    [
        [1, 0.5, True],
        (1, 0.5, 1),
        np.array([1, 0.5, 1]),
        [np.float32(1), np.float64(0.5), np.bool_(True)],
        torch.tensor([1, 0.5, 1], dtype=torch.bfloat16, requires_grad=True),
        [torch.tensor(1), torch.tensor(0.5), 1],
    ],
)
def test_numbers_of_every_make(returned: object) -> None:
    assert ask("mine:f", given_by(returned), PROMPTS, TEXTS) == [1.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "'mine:f' returned None for 3 responses, not a list with a number for each"),
        (0.5, "returned 0.5 for 3 responses"),
        ("good", "returned 'good' for 3 responses"),
        ({"one": 1}, "returned {'one': 1} for 3 responses"),
        ((score for score in (1, 2, 3)), "for 3 responses, not a list"),
        (np.float64(0.5), "returned np.float64(0.5) for 3 responses"),
        ([1, 2], "returned 2 scores for 3 responses"),
        ([], "returned 0 scores for 3 responses"),
        ([1, 2, 3, 4], "returned 4 scores for 3 responses"),
        ([1, None, 3], r"returned None for response 2 of 3 ('two\nlines'), where a score is one finite number"),
        ([1, 2, "3"], "returned '3' for response 3 of 3 ('three')"),
        ([(1, "why"), 2, 3], "returned (1, 'why') for response 1 of 3 ('one')"),
        ([1, NAN, 3], "returned nan for response 2 of 3"),
        ([1, 2, -INF], "returned -inf for response 3 of 3"),
        ([1, 2, 1e39], "returned 1e+39 for response 3 of 3"),
        ([1, 2, 10**400], "for response 3 of 3"),
        ([1, 2, 1j], "returned 1j for response 3 of 3"),
        ([1, 2, Decimal(1)], "returned Decimal('1') for response 3 of 3"),
        (np.zeros((3, 1)), "returned [0.0] for response 1 of 3"),
        (torch.tensor([0.0, NAN, 0.0]), "returned nan for response 2 of 3"),
    ],
)
def test_anything_else_is_one_line_with_function_response_and_value(returned: object, said: str) -> None:
    with pytest.raises(RewardError) as caught:
        ask("mine:f", given_by(returned), PROMPTS, TEXTS)
    assert str(caught.value).startswith("'mine:f' returned ")
    assert said in str(caught.value)
    assert str(caught.value).endswith("mend the function, then go on with --resume")
    assert "\n" not in str(caught.value)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=6))
def test_whatever_is_returned_is_three_finite_numbers_or_one_line(returned: Any) -> None:
    said, scores = "", [0.0] * 3
    try:
        scores = ask("mine:f", given_by(returned), PROMPTS, TEXTS)
    except RewardError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 400
    assert len(scores) == 3
    assert bool(torch.tensor(scores, dtype=torch.float32).isfinite().all())


def test_a_function_that_raises_is_named_with_the_response_and_the_line() -> None:
    def shout(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        return [1 / (len(text) - 9) for text in texts]  # the second text has nine characters

    with pytest.raises(RewardError) as caught:
        ask("mine:shout", shout, PROMPTS, TEXTS)
    said = str(caught.value)
    assert "'mine:shout' raised ZeroDivisionError" in said
    assert r"for response 2 of 3 ('two\nlines')" in said
    assert "test_scores.py:" in said

    def leaves(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        sys.exit("enough")

    with pytest.raises(RewardError, match=r"SystemExit: enough .* for response 1 of 3"):
        ask("mine:leaves", leaves, PROMPTS, TEXTS)

    def moody(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        if len(texts) > 1:
            raise ValueError("several\nlines")
        return [0.0]

    with pytest.raises(RewardError, match=r"ValueError: several lines .* for 3 responses together, for none of them"):
        ask("mine:moody", moody, PROMPTS, TEXTS)


def test_a_module_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: types.ModuleType
) -> None:
    (tmp_path / "broken_reward.py").write_text("def score(prompts, texts)\n    return 1\n", encoding="utf-8")
    (tmp_path / "leaving_reward.py").write_text("raise SystemExit('no licence')\n", encoding="utf-8")
    (tmp_path / "failing_reward.py").write_text("raise KeyError('no key in the environment')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, said in {"broken": "SyntaxError", "failing": "no key in the environment", "leaving": "no lice"}.items():
        with pytest.raises(RecipeError, match=said) as caught:
            FunctionReward(f"{name}_reward:score")
        assert "\n" not in str(caught.value)


def test_terms_whose_sum_is_no_number(mine: types.ModuleType) -> None:
    mine.large = given_by([3e38] * 3)  # type: ignore[attr-defined]
    mix = Mix([Reward(function="mine:large"), Reward(function="mine:large", weight=2.0)])
    with pytest.raises(RewardError, match=r"weighted sum of the rewards returned inf for response 1 of 3 \('one'\)"):
        mix(PROMPTS, TEXTS)


def test_a_reward_model_with_damaged_weights_is_named(tmp_path: Path) -> None:
    loaded = load_scalar_model("tiny", precision="fp32")
    with torch.no_grad():
        loaded.model.score.weight[0, 0] = NAN
    save(loaded.model, loaded.chat, tmp_path / "model")
    reward = LearnedReward(str(tmp_path), precision="fp32")
    with pytest.raises(RewardError, match=rf"the reward model {tmp_path} returned nan for response 1 of 3 \('one'\)"):
        reward(PROMPTS, TEXTS)


def test_a_pair_judge_that_gives_nan_is_refused() -> None:
    with pytest.raises(PalateError, match="preference that is not a number"):
        both_orders(lambda prompts, a, b: [NAN, 1.0, 0.0], PROMPTS, TEXTS, TEXTS)


def test_simulated_labelers_ask_in_the_same_way(mine: types.ModuleType) -> None:
    from palate.recipe import Taste
    from palate.records import Candidates, Response

    mine.silent = given_by(None)  # type: ignore[attr-defined]
    items = [Candidates(prompt=PROMPTS[0], responses=tuple(Response(text=text) for text in TEXTS))]
    with pytest.raises(RewardError, match="'mine:silent' returned None for 3 responses"):
        rank_candidates(items, Taste(function="mine:silent"), seed=0)


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """A recipe of a stage that asks the function mine:score."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"What is {n}?"}) + "\n" for n in range(8)), encoding="utf-8")

    def write(**more: Any) -> Path:
        tree = {"model": "tiny", "precision": "fp32", "prompts": {"path": str(prompts)}} | more
        tree["sampling"] = {"max_new_tokens": 6}
        path = tmp_path / "recipe.toml"
        path.write_text(tomli_w.dumps(tree), encoding="utf-8")
        return path

    return write


STAGES: dict[str, dict[str, Any]] = {
    "best-of-n": {"rewards": [{"function": "mine:score"}], "n": 3},
    "eval": {"judge": {"function": "mine:score"}, "baseline": "tiny"},
    "reinforce": {"rewards": [{"function": "mine:score"}], "steps": 2, "prompts_per_step": 2},
    "ppo": {"rewards": [{"function": "mine:score"}], "steps": 2, "prompts_per_step": 2, "value_model": "tiny"},
}


@pytest.mark.parametrize("bad", [None, NAN, "7"])
@pytest.mark.parametrize("stage", sorted(STAGES))
def test_every_stage_ends_in_one_line(
    stage: str,
    bad: object,
    recipe: Callable[..., Path],
    mine: types.ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine.score = lambda prompts, texts: [0.0] * (len(texts) - 1) + [bad]  # type: ignore[attr-defined]
    assert main([stage, str(recipe(**STAGES[stage])), "--out", str(tmp_path / "run")]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("palate:")]
    assert len(said) == 1
    assert f"'mine:score' returned {bad!r} for response" in said[0]
    assert not (tmp_path / "run" / "report.json").exists()


def test_a_run_goes_on_once_its_function_is_mended(
    recipe: Callable[..., Path], mine: types.ModuleType, tmp_path: Path
) -> None:
    """And ends with the bits of one whose function was right from the start."""

    def length(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        return [float(len(text)) for text in texts]

    def failing(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        calls.append(len(texts))
        return [NAN] * len(texts) if len(calls) == 3 else length(prompts, texts)

    calls: list[int] = []
    path = str(recipe(**STAGES["reinforce"] | {"steps": 4, "checkpoint_every": 1}))
    mine.score = length  # type: ignore[attr-defined]
    assert main(["reinforce", path, "--out", str(tmp_path / "whole")]) == 0
    mine.score = failing  # type: ignore[attr-defined]
    assert main(["reinforce", path, "--out", str(tmp_path / "run")]) == 2
    mine.score = length  # type: ignore[attr-defined]
    assert main(["reinforce", path, "--out", str(tmp_path / "run"), "--resume"]) == 0
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert weights[0] == weights[1]
