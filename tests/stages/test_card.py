"""A report card from a recipe to its page: what is chosen, what is left out, what is kept, what is said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.evals.card.harmed import Write

from palate.cli import main
from palate.errors import DataError, RecipeError
from palate.evals.asking import answering
from palate.lm.sources.zoo import load_language_model, save
from palate.recipe import CardRecipe, parse_recipe
from palate.run.directory import Run
from palate.stages.measuring import card_judges
from palate.stages.measuring.card import choose, report_card


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, rows: list[dict[str, Any]]) -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def tree(write: Write) -> dict[str, Any]:
    """A card of every kind of question."""
    choices = [
        {"query": f"What of {n}?", "choices": [f"Much of {n}.", f"Some of {n}."], "gold": n % 2} for n in range(60)
    ]
    return {
        "stage": "card",
        "model": "tiny",
        "baseline": "tiny",
        "precision": "fp32",
        "sections": [
            {"protocol": "arc_easy", "path": write("choices.jsonl", choices)},
            {"protocol": "lambada", "path": write("words.jsonl", [{"text": f"a {n} mill {n}"} for n in range(40)])},
            {
                "protocol": "held_out_text",
                "path": write("texts.jsonl", [{"text": f"Mill {n}. " * 9} for n in range(20)]),
            },
            {"protocol": "form", "path": write("prompts.jsonl", [{"prompt": f"Tea {n}?"} for n in range(6)])},
        ],
        "sampling": {"max_new_tokens": 6},
    }


def carded(tree: dict[str, Any], directory: Path) -> tuple[dict[str, Any], str]:
    """The numbers and the page."""
    recipe = parse_recipe(CardRecipe, tree)
    report_card(recipe, Run.open(directory, recipe))
    return json.loads((directory / "report.json").read_text()), (directory / "report.html").read_text()


@pytest.fixture
def perturbed(tmp_path: Path) -> str:
    loaded, numbers = load_language_model("tiny", precision="fp32"), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter += 1.5 * parameter.std() * torch.randn(parameter.shape, generator=numbers)
    save(loaded.model, loaded.chat, tmp_path / "perturbed")
    return str(tmp_path / "perturbed")


def test_a_model_beside_itself_has_not_changed(tree: dict[str, Any], tmp_path: Path) -> None:
    found, page = carded(tree, tmp_path / "run")
    assert (found["better"], found["worse"], found["not_told_apart"]) == (0, 0, 9)
    for row in found["rows"]:
        assert row["before"] == row["after"]
        assert row["difference"] == 0
    assert "Nothing got better." in page
    assert found["arc_easy_acc"] == found["rows"][0]["after"]


def test_the_page_says_what_got_worse_and_shows_it(tree: dict[str, Any], perturbed: str, tmp_path: Path) -> None:
    found, page = carded(tree | {"model": perturbed}, tmp_path / "run")
    bits = next(row for row in found["rows"] if row["measure"] == "bits")
    assert bits["difference"] == pytest.approx(bits["after"] - bits["before"])
    assert bits["difference_low"] < bits["difference"] < bits["difference_high"]
    told = {row["verdict"] for row in found["rows"]} - {""}
    assert found["worse"] == sum(row["verdict"] == "worse" for row in found["rows"])
    assert told - {"not told apart"}
    for heading in ("In a minute", "What changed", "Compared", "Also measured", "Calibration of choices"):
        assert f">{heading}</h2>" in page
    assert "questions lost and won" in page
    assert "responses, chosen at random" in page


def test_one_model_alone(tree: dict[str, Any], tmp_path: Path) -> None:
    found, page = carded({key: value for key, value in tree.items() if key != "baseline"}, tmp_path / "run")
    assert "worse" not in found
    assert all("before" not in row for row in found["rows"])
    assert ">Measured</h2>" in page
    assert ">What changed</h2>" not in page


def test_the_quick_form_is_part_of_the_full_one(tree: dict[str, Any]) -> None:
    (section,) = parse_recipe(CardRecipe, tree | {"sections": tree["sections"][:1]}).sections
    full = choose(section, form="full", seed=0)
    some, fewer = (choose(section.model_copy(update={"limit": limit}), form="quick", seed=0) for limit in (20, 10))
    texts = [[item.asked for item in chosen.items] for chosen in (fewer, some, full)]
    assert [len(each) for each in texts] == [10, 20, 60]
    assert texts[0] == [each for each in texts[1] if each in texts[0]]
    assert texts[1] == [each for each in texts[2] if each in texts[1]]
    assert texts[1] != texts[2][:20]
    assert (some.total, len(choose(section, form="quick", seed=0).items)) == (60, 60)


def test_a_run_that_is_stopped_goes_on_where_it_was(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    asked: list[int] = []
    ask = answering._ask

    def stopping(loaded: Any, task: Any, places: Any, terms: Any) -> Any:
        if len(asked) == 2 and task.asks == "prompts":
            asked.append(0)
            raise KeyboardInterrupt
        asked.append(len(places))
        return ask(loaded, task, places, terms)

    monkeypatch.setattr(answering, "_ask", stopping)
    short = tree | {"sections": [tree["sections"][0], tree["sections"][1], tree["sections"][3]]}
    with pytest.raises(KeyboardInterrupt):
        carded(short, tmp_path / "run")
    recipe = parse_recipe(CardRecipe, short)
    report_card(recipe, Run.open(tmp_path / "run", recipe, resume=True))
    assert asked == [60, 40, 0, 6]  # and the baseline, being the same model, nothing
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "other"))
    whole, _ = carded(short, tmp_path / "whole")
    resumed = json.loads((tmp_path / "run" / "report.json").read_text())
    assert resumed["rows"] == whole["rows"]


def test_prompts_without_room_and_contexts_that_are_too_long_are_counted(
    tree: dict[str, Any], write: Write, tmp_path: Path
) -> None:
    long = "tea " * 700  # the tiny model's context is 2,048 tokens, which are bytes
    tree["sections"] = [
        {"protocol": "form", "path": write("p.jsonl", [{"prompt": "Tea?"}, {"prompt": long}, {"prompt": "Mill?"}])},
        {"protocol": "lambada", "path": write("w.jsonl", [{"text": f"{long}tea"}, {"text": "a mill"}])},
    ]
    found, page = carded(tree, tmp_path / "run")
    assert next(row for row in found["rows"] if row["section"] == "form")["items"] == 2
    assert "1 prompts that leave no room are left out." in page
    assert "The beginning of 1 of 2 contexts is cut for the model and the baseline" in page
    assert len(found["notes"]) == 2


@pytest.fixture
def short(tmp_path: Path) -> str:
    """The tiny model, made for 200 tokens."""
    loaded = load_language_model("tiny", precision="fp32")
    loaded.model.config.max_position_embeddings = 200
    save(loaded.model, loaded.chat, tmp_path / "short")
    return str(tmp_path / "short")


def test_what_a_short_context_has_no_room_for_is_asked_of_neither_model(
    tree: dict[str, Any], short: str, write: Write, tmp_path: Path
) -> None:
    """Its tokens are bytes. The longest choice, reply and opening are left out; a passage loses its beginning."""
    plain = {"query": "What of it?", "choices": ["Tea.", "Mills."], "gold": 0}
    reply = {"user_query": "Tea?", "chatgpt_response": "Tea.", "hallucination": "no"}
    words = [" ".join(f"{n}{m % 10}" for m in range(60)) for n in range(3)]
    tree["sections"] = [
        {
            "protocol": "arc_easy",
            "path": write("c.jsonl", [plain, plain | {"choices": ["Tea.", "Mills " * 40]}, plain | {"gold": 1}]),
        },
        {"protocol": "lambada", "path": write("w.jsonl", [{"text": f"{'tea ' * 60}mill"}, {"text": "a mill"}])},
        {
            "protocol": "hallucination",
            "path": write(
                "h.jsonl", [reply, reply | {"chatgpt_response": "Tea " * 60}, reply | {"hallucination": "yes"}]
            ),
        },
        {
            "protocol": "memorised",
            "path": write("m.jsonl", [{"text": each} for each in (*words, words[0].replace("0", "wandering"))]),
            "control": write("n.jsonl", [{"text": words[0]}]),
        },
        {"protocol": "held_out_text", "path": write("t.jsonl", [{"text": "Mill. " * 60}] * 3)},
    ]
    found, page = carded(tree | {"model": short}, tmp_path / "run")
    items = {row["section"]: row["items"] for row in found["rows"]}
    assert {name: items[name] for name in ("arc_easy", "lambada", "hallucination", "memorised")} == {
        "arc_easy": 2,
        "lambada": 2,
        "hallucination": 2,
        "memorised": 4,
    }
    assert page.count("1 items that a context has no room for are left out.") == 3
    assert "The beginning of 1 of 2 contexts is cut for the model:" in page
    assert "Tokens in a row, 1,024 where a context has room: the model 199, the baseline 1,024." in page
    assert all(row["before"] == row["after"] for row in found["rows"] if row["section"] in ("arc_easy", "memorised"))
    tree["sections"] = [{"protocol": "arc_easy", "path": write("d.jsonl", [plain | {"choices": ["Tea", "tea " * 60]}])}]
    with pytest.raises(DataError, match="arc_easy: a model's context has no room for any of its 1 items"):
        carded(tree | {"model": short}, tmp_path / "none")


def test_models_that_read_alike_are_asked_what_was_made_once(
    tree: dict[str, Any], perturbed: str, short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[float] = []

    def counting(asks: Any, items: Any, chat: Any, context: float, terms: Any) -> Any:
        made.append(context)
        return answering.task(asks, items, chat, context, terms)

    monkeypatch.setattr("palate.stages.measuring.card.task", counting)
    tree["sections"] = tree["sections"][:1]
    carded(tree | {"model": perturbed}, tmp_path / "alike")
    assert made == [2048]
    carded(tree | {"model": short}, tmp_path / "not")
    assert made == [2048, 200, 2048]


def test_what_is_no_better_than_a_guess_is_said(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["sections"] = tree["sections"][:1]
    found, page = carded(tree, tmp_path / "run")
    row = found["rows"][0]
    assert row["luck"] == 0.5
    assert row["after_low"] < 0.5
    assert "accuracy (by luck 50.0%)" in page
    said = page.split("No better than a guess</h2>")[1].split("</section>")[0]
    assert f"ARC, easy: accuracy: by luck 0.500, before {row['before']:.3f} (" in said
    alone, page = carded({key: value for key, value in tree.items() if key != "baseline"}, tmp_path / "alone")
    assert f"by luck 0.500, the model {alone['rows'][0]['after']:.3f} (" in page


def test_the_command_takes_a_card_by_its_stage(tree: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    import tomli_w

    (tmp_path / "card.toml").write_text(tomli_w.dumps(tree | {"form": "quick"}), encoding="utf-8")
    out = str(tmp_path / "run")
    assert main(["eval", str(tmp_path / "card.toml"), "--set", "sections.0.limit=5", "--out", out]) == 0
    assert json.loads((tmp_path / "run" / "report.json").read_text())["rows"][0]["items"] == 5
    assert main(["eval", str(tmp_path / "card.toml"), "--estimate"]) == 0
    assert "memory at the peak" in capsys.readouterr().out
    (tmp_path / "card.toml").write_text(tomli_w.dumps(tree | {"forme": "quick"}), encoding="utf-8")
    assert main(["eval", str(tmp_path / "card.toml")]) == 2
    assert "unknown key 'forme'; did you mean 'form'?" in capsys.readouterr().err


def test_mistakes(tree: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="arc_easy is there twice"):
        parse_recipe(CardRecipe, tree | {"sections": [tree["sections"][0]] * 2})
    with pytest.raises(RecipeError, match="sections"):
        parse_recipe(CardRecipe, tree | {"sections": []})
    with pytest.raises(DataError, match="no such file"):
        carded(tree | {"sections": [{"protocol": "piqa", "path": "nowhere.jsonl"}]}, tmp_path / "run")


def test_sections_that_are_judged_recited_and_refused(tree: dict[str, Any], write: Write, tmp_path: Path) -> None:
    """Every kind of section of one card, of a model beside itself: nothing changed, and nobody won."""
    marked = [
        {"user_query": f"What of {n}?", "chatgpt_response": f"{n} mills.", "hallucination": ("yes", "no")[n % 2]}
        for n in range(12)
    ]
    texts = write("read.jsonl", [{"text": " ".join(f"{n} {m}" for m in range(30))} for n in range(5)])
    claims = [{"question": f"Which {n}?", "right": "tea", "wrong": "mill"} for n in range(8)]
    tree["sections"] = [
        {"protocol": "win_rate", "path": write("p.jsonl", [{"prompt": f"Tea {n}?"} for n in range(6)])},
        {"protocol": "hallucination", "path": write("marked.jsonl", marked)},
        {"protocol": "flattery", "path": write("claims.jsonl", claims)},
        {
            "protocol": "refusals",
            "path": write("r.jsonl", [{"prompt": f"x{n}", "refuse": n % 2 > 0} for n in range(6)]),
        },
        {"protocol": "memorised", "path": texts, "control": texts},
    ]
    tree["judge"] = {"length": 0.5}
    found, page = carded(tree, tmp_path / "run")
    rows = {(row["section"], row["measure"]): row for row in found["rows"]}
    assert rows["win_rate", "won"]["after"] == rows["win_rate", "won"]["before"] == 0.5
    assert rows["win_rate", "won_at_equal_length"]["after"] == pytest.approx(0.5)
    assert rows["win_rate", "won_at_equal_length_alpaca"]["after"] == pytest.approx(0.5, abs=1e-3)
    assert rows["hallucination", "area"]["difference"] == 0
    assert rows["memorised", "overlap_trained"]["after"] == rows["memorised", "overlap_control"]["after"]
    assert (found["better"], found["worse"]) == (0, 0)
    assert ">Measured</h2>" in page


def test_judgements_that_are_there_already(tree: dict[str, Any], perturbed: str, write: Write, tmp_path: Path) -> None:
    ours, theirs = (load_language_model(name, precision="fp32").weights for name in (perturbed, "tiny"))
    rankings = [
        {
            "prompt": {"messages": [{"role": "user", "content": f"Tea {n}?"}]},
            "responses": [
                {"text": text, "provenance": {"model": "m", "checkpoint": by}}
                for text, by in (("a b", ours), ("c", theirs))
            ],
            "ranks": [1, 1 + (n > 0)],
            "labeler": labeler,
        }
        for n in range(7)
        for labeler in ("ann", "bob")[: 1 + n % 2]
    ]
    tree |= {
        "model": perturbed,
        "sections": [{"protocol": "judgements", "path": write("j.jsonl", rankings), "limit": 6}],
    }
    found, _ = carded(tree, tmp_path / "run")
    rows = {row["measure"]: row for row in found["rows"]}
    assert rows["won"]["items"] == 6
    assert rows["won"]["after"] in (1.0, pytest.approx(11 / 12))
    assert rows["won"]["before"] == 0.5
    with pytest.raises(DataError, match="are the same, by their weights"):
        carded(tree | {"model": "tiny"}, tmp_path / "same")


def test_a_judge_is_asked_or_not_named(tree: dict[str, Any]) -> None:
    judged = {"sections": [{"protocol": "win_rate", "path": "p.jsonl"}]}
    for wrong, why in (
        (judged, "judge: the section `win_rate` needs one"),
        ({"judge": {"length": 9.0}}, "judge: the section `win_rate` needs one, and nothing else asks it"),
        (judged | {"judge": {"length": 9.0}, "baseline": ""}, "compare two models"),
        ({"reward_model": "x"}, "the section `hallucination` asks it"),
        ({"sections": [{"protocol": "memorised", "path": "x"}]}, "texts that nobody trained on"),
    ):
        with pytest.raises(RecipeError, match=why):
            parse_recipe(CardRecipe, tree | wrong)


def test_prompts_of_two_sections_are_responded_to_once(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    ask = answering._ask
    monkeypatch.setattr(
        answering,
        "_ask",
        lambda loaded, task, places, terms: asked.append(len(places)) or ask(loaded, task, places, terms),
    )
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    form = tree["sections"][3] | {"limit": 4}
    both = tree | {"sections": [form, form | {"protocol": "win_rate"}], "judge": {"length": 0.5}}
    found, _ = carded(both, tmp_path / "run")
    assert asked == [4]
    assert {row["items"] for row in found["rows"]} == {4}


@pytest.mark.parametrize("count", [1, 3, 7])
def test_a_judge_scores_some_at_a_time_and_shows_how_far_it_is(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text once, in order; what is shown is what is done."""
    shown: list[tuple[int, int]] = []
    asked: list[int] = []

    @contextmanager
    def showing(what: str) -> Iterator[Any]:
        assert what == "texts"
        yield lambda done, total: shown.append((done, total))

    def scores(part: slice) -> Any:
        asked.append(len(numbers[part]))
        return numbers[part]

    monkeypatch.setattr(card_judges, "showing", showing)
    monkeypatch.setattr(card_judges, "AT_ONCE", 3)
    numbers = np.arange(count, dtype=np.float64)
    assert np.array_equal(card_judges._some_at_a_time("texts", count, scores), numbers)
    assert max(asked) <= 3
    assert shown == list(zip(np.cumsum(asked).tolist(), [count] * len(asked), strict=True))
