"""Likelihoods against one text at a time; windows; what is kept."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.evals.asking import answering
from palate.evals.asking.answering import Terms, answered, task
from palate.evals.asking.likelihoods import encode, likelihoods, windows, within
from palate.evals.asking.model_identity import identity, reading
from palate.evals.protocols.choices import question
from palate.evals.protocols.items import Continuation, Item
from palate.evals.protocols.responses import form_scores
from palate.evals.protocols.texts import TEXTS
from palate.lm.batch import Sequences
from palate.lm.decoder import packed_dtype
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded, load_language_model
from palate.recipe import Sampling
from palate.records import Prompt

TERMS = Terms(window=40, sampling=Sampling(max_new_tokens=5), num_responses=2, seed=0, max_tokens=90)


@pytest.fixture(scope="module")
def tiny() -> Loaded[LanguageModel]:
    return load_language_model("tiny", precision="fp32")


PAIRS = [
    ([5, 6, 7], [8, 9, 10, 11]),
    ([5, 6, 7], [12]),
    ([9], [5, 5, 5, 40, 41]),
    ([30] * 50, [31, 32]),
    ([5, 6, 7], [13, 14]),
]


@torch.no_grad()
def alone(model: LanguageModel, context: list[int], text: list[int]) -> tuple[float, bool]:
    """One token after the other, each from a pass of its own."""
    total, greedy = 0.0, True
    for place, token in enumerate(text):
        before = torch.tensor([context + text[:place]])
        sequences = Sequences.pack([before[0].tolist()], [[token]])
        row = model.hidden(sequences, torch.tensor([0]), torch.tensor([before.shape[1] - 1]), None)
        logits = model.logits(row)[0].double()
        total += float(logits[token] - logits.logsumexp(0))
        greedy = greedy and int(logits.argmax()) == token
    return total, greedy


@pytest.mark.parametrize("max_tokens", [30, 4096])
def test_a_sum_is_that_of_its_tokens_one_by_one(tiny: Loaded[LanguageModel], max_tokens: int) -> None:
    found = likelihoods(tiny.model, PAIRS, max_tokens=max_tokens)
    for (context, text), each in zip(PAIRS, found, strict=True):
        expected, _ = alone(tiny.model, context, text)
        assert each.logprob == pytest.approx(expected, abs=1e-5)


def test_a_context_that_one_continuation_follows_is_one_run_with_it_and_no_pass_has_a_twin(
    tiny: Loaded[LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[Sequences] = []
    dtypes = set()
    hidden = tiny.model.hidden

    def watched(sequences: Sequences, *about: Any) -> Any:
        passes.append(sequences)
        dtypes.add(packed_dtype(torch.bfloat16, torch.device("cpu")))
        return hidden(sequences, *about)

    monkeypatch.setattr(tiny.model, "hidden", watched)
    likelihoods(tiny.model, PAIRS, max_tokens=4096)
    (made,) = passes
    assert dict(zip(made.rows.tolist(), made.prompt_lengths.tolist(), strict=True)) == {0: 3, 1: 3, 2: 0, 3: 0, 4: 3}
    assert dtypes == {torch.float32}
    assert packed_dtype(torch.bfloat16, torch.device("cpu")) == torch.float64


def test_greedy_is_the_likeliest_token_each_time(tiny: Loaded[LanguageModel]) -> None:
    context, said = [5, 6, 7], []
    for _ in range(3):
        with torch.no_grad():
            sequences = Sequences.pack([context + said], [[0]])
            last = torch.tensor([len(context + said) - 1])
            row = tiny.model.hidden(sequences, torch.tensor([0]), last, None)
            said.append(int(tiny.model.logits(row).argmax()))
    others = [[*said[:2], said[2] + 1], [*said[:2], (said[2] - 1) % 259], [said[0] + 1, *said[1:]]]
    found = likelihoods(tiny.model, [(context, text) for text in (said, *others)], max_tokens=99)
    assert [each.greedy for each in found] == [True, False, False, False]


@given(st.integers(1, 60), st.integers(1, 20))
def test_windows_foretell_each_token_once_from_what_is_before_it(count: int, length: int) -> None:
    tokens = list(range(100, 100 + count))
    found = windows(tokens, 7, length)
    assert [token for _, text in found for token in text] == tokens
    whole = [7, *tokens]
    for context, text in found:
        end = whole.index(text[0])
        assert context == whole[end - len(context) : end]
        assert len(context) >= 1
        assert len(context) + len(text) <= length + 1
    assert all(len(context) + len(text) == length + 1 for context, text in found[1:])


def test_windows_by_hand() -> None:
    assert windows([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 99, 4) == [
        ([99], [0, 1, 2, 3]),
        ([3], [4, 5, 6, 7]),
        ([5, 6, 7], [8, 9]),
    ]
    assert windows([], 99, 4) == []


def test_a_context_that_is_too_long_loses_its_beginning_and_is_counted() -> None:
    assert within([([1, 2, 3, 4], [5, 6]), ([1], [2])], 4) == ([([3, 4], [5, 6]), ([1], [2])], 1)
    with pytest.raises(ValueError, match="a continuation of 4 tokens leaves no room"):
        within([([1], [2, 3, 4, 5])], 4)


def test_blanks_belong_to_what_follows_and_nothing_is_a_beginning(tiny: Loaded[LanguageModel]) -> None:
    tokenizer: Any = tiny.chat.tokenizer

    def tokens(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    asked = [Continuation("ab  ", "c"), Continuation("", "cd"), Continuation("ab", "  c")]
    assert encode(tokenizer, asked) == [
        (tokens("ab"), tokens("  c")),
        ([tokenizer.eos_token_id], tokens("cd")),
        (tokens("ab"), tokens("  c")),
    ]


def test_models_read_alike_whose_tokenizers_and_templates_are_alike() -> None:
    one, other = (load_language_model("tiny", precision="fp32").chat for _ in range(2))
    assert reading(one) == reading(other)
    other.tokenizer.chat_template += " "
    assert reading(one) != reading(other)
    again = load_language_model("tiny", precision="fp32").chat
    again.tokenizer.add_tokens(["<mill>"])
    assert reading(one) != reading(again)


def items() -> list[Any]:
    return [question(f"What of {n}?", ["tea", f"{n} mills"], n % 2) for n in range(9)]


def test_what_was_answered_is_not_asked_again_and_a_torn_line_is(
    tiny: Loaded[LanguageModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counting(model: Any, pairs: Any, *, max_tokens: int) -> Any:
        asked.append(len(pairs))
        return likelihoods(model, pairs, max_tokens=max_tokens)

    monkeypatch.setattr(answering, "likelihoods", counting)
    of_tiny = {"arc_easy": task("continuations", items(), tiny.chat, 2048, TERMS)}
    first = answered(tiny, of_tiny, TERMS, tmp_path)
    assert sum(asked) == 18
    again = answered(tiny, of_tiny, replace(TERMS, max_tokens=4096, seed=5), tmp_path)
    assert (sum(asked), again) == (18, first)
    (kept,) = tmp_path.rglob("*.jsonl")
    kept.write_text(kept.read_text()[:-20], encoding="utf-8")
    assert answered(tiny, of_tiny, TERMS, tmp_path)["arc_easy"][8].scores == first["arc_easy"][8].scores
    assert sum(asked) == 20
    assert len([json.loads(line) for line in kept.read_text().splitlines() if line.endswith("}")]) == 9


def test_another_model_or_question_is_asked_anew(tiny: Loaded[LanguageModel], tmp_path: Path) -> None:
    other = load_language_model("tiny", precision="bf16")
    named = load_language_model("tiny", precision="fp32", chat_template="plain")
    changed = replace(tiny, weights="other")
    assert len({identity(each) for each in (tiny, other, named, changed)}) == 4
    assert identity(replace(tiny, name="elsewhere")) == identity(tiny)
    one = task("continuations", items(), tiny.chat, 2048, TERMS)
    asked_otherwise = task("continuations", [question("What of 0? ", ["tea", "0 mills"], 0)], tiny.chat, 2048, TERMS)
    assert not set(one.keys) & set(asked_otherwise.keys)


@pytest.mark.parametrize(
    "changed",
    [
        {"sampling": Sampling(max_new_tokens=5, temperature=0.9)},
        {"sampling": Sampling(max_new_tokens=6)},
        {"num_responses": 3},
        {"seed": 1},
    ],
)
def test_how_it_responds_is_part_of_what_a_model_is_asked(tiny: Loaded[LanguageModel], changed: dict[str, Any]) -> None:
    prompts = [Item(asked=(Prompt.from_text(f"Tea {n}?"),), score=form_scores) for n in range(3)]
    one, again, other = (
        set(task("prompts", prompts, tiny.chat, 2048, terms).keys)
        for terms in (TERMS, replace(TERMS, max_tokens=9, window=3), replace(TERMS, **changed))
    )
    assert one == again
    assert not one & other


def test_windows_are_part_of_what_is_asked(tiny: Loaded[LanguageModel], tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("Once there was a mill by a river. " * 5, encoding="utf-8")
    documents = TEXTS["held_out_text"].read(path)
    keys = [
        task("documents", documents, tiny.chat, 2048, replace(TERMS, window=window)).keys[0] for window in (40, 41, 40)
    ]
    assert keys[0] == keys[2] != keys[1]
    whole, parts = (
        answered(tiny, {"t": task("documents", documents, tiny.chat, 2048, terms)}, terms, tmp_path / "answers")
        for terms in (replace(TERMS, window=1000), TERMS)
    )
    (one,), (other,) = whole["t"], parts["t"]
    assert one.scores["bytes"] == other.scores["bytes"] == len(path.read_text().strip())
    assert one.scores["bits"] != other.scores["bits"]
    tokens = encode(tiny.chat.tokenizer, [Continuation("", path.read_text().strip())])
    expected = likelihoods(tiny.model, tokens, max_tokens=4096)[0].logprob
    assert one.scores["bits"] == pytest.approx(-expected / 0.6931471805599453)


def test_frozen_copies_answer_alike(tiny: Loaded[LanguageModel]) -> None:
    """As the stage has it: what never learns is stored as it is multiplied."""
    frozen = copy.deepcopy(tiny.model)
    frozen.freeze_all()
    frozen.join([])
    one, other = (likelihoods(model, PAIRS, max_tokens=99) for model in (tiny.model, frozen))
    assert [each.logprob for each in one] == pytest.approx([each.logprob for each in other], abs=1e-5)
