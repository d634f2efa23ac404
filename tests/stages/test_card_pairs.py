"""A card whose win rate is judged by a model elsewhere, in both orders: what is asked, decided, kept, and left out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_endpoint import ScriptedEndpoint, answers_in, serving

from palate.cli import main
from palate.errors import BudgetError, DataError, EndpointError, RecipeError
from palate.evals.asking import answering
from palate.lm.sources.zoo import locate
from palate.recipe import CardRecipe, parse_recipe
from palate.rewards.judges import endpoint_client
from palate.run.directory import Run
from palate.stages.ai_feedback.both_orders import Judged
from palate.stages.measuring import card

SAID = {
    "model": (("aaaa", "bb"), ("cc", "c"), ("hm", "d")),
    "baseline": (("b", "bb"), ("c", "cc"), ("dd", "dddd")),
}
"""By model, of three prompts two responses each."""


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedEndpoint]:
    """Its model prefers the longer answer, of equally long ones the first."""
    monkeypatch.setattr(endpoint_client, "LONGEST_WAIT", 0.0)
    with serving() as served:
        served.rule = lambda first, second, asked: 0.9 if len(first) >= len(second) else 0.1
        yield served


@pytest.fixture
def tree(tmp_path: Path, endpoint: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A card of a win rate; what the models say is written above."""
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    ask, answered = answering._ask, answering.answered
    shutil.copytree(locate("tiny"), tmp_path / "baseline")

    def who(loaded: Any) -> str:
        return "model" if loaded.name == "tiny" else "baseline"

    def says(loaded: Any, task: Any, places: Any, terms: Any) -> Any:
        found = ask(loaded, task, places, terms)
        return [
            [[text, *raw[1:]] for text, raw in zip(SAID[who(loaded)][place], raws, strict=True)]
            for place, raws in zip(places, found, strict=True)
        ]

    monkeypatch.setattr(answering, "_ask", says)  # and since both are the same, each has a cache of its own
    monkeypatch.setattr(
        card, "answered", lambda loaded, tasks, terms, cache: answered(loaded, tasks, terms, cache / who(loaded))
    )
    prompts, principles = tmp_path / "prompts.jsonl", tmp_path / "principles.toml"
    prompts.write_text("".join(json.dumps({"prompt": f"Tea {n}?"}) + "\n" for n in range(3)))
    principles.write_text('[[principles]]\nname = "long"\ncompare = "Which answer is longer?"\n')
    return {
        "stage": "card",
        "model": "tiny",
        "baseline": str(tmp_path / "baseline"),
        "precision": "fp32",
        "sections": [{"protocol": "win_rate", "path": str(prompts)}],
        "judge": {"model": "big", "constitution": str(principles), "endpoint": {"url": endpoint.url, "at_once": 1}},
        "sampling": {"max_new_tokens": 3},
    }


def carded(tree: dict[str, Any], directory: Path, *, resume: bool = False) -> dict[str, Any]:
    recipe = parse_recipe(CardRecipe, tree)
    card.report_card(recipe, Run.open(directory, recipe, resume=resume))
    found: dict[str, Any] = json.loads((directory / "report.json").read_text())
    return found


def won(found: dict[str, Any]) -> dict[str, Any]:
    (row,) = [row for row in found["rows"] if row["measure"] == "won"]
    return dict(row)


def test_every_two_are_shown_in_both_orders_once(
    tree: dict[str, Any], endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    found = carded(tree, tmp_path / "run")
    shown = [answers_in(body["messages"][0]["content"]) for body in endpoint.asked]
    pairs = [("aaaa", "b"), ("aaaa", "bb"), ("bb", "b"), ("cc", "c"), ("hm", "dd"), ("hm", "dddd"), ("d", "dd")]
    pairs += [("d", "dddd")]
    assert sorted(shown) == sorted([*pairs, *(pair[::-1] for pair in pairs)])
    # first: 1, 1, 1, alike; second: 1 and 0 by one pair, alike twice; third: a tie, since it flips, then 0, 0, 0
    assert won(found)["after"] == pytest.approx((3.5 / 4 + 2 / 4 + 0.5 / 4) / 3)
    assert won(found)["before"] == 0.5
    assert (found["judge_requests"], found["judge_questions"], found["judge_flips"]) == (16, 16, 1 / 8)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Judged by big, which saw both orders of 9 of 12 pairs." in page
    assert "3 pairs say the same and are ties." in page
    lines = (tmp_path / "run" / "verdicts.jsonl").read_text().splitlines()
    assert [len(Judged.model_validate_json(line).asked) for line in lines] == [3, 1, 4]


def test_a_judge_of_places_tells_nothing_apart(
    tree: dict[str, Any], endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    endpoint.rule = lambda first, second, asked: 0.8
    found = carded(tree, tmp_path / "run")
    assert won(found)["after"] == 0.5
    assert (found["judge_first_place"], found["judge_flips"]) == (1.0, 1.0)


def test_the_mean_of_both_orders_sees_through_a_liking_for_a_place(
    tree: dict[str, Any], endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    endpoint.rule = lambda first, second, asked: 0.9 if len(first) > len(second) else 0.6
    tree["judge"] |= {"verdict": "mean"}
    assert won(carded(tree, tmp_path / "run"))["after"] == pytest.approx((3.5 / 4 + 2 / 4 + 0.5 / 4) / 3)


def test_pairs_without_a_verdict_are_left_out_and_counted(
    tree: dict[str, Any], endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    """About the last prompt it chooses nothing, and of the first prompt's pairs one is not taken."""
    choose = endpoint.reply

    def reply(body: dict[str, Any]) -> dict[str, Any]:
        asked = body["messages"][0]["content"]
        said = choose(body)
        if "Tea 2" in asked or set(answers_in(asked)) == {"aaaa", "b"}:
            tops = [{"token": "Hm", "logprob": -0.1}]
            said["choices"][0]["logprobs"] = {"content": [{"top_logprobs": tops}]}
        return said

    endpoint.reply = reply  # type: ignore[method-assign]
    found = carded(tree, tmp_path / "run")
    assert won(found)["items"] == 2
    assert won(found)["after"] == pytest.approx((2.5 / 3 + 2 / 4) / 2)
    assert any("5 pairs without a verdict are left out, 1 prompts with them." in note for note in found["notes"])


def test_a_judge_that_decides_nothing_is_an_error(
    tree: dict[str, Any], endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    endpoint.gives_logprobs = False
    endpoint.rule = lambda first, second, asked: 0.9
    choose = endpoint.reply
    endpoint.reply = lambda body: choose(body) | {"choices": [{"message": {"content": "?"}}]}  # type: ignore[method-assign]
    tree["judge"] |= {"samples": 1}
    with pytest.raises(DataError, match="big decided none of the 9 pairs that it was shown"):
        carded(tree, tmp_path / "none")


def test_a_budget_ends_it_and_it_goes_on(tree: dict[str, Any], endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    tree["judge"]["endpoint"]["max_requests"] = 9
    with pytest.raises(BudgetError, match="max_requests = 9"):
        carded(tree, tmp_path / "run")
    found = carded(tree, tmp_path / "run", resume=True)
    assert len(endpoint.asked) == 16
    assert (found["judge_requests"], found["judge_from_cache"]) == (7, 9)
    assert won(found)["after"] == pytest.approx((3.5 / 4 + 2 / 4 + 0.5 / 4) / 3)


def test_what_is_wrong_with_it_is_found_before_the_models_are_asked(
    tree: dict[str, Any], endpoint: ScriptedEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import tomli_w

    for number, (change, why) in enumerate(
        (
            ({"endpoint": {"url": endpoint.url, "key_variable": "PALATE_NO_SUCH_KEY"}}, "PALATE_NO_SUCH_KEY"),
            ({"constitution": "nowhere.toml"}, "no constitution"),
        )
    ):
        with pytest.raises((EndpointError, DataError), match=why):
            carded(tree | {"judge": tree["judge"] | change}, tmp_path / f"run-{number}")
    assert not (tmp_path / "cache" / "answers").exists()
    path = tmp_path / "card.toml"
    path.write_text(tomli_w.dumps(tree))
    assert main(["eval", str(path), "--estimate"]) == 0
    assert "the judge runs elsewhere, and is asked up to 24 questions besides" in capsys.readouterr().out
    assert not endpoint.asked


def test_settings_that_do_not_go_together() -> None:
    base = {"model": "m", "baseline": "b", "sections": [{"protocol": "win_rate", "path": "p.jsonl"}]}
    there = {"model": "big", "constitution": "c.toml", "endpoint": {"url": "http://one.test/v1"}}
    for judge, why in (
        ({"length": 9.0, "constitution": "c.toml"}, "constitution is of a model at an endpoint"),
        ({"length": 9.0, "samples": 2}, "samples is of a model at an endpoint"),
        ({key: value for key, value in there.items() if key != "constitution"}, "a constitution to go by"),
        ({"length": 9.0, "endpoint": there["endpoint"], "constitution": "c"}, "an endpoint needs a model"),
        (there | {"weight": 2.0}, "gives no scores"),
        (there | {"sampling": {"temperature": 1.0}}, "nothing is drawn without samples"),
        (there | {"samples": 1, "sampling": {"num_slots": 3}}, "the endpoint's own matter"),
        (there | {"constitutoin": "x"}, "did you mean 'constitution'"),
    ):
        with pytest.raises(RecipeError, match=why):
            parse_recipe(CardRecipe, base | {"judge": judge})
    judged = parse_recipe(CardRecipe, base | {"judge": there})
    assert judged == parse_recipe(CardRecipe, judged.model_dump())
