"""Stages that learn from the policy's own samples: what of a rollout they learn from, and by which numbers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from palate.errors import ModelError
from palate.lm.batch import Sequences
from palate.lm.sources.zoo import locate
from palate.recipe import DistillRecipe, OnlineDPORecipe, parse_recipe
from palate.run.directory import Run
from palate.stages.own_samples import distill, online_dpo
from palate.stages.own_samples.foretelling import minibatches_of
from palate.stages.own_samples.online_dpo import compared, pairs_by_score, places

scores = st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=6)


@given(scores=scores)
def test_all_pairs_of_different_scores(scores: list[list[int]]) -> None:
    chosen, rejected = pairs_by_score(torch.tensor(scores).float(), every=True)
    expected = {
        (3 * prompt + a, 3 * prompt + b)
        for prompt, row in enumerate(scores)
        for a in range(3)
        for b in range(3)
        if row[a] > row[b]
    }
    pairs = list(zip(chosen.tolist(), rejected.tolist(), strict=True))
    assert set(pairs) == expected
    assert len(pairs) == len(expected)


@given(scores=scores)
def test_the_best_against_the_worst(scores: list[list[int]]) -> None:
    chosen, rejected = pairs_by_score(torch.tensor(scores).float(), every=False)
    with_signal = [number for number, row in enumerate(scores) if max(row) > min(row)]
    assert [row // 3 for row in chosen.tolist()] == [row // 3 for row in rejected.tolist()] == with_signal
    for prompt, a, b in zip(with_signal, chosen.tolist(), rejected.tolist(), strict=True):
        row = scores[prompt]
        assert (a % 3, b % 3) == (row.index(max(row)), row.index(min(row)))


@pytest.mark.parametrize("every", [True, False])
def test_rounding_makes_no_pair(every: bool) -> None:
    """DPO would learn it as it learns any other pair."""
    scores = torch.tensor([[0.1 + 0.2 + 0.3, 0.1 + 0.5, 0.3 + 0.2 + 0.1], [0.6, 0.6001, 0.6001]])
    scores[0] += torch.tensor([0.0, 1e-7, 2e-7])
    chosen, rejected = pairs_by_score(scores, every=every)
    assert set(chosen.tolist()) == ({4, 5} if every else {4})
    assert set(rejected.tolist()) == {3}


@given(scores=scores, every=st.booleans(), count=st.integers(1, 4))
def test_every_pair_is_learned_once_and_whole(scores: list[list[int]], every: bool, count: int) -> None:
    """Whatever the minibatches and microbatches, the two sides of a pair are those it was made of."""
    rows = 3 * len(scores)
    sequences = Sequences.pack(
        [[1, 1 + row // 3] for row in range(rows)],
        [[5 + row] for row in range(rows)],
        group_ids=[row // 3 for row in range(rows)],
    )
    chosen, rejected = pairs_by_score(torch.tensor(scores).float(), every=every)
    met = []
    for minibatch in compared(sequences, chosen, rejected, count, key=(0,)):
        for microbatch in minibatch.microbatches(6, whole_groups=True):
            better, worse = places(microbatch, chosen, rejected)
            last = microbatch.tokens[:, -1] - 5  # the row that a response was drawn in
            met += zip(last[better].tolist(), last[worse].tolist(), strict=True)
    assert sorted(met) == sorted(zip(chosen.tolist(), rejected.tolist(), strict=True))


@given(prompts=st.integers(1, 5), responses=st.integers(1, 4), data=st.data())
def test_so_many_responses_of_each_prompt_are_foretold(prompts: int, responses: int, data: st.DataObject) -> None:
    """In whole prompts, in as many minibatches as they will be learned in."""
    each, count = data.draw(st.integers(1, responses)), data.draw(st.integers(1, prompts))
    groups = [prompt for prompt in range(prompts) for _ in range(responses)]
    sequences = Sequences.pack([[1]] * len(groups), [[2]] * len(groups), group_ids=groups)
    parts = minibatches_of(sequences, count, each=each, key=(0,))
    assert len(parts) == count
    met = [group for part in parts for group in part.group_ids.tolist()]
    assert sorted(met) == [prompt for prompt in range(prompts) for _ in range(each)]
    assert not any(set(a.group_ids.tolist()) & set(b.group_ids.tolist()) for a in parts for b in parts if a is not b)
    rows = [row for part in parts for row in part.rows.tolist()]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("pairs", ["extremes", "all"])
def test_a_step_in_which_all_score_alike_teaches_nothing_and_the_run_goes_on(
    pairs: str, settings: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Its weights stay as they are, and what is told is that there was no pair."""
    tree = settings["online-dpo"] | {"rewards": [{"length": 900.0}], "pairs": pairs, "frozen_layers": 0}
    recipe = parse_recipe(OnlineDPORecipe, tree)
    online_dpo.train(recipe, Run.open(tmp_path, recipe))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["dpo/pairs"] for row in rows] == [0.0, 0.0]
    assert [row["objective/groups_without_signal"] for row in rows] == [1.0, 1.0]
    assert not any(name in row for row in rows for name in ("dpo/loss", "policy/learning_rate"))
    before = load_file(locate("tiny") / "model.safetensors")
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_teachers_and_their_judge_learn_nothing_and_share_what_is_the_same(
    settings: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """A teacher that is the policy as it was at first takes no memory but for the layers that learn."""
    tree = settings["distill"] | {"rewards": [{"model": "tiny"}]}
    recipe = parse_recipe(DistillRecipe, tree)
    school = distill.load_school(recipe, Run.open(tmp_path, recipe))
    assert school.judge is not None
    others = [*school.teachers, *(source.model for source in school.judge.learned)]
    assert not any(weight.requires_grad for model in others for weight in model.parameters())
    policy, itself, judge = school.loaded.model, school.teachers[1], school.judge.learned[0].model
    frozen = {name: weight for name, weight in policy.named_parameters() if not weight.requires_grad}
    assert any(name.startswith("model.layers.0.") for name in frozen)
    for name, weight in frozen.items():
        assert itself.get_parameter(name).data_ptr() == weight.data_ptr()
        if name.startswith("model."):
            assert judge.get_parameter(name).data_ptr() == weight.data_ptr()
    learning = next(name for name, weight in policy.named_parameters() if weight.requires_grad)
    assert itself.get_parameter(learning).data_ptr() != policy.get_parameter(learning).data_ptr()
    assert judge.get_parameter(learning).data_ptr() == itself.get_parameter(learning).data_ptr()


def test_a_teacher_reads_what_the_policy_says_or_is_refused() -> None:
    def reader(words: str, layout: str) -> Any:
        tokenizer = SimpleNamespace(get_vocab=lambda: {word: place for place, word in enumerate(words.split())})
        return SimpleNamespace(name="wise", chat=SimpleNamespace(tokenizer=tokenizer, fingerprint=layout))

    policy = reader("a b", "chatml").chat
    distill.check_teacher(reader("a b", "chatml"), policy)
    with pytest.raises(ModelError, match=r"^the teacher wise has another vocabulary"):
        distill.check_teacher(reader("b a", "chatml"), policy)
    with pytest.raises(ModelError, match=r"^the teacher wise has another chat template"):
        distill.check_teacher(reader("a b", "plain"), policy)
