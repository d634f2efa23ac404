"""Every estimate is within 15% of what the stage then takes, frozen and not, in both precisions, in parts and whole."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tests.stages.estimate import allocated

from palate import recipe as recipes
from palate.commands import STAGES
from palate.evals import plots
from palate.evals.card import pictures
from palate.evals.page import Report
from palate.recipe import parse_recipe
from palate.run.directory import Run
from palate.stages.estimate import fitting
from palate.stages.estimate.workload import Workload
from palate.stages.measuring import card

STARTER = str(Path(__file__).parents[3] / "recipes" / "constitutions" / "starter.toml")


def settings(stage: str, files: dict[str, str], **changes: Any) -> dict[str, Any]:
    """A recipe of a stage on these files: two or a few steps."""
    tree: dict[str, Any] = {"model": files["model"], "precision": "fp32"}
    if stage in ("sft", "dpo", "kto", "reward"):
        kind = {"sft": "demonstrations", "kto": "thumbs"}.get(stage, "rankings")
        size = {"batch_size": 8} if stage in ("sft", "kto") else {"batch_responses": 16}
        tree |= {"data": {"path": files[kind]}, **size}
    elif stage == "card":
        kinds = {"openbookqa": "choices", "held_out_text": "texts", "form": "prompts"}
        sections = [{"protocol": name, "path": files[kind]} for name, kind in kinds.items()]
        tree |= {"sections": sections, "window": 500, "sampling": {"max_new_tokens": 24, "num_slots": 16}}
    elif stage == "judge":
        tree |= {"candidates": {"path": files["rankings"], "limit": 16}, "constitution": STARTER}
    else:
        tree |= {"prompts": {"path": files["prompts"]}, "sampling": {"max_new_tokens": 24, "num_slots": 16}}
    if stage == "revise":
        tree |= {"constitution": STARTER}
    if stage not in ("sft", "dpo", "kto", "reward", "sample", "judge", "revise", "best-of-n", "eval", "card"):
        tree |= {"rewards": [{"model": files["model"]}], "steps": 2, "prompts_per_step": 4}
    if stage == "distill":
        tree |= {"teachers": [files["model"]], "rewards": []}
    if stage == "best-of-n":
        tree |= {"rewards": [{"model": files["other"]}], "n": 3}
    if stage == "card":
        tree |= {"baseline": files["other"]}
    if stage == "eval":
        tree |= {"baseline": files["other"], "judge": {"model": files["model"]}}
    return tree | changes | {key: files[changes[key]] for key in ("model", "reference") if key in changes}


def run(stage: str, tree: dict[str, Any], directory: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Workload, int]:
    """What the stage said it would take, and the bytes it took."""
    told: list[Workload] = []
    monkeypatch.setattr(fitting, "say", lambda run, work, peak, room: told.append(work))
    monkeypatch.setattr(Report, "figure", lambda *_: None)
    monkeypatch.setattr(pictures, "render", lambda *_: "")
    monkeypatch.setattr(card, "cache_directory", lambda: directory)
    for name in ("calibration", "agreement_matrix", "before_after", "win_rate_by_length"):
        monkeypatch.setattr(plots, name, lambda *_: None)
    command = next(each for each in STAGES if each.name == stage)
    recipe = parse_recipe(getattr(recipes, command.recipe), tree)
    started = Run.open(directory, recipe)
    took = allocated.peak(lambda: getattr(import_module(command.module), command.function)(recipe, started))
    (work,) = told
    return work, took


WHOLE, PARTS = {"microbatch_tokens": 4096}, {"microbatch_tokens": 400}
FROZEN, HALF = {"frozen_layers": 2}, {"precision": "bf16"}
ADAPTED, CAPPED = {"adapter": {"rank": 8}}, {"model": "capped"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sft, whole": ("sft", WHOLE),
    "sft, frozen, in parts": ("sft", FROZEN | PARTS),
    "sft, bf16, in parts": ("sft", HALF | PARTS),
    "sft, bf16, frozen, whole": ("sft", HALF | FROZEN | WHOLE),
    "sft, recomputed, whole": ("sft", {"recompute_activations": True} | WHOLE),
    "reward, bf16, in parts": ("reward", HALF | PARTS),
    "reward, bf16, frozen, whole": ("reward", HALF | FROZEN | WHOLE),
    "dpo, whole": ("dpo", WHOLE),
    "kto, whole": ("kto", WHOLE),
    "kto, bf16, frozen, in parts": ("kto", HALF | FROZEN | PARTS),
    "dpo, bf16, adapted, in parts": ("dpo", HALF | ADAPTED | PARTS),
    "reinforce, frozen, in parts": ("reinforce", FROZEN | PARTS),
    "reinforce, bf16, whole": ("reinforce", HALF | WHOLE),
    "reinforce, frozen, against another, whole": ("reinforce", FROZEN | WHOLE | {"reference": "other"}),
    "reinforce, adapted, against another, whole": ("reinforce", ADAPTED | WHOLE | {"reference": "other"}),
    "ppo, adapted, whole": ("ppo", ADAPTED | WHOLE),
    "ppo, bf16, frozen, in parts": ("ppo", HALF | FROZEN | PARTS),
    "online-dpo, frozen, whole": ("online-dpo", FROZEN | WHOLE),
    "raft, bf16, in parts": ("raft", HALF | PARTS),
    "distill, whole": ("distill", WHOLE),
    "best of n, whole": ("best-of-n", WHOLE),
    "best of n, bf16, in parts": ("best-of-n", HALF | PARTS),
    "evaluation, whole": ("eval", WHOLE),
    "evaluation, bf16, in parts": ("eval", HALF | PARTS),
    "card, whole": ("card", WHOLE),
    "card, bf16, in parts": ("card", HALF | {"microbatch_tokens": 600}),
    "sft, capped, whole": ("sft", CAPPED | WHOLE),
    "sft, capped, bf16, adapted, in parts": ("sft", CAPPED | HALF | ADAPTED | PARTS),
    "evaluation, capped": ("eval", CAPPED | WHOLE),
    "sample": ("sample", {}),
    "sample, bf16": ("sample", HALF),
    "judging, whole": ("judge", WHOLE),
    "judging, bf16, in parts": ("judge", HALF | PARTS),
    "judging by samples": ("judge", {"samples": 1, "sampling": {"max_new_tokens": 24, "num_slots": 16}}),
    "revising": ("revise", {}),
}


@pytest.mark.parametrize(("stage", "changes"), CASES.values(), ids=CASES.keys())
def test_the_estimate_is_what_it_takes(
    stage: str, changes: dict[str, Any], files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, took = run(stage, settings(stage, files, **changes), tmp_path / "run", monkeypatch)
    print(
        f"{took:,} said {work.peak.total:,} {work.peak.total / took - 1:+.1%} {work.peak.name} {dict(work.peak.parts)}"
    )
    assert work.peak.total == pytest.approx(took, rel=0.15)
