"""A Bradley-Terry model of judgements: qualities of responses, skills of labelers, position bias, ties.

For a labeler l who compares responses a and b, with a shown ``lead`` places before b ::

    x = skill_l (quality_a - quality_b) + (bias + bias_l) lead
    P(a) : P(tie) : P(b)  =  exp(x / 2) : tie_l : exp(-x / 2)

Without ties this is Bradley and Terry's model (1952), with them Davidson's (1970); skill is an inverse temperature, as
in Chen et al. (2013, "Pairwise ranking aggregation in a crowdsourced setting"). Who answers at random or by position
alone has skill 0. Skills are positive: a labeler who contradicts the others comes out near 0, nobody is reversed. Each
labeler has a taste for ties too; with a common one, whoever never calls a tie would look skilled.

It is fitted in two steps.

1. Everything but the qualities maximises the *marginal* likelihood (``marginal.py``), with Gaussian priors::

       quality             ~ N(0, spread^2), integrated out
       log skill           ~ N(0, 0.5^2): skills are shrunk towards 1
       bias, bias_l        ~ N(0, 1), N(0, 0.5^2)
       log tie_l           ~ N(log tie, 1), log tie ~ N(0, 2^2)
       log spread          ~ N(0, 1)

   To maximise over the qualities as well would be simpler, and wrong: with a few verdicts to a pair every labeler's
   vote moves the quality that it is then held against, so equal labelers come out very unequal (Neyman and Scott
   1948; figures in ``docs/concepts/aggregation.md``). Pairs that share a response are treated as if they did not, a
   composite likelihood: a labeler is measured on pairs that somebody else judged too, and on no others. Only ratios
   of skills can be told, so they are given in units of their geometric mean.

2. The qualities maximise the likelihood given all that, with their prior; this is concave.

Intervals are 1.96 standard errors from the curvature of step 1, for skills symmetric in the logarithm. They take pairs
for independent. For rankings of K > 2 that is made up for roughly, by counting their pairs as K - 1 comparisons.

**Weights.** A reward model minimises ``-weight log sigmoid(r_a - r_b)``, whose gradient where r_a = r_b is weight times
(1[a wins] - 1/2). With the labeler's temperature inside the sigmoid it would be skill times that. So the weight is the
skill, divided by the mean skill; not its square, which is how much a vote tells. For the same reason the sign of the
sum of votes times skills is the model's own verdict on a pair, as long as there is no bias.

Left out: opinions that truly differ, what the responses say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from palate.errors import DataError
from palate.feedback.statistics.aggregate import Comparisons, Floats, collect_comparisons
from palate.feedback.statistics.marginal import Parameters, Priors, marginal_curvature, marginal_loss, outcome
from palate.intervals import Estimate
from palate.records import Ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelerSkill:
    """One labeler.

    Attributes:
        num_comparisons: verdicts on pairs of responses.
        skill: inverse temperature in units of the labelers' geometric mean; 0 is random.
        error: standard error of its logarithm.
        bias: log-odds for the response shown one place earlier; undefined where no order is known.
        weight: for the reward model; the mean over labelers is 1.
    """

    name: str
    num_comparisons: int
    skill: Estimate
    error: float
    bias: Estimate
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BradleyTerry:
    """The fitted model.

    Attributes:
        qualities: prompt id -> text -> quality; only differences within a prompt mean anything.
        labelers: by name.
        bias: mean over labelers; undefined where no order is known.
        tie: geometric mean over labelers, 0 if nobody called one; equals are tied with probability tie / (2 + tie).
        spread: standard deviation of quality within a prompt, for a labeler of skill 1.
    """

    qualities: Mapping[str, Mapping[str, float]]
    labelers: tuple[LabelerSkill, ...]
    bias: Estimate
    tie: float
    spread: float
    num_unnamed: int
    num_superseded: int

    @property
    def labeler_weights(self) -> dict[str, float]:
        """For ``RewardRecipe.labeler_weights``."""
        return {labeler.name: labeler.weight for labeler in self.labelers}

    def probability(self, prompt_id: str, a: str, b: str) -> float:
        """That a labeler of skill 1 without bias prefers text a to text b, a tie counting one half."""
        quality = self.qualities[prompt_id]
        mean, _, _ = outcome(np.array(quality[a] - quality[b]), np.array(self.tie))
        return float(1 + mean) / 2


def bradley_terry(rankings: Sequence[Ranking], *, priors: Priors | None = None) -> BradleyTerry:
    """Fit the model to the rankings of named labelers.

    Raises:
        DataError: nobody compared anything.
    """
    table, priors = collect_comparisons(rankings), priors or Priors()
    if not len(table):
        raise DataError("no named labeler has compared two different responses yet; collect some rankings first")
    flat = fit_labelers(table, priors)
    centring = _centring(len(table.labelers))
    covariance = centring @ np.linalg.inv(marginal_curvature(flat, table, priors)) @ centring.T
    theta = Parameters.unpack(centring @ flat, table)
    return BradleyTerry(
        qualities=_by_prompt(table, fit_qualities(table, theta)),
        labelers=_labelers(table, theta, covariance),
        bias=_estimate(theta.bias.mean(), covariance[-3, -3]) if table.has_order else Estimate(None),
        tie=float(np.exp(np.log(theta.tie).mean())) if theta.tie.any() else 0.0,
        spread=theta.spread,
        num_unnamed=table.num_unnamed,
        num_superseded=table.num_superseded,
    )


def fit_labelers(table: Comparisons, priors: Priors) -> Floats:
    """[D] the parameters at which the marginal likelihood times the prior is greatest."""
    return _minimize(lambda flat: marginal_loss(flat, table, priors), 3 * len(table.labelers) + 3)


def fit_qualities(table: Comparisons, theta: Parameters) -> Floats:
    """[R] the most probable qualities of all responses, given everything else."""
    skill, tie = theta.skill[table.labeler], theta.tie[table.labeler]
    bias = theta.bias[table.labeler] * table.lead
    a, b = table.pairs[table.pair].T
    size, precision = len(table.responses), theta.spread**-2

    def loss(quality: Floats) -> tuple[float, Floats]:
        x = skill * (quality[a] - quality[b]) + bias
        mean, _, log_total = outcome(x, tie)
        push = table.weight * skill * (table.verdict - mean) / 2
        gradient = np.bincount(a, weights=push, minlength=size) - np.bincount(b, weights=push, minlength=size)
        value = precision * float(quality @ quality) / 2 - float(table.weight @ (table.verdict * x / 2 - log_total))
        return value, precision * quality - gradient

    return _minimize(loss, size)


def weights_of(skill: Floats) -> Floats:
    """[L] skills divided by their mean: see the top."""
    return np.asarray(skill / skill.mean())


def _minimize(loss: Callable[[Floats], tuple[float, Floats]], size: int) -> Floats:
    options = {"maxiter": 2000, "maxcor": 20, "ftol": 1e-10, "gtol": 1e-6}
    result = minimize(loss, np.zeros(size), jac=True, method="L-BFGS-B", options=options)
    return np.asarray(result.x, dtype=np.float64)


def _centring(num_labelers: int) -> Floats:
    """[D, D] moves the means of the labelers' own numbers into the common ones; the likelihood stays as it is."""
    centring = np.eye(3 * num_labelers + 3)
    for own, common in ((0, -1), (1, -3), (2, -2)):  # skill and spread, biases, ties
        theirs = slice(own * num_labelers, (own + 1) * num_labelers)
        centring[theirs, theirs] -= 1 / num_labelers
        centring[common, theirs] = 1 / num_labelers
    return centring


def _by_prompt(table: Comparisons, quality: Floats) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for (prompt, text), value in zip(table.responses, quality.tolist(), strict=True):
        found.setdefault(prompt, {})[text] = value
    return found


def _labelers(table: Comparisons, theta: Parameters, covariance: Floats) -> tuple[LabelerSkill, ...]:
    num_labelers = len(table.labelers)
    counts = np.bincount(table.labeler, minlength=num_labelers)
    weights = weights_of(theta.skill)
    of_skill, of_bias = np.diag(covariance)[: 2 * num_labelers].reshape(2, -1)
    of_bias = of_bias + covariance[-3, -3] + 2 * covariance[num_labelers : 2 * num_labelers, -3]
    return tuple(
        LabelerSkill(
            name=name,
            num_comparisons=int(counts[index]),
            skill=_exponential(_estimate(np.log(theta.skill[index]), of_skill[index])),
            error=float(np.sqrt(max(0.0, of_skill[index]))),
            bias=_estimate(theta.bias[index], of_bias[index]) if table.has_order else Estimate(None),
            weight=float(weights[index]),
        )
        for index, name in enumerate(table.labelers)
    )


def _estimate(value: float, variance: float) -> Estimate:
    """Without an interval where there is no variance: a single labeler is the mean of all."""
    if variance < 1e-12:
        return Estimate(float(value))
    half = 1.96 * float(np.sqrt(variance))
    return Estimate(float(value), float(value) - half, float(value) + half)


def _exponential(logarithm: Estimate) -> Estimate:
    ends = (logarithm.value, logarithm.low, logarithm.high)
    return Estimate(*(None if end is None else float(np.exp(end)) for end in ends))
