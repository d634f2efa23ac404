"""Rows of the recipes of AI feedback: comparisons by a model, and critique and revision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from tests.stages.effects.reinforcement import decodes_side_by_side, draws_at_most
from tests.stages.effects.rows import Row, under
from tests.stages.effects.runs import KEY, KEY_VARIABLE, Outcome
from tests.stages.effects.sampling import draws_at, draws_from, lays_out
from tests.stages.effects.shared import close, data, multiplies_in, refused

from palate.lm.batch import Sequences
from palate.lm.sources.zoo import load_language_model
from palate.records import Prompt
from palate.rewards.judges.constitutions import read_constitution
from palate.rewards.judges.questions import question
from palate.rollout.engine import Rollout

ELSEWHERE = {"precision": None, "model": "judge", "endpoint": {"url": "http://somewhere.test/v1"}}
DRAWN = {"samples": 2, "sampling.max_new_tokens": 6}


def judge() -> list[Row]:
    """Keys of comparisons by a model."""
    return [
        Row("stage", (None, "nonsense"), refused("'stage'")),
        Row("seed", (0, 1), draws_other_principles),
        Row("model", ("$model", "tiny"), judges_as_by_hand),
        Row("chat_template", ("", "plain"), judges_as_by_hand),
        Row("precision", ("fp32", "bf16"), multiplies_in),
        Row("constitution", ("$constitution", "$other_constitution"), judges_as_by_hand),
        *under("candidates", data("candidates", "rankings")),
        *under("people", data("people", "rankings")),
        Row("category", ("topic", "nonsense"), refused("no prompt has the tag 'nonsense'"), JUDGED_PAIRS),
        Row("win_rate_of_first", (False, True), tells_the_win_rate, JUDGED_PAIRS),
        Row("principles_per_pair", (1, 2), asks_so_many),
        Row("verdict", ("same", "mean"), decides_over_both_orders),
        Row("samples", (1, 3), decides_by_majority, {"sampling.max_new_tokens": 3}, spoil=says_letters),
        Row("sampling.temperature", (0.7, 1.4), draws_at, DRAWN),
        Row("sampling.max_new_tokens", (3, 6), draws_at_most, DRAWN),
        Row("sampling.num_slots", (1, 64), decodes_side_by_side, DRAWN | {"candidates.limit": 2}),
        Row("engine.kind", ("local", "elsewhere"), refused("engine.kind")),
        Row(
            "max_left_out",
            (0.5, 0.05),
            refused("more than max_left_out = 0.05 allows"),
            {"candidates.path": "$long_candidates"},
        ),
        Row("microbatch_tokens", (4096, 160), asks_in_parts),
        *endpoint(),
    ]


JUDGED_PAIRS = {
    f"{section}.{key}": value
    for section in ("candidates", "people")
    for key, value in {
        "path": "$columns_rankings",
        "fields": {"prompt": "q", "a": "x", "b": "y", "preferred": "better"},
        "tags": ["topic"],
    }.items()
}
"""Of each pair the first answer is people's favourite."""


def tells_the_win_rate(a: Outcome, b: Outcome) -> None:
    """People's is 1, and all pairs are people's."""
    assert "win_rate" not in a.report
    assert b.report["win_rate_of_people"] == b.report["win_rate_corrected"] == 1.0
    firsts = [line["ranks"] for line in b.lines("rankings.jsonl")]
    assert b.report["win_rate"] == sum({(1, 2): 1.0, (1, 1): 0.5, (2, 1): 0.0}[tuple(each)] for each in firsts) / 12
    assert b.report["pairs_of_people"] == 12


def revise() -> list[Row]:
    """Keys of critique and revision."""
    return [
        Row("stage", (None, "nonsense"), refused("'stage'")),
        Row("seed", (0, 1), writes_anew),
        Row("model", ("$model", "tiny"), draws_from(0, "model")),
        Row("chat_template", ("", "plain"), lays_out(0)),
        Row("precision", ("fp32", "bf16"), multiplies_in),
        *under("prompts", data("prompts", "prompts")),
        Row("constitution", ("$constitution", "$other_constitution"), criticises_by),
        Row("revisions", (1, 2), goes_so_many_rounds),
        Row("keep_cut_off", (False, True), keeps_what_was_cut_off),
        Row(
            "max_left_out",
            (0.5, 0.05),
            refused("more than max_left_out = 0.05 allows"),
            {"prompts.path": "$long_prompts"},
        ),
        Row("sampling.temperature", (0.7, 1.4), draws_at),
        Row("sampling.max_new_tokens", (3, 6), draws_at_most),
        Row("sampling.num_slots", (1, 64), decodes_side_by_side),
        Row("engine.kind", ("local", "elsewhere"), refused("engine.kind")),
        *endpoint(),
    ]


def endpoint() -> list[Row]:
    """Keys of a model that runs elsewhere."""
    busy = ELSEWHERE | {"model": "busy"}
    rows = [
        Row("url", ("http://one.test/v1", "http://two.test/v2/"), asks_there, ELSEWHERE),
        Row("key_variable", ("", KEY_VARIABLE), shows_the_key, ELSEWHERE),
        Row("timeout_s", (5.0, 90.0), waits_so_long, ELSEWHERE),
        Row("retries", (2, 1), refused("asked 2 times, at last 503"), busy),
        Row("at_once", (1, 4), asks_together, ELSEWHERE),
        Row("max_requests", (0, 3), refused("endpoint.max_requests = 3"), ELSEWHERE),
        Row("max_tokens", (0, 50), refused("endpoint.max_tokens = 50"), ELSEWHERE),
        Row("cache", ("", "$answers"), keeps_answers_there, ELSEWHERE),
    ]
    return under("endpoint", rows)


# Comparisons.


def verdicts(outcome: Outcome) -> list[dict[str, Any]]:
    """Everything that was asked, with the prompt and the texts of the two answers."""
    return [
        each | {"prompt": line["prompt"], "texts": tuple(line["responses"][place]["text"] for place in each["pair"])}
        for line in outcome.lines("verdicts.jsonl")
        for each in line["asked"]
    ]


def draws_other_principles(a: Outcome, b: Outcome) -> None:
    """Another lot for each pair; every principle comes up."""
    drawn = [[each["principle"] for each in verdicts(outcome)] for outcome in (a, b)]
    assert drawn[0] != drawn[1]
    for names in drawn:
        assert set(names) == {"calm", "long", "short"}


def judges_as_by_hand(a: Outcome, b: Outcome) -> None:
    """How likely the letter A is among the two, each question alone, by the recipe's model and constitution."""
    shares = []
    for outcome in (a, b):
        recipe = outcome.recipe
        loaded = load_language_model(recipe.model, chat_template=recipe.chat_template, precision="fp32")
        principles = {each.name: each for each in read_constitution(recipe.constitution).principles}
        letters = [loaded.chat.beginning_tokens(letter) for letter in "AB"]
        found = verdicts(outcome)[:6]
        for each in found:
            prompt = Prompt.model_validate(each["prompt"])
            for texts, share in zip((each["texts"], each["texts"][::-1]), each["first"], strict=True):
                opened = loaded.chat.prompt_tokens(question(prompt, texts, principles[each["principle"]]))
                logits = next_logits(loaded.model, opened)
                first, second = (logits[letter[0]] for letter in letters)
                assert close(share, float(torch.sigmoid(first - second)))
        shares.append([each["first"] for each in found])
        judges = {line["labeler"] for line in outcome.lines("rankings.jsonl")}
        assert judges == {f"ai:{recipe.model}"}
        assert {line["source"] for line in outcome.lines("rankings.jsonl")} == {"ai"}
    assert shares[0] != shares[1]


@torch.no_grad()
def next_logits(model: Any, tokens: list[int]) -> torch.Tensor:
    """[V] of what comes after the tokens."""
    sequences = Sequences.pack([tokens], [[0]])
    hidden = model.hidden(sequences, torch.tensor([0]), torch.tensor([len(tokens) - 1]), None)
    logits: torch.Tensor = model.logits(hidden)[0]
    return logits


def decides_over_both_orders(a: Outcome, b: Outcome) -> None:
    """By the same answer twice, or by the larger share of the model."""
    assert [each["first"] for each in verdicts(a)] == [each["first"] for each in verdicts(b)]
    for outcome in (a, b):
        for each, ranking in zip(verdicts(outcome), outcome.lines("rankings.jsonl"), strict=True):
            one, other = each["first"]
            steady = (one > 0.5) - (one < 0.5) if (one > 0.5) != (other > 0.5) else 0
            verdict = steady if outcome is a else (one > other) - (one < other)
            assert ranking["ranks"] == {1: [1, 2], 0: [1, 1], -1: [2, 1]}[verdict]
    assert a.lines("rankings.jsonl") != b.lines("rankings.jsonl")


def asks_so_many(a: Outcome, b: Outcome) -> None:
    """Different principles about each of the six pairs of four answers."""
    for outcome, count in ((a, 1), (b, 2)):
        for line in outcome.lines("verdicts.jsonl"):
            for pair in combinations(range(4), 2):
                names = [each["principle"] for each in line["asked"] if tuple(each["pair"]) == pair]
                assert len(names) == len(set(names)) == count


def says_letters(rollout: Rollout) -> Rollout:
    """What was said is a letter, or none, by what was really drawn."""
    return replace(rollout, texts=tuple(("A", "B", "Answer B", "A.", "Hm")[len(text) % 5] for text in rollout.texts))


def decides_by_majority(a: Outcome, b: Outcome) -> None:
    """Of the answers drawn to a question, those that choose."""
    for outcome, count in ((a, 1), (b, 3)):
        texts = [text for rollout in outcome.rollouts for text in rollout.texts]
        said = [texts[start : start + count] for start in range(0, len(texts), count)]
        shares = [share for each in verdicts(outcome) for share in each["first"]]
        assert len(shares) == len(said)
        for share, answers in zip(shares, said, strict=True):
            letters = [answer.strip(".")[-1] for answer in answers if answer != "Hm"]
            assert share == (letters.count("A") / len(letters) if letters else None)


def asks_in_parts(a: Outcome, b: Outcome) -> None:
    """Smaller forward passes, and the same numbers."""
    for outcome in (a, b):
        limit = outcome.recipe.microbatch_tokens
        assert all(tokens <= limit or count == 1 for tokens, count in outcome.passes)
    assert len(b.passes) > len(a.passes)
    one, other = ([share for each in verdicts(outcome) for share in each["first"]] for outcome in (a, b))
    assert close(one, other)


# Critique and revision.


def revised(outcome: Outcome) -> list[list[Mapping[str, str]]]:
    """The rounds of every prompt."""
    return [line["response"]["provenance"]["revisions"] for line in outcome.lines("revisions.jsonl")]


def writes_anew(a: Outcome, b: Outcome) -> None:
    """Other drafts, by other principles."""
    assert a.rollouts[0].prompts == b.rollouts[0].prompts
    assert a.rollouts[0].texts != b.rollouts[0].texts
    names = [[rounds[0]["principle"] for rounds in revised(outcome)] for outcome in (a, b)]
    assert names[0] != names[1]
    assert set(names[0]) == {"calm", "short"}  # the third says nothing of revisions


def criticises_by(a: Outcome, b: Outcome) -> None:
    """What is asked for after the draft, and after the critique, is what the principle says; all of it is kept."""
    for outcome in (a, b):
        constitution = read_constitution(outcome.recipe.constitution)
        principles = {each.name: each for each in constitution.principles}
        drafts, critiques, revisions = outcome.rollouts
        for row, (round_,) in enumerate(revised(outcome)):
            principle = principles[round_["principle"]]
            assert round_["constitution"] == constitution.version
            assert (round_["draft"], round_["critique"]) == (drafts.texts[row], critiques.texts[row])
            *_, draft, asked = critiques.prompts[row].messages
            assert (draft.role, draft.content, asked.content) == ("assistant", drafts.texts[row], principle.critique)
            *_, critique, asked = revisions.prompts[row].messages
            assert (critique.content, asked.content) == (critiques.texts[row], principle.revise)
        texts = [line["response"]["text"] for line in outcome.lines("revisions.jsonl")]
        assert texts == list(revisions.texts)
    assert a.rollouts[1].prompts != b.rollouts[1].prompts


def goes_so_many_rounds(a: Outcome, b: Outcome) -> None:
    """A draft, then a critique and a revision for each; the next round's draft is the revision."""
    for outcome, count in ((a, 1), (b, 2)):
        assert len(outcome.rollouts) == 1 + 2 * count
        for rounds in revised(outcome):
            assert len(rounds) == len({each["principle"] for each in rounds}) == count
    for row, rounds in enumerate(revised(b)):
        assert rounds[1]["draft"] == b.rollouts[2].texts[row]


def keeps_what_was_cut_off(a: Outcome, b: Outcome) -> None:
    ended = a.rollouts[2].ended.tolist()
    assert 0 < sum(ended) < len(ended)
    found = [[line["response"]["text"] for line in outcome.lines("demonstrations.jsonl")] for outcome in (a, b)]
    for outcome, texts, kept in ((a, found[0], ended), (b, found[1], [True] * len(ended))):
        said = outcome.rollouts[2].texts
        assert texts == [text for text, keep in zip(said, kept, strict=True) if keep and text]
        assert {line["author"] for line in outcome.lines("demonstrations.jsonl")} == {f"ai:{outcome.recipe.model}"}


# A model elsewhere.


def asks_there(a: Outcome, b: Outcome) -> None:
    for outcome, address in ((a, "http://one.test/v1"), (b, "http://two.test/v2")):
        assert outcome.sent
        assert {sent.address for sent in outcome.sent} == {f"{address}/chat/completions"}


def shows_the_key(a: Outcome, b: Outcome) -> None:
    """In a header, and nowhere else."""
    assert {sent.headers.get("Authorization") for sent in a.sent} == {None}
    assert {sent.headers.get("Authorization") for sent in b.sent} == {f"Bearer {KEY}"}
    files = [path for path in b.directory.rglob("*") if path.is_file()]
    assert len(files) > 4
    for path in files:
        assert KEY.encode() not in path.read_bytes()


def waits_so_long(a: Outcome, b: Outcome) -> None:
    assert {sent.timeout for sent in a.sent} == {5.0}
    assert {sent.timeout for sent in b.sent} == {90.0}


def asks_together(a: Outcome, b: Outcome) -> None:
    assert max(sent.together for sent in a.sent) == 1
    assert 1 < max(sent.together for sent in b.sent) <= 4


def keeps_answers_there(a: Outcome, b: Outcome) -> None:
    assert len(a.lines("answers.jsonl")) == len(a.sent) > 0
    assert not (b.directory / "answers.jsonl").exists()
    assert len((Path(b.recipe.endpoint.cache) / "answers.jsonl").read_text(encoding="utf-8").splitlines()) >= len(
        b.sent
    )
