"""Every stage that samples takes its engine from the recipe; an engine knows the weights that it was given."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_vllm import ScriptedVLLM, several

from palate import recipe as recipes
from palate.commands import STAGES
from palate.errors import TrainingError
from palate.lm.chat import Chat
from palate.lm.model import LanguageModel
from palate.recipe import Engine, Sampling, parse_recipe
from palate.records import Prompt
from palate.rollout import engines, vllm
from palate.rollout.engine import Rollout
from palate.rollout.local import LocalEngine
from palate.rollout.servers import vllm_server
from palate.run.directory import Run
from palate.stages import common

LEARNING = ("ppo", "reinforce", "online-dpo", "raft", "distill")


@dataclass
class RemoteEngine:
    """As one in another process: it has a copy of the weights that it was given last, and none before that."""

    chat: Chat
    copied: LanguageModel | None = None
    given: list[str] = field(default_factory=list)

    def load_weights(self, model: LanguageModel) -> None:
        self.copied = copy.deepcopy(model)
        self.given.append("weights")

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, **settings: Any) -> Rollout:
        assert self.copied is not None, "asked before it was given weights"
        self.given.append("rollout")
        return LocalEngine(self.copied, self.chat).generate(prompts, sampling, **settings)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[RemoteEngine]:
    """Every engine that is made, in order."""
    found: list[RemoteEngine] = []

    def make(settings: Engine, model: LanguageModel, chat: Chat) -> RemoteEngine:
        assert isinstance(settings, Engine)
        found.append(RemoteEngine(chat))
        return found[-1]

    monkeypatch.setattr(engines, "make_engine", make)
    monkeypatch.setattr(common, "stage_report", lambda *_, **__: None)
    return found


@pytest.mark.parametrize("name", LEARNING)
def test_an_engine_elsewhere_draws_what_the_one_at_hand_would(
    name: str,
    settings: dict[str, dict[str, Any]],
    tmp_path: Path,
    made: list[RemoteEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would not if it were not given the weights after every update, and before the first rollout."""
    tree = settings[name] | {"optimizer": {"learning_rate": 1e-2}, "min_entropy": 0.0, "steps": 3}
    tree = {key: value for key, value in tree.items() if key != "min_entropy" or name != "distill"}
    remote = run(name, tree, tmp_path / "remote")
    assert made[0].given == ["weights", "rollout"] * 3
    assert all(engine.given == ["weights", "rollout"] for engine in made[1:])  # teachers
    monkeypatch.undo()
    monkeypatch.setattr(common, "stage_report", lambda *_, **__: None)
    assert lines(run(name, tree, tmp_path / "local"), without="time/") == lines(remote, without="time/")


def test_an_engine_is_given_weights_after_a_resume(
    settings: dict[str, dict[str, Any]], tmp_path: Path, made: list[RemoteEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the checkpoint, not those that the run began with."""
    tree = settings["reinforce"] | {"optimizer": {"learning_rate": 1e-2}, "steps": 3, "checkpoint_every": 1}
    whole = lines(run("reinforce", tree, tmp_path / "whole"), without="time/")

    def stops(self: Run, step: int, *_: object) -> None:
        if step == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "samples", stops)
        with pytest.raises(KeyboardInterrupt):
            run("reinforce", tree, tmp_path / "cut")
    resumed = run("reinforce", tree, tmp_path / "cut", resume=True)
    assert made[-1].given == ["weights", "rollout"] * 2
    assert lines(resumed, without="time/") == whole


@pytest.mark.parametrize("name", LEARNING)
def test_servers_draw_with_the_weights_of_their_step(
    name: str, settings: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the policy learns is what the next rollout is drawn from, and every row that is kept says which that was."""
    server = ScriptedVLLM()
    monkeypatch.setattr(vllm_server, "send", several({"http://here.test": server}))
    monkeypatch.setattr(vllm, "PROBED", 2)
    monkeypatch.setattr(common, "stage_report", lambda *_, **__: None)
    tree = settings[name] | {"optimizer": {"learning_rate": 1e-2}, "steps": 2}
    out = run(name, tree | {"engine": {"kind": "vllm", "servers": ["http://here.test"]}}, tmp_path / "run")
    assert all(row["sampler/gap"] < 1e-4 for row in lines(out, without="time/"))
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    by_step = {row["step"]: row["weights"] for row in rows}
    assert len(set(by_step.values())) == 2
    assert set(by_step.values()) <= {Path(path).name for path in server.loaded}


def test_a_run_ends_when_server_and_trainer_part(
    settings: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may draw a probe well and responses badly: all that is learned from is compared."""
    server = ScriptedVLLM()
    monkeypatch.setattr(vllm_server, "send", several({"http://here.test": server}))
    tree = settings["reinforce"] | {"engine": {"kind": "vllm", "servers": ["http://here.test"]}}
    whole = server._inference_v1_generate

    def twisted(body: Any) -> tuple[int, Any]:
        server.twists = lambda logprob: logprob - (0.02 if body["sampling_params"]["max_tokens"] == 8 else 0.0)
        return whole(body)

    server._inference_v1_generate = twisted  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"step 0: servers and trainer differ by 0\.0200 nats a token"):
        run("reinforce", tree, tmp_path / "run")


@pytest.mark.parametrize("name", ["sample", "best-of-n", "eval", "revise", "judge"])
def test_a_stage_that_only_draws_asks_for_its_engine_too(
    name: str, settings: dict[str, dict[str, Any]], tmp_path: Path, made: list[RemoteEngine]
) -> None:
    asked = {key: settings["reinforce"][key] for key in ("model", "prompts", "sampling", "precision")}
    asked["prompts"] = asked["prompts"] | {"limit": 3}
    principles = tmp_path / "principles.toml"
    principles.write_text(
        '[[principles]]\nname = "kind"\ncompare = "Which is kinder?"\ncritique = "Is it kind?"\nrevise = "Be kind."\n'
    )
    trees: dict[str, Callable[[], dict[str, Any]]] = {
        "sample": lambda: asked,
        "best-of-n": lambda: asked | {"rewards": [{"length": 3.0}], "n": 2},
        "eval": lambda: asked | {"baseline": "tiny", "judge": {"length": 3.0}},
        "revise": lambda: asked | {"constitution": str(principles), "keep_cut_off": True},
        "judge": lambda: {
            **{key: asked[key] for key in ("model", "sampling", "precision")},
            "constitution": str(principles),
            "candidates": {"path": settings["reward"]["data"]["path"], "limit": 2},
            "samples": 1,
        },
    }
    run(name, trees[name](), tmp_path / "run")
    assert len(made) == (2 if name == "eval" else 1)
    for engine in made:
        assert engine.given[0] == "weights"
        assert "rollout" in engine.given


def run(name: str, tree: dict[str, Any], directory: Path, *, resume: bool = False) -> Path:
    stage = next(each for each in STAGES if each.name == name)
    recipe: Any = parse_recipe(getattr(recipes, stage.recipe), tree)
    getattr(import_module(stage.module), stage.function)(recipe, Run.open(directory, recipe, resume=resume))
    return directory


def lines(directory: Path, *, without: str) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith(without)} for row in rows]
