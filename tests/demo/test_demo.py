"""The whole loop on the tiny model: every part runs, and what is finished is not run again."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from palate.cli import main
from palate.demo.chain import Chain
from palate.demo.loop import SCALES, demo, favourites, is_clean
from palate.demo.prompts import HELD_OUT_SUBJECTS, SUBJECTS, demo_prompts
from palate.recipe import SFTRecipe
from palate.records import Prompt, Provenance, Ranking, Response

HEADLINE = ("win_rate", "win_rate_low", "win_rate_high", "kl", "reward_model_accuracy", "agreement", "seconds")


def test_the_whole_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo(tmp_path, scale=SCALES["tiny"])
    loop = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert set(HEADLINE) | {"longer_wins_accuracy"} <= loop.keys()
    assert 0 <= loop["win_rate_low"] <= loop["win_rate"] <= loop["win_rate_high"] <= 1
    assert list(loop["parts"]) == list(loop["reward_model_on_parts"])[1:] == ["warmth", "point", "length", "broken"]
    learned, ppo = (
        tomllib.loads((tmp_path / stage / "recipe.toml").read_text(encoding="utf-8")) for stage in ("favourites", "ppo")
    )
    assert learned["model"] == ppo["rewards"][0]["model"].replace("reward", "sft") == str(tmp_path / "sft")
    assert learned["data"]["path"] == str(tmp_path / "favourites.jsonl")
    assert ppo["model"] == str(tmp_path / "favourites")
    assert {"function": "palate.rewards.rules:says_something", "weight": 4.0}.items() <= ppo["rewards"][1].items()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 4

    capsys.readouterr()
    demo(tmp_path, scale=SCALES["tiny"])
    assert "==" not in capsys.readouterr().err  # no part was begun again


def test_a_favourite_has_the_best_mean_rank_and_of_equals_stands_first() -> None:
    prompts = [Prompt.from_text(text) for text in ("What of rain?", "What of snow?")]
    texts = ("one", "two", "three")

    def ranked(prompt: Prompt, *ranks: int) -> Ranking:
        return Ranking(
            prompt=prompt, responses=tuple(Response(text=text) for text in texts), ranks=ranks, labeler="someone"
        )

    rankings = [ranked(prompts[0], 1, 2, 3), ranked(prompts[1], 2, 1, 3), ranked(prompts[0], 3, 1, 2)]
    rankings.append(ranked(prompts[1], 1, 2, 3))
    chosen = favourites(rankings)
    assert [item.prompt.id for item in chosen] == [prompt.id for prompt in prompts]
    assert [item.response.text for item in chosen] == ["two", "one"]  # means 2, 1.5, 2.5; then 1.5, 1.5, 3


def test_held_out_subjects_are_held_out() -> None:
    assert not set(SUBJECTS) & set(HELD_OUT_SUBJECTS)
    learned, held_out = demo_prompts(held_out=False), demo_prompts(held_out=True)
    assert (len(learned), len(held_out)) == (720, 192)
    assert not {prompt.id for prompt in learned} & {prompt.id for prompt in held_out}


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Rain makes the garden glad.", True),
        ("Rain makes the garden", False),
        ("As an AI, I have never felt any rain.", False),
        ("1. Rain\n2. More of the rain.", False),
        ("Rain is rain is rain is rain is rain.", False),
        ("Yes.", False),
    ],
)
def test_only_clean_answers_become_demonstrations(text: str, clean: bool) -> None:
    assert is_clean(Response(text=text)) is clean
    assert not is_clean(Response(text=text, provenance=Provenance(model="tiny", ended=False)))


def test_a_stage_computes_in_the_precision_asked_for_and_freezes_what_it_names(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    chain = Chain(tmp_path, 0, frozen_layers=2, precision="bf16")
    given = {"model": "tiny", "data": {"path": "demonstrations.jsonl"}}
    for name, more in (("a", {}), ("b", {"frozen_layers": 1})):
        chain.stage(
            name, SFTRecipe, lambda recipe, _: seen.append((recipe.precision, recipe.frozen_layers)), **given, **more
        )
    assert seen == [("bf16", 2), ("bf16", 1)]


def test_the_command_hands_the_precision_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("palate.demo.loop.demo", lambda *_, precision, **__: asked.append(precision))
    assert main(["demo", "--precision", "fp32"]) == 0
    assert asked == ["fp32"]
