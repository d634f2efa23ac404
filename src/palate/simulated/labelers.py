"""Simulated labelers: people who share a hidden taste more or less.

Labeler i perceives a response as ``score / scale + sigma_i * noise`` and ranks what is perceived. ``scale`` is the
standard deviation of the scores of all candidates. The sigmas are a common level times ``exp(skill_spread * z_i)`` with
z_i evenly spaced normal quantiles, so simulated-1 is the most careful and the last one the least. The level is found by
bisection, such that two different labelers agree on a pair of these candidates as often as ``taste.agreement`` says
(about 0.73 among real ones). The probability is exact: with perceived difference d and s = sqrt(2) sigma_i ::

    P(i prefers the first) = Phi((d - tie_margin) / s)         P(agree) = sum over both verdicts, a lone tie is half

Left out: position bias, fatigue, mood and opinions that truly differ. AlpacaFarm (Dubois et al. 2023) uses noisy
language models as labelers instead; here the taste is known, so that one can check what was learned against it.

Noise belongs to (seed, labeler, prompt, response text): neither the order of the candidates nor of the responses
matters, and the same text twice in one ranking is a tie.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from palate.errors import DataError, RecipeError
from palate.randomness import normals, permutation
from palate.recipe import Taste
from palate.records import Candidates, Prompt, Ranking
from palate.scores import ask
from palate.simulated.tastes import load_judge

Floats = NDArray[np.float64]

# How far two verdicts agree; rows and columns: first is better, tie, second is better.
_AGREEMENT = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.5], [0.0, 0.5, 1.0]])


def rank_candidates(candidates: Sequence[Candidates], taste: Taste, *, seed: int) -> list[Ranking]:
    """Rankings of every candidate set by ``taste.labels_per_prompt`` labelers, chosen by hash of the prompt.

    Raises:
        RecipeError: more labels per prompt than labelers, or no such judge.
        RewardError: the judge raised, or gave what is no score.
        DataError: nothing to compare.
    """
    if taste.labels_per_prompt > taste.labelers:
        raise RecipeError(
            f"labels_per_prompt = {taste.labels_per_prompt} needs as many labelers, but labelers = {taste.labelers}"
        )
    qualities = _perceptible_qualities(candidates, taste)
    differences = _pair_differences(candidates, qualities)
    sigmas = labeler_noise(differences, taste)
    rankings: list[Ranking] = []
    for item, quality in zip(candidates, qualities, strict=True):
        chosen = permutation(taste.labelers, seed, "simulated labelers", item.prompt.id)[: taste.labels_per_prompt]
        rankings += (_rank(item, quality, int(i), sigmas[i], taste.tie_margin, seed) for i in sorted(chosen))
    return rankings


def labeler_noise(differences: Floats, taste: Taste) -> Floats:
    """[labelers] standard deviations that give ``taste.agreement`` on pairs with these quality differences, [N].

    Pairs that are exactly equally good are left out, unless there is a tie margin: on them labelers who must choose
    agree half the time at any level of noise.
    """
    multipliers: Floats = np.exp(taste.skill_spread * ndtri((np.arange(taste.labelers) + 0.5) / taste.labelers))
    if taste.agreement == 1:
        return 0 * multipliers
    told = np.sort(differences if taste.tie_margin else differences[differences > 0])
    if not len(told):
        return multipliers
    told = told[:: max(1, len(told) // 20_000)]  # enough of them to tell the average
    low, high = 1e-9, 1e9
    for _ in range(80):
        middle = float(np.sqrt(low * high))
        agreement = expected_agreement(told, middle * multipliers, tie_margin=taste.tie_margin)
        low, high = (middle, high) if agreement > taste.agreement else (low, middle)
    return low * multipliers


def expected_agreement(differences: Floats, sigmas: Floats, *, tie_margin: float = 0.0) -> float:
    """How often two different labelers agree, averaged over pairs [N] and over pairs of labelers [L].

    With a single labeler it is the agreement of two who are alike.
    """
    spread = np.sqrt(2) * sigmas[:, None]
    first = ndtr((differences - tie_margin) / spread)
    second = ndtr((-differences - tie_margin) / spread)
    verdicts = np.stack([first, 1 - first - second, second])  # [3, L, N]
    total = verdicts.sum(axis=1)
    num_labelers = len(sigmas)
    agree = np.einsum("kl,kn,ln->n", _AGREEMENT, total, total)
    if num_labelers > 1:
        agree -= np.einsum("kl,kin,lin->n", _AGREEMENT, verdicts, verdicts)
    return float(agree.mean()) / (num_labelers * max(1, num_labelers - 1))


def _perceptible_qualities(candidates: Sequence[Candidates], taste: Taste) -> list[Floats]:
    """The taste's scores in units of their standard deviation, one array per candidate set."""
    prompts: list[Prompt] = [item.prompt for item in candidates for _ in item.responses]
    texts = [response.text for item in candidates for response in item.responses]
    if not texts:
        raise DataError("there are no candidates to rank; sample some responses first")
    scores = np.array(ask(taste.function, load_judge(taste.function), prompts, texts), dtype=np.float64)
    scale = float(np.sort(scores).std()) or 1.0  # sorted, so that not even rounding depends on the order
    ends = np.cumsum([len(item.responses) for item in candidates])
    return np.split(scores / scale, ends[:-1])


def _pair_differences(candidates: Sequence[Candidates], qualities: Sequence[Floats]) -> Floats:
    """[N] absolute differences of all pairs of different texts, sorted."""
    differences: list[float] = []
    for item, quality in zip(candidates, qualities, strict=True):
        texts = [response.text for response in item.responses]
        pairs = ((i, j) for j in range(len(texts)) for i in range(j) if texts[i] != texts[j])
        differences += (abs(float(quality[i] - quality[j])) for i, j in pairs)
    if not differences:
        raise DataError("no prompt has two different responses, so there is nothing to compare; sample more per prompt")
    return np.sort(np.array(differences))


def _rank(item: Candidates, quality: Floats, labeler: int, sigma: float, tie_margin: float, seed: int) -> Ranking:
    prompt_id, name = item.prompt.id, f"simulated-{labeler + 1}"
    noise = [normals(1, seed, "simulated noise", name, prompt_id, response.text)[0] for response in item.responses]
    shown = permutation(len(quality), seed, "simulated order", name, prompt_id)
    return Ranking(
        prompt=item.prompt,
        responses=item.responses,
        ranks=_ranks(quality + sigma * np.array(noise), tie_margin),
        labeler=name,
        shown_order=tuple(int(index) for index in shown),
        source="simulated",
    )


def _ranks(perceived: Floats, tie_margin: float) -> tuple[int, ...]:
    """1 is best; whoever comes within the margin of the first of a rank shares it."""
    ranks, rank, leader = [0] * len(perceived), 0, np.inf
    for index in np.argsort(-perceived, kind="stable"):
        if leader - perceived[index] > tie_margin:
            rank, leader = rank + 1, perceived[index]
        ranks[index] = rank
    return tuple(ranks)
