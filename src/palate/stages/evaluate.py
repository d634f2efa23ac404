"""One model against another on held-out prompts: win rate by a judge that training never saw, and what it cost in KL.

Both sample with the same settings and the same random numbers. Every response of one is compared with every response of
the other to the same prompt; the higher score wins, equal scores are ties. The judge scores one response at a time, so
there is no order of presentation to swap.

The KL is that of the model to the baseline on the model's own responses; it needs both to share a vocabulary.

Run it: `palate eval recipes/win_rate.toml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from palate.corpus import read_prompts
from palate.evals.plots import before_after
from palate.evals.report import Report
from palate.evals.text import TextSignals, text_signals
from palate.evals.winrate import WinRate, length_controlled, win_rate
from palate.intervals import Estimate, ratio_estimate
from palate.lm.batch import per_token
from palate.lm.chat import Chat
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded, load_language_model
from palate.objectives.divergence import k1
from palate.recipe import Sampling, WinRateRecipe
from palate.records import Prompt
from palate.rewards.mix import Mix, RewardSource
from palate.rollout.engine import Rollout
from palate.rollout.local import LocalEngine
from palate.run.directory import Run
from palate.run.trackers import showing
from palate.stages.common import prompts_with_room
from palate.words import count_words

MICROBATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """One model's responses to P prompts, M each, and their scores [P, M]."""

    rollout: Rollout
    scores: NDArray[np.float64]

    @property
    def texts(self) -> tuple[str, ...]:
        """[P * M], the responses of a prompt side by side."""
        return self.rollout.texts

    def num_words(self) -> NDArray[np.float64]:
        """[P, M] words of each response."""
        return np.array([float(count_words(text)) for text in self.texts]).reshape(self.scores.shape)

    def signals(self) -> TextSignals:
        """Cheap signs of decay."""
        return text_signals(self.texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A model, a baseline, and what was found."""

    model: Answers
    baseline: Answers
    win_rate: WinRate
    kl: Estimate
    seed: int


def train(recipe: WinRateRecipe, run: Run) -> None:
    """Sample, judge, and write report and texts."""
    data = read_prompts(recipe.prompts)
    model = load_language_model(recipe.model, chat_template=recipe.chat_template, precision=recipe.precision)
    baseline = load_language_model(
        recipe.baseline, chat_template=recipe.baseline_chat_template, precision=recipe.precision
    )
    run.add_inputs({"prompts": data.files, "model": model.weights, "baseline": baseline.weights})
    prompts = prompts_with_room(
        run,
        data,
        [model.chat, baseline.chat],
        min((each.model.context, f"the context of {each.name}") for each in (model, baseline)),
        max_new_tokens=recipe.sampling.max_new_tokens,
        max_left_out=recipe.max_left_out,
    )
    judge = Mix((recipe.judge,), precision=recipe.precision)
    say_layouts(run, model.chat, baseline.chat, judge)
    found = compare(
        model,
        baseline,
        prompts,
        judge,
        recipe.sampling,
        num_responses=recipe.responses_per_prompt,
        seed=recipe.seed,
    )
    figures = {
        "win_rate": found.win_rate.rate,
        "win_rate_low": found.win_rate.low,
        "win_rate_high": found.win_rate.high,
        "kl": found.kl.value,
        "left_out": data.rejected.total,
    }
    report = Report(f"{recipe.model} against {recipe.baseline}", f"{found.win_rate.num_prompts} held-out prompts")
    describe(report, found)
    if run.notes:
        report.text("Dropped, skipped, assumed", "\n\n".join(run.notes))
    report.write(run.directory)
    run.finish(figures)


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
) -> Comparison:
    """Sample from both and let the judge decide."""
    ours = answers(model, prompts, judge, sampling, num_responses=num_responses, seed=seed)
    theirs = answers(baseline, prompts, judge, sampling, num_responses=num_responses, seed=seed)
    return contrast(ours, theirs, baseline.model, seed=seed)


def contrast(ours: Answers, theirs: Answers, reference: LanguageModel, *, seed: int) -> Comparison:
    """Win rate and KL of answers that are there already."""
    return Comparison(
        model=ours,
        baseline=theirs,
        win_rate=win_rate(ours.scores, theirs.scores, seed=seed),
        kl=divergence(ours.rollout, reference, num_prompts=len(ours.scores), seed=seed),
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
) -> Answers:
    """Sampled and judged."""
    engine = LocalEngine(loaded.model, loaded.chat)
    key = (seed, "evaluation")
    with showing(f"responses of {loaded.name}") as show:
        rollout = engine.generate(prompts, sampling, num_responses=num_responses, key=key, show=show)
    scores = judge(rollout.prompts, rollout.responses).double().numpy()
    return Answers(rollout=rollout, scores=scores.reshape(len(prompts), num_responses))


@torch.no_grad()
def divergence(rollout: Rollout, reference: LanguageModel, *, num_prompts: int, seed: int) -> Estimate:
    """KL(sampled policy || reference) per response in nats, by k1 on the responses themselves; its interval by prompt.

    The responses of a prompt stand side by side.
    """
    ref_logprobs = per_token(
        rollout.sequences,
        MICROBATCH_TOKENS,
        lambda part: reference.logprobs(part, temperature=rollout.temperature),
    )
    by_prompt = k1(rollout.logprobs, ref_logprobs).sum(1).double().reshape(num_prompts, -1).mean(1)
    return ratio_estimate(by_prompt.numpy(), np.ones(num_prompts), seed=seed)


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
    report.figure(
        "Scores before and after",
        before_after(found.baseline.scores.ravel(), found.model.scores.ravel()),
        "The judge's scores of the baseline's responses and of the model's.",
    )
    signals = {"baseline": found.baseline.signals(), "model": found.model.signals()}
    names = list(signals["model"].__dataclass_fields__)
    report.table(
        "Is the text still sound?",
        ["", "baseline", "model"],
        [[name.replace("_", " "), *(f"{getattr(signals[who], name):.3f}" for who in signals)] for name in names],
    )
    each = len(found.model.texts) // win.num_prompts
    texts = [
        {
            "prompt": found.model.rollout.prompts[row].text,
            "before": found.baseline.texts[row],
            "after": found.model.texts[row],
        }
        for row in range(0, len(found.model.texts), each)
    ][:24]
    report.data("texts", texts)
    report.side_by_side("The same prompts, before and after", texts)
