"""What does not fit is said before the first step and at the end, and too much of it stops the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from palate.cli import main
from palate.corpus import reading
from palate.recipe import ReinforceRecipe, parse_recipe
from palate.records import Prompt
from palate.run.directory import Run
from palate.stages.reinforcement import reinforce

Toml = Callable[[dict[str, Any]], Path]
Settings = dict[str, dict[str, Any]]
LONG = "and so on " * 120


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def demonstrations(path: Path, *, short: int, long: int) -> str:
    texts = ["Fine."] * short + [LONG] * long
    return lines(path, [{"prompt": f"How is it, {n}?", "response": text} for n, text in enumerate(texts)])


def rankings(path: Path, *, short: int, long: int) -> str:
    texts = ["Fine."] * short + [LONG] * long
    rows = [{"prompt": f"How is it, {n}?", "chosen": text, "rejected": "Hm."} for n, text in enumerate(texts)]
    return lines(path, rows)


def thumbs(path: Path, *, short: int, long: int) -> str:
    texts = ["Fine."] * short + [LONG] * long
    rows = [{"prompt": f"How is it, {n}?", "completion": text, "label": n % 2 == 0} for n, text in enumerate(texts)]
    return lines(path, rows)


def prompts(path: Path, *, short: int, long: int) -> str:
    texts = ["Tell me."] * short + [LONG] * long
    return lines(path, [{"prompt": f"{n}: {text}"} for n, text in enumerate(texts)])


learning = pytest.mark.parametrize(
    ("stage", "write"), [("sft", demonstrations), ("reward", rankings), ("dpo", rankings), ("kto", thumbs)]
)


@pytest.fixture
def command(settings: Settings, toml: Toml, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a stage; its status, what it said and its report."""

    def run(stage: str, *extra: str, **changes: Any) -> tuple[int, str, dict[str, Any]]:
        base = {"model": "tiny", "precision": "fp32", "sampling": {"max_new_tokens": 8}}
        tree = settings.get(stage, base) | changes
        status = main([stage, str(toml(tree)), "--out", str(tmp_path / "run"), *extra])
        report = tmp_path / "run" / "report.json"
        return status, capsys.readouterr().err, json.loads(report.read_text()) if report.exists() else {}

    return run


@learning
def test_rows_that_are_too_long(
    stage: str, write: Callable[..., str], command: Callable[..., Any], tmp_path: Path
) -> None:
    data = {"path": write(tmp_path / "data.jsonl", short=16, long=4)}
    status, said, report = command(stage, data=data, max_length=256, holdout={"fraction": 0.3})
    assert status == 0
    line = f"unusable 4: longer than max_length = 256 tokens ({data['path']}:17"
    assert said.count(line) == 2
    assert said.index(line) < said.index("step 1/") < said.rindex(line)
    assert report["left_out"] == 4
    assert any(line in note for note in report["notes"])
    assert "longer than max_length" in (tmp_path / "run" / "report.html").read_text()
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(row)["data/left_out"] == 4 for row in rows)


@learning
def test_more_than_the_allowed_share_stops_before_the_first_step(
    stage: str, write: Callable[..., str], command: Callable[..., Any], tmp_path: Path
) -> None:
    changes = {
        "data": {"path": write(tmp_path / "data.jsonl", short=12, long=28)},
        "max_length": 256,
        "holdout": {"fraction": 0.3},
    }
    status, said, _ = command(stage, **changes)
    assert status == 2
    assert "28 of 40 rows cannot be used, more than max_left_out = 0.5 allows" in said
    assert f"{tmp_path}/data.jsonl:13" in said
    assert "set max_left_out = 0.7" in said
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert command(stage, **changes, max_left_out=0.7)[0] == 0


@learning
@pytest.mark.parametrize(("short", "use"), [(2, "to validate on"), (0, "to learn from")])
def test_no_side_may_be_left_without_rows(
    stage: str, write: Callable[..., str], short: int, use: str, command: Callable[..., Any], tmp_path: Path
) -> None:
    """Whichever side of the holdout it is, what is said counts all rows."""
    data = {"path": write(tmp_path / "data.jsonl", short=short, long=40)}
    status, said, _ = command(stage, data=data, max_length=256, max_left_out=1.0)
    assert status == 2
    assert f"40 of {40 + short} rows cannot be used, none is left {use}; most often: longer than max_length" in said
    assert "raise max_length" in said
    assert "set max_left_out" not in said
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


RL = ("ppo", "reinforce")
SAMPLING: dict[str, dict[str, Any]] = {
    "ppo": {"max_length": 512},
    "reinforce": {"max_length": 512},
    "sample": {},
    "best-of-n": {"rewards": [{"length": 3.0}]},
    "eval": {"baseline": "tiny", "judge": {"length": 3.0}},
}


@pytest.mark.parametrize("stage", sorted(SAMPLING))
def test_a_prompt_without_room_for_a_response_stops_before_the_first_step(
    stage: str, command: Callable[..., Any], tmp_path: Path
) -> None:
    texts = ["Hello."] * 11 + [LONG * 2] * 1
    data = lines(tmp_path / "prompts.jsonl", [{"prompt": f"{n}: {text}"} for n, text in enumerate(texts)])
    changes = SAMPLING[stage] | {"prompts": {"path": data}}
    status, said, _ = command(stage, **changes)
    assert status == 2
    context = "the context of tiny" if stage == "eval" else "the model's context"
    limit = "max_length - max_new_tokens = 504" if stage in RL else f"{context} - max_new_tokens = 2040"
    assert limit in said
    assert f"{data}:12" in said
    assert not (tmp_path / "run" / "metrics.jsonl").exists()

    status, said, report = command(stage, **changes, max_left_out=0.1)
    assert status == 0
    assert report["left_out"] == 1
    assert said.count(f"{limit} tokens ({data}:12)") == 2
    assert any(limit in note for note in report["notes"])
    assert limit in unescape((tmp_path / "run" / "report.html").read_text())
    if stage == "sample":
        assert len((tmp_path / "run" / "candidates.jsonl").read_text().splitlines()) == 11


@learning
def test_a_row_longer_than_the_model_was_made_for_is_left_out(
    stage: str, write: Callable[..., str], command: Callable[..., Any], tmp_path: Path
) -> None:
    path = write(tmp_path / "data.jsonl", short=16, long=4)
    longer = Path(path).read_text().replace(LONG, LONG * 2)
    Path(path).write_text(longer)
    status, said, report = command(stage, data={"path": path}, max_length=4096, holdout={"fraction": 0.3})
    assert status == 0
    assert "unusable 4: longer than the model's context = 2048 tokens" in said
    assert report["left_out"] == 4


def test_changed_data_is_accepted_on_request_and_recorded(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from palate.stages.reinforcement import step as step_of

    data = Path(prompts(tmp_path / "prompts.jsonl", short=12, long=0))
    changes = {"prompts": {"path": str(data)}, "steps": 3, "checkpoint_every": 1}
    prompts_of_step = step_of.prompts_of_step

    def crash(prompts: Any, step: int, **settings: Any) -> Any:
        if step == 2:
            raise KeyboardInterrupt
        return prompts_of_step(prompts, step, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(step_of, "prompts_of_step", crash)
        assert command("reinforce", **changes)[0] == 130
    before = data.read_text()
    data.write_text(before.replace("3: Tell me.", "3: Tell me more."))

    status, said, _ = command("reinforce", "--resume", **changes)
    assert status == 2
    assert f"{data} has changed since this run began" in said
    assert "--accept-changed-data" in said
    status, said, report = command("reinforce", "--resume", "--accept-changed-data", **changes)
    assert status == 0
    assert "another one from step 2 on" in said
    assert any("another one from step 2 on" in note for note in report["notes"])
    changed = json.loads((tmp_path / "run" / "lineage.json").read_text())["changed_data"]
    assert [(item["file"], item["step"]) for item in changed] == [(f"prompts.{data}", 2)]
    assert changed[0]["before"] != changed[0]["after"]


def test_a_changed_model_is_never_accepted(tmp_path: Path) -> None:
    from palate.errors import RunError
    from palate.recipe import Data, SFTRecipe
    from palate.run.directory import Run

    recipe = SFTRecipe(data=Data(path="d.jsonl"))
    Run.open(tmp_path, recipe).add_inputs({"data": {"d.jsonl": "1"}, "model": "1"})
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n', encoding="utf-8")
    run = Run.open(tmp_path, recipe, resume=True, accept_changed_data=True)
    run.add_inputs({"data": {"d.jsonl": "2"}})
    with pytest.raises(RunError, match=r": model has changed since this run began; put it back, or name"):
        run.add_inputs({"model": "2"})


def test_accepting_goes_with_a_resume(command: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command("sft", "--accept-changed-data")
    assert stopped.value.code == 2
    assert "--accept-changed-data goes with --resume" in capsys.readouterr().err


def test_columns_that_are_not_used_are_named(command: Callable[..., Any], tmp_path: Path) -> None:
    rows = [{"prompt": f"How is it, {n}?", "response": "Fine.", "mood": "calm"} for n in range(12)]
    data = {"path": lines(tmp_path / "data.jsonl", rows)}
    status, said, _ = command("sft", data=data, holdout={"fraction": 0.3})
    assert status == 0
    assert "data.jsonl: columns not used: mood (12 rows)" in said
    assert "columns not used: mood (12 rows)" in unescape((tmp_path / "run" / "report.html").read_text())


def test_prompts_are_read_once(
    settings: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the estimate and for the run."""
    found: list[type] = []
    read = reading._read
    monkeypatch.setattr(reading, "_read", lambda data, kind: found.append(kind) or read(data, kind))
    recipe = parse_recipe(ReinforceRecipe, settings["reinforce"] | {"steps": 1})
    reinforce.train(recipe, Run.open(tmp_path / "run", recipe))
    assert found == [Prompt]
