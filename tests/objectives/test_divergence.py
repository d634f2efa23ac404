"""Estimators of KL against sums over every sequence of a tiny language, and best-of-n against every draw of n."""

from __future__ import annotations

import itertools
import math
from statistics import mean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.objectives.divergence import (
    best_of_n_kl,
    best_of_n_kl_bound,
    best_of_n_score,
    best_of_n_weights,
    best_of_n_win_rate_bound,
    k1,
    k2,
    k3,
    updated_kl_coef,
)

VOCABULARY, LENGTH = 3, 3
SEQUENCES = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=LENGTH)))  # [27, 3]


def tables(seed: int) -> list[torch.Tensor]:
    """Random logits for the next token after every prefix: [1, V], [V, V], [V * V, V]."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(VOCABULARY**t, VOCABULARY, generator=generator, dtype=torch.float64) for t in range(LENGTH)]


def logprobs_of(tables: list[torch.Tensor], sequences: torch.Tensor = SEQUENCES) -> torch.Tensor:
    """[S, T] log-probability of every token of every sequence given those before it."""
    prefix, columns = torch.zeros(len(sequences), dtype=torch.long), []
    for t, table in enumerate(tables):
        columns.append(table.log_softmax(-1)[prefix, sequences[:, t]])
        prefix = prefix * VOCABULARY + sequences[:, t]
    return torch.stack(columns, 1)


class TestEstimators:
    logprobs, ref_logprobs = logprobs_of(tables(1)), logprobs_of(tables(2))
    probabilities = logprobs.sum(1).exp()  # [S]
    kl = (probabilities * (logprobs - ref_logprobs).sum(1)).sum()  # exact, by summation

    def expectation(self, per_token: torch.Tensor) -> float:
        return (self.probabilities * per_token.sum(1)).sum().item()

    def test_the_language_is_enumerated(self) -> None:
        assert self.probabilities.sum().item() == pytest.approx(1)
        assert self.kl > 0.1

    def test_k1_and_k3_are_unbiased_with_the_right_sign_and_k2_is_not(self) -> None:
        assert self.expectation(k1(self.logprobs, self.ref_logprobs)) == pytest.approx(self.kl.item())
        assert self.expectation(k3(self.logprobs, self.ref_logprobs)) == pytest.approx(self.kl.item())
        assert abs(self.expectation(k2(self.logprobs, self.ref_logprobs)) / self.kl.item() - 1) > 0.05
        assert self.expectation(k1(self.ref_logprobs, self.logprobs)) < 0  # the reversed log-ratio

    def test_signs_and_variance_token_by_token(self) -> None:
        per_token = {k: k(self.logprobs, self.ref_logprobs) for k in (k1, k2, k3)}
        assert per_token[k1].min() < 0
        assert per_token[k2].min() >= 0
        assert per_token[k3].min() >= 0

    def test_k2_is_nearly_unbiased_close_to_the_reference(self) -> None:
        near = [table + 0.01 * step for table, step in zip(tables(2), tables(3), strict=True)]
        logprobs = logprobs_of(near)
        probabilities = logprobs.sum(1).exp()
        exact = (probabilities * k1(logprobs, self.ref_logprobs).sum(1)).sum()
        second = (probabilities * k2(logprobs, self.ref_logprobs).sum(1)).sum()
        assert second.item() == pytest.approx(exact.item(), rel=0.02)

    def test_literals(self) -> None:
        p, q = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
        assert k1(p, q).item() == pytest.approx(math.log(2))
        assert k2(p, q).item() == pytest.approx(math.log(2) ** 2 / 2)
        assert k3(p, q).item() == pytest.approx(0.5 - 1 + math.log(2))

    def test_shapes_are_asserted(self) -> None:
        for estimator in (k1, k2, k3):
            with pytest.raises(AssertionError, match="different shapes"):
                estimator(torch.zeros(2, 3), torch.zeros(3))


class TestGradients:
    """What each use of an estimator descends, on exact expectations over every sequence."""

    ref_logprobs = logprobs_of(tables(2))

    def gradient(self, objective) -> torch.Tensor:  # type: ignore[no-untyped-def]
        policy = [table.requires_grad_() for table in tables(1)]
        gradients = torch.autograd.grad(objective(logprobs_of(policy)), policy)
        return torch.cat([g.flatten() for g in gradients])

    def reverse_kl(self, logprobs: torch.Tensor) -> torch.Tensor:
        return (logprobs.sum(1).exp() * (logprobs - self.ref_logprobs).sum(1)).sum()

    def test_k1_in_the_reward_is_reverse_kl(self) -> None:
        def policy_gradient(logprobs: torch.Tensor) -> torch.Tensor:
            sampled = logprobs.detach()
            return (sampled.sum(1).exp() * k1(sampled, self.ref_logprobs).sum(1) * logprobs.sum(1)).sum()

        torch.testing.assert_close(self.gradient(policy_gradient), self.gradient(self.reverse_kl))

    def test_k1_as_a_loss_is_nothing(self) -> None:
        def loss(logprobs: torch.Tensor) -> torch.Tensor:
            return (logprobs.detach().sum(1).exp() * k1(logprobs, self.ref_logprobs).sum(1)).sum()

        gradient = self.gradient(loss)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))
        assert self.gradient(self.reverse_kl).norm() > 0.1

    def test_k2_as_a_loss_is_reverse_and_k3_forward_kl(self) -> None:
        """For one token; over many, each is this at every prefix, without the pull on what comes before."""

        def first_token(estimator):  # type: ignore[no-untyped-def]
            logits = torch.tensor([1.0, 0.0, -2.0], requires_grad=True)
            logprobs, ref_logprobs = logits.log_softmax(-1), torch.tensor([0.2, 0.5, 0.3]).log()
            return torch.autograd.grad(estimator(logprobs, ref_logprobs), logits)[0]

        reverse = first_token(lambda p, q: (p.exp() * (p - q)).sum())
        forward = first_token(lambda p, q: (q.exp() * (q - p)).sum())
        torch.testing.assert_close(first_token(lambda p, q: (p.detach().exp() * k2(p, q)).sum()), reverse)
        torch.testing.assert_close(first_token(lambda p, q: (p.detach().exp() * k3(p, q)).sum()), forward)
        assert (reverse - forward).norm() > 0.01


class TestController:
    def test_literals(self) -> None:
        assert updated_kl_coef(0.1, kl=6.6, target=6.0, num_sequences=500, horizon=10_000) == pytest.approx(0.1005)
        assert updated_kl_coef(0.1, kl=60.0, target=6.0, num_sequences=500, horizon=10_000) == pytest.approx(0.101)
        assert updated_kl_coef(0.1, kl=-1.0, target=6.0, num_sequences=500, horizon=10_000) == pytest.approx(0.099)
        assert updated_kl_coef(0.1, kl=6.0, target=6.0, num_sequences=500, horizon=10_000) == 0.1

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_non_finite_divergence_is_an_error(self, bad: float) -> None:
        with pytest.raises(ValueError, match="cannot follow a divergence"):
            updated_kl_coef(0.1, kl=bad, target=6.0, num_sequences=1, horizon=10)

    @pytest.mark.parametrize(("target", "horizon"), [(0.0, 10), (6.0, 0), (6.0, 2)])
    def test_settings_that_cannot_work(self, target: float, horizon: int) -> None:
        with pytest.raises(ValueError, match="adaptive KL needs"):
            updated_kl_coef(0.1, kl=1.0, target=target, num_sequences=10, horizon=horizon)


class TestBestOfN:
    probabilities = (0.1, 0.4, 0.2, 0.3)
    scores = (0.0, 1.0, 2.5, 3.0)

    def distribution(self, n: int) -> list[float]:
        """The distribution of the best of n draws, by listing all 4^n of them."""
        best = [0.0] * 4
        for draw in itertools.product(range(4), repeat=n):
            best[max(draw)] += math.prod(self.probabilities[i] for i in draw)  # scores ascend with the index
        return best

    @pytest.mark.parametrize("n", [1, 2, 3, 5])
    def test_kl_is_below_the_bound(self, n: int) -> None:
        kl = sum(b * math.log(b / p) for b, p in zip(self.distribution(n), self.probabilities, strict=True))
        assert kl <= best_of_n_kl_bound(n) + 1e-12
        assert n == 1 or kl < 0.9 * best_of_n_kl_bound(n)  # well below, where a few responses have all the mass

    def test_bound_is_close_when_no_response_is_likely(self) -> None:
        size, n = 20_000, 4
        edges = torch.linspace(0, 1, size + 1, dtype=torch.float64) ** n  # uniform policy: F(x)^n at every response
        best = edges.diff()
        kl = (best * (best * size).log()).nansum().item()
        assert kl == pytest.approx(best_of_n_kl_bound(n), rel=1e-3)
        assert kl < best_of_n_kl_bound(n)

    @pytest.mark.parametrize("n", [1, 2, 3, 5])
    def test_win_rate_is_below_the_bound(self, n: int) -> None:
        pairs = itertools.product(enumerate(self.distribution(n)), enumerate(self.probabilities))
        wins = sum(b * p * (0.5 + 0.5 * ((i > j) - (i < j))) for (i, b), (j, p) in pairs)
        assert wins <= best_of_n_win_rate_bound(n) + 1e-12

    @pytest.mark.parametrize("n", [1, 2, 3, 6])
    def test_score_is_the_mean_over_all_subsets(self, n: int) -> None:
        samples = [0.3, -1.0, 2.0, 2.0, 0.7, -0.2]
        expected = mean(max(subset) for subset in itertools.combinations(samples, n))
        assert best_of_n_score(torch.tensor(samples), n).item() == pytest.approx(expected)

    @pytest.mark.parametrize("n", [1, 2, 3, 6])
    def test_weights_are_shares_of_all_subsets_and_equals_share(self, n: int) -> None:
        samples = [0.3, -1.0, 2.0, 2.0, 0.7, -1.0]
        share = [0.0] * 6
        subsets = list(itertools.combinations(range(6), n))
        for subset in subsets:
            best = [i for i in subset if samples[i] == max(samples[j] for j in subset)]
            for i in best:
                share[i] += 1 / len(best) / len(subsets)
        assert best_of_n_weights(torch.tensor(samples), n).tolist() == pytest.approx(share)

    @given(st.lists(st.integers(-3, 3), min_size=1, max_size=9), st.data())
    def test_weights_do_not_know_the_order_or_the_unit(self, samples: list[int], data: st.DataObject) -> None:
        n = data.draw(st.integers(1, len(samples)))
        scores, order = (
            torch.tensor(samples, dtype=torch.float64),
            torch.tensor(data.draw(st.permutations(range(len(samples))))),
        )
        weights = best_of_n_weights(scores, n)
        assert float(weights.sum()) == pytest.approx(1)
        assert torch.allclose(best_of_n_weights(3 * scores[order] - 1, n), weights[order])
        assert bool((weights[scores.argsort()].diff() >= -1e-12).all()), "a higher score is never less likely"

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_what_goes_with_the_best_is_unbiased(self, n: int) -> None:
        """Another score of the response that the first score chooses: the sum over every pool of four."""
        other = torch.tensor((2.0, -1.0, 0.5, 1.5), dtype=torch.float64)
        draws = torch.tensor(list(itertools.product(range(4), repeat=4)))
        chances = torch.tensor(self.probabilities, dtype=torch.float64)[draws].prod(1)
        weights = best_of_n_weights(torch.tensor(self.scores)[draws], n)
        estimate = (chances * (weights * other[draws]).sum(1)).sum()
        expected = sum(b * float(value) for b, value in zip(self.distribution(n), other, strict=True))
        assert estimate.item() == pytest.approx(expected)

    @pytest.mark.parametrize("n", [1, 2, 5, 40])
    def test_estimated_kl_is_exact_of_a_best_one_beside_many(self, n: int) -> None:
        """One response of probability 0.3 that is the best, 20,000 of the same small probability below it."""
        rest = torch.full((20_000,), 0.7 / 20_000, dtype=torch.float64)
        probabilities = torch.cat([rest, torch.tensor([0.3], dtype=torch.float64)])
        chosen = (probabilities.cumsum(0).clamp(max=1.0) ** n).diff(prepend=torch.zeros(1, dtype=torch.float64))
        exact = torch.special.xlogy(chosen, chosen / probabilities).sum()
        estimate = best_of_n_kl(n, torch.tensor(0.3))
        assert estimate.item() == pytest.approx(exact.item(), rel=1e-3, abs=1e-6)

    @given(st.integers(1, 300), st.floats(0, 1))
    def test_estimated_kl_lies_between_zero_and_the_bound(self, n: int, probability: float) -> None:
        kl = best_of_n_kl(n, torch.tensor(probability, dtype=torch.float64)).item()
        assert -1e-9 <= kl <= best_of_n_kl_bound(n) + 1e-9
        at_the_ends = best_of_n_kl(n, torch.tensor([0.0, 1.0])).tolist()
        assert at_the_ends == pytest.approx([best_of_n_kl_bound(n), 0.0])

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_score_is_unbiased_over_all_samples_of_four(self, n: int) -> None:
        draws = torch.tensor(list(itertools.product(range(4), repeat=4)))  # [256, 4]
        weights = torch.tensor(self.probabilities)[draws].prod(1)
        estimate = (weights * best_of_n_score(torch.tensor(self.scores)[draws], n)).sum()
        expected = sum(b * s for b, s in zip(self.distribution(n), self.scores, strict=True))
        assert estimate.item() == pytest.approx(expected, rel=1e-5)

    def test_literals(self) -> None:
        assert best_of_n_kl_bound(1) == 0.0
        assert best_of_n_kl_bound(4) == pytest.approx(1.386294 - 0.75, abs=1e-6)
        assert best_of_n_win_rate_bound(1) == 0.5
        assert best_of_n_win_rate_bound(3) == 0.75

    def test_errors(self) -> None:
        for function in (best_of_n_kl_bound, best_of_n_win_rate_bound):
            with pytest.raises(ValueError, match="n >= 1"):
                function(0)
        with pytest.raises(ValueError, match="cannot be estimated from 2 samples"):
            best_of_n_score(torch.zeros(2), 3)
