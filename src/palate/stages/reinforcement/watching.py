"""What a reinforcement step measures of itself, and what ends a run that has gone wrong.

Nothing here decides what is learned, but for the controller, which moves the price of divergence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from palate.errors import TrainingError
from palate.lm.batch import Sequences
from palate.lm.chat import Chat
from palate.objectives.advantages import differ
from palate.objectives.divergence import k1, k3, updated_kl_coef
from palate.rewards.mix import MixedScores
from palate.rewards.verifiers.verdict import Verdict
from palate.rollout.engine import Rollout
from palate.run.world import world

ON_POLICY_TOLERANCE = 0.05
"""Nats a token, mean over the step: fp32 stays below 1e-4, bf16 below 0.01 (docs/concepts/precision.md)."""
USUAL_CLIP_RANGE = 0.2
"""PPO's: where nothing is clipped, ratios that would be are counted before the update, when all of them should be 1."""
PER_UPDATE = ("grad_norm", "learning_rate", "pretraining_loss")
"""Ends of the names of metrics that are of an update and not of a token."""


def measure(rollout: Rollout, scores: Tensor, ref_logprobs: Tensor) -> dict[str, float]:
    """Of a rollout, before anything is learned from it.

    Args:
        rollout: B responses, those of a prompt side by side.
        scores: [B].
        ref_logprobs: [B, T].
    """
    lengths = rollout.sequences.mask.sum(1).double()
    tokens = float(lengths.sum())
    return {
        "objective/score": float(scores.mean()),
        "objective/score_std": float(scores.std(correction=0)),
        "objective/kl": float(k1(rollout.logprobs, ref_logprobs).sum() / len(lengths)),
        "objective/kl_k3": float(k3(rollout.logprobs, ref_logprobs).sum() / len(lengths)),
        "objective/groups_without_signal": float((~with_signal(rollout, scores)).double().mean()),
        "objective/length_correlation": correlation(lengths, scores.double()),
        # the mean of -log p over samples of p is an unbiased estimate of its entropy
        "policy/entropy": float(-rollout.logprobs.sum() / tokens),
        "tokens/response_length": float(lengths.mean()),
        "tokens/truncated": float(1.0 - rollout.ended.double().mean()),
    }


def measure_terms(scored: Sequence[MixedScores]) -> dict[str, float]:
    """What each of several terms gave, how far ensembles were apart and what verifiers said: means over all responses
    that were scored."""
    names = list(scored[0].terms)
    columns = {f"objective/terms/{name}": [each.terms[name] for each in scored] for name in names if len(names) > 1}
    spreads = [each.spread for each in scored if each.spread is not None]
    columns |= {"objective/spread": spreads} if spreads else {}
    for name in scored[0].verdicts:
        found = [verdict.score for each in scored for verdict in each.verdicts[name]]
        columns[f"objective/verified/{name}"] = [torch.tensor(found)]
    return {name: float(torch.cat(parts).mean()) for name, parts in columns.items()}


def with_signal(rollout: Rollout, scores: Tensor) -> Tensor:
    """[P] bool: the responses to a prompt did not all score the same, so that there is something to learn."""
    by_prompt = scores.view(len(torch.unique(rollout.sequences.group_ids)), -1)
    return differ(by_prompt.amin(1), by_prompt.amax(1))


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's; zero when either does not vary, as one response alone never does."""
    if float(a.std(correction=0)) == 0.0 or float(b.std(correction=0)) == 0.0:
        return 0.0
    return float(np.corrcoef(a.cpu().numpy(), b.cpu().numpy())[0, 1])


def check_on_policy(
    log_ratios: Sequence[Tensor], num_responses: int, *, clip_range: float, step: int
) -> dict[str, float]:
    """Before the first update, training and sampling must agree about every token, up to rounding.

    What is compared is all that is trained on before the weights change, so nothing depends on microbatches, a few of
    which hold a handful of tokens and would differ by far more, or less, than the mean.

    Args:
        log_ratios: [N] for each microbatch that was computed here, log p of the response tokens in training minus that
            in sampling.
        num_responses: in all of them.
        clip_range: of the ratio, on either side of 1.
        step: the run's, for the error message.

    Returns:
        The metrics of how well they agree.

    Raises:
        TrainingError: they do not, so that no probability ratio would mean anything.
    """
    log_ratio = torch.cat([part.detach().double() for part in world().whole(log_ratios, "log-probabilities")])
    gap = float(log_ratio.abs().mean())
    if not gap < ON_POLICY_TOLERANCE:  # a NaN is no agreement
        raise TrainingError(
            f"step {step}: sampling and training differ by {gap:.4f} nats a token with the same weights (at most "
            f'{ON_POLICY_TOLERANCE} is rounding): start again with precision = "fp32" and another --out; if that does '
            "not help, this model's network cannot be trained by reinforcement learning here"
        )
    return agreement(log_ratio, num_responses, clip_range=clip_range)


def agreement(log_ratio: Tensor, num_responses: int, *, clip_range: float) -> dict[str, float]:
    """How far training and sampling are apart about the same weights.

    Args:
        log_ratio: [N] fp64, log p of response tokens in training minus that in sampling.
        num_responses: that they are of.
        clip_range: of the ratio, on either side of 1.
    """
    return {
        "sampler/gap": float(log_ratio.abs().mean()),
        "sampler/gap_max": float(log_ratio.abs().max()),
        "sampler/kl_k3": float(k3(-log_ratio, torch.zeros_like(log_ratio)).sum() / num_responses),
        "sampler/outside_clip_range": float(((log_ratio.exp() - 1).abs() > clip_range).double().mean()),
    }


def sample_rows(
    rollout: Rollout,
    scores: Tensor | None = None,
    credit: Callable[[int], Mapping[str, object]] | None = None,
    *,
    count: int = 4,
    verdicts: Mapping[str, Sequence[Verdict]] | None = None,
) -> list[dict[str, object]]:
    """A few responses for a person to read, the first of the first prompts.

    Args:
        scores: [B], if there are scores.
        credit: of a row, what its tokens are credited with, if that is known.
        count: how many at most.
        verdicts: by name of the verifier, [B] each; their reasons are shown.
    """
    every = max(1, len(rollout.texts) // count)
    shown: list[dict[str, object]] = []
    for row in range(0, len(rollout.texts), every)[:count]:
        said: dict[str, object] = {"prompt": rollout.prompts[row].text, "response": rollout.texts[row]}
        said |= {} if scores is None else {"score": float(scores[row])}
        said |= {"weights": rollout.weights} if rollout.weights else {}
        reasons = "; ".join(f"{name}: {of[row].reason}" for name, of in (verdicts or {}).items())
        said |= {"verdict": reasons} if reasons else {}
        shown.append(said if credit is None else said | {"credit": credit(row)})
    return shown


def token_credit(
    sequences: Sequences, row: int, chat: Chat, credit: Mapping[str, Tensor]
) -> dict[str, Sequence[str] | Sequence[float]]:
    """The text of each response token of one row, under ``tokens``, and by name what it is credited with.

    Args:
        credit: by name, each [B, T].

    Returns:
        Lists of one length; the numbers are those of the tensors, to the last digit of fp32.
    """
    chosen = sequences.mask[row]
    # the shortest decimals that give the same fp32: half the digits of the double they would be written as
    numbers = {name: [float(str(x)) for x in of[row][chosen].float().cpu().numpy()] for name, of in credit.items()}
    return {"tokens": chat.pieces(sequences.tokens[row][chosen].tolist()), **numbers}


def mean_of_updates(updates: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """The metrics of a step from those of its updates, each with its number of response tokens.

    What is a mean over tokens weighs an update by them; the largest ratio is the largest of all. How well the sampler
    agrees is known of the first update alone.
    """
    if len(updates) == 1:
        return dict(updates[0][1])
    found = {}
    for name in updates[0][1]:
        told = [(count, metrics[name]) for count, metrics in updates if name in metrics]
        tokens, values = np.array(told, dtype=np.float64).T
        weights = None if name.endswith(PER_UPDATE) else tokens
        found[name] = float(values.max() if name == "policy/ratio_max" else np.average(values, weights=weights))
    return found


class Watch:
    """Ends a run that has gone wrong for three steps in a row.

    The sampled KL may dip below zero by chance, never stay there; entropy may be low, never vanish.

    Args:
        max_negative_kl: nats a response.
        min_entropy: nats a token.
    """

    PATIENCE = 3

    def __init__(self, *, max_negative_kl: float, min_entropy: float) -> None:
        self.max_negative_kl, self.min_entropy = max_negative_kl, min_entropy
        self.negative_kl = self.low_entropy = 0

    def check(self, step: int, metrics: Mapping[str, float]) -> None:
        """Raises:
        TrainingError: names the step and the cause.
        """
        kl, entropy = metrics["objective/kl"], metrics["policy/entropy"]
        self.negative_kl = self.negative_kl + 1 if kl < -self.max_negative_kl else 0
        self.low_entropy = self.low_entropy + 1 if entropy < self.min_entropy else 0
        if self.negative_kl == self.PATIENCE:
            raise TrainingError(
                f"step {step}: the KL to the reference stays negative (now {kl:.3f} nats a response): "
                "policy and reference do not score the same tokens at the same temperature"
            )
        if self.low_entropy == self.PATIENCE:
            raise TrainingError(
                f"step {step}: the policy's entropy has collapsed (now {entropy:.4f} nats a token): "
                "raise kl_coef or lower the learning rate"
            )

    def state_dict(self) -> dict[str, int]:
        """For checkpoints."""
        return {"negative_kl": self.negative_kl, "low_entropy": self.low_entropy}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """From a checkpoint."""
        self.negative_kl, self.low_entropy = int(state["negative_kl"]), int(state["low_entropy"])


class KLController:
    """The KL coefficient, adapted towards a target if there is one: Ziegler et al. 2019 (arXiv 1909.08593).

    Args:
        kl_coef: to begin with, score per nat.
        target: nats a response; without one the coefficient stays.
        horizon: responses over which it may change by a fifth.
    """

    def __init__(self, kl_coef: float, *, target: float | None = None, horizon: int = 1) -> None:
        self.kl_coef, self.target, self.horizon = kl_coef, target, horizon

    def update(self, kl: float, num_sequences: int) -> None:
        """After a rollout of ``num_sequences`` with this mean KL."""
        if self.target is not None:
            self.kl_coef = updated_kl_coef(
                self.kl_coef, kl=kl, target=self.target, num_sequences=num_sequences, horizon=self.horizon
            )

    def state_dict(self) -> dict[str, float]:
        """For checkpoints."""
        return {"kl_coef": self.kl_coef}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """From a checkpoint."""
        self.kl_coef = float(state["kl_coef"])
