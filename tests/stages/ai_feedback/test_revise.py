"""`palate revise`: every step of every demonstration is kept, counted and marked as AI's."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_endpoint import ScriptedEndpoint
from tests.stages.ai_feedback.conftest import PROMPTS

from palate.cli import main
from palate.recipe import ReviseRecipe, parse_recipe
from palate.records import Demonstration
from palate.run.directory import Run
from palate.stages.ai_feedback import revise
from palate.stages.ai_feedback.revised import Revised
from palate.stages.ai_feedback.revision_report import figures, kept_words

Toml = Callable[[dict[str, Any]], Path]


@pytest.fixture
def revising(written: dict[str, str]) -> dict[str, Any]:
    return {"model": "big", "constitution": written["constitution"], "prompts": {"path": written["prompts"]}}


def demonstrations(directory: Path) -> list[Demonstration]:
    text = (directory / "demonstrations.jsonl").read_text(encoding="utf-8")
    return [Demonstration.model_validate_json(line) for line in text.splitlines()]


def report(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    return found


def writer(messages: list[dict[str, str]]) -> str:
    """A draft, a critique that names it, and a revision that is shorter; nothing is changed about mills."""
    asked = messages[-1]["content"]
    if asked.startswith("Say where"):
        return f"It is about {messages[-2]['content'].split()[-1]}"
    if asked.startswith("Write it anew"):
        draft = messages[-4]["content"]
        return draft if "mills" in draft else draft.removeprefix("Well, ")
    return f"Well, a thing of {asked.split()[-1]}"


@pytest.mark.parametrize("rounds", [1, 2])
def test_every_step_is_kept(
    rounds: int, endpoint: ScriptedEndpoint, revising: dict[str, Any], toml: Toml, tmp_path: Path
) -> None:
    endpoint.says = writer
    out = tmp_path / "run"
    recipe = toml(revising | {"endpoint": {"url": endpoint.url}, "revisions": rounds})
    assert main(["revise", str(recipe), "--out", str(out)]) == 0
    found = demonstrations(out)
    assert [each.prompt for each in found] == list(PROMPTS)
    for each in found:
        subject = each.prompt.text.split()[-1]
        draft = f"Well, a thing of {subject}"
        assert each.author == "ai:big"
        assert each.response.text == (draft if "mills" in subject else f"a thing of {subject}")
        assert each.response.provenance is not None
        kept = each.response.provenance.revisions
        assert kept[0].draft == draft
        assert kept[-1].critique == f"It is about {subject}"
        assert {round_.principle for round_ in kept} <= {"short", "calm"}
        assert len({round_.principle for round_ in kept}) == len(kept) == rounds
    numbers = report(out)
    assert (numbers["demonstrations"], numbers["unchanged"], numbers["changed"]) == (4, 1, 0.75)
    assert numbers["requests"] == 4 * (1 + 2 * rounds)
    assert numbers["words_kept"] == pytest.approx((1 + 3 * 4 / 5) / 4)
    page = unescape((out / "report.html").read_text(encoding="utf-8"))
    for text in ("A model's, no person's", "Well, a thing of rain?", "It is about rain?", "a thing of rain?"):
        assert text in page


DRAFTS = {
    "mills": "A mill grinds corn.",
    "rain": "Oh, rain! It falls on everybody!",
    "moss": "Oh, moss is soft and green.",
    "ink": "Ink is wet! Mind it.",
}
CALM = ("calm", "no exclamation marks", lambda text: text.replace("!", "."), "Oh, rain. It falls on everybody.")
PLAIN = ("plain", "no Oh", lambda text: text.removeprefix("Oh, "), "rain! It falls on everybody!")


@pytest.mark.parametrize(
    ("name", "asks", "follow", "of_rain", "changed", "words_kept"),
    [(*CALM, {"rain", "ink"}, (1 + 4 / 6 + 1 + 4 / 5) / 4), (*PLAIN, {"rain", "moss"}, (1 + 5 / 6 + 5 / 6 + 1) / 4)],
    ids=["calm", "plain"],
)
def test_a_constitution_changes_what_it_says_and_nothing_else(
    name: str,
    asks: str,
    follow: Callable[[str], str],
    of_rain: str,
    changed: set[str],
    words_kept: float,
    endpoint: ScriptedEndpoint,
    revising: dict[str, Any],
    toml: Toml,
    tmp_path: Path,
) -> None:
    """A model that does to a draft what the principle asks for, and no more: page and counts show what was planted."""
    principle = f'[[principles]]\nname = "{name}"\ncompare = "Which has {asks}?"\n'
    principle += f'critique = "Say where there is not: {asks}."\nrevise = "Write it anew with {asks}."\n'
    (tmp_path / "one.toml").write_text(principle, encoding="utf-8")

    def says(messages: list[dict[str, str]]) -> str:
        last = messages[-1]["content"]
        if last.startswith("Say where"):
            assert asks in last
            return "Here." if follow(messages[-2]["content"]) != messages[-2]["content"] else "Nowhere."
        if last.startswith("Write it anew"):
            assert asks in last
            return follow(messages[-4]["content"])
        return DRAFTS[last.split()[-1].rstrip("?")]

    endpoint.says = says
    out = tmp_path / "run"
    recipe = toml(revising | {"constitution": str(tmp_path / "one.toml"), "endpoint": {"url": endpoint.url}})
    assert main(["revise", str(recipe), "--out", str(out)]) == 0

    found = {each.prompt.text.split()[-1].rstrip("?"): each.response.text for each in demonstrations(out)}
    assert found == {subject: follow(draft) for subject, draft in DRAFTS.items()}
    assert {subject for subject, text in found.items() if text != DRAFTS[subject]} == changed
    numbers = report(out)
    assert (numbers["demonstrations"], numbers["unchanged"], numbers["changed"]) == (4, 2, 0.5)
    assert numbers["words_kept"] == pytest.approx(words_kept)

    page = unescape((out / "report.html").read_text(encoding="utf-8"))
    before_and_after, same = page.split("Revisions that changed nothing")
    before_and_after = before_and_after.split("Before and after")[-1]
    for subject, draft in DRAFTS.items():
        shown, other = (before_and_after, same) if subject in changed else (same, before_and_after)
        assert f">{draft}<" in shown
        assert f">{draft}<" not in other
    assert f">{of_rain}<" in before_and_after
    assert (before_and_after.count(">Here.<"), same.count(">Nowhere.<")) == (2, 2)


def test_what_was_cut_off_or_is_empty_or_is_not_taken_is_counted(
    endpoint: ScriptedEndpoint, revising: dict[str, Any], toml: Toml, tmp_path: Path
) -> None:
    endpoint.says = lambda messages: "" if "moss" in str(messages) and "anew" in messages[-1]["content"] else "Fine."
    reply = endpoint.reply
    endpoint.failures = [(400, {})]

    def cut(body: dict[str, Any]) -> dict[str, Any]:
        endpoint.ends = "ink?" not in str(body["messages"])
        return reply(body)

    endpoint.reply = cut  # type: ignore[method-assign]
    out = tmp_path / "run"
    recipe = toml(revising | {"endpoint": {"url": endpoint.url, "at_once": 1}})
    assert main(["revise", str(recipe), "--out", str(out)]) == 0
    lines = (out / "revisions.jsonl").read_text(encoding="utf-8").splitlines()
    reasons = [Revised.model_validate_json(line).left_out for line in lines]
    assert reasons[0].startswith("400 ")
    assert reasons[1:] == ["", "the revision is empty", "the revision was cut off"]
    assert [each.prompt for each in demonstrations(out)] == [PROMPTS[1]]
    assert (report(out)["without_demonstration"], report(out)["demonstrations"]) == (3, 1)
    notes = report(out)["notes"]
    assert "prompts without a demonstration 1: the revision was cut off" in notes


def test_the_demonstrations_are_learned_and_said_to_be_ais(
    endpoint: ScriptedEndpoint, revising: dict[str, Any], toml: Toml, tmp_path: Path
) -> None:
    endpoint.says = writer
    recipe = toml(revising | {"endpoint": {"url": endpoint.url}})
    assert main(["revise", str(recipe), "--out", str(tmp_path / "run")]) == 0
    tree = {
        "model": "tiny",
        "precision": "fp32",
        "data": {"path": str(tmp_path / "run" / "demonstrations.jsonl")},
        "holdout": {"fraction": 0.5},
    }
    assert main(["sft", str(toml(tree)), "--out", str(tmp_path / "sft")]) == 0
    numbers = report(tmp_path / "sft")
    assert numbers["demonstrations_by_ai"] == numbers["demonstrations"] > 0


def test_a_model_here_revises_two_prompts_and_ends_the_same_when_it_was_stopped(
    revising: dict[str, Any], toml: Toml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = revising | {"model": "tiny", "precision": "fp32", "sampling": {"max_new_tokens": 6}, "keep_cut_off": True}
    tree["prompts"] = tree["prompts"] | {"limit": 2}
    monkeypatch.setattr(revise, "PROMPTS_PER_STEP", 1)
    assert main(["revise", str(toml(tree)), "--out", str(tmp_path / "whole")]) == 0
    assert len(demonstrations(tmp_path / "whole")) == 2
    recipe = parse_recipe(ReviseRecipe, tree)
    log = Run.log

    def stops(self: Run, step: int, metrics: dict[str, float]) -> None:
        if step == 1:
            raise MemoryError
        log(self, step, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", stops)
        with pytest.raises(MemoryError):
            revise.revise(recipe, Run.open(tmp_path / "stopped", recipe))
    revise.revise(recipe, Run.open(tmp_path / "stopped", recipe, resume=True))
    for name in ("revisions.jsonl", "demonstrations.jsonl"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_it_will_take_can_be_asked(
    revising: dict[str, Any], toml: Toml, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = revising | {"model": "tiny", "precision": "fp32", "sampling": {"max_new_tokens": 6}}
    assert main(["revise", str(toml(tree)), "--estimate"]) == 0
    assert "memory at the peak" in capsys.readouterr().out


def test_words_that_are_kept_in_their_order() -> None:
    def revised(draft: str, text: str) -> Revised:
        rounds = [{"principle": "p", "constitution": "c", "draft": draft, "critique": "x"}]
        response = {"text": text, "provenance": {"model": "m", "revisions": rounds}}
        return Revised.model_validate({"prompt": PROMPTS[0], "response": response})

    assert kept_words(revised("a b c d", "a c d e")) == 0.75
    assert kept_words(revised("a b", "b a")) == 0.5
    assert kept_words(revised("", "b a")) == 1.0
    same, other = revised("a  b", "a b\n"), revised("a b", "a c")
    assert (same.changed, other.changed) == (False, True)
    numbers, reasons = figures([same, other, Revised(prompt=PROMPTS[0], response=None, left_out="why")], seed=0)
    assert (numbers["unchanged"], numbers["changed"], numbers["without_demonstration"]) == (1, 0.5, 1)
    assert reasons == {"why": 1}
