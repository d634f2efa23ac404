"""A model that was made worse is found by the sections that should find it, over five seeds; an unharmed one is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.evals.card import harmed

from palate.evals.asking.answering import Terms, answered, task
from palate.evals.card.compared import Row, rows_of
from palate.evals.protocols.all_protocols import PROTOCOLS
from palate.evals.protocols.items import Continuation, Item
from palate.evals.protocols.responses import form_scores
from palate.evals.protocols.texts import _document, _last_word
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded, load_language_model
from palate.recipe import Sampling
from palate.records import Prompt

TERMS = Terms(window=256, sampling=Sampling(max_new_tokens=24), num_responses=2, seed=0, max_tokens=4096)
SEEDS = range(5)


@pytest.fixture(scope="module")
def good() -> Loaded[LanguageModel]:
    return load_language_model("tiny", precision="fp32")


@pytest.fixture(scope="module")
def sections(good: Loaded[LanguageModel]) -> dict[str, list[Item]]:
    """Questions that the good model has right seven or eight times of ten, and texts that suit it."""
    prompts = [Prompt.from_text(f"Tell me of {n}.") for n in range(30)]
    return {
        "arc_easy": harmed.known_questions(good, 120, right=0.8),
        "commonsense_qa": harmed.known_questions(good, 80, right=0.75, letters=True),
        "held_out_text": [_document({"text": text}) for text in harmed.known_texts(good, 30, among=300)],
        "lambada": [_last_word(f"a mill of {n}", "x") for n in range(30)],
        "form": [Item(asked=(prompt,), score=form_scores) for prompt in prompts],
    }


def rows(
    sections: Mapping[str, Sequence[Item]],
    model: Loaded[LanguageModel],
    baseline: Loaded[LanguageModel],
    cache: Path,
    *,
    seed: int,
    other_seed: int | None = None,
) -> dict[tuple[str, str], Row]:
    """The compared rows of a card; the model's responses may be drawn with another seed than the baseline's."""
    if model.weights != baseline.weights:  # the form of what a random model says is no part of these questions
        sections = {name: items for name, items in sections.items() if name != "form"}
    terms = [replace(TERMS, seed=seed if number is None else number) for number in (other_seed, None)]
    after, before = (
        {
            name: [each.scores for each in found]
            for name, found in answered(
                loaded,
                {
                    name: task(PROTOCOLS[name].asks, items, loaded.chat, loaded.model.context, term)
                    for name, items in sections.items()
                },
                term,
                cache,
            ).items()
        }
        for loaded, term in zip((model, baseline), terms, strict=True)
    )
    found = rows_of({name: PROTOCOLS[name] for name in sections}, after, before, seed=seed)
    return {(row.section, row.measure.name): row for row in found if row.corrected is not None}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("answers")


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_with_noise_forget_what_was_known(
    seed: int, good: Loaded[LanguageModel], sections: dict[str, list[Item]], cache: Path
) -> None:
    found = rows(sections, harmed.perturbed(good, 1.5, seed), good, cache, seed=seed)
    assert found["arc_easy", "acc"].verdict == "worse"
    assert found["held_out_text", "bits"].verdict == "worse"
    assert found["choices", "brier"].verdict == "worse"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_head_that_always_says_a_letter(
    seed: int, good: Loaded[LanguageModel], sections: dict[str, list[Item]], cache: Path
) -> None:
    contexts = [
        each.context for item in sections["commonsense_qa"] for each in item.asked[:1] if isinstance(each, Continuation)
    ]
    other = harmed.always_says(good, "A", contexts[: 20 + seed])
    found = rows(sections, replace(other, weights=f"{other.weights} {seed}"), good, cache, seed=seed)
    assert found["commonsense_qa", "acc"].verdict == "worse"
    assert found["held_out_text", "bits"].verdict == "worse"


@pytest.mark.parametrize("seed", SEEDS)
def test_hardly_any_noise_is_no_harm(
    seed: int, good: Loaded[LanguageModel], sections: dict[str, list[Item]], cache: Path
) -> None:
    found = rows(sections, harmed.perturbed(good, 1e-4, seed), good, cache, seed=seed)
    assert {row.verdict for row in found.values()} <= {"not told apart", "a trifle"}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_model_with_other_responses_is_no_other_model(
    seed: int, good: Loaded[LanguageModel], sections: dict[str, list[Item]], cache: Path
) -> None:
    found = rows({"form": sections["form"]}, good, good, cache, seed=seed, other_seed=seed + 100)
    assert {row.verdict for row in found.values()} == {"not told apart"}
    assert any(row.change is not None and row.change.difference.value for row in found.values())
