"""The Bradley-Terry model: closed forms, brute force, finite differences, recovery, and other people's fits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm, spearmanr

from palate.corpus.pairs import comparison_sets
from palate.errors import DataError
from palate.feedback.statistics import marginal
from palate.feedback.statistics.aggregate import Comparisons, Floats, collect_comparisons
from palate.feedback.statistics.bradley_terry import bradley_terry, fit_labelers, fit_qualities
from palate.feedback.statistics.marginal import Parameters, Priors, marginal_curvature, marginal_loss
from palate.recipe import RewardRecipe, Taste, parse_recipe
from palate.records import Candidates, Prompt, Ranking, Response
from palate.simulated.labelers import rank_candidates

VERDICTS = {1: (1, 2), 0: (1, 1), -1: (2, 1)}


def pair(prompt: str, labeler: str, verdict: int, shown: tuple[int, int] | None = None) -> Ranking:
    """Of the responses "a" and "b": 1 if a is better."""
    return Ranking(
        prompt=Prompt.from_text(prompt),
        responses=(Response(text="a"), Response(text="b")),
        ranks=VERDICTS[verdict],
        labeler=labeler,
        shown_order=shown,
    )


def simulate(
    skill: Sequence[float],
    *,
    num_prompts: int,
    votes: int,
    spread: float = 1.5,
    bias: float | Sequence[float] = 0.0,
    tie: float | Sequence[float] = 0.0,
    seed: int = 0,
) -> list[Ranking]:
    """Pairs judged as the model says, each by some of the labelers; responses are shown in random order."""
    rng = np.random.default_rng(seed)
    rankings = []
    of_bias, of_tie = np.broadcast_to(bias, len(skill)), np.broadcast_to(tie, len(skill))
    for prompt in range(num_prompts):
        difference = spread * np.sqrt(2) * rng.standard_normal()
        for labeler in rng.permutation(len(skill))[:votes]:
            lead = rng.choice([-1, 1])
            x = skill[labeler] * difference + of_bias[labeler] * lead
            odds = np.array([np.exp(x / 2), of_tie[labeler], np.exp(-x / 2)])
            verdict = int(rng.choice([1, 0, -1], p=odds / odds.sum()))
            rankings.append(pair(str(prompt), f"l{labeler}", verdict, shown=(0, 1) if lead > 0 else (1, 0)))
    return rankings


def some_rankings() -> list[Ranking]:
    """Three and two responses, ties, orders, unequal numbers of labelers."""
    rng = np.random.default_rng(7)
    rankings = []
    for prompt in range(6):
        texts = [f"{prompt} {letter}" for letter in "abc"[: 2 + prompt % 2]]
        for labeler in ("ann", "bob", "eve")[: 1 + prompt % 3]:
            ranks = rng.integers(1, 4, len(texts))
            ranking = Ranking(
                prompt=Prompt.from_text(str(prompt)),
                responses=tuple(Response(text=text) for text in texts),
                ranks=tuple(int(rank) for rank in ranks - ranks.min() + 1),
                labeler=labeler,
                shown_order=tuple(int(index) for index in rng.permutation(len(texts))),
            )
            rankings.append(ranking)
    return rankings


def known(table: Comparisons, *, spread: float, skill: float = 1.0, tie: float = 0.0) -> Parameters:
    """Equal labelers without bias."""
    each = np.ones(len(table.labelers))
    return Parameters(skill=skill * each, bias=0 * each, tie=tie * each, spread=spread)


def test_two_responses_in_closed_form() -> None:
    # with a flat prior: quality difference log(n_a / n_b) / skill where tie = n_0 / sqrt(n_a n_b)
    verdicts = [1] * 6 + [0] * 3 + [-1] * 2
    table = collect_comparisons([pair("p", f"l{i}", verdict) for i, verdict in enumerate(verdicts)])
    quality = fit_qualities(table, known(table, spread=1e4, skill=0.5, tie=3 / np.sqrt(12)))
    by_text = {text: value for (_, text), value in zip(table.responses, quality, strict=True)}
    assert by_text["a"] - by_text["b"] == pytest.approx(np.log(6 / 2) / 0.5, abs=1e-4)


@pytest.fixture(params=[2, 400], ids=["in blocks", "at once"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marginal, "_PAIRS", request.param)


@pytest.mark.usefixtures("_blocks")
def test_marginal_likelihood_by_integration() -> None:
    table, rng = collect_comparisons(some_rankings()), np.random.default_rng(0)
    num_labelers, names = len(table.labelers), dict(enumerate(table.labelers))
    flat = rng.normal(0, 0.4, 3 * num_labelers + 3)
    log_skill, own_bias, own_tie = (dict(zip(names.values(), part, strict=True)) for part in flat[:-3].reshape(3, -1))
    bias, log_tie, log_spread = flat[-3:]

    expected = 0.0
    for prompt in {ranking.prompt.id for ranking in some_rankings()}:
        group = [ranking for ranking in some_rankings() if ranking.prompt.id == prompt]
        texts = [response.text for response in group[0].responses]
        for i, j in combinations(range(len(texts)), 2):

            def likelihood(difference: float, i: int = i, j: int = j, group: list[Ranking] = group) -> float:
                product = float(norm.pdf(difference, scale=np.sqrt(2) * np.exp(log_spread)))
                for ranking in group:
                    name, shown = ranking.labeler, ranking.shown_order or ()
                    lead = shown.index(j) - shown.index(i)
                    x = np.exp(log_skill[name]) * difference + (bias + own_bias[name]) * lead
                    odds = {1: np.exp(x / 2), 0: np.exp(log_tie + own_tie[name]), -1: np.exp(-x / 2)}
                    product *= odds[int(np.sign(ranking.ranks[j] - ranking.ranks[i]))] / sum(odds.values())
                return product

            expected += 2 / len(texts) * np.log(quad(likelihood, -30, 30)[0])
    sds = [*[0.5] * num_labelers, *[0.5] * num_labelers, *[1.0] * num_labelers, 1.0, 2.0, 1.0]
    prior = -sum((value / sd) ** 2 / 2 for value, sd in zip(flat, sds, strict=True))
    loss, _ = marginal_loss(flat, table, Priors())
    assert loss == pytest.approx(-(expected + prior), abs=1e-6)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(
    "rankings", [some_rankings(), simulate([1, 0.3, 2], num_prompts=8, votes=2)], ids=["ties", "none"]
)
def test_gradient_and_curvature_by_finite_differences(rankings: list[Ranking]) -> None:
    table, priors = collect_comparisons(rankings), Priors(log_skill=0.7, bias=0.8)
    size = 3 * len(table.labelers) + 3
    flat, steps = np.random.default_rng(1).normal(0, 0.5, size), 1e-5 * np.eye(size)

    def slope(of: int, step: Floats) -> Floats | float:
        return (marginal_loss(flat + step, table, priors)[of] - marginal_loss(flat - step, table, priors)[of]) / 2e-5

    np.testing.assert_allclose(marginal_loss(flat, table, priors)[1], [slope(0, step) for step in steps], atol=1e-7)
    np.testing.assert_allclose(marginal_curvature(flat, table, priors), [slope(1, step) for step in steps], atol=1e-7)


def test_recovers_what_was_simulated() -> None:
    skill = np.array([0.2, 0.4, 0.6, 1.0, 1.0, 1.5, 2.0, 2.5])
    rankings = simulate(skill, num_prompts=500, votes=5, bias=[0.3, 0.3, 0.3, 1.5, 0.3, 0.3, 0.3, 0.3], tie=0.6)
    model = bradley_terry(rankings)
    relative = skill / np.exp(np.log(skill).mean())
    found = np.array([labeler.skill.value for labeler in model.labelers])
    assert float(spearmanr(found, skill).statistic) > 0.9
    inside = [
        (labeler.skill.low or 0) < true < (labeler.skill.high or 0)
        for labeler, true in zip(model.labelers, relative, strict=True)
    ]
    assert sum(inside) >= 7
    assert model.bias.low is not None
    assert model.bias.high is not None
    assert model.bias.low < 0.45 < model.bias.high < 0.45 + 0.3
    third = model.labelers[3].bias
    assert third.low is not None
    assert third.low > model.bias.high
    assert model.tie == pytest.approx(0.6, abs=0.1)
    assert model.spread == pytest.approx(1.5 * np.exp(np.log(skill).mean()), rel=0.15)
    assert sum(labeler.num_comparisons for labeler in model.labelers) == len(rankings)


def test_equal_labelers_come_out_equal() -> None:
    # as they would not if qualities were maximised over
    model = bradley_terry(simulate([1.0] * 10, num_prompts=300, votes=3, tie=0.5, seed=3))
    assert all(0.6 < weight < 1.5 for weight in model.labeler_weights.values())
    covered = [(labeler.skill.low or 2) < 1 < (labeler.skill.high or 0) for labeler in model.labelers]
    assert sum(covered) >= 9


def test_careless_and_contrary_labelers_weigh_little() -> None:
    rankings = simulate([1.0] * 8, num_prompts=400, votes=5, tie=0.4, seed=1)
    rng = np.random.default_rng(0)
    changed = []
    for ranking in rankings:
        ranks = ranking.ranks
        if ranking.labeler == "l0":
            ranks = (ranks[1], ranks[0])
        elif ranking.labeler == "l1":  # never a tie, which must not pass for skill
            ranks = VERDICTS[int(rng.choice([-1, 1]))]
        elif ranking.labeler == "l2":
            ranks = VERDICTS[1 if ranking.shown_order == (0, 1) else -1]
        changed.append(ranking.model_copy(update={"ranks": ranks}))
    model = bradley_terry(changed)
    contrary, random, left = model.labelers[:3]
    assert contrary.weight < 0.3
    assert random.weight < 0.6
    assert left.weight < 0.7
    assert (left.bias.low or 0) > 1
    assert all(labeler.weight > 1 for labeler in model.labelers[3:])


def test_a_taste_for_ties_is_not_skill() -> None:
    skills = [1.0] * 8
    model = bradley_terry(simulate(skills, num_prompts=500, votes=5, tie=[0.01, 4.0] + [0.5] * 6, seed=2))
    decided, undecided = model.labelers[:2]
    for labeler in (decided, undecided):
        assert labeler.skill.low is not None
        assert labeler.skill.high is not None
        assert labeler.skill.low < 1 < labeler.skill.high


def test_weights_fit_the_reward_model() -> None:
    rankings = simulate([0.3, 1.0, 3.0], num_prompts=60, votes=3)
    model = bradley_terry(rankings)
    assert np.mean(list(model.labeler_weights.values())) == pytest.approx(1)
    skills = [labeler.skill.value for labeler in model.labelers]
    assert [labeler.weight for labeler in model.labelers] == pytest.approx(list(np.array(skills) / np.mean(skills)))
    tree = {"model": "m", "data": {"path": "d"}, "labeler_weights": model.labeler_weights}
    recipe = parse_recipe(RewardRecipe, tree)
    judgements = comparison_sets(rankings, labeler_weights=recipe.labeler_weights)[0].judgements
    assert {judgement.weight for judgement in judgements} == set(model.labeler_weights.values())


def test_the_weighted_majority_is_the_models_verdict() -> None:
    table = collect_comparisons(simulate([1.0] * 5, num_prompts=80, votes=4, tie=0.8))
    skill, tie = np.array([0.5, 1.0, 1.0, 1.5, 3.0]), np.array([0.1, 0.4, 0.8, 2.0, 1.0])
    quality = fit_qualities(table, Parameters(skill=skill, bias=np.zeros(5), tie=tie, spread=1.0))
    first, second = table.pairs.T
    difference = quality[first] - quality[second]
    balance = np.bincount(table.pair, weights=skill[table.labeler] * table.verdict)
    np.testing.assert_array_equal(np.sign(np.round(difference, 5)), np.sign(np.round(balance, 9)))
    assert len(np.unique(np.sign(np.round(balance, 9)))) == 3


def test_what_the_data_do_not_tell() -> None:
    with pytest.raises(DataError, match="collect some rankings first"):
        bradley_terry([pair("p", "", 1)])
    alone = bradley_terry([pair(str(i), "ann", 1) for i in range(3)])
    (ann,) = alone.labelers
    assert (ann.skill.value, ann.skill.low, ann.error, ann.weight) == (1.0, None, 0.0, 1.0)
    assert (alone.tie, alone.bias.value, ann.bias.value) == (0.0, None, None)
    # two who never met: nothing is known but the prior
    strangers = bradley_terry([pair(str(i), "ann" if i < 9 else "bob", 1) for i in range(10)])
    assert strangers.labeler_weights == pytest.approx({"ann": 1.0, "bob": 1.0}, abs=1e-4)
    assert strangers.labelers[0].error == pytest.approx(0.5 / np.sqrt(2), rel=1e-3)


def test_probabilities_are_davidsons() -> None:
    rankings = [pair("p", name, verdict) for name, verdict in zip("wxyz", (1, 1, 0, -1), strict=True)]
    model = bradley_terry(rankings)
    prompt = rankings[0].prompt.id
    difference = model.qualities[prompt]["a"] - model.qualities[prompt]["b"]
    odds = np.array([np.exp(difference / 2), model.tie, np.exp(-difference / 2)])
    expected = (odds[0] + odds[1] / 2) / odds.sum()
    assert model.probability(prompt, "a", "b") == pytest.approx(expected)
    assert model.probability(prompt, "b", "a") == pytest.approx(1 - expected)
    assert model.probability(prompt, "a", "a") == 0.5
    assert expected > 0.5


def test_the_projects_own_labelers() -> None:
    rng = np.random.default_rng(0)
    candidates = [
        Candidates(
            prompt=Prompt.from_text(f"question {i}"),
            responses=tuple(Response(text=f"{rng.random()}" + " a" * int(rng.integers(400))) for _ in range(4)),
        )
        for i in range(80)
    ]
    taste = Taste(
        function="palate.simulated.tastes:short", agreement=0.73, labelers=6, skill_spread=1.0, labels_per_prompt=3
    )
    model = bradley_terry(rank_candidates(candidates, taste, seed=0))
    found = [labeler.weight for labeler in model.labelers]  # simulated-1 is the most careful, the last one the least
    assert float(spearmanr(found, range(6)).statistic) < -0.8
    assert found[0] > 3 * found[-1]
    right = [
        model.probability(item.prompt.id, a.text, b.text) > 0.5
        for item in candidates
        for a, b in combinations(sorted(item.responses, key=lambda response: len(response.text)), 2)
    ]
    assert np.mean(right) > 0.85
    assert model.bias.low is not None
    assert model.bias.high is not None
    assert model.bias.low < 0 < model.bias.high


def one_prompt(comparisons: Sequence[tuple[int, int]]) -> list[Ranking]:
    """Each (winner, loser) by a labeler of its own."""
    return [
        Ranking(
            prompt=Prompt.from_text("p"),
            responses=(Response(text=str(winner)), Response(text=str(loser))),
            ranks=(1, 2),
            labeler=f"l{number}",
        )
        for number, (winner, loser) in enumerate(comparisons)
    ]


def many_comparisons(seed: int) -> list[tuple[int, int]]:
    """Of five things, with everything beaten at least once."""
    rng = np.random.default_rng(seed)
    chosen = [tuple(int(i) for i in rng.permutation(5)[:2]) for _ in range(60)]
    return [*((a, b) if rng.random() < 0.75 - 0.1 * (a > b) else (b, a) for a, b in chosen), (4, 0), (0, 4)]


def qualities_of(comparisons: Sequence[tuple[int, int]], spread: float) -> Floats:
    table = collect_comparisons(one_prompt(comparisons))
    found = fit_qualities(table, known(table, spread=spread))
    by_text = {text: value for (_, text), value in zip(table.responses, found, strict=True)}
    return np.array([by_text[str(index)] for index in range(5)])


def test_qualities_are_choixs() -> None:
    choix = pytest.importorskip("choix")
    comparisons = many_comparisons(0)
    theirs = choix.opt_pairwise(5, comparisons, alpha=1 / (2 * 1.3**2), tol=1e-10)  # it penalises alpha |q|^2
    np.testing.assert_allclose(qualities_of(comparisons, 1.3), theirs, atol=1e-4)


def test_qualities_are_crowd_kits() -> None:
    aggregation = pytest.importorskip("crowdkit.aggregation")
    pandas = pytest.importorskip("pandas")
    comparisons = many_comparisons(1)
    rows = pandas.DataFrame([("w", str(a), str(b), str(a)) for a, b in comparisons])
    rows.columns = ["worker", "left", "right", "label"]
    theirs = np.log(aggregation.BradleyTerry(n_iter=3000, tol=0.0).fit_predict(rows).sort_index().to_numpy())
    np.testing.assert_allclose(qualities_of(comparisons, 1e3), theirs - theirs.mean(), atol=1e-3)


@pytest.mark.filterwarnings("ignore:The (inplace|copy) keyword")  # how crowd-kit uses pandas
def test_skills_are_ordered_as_one_coin_dawid_skene_orders_them() -> None:
    aggregation = pytest.importorskip("crowdkit.aggregation")
    pandas = pytest.importorskip("pandas")
    rankings = simulate([0.1, 0.5, 1.2, 4.0], num_prompts=300, votes=3, seed=5)
    rows = pandas.DataFrame([(r.prompt.text, r.labeler, str(r.ranks)) for r in rankings])
    rows.columns = ["task", "worker", "label"]
    theirs = aggregation.OneCoinDawidSkene().fit(rows).skills_.sort_index()
    ours = [labeler.weight for labeler in bradley_terry(rankings).labelers]
    assert list(np.argsort(ours)) == list(np.argsort(theirs.to_numpy()))


def test_the_fit_ends_where_the_gradient_does() -> None:
    table = collect_comparisons(simulate([0.3, 1.0, 1.0, 2.0], num_prompts=100, votes=3, tie=0.5, bias=0.2))
    _, gradient = marginal_loss(fit_labelers(table, Priors()), table, Priors())
    assert float(np.abs(gradient).max()) < 1e-3
