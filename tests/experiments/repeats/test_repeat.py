"""`palate repeat`: planted sources are told apart exactly, chains, what is refused, real runs stopped and resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.experiments.conftest import Write

from palate.cli import main
from palate.commands import Stage
from palate.errors import RecipeError, TrainingError
from palate.evals import plots
from palate.experiments.repeats import repeat as module
from palate.experiments.repeats.draws import ANEW, Draw, directory_of, read_parts, sources_of
from palate.experiments.repeats.repeat import Repeat
from palate.experiments.repeats.told import Figure, read_figures
from palate.intervals import Estimate
from palate.randomness import normals
from palate.run.directory import Run


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take longer than all the rest."""
    monkeypatch.setattr(plots, "render", lambda *_: "<svg></svg>")


DEVIATIONS = {"order": 0.5, "sampling": 2.0, "initial": 0.0}
TREE = {
    "model": "tiny",
    "prompts": {"path": "nothing.jsonl"},
    "rewards": [{"function": "tests.stages.effects.judges:brevity"}],
    "steps": 1,
}


def part_of(source: str, seed: int) -> float:
    """What a source adds to the planted figure."""
    return DEVIATIONS[source] * float(normals(1, seed, source)[0])


def planted(recipe: Any, run: Run) -> None:
    """A stage whose one figure is a sum of known parts."""
    value = sum(part_of(source, recipe.seed_of(source)) for source in DEVIATIONS)
    for step in run.steps(1, every=1, keep=1, state={}):
        run.log(step, {"objective/score": value})
    run.finish({"score": value, "score_low": value - 1.96, "score_high": value + 1.96, "same": 3, "texts": [{"a": 1}]})


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """REINFORCE, but for what it does."""
    monkeypatch.setattr(module, "tell", lambda *_: _Told())
    parts = read_parts.__globals__
    monkeypatch.setitem(globals(), "train_now", planted)
    real = parts["stage_named"]
    monkeypatch.setitem(
        parts,
        "stage_named",
        lambda tree, path, **more: replace(real(tree, path, **more), module=__name__, function="train_now"),
    )
    return real(TREE | {"stage": "reinforce"}, Path("reinforce.toml"))


class _Told:
    short = ""


def report_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return found


def figure(report: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in report["figures"] if each["name"] == name)
    return found


def test_planted_sources_are_told_apart_exactly(stage: Stage, write: Write, tmp_path: Path) -> None:
    out, seeds = tmp_path / "out", range(4)
    recipe = write("reinforce", TREE)
    assert main(["repeat", recipe, "--seeds", "4", "--apart", "--out", str(out)]) == 0
    score = figure(report := report_of(out), "score")
    values = [sum(part_of(source, seed) for source in DEVIATIONS) for seed in seeds]
    assert [score["by_seed"][str(seed)][0] for seed in seeds] == values
    assert score["mean"][0] == pytest.approx(np.mean(values))
    assert score["spread"][0] == pytest.approx(np.std(values, ddof=1))
    assert score["within"] == pytest.approx(1.0, rel=1e-4)
    known = {
        source: float(np.mean([(part_of(source, seed) - part_of(source, ANEW + seed)) ** 2 / 2 for seed in seeds]))
        for source in DEVIATIONS
    }
    for source, variance in known.items():
        assert score["parts"][source]["variance"] == pytest.approx(variance, abs=1e-12)
        assert score["parts"][source]["share"] == pytest.approx(variance / sum(known.values()))
    assert score["parts"]["sampling"]["share"] > 0.5
    # what drew nothing was seen at once, and cost one run
    assert report["idle"] == ["initial"]
    assert sorted(path.name for path in (out / "reinforce").iterdir()) == sorted(
        [
            "seed-0-initial",
            *(str(Draw(seed=seed, anew=source)) for seed in seeds for source in ("", "order", "sampling")),
        ]
    )
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2  # seed by seed, and where the spread comes from; the metric is a copy of the score
    assert "last step: objective/score is score in every run" in page
    assert "drawn apart: order, initial, sampling" in page
    assert "Which of them has the largest part" in page
    assert "still to be run" not in page
    assert "3 figures" not in page
    # a seed that the recipe fixes is not drawn
    assert sources_of(read_parts([recipe], ["seeds.sampling=3"])) == ["order", "initial"]
    # more of it is added to what is there
    before = {path: path.stat().st_mtime_ns for path in out.glob("reinforce/*/metrics.jsonl")}
    assert main(["repeat", recipe, "--seeds", "5", "--apart", "order", "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(figure(report_of(out), "score")["by_seed"]) == 5
    assert len(list(out.glob("reinforce/*"))) == 13 + 2


def test_a_run_that_fails_is_shown_and_the_others_go_on(
    stage: Stage, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(recipe: Any, run: Run) -> None:
        if recipe.seed == 1:
            raise TrainingError("as planted")
        planted(recipe, run)

    monkeypatch.setitem(globals(), "train_now", fails)
    out = tmp_path / "out"
    assert main(["repeat", write("reinforce", TREE), "--seeds", "3", "--out", str(out)]) == 0
    report = report_of(out)
    assert report["failed"] == [{"draw": "seed-1", "reason": "reinforce: as planted"}]
    assert list(figure(report, "score")["by_seed"]) == ["0", "2"]
    assert "as planted" in (out / "report.html").read_text(encoding="utf-8")


def test_nothing_is_said_of_shares_while_a_source_has_not_been_drawn(
    stage: Stage, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(recipe: Any, run: Run) -> None:
        if recipe.seeds.sampling is not None:
            raise TrainingError("as planted")
        planted(recipe, run)

    monkeypatch.setitem(globals(), "train_now", fails)
    out = tmp_path / "out"
    assert (
        main(["repeat", write("reinforce", TREE), "--seeds", "3", "--apart", "order", "sampling", "--out", str(out)])
        == 0
    )
    parts = figure(report_of(out), "score")["parts"]
    assert list(parts) == ["order"]
    assert parts["order"]["variance"] > 0
    assert parts["order"]["share"] is None
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "still to be run" not in page, "what has failed is not run again"
    assert "Of the sources" not in page


def test_a_chain_runs_again_what_follows_from_a_source_alone(write: Write, settings: dict[str, Any]) -> None:
    files = [write("sft", settings["sft"]), write("reinforce", settings["reinforce"])]
    parts = read_parts(files, ["reinforce:model={sft}", "sft:data.fields.prompt={sft_column}"])
    assert [sorted(part.follows) for part in parts] == [[], ["sft"]]
    out = Path("out")

    def places(draw: Draw) -> list[str]:
        return [str(directory_of(parts, number, draw, out)[0]) for number in (0, 1)]

    assert places(Draw(seed=2)) == ["out/sft/seed-2", "out/reinforce/seed-2"]
    assert places(Draw(seed=2, anew="sampling")) == ["out/sft/seed-2", "out/reinforce/seed-2-sampling"]
    assert places(Draw(seed=2, anew="order")) == ["out/sft/seed-2-order", "out/reinforce/seed-2-order"]
    policy = directory_of(parts, 1, Draw(seed=2, anew="order"), out)[1]
    assert (policy.model, policy.seed, policy.seeds.order) == ("out/sft/seed-2-order", 2, ANEW + 2)
    assert policy.seeds.sampling is None
    (fixed,) = read_parts(files[1:], ["seeds.order=3"])
    assert fixed.recipe(Draw(seed=2, anew="sampling"), {}).seeds.model_dump() == {
        "order": 3,
        "initial": None,
        "sampling": ANEW + 2,
    }


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--apart", "labelers"], "draw_labelers = true draws them"),
        (["--apart", "order", "--seeds", "1"], "--apart needs 2 seeds or more"),
        (["--set", "sft:model={reward}"], "{reward} does not come before it; put its recipe first"),
        (["--set", "nobody:seed=1"], "no recipe is called 'nobody'; there are sft, reward"),
        (["--set", "sft:epocs=1"], "unknown key 'epocs'; did you mean 'epochs'?"),
    ],
)
def test_what_is_refused_is_said_in_one_line(
    more: list[str],
    said: str,
    settings: dict[str, Any],
    write: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = [write("sft", settings["sft"]), write("reward", settings["reward"])]
    assert main(["repeat", *files, *more, "--out", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_real_runs_stopped_in_the_middle_end_with_the_same_bits(
    settings: dict[str, Any], write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"steps": 2, "checkpoint_every": 1}
    recipe = write("reinforce", settings["reinforce"], **changes)
    command = ["repeat", recipe, "--seeds", "2", "--apart", "sampling", "--out"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main([*command, str(whole)]) == 0

    log, count = Run.log, 0

    def interrupted(run: Run, step: int, metrics: Any) -> None:
        nonlocal count
        log(run, step, metrics)
        count += 1
        if count == 4:  # the second step of the second seed
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", interrupted)
        assert main([*command, str(stopped)]) == 130
    assert not (stopped / "reinforce/seed-1/report.json").exists()
    assert "3 draws are still to be run" in (stopped / "report.html").read_text(encoding="utf-8"), "of the first seed"
    assert main([*command, str(stopped)]) == 0
    models = sorted(whole.glob("*/*/model/model.safetensors"))
    assert len(models) == 4
    for path in models:
        assert path.read_bytes() == (stopped / path.relative_to(whole)).read_bytes(), path
    figures = report_of(whole)["figures"]
    assert figures == report_of(stopped)["figures"]
    score = figure(report_of(whole), "last step: objective/score")
    assert score["parts"]["sampling"]["variance"] > 0
    assert score["spread"][0] > 0
    assert not any("time/" in each["name"] for each in figures)
    # a changed recipe is not mixed with what is there
    assert main([*command, str(whole), "--set", "kl_coef=0.7"]) == 2


def test_what_it_will_take(
    settings: dict[str, Any], write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [write("sft", settings["sft"]), write("reinforce", settings["reinforce"])]
    command = ["repeat", *files, "--set", "reinforce:model={sft}", "--seeds", "3", "--apart", "sampling", "--estimate"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("sft: 3 runs; time, from two steps here: ")
    assert said[1] == "reinforce: 6 runs; not timed before sft has run"
    assert said[2].startswith("3 seeds, 1 sources apart: ")
    assert said[2].endswith(", without reinforce, at most")
    assert not (tmp_path / "out").exists()


def test_a_report_is_read_with_its_intervals_and_named_entries(tmp_path: Path) -> None:
    tree = {
        "title": "x",
        "win_rate": 0.5,
        "win_rate_low": 0.4,
        "win_rate_high": 0.6,
        "undefined": None,
        "rows": [{"section": "piqa", "measure": "acc", "after": 0.6, "after_low": 0.5, "after_high": 0.7, "test": "t"}],
        "texts": [{"prompt": "p", "score": 3}],
        "metrics": {"reward/loss": 0.3, "time/step_s": 1.0},
    }
    (tmp_path / "report.json").write_text(json.dumps(tree), encoding="utf-8")
    assert read_figures(tmp_path) == {
        "win_rate": Estimate(0.5, 0.4, 0.6),
        "rows.piqa acc.after": Estimate(0.6, 0.5, 0.7),
        "last step: reward/loss": Estimate(0.3),
    }


def test_a_source_that_every_recipe_lacks_has_no_name() -> None:
    with pytest.raises(RecipeError, match="they have none"):
        Repeat([], Path("out"), seeds=2, apart=["order"])


def test_a_figure_that_never_changes_is_known_as_such() -> None:
    same = Figure(name="a", by_seed={0: Estimate(1.0), 1: Estimate(1.0)}, anew={"order": [(1.0, 1.0)]})
    assert not same.varies
    assert replace(same, anew={"order": [(1.0, 2.0)]}).varies
