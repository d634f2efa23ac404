"""`palate judge` from the recipe to rankings that a reward model learns from: at an endpoint, and with a model here."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_endpoint import ScriptedEndpoint
from tests.stages.ai_feedback.conftest import ANSWERS, PROMPTS, expected

from palate.cli import main
from palate.intervals import Estimate
from palate.recipe import JudgeRecipe, parse_recipe
from palate.records import Ranking
from palate.run.directory import Run
from palate.stages.ai_feedback import judge
from palate.stages.ai_feedback.beside_people import BesidePeople
from palate.stages.ai_feedback.both_orders import Judged
from palate.stages.ai_feedback.judge_report import verdict_on

Toml = Callable[[dict[str, Any]], Path]


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def rankings(directory: Path) -> list[Ranking]:
    return [Ranking.model_validate_json(line) for line in lines(directory / "rankings.jsonl")]


def report(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    return found


def test_every_pair_has_the_verdict_of_its_principle(
    endpoint: ScriptedEndpoint, judging: dict[str, Any], toml: Toml, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    recipe = toml(judging | {"endpoint": {"url": endpoint.url}})
    assert main(["judge", str(recipe), "--out", str(out)]) == 0
    asked = {}
    for line in lines(out / "verdicts.jsonl"):
        item = Judged.model_validate_json(line)
        for each in item.asked:
            texts = tuple(item.responses[place].text for place in each.pair)
            asked[item.prompt.id, *texts] = each.principle
    found = rankings(out)
    assert len(found) == len(asked) == 4 * 3
    for ranking in found:
        texts = tuple(response.text for response in ranking.responses)
        assert ranking.ranks == expected(*texts, asked[ranking.prompt.id, *texts])
        assert (ranking.source, ranking.labeler) == ("ai", "ai:big")
    assert set(asked.values()) == {"long", "short", "calm"}
    assert len(endpoint.asked) == 2 * len(asked)
    numbers = report(out)
    assert (numbers["prompts"], numbers["pairs"], numbers["requests"], numbers["tokens"]) == (4, 12, 24, 168)
    assert numbers["left_out"] == 2  # one calls tools, one has two answers alike
    assert numbers["by_principle"]["calm"]["first_place"] == numbers["by_principle"]["calm"]["flips"] == 1.0
    assert numbers["by_principle"]["long"]["first_place"] == 0.5
    calm = sum(name == "calm" for name in asked.values())
    assert numbers["flips"] == pytest.approx(calm / 12)
    assert numbers["ties"] == calm
    page = unescape((out / "report.html").read_text(encoding="utf-8"))
    assert "A model's, no person's" in page
    assert "tools are called" in page
    assert "no two different answers" in page


def test_a_planted_place_and_planted_flips_are_counted_one_by_one(
    endpoint: ScriptedEndpoint, judging: dict[str, Any], toml: Toml, tmp_path: Path
) -> None:
    """About moss it takes the first place, about ink the second, else the longer answer: 3 pairs of each prompt."""
    path = tmp_path / "one.toml"
    path.write_text('[[principles]]\nname = "long"\ncompare = "Which answer is longer?"\n', encoding="utf-8")

    def rule(first: str, second: str, asked: str) -> float:
        place = 0.8 if "moss" in asked else 0.3 if "ink?" in asked else None
        return place if place is not None else 0.9 if len(first) > len(second) else 0.1

    endpoint.rule = rule
    tree = judging | {"constitution": str(path), "endpoint": {"url": endpoint.url}}
    assert main(["judge", str(toml(tree)), "--out", str(tmp_path / "strict")]) == 0
    numbers = report(tmp_path / "strict")
    assert (numbers["pairs"], numbers["ties"], numbers["questions"]) == (12, 6, 24)
    assert numbers["flips"] == 6 / 12
    assert numbers["first_place"] == (3 * 2 + 3 * 0 + 6 * 1) / 24
    ties = {ranking.prompt.text for ranking in rankings(tmp_path / "strict") if ranking.ranks == (1, 1)}
    assert ties == {"What do you think of moss?", "What do you think of ink?"}
    assert main(["judge", str(toml(tree | {"verdict": "mean"})), "--out", str(tmp_path / "mean")]) == 0
    mean = report(tmp_path / "mean")
    assert (mean["flips"], mean["first_place"]) == (numbers["flips"], numbers["first_place"])  # hidden by no mean
    assert {ranking.prompt.text for ranking in rankings(tmp_path / "mean") if ranking.ranks == (1, 1)} == ties


def test_another_constitution_has_other_verdicts(
    endpoint: ScriptedEndpoint, judging: dict[str, Any], toml: Toml, tmp_path: Path
) -> None:
    preferred = {}
    for name in ("long", "short"):
        path = tmp_path / f"{name}.toml"
        path.write_text(f'[[principles]]\nname = "{name}"\ncompare = "Which answer is {name}er?"\n', encoding="utf-8")
        recipe = toml(judging | {"endpoint": {"url": endpoint.url}, "constitution": str(path)})
        assert main(["judge", str(recipe), "--out", str(tmp_path / name)]) == 0
        preferred[name] = [ranking.responses[ranking.ranks.index(1)].text for ranking in rankings(tmp_path / name)]
    assert set(preferred["long"]) == {ANSWERS[0], ANSWERS[1]}
    assert set(preferred["short"]) == {ANSWERS[0], ANSWERS[2]}
    versions = {ranking.guideline_version for name in preferred for ranking in rankings(tmp_path / name)}
    assert len(versions) == 2


def test_a_reward_model_learns_from_them_and_says_that_they_are_ais(
    endpoint: ScriptedEndpoint, judging: dict[str, Any], toml: Toml, tmp_path: Path
) -> None:
    recipe = toml(judging | {"endpoint": {"url": endpoint.url}, "principles_per_pair": 2})
    assert main(["judge", str(recipe), "--out", str(tmp_path / "judged")]) == 0
    tree = {
        "model": "tiny",
        "precision": "fp32",
        "data": {"path": str(tmp_path / "judged" / "rankings.jsonl")},
        "holdout": {"fraction": 0.5},
    }
    assert main(["reward", str(toml(tree)), "--out", str(tmp_path / "reward")]) == 0
    assert report(tmp_path / "reward")["accuracy_by_source"].keys() == {"ai"}


def test_agreement_with_people_stands_beside_that_of_people(
    endpoint: ScriptedEndpoint, judging: dict[str, Any], written: dict[str, str], toml: Toml, tmp_path: Path
) -> None:
    """By `long` alone: ann ranks by length, bob has the last answer last."""
    path = tmp_path / "long.toml"
    path.write_text('[[principles]]\nname = "long"\ncompare = "Which answer is longer?"\n', encoding="utf-8")
    tree = judging | {"constitution": str(path), "people": {"path": written["people"]}}
    out = tmp_path / "run"
    assert main(["judge", str(toml(tree | {"endpoint": {"url": endpoint.url}})), "--out", str(out)]) == 0
    numbers = report(out)
    assert numbers["agreement_with_people"] == pytest.approx((1 + 2 / 3) / 2)
    assert numbers["agreement_of_people"] == pytest.approx(2 / 3)
    assert (numbers["agreement_of_ties"], numbers["agreement_of_longer"]) == (0.5, pytest.approx((1 + 2 / 3) / 2))
    assert numbers["people"] == {
        "ann": {"with_model": 1.0, "with_people": pytest.approx(2 / 3)},
        "bob": {"with_model": pytest.approx(2 / 3), "with_people": pytest.approx(2 / 3)},
    }
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "people with each other" in page
    assert "no more than preferring the longer answer does: 0.833 beside 0.833. As a judge of these it is worth" in page


@pytest.mark.parametrize(
    ("mine", "ties", "longer", "said"),
    [
        (0.6, 0.6, 0.4, "no more than calling every pair a tie does: 0.600 beside 0.600. As a judge of these it is wo"),
        (0.6, 0.5, 0.7, "no more than preferring the longer answer does: 0.600 beside 0.700."),
        (0.7, 0.6, 0.5, "more than calling every pair a tie does: 0.700 beside 0.600; people agree with each other in"),
        (None, 0.6, 0.5, ""),
        (0.6, None, None, ""),
    ],
)
def test_the_page_says_whether_a_judge_is_worth_asking(
    mine: float | None, ties: float | None, longer: float | None, said: str
) -> None:
    beside = BesidePeople(
        with_people=Estimate(mine),
        of_people=Estimate(0.8, 0.7, 0.9),
        of_ties=Estimate(ties),
        of_longer=Estimate(longer),
        num_with_people=10,
        num_of_people=10,
        num_prompts=5,
        labelers=[],
    )
    found = verdict_on(beside)
    assert said in found
    assert bool(found) == bool(said)
    assert ("0.800 (0.700 to 0.900)" in found) == bool(said)


def test_what_a_model_said_before_is_no_persons_judgement(
    endpoint: ScriptedEndpoint, judging: dict[str, Any], toml: Toml, tmp_path: Path
) -> None:
    recipe = toml(judging | {"endpoint": {"url": endpoint.url}})
    assert main(["judge", str(recipe), "--out", str(tmp_path / "one")]) == 0
    said = (tmp_path / "one" / "rankings.jsonl").read_text(encoding="utf-8").replace('"ai:big"', '"another one"')
    (tmp_path / "said.jsonl").write_text(said, encoding="utf-8")
    people = {"people": {"path": str(tmp_path / "said.jsonl")}}
    recipe = toml(judging | {"endpoint": {"url": endpoint.url}} | people)
    assert main(["judge", str(recipe), "--out", str(tmp_path / "two")]) == 0
    assert report(tmp_path / "two").get("agreement_with_people") is None
    assert "a model's judgement, no person's" in str(report(tmp_path / "two")["notes"])


def test_a_budget_stops_the_run_and_a_resume_ends_as_if_it_had_not(
    endpoint: ScriptedEndpoint,
    judging: dict[str, Any],
    toml: Toml,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(judge, "QUESTIONS_PER_STEP", 1)
    recipe = toml(judging | {"endpoint": {"url": endpoint.url, "max_requests": 9, "at_once": 1}})
    command = ["judge", str(recipe), "--out", str(tmp_path / "stopped")]
    assert main(command) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("palate: ")] == [
        "palate: the budget is used up: 9 requests, endpoint.max_requests = 9; what was answered is kept: --resume "
        "goes on with as many more"
    ]
    assert len(rankings(tmp_path / "stopped")) == 3
    assert main([*command, "--resume"]) == 2
    assert main([*command, "--resume"]) == 0
    assert len(endpoint.asked) == 24
    whole = toml(judging | {"endpoint": {"url": endpoint.url}})
    assert main(["judge", str(whole), "--out", str(tmp_path / "whole")]) == 0
    for name in ("verdicts.jsonl", "rankings.jsonl"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_second_run_with_the_same_cache_asks_nothing(
    endpoint: ScriptedEndpoint, judging: dict[str, Any], toml: Toml, tmp_path: Path
) -> None:
    recipe = toml(judging | {"endpoint": {"url": endpoint.url, "cache": str(tmp_path / "answers")}})
    for name, asked in (("one", 24), ("two", 24)):
        assert main(["judge", str(recipe), "--out", str(tmp_path / name)]) == 0
        assert len(endpoint.asked) == asked
    assert (tmp_path / "one" / "rankings.jsonl").read_bytes() == (tmp_path / "two" / "rankings.jsonl").read_bytes()
    assert (report(tmp_path / "two")["requests"], report(tmp_path / "two")["from_cache"]) == (0, 24)


def test_a_model_here_ends_the_same_when_it_was_stopped(
    judging: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the verdicts of a step were written, and before its line of metrics."""
    monkeypatch.setattr(judge, "QUESTIONS_PER_STEP", 1)
    recipe = parse_recipe(JudgeRecipe, judging | {"model": "tiny", "precision": "fp32"})
    judge.judge(recipe, Run.open(tmp_path / "whole", recipe))
    log = Run.log

    def stops(self: Run, step: int, metrics: dict[str, float]) -> None:
        if step == 2:
            raise MemoryError
        log(self, step, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", stops)
        with pytest.raises(MemoryError):
            judge.judge(recipe, Run.open(tmp_path / "stopped", recipe))
    assert len(lines(tmp_path / "stopped" / "verdicts.jsonl")) == 3
    judge.judge(recipe, Run.open(tmp_path / "stopped", recipe, resume=True))
    for name in ("verdicts.jsonl", "rankings.jsonl", "metrics.jsonl"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_model_here_judges_two_prompts_from_the_command_line(
    judging: dict[str, Any], toml: Toml, tmp_path: Path
) -> None:
    tree = judging | {"model": "tiny", "precision": "fp32", "samples": 2, "sampling": {"max_new_tokens": 4}}
    tree["candidates"] = tree["candidates"] | {"limit": 4}
    for name, changes in (("read", {"samples": 0, "sampling": {}}), ("drawn", {})):
        assert main(["judge", str(toml(tree | changes)), "--out", str(tmp_path / name)]) == 0
    numbers = report(tmp_path / "read")
    assert numbers["questions"] == 6 * numbers["prompts"]
    assert numbers["no_choice"] == 0.0
    assert {ranking.labeler for ranking in rankings(tmp_path / "read")} == {"ai:tiny"}
    assert report(tmp_path / "drawn")["no_choice"] > 0.9  # it writes noise
    assert "no letter in the answer" in (tmp_path / "drawn" / "report.html").read_text(encoding="utf-8")


def test_what_it_will_take_can_be_asked(
    endpoint: ScriptedEndpoint,
    judging: dict[str, Any],
    toml: Toml,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for changes in ({}, {"samples": 2}):
        tree = judging | {"model": "tiny", "precision": "fp32"} | changes
        assert main(["judge", str(toml(tree)), "--estimate"]) == 0
        shown = capsys.readouterr().out
        assert "memory at the peak" in shown
        assert "s a step" in shown
    assert main(["judge", str(toml(judging | {"endpoint": {"url": endpoint.url}})), "--estimate"]) == 2
    assert "24 questions for big at http://127.0.0.1" in capsys.readouterr().err
    assert not endpoint.asked


def test_nothing_to_compare_is_one_line(
    judging: dict[str, Any], toml: Toml, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "alone.jsonl"
    path.write_text(json.dumps({"prompt": "Hi", "chosen": "a", "rejected": "a"}) + "\n", encoding="utf-8")
    assert (
        main(["judge", str(toml(judging | {"candidates": {"path": str(path)}})), "--out", str(tmp_path / "run")]) == 2
    )
    assert "alone.jsonl" in capsys.readouterr().err
    path.write_text('{"prompt": "Hi", "response": "a"}\n', encoding="utf-8")
    assert (
        main(["judge", str(toml(judging | {"candidates": {"path": str(path)}})), "--out", str(tmp_path / "run")]) == 2
    )
    assert "no candidates in it" in capsys.readouterr().err


def test_what_stands_in_several_records_is_asked_once_and_what_stands_in_none_not_at_all(
    endpoint: ScriptedEndpoint, judging: dict[str, Any], toml: Toml, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.jsonl"
    pairs = [(ANSWERS[0], "Hm."), (ANSWERS[1], "Hm."), ("Hm.", ANSWERS[0])]
    rows = [{"prompt": PROMPTS[0].text, "chosen": chosen, "rejected": rejected} for chosen, rejected in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = toml(judging | {"candidates": {"path": str(path)}, "endpoint": {"url": endpoint.url}})
    assert main(["judge", str(recipe), "--out", str(tmp_path / "run")]) == 0
    compared = [{response.text for response in ranking.responses} for ranking in rankings(tmp_path / "run")]
    assert compared == [{ANSWERS[0], "Hm."}, {ANSWERS[1], "Hm."}]
