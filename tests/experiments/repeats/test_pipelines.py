"""`palate repeat` of what is no single stage: rounds, agents and demonstrations, alone and in chains."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.experiments.conftest import Write
from tests.experiments.rounds.conftest import held_out as held_out
from tests.experiments.rounds.conftest import tree as tree
from tests.stages.agent.conftest import small_agent as small_agent

from palate import recipe as recipes
from palate.cli import main
from palate.commands import DEMOS
from palate.demo.loop import TINY, demo
from palate.evals import plots
from palate.experiments.repeats.draws import read_parts, sources_of
from palate.experiments.repeats.pipelines import PIPELINES
from palate.experiments.rounds.iterate import Rounds
from palate.recipe import DemoRecipe
from palate.run.directory import Run


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take longer than all the rest."""
    monkeypatch.setattr(plots, "render", lambda *_: "<svg></svg>")


def report_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return found


def figure(out: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in report_of(out)["figures"] if each["name"] == name)
    return found


def weights(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.glob("**/model/*.safetensors")}


def test_rounds_are_repeated_and_followed(tree: dict[str, Any], write: Write, tmp_path: Path) -> None:
    """Seed 0 is what its own command makes, another seed is not; what follows starts from the draw's own policy."""
    out, alone = tmp_path / "out", tmp_path / "alone"
    rounds = write("rounds", tree | {"stage": "rounds"})
    after = write(
        "sample",
        {
            "model": "{rounds}/round-2/policy",
            "precision": "fp32",
            "prompts": tree["held_out"],
            "sampling": {"max_new_tokens": 4},
        },
    )
    assert main(["repeat", rounds, after, "--seeds", "2", "--out", str(out)]) == 0
    assert main(["rounds", rounds, "--out", str(alone)]) == 0
    assert weights(out / "rounds/seed-0") == weights(alone)
    assert weights(out / "rounds/seed-1").keys() == weights(alone).keys()
    assert weights(out / "rounds/seed-1") != weights(alone)
    known = [report_of(out / f"rounds/seed-{seed}") for seed in (0, 1)]
    names = [each["name"] for each in report_of(out)["figures"]]
    assert any(name.startswith("rounds: ") for name in names)
    assert any(name.startswith("sample: ") for name in names)
    rate = next(each for each in report_of(out)["figures"] if each["name"] == "rounds: win_rate")
    assert [rate["by_seed"][str(seed)][0] for seed in (0, 1)] == [each["win_rate"] for each in known]
    followed = tomllib.loads((out / "sample/seed-1/recipe.toml").read_text(encoding="utf-8"))
    assert followed["model"] == str(out / "rounds/seed-1/round-2/policy")


def test_rounds_killed_in_the_middle_end_with_the_same_bits(
    tree: dict[str, Any], write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["repeat", write("rounds", tree | {"stage": "rounds", "control": False}), "--seeds", "2", "--out"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main([*command, str(whole)]) == 0
    measure, count = Rounds.measure, 0

    def interrupted(self: Rounds, run: Run, name: str, policy: str) -> None:
        nonlocal count
        measure(self, run, name, policy)
        count += 1
        if count == 5:  # the first round of the second seed
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Rounds, "measure", interrupted)
        assert main([*command, str(stopped)]) == 130
    begun = {path: path.stat().st_mtime_ns for path in stopped.glob("rounds/*/round-1/*/model/*.safetensors")}
    assert len(begun) == 4
    assert main([*command, str(stopped)]) == 0
    assert {path: path.stat().st_mtime_ns for path in begun} == begun, "what was there is not done again"
    assert weights(stopped) == weights(whole)
    assert report_of(stopped)["figures"] != []
    assert figure(stopped, "win_rate") == figure(whole, "win_rate")
    assert main([*command, str(whole), "--set", "labels=newest"]) == 2, "no mixture with what is there"


def test_an_agent_is_repeated(small_agent: dict[str, Any], write: Write, tmp_path: Path) -> None:
    pytest.importorskip("gymnasium", reason="needs palate[gym]")
    out, alone = tmp_path / "out", tmp_path / "alone"
    recipe = write("agent", small_agent)
    assert main(["repeat", recipe, "--seeds", "3", "--out", str(out)]) == 0
    assert main(["agent", recipe, "--alone", "--seeds", "3", "--out", str(alone)]) == 0
    own = [report_of(alone / f"learned/seed-{seed}")["return"] for seed in range(3)]
    found = figure(out, "return")
    assert [found["by_seed"][str(seed)][0] for seed in range(3)] == own
    assert found["spread"][0] == pytest.approx(np.std(own, ddof=1))
    assert found["spread"][0] > 0


def test_a_demonstration_is_repeated(write: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    recipe = write("demo", {"stage": "demo", "scale": "tiny", "precision": "fp32"})
    assert main(["repeat", recipe, "--seeds", "2", "--out", str(out)]) == 0
    demo(tmp_path / "alone", seed=1, scale=TINY, precision="fp32")
    assert weights(out / "demo/seed-1") == weights(tmp_path / "alone")
    assert weights(out / "demo/seed-0") != weights(tmp_path / "alone")
    rate, alone = figure(out, "win_rate"), report_of(tmp_path / "alone")
    assert rate["by_seed"]["1"] == [alone["win_rate"], alone["win_rate_low"], alone["win_rate_high"]]
    assert not any(each["name"] == "seconds" for each in report_of(out)["figures"])
    lineage = json.loads((out / "demo/seed-1/lineage.json").read_text(encoding="utf-8"))
    assert lineage["ended"]
    assert tomllib.loads((out / "demo/seed-1/recipe.toml").read_text(encoding="utf-8"))["seed"] == 1
    before = {path: path.stat().st_mtime_ns for path in out.glob("demo/*/report.json")}
    assert main(["repeat", recipe, "--seeds", "2", "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before, "it is finished, and not measured again"


def test_what_a_demonstrations_keys_do(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which, scale, precision and text reach the demonstration that is meant."""
    import palate.demo.from_text_page as text
    import palate.demo.loop as loop
    import palate.demo.real_people as people

    called: list[tuple[str, dict[str, Any]]] = []
    for module, function in ((loop, "demo"), (people, "demo_people"), (text, "from_text")):

        def stands_in(out: Path, _name: str = function, **settings: Any) -> None:
            called.append((_name, settings))
            (out / "report.json").write_text(json.dumps({"win_rate": 0.5}))

        monkeypatch.setattr(module, function, stands_in)
    (tmp_path / "tales.txt").write_text("A tale.")
    for number, changes in enumerate(
        (
            {},
            {"which": "people", "scale": "quick"},
            {"which": "text", "text": str(tmp_path / "tales.txt"), "precision": "bf16"},
        )
    ):
        recipe = write(f"demo-{number}", {"stage": "demo", **changes})
        assert main(["repeat", recipe, "--seeds", "1", "--out", str(tmp_path / f"out-{number}")]) == 0
    assert [name for name, _ in called] == ["demo", "demo_people", "from_text"]
    settings = [each for _, each in called]
    assert [each["scale"] for each in settings] == [loop.FULL, people.SCALES["quick"], text.SCALES["full"]]
    assert [each["precision"] for each in settings] == ["auto", "auto", "bf16"]
    assert [each.get("texts") for each in settings] == [None, None, tmp_path / "tales.txt"]
    assert DEMOS.keys() == set(DemoRecipe.model_fields["which"].annotation.__args__)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("rounds", {"labelers": "people", "evaluation": {"judge": {"length": 9.0}}, "taste": {}}, "wait for people"),
        ("rounds", {"polcy": {}}, "unknown key 'polcy'; did you mean 'policy'?"),
        ("rounds", {"held_out": {"path": "nowhere.jsonl"}}, "nowhere.jsonl"),
        ("agent", {"labels": {"teacher": "people"}}, "waits for them in every seed"),
        ("agent", {"environment": "Pendulum-v99"}, "Pendulum-v99"),
        ("demo", {"stage": "demo", "which": "text"}, 'which = "text" needs it'),
        ("demo", {"stage": "demo", "which": "text", "text": "nowhere"}, "no such file or directory"),
        ("nonsense", {}, "one of pretrain, sft"),
    ],
)
def test_mistakes_are_found_before_anything_is_run(
    name: str,
    changes: dict[str, Any],
    said: str,
    tree: dict[str, Any],
    small_agent: dict[str, Any],
    write: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name == "agent":
        pytest.importorskip("gymnasium", reason="needs palate[gym]")
    base = {"rounds": tree, "agent": small_agent}.get(name, {})
    assert main(["repeat", write(name, base | changes), "--out", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_no_source_of_theirs_is_drawn_apart(
    tree: dict[str, Any], write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write("rounds", tree)
    assert sources_of(read_parts([recipe])) == []
    assert main(["repeat", recipe, "--apart", "sampling", "--out", str(tmp_path / "out")]) == 2
    assert "they have none" in capsys.readouterr().err
    assert main(["repeat", recipe, "--seeds", "2", "--estimate", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("rounds: 2 runs; 2 rounds and 1 of the control: about ")
    assert "without rounds, at most" in said
    assert not (tmp_path / "out").exists()


def test_every_pipeline_has_a_recipe_of_its_name() -> None:
    for name, stage in PIPELINES.items():
        assert getattr(recipes, stage.recipe).model_fields["stage"].default == name
