"""`chat_template` in a recipe: used, saved, said; and rows that it cannot hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from palate.cli import main
from palate.lm.sources.zoo import load_chat, load_scalar_model, save
from palate.lm.templates import FAMILIES, find_template

Toml = Callable[[dict[str, Any]], Path]
Settings = dict[str, dict[str, Any]]

STRICT = """{% for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{{- '<|im_start|>' + m.role + '\\n' + m.content | trim + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""Roles that alternate, no system turn, no blanks: as a well-known family has it."""


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def rows(path: Path, dialogues: Sequence[Sequence[dict[str, str]]]) -> str:
    path.write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in dialogues), encoding="utf-8")
    return str(path)


@pytest.fixture
def strict(tmp_path: Path) -> str:
    (tmp_path / "strict.jinja").write_text(STRICT, encoding="utf-8")
    return str(tmp_path / "strict.jinja")


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return found


def test_sft_counts_what_the_template_cannot_hold_and_saves_it_with_the_model(
    settings: Settings, toml: Toml, tmp_path: Path, strict: str
) -> None:
    good = [[said("user", f"Number {number}? "), said("assistant", "Yes. ")] for number in range(20)]
    system = [said("system", "Be kind."), *good[0]]
    twice = [said("user", "One."), said("user", "Two."), said("assistant", "Three.")]
    path = rows(tmp_path / "chats.jsonl", [*good, system, twice])
    tree = settings["sft"] | {"data": {"path": path}, "holdout": {"fraction": 0.3}, "chat_template": strict}
    out = tmp_path / "run"
    assert main(["sft", str(toml(tree)), "--out", str(out)]) == 0
    notes = report(out)["notes"]
    assert report(out)["left_out"] == 1
    assert any("roles must alternate" in note and f"{path}:22" in note for note in notes)
    assert "chat template: none for system turns; 1 stand at the beginning of the user's turn instead" in notes
    chat = load_chat(str(out))
    assert chat.tokenizer.chat_template == STRICT
    assert (out / "model" / "chat_template.jinja").read_text(encoding="utf-8") == STRICT


def test_sampling_leaves_such_prompts_out_when_it_may(toml: Toml, tmp_path: Path, strict: str) -> None:
    twice = [said("user", "One."), said("user", "Two.")]
    path = rows(tmp_path / "prompts.jsonl", [[said("system", "Be kind."), said("user", "Zero.")], twice])
    sampling = {"max_new_tokens": 4}
    tree: dict[str, Any] = {"model": "tiny", "chat_template": strict, "prompts": {"path": path}, "sampling": sampling}
    assert main(["sample", str(toml(tree)), "--out", str(tmp_path / "stopped")]) == 2
    assert main(["sample", str(toml(tree | {"max_left_out": 0.5})), "--out", str(tmp_path / "run")]) == 0
    lines = (tmp_path / "run" / "candidates.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["prompt"]["messages"][-1]["content"] for line in lines] == ["Zero."]
    notes = report(tmp_path / "run")["notes"]
    assert any(f"{path}:2" in note for note in notes)
    assert any("none for system turns; 1 stand" in note for note in notes)


def test_a_reward_model_of_another_template_cannot_score_a_policys_tokens(
    settings: Settings, toml: Toml, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_scalar_model("tiny", seed=1)
    save(loaded.model, loaded.chat, tmp_path / "reward")
    tree = settings["reinforce"] | {"rewards": [{"model": str(tmp_path / "reward")}]}
    assert main(["reinforce", str(toml(tree | {"chat_template": "zephyr"})), "--out", str(tmp_path / "a")]) == 2
    assert "was trained with another chat template than the policy's" in capsys.readouterr().err
    # the same format under another name is no other template
    assert main(["reinforce", str(toml(tree | {"chat_template": "qwen2.5"})), "--out", str(tmp_path / "b")]) == 0


def test_a_judge_of_another_template_is_given_the_words(toml: Toml, tmp_path: Path) -> None:
    loaded = load_scalar_model("tiny", seed=1, chat_template="zephyr")
    save(loaded.model, loaded.chat, tmp_path / "judge")
    path = rows(tmp_path / "prompts.jsonl", [[said("user", f"Number {number}?")] for number in range(3)])
    tree: dict[str, Any] = {
        "model": "tiny",
        "baseline": "tiny",
        "baseline_chat_template": "plain",
        "prompts": {"path": path},
        "judge": {"model": str(tmp_path / "judge")},
        "sampling": {"max_new_tokens": 6},
    }
    assert main(["eval", str(toml(tree)), "--out", str(tmp_path / "run")]) == 0
    notes = report(tmp_path / "run")["notes"]
    assert any("the baseline's is another one" in note for note in notes)
    assert any("the judge's is another one" in note for note in notes)


def test_a_resume_with_another_template_in_the_same_file_is_refused(
    settings: Settings, toml: Toml, tmp_path: Path, strict: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = toml(settings["sft"] | {"chat_template": strict})
    assert main(["sft", str(recipe), "--out", str(tmp_path / "run")]) == 0
    lineage = tmp_path / "run" / "lineage.json"
    lineage.write_text(json.dumps(json.loads(lineage.read_text()) | {"ended": None}), encoding="utf-8")
    Path(strict).write_text(find_template("plain", load_chat("tiny").tokenizer), encoding="utf-8")
    assert main(["sft", str(recipe), "--out", str(tmp_path / "run"), "--resume"]) == 2
    assert "chat_template has changed since this run began" in capsys.readouterr().err


KEYS = [
    (stage, "chat_template") for stage in ("sft", "reward", "dpo", "ppo", "reinforce", "sample", "best-of-n", "eval")
]


@pytest.mark.parametrize(("stage", "key"), [*KEYS, ("eval", "baseline_chat_template")])
def test_every_stage_that_loads_a_model_asks_for_its_template(
    stage: str, key: str, settings: Settings, data: dict[str, str], toml: Toml, tmp_path: Path, capsys: Any
) -> None:
    drawing = {"model": "tiny", "precision": "fp32", "prompts": {"path": data["prompts"]}}
    trees = settings | {
        "sample": drawing,
        "best-of-n": drawing | {"rewards": [{"length": 3.0}]},
        "eval": drawing | {"baseline": "tiny", "judge": {"length": 3.0}},
    }
    tree = trees[stage] | {key: "no-such-family"}
    assert main([stage, str(toml(tree)), "--out", str(tmp_path / "run")]) == 2
    assert "'no-such-family'" in capsys.readouterr().err


def test_every_family_is_named_in_the_guide() -> None:
    page = Path(__file__).parents[2] / "docs" / "concepts" / "chat-templates.md"
    text = page.read_text(encoding="utf-8")
    assert [name for name in FAMILIES if f"`{name}`" not in text] == []
