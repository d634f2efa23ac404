"""Rows of the recipe that compares two models."""

from __future__ import annotations

import torch
from tests.stages.effects.rows import Row, under
from tests.stages.effects.runs import Outcome
from tests.stages.effects.sampling import (
    BREVITY,
    CHARACTERS,
    drawing,
    draws_from,
    draws_so_many,
    lays_out,
    scores_in_parts,
)
from tests.stages.effects.scoring import learned_terms, scores_of, verifying
from tests.stages.effects.shared import close


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
