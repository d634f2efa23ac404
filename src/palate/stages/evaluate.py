"""One model against another on held-out prompts: win rate by a judge that training never saw, and what it cost in KL.

Both sample with the same settings and the same random numbers. Every response of one is compared with every response of
the other to the same prompt; the higher score wins, equal scores are ties. The judge scores one response at a time, so
there is no order of presentation to swap.

The KL is that of the model to the baseline on the model's own responses; it needs both to share a vocabulary.

Run it: `palate eval recipes/win_rate.toml`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from palate.corpus import read_prompts
from palate.evals import plots
from palate.evals.report import Report
from palate.evals.taste_parts import change, describe_accuracies, describe_changes, describe_scores
from palate.evals.text import signals_of_each, text_signals
from palate.evals.winrate import WinRate, length_controlled, win_rate, win_rate_by_length
from palate.intervals import Estimate, ratio_estimate
from palate.lm.batch import per_token
from palate.lm.chat import Chat
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded, load_language_model, sketch_model
from palate.objectives.divergence import k1
from palate.randomness import permutation
from palate.recipe import Engine, Sampling, WinRateRecipe
from palate.records import Prompt
from palate.rewards.mix import Mix, RewardSource
from palate.rewards.rules import FunctionReward
from palate.rollout import engines
from palate.rollout.engine import Rollout
from palate.run.directory import Run
from palate.run.trackers import showing
from palate.run.world import world
from palate.stages.common import prompts_with_room, sharing
from palate.stages.estimate.expected import judged, sketch_rewards
from palate.stages.estimate.fitting import expect
from palate.words import count_words

NUM_SHOWN, NUM_WORST = 10, 5
"""Prompts whose responses are shown side by side, chosen at random; and of the greatest losses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """One model's responses to P prompts, M each, and their scores [P, M].

    Attributes:
        parts: what the scores are made of, by name, [P, M] each; empty if the judge does not say.
    """

    rollout: Rollout
    scores: NDArray[np.float64]
    parts: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def texts(self) -> tuple[str, ...]:
        """[P * M], the responses of a prompt side by side."""
        return self.rollout.texts

    def num_words(self) -> NDArray[np.float64]:
        """[P, M] words of each response."""
        return np.array([float(count_words(text)) for text in self.texts]).reshape(self.scores.shape)

    def text(self, prompt: int, number: int) -> str:
        """The ``number``-th response to a prompt."""
        return self.texts[prompt * int(self.scores.shape[1]) + number]

    def prompt(self, prompt: int) -> str:
        """What was asked."""
        return self.rollout.prompts[prompt * int(self.scores.shape[1])].text


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A model, a baseline, and what was found."""

    model: Answers
    baseline: Answers
    win_rate: WinRate
    kl: Estimate
    seed: int


def evaluate(recipe: WinRateRecipe, run: Run) -> None:
    """Sample, judge, and write report and texts."""
    names = ((recipe.model, recipe.chat_template), (recipe.baseline, recipe.baseline_chat_template))
    sketches = [
        sketch_model(name, LanguageModel, chat_template=template, precision=recipe.precision)
        for name, template in names
    ]
    data = read_prompts(recipe.prompts)
    run.add_inputs({"prompts": data.files})
    roomy = prompts_with_room(
        run,
        data,
        [sketch.chat for sketch in sketches],
        min(
            (sketch.model.context, f"the context of {name}") for sketch, (name, _) in zip(sketches, names, strict=True)
        ),
        max_new_tokens=recipe.sampling.max_new_tokens,
        max_left_out=recipe.max_left_out,
    )
    prompts, judges = roomy.prompts, sketch_rewards((recipe.judge,), recipe.precision)
    recipe = expect(
        run,
        recipe,
        sketches[0].device,
        lambda recipe: judged(
            sketches,
            judges,
            roomy.lengths,
            recipe.sampling,
            num_responses=recipe.responses_per_prompt,
            max_tokens=recipe.microbatch_tokens,
        ),
    )

    settle = sharing([])
    model, baseline = (
        load_language_model(name, chat_template=template, precision=recipe.precision, settle=settle)
        for name, template in names
    )
    judge = Mix((recipe.judge,), precision=recipe.precision, max_tokens=recipe.microbatch_tokens, settle=settle)
    run.add_inputs({"model": model.weights, "baseline": baseline.weights, "judge": judge.hashes})
    say_layouts(run, model.chat, baseline.chat, judge)
    found = compare(
        model,
        baseline,
        prompts,
        judge,
        recipe.sampling,
        num_responses=recipe.responses_per_prompt,
        seed=recipe.seed,
        engine=recipe.engine,
        max_tokens=recipe.microbatch_tokens,
    )
    figures = {
        "win_rate": found.win_rate.rate,
        "win_rate_low": found.win_rate.low,
        "win_rate_high": found.win_rate.high,
        "kl": found.kl.value,
        "left_out": data.rejected.total,
    }
    title = f"{recipe.model} against {recipe.baseline}"
    world().once(lambda: write_report(run, title, found), "the report")
    run.finish(figures)


def write_report(run: Run, title: str, found: Comparison) -> None:
    """Figures, pictures, texts, and what was left out."""
    report = Report(title, f"{found.win_rate.num_prompts} held-out prompts")
    describe(report, found)
    if run.notes:
        report.text("Dropped, skipped, assumed", "\n\n".join(run.notes))
    report.write(run.directory)


def say_layouts(run: Run, model: Chat, baseline: Chat, judge: Mix) -> None:
    """Say where the two models and the judge do not lay a conversation out in the same way."""
    if model.fingerprint != baseline.fingerprint:
        run.note("chat template: the baseline's is another one; the KL is that to the baseline given the model's")
    if not all(source.reads_like(model) and source.reads_like(baseline) for source in judge.learned):
        run.note("chat template: the judge's is another one; it is given what the responses say in its own")


def compare(
    model: Loaded[LanguageModel],
    baseline: Loaded[LanguageModel],
    prompts: Sequence[Prompt],
    judge: RewardSource,
    sampling: Sampling,
    *,
    num_responses: int,
    seed: int,
    engine: Engine = engines.IN_PROCESS,
    max_tokens: int = 4096,
) -> Comparison:
    """Sample from both and let the judge decide; ``max_tokens`` are in one pass of the baseline, for the KL."""
    ours = answers(model, prompts, judge, sampling, num_responses=num_responses, seed=seed, engine=engine)
    theirs = answers(baseline, prompts, judge, sampling, num_responses=num_responses, seed=seed, engine=engine)
    return contrast(ours, theirs, baseline.model, seed=seed, max_tokens=max_tokens)


def contrast(
    ours: Answers, theirs: Answers, reference: LanguageModel, *, seed: int, max_tokens: int = 4096
) -> Comparison:
    """Win rate and KL of answers that are there already."""
    return Comparison(
        model=ours,
        baseline=theirs,
        win_rate=win_rate(ours.scores, theirs.scores, seed=seed),
        kl=divergence(ours.rollout, reference, num_prompts=len(ours.scores), seed=seed, max_tokens=max_tokens),
        seed=seed,
    )


def answers(
    loaded: Loaded[LanguageModel],
    prompts: Sequence[Prompt],
    judge: RewardSource,
    sampling: Sampling,
    *,
    num_responses: int,
    seed: int,
    engine: Engine = engines.IN_PROCESS,
    purpose: str = "evaluation",
) -> Answers:
    """Sampled and judged; for another purpose the random numbers are others."""
    drawing = engines.make_engine(engine, loaded.model, loaded.chat)
    drawing.load_weights(loaded.model)
    key = (seed, purpose)
    with showing(f"responses of {loaded.name}") as show:
        rollout = drawing.generate(prompts, sampling, num_responses=num_responses, key=key, show=show)
    scores = judge(rollout.prompts, rollout.texts, rollout.sampled_tokens())
    shape = (len(prompts), num_responses)
    parts = judge.parts(rollout.prompts, rollout.texts) if isinstance(judge, FunctionReward | Mix) else {}
    return Answers(
        rollout=rollout,
        scores=scores.double().numpy().reshape(shape),
        parts={name: part.double().numpy().reshape(shape) for name, part in parts.items()},
    )


def divergence(
    rollout: Rollout, reference: LanguageModel, *, num_prompts: int, seed: int, max_tokens: int = 4096
) -> Estimate:
    """KL(sampled policy || reference) per response in nats, by k1 on the responses themselves; its interval by prompt.

    The responses of a prompt stand side by side; ``max_tokens`` are computed in one pass.
    """
    by_prompt = divergence_by_prompt(rollout, reference, num_prompts=num_prompts, max_tokens=max_tokens)
    return ratio_estimate(by_prompt, np.ones(num_prompts), seed=seed)


def divergence_by_prompt(
    rollout: Rollout, reference: LanguageModel, *, num_prompts: int, max_tokens: int = 4096
) -> NDArray[np.float64]:
    """[P] the same for each prompt."""
    ref_logprobs = per_token(
        rollout.sequences,
        max_tokens,
        lambda part: reference.logprobs(part, temperature=rollout.temperature),
    )
    by_prompt = k1(rollout.logprobs, ref_logprobs).sum(1).double().reshape(num_prompts, -1).mean(1)
    return np.asarray(by_prompt.cpu().numpy(), dtype=np.float64)


def describe(report: Report, found: Comparison) -> None:
    """The figures, pictures and texts of a comparison."""
    win = found.win_rate
    report.number(
        "win_rate", win.rate, low=win.low, high=win.high, label="Win rate", note="share of pairs won, ties half"
    )
    fair = length_controlled(
        found.model.scores,
        found.baseline.scores,
        found.model.num_words(),
        found.baseline.num_words(),
        seed=found.seed,
    )
    report.number(
        "win_rate_length_controlled",
        fair.value,
        low=fair.low,
        high=fair.high,
        label="At equal length",
        note="win rate with the length difference regressed out",
    )
    kl = found.kl
    report.number("kl", kl.value, low=kl.low, high=kl.high, label="KL", note="nats per response, model to baseline")
    describe_scores(report, found.baseline.scores, found.model.scores, seed=found.seed)
    if found.model.parts:
        describe_changes(report, found.baseline.parts, found.model.parts, seed=found.seed)
    describe_lengths(report, found)
    describe_texts(report, found)
    report.figure(
        "Scores before and after",
        plots.before_after(found.baseline.scores.ravel(), found.model.scores.ravel()),
        "The judge's scores of the baseline's responses and of the model's.",
    )
    describe_signals(report, found)


def describe_lengths(report: Report, found: Comparison) -> None:
    """Where it won: among shorter responses, alike ones or longer ones."""
    bins = win_rate_by_length(
        found.model.scores,
        found.baseline.scores,
        found.model.num_words(),
        found.baseline.num_words(),
        seed=found.seed,
    )
    report.data(
        "win_rate_by_length",
        [
            {
                "words_from": item.low,
                "words_to": item.high,
                "win_rate": item.rate.value,
                "win_rate_low": item.rate.low,
                "win_rate_high": item.rate.high,
                "pairs": item.num_pairs,
            }
            for item in bins
        ],
    )
    report.figure(
        "Win rate by difference in length",
        plots.win_rate_by_length(bins),
        "By how many words the model's response is shorter or longer than the baseline's that it is compared with; "
        "95% intervals by prompt. Above the dotted line the model wins more often than it loses.",
    )


def describe_texts(report: Report, found: Comparison) -> None:
    """Responses to read: of prompts chosen at random, and the greatest losses."""
    ours, theirs = found.model, found.baseline
    chosen = permutation(len(ours.scores), found.seed, "shown")[:NUM_SHOWN].tolist()
    texts = [{"prompt": ours.prompt(row), "before": theirs.text(row, 0), "after": ours.text(row, 0)} for row in chosen]
    report.data("texts", texts)
    report.side_by_side(
        "Before and after, chosen at random",
        texts,
        f"The first response of each model to {len(texts)} of {len(ours.scores)} prompts, drawn by the seed.",
    )
    worst = worst_losses(found)
    report.data("worst", worst)
    if worst:
        report.side_by_side(
            f"The worst {len(worst)}",
            worst,
            "The greatest losses of score from before to after, of responses drawn with the same random numbers; one "
            "for each prompt.",
        )


def worst_losses(found: Comparison) -> list[dict[str, object]]:
    """The greatest losses, at most one of each prompt: the n-th response after against the n-th before."""
    both = min(found.model.scores.shape[1], found.baseline.scores.shape[1])
    gains = found.model.scores[:, :both] - found.baseline.scores[:, :both]
    numbers = gains.argmin(axis=1)
    order = [row for row in np.argsort(gains.min(axis=1), kind="stable").tolist() if gains[row].min() < 0]
    return [
        {
            "prompt": found.model.prompt(row),
            "before": found.baseline.text(row, numbers[row]),
            "after": found.model.text(row, numbers[row]),
            "score before": float(found.baseline.scores[row, numbers[row]]),
            "score after": float(found.model.scores[row, numbers[row]]),
        }
        for row in order[:NUM_WORST]
    ]


def describe_signals(report: Report, found: Comparison) -> None:
    """Cheap signs of decay, before and after; with an interval where they are means over responses."""
    before, after = (asdict(text_signals(answers.texts)) for answers in (found.baseline, found.model))
    each_before, each_after = (
        {name: values.reshape(answers.scores.shape) for name, values in signals_of_each(answers.texts).items()}
        for answers in (found.baseline, found.model)
    )
    changes = {name: change(each_before[name], each_after[name], seed=found.seed) for name in each_after}
    report.data(
        "text",
        {
            name: changes[name].as_json() if name in changes else {"before": before[name], "after": after[name]}
            for name in after
        },
    )
    report.table(
        "Is the text still sound?",
        ["", "before", "after", "change"],
        [
            [
                name.replace("_", " "),
                f"{before[name]:.3f}",
                f"{after[name]:.3f}",
                str(changes[name]) if name in changes else "",
            ]
            for name in after
        ],
        "Shares of responses, but for the words; in brackets 95% intervals of the difference, by prompt.",
    )


def describe_reward_model(report: Report, answers: Answers, reward: RewardSource, *, seed: int) -> None:
    """How far a reward model orders responses as the judge and each part of the judge's score do.

    Args:
        answers: of the model before, to held-out prompts; more than one a prompt.
        reward: the reward model.
    """
    rollout = answers.rollout
    rewards = reward(rollout.prompts, rollout.texts, rollout.sampled_tokens()).double().numpy()
    describe_accuracies(report, rewards.reshape(answers.scores.shape), answers.parts, answers.scores, seed=seed)
