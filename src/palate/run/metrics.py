"""Every metric a run may log, and what it means: the one place where a metric is named.

``Run.log`` refuses a name that is not here, and the reference page is generated from this table, so no metric can be
logged without an explanation. ``<name>`` stands for any text. Unless said otherwise a metric is a mean over the step's
batch and all of its updates, a KL or entropy is in nats, and a time is in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

METRICS: dict[str, str] = {
    # The objective of reinforcement learning, over the responses of one rollout.
    "objective/score": "Reward before the KL penalty, mean per response: what the terms of the reward gave.",
    "objective/score_std": "Spread of the score over the responses of the step.",
    "objective/reward": "Score minus `kl_coef` times the KL, mean per response: what is maximised.",
    "objective/kl": "KL to the reference policy per response, k1 (the mean log-ratio). Not below zero, up to noise.",
    "objective/kl_k3": "The same by the k3 estimator, `exp(-x) - 1 + x` of the log-ratio: never negative, less noisy.",
    "objective/kl_coef": "Weight of the KL inside the reward; it moves only if `kl_target` is set.",
    "objective/length_correlation": "Correlation of score and response length; near 1, length buys the reward.",
    "objective/length_slope": "Change of the score per additional response token.",
    "objective/groups_without_signal": "Share of prompts whose responses all scored the same; they teach nothing.",
    "objective/score/<name>": "One term of the score before its weight, mean per response.",
    # The policy's update.
    "policy/loss": "Loss of the policy; its size means little, because advantages are centred.",
    "policy/clip_fraction": "Share of tokens whose probability ratio was clipped. Above 0.3 the steps are too large.",
    "policy/approx_kl": "KL of the sampling policy and the updated one, k3 per token. Above 0.05 steps are too large.",
    "policy/ratio_mean": "Mean probability ratio of new to sampling policy; 1 in expectation.",
    "policy/ratio_max": "Largest probability ratio of the step.",
    "policy/ratio_start_error": "Largest log-ratio before the first update, without its sign; zero up to rounding.",
    "policy/entropy": "Entropy of the next-token distribution per response token. Near zero the policy has collapsed.",
    "policy/advantage_mean": "Mean advantage before whitening.",
    "policy/advantage_std": "Spread of the advantages before whitening.",
    "policy/grad_norm": "Norm of the policy's gradient before it is scaled down to `max_grad_norm`.",
    "policy/learning_rate": "Learning rate of the policy in this step.",
    "policy/pretraining_loss": "Loss on the mixed-in pretraining text per token (PPO-ptx).",
    # The value model's update.
    "value/loss": "Half the squared error of the value model, the larger of clipped and unclipped.",
    "value/clip_fraction": "Share of values whose change was clipped.",
    "value/error": "Mean squared error of the values against the returns.",
    "value/mean": "Mean value over the response tokens.",
    "value/explained_variance": "1 - error / variance of the returns: 1 is perfect, 0 is no better than a constant. "
    "Absent where the returns do not vary.",
    "value/grad_norm": "Norm of the value model's gradient before scaling.",
    "value/learning_rate": "Learning rate of the value model in this step.",
    # Supervised fine-tuning.
    "sft/loss": "Cross-entropy per response token, the end-of-turn token included.",
    "sft/perplexity": "exp of the loss.",
    "sft/validation_loss": "Loss per response token on the held-out prompts.",
    "sft/validation_perplexity": "exp of the validation loss.",
    # Reward model.
    "reward/loss": "Minus the log-probability of the labeler's order, mean over pairs; 0.693 (log 2) is guessing.",
    "reward/accuracy": "Share of pairs in which the response the labeler preferred has the higher reward.",
    "reward/margin": "Reward of the preferred response minus that of the other.",
    "reward/mean": "Mean reward.",
    "reward/std": "Spread of the reward over responses.",
    "reward/grad_norm": "Norm of the gradient before scaling.",
    "reward/learning_rate": "Learning rate in this step.",
    "reward/validation_loss": "Ranking loss on the held-out prompts.",
    "reward/validation_accuracy": "Accuracy on the held-out prompts.",
    # Direct preference optimisation.
    "dpo/loss": "Minus the log-probability of the labeler's choice under the implied reward. 0.693 is the start.",
    "dpo/accuracy": "Share of pairs in which the chosen response has the higher implied reward.",
    "dpo/margin": "Implied reward of the chosen response minus that of the rejected one.",
    "dpo/chosen_reward": "`beta` times the log-ratio of policy and reference on chosen responses.",
    "dpo/rejected_reward": "The same on rejected responses.",
    "dpo/chosen_logprob": "Log-probability of chosen responses, summed over tokens. It may fall as the margin grows.",
    "dpo/rejected_logprob": "The same of rejected responses. If both fall, probability moves to what is in neither.",
    "dpo/validation_loss": "Loss on the held-out prompts.",
    "dpo/validation_accuracy": "Accuracy on the held-out prompts.",
    # Best of n.
    "best_of_n/score": "Mean score of the best of n responses.",
    "best_of_n/mean_score": "Mean score of all n, which is what sampling once gives.",
    "best_of_n/kl_bound": "`log n - (n - 1) / n`: an upper bound of the KL to the model sampled from.",
    # Data.
    "data/left_out": "Rows of the data that are not used, whatever the reason; the report names the reasons.",
    # Tokens.
    "tokens/response_length": "Response tokens, mean per response, the stop token included.",
    "tokens/response_length_std": "Spread of the response length.",
    "tokens/truncated": "Share of responses cut off by `max_new_tokens` before a stop token.",
    "tokens/trained": "Tokens in the loss of this step.",
    "tokens/seen": "Tokens in the loss since the start.",
    # Time.
    "time/rollout_s": "Time to sample the responses.",
    "time/score_s": "Time to score them.",
    "time/update_s": "Time of the updates.",
    "time/step_s": "Time of the whole step.",
    "time/tokens_per_s": "Tokens per second: sampled ones in reinforcement learning, trained ones elsewhere.",
}

HEADLINES = (
    "objective/score",
    "objective/kl",
    "policy/entropy",
    "tokens/truncated",
    "reward/accuracy",
    "reward/loss",
    "dpo/accuracy",
    "dpo/loss",
    "sft/loss",
    "best_of_n/score",
    "best_of_n/mean_score",
    "time/tokens_per_s",
)


@cache
def explain(name: str) -> str | None:
    """What a metric means; None for a name that nobody explained."""
    if name in METRICS:
        return METRICS[name]
    patterns = (key for key in METRICS if "<name>" in key)
    return next((METRICS[key] for key in patterns if re.fullmatch(re.escape(key).replace("<name>", ".+"), name)), None)


def headline(metrics: Mapping[str, float], *, count: int = 4) -> dict[str, float]:
    """The few metrics worth a line of the terminal, the most telling first."""
    return {name: metrics[name] for name in [name for name in HEADLINES if name in metrics][:count]}
