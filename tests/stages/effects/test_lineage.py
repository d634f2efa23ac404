"""What a run was made from is in its `lineage.json`: a hash of every file and every model that it read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.stages.effects.reinforcement import TEXT
from tests.stages.effects.runs import Runs

from palate.lm.sources.builtin import TINY_TEMPLATE
from palate.lm.sources.zoo import locate
from palate.records import content_id
from palate.rewards.judges.constitutions import read_constitution

LEARNED = {"rewards.0.model": "$scorer", "rewards.0.function": None}
READ: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "sft": ({}, {"data": "$records_demonstrations"}),
    "reward": ({}, {"data": "$records_rankings"}),
    "dpo": ({}, {"data": "$records_rankings"}),
    "kto": ({}, {"data": "$records_thumbs"}),
    "reinforce": (
        LEARNED | {"reference": "$teacher"},
        {"prompts": "$records_prompts", "rewards": "$scorer", "reference": "$teacher"},
    ),
    "ppo": (TEXT, {"prompts": "$records_prompts", "value_model": "$scorer", "pretraining": "$records_texts"}),
    "online-dpo": (LEARNED, {"prompts": "$records_prompts", "rewards": "$scorer"}),
    "raft": (LEARNED, {"prompts": "$records_prompts", "rewards": "$scorer"}),
    "distill": ({}, {"prompts": "$records_prompts", "teachers": "$teacher"}),
    "sample": ({}, {"prompts": "$records_prompts"}),
    "judge": ({}, {"candidates": "$records_rankings", "people": "$records_rankings"}),
    "revise": ({}, {"prompts": "$records_prompts"}),
    "best-of-n": (LEARNED, {"prompts": "$records_prompts", "rewards": "$scorer"}),
    "eval": (
        {"judge.model": "$scorer", "judge.function": None},
        {"prompts": "$records_prompts", "baseline": "tiny", "judge": "$scorer"},
    ),
}
"""By stage: what its run is given, and what it reads beside the model; more than one of a kind goes by its name."""


def hashed(path: str, *, by_name: bool) -> str | dict[str, str]:
    """As the lineage has a file of data or a model."""
    if path.endswith(".jsonl"):
        return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest()}
    weights = (locate(path) / "model.safetensors").read_bytes()
    digest = hashlib.blake2b(weights, digest_size=16).hexdigest()
    return {path: digest} if by_name else digest


@pytest.mark.parametrize("stage", READ)
def test_every_file_and_every_model_is_hashed(stage: str, runs: Runs, files: dict[str, str]) -> None:
    given, read = READ[stage]
    lineage = json.loads((runs(stage, given).directory / "lineage.json").read_text(encoding="utf-8"))
    inputs = {key: value for key, value in lineage["inputs"].items() if value}
    expected = {"model": hashed(files["model"], by_name=False)} | {
        key: hashed(files.get(name.removeprefix("$"), name), by_name=key in ("rewards", "judge", "teachers"))
        for key, name in read.items()
    }
    if stage in ("judge", "revise"):
        assert inputs.pop("constitution") == read_constitution(files["constitution"]).version
    templates = [key for key in inputs if key.endswith("chat_template")]
    assert templates == ["chat_template"] + ["baseline_chat_template"] * (stage == "eval")
    assert inputs == expected | dict.fromkeys(templates, content_id(TINY_TEMPLATE))


def test_of_several_teachers_each_is_hashed_and_so_is_who_judges_them(runs: Runs, files: dict[str, str]) -> None:
    given = {"teachers": ["$teacher", "$other_teacher"], "rewards": [{"model": "$scorer"}]}
    lineage = json.loads((runs("distill", given).directory / "lineage.json").read_text(encoding="utf-8"))
    teachers = [hashed(files[name], by_name=True) for name in ("teacher", "other_teacher")]
    assert lineage["inputs"]["teachers"] == {path: digest for each in teachers for path, digest in dict(each).items()}
    assert lineage["inputs"]["rewards"] == hashed(files["scorer"], by_name=True)
