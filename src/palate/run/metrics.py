"""Every metric a run may log, and what it means: the one place where a metric is named.

``Run.log`` refuses a name that is not here, and the reference page is generated from this table, so no metric can be
logged without an explanation; a test runs every stage, so none is explained that nobody logs. What is measured once, at
the end of a run, stands in its report. Unless said otherwise a metric is a mean over the step's batch and all of its
updates, a KL or entropy is in nats, and a time is in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping

METRICS: dict[str, str] = {
    # The objective of reinforcement learning, over the responses of one rollout.
    "objective/score": "Reward before the KL penalty, mean per response: what the terms of the reward gave.",
    "objective/score_std": "Spread of the score over the responses of the step.",
    "objective/spread": "Spread of the score over the members of ensembles, mean per response that was scored. If it "
    "grows, the policy goes where the reward models disagree; if it does not, that proves nothing. Absent without an "
    "ensemble.",
    "objective/terms/NAME": "What one term of the reward added to the score, its weight applied, mean per response "
    "that was scored; only if there are several.",
    "objective/verified/NAME": "What one verifier gave, between 0 and 1 and without its weight: where it gives 1 or 0, "
    "the share of the responses that were right. Mean per response that was scored; absent without a verifier.",
    "objective/reward": "Score minus `kl_coef` times the KL, mean per response: what is maximised.",
    "objective/kl": "KL to the reference policy per response, k1 (the mean log-ratio). Not below zero, up to noise.",
    "objective/kl_k3": "The same by the k3 estimator, `exp(-x) - 1 + x` of the log-ratio: never negative, less noisy.",
    "objective/kl_coef": "Weight of the KL inside the reward; it moves only if `kl_target` is set.",
    "objective/length_correlation": "Correlation of score and response length; near 1, length buys the reward.",
    "objective/groups_without_signal": "Share of prompts whose responses all scored the same; they teach nothing.",
    "objective/groups_resampled": "How many times a prompt whose responses all scored the same gave way to another one "
    "(`max_resamples`).",
    # Over-optimisation, where a recipe has the section.
    "overoptimization/held_out": "Score by rewards that the policy does not learn from, mean per response. If it falls "
    "while `objective/score` rises, the reward is being over-optimised.",
    "overoptimization/passed": "1 from the step on in which signs said that the peak is passed, 0 before.",
    # The policy's update.
    "policy/loss": "Loss of the policy; its size means little, because advantages are centred.",
    "policy/kl_loss": "KL to the reference per token, k3, as `kl_loss_coef` puts it into the loss.",
    "policy/clip_fraction": "Share of tokens whose probability ratio was clipped. Above 0.3 the steps are too large.",
    "policy/approx_kl": "KL of the sampling policy and the updated one, k3 per token. Above 0.05 steps are too large.",
    "policy/ratio_mean": "Mean probability ratio of new to sampling policy; 1 in expectation.",
    "policy/ratio_max": "Largest probability ratio of the step.",
    "policy/entropy": "Entropy of the next-token distribution per response token. Near zero the policy has collapsed. "
    "An agent's steps stand for tokens; of actions that are numbers any value is sound.",
    "policy/grad_norm": "Norm of the policy's gradient before it is scaled down to `max_grad_norm`.",
    "policy/learning_rate": "Learning rate of the policy in this step.",
    "policy/pretraining_loss": "Loss on the mixed-in pretraining text per token (PPO-ptx).",
    # The sampler against the trainer: the same weights, before the first update of a step. Over its first minibatch,
    # and not while `value_warmup` leaves the policy alone.
    "sampler/gap": "Difference of the response tokens' log-probabilities in sampling and in training with the same "
    "weights, mean per token, in nats: rounding. A run ends above 0.05; with servers above 0.005 in fp32 and 0.08 in "
    "bf16.",
    "sampler/gap_max": "The largest such difference of the step.",
    "sampler/kl_k3": "KL between the two per response, k3: what rounding costs; compare it with `objective/kl`.",
    "sampler/outside_clip_range": "Share of tokens whose ratio lies outside `clip_range` (0.2 where nothing is "
    "clipped) before anything was learned.",
    # Of servers that sample with copies of the weights, and of sampling one step ahead; the four above are then over
    # the whole rollout, and one step ahead they are of what was learned since as well.
    "sampler/truncated": "Share of tokens whose probability in training is more than `engine.max_ratio` times that at "
    "the server: they count less than importance weights would have it.",
    "sampler/retries": "Requests to the servers that were made again in the step.",
    "sampler/staleness": "Steps by which the weights that drew the responses are older than those that learn from "
    "them: 1 with `one_step_ahead`, but in its first step.",
    # The value model's update.
    "value/loss": "Half the squared error of the value model, the larger of clipped and unclipped.",
    "value/clip_fraction": "Share of values whose change was clipped.",
    "value/error": "Mean squared error of the values against the returns.",
    "value/explained_variance": "1 - error / variance of the returns: 1 is perfect, 0 is no better than a constant. "
    "Absent where the returns do not vary.",
    "value/grad_norm": "Norm of the value model's gradient before scaling.",
    "value/learning_rate": "Learning rate of the value model in this step.",
    # Pretraining.
    "pretrain/loss": "Cross-entropy per token, the end of a document included.",
    "pretrain/tokens": "Tokens learned from so far, those that were seen again counted again.",
    "pretrain/passes": "The same over the tokens there are: above 1 the data repeats.",
    "pretrain/held_out_loss": "Cross-entropy per token on held-out documents; every `evaluate_every` steps.",
    "pretrain/bits_per_byte": "The same in bits, over the bytes of their text: comparable between tokenizers.",
    # Supervised fine-tuning.
    "sft/loss": "Cross-entropy per response token, the end-of-turn token included.",
    "sft/perplexity": "exp of the loss.",
    # Reward model.
    "reward/loss": "Minus the log-probability of the labeler's order, mean over pairs; 0.693 (log 2) is guessing.",
    "reward/accuracy": "Share of pairs in which the response the labeler preferred has the higher reward.",
    "reward/margin": "Reward of the preferred response minus that of the other.",
    "reward/rating_loss": "Minus the log-probability of the labelers' ratings, mean over judgements.",
    "reward/rating_error": "Distance between the rating that is foretold, on average, and the one that was given.",
    "reward/flag_loss": "Minus the log-probability of flags, set or not, mean over judgements; 0.693 is a coin.",
    "reward/grad_norm": "Norm of the gradient before scaling.",
    "reward/learning_rate": "Learning rate in this step.",
    # Direct preference optimisation.
    "dpo/loss": "Minus the log-probability of the labeler's choice under the implied reward. 0.693 is the start. With "
    '`loss = "ipo"` the mean of (margin - 1/2)^2 / beta^2, which begins at 1 / (4 beta^2).',
    "dpo/accuracy": "Share of pairs in which the chosen response has the higher implied reward.",
    "dpo/margin": "Implied reward of the chosen response minus that of the rejected one.",
    "dpo/chosen_reward": "`beta` times the log-ratio of policy and reference on chosen responses.",
    "dpo/rejected_reward": "The same on rejected responses.",
    "dpo/chosen_logprob": "Log-probability of chosen responses, summed over tokens. It may fall as the margin grows.",
    "dpo/rejected_logprob": "The same of rejected responses. If both fall, probability moves to what is in neither.",
    "dpo/pairs": "Pairs of a rollout that were learned from (on-policy DPO): to one prompt, with different scores.",
    # Kahneman-Tversky optimisation.
    "kto/loss": "Mean over thumbs of the weight times what is missing to certainty; half the mean weight is the start.",
    "kto/accuracy": "Share of responses on their thumb's side of the reference point.",
    "kto/kl": "Mean log-ratio of policy and reference on responses to other prompts: an estimate of their KL, in nats.",
    "kto/reference_point": "The same, but 0 where it is below: what a response has to be better than.",
    "kto/desirable_reward": "`beta` times the log-ratio of policy and reference on responses with a thumb up.",
    "kto/undesirable_reward": "The same on responses with a thumb down. Like all four, absent where a step has none.",
    "kto/desirable_logprob": "Log-probability of responses with a thumb up, summed over tokens.",
    "kto/undesirable_logprob": "The same of responses with a thumb down. If both fall, sample and read.",
    # Learning from the best, and from a teacher.
    "raft/kept_score": "Score of the responses that were kept, the best of each prompt's.",
    "distill/loss": "KL of the policy to its teacher per response token, over the whole vocabulary.",
    "distill/teacher_score": "Score of the chosen teachers' own answers. Like the next, only if there are several.",
    "distill/first_teacher": "Share of prompts for which the first teacher was chosen.",
    # AI feedback.
    "judge/first_place": "How often the answer in the first place was chosen; every pair is asked in both orders, so "
    "0.5 is no preference for a place. Absent, like the next two, where no question of a step was answered.",
    "judge/flips": "Share of questions answered the other way round when the answers had changed places: ties.",
    "judge/preferred": "Share of pairs of which one answer is preferred; the others are ties.",
    "judge/no_choice": "Share of questions to which no choice could be read from what the model said.",
    "revise/changed": "Share of revisions that differ from their draft. Absent where a step has none.",
    "revise/left_out": "Share of prompts without a demonstration: a revision that is empty or was cut off, or a prompt "
    "that was not taken.",
    # An endpoint, where the model runs elsewhere; sums over the step, as long as it was not cut short.
    "endpoint/requests": "Requests of the step, those that were made again counted again.",
    "endpoint/tokens": "Tokens read and written, as the endpoint counts them.",
    "endpoint/from_cache": "Answers that had been given before.",
    # An agent in an environment.
    "agent/return": "The environment's own reward over an episode, mean over the episodes of an evaluation, in which "
    "the policy does what is likeliest; every `evaluate_every` steps.",
    "agent/training_return": "The same over the episodes that ended in the rollout, in which actions are drawn. Absent "
    "where none did.",
    "agent/steps": "Steps in the environments so far, all copies counted.",
    "agent/reward_correlation": "Correlation of what the agent was paid with the environment's own reward, over the "
    "steps of the rollout; 0 where one of them does not vary.",
    "agent/beyond_bounds": "Share of the numbers of actions that were drawn beyond the environment's bounds and taken "
    "at the bound; 0 for choices.",
    # Comparisons of clips.
    "labels/asked": "Comparisons asked so far, those that were skipped included; never more than `labels.budget`. Like "
    "all of these only in steps with a round of questions.",
    "labels/skipped": "How many of them the teacher skipped.",
    "labels/ties": "Share of ties among the answers of the round. Absent where all were skipped.",
    "labels/disagreement": "Spread over the reward networks of the probability that the first clip is preferred, mean "
    "over the pairs of the round.",
    "labels/foretold": "Share of the round's ordered answers that the reward networks had right before they learned "
    "from them. From the second round on.",
    # Data.
    "data/left_out": "Rows of the data that are not used, whatever the reason; the report names the reasons.",
    # Tokens.
    "tokens/response_length": "Response tokens, mean per response, the stop token included.",
    "tokens/truncated": "Share of responses cut off by `max_new_tokens` before a stop token.",
    # Time.
    "time/rollout_s": "Time to sample the responses.",
    "time/score_s": "Time to score them, by the reward and by the reference policy.",
    "time/step_s": "Time of the whole step.",
    "time/tokens_per_s": "Tokens per second: sampled ones in reinforcement learning, trained ones elsewhere.",
}

HEADLINES = (
    "agent/return",
    "agent/training_return",
    "labels/asked",
    "labels/foretold",
    "objective/score",
    "objective/kl",
    "policy/entropy",
    "tokens/truncated",
    "reward/accuracy",
    "reward/loss",
    "dpo/accuracy",
    "dpo/loss",
    "kto/accuracy",
    "kto/loss",
    "distill/loss",
    "judge/first_place",
    "judge/flips",
    "revise/changed",
    "sft/loss",
    "pretrain/loss",
    "pretrain/bits_per_byte",
    "pretrain/passes",
    "time/tokens_per_s",
)


def explain(name: str) -> str | None:
    """What a metric means; None for a name that nobody explained."""
    group = name.rpartition("/")[0]
    return METRICS.get(name) or METRICS.get(f"{group}/NAME")


def headline(metrics: Mapping[str, float], *, count: int = 4) -> dict[str, float]:
    """The few metrics worth a line of the terminal, the most telling first."""
    return {name: metrics[name] for name in [name for name in HEADLINES if name in metrics][:count]}
