"""Every road leads to the same policy.

The optimum of E[r] - beta * KL(policy || reference) is pi_ref * exp(r / beta) / Z. On a language of nine sequences
every expectation is a sum over all of them, weighted by (detached) probability where a run would sample, so REINFORCE
with a leave-one-out baseline, PPO and DPO can be asked to arrive there, not "about there, on average".
"""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch

from palate.objectives.advantages import (
    batch_relative,
    gae,
    group_relative,
    leave_one_out,
    no_baseline,
    shape_rewards,
)
from palate.objectives.direct import dpo_loss, ipo_loss
from palate.objectives.divergence import k1
from palate.objectives.losses import distillation_loss, policy_loss, sft_loss, value_loss
from palate.objectives.surrogates import clipped_weight_loss, kl_loss, sequence_policy_loss

VOCABULARY, LENGTH, BETA = 3, 2, 0.5
SEQUENCES = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=LENGTH)))  # [S = 9, T = 2]
MASK = torch.ones(SEQUENCES.shape, dtype=torch.bool)
STRENGTHS = torch.tensor([2, 7, 1, 4, 5, 1, 3, 1, 6])  # rewards are their logarithms, so preferences are fractions
REWARDS = STRENGTHS.double().log()


class TabularLanguageModel(torch.nn.Module):
    """Logits for the next token after every prefix, and a value for every prefix."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = torch.nn.Parameter(torch.randn(VOCABULARY, generator=generator, dtype=torch.float64))
        self.second = torch.nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=generator, dtype=torch.float64))
        self.values = torch.nn.Parameter(torch.zeros(1 + VOCABULARY, dtype=torch.float64))

    def logprobs(self) -> torch.Tensor:
        """[S, T], of every token of every sequence."""
        first, second = SEQUENCES.unbind(1)
        return torch.stack([self.first.log_softmax(-1)[first], self.second.log_softmax(-1)[first, second]], 1)

    def value_estimates(self) -> torch.Tensor:
        """[S, T], before every token of every sequence."""
        return self.values[torch.stack([torch.zeros(len(SEQUENCES), dtype=torch.long), 1 + SEQUENCES[:, 0]], 1)]


REF_LOGPROBS = TabularLanguageModel(0).logprobs().detach()
OPTIMUM = (REF_LOGPROBS.sum(1) + REWARDS / BETA).log_softmax(-1)  # [S]


def distance(policy: TabularLanguageModel, optimum: torch.Tensor = OPTIMUM) -> float:
    """KL(policy || optimum), by summation."""
    logprobs = policy.logprobs().detach().sum(1)
    return (logprobs.exp() * k1(logprobs, optimum)).sum().item()


def shaped(logprobs: torch.Tensor) -> torch.Tensor:
    return shape_rewards(REWARDS, logprobs, REF_LOGPROBS, MASK, kl_coef=BETA)


def train(step, num_steps: int, learning_rate: float) -> TabularLanguageModel:  # type: ignore[no-untyped-def]
    """Adam from the reference policy on what `step(policy)` yields, one or more losses for each step."""
    policy = TabularLanguageModel(0)
    optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    assert distance(policy) > 0.3
    for _ in range(num_steps):
        for loss in step(policy):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return policy


def test_reinforce_with_a_leave_one_out_baseline() -> None:
    """Groups of two answers: all 81 of them, each weighted by its probability."""
    groups = torch.tensor(list(itertools.product(range(9), repeat=2)))  # [81, 2]
    answers, ids = groups.flatten(), torch.arange(81).repeat_interleave(2)

    def step(policy: TabularLanguageModel):  # type: ignore[no-untyped-def]
        new_logprobs = policy.logprobs()
        logprobs = new_logprobs.detach()
        weights = logprobs.sum(1).exp()[groups].prod(1)[ids]  # [162]
        advantages = weights * leave_one_out(shaped(logprobs).sum(1)[answers], ids)
        loss, metrics = policy_loss(
            new_logprobs[answers],
            logprobs[answers],
            advantages[:, None].expand(-1, LENGTH),
            MASK[answers],
            clip_range=0.2,
            denominator=2,
        )
        assert metrics["policy/ratio_max"] == 1
        yield loss

    assert distance(train(step, num_steps=150, learning_rate=0.05)) < 0.01


@pytest.mark.parametrize("baseline", [no_baseline, batch_relative, partial(group_relative, scale=False)])
@pytest.mark.parametrize("loss_of", [policy_loss, sequence_policy_loss, clipped_weight_loss])
def test_descendants_of_reinforce(baseline, loss_of) -> None:  # type: ignore[no-untyped-def]
    """Two updates on each "rollout" of all sequences, clipped; what every response is compared with does not matter."""

    def step(policy: TabularLanguageModel):  # type: ignore[no-untyped-def]
        logprobs = policy.logprobs().detach()
        probabilities, rewards = logprobs.sum(1).exp(), shaped(logprobs).sum(1)
        if baseline is no_baseline:
            advantages = baseline(rewards, torch.zeros(9))
        else:  # the mean is that of samples
            advantages = rewards - (probabilities * rewards).sum()
            assert torch.allclose(baseline(rewards, torch.zeros(9)).diff(), advantages.diff())
        for _ in range(2):
            weighted = (probabilities * advantages)[:, None].expand(-1, LENGTH)
            yield loss_of(policy.logprobs(), logprobs, weighted, MASK, clip_range=0.2, denominator=1)[0]

    assert distance(train(step, num_steps=200, learning_rate=0.05)) < 0.01


def tilted(ref: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
    """Where the gradients of E[r] and of BETA * KL(ref || policy) cancel: BETA * ref / (BETA + mean - r), all [V].

    The mean is that under the result, which is the number for which the probabilities add up to 1.
    """
    low, high = rewards.max() - BETA, rewards.max()
    for _ in range(100):
        mean = (low + high) / 2
        too_much = (BETA * ref / (BETA + mean - rewards)).sum() > 1
        low, high = (mean, high) if too_much else (low, mean)
    return BETA * ref / (BETA + high - rewards)


def test_k3_in_the_loss_has_an_optimum_of_its_own() -> None:
    """GRPO's: token by token the forward divergence, so that no token of the reference is given up."""

    def step(policy: TabularLanguageModel):  # type: ignore[no-untyped-def]
        new_logprobs = policy.logprobs()
        logprobs = new_logprobs.detach()
        probabilities = logprobs.sum(1).exp()
        advantages = REWARDS - (probabilities * REWARDS).sum()
        weighted = (probabilities * advantages)[:, None].expand(-1, LENGTH)
        loss, _ = policy_loss(new_logprobs, logprobs, weighted, MASK, clip_range=0.2, denominator=1)
        weights = probabilities[:, None]
        yield loss + BETA * kl_loss(new_logprobs, REF_LOGPROBS, MASK, weights=weights, denominator=1)[0]

    policy = train(step, num_steps=400, learning_rate=0.05)
    ref = REF_LOGPROBS.exp().view(VOCABULARY, VOCABULARY, LENGTH)
    rewards = REWARDS.view(VOCABULARY, VOCABULARY)
    second = torch.stack([tilted(ref[token, :, 1], rewards[token]) for token in range(VOCABULARY)])
    first = tilted(ref[:, 0, 0], (second * rewards).sum(1))
    expected = (first[:, None] * second).flatten().log()
    logprobs = policy.logprobs().detach().sum(1)
    assert expected.exp().sum().item() == pytest.approx(1)
    assert (logprobs.exp() * k1(logprobs, expected)).sum().item() < 1e-4
    assert distance(policy) > 0.01  # it is not that of the price in the reward


@pytest.mark.parametrize("gae_lambda", [0.95, 1.0])
def test_ppo(gae_lambda: float) -> None:
    """Two epochs on each "rollout" of all sequences; a row of probability p is divided by the denominator 1 / p."""

    def step(policy: TabularLanguageModel):  # type: ignore[no-untyped-def]
        logprobs, values = policy.logprobs().detach(), policy.value_estimates().detach()
        probabilities = logprobs.sum(1).exp()
        advantages, returns = gae(shaped(logprobs), values, MASK, gamma=1.0, gae_lambda=gae_lambda)
        for _ in range(2):
            new_logprobs, new_values = policy.logprobs(), policy.value_estimates()
            yield sum(
                policy_loss(
                    new_logprobs[s], logprobs[s], advantages[s], MASK[s], clip_range=0.2, denominator=1 / probability
                )[0]
                + value_loss(
                    new_values[s], values[s], returns[s], MASK[s], clip_range_value=0.5, denominator=1 / probability
                )[0]
                for s, probability in zip(torch.arange(9).split(1), probabilities, strict=True)
            )

    policy = train(step, num_steps=150, learning_rate=0.05)
    assert distance(policy) < 0.01
    # From every prefix the shaped return is then the same for all continuations: the soft value of the prefix.
    soft_value = BETA * (REF_LOGPROBS.sum(1) + REWARDS / BETA).logsumexp(0).item()
    assert policy.values[0].item() == pytest.approx(soft_value, abs=0.05)


def test_dpo_from_exact_preferences() -> None:
    """In every pair, a is chosen `strength[a]` times and b `strength[b]` times: Bradley-Terry to the last digit."""
    pairs = [(a, b) for a, b in itertools.permutations(range(9), 2) for _ in range(int(STRENGTHS[a]))]
    chosen, rejected = torch.tensor(pairs).unbind(1)
    ref = REF_LOGPROBS.sum(1)

    def step(policy: TabularLanguageModel):  # type: ignore[no-untyped-def]
        logprobs = policy.logprobs().sum(1)
        yield dpo_loss(logprobs[chosen], logprobs[rejected], ref[chosen], ref[rejected], beta=BETA)[0]

    assert distance(train(step, num_steps=200, learning_rate=0.1)) < 0.01


def test_ipo_from_exact_preferences() -> None:
    """Azar et al. 2023, theorem 1: pi_ref(y) * exp(P(y is preferred to y') / beta) / Z, with y' drawn like the pairs.

    Of twelve people any number prefers one answer to another: no strengths stand behind that, and some go in circles.
    """
    beta, generator = 0.1, torch.Generator().manual_seed(3)
    above = torch.randint(0, 13, (9, 9), generator=generator).triu(1)
    votes = above + (12 - above.T).tril(-1)  # [a, b]: how many of twelve prefer a to b
    pairs = [(a, b) for a, b in itertools.permutations(range(9), 2) for _ in range(int(votes[a, b]))]
    chosen, rejected = torch.tensor(pairs).unbind(1)
    preferred = (votes / 12 + torch.eye(9) / 2).double().mean(1)
    optimum = (REF_LOGPROBS.sum(1) + preferred / beta).log_softmax(-1)
    ref = REF_LOGPROBS.sum(1)

    def step(policy: TabularLanguageModel):  # type: ignore[no-untyped-def]
        logprobs = policy.logprobs().sum(1)
        yield ipo_loss(logprobs[chosen], logprobs[rejected], ref[chosen], ref[rejected], beta=beta)[0]

    assert distance(TabularLanguageModel(0), optimum) > 0.1
    assert distance(train(step, num_steps=300, learning_rate=0.1), optimum) < 0.001


def test_ipo_does_not_run_away_with_what_everybody_prefers() -> None:
    """One pair, always decided alike: DPO would widen it for ever, IPO stops at a margin of one half."""
    ref = REF_LOGPROBS.sum(1)

    def gap(loss, num_steps: int) -> float:  # type: ignore[no-untyped-def]
        def step(policy: TabularLanguageModel):  # type: ignore[no-untyped-def]
            logprobs = policy.logprobs().sum(1)
            yield loss(logprobs[:1], logprobs[5:6], ref[:1], ref[5:6], beta=0.5)[0]

        logprobs = train(step, num_steps=num_steps, learning_rate=0.1).logprobs().detach().sum(1) - ref
        return float(logprobs[0] - logprobs[5])

    assert gap(ipo_loss, 400) == pytest.approx(1.0, abs=1e-4)
    assert gap(dpo_loss, 400) > gap(dpo_loss, 200) + 0.1 > 5.0


def best_of(n: int) -> torch.Tensor:
    """[S] log-probability to be the best of n answers of the reference, the first of equals; by order statistics."""
    order = REWARDS.argsort(stable=True, descending=True)
    below = REF_LOGPROBS.sum(1).exp()[order].flip(0).cumsum(0).flip(0)  # of it and all that lose to it
    wins = below**n - torch.cat([below[1:], below.new_zeros(1)]) ** n
    return torch.zeros_like(wins).index_copy(0, order, wins).log()


def test_a_round_of_raft_ends_at_the_best_of_n_and_two_rounds_at_the_best_of_n_squared() -> None:
    """All 81 pairs of answers, each as likely as the policy at the beginning of the round makes it; the better is kept.

    Among answers of equal reward the one that comes first wins, wherever it was drawn, so that rounds compose.
    """
    pairs = torch.tensor(list(itertools.product(range(9), repeat=2)))  # [81, 2]
    ranks = REWARDS.argsort(stable=True, descending=True).argsort()
    kept = pairs.gather(1, ranks[pairs].argmin(1, keepdim=True))[:, 0]
    policy = TabularLanguageModel(0)
    for rounds in (1, 2):
        shares = torch.zeros(9, dtype=torch.float64)
        shares.index_add_(0, kept, policy.logprobs().detach().sum(1).exp()[pairs].prod(1))
        optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
        for _ in range(400):
            optimizer.zero_grad()
            logprobs = policy.logprobs()
            sum(
                sft_loss(logprobs[row : row + 1], MASK[row : row + 1], denominator=1 / share)[0]
                for row, share in enumerate(shares)
            ).backward()
            optimizer.step()
        assert distance(policy, best_of(2**rounds)) < 0.002
        assert distance(policy, best_of(2 ** (3 - rounds))) > 0.05


def test_distillation_ends_at_the_teacher() -> None:
    """Exact divergences of every token of all answers, each as likely as the policy makes it at the time."""
    teacher = TabularLanguageModel(1)
    with torch.no_grad():
        target = teacher.logprobs().sum(1)
        first, second = (each.log_softmax(-1) for each in (teacher.first, teacher.second))

    def step(policy: TabularLanguageModel):  # type: ignore[no-untyped-def]
        own = policy.first.log_softmax(-1), policy.second.log_softmax(-1)
        at_first = (own[0].exp() * (own[0] - first)).sum()
        at_second = (own[1].exp() * (own[1] - second)).sum(1)  # after each first token
        kl = torch.stack([at_first.expand(9), at_second[SEQUENCES[:, 0]]], 1)
        weights = policy.logprobs().detach().sum(1).exp()
        yield sum(distillation_loss(kl[s], MASK[s], denominator=1 / weights[s])[0] for s in torch.arange(9).split(1))

    assert distance(TabularLanguageModel(0), target) > 0.3
    assert distance(train(step, num_steps=200, learning_rate=0.1), target) < 0.001
