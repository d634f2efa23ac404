"""One step ahead: what is drawn by which weights; a resumed run learns from what it would have learned from."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.scripted_vllm import ScriptedVLLM, several

from palate.errors import EndpointError
from palate.recipe import ReinforceRecipe, parse_recipe
from palate.rollout import vllm
from palate.rollout.servers import vllm_server
from palate.run.directory import Run
from palate.stages import common
from palate.stages.reinforcement import ahead
from palate.stages.reinforcement.reinforce import train

SERVERS = {"engine": {"kind": "vllm", "servers": ["http://here.test"]}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> ScriptedVLLM:
    scripted = ScriptedVLLM()
    monkeypatch.setattr(vllm_server, "send", several({"http://here.test": scripted}))
    monkeypatch.setattr(vllm, "PROBED", 2)
    monkeypatch.setattr(vllm, "LONGEST_WAIT", 0.0)
    monkeypatch.setattr(common, "stage_report", lambda *_, **__: None)
    return scripted


def run(settings: dict[str, Any], changes: dict[str, Any], out: Path, *, resume: bool = False) -> Path:
    tree = settings["reinforce"] | {"one_step_ahead": True, "steps": 3, "checkpoint_every": 1, "prompts_per_step": 2}
    recipe = parse_recipe(ReinforceRecipe, tree | {"optimizer": {"learning_rate": 1e-2}} | changes)
    train(recipe, Run.open(out, recipe, resume=resume))
    return out


def came_of(out: Path) -> tuple[list[dict[str, float]], dict[str, bytes]]:
    """All that was logged but times and requests, and the bits of the model."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    told = [{k: v for k, v in row.items() if not k.startswith("time/") and k != "sampler/retries"} for row in rows]
    weights = load_file(out / "model" / "model.safetensors")
    return told, {name: weight.numpy().tobytes() for name, weight in weights.items()}


@pytest.mark.parametrize("engine", [{}, SERVERS], ids=["local", "vllm"])
def test_stopped_and_resumed_it_ends_with_the_same_bits(
    engine: dict[str, Any],
    server: ScriptedVLLM,
    settings: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was drawn for the step after the checkpoint is not drawn again by other weights."""
    whole = came_of(run(settings, engine, tmp_path / "whole"))
    samples = Run.samples

    def stops(self: Run, step: int, *rest: Any) -> None:
        samples(self, step, *rest)
        if step == 1:  # there is a checkpoint of the first step, and none of this one
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "samples", stops)
        with pytest.raises(KeyboardInterrupt):
            run(settings, engine, tmp_path / "cut")
    assert came_of(run(settings, engine, tmp_path / "cut", resume=True)) == whole
    assert [row.get("sampler/staleness", 0.0) for row in whole[0]] == [0.0, 1.0, 1.0]


def test_servers_draw_while_the_policy_learns_what_they_would_have_drawn_before(
    server: ScriptedVLLM, settings: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order and side by side come to the same; and it is in a thread of its own that they are asked."""
    threads: set[bool] = set()
    generate = vllm.VLLMEngine.generate

    def noted(self: vllm.VLLMEngine, *args: Any, **settings: Any) -> Any:
        threads.add(threading.current_thread() is threading.main_thread())
        return generate(self, *args, **settings)

    monkeypatch.setattr(vllm.VLLMEngine, "generate", noted)
    side_by_side = came_of(run(settings, SERVERS, tmp_path / "aside"))
    assert threads == {True, False}
    init = ahead.OneStepAhead.__init__
    monkeypatch.setattr(
        ahead.OneStepAhead, "__init__", lambda self, *args, meanwhile: init(self, *args, meanwhile=False)
    )
    assert came_of(run(settings, SERVERS, tmp_path / "in-order")) == side_by_side


def test_a_server_that_is_gone_ends_the_step_that_wants_its_responses(
    server: ScriptedVLLM, settings: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """The error of the other thread is the run's."""
    server.dies_after, server.back_after = 10, 10**9
    changes = {"engine": SERVERS["engine"] | {"patience_s": 1e-9}}
    with pytest.raises(EndpointError, match="the vLLM server is not there"):
        run(settings, changes, tmp_path / "run")
