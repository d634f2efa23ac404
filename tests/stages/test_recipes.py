"""Every recipe in recipes/ runs for two steps through the real command, on small data and the tiny model."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from palate.cli import main
from palate.demo.prompts import demo_prompts
from palate.records import Prompt, Ranking, Response

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
COMMAND = {
    "pretrain": "pretrain",
    "sft": "sft",
    "sample": "sample",
    "judge": "judge",
    "revise": "revise",
    "reward": "reward",
    "reward_ensemble": "reward",
    "reward_objectives": "reward",
    "convarg": "reward",
    "llmfao": "reward",
    "hh_harmless": "reward",
    "ppo": "ppo",
    "ppo_ptx": "ppo",
    **dict.fromkeys(("reinforce", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "verified"), "reinforce"),
    "dpo": "dpo",
    "kto": "kto",
    "online_dpo": "online-dpo",
    "raft": "raft",
    "distill": "distill",
    "best_of_n": "best-of-n",
    "win_rate": "eval",
    "card": "eval",
    "rounds": "rounds",
    "pendulum": "agent",
    "demo": "repeat",
}
LEARNED = ["rewards=[{ model = 'tiny' }]", "sampling.max_new_tokens=6", "steps=2", "prompts_per_step=2"]


def pairs(path: Path) -> str:
    """Rows as in the convincing-arguments data: two topics."""
    rows = [
        {"topic": topic, "stance": "yes", "label": f"a{1 + n % 2}", "a1": f"Because {n}.", "a2": f"It is {n} {topic}."}
        for topic in ("evolution vs creation", "tea")
        for n in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def crowd(directory: Path) -> list[str]:
    """Two files as of llmfao: who judged what, and the texts."""
    judged, texts = directory / "crowd.csv", directory / "crowd.jsonl"
    lines = [f"{n},{('left', 'right', 'tie')[n % 3]},{n % 4}" for n in range(24)]
    judged.write_text("\n".join(["id,winner,worker", *lines]), encoding="utf-8")
    rows = [{"id": n, "text": f"What of {n}?", "result_x": f"Much of {n}.", "result_y": f"No {n}."} for n in range(24)]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [f"data.path={judged}", f"data.join.id={texts}"]


def told(path: Path) -> str:
    """Rankings with ratings and flags."""
    rankings = (
        Ranking(
            prompt=Prompt.from_text(f"What about {n}?"),
            responses=tuple(Response(text=f"{answer} {n}.") for answer in ("Fine", "No")),
            ranks=(1, 2),
            ratings=(5 + n % 3, 1 + n % 4),
            flags=((), ("hallucination",) if n % 2 else ()),
        )
        for n in range(40)
    )
    path.write_text("".join(ranking.to_json() + "\n" for ranking in rankings), encoding="utf-8")
    return str(path)


def held_out(path: Path) -> str:
    """Prompts that nobody learns from."""
    prompts = demo_prompts(held_out=True)[:3]
    path.write_text("".join(prompt.to_json() + "\n" for prompt in prompts), encoding="utf-8")
    return str(path)


def sums(path: Path) -> str:
    """Rows as in GSM8K."""
    rows = [
        {"question": f"What is {n} and {n}?", "answer": f"It is <<{n}+{n}={2 * n}>>.\n#### {2 * n}"} for n in range(9)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def transcripts(path: Path) -> str:
    """Rows as in the HH data."""
    rows = [
        {
            name: f"\n\nHuman: What about {n}?\n\nAssistant: {answer} {n}."
            for name, answer in (("chosen", "Fine"), ("rejected", "No"))
        }
        for n in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def card_sections(directory: Path, data: dict[str, str]) -> list[str]:
    """The files of every section of the card, by its place in the recipe."""
    sections = tomllib.loads((RECIPES[0].parent / "card.toml").read_text(encoding="utf-8"))["sections"]
    choices = [{"query": f"What of {n}?", "choices": [f"Much of {n}.", "Not so."], "gold": n % 2} for n in range(9)]
    rows: dict[str, list[dict[str, object]]] = {
        "winogrande": [{"sentence": f"{n} _ it.", "option1": "is", "option2": "has", "answer": "1"} for n in range(9)],
        "lambada": [{"text": f"What of {n}"} for n in range(9)],
        "truthfulqa": [
            {"Question": f"{n}?", "Best Answer": "So.", "Correct Answers": "So.; As so", "Incorrect Answers": "No"}
            for n in range(9)
        ],
    }
    rows["hallucination"] = [
        {"user_query": f"What of {n}?", "chatgpt_response": f"{n}.", "hallucination": ("yes", "no")[n % 2]}
        for n in range(9)
    ]
    found = ["baseline=tiny", "reward_model=tiny", "sampling.max_new_tokens=6"]
    for place, section in enumerate(sections):
        name = section["protocol"]
        path = directory / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows.get(name, choices)), encoding="utf-8")
        known = {"held_out_text": data["texts"], "form": data["prompts"], "win_rate": data["prompts"]}
        found.append(f"sections.{place}.path={known.get(name, path)}")
    return found


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_runs(recipe: Path, data: dict[str, str], tmp_path: Path) -> None:
    if COMMAND[recipe.stem] == "agent":
        pytest.importorskip("gymnasium", reason="needs palate[gym]")
    on_prompts = [f"prompts.path={data['prompts']}", *LEARNED]
    overrides = {
        "pretrain": [f"data.path={data['documents']}", "held_out_fraction=0.2", "steps=2", "architecture.preset=1m"],
        "sft": [f"data.path={data['demonstrations']}"],
        "sample": [f"prompts.path={data['prompts']}"],
        "judge": [f"candidates.path={data['rankings']}", "candidates.limit=10"],
        "revise": [f"prompts.path={data['prompts']}", "prompts.limit=40", "sampling.max_new_tokens=6"],
        "reward": [f"data.path={data['rankings']}"],
        "reward_ensemble": [f"data.path={data['rankings']}"],
        "reward_objectives": [
            f"data.path={told(tmp_path / 'told.jsonl')}",
            f"objectives.2.data.path={data['rankings']}",
        ],
        "llmfao": crowd(tmp_path),
        "convarg": [f"data.path={pairs(tmp_path / 'pairs.jsonl')}"],
        "hh_harmless": [f"data.path={transcripts(tmp_path / 'hh.jsonl')}"],
        "ppo": on_prompts,
        "ppo_ptx": [*on_prompts, f"pretraining.data.path={data['texts']}"],
        **{name: on_prompts for name, command in COMMAND.items() if command == "reinforce"},
        "verified": [f"prompts.path={sums(tmp_path / 'sums.jsonl')}", *LEARNED[1:]],
        "dpo": [f"data.path={data['rankings']}"],
        "kto": [f"data.path={data['thumbs']}"],
        "online_dpo": [f"prompts.path={data['prompts']}", *LEARNED],
        "raft": [f"prompts.path={data['prompts']}", *LEARNED],
        "distill": [f"prompts.path={data['prompts']}", "teachers=['tiny']", *LEARNED[1:]],
        "best_of_n": [f"prompts.path={data['prompts']}", "rewards=[{ model = 'tiny' }]", "sampling.max_new_tokens=6"],
        "rounds": [
            f"prompts.path={data['prompts']}",
            f"held_out.path={held_out(tmp_path / 'held_out.jsonl')}",
            *("rounds=2", "prompts_per_round=5", "sampling.max_new_tokens=6"),
            *("policy.steps=2", "policy.prompts_per_step=2", "evaluation.responses_per_prompt=1"),
        ],
        "card": card_sections(tmp_path, data),
        "win_rate": [f"prompts.path={data['prompts']}", "baseline=tiny", "sampling.max_new_tokens=6"],
        "pendulum": ["steps=2", "num_environments=2", "epochs=1", "final_episodes=2", "reward_model.updates=2"],
        "demo": ["scale=tiny"],
    }[recipe.stem]
    if COMMAND[recipe.stem] != "agent":  # whose networks are small, and come of themselves
        overrides += ["precision=fp32"]
        overrides += [] if recipe.stem in ("pretrain", "demo") else ["model=tiny"]  # which say themselves
    if "frozen_layers" in recipe.read_text(encoding="utf-8"):
        overrides.append("frozen_layers=1")
    out = tmp_path / "run"
    changes = [word for override in overrides for word in ("--set", override)]
    once = ["--seeds", "1"] if COMMAND[recipe.stem] == "repeat" else []
    assert main([COMMAND[recipe.stem], str(recipe), "--out", str(out), *once, *changes]) == 0
    assert (out / "report.json").exists()
    assert (out / "report.html").exists()
    if COMMAND[recipe.stem] in (
        "pretrain",
        "sft",
        "reward",
        "ppo",
        "reinforce",
        "dpo",
        "kto",
        "online-dpo",
        "raft",
        "distill",
    ):
        assert (out / "metrics.jsonl").read_text().count("\n") >= 2
        assert (out / "model" / "model.safetensors").exists()


def test_every_recipe_is_run() -> None:
    assert {path.stem for path in RECIPES} == set(COMMAND)
