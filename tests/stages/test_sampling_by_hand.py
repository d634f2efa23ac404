"""Sampling, best of n and evaluation: every response drawn again by hand, and from those all numbers of the reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from tests.stages.in_transformers import Network, run_stage, softplus, written

from palate.evals.report import Report
from palate.intervals import ratio_estimate
from palate.lm.sources.zoo import load_language_model, locate
from palate.randomness import permutation, uniforms
from palate.recipe import BestOfNRecipe, SampleRecipe, WinRateRecipe
from palate.records import Candidates, Demonstration, Prompt
from palate.stages import best_of_n, evaluate, sample

PROMPTS = [Prompt.from_text(text) for text in ("Hi", "What of rivers?", "", "Name a bird.", "Is it so, or not?")]
SAMPLING = {"temperature": 1.3, "max_new_tokens": 7}
VOWELS = "tests.stages.test_sampling_by_hand:vowels"


def vowels(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
    """Few enough of them that there are ties."""
    return [float(sum(letter in "aeiouAEIOU" for letter in text)) for text in responses]


@dataclass(frozen=True)
class Drawn:
    """One response: what it says, its tokens, their log-probability, and whether it ended."""

    text: str
    tokens: list[int]
    logprob: float
    ended: bool


def drawn(network: Network, stage: str, *, seed: int, num_responses: int) -> list[list[Drawn]]:
    """The responses to every prompt; each is decided by its own random numbers."""
    every = []
    for prompt in PROMPTS:
        numbers = [uniforms(7, seed, stage, prompt.id, number) for number in range(num_responses)]
        found = [network.draw(prompt, list(each), temperature=1.3) for each in numbers]
        every.append(
            [Drawn(network.text(tokens), tokens, logprob, tokens[-1] == network.stop) for tokens, logprob in found]
        )
    return every


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Network]:
    """The tiny model made to write vowels and spaces, and to stop before the seventh token now and then."""
    network = Network(locate("tiny"))
    embeddings = network.network.model.embed_tokens.weight
    with torch.no_grad():
        hidden = network.network.model(input_ids=torch.arange(259)[:, None]).last_hidden_state[:, 0]
        common = hidden.mean(0) / hidden.mean(0).square().sum()
        for token, odds in [(network.stop, 40), *((network.tokens(letter)[0], 15) for letter in "aeiou ")]:
            embeddings[token] = common * math.log(odds)
    directory = network.write(tmp_path_factory.mktemp("talkative"))
    return directory, network


@pytest.fixture(scope="module")
def tiny() -> Network:
    return Network(locate("tiny"))


def tree_for(model: str, directory: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "seed": 3,
        "prompts": written(directory / "prompts.jsonl", PROMPTS),
        "sampling": SAMPLING,
    } | more


def test_samples_are_those_drawn_by_hand(
    talkative: tuple[str, Network], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, network = talkative
    monkeypatch.setattr(sample, "PROMPTS_PER_STEP", 2)
    tree = tree_for(directory, tmp_path, responses_per_prompt=3)
    rows, report = run_stage(SampleRecipe, sample.write_candidates, tree, tmp_path / "run")
    lines = (tmp_path / "run" / "candidates.jsonl").read_text(encoding="utf-8").splitlines()
    written_down = [Candidates.model_validate_json(line) for line in lines]
    assert [item.prompt for item in written_down] == PROMPTS
    weights = load_language_model(directory).weights
    ours = drawn(network, "sample", seed=3, num_responses=3)
    for item, expected in zip(written_down, ours, strict=True):
        for number, (response, by_hand) in enumerate(zip(item.responses, expected, strict=True)):
            made = response.provenance
            assert made is not None
            assert response.text == by_hand.text
            assert made.logprob == pytest.approx(by_hand.logprob, abs=1e-4)
            assert (made.ended, made.sample_index, made.seed) == (by_hand.ended, number, 3)
            assert (made.model, made.checkpoint) == (directory, weights)
            assert (made.temperature, made.max_new_tokens) == (1.3, 7)
    cut_off = [[not response.ended for response in responses] for responses in ours]
    assert 0 < np.mean(cut_off) < 1
    assert [row["tokens/truncated"] for row in rows] == pytest.approx(
        [np.mean(cut_off[first : first + 2]) for first in (0, 2, 4)]
    )
    assert (report["prompts"], report["responses"], report["left_out"]) == (5, 15, 0)
    assert report["truncated"] == pytest.approx(np.mean(cut_off))


def test_the_best_of_n_is_the_one_of_the_highest_reward(talkative: tuple[str, Network], tmp_path: Path) -> None:
    directory, network = talkative
    rewards = [{"function": VOWELS, "weight": 0.5}, {"length": 1.0, "weight": 4.0}]
    tree = tree_for(directory, tmp_path, rewards=rewards, n=4)
    _, report = run_stage(BestOfNRecipe, best_of_n.choose, tree, tmp_path / "run")
    lines = (tmp_path / "run" / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    written_down = [Demonstration.model_validate_json(line) for line in lines]
    texts = [[it.text for it in responses] for responses in drawn(network, "best_of_n", seed=3, num_responses=4)]
    scores = np.array(
        [
            [0.5 * vowels([], [text])[0] - 4.0 * max(len(text.split()) - 1, 0) / 10 for text in responses]
            for responses in texts
        ]
    )
    best = scores.argmax(1)  # the first of equals
    assert len(set(best)) > 1
    assert [item.prompt for item in written_down] == PROMPTS
    assert [item.response.text for item in written_down] == [texts[row][best[row]] for row in range(5)]
    assert report["score"] == pytest.approx(scores.max(1).mean())
    assert report["score_of_one"] == pytest.approx(scores.mean())
    assert report["kl_bound"] == pytest.approx(math.log(4) - 3 / 4)
    assert report["win_rate_bound"] == pytest.approx(4 / 5)
    assert (report["n"], report["left_out"]) == (4, 0)


def test_an_evaluation_is_the_one_made_by_hand(
    talkative: tuple[str, Network], tiny: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, Any] = {}
    histogram = "palate.evals.plots.before_after"
    monkeypatch.setattr(histogram, lambda before, after: shown.update(before=before, after=after) or "")
    monkeypatch.setattr(Report, "figure", lambda *_: None)
    monkeypatch.setattr(Report, "table", lambda self, title, *rest: shown.update({title: rest}))
    directory, network = talkative
    tree = tree_for(directory, tmp_path, baseline="tiny", judge={"function": VOWELS}, responses_per_prompt=3)
    _, report = run_stage(WinRateRecipe, evaluate.evaluate, tree, tmp_path / "run")

    ours, theirs = (drawn(each, "evaluation", seed=3, num_responses=3) for each in (network, tiny))
    our_scores, their_scores = (
        np.array([vowels([], [it.text for it in some]) for some in each]) for each in (ours, theirs)
    )
    assert not np.array_equal(our_scores, their_scores)
    gaps = our_scores[:, :, None] - their_scores[:, None, :]
    outcomes = np.where(gaps > 0, 1.0, np.where(gaps < 0, 0.0, 0.5))
    assert {0.0, 0.5, 1.0} == set(outcomes.ravel())
    by_prompt = ratio_estimate(outcomes.mean((1, 2)), np.ones(5), seed=3, share=True)
    assert report["win_rate"] == pytest.approx(outcomes.mean())
    assert (report["win_rate_low"], report["win_rate_high"]) == pytest.approx((by_prompt.low, by_prompt.high))

    # log p of the model's own responses, under both
    kl = np.array(
        [
            [
                it.logprob - tiny.logprobs(tiny.opened(prompt.messages), it.tokens, temperature=1.3).sum().item()
                for it in responses
            ]
            for prompt, responses in zip(PROMPTS, ours, strict=True)
        ]
    ).mean(1)
    interval = ratio_estimate(kl, np.ones(5), seed=3)
    assert (report["kl"], report["kl_low"], report["kl_high"]) == pytest.approx(
        (interval.value, interval.low, interval.high), abs=1e-3
    )

    # logit P(win) = a + b x, with a normal prior on b; at no difference in words x it is a
    words = [np.array([[len(it.text.split()) for it in some] for some in each], dtype=float) for each in (ours, theirs)]
    longer = words[0][:, :, None] - words[1][:, None, :]
    x = longer / np.sqrt((longer**2).mean())

    def negative_log_posterior(theta: Any) -> float:
        z = theta[0] + theta[1] * x
        return float(
            (outcomes * np.logaddexp(0, -z) + (1 - outcomes) * np.logaddexp(0, z)).sum() / 9 + theta[1] ** 2 / 2
        )

    a = float(minimize(negative_log_posterior, np.zeros(2), tol=1e-10).x[0])
    assert report["win_rate_length_controlled"] == pytest.approx(math.exp(-softplus(-a)), abs=1e-4)
    assert report["win_rate_length_controlled"] != pytest.approx(report["win_rate"], abs=0.005)

    texts = [
        {"prompt": prompt.text, "before": old[0].text, "after": new[0].text}
        for prompt, old, new in zip(PROMPTS, theirs, ours, strict=True)
    ]
    assert report["texts"] == [texts[row] for row in permutation(5, 3, "shown")]
    assert np.array_equal(shown["before"], their_scores.ravel())
    assert np.array_equal(shown["after"], our_scores.ravel())
    columns, rows, _ = shown["Is the text still sound?"]
    assert columns == ["", "before", "after", "change"]
    assert rows[0][:3] == ["mean words", f"{words[1].mean():.3f}", f"{words[0].mean():.3f}"]
