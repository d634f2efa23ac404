"""Rows of the recipes that compare two models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from tests.stages.effects import ai_feedback
from tests.stages.effects.reinforcement import decodes_side_by_side, draws_at_most
from tests.stages.effects.rows import Effect, Row, under
from tests.stages.effects.runs import Outcome
from tests.stages.effects.sampling import (
    BREVITY,
    CHARACTERS,
    drawing,
    draws_anew,
    draws_at,
    draws_from,
    draws_so_many,
    lays_out,
    scores_in_parts,
)
from tests.stages.effects.scoring import learned_terms, scores_of, verifying
from tests.stages.effects.shared import Ends, close, multiplies_in, refused

from palate.rewards.judges.constitutions import read_constitution


def win_rate() -> list[Row]:
    """Keys of an evaluation."""
    no_function = {"judge.function": None}
    judge = [
        Row("model", ("$scorer", "$zero"), wins_by_its_scores, no_function | {"responses_per_prompt": 4}),
        Row("function", (CHARACTERS, BREVITY), wins_by_its_scores),
        Row("length", (0.5, 9.0), wins_by_its_scores, no_function),
        Row("weight", (1.0, -2.0), wins_by_its_scores),
        verifying(wins_by_its_scores, no_function | {"responses_per_prompt": 4}),
        *learned_terms(wins_by_its_scores, "judge.", {"responses_per_prompt": 4}),
    ]
    return [
        *drawing({"judge.model": "$scorer", "judge.function": None}),
        Row("baseline", ("tiny", "$model"), draws_from(1, "baseline")),
        Row("baseline_chat_template", ("", "plain"), lays_out(1)),
        *under("judge", judge),
        Row("responses_per_prompt", (2, 3), draws_so_many),
        Row("microbatch_tokens", (4096, 160), scores_in_parts, {"judge.model": "$scorer"} | no_function),
    ]


def wins_by_its_scores(a: Outcome, b: Outcome) -> None:
    """Every response of one against every response of the other to its prompt."""
    for outcome in (a, b):
        ours, theirs = (
            scores_of(outcome.recipe.judge, rollout).view(-1, outcome.recipe.responses_per_prompt)
            for rollout in outcome.rollouts
        )
        gaps = ours[:, :, None] - theirs[:, None, :]
        assert close(outcome.report["win_rate"], (gaps.sign() / 2 + 0.5).mean())
    assert not torch.isclose(torch.tensor(a.report["win_rate"]), torch.tensor(b.report["win_rate"]))


def card() -> list[Row]:
    """Keys of a report card."""
    sections = [
        Row("protocol", ("openbookqa", "arc_easy"), asks_so),
        Row("path", ("$choices", "$other_choices"), asks_these),
        Row("limit", (0, 7), asks_at_most),
    ]
    duel = {"sections": [{"protocol": "win_rate", "path": "$records_prompts"}]}
    by_function = duel | {"judge.function": CHARACTERS}
    by_model = duel | {"responses_per_prompt": 4}
    marked = {"sections": [{"protocol": "hallucination", "path": "$marked_answers"}]}
    recited = {"sections": [{"protocol": "memorised", "path": "$records_texts"}]}
    judge = [
        Row("model", ("$scorer", "$zero"), wins_on_the_card, by_model),
        Row("function", (CHARACTERS, BREVITY), wins_on_the_card, by_function),
        Row("length", (0.5, 9.0), wins_on_the_card, duel),
        Row("weight", (1.0, -2.0), wins_on_the_card, by_function),
        Row("verifier.kind", ("quotes", "nonsense"), refused("kind"), duel),
        *learned_terms(wins_on_the_card, "judge.", by_model),
    ]
    return [
        Row("stage", (None, "nonsense"), refused("'stage'")),
        *under("judge", judge),
        *under("judge", elsewhere(duel)),
        Row("reward_model", ("$scorer", "$zero"), scores_sound_answers, marked),
        Row("reference", ("", "$teacher"), goes_from, duel | {"model": "$model", "judge.length": 9.0}),
        Row("sections.0.control", ("$records_texts", "$labelled_texts"), recites_beside, recited),
        Row("seed", (0, 1), draws_anew),
        Row("model", ("$model", "tiny"), draws_from(0, "model"), {"baseline": "$teacher"}),
        Row("baseline", ("tiny", "$teacher"), draws_from(1, "baseline")),
        Row("chat_template", ("", "plain"), lays_out(0)),
        Row("baseline_chat_template", ("", "plain"), lays_out(1)),
        Row("precision", ("fp32", "bf16"), multiplies_in),
        Row("form", ("full", "quick"), asks_a_few),
        *under("sections.0", sections),
        Row("window", (1024, 16), reads_in_windows),
        Row("sampling.temperature", (0.7, 1.4), draws_at),
        Row("sampling.max_new_tokens", (3, 6), draws_at_most),
        Row("sampling.num_slots", (1, 64), decodes_side_by_side),
        Row("responses_per_prompt", (2, 3), draws_so_many),
        Row("microbatch_tokens", (4096, 160), measures_in_parts),
    ]


def wins_on_the_card(a: Outcome, b: Outcome) -> None:
    """As in an evaluation; a model reads the texts anew."""
    rates = []
    for outcome in (a, b):
        ours, theirs = (
            scores_of(outcome.recipe.judge, replace(rollout, layout="the text alone")).view(
                -1, outcome.recipe.responses_per_prompt
            )
            for rollout in outcome.rollouts
        )
        gaps = ours[:, :, None] - theirs[:, None, :]
        rates.append(measured(outcome, "win_rate", "won")["after"])
        assert close(rates[-1], (gaps.sign() / 2 + 0.5).mean())
    assert rates[0] != rates[1]


def elsewhere(duel: dict[str, Any]) -> list[Row]:
    """Keys of a judge at an endpoint: those of `palate judge`, of which the first are about how it is asked."""
    there = duel | {
        "judge.model": "judge",
        "judge.constitution": "$constitution",
        "judge.endpoint": {"url": "http://somewhere.test/v1"},
    }
    drawn = there | {"judge.samples": 2}
    asked = [
        replace(row, given=there | {"judge.model": row.given["model"]}, effect=of_the_judge(row.effect))
        for row in ai_feedback.endpoint()
    ]
    return [
        *asked,
        Row("constitution", ("$constitution", "$other_constitution"), shows_other_words, there),
        Row("principles_per_pair", (1, 2), asks_by_so_many, there),
        Row("verdict", ("same", "mean"), decides_by, there),
        Row("samples", (1, 3), asks_so_often, there),
        Row("sampling.temperature", (0.7, 1.4), sends("temperature"), drawn),
        Row("sampling.max_new_tokens", (3, 6), sends("max_tokens"), drawn),
        Row("sampling.num_slots", (64, 1), refused("the endpoint's own matter"), drawn),
    ]


def of_the_judge(effect: Effect) -> Effect:
    """The same of a recipe whose judge has the endpoint."""
    if isinstance(effect, Ends):
        return effect

    def of_both(a: Outcome, b: Outcome) -> None:
        effect(*(replace(each, recipe=each.recipe.judge) for each in (a, b)))

    return of_both


def questions(outcome: Outcome) -> list[str]:
    """That the endpoint was sent."""
    return [str(each.asked["messages"][0]["content"]) for each in outcome.sent]


def shows_other_words(a: Outcome, b: Outcome) -> None:
    """The principle's own."""
    for outcome in (a, b):
        principles = [each.compare for each in read_constitution(outcome.recipe.judge.constitution).principles]
        assert outcome.sent
        assert all(any(words in asked for words in principles) for asked in questions(outcome))
    assert set(questions(a)) != set(questions(b))


def asks_by_so_many(a: Outcome, b: Outcome) -> None:
    assert 0 < 2 * len(a.sent) == len(b.sent)


def decides_by(a: Outcome, b: Outcome) -> None:
    """That the mean decides otherwise is shown where a card is judged in pairs; here that it is the rule."""
    rules = [{line.get("rule", "same") for line in outcome.lines("verdicts.jsonl")} for outcome in (a, b)]
    assert rules == [{"same"}, {"mean"}]


def asks_so_often(a: Outcome, b: Outcome) -> None:
    assert 0 < 3 * len(a.sent) == len(b.sent)


def sends(name: str) -> Effect:
    """What the endpoint is to draw by."""

    def to_both(a: Outcome, b: Outcome) -> None:
        key = "max_new_tokens" if name == "max_tokens" else name
        for outcome in (a, b):
            assert {each.asked[name] for each in outcome.sent} == {getattr(outcome.recipe.judge.sampling, key)}

    return to_both


def goes_from(a: Outcome, b: Outcome) -> None:
    """Of responses that are the same, KL to another model; the baseline is the start unless one is named."""
    one, other = (each.report["kl"] for each in (a, b))
    assert (one["start"], one["baseline"]["kl"]) == ("tiny", 0)
    assert other["start"] == b.recipe.reference
    assert other["model"]["kl"] != one["model"]["kl"]
    assert other["baseline"]["kl"] != 0
    assert measured(a, "win_rate", "won") == measured(b, "win_rate", "won")


def scores_sound_answers(a: Outcome, b: Outcome) -> None:
    """A reward model that gives everything the same tells nothing apart."""
    found = [measured(each, "hallucination", "reward_area")["after"] for each in (a, b)]
    assert found[0] != 0.5
    assert found[1] == 0.5


def recites_beside(a: Outcome, b: Outcome) -> None:
    """Other texts are begun beside those that were trained on; these are so short that nothing can be told."""
    one, other = (measured(each, "memorised", "too_short")["after"] for each in (a, b))
    assert one < 1
    assert close(other, one / 2 + 0.5)


def measured(outcome: Outcome, section: str, measure: str) -> dict[str, Any]:
    """A row of a card."""
    rows = [row for row in outcome.report["rows"] if (row["section"], row["measure"]) == (section, measure)]
    (found,) = rows
    return dict(found)


def asks_so(a: Outcome, b: Outcome) -> None:
    """ARC's questions end with a line for the answer, so that choices are as likely as after other text."""
    one, other = measured(a, "openbookqa", "acc_norm"), measured(b, "arc_easy", "acc")
    assert one["items"] == other["items"] == 110
    assert (one["after"], one["before"]) != (other["after"], other["before"])


def asks_these(a: Outcome, b: Outcome) -> None:
    assert [measured(each, "openbookqa", "acc_norm")["items"] for each in (a, b)] == [110, 50]


def asks_at_most(a: Outcome, b: Outcome) -> None:
    assert [measured(each, "openbookqa", "acc_norm")["items"] for each in (a, b)] == [110, 7]


def asks_a_few(a: Outcome, b: Outcome) -> None:
    assert [measured(each, "openbookqa", "acc_norm")["items"] for each in (a, b)] == [110, 100]
    assert [len(each.rollouts[0].prompts) for each in (a, b)] == [24, 24]  # 12 prompts: fewer than a few


def reads_in_windows(a: Outcome, b: Outcome) -> None:
    """Text is foretold from less of what came before it, and in shorter passes; nothing else changes."""
    one, other = (measured(each, "held_out_text", "bits") for each in (a, b))
    assert one["after"] != other["after"]
    assert max(count for _, count in b.passes) > max(count for _, count in a.passes) or len(b.passes) >= len(a.passes)
    assert measured(a, "openbookqa", "acc_norm") == measured(b, "openbookqa", "acc_norm")


def measures_in_parts(a: Outcome, b: Outcome) -> None:
    """Smaller forward passes, and the same numbers."""
    for outcome in (a, b):
        limit = outcome.recipe.microbatch_tokens
        assert all(tokens <= limit or count == 1 for tokens, count in outcome.passes)
    assert len(b.passes) > len(a.passes)
    for one, other in zip(a.report["rows"], b.report["rows"], strict=True):
        assert close(one["after"], other["after"])
