"""Every key of every recipe does what it says: two values of it, two runs, and what must differ between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from tests.stages.effects import (
    agents,
    ai_feedback,
    evaluation,
    own_samples,
    preferences,
    pretraining,
    reinforcement,
    sampling,
    served,
    supervised,
    verifiers,
)
from tests.stages.effects.rows import Row
from tests.stages.effects.runs import RECIPES, Runs
from tests.stages.effects.shared import Ends

from palate.recipe import Section

TABLE: dict[str, list[Row]] = {
    "pretrain": pretraining.pretrain(),
    "sft": supervised.sft(),
    "reward": preferences.reward(),
    "dpo": preferences.dpo(),
    "kto": preferences.kto(),
    "reinforce": [*reinforcement.reinforce(), *verifiers.reinforce(), *served.reinforce()],
    "online-dpo": own_samples.online_dpo(),
    "raft": own_samples.raft(),
    "distill": own_samples.distill(),
    "ppo": reinforcement.ppo(),
    "sample": sampling.sample(),
    "judge": ai_feedback.judge(),
    "revise": ai_feedback.revise(),
    "best-of-n": sampling.best_of_n(),
    "eval": evaluation.win_rate(),
    "card": evaluation.card(),
    "agent": agents.agent(),
}
"""By the command that takes the recipe: a row for every key."""


@pytest.mark.parametrize(
    ("stage", "row"),
    [pytest.param(stage, row, id=f"{stage}-{row.name}") for stage, rows in TABLE.items() for row in rows],
)
def test_a_key_has_its_effect(stage: str, row: Row, runs: Runs) -> None:
    if stage == "agent":
        pytest.importorskip("gymnasium", reason="needs palate[gym]")
    given = {key: value for key, value in row.given.items() if key != row.key}
    outcomes = [
        runs(stage, given | {row.key: value}, spoil=row.spoil, only_reads=row.only_reads) for value in row.values
    ]
    if not isinstance(row.effect, Ends):
        assert [outcome.error for outcome in outcomes] == ["", ""]
    row.effect(*outcomes)


def test_every_key_has_a_row() -> None:
    assert TABLE.keys() == RECIPES.keys()
    for stage, rows in TABLE.items():
        known, written = set(keys(RECIPES[stage])), {row.name for row in rows}
        missing = known - written
        if stage != "reinforce":  # see `verifiers` and `served`
            missing = {name for name in missing if not re.search(r"\b(verifier|engine)\.(?!kind)", name)}
        assert not missing, f"{stage}: say in the table what these keys do: {', '.join(sorted(missing))}"
        assert written <= known, f"{stage} has no such key: {', '.join(sorted(written - known))}"


def keys(kind: type[Section], prefix: str = "") -> Iterator[str]:
    """Every key of a recipe, those of its sections with dots; a key of several sections of one kind counts once."""
    for name, field in kind.model_fields.items():
        section = section_in(field.annotation)
        if section is None:
            yield prefix + name
        else:
            yield from keys(section, f"{prefix}{name}.")


def section_in(annotation: Any) -> type[Section] | None:
    """The section that a key holds: itself, perhaps absent, or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := section_in(part)) is not None), None)
