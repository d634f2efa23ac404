"""The loop on what real people said: which argument convinces, and whether a stranger's judgement can be foretold.

    arguments   which of two arguments is the more convincing: people's choices on eleven topics (convarg)
    reward      a reward model from the choices on one half of the topics
    judge       a second one from those on the other half; each is shown on topics that it has not seen
    reinforce   REINFORCE against the first, on sides of debates that nobody judged
    evaluation  that, and the best of n of the base model's arguments, against the base model; on held-out debates, by
                the second reward model
    labelers    124 people's judgements of language models' answers (llmfao): a reward model's accuracy on people whom
                it learned from, and on people whom it never met

A part of the labelers and a part of their prompts are held out together, each part once. So every judgement is foretold
by a model that has not seen its prompt, and seen and unseen people are compared on the same prompts. What comes of it
all is reported as it is.

The data is fetched (`palate data get`) unless it is there. As in the everyday demonstration every part is a run
directory of its own, and a demonstration that was stopped goes on where it was.

Habernal and Gurevych 2016 (convarg); Ustalov 2023 (llmfao); Ouyang et al. 2022, section 3.5, hold labelers out too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from palate.corpus.pairs import ordered_pairs
from palate.demo.real_people_runs import FULL, SCALES, Pair, People, PeopleScale
from palate.evals import plots
from palate.evals.calibration import accuracy
from palate.evals.report import Report
from palate.evals.text import text_signals
from palate.evals.winrate import length_controlled, win_rate
from palate.feedback.statistics.pairwise_agreement import agreement
from palate.intervals import Estimate, Floats, bootstrap
from palate.lm.sources.zoo import Precision, load_language_model
from palate.objectives.divergence import best_of_n_kl_bound
from palate.randomness import derive_seed, permutation
from palate.records import Prompt, Ranking
from palate.rewards.learned import LearnedReward
from palate.stages.best_of_n import best_rows
from palate.stages.evaluate import NUM_SHOWN, Answers, Comparison, answers, compare, describe

__all__ = ["SCALES", "demo_people"]

METHODS = ("", "its own reward", "the judge", "words", "finished", "win rate", "at equal length", "KL")


def demo_people(
    out: Path,
    *,
    seed: int = 0,
    scale: PeopleScale = FULL,
    precision: Precision = "auto",
    data: Path = Path("data"),
) -> None:
    """Run it all into ``out`` and write ``report.html`` and ``report.json`` there.

    Args:
        data: where `palate data get` puts the public sets.
    """
    people = People(Path(out), seed, scale, data, precision)
    people.run()
    start = time.monotonic()
    report = Report("Palate: what real people said", f"{scale.model}, seed {seed}")
    describe_arguments(report, people)
    describe_arguing(report, people)
    describe_labelers(report, people)
    report.text("Not used of the data", "\n\n".join(people.notes))
    seconds = people.seconds() + time.monotonic() - start
    report.number("seconds", seconds, label="Seconds", note="all parts together")
    report.write(people.out)


def describe_arguments(report: Report, people: People) -> None:
    """Each reward model on the topics that the other learned from, beside length."""
    choices = people.read("arguments.jsonl", Ranking)
    said, topics = [], []
    for name, other, title in (("reward", "judge", "Reward model"), ("judge", "reward", "Second reward model")):
        pairs = people.pairs(name, [choice for choice in choices if choice.prompt.tags["half"] == other])
        right, longer = right_of(pairs, people.seed), longer_of(pairs, people.seed)
        report.number(
            f"{name}_accuracy",
            right.value,
            low=right.low,
            high=right.high,
            label=title,
            note=f"choices ordered as people did, on topics that it has not seen; the longer argument: {longer}",
        )
        report.data(f"{name}_longer_wins", asdict(longer))
        by_topic = {
            topic: [pair for pair in pairs if pair.topic == topic] for topic in sorted({p.topic for p in pairs})
        }
        said.append(
            f"{title}: from {len(choices) - len(pairs):,} choices on other topics it orders {right} of {len(pairs):,} "
            f"choices on {len(by_topic)} topics as people did; the longer argument is right in {longer}."
        )
        topics += [
            {
                "topic": topic,
                "model": name,
                "choices": len(about),
                "accuracy": right_of(about, people.seed).value,
                "longer_wins": longer_of(about, people.seed).value,
            }
            for topic, about in by_topic.items()
        ]
    report.data("topics", topics)
    report.text("Which argument convinces", "\n\n".join(said))
    report.table(
        "",
        ["topic", "by the", "choices", "ordered alike", "longer wins"],
        [list(topic.values()) for topic in topics],
        "Every topic by the model that has not seen it. Two sides of one topic give no interval worth having.",
    )


def describe_arguing(report: Report, people: People) -> None:
    """Arguments for sides that nobody judged: before, the best of n, after; by the judge."""
    prompts = people.read("held_out_sides.jsonl", Prompt)[: people.scale.sides]
    precision = people.precision
    judge, proxy = (LearnedReward(str(people.out / name), precision=precision) for name in ("judge", "reward"))
    base, trained = (
        load_language_model(name, precision=precision) for name in (people.scale.model, str(people.out / "reinforce"))
    )
    sampling = people.sampling
    found = compare(trained, base, prompts, judge, sampling, num_responses=people.scale.num_responses, seed=people.seed)
    seed = derive_seed(people.seed, "best of n")  # others than those that they are compared with
    pool = answers(base, prompts, judge, sampling, num_responses=people.scale.best_of, seed=seed)
    best = chosen(pool, proxy)
    describe(report, found)
    describe_methods(report, people, found, best, proxy)


def describe_methods(report: Report, people: People, found: Comparison, best: Answers, proxy: LearnedReward) -> None:
    """Side by side: nothing done, the best of n, REINFORCE."""
    before, num = found.baseline, people.scale.best_of
    methods = {
        "before": (before, None),
        f"best of {num}": (best, Estimate(best_of_n_kl_bound(num))),
        "REINFORCE": (found.model, found.kl),
    }
    rows, said = [], []
    for name, (theirs, kl) in methods.items():
        rollout, finished = theirs.rollout, text_signals(theirs.texts).finished
        scores = proxy(rollout.prompts, rollout.texts, rollout.sampled_tokens())
        row = [name, *(f"{mean:+.2f}" for mean in (float(scores.mean()), theirs.scores.mean()))]
        row += [f"{theirs.num_words().mean():.1f}", f"{finished:.2f}"]
        if kl is not None:
            won, even = against(theirs, before, people.seed)
            report.data(name.lower().replace(" ", "_"), {"won": asdict(won), "even": asdict(even), "kl": asdict(kl)})
            said.append(f"{name} is {_verdict(won)} ({won}), at equal length {_verdict(even)} ({even}).")
            row += [str(won), str(even), str(kl)]
        rows.append([*row, "", "", ""][: len(METHODS)])
    report.text(
        "Does it argue better?",
        f"By the second reward model, on {len(before.scores)} sides of debates that nobody judged, compared with the "
        f"model before: {' '.join(said)}\n\n"
        "The judge is a model too: it knows what convinced people on its topics, not whether an argument is true.",
    )
    report.table(
        "",
        METHODS,
        rows,
        "Rewards are in standard deviations over the arguments that each learned from; "
        f"the KL of the best of {num} is what it can be at most.",
    )
    rows_shown = permutation(len(best.scores), people.seed, "best shown")[:NUM_SHOWN].tolist()
    report.side_by_side(
        f"Before and best of {num}, chosen at random",
        [{"prompt": best.prompt(row), "before": before.text(row, 0), "best": best.text(row, 0)} for row in rows_shown],
    )


def against(theirs: Answers, before: Answers, seed: int) -> tuple[Estimate, Estimate]:
    """Win rate, and that at equal length."""
    rate = win_rate(theirs.scores, before.scores, seed=seed)
    words = theirs.num_words(), before.num_words()
    even = length_controlled(theirs.scores, before.scores, *words, seed=seed)
    return Estimate(rate.rate, rate.low, rate.high), even


def describe_labelers(report: Report, people: People) -> None:
    """People whom a reward model learned from, and people whom it never met."""
    judgements = people.read("judgements.jsonl", Ranking)
    held_out_in = people.folds(sorted({judgement.labeler for judgement in judgements}), "labelers")
    seen: list[Pair] = []
    unseen: list[Pair] = []
    for fold in map(str, range(people.scale.folds)):
        about = [judgement for judgement in judgements if judgement.prompt.tags["fold"] == fold]
        for pair in people.pairs(f"labelers_{fold}", about):
            (unseen if held_out_in[pair.labeler] == fold else seen).append(pair)
    difference = difference_of(seen, unseen, seed=people.seed)
    decided = [judgement for judgement in judgements if ordered_pairs(judgement)]
    agreed, agreed_on_all = (agreement(said, seed=people.seed) for said in (decided, judgements))
    figures = {
        "people it learned from": right_of(seen, people.seed),
        "people it never met": right_of(unseen, people.seed),
        "the longer answer": longer_of([*seen, *unseen], people.seed),
        "another labeler": Estimate(agreed.percent, agreed.low, agreed.high),
    }
    report.data("labelers", {name: asdict(estimate) for name, estimate in figures.items()})
    report.data("labelers_difference", asdict(difference))
    report.data("labelers_agree_with_ties", agreed_on_all.percent)
    report.figure(
        "Can a stranger's judgement be foretold?",
        plots.bars_with_intervals(list(figures), list(figures.values()), unit="preferences told rightly"),
        f"{len(seen):,} preferences of people whom the reward model learned from and {len(unseen):,} of people whom "
        f"it never met, {len(held_out_in)} in all; on {len({pair.prompt for pair in [*seen, *unseen]})} prompts, each "
        f"told by a model that has not seen it. Difference: {difference}.",
    )
    report.text(
        "",
        f"{_seen_or_not(difference)} The last bar is how often two labelers agree who both preferred an answer of a "
        f"pair. {1 - len(decided) / len(judgements):.0%} of the {len(judgements):,} judgements are ties; with these "
        f"(a lone tie is half) they agree in {agreed_on_all.percent or 0:.3f}.",
    )


def right_of(pairs: Sequence[Pair], seed: int) -> Estimate:
    """Share of the pairs that a reward model orders as people did."""
    return accuracy([pair.margin for pair in pairs], [pair.prompt for pair in pairs], seed=seed)


def longer_of(pairs: Sequence[Pair], seed: int) -> Estimate:
    """Share of the pairs in which people preferred the longer one."""
    return accuracy([pair.words for pair in pairs], [pair.prompt for pair in pairs], seed=seed)


def difference_of(seen: Sequence[Pair], unseen: Sequence[Pair], *, seed: int) -> Estimate:
    """Accuracy on the first minus that on the second; its interval by the prompts that both are about."""
    prompts = sorted({pair.prompt for pair in [*seen, *unseen]})
    place = {prompt: index for index, prompt in enumerate(prompts)}

    def totals(pairs: Sequence[Pair]) -> tuple[Floats, Floats]:
        right, number = np.zeros(len(prompts)), np.zeros(len(prompts))
        for pair in pairs:
            right[place[pair.prompt]] += (1 + np.sign(pair.margin)) / 2
            number[place[pair.prompt]] += 1
        return right, number

    (right_seen, num_seen), (right_unseen, num_unseen) = totals(seen), totals(unseen)

    def statistic(weights: Floats) -> float | None:
        below_seen, below_unseen = weights @ num_seen, weights @ num_unseen
        if not (below_seen and below_unseen):
            return None
        return float(weights @ right_seen / below_seen - weights @ right_unseen / below_unseen)

    return bootstrap(statistic, len(prompts), seed=seed)


def chosen(pool: Answers, proxy: LearnedReward) -> Answers:
    """Of n responses to each prompt the one that a reward model prefers."""
    rollout = pool.rollout
    scores = proxy(rollout.prompts, rollout.texts, rollout.sampled_tokens())
    rows = best_rows(scores.view(pool.scores.shape))
    index = torch.tensor(rows)
    picked = replace(
        rollout,
        prompts=tuple(rollout.prompts[row] for row in rows),
        texts=tuple(rollout.texts[row] for row in rows),
        sequences=rollout.sequences.select(index),
        logprobs=rollout.logprobs[index],
        ended=rollout.ended[index],
    )
    return Answers(rollout=picked, scores=pool.scores.reshape(-1)[rows][:, None])


def _verdict(won: Estimate) -> str:
    if won.low is not None and won.low > 0.5:
        return "better"
    return "worse" if won.high is not None and won.high < 0.5 else "neither better nor worse beyond chance"


def _seen_or_not(difference: Estimate) -> str:
    if difference.low is None or difference.high is None:
        return "Too few prompts to say whether it tells strangers less well."
    if difference.low > 0:
        return "It tells people whom it never met less well than those whom it learned from."
    if difference.high < 0:
        return "It tells people whom it never met better than those whom it learned from."
    return "It tells people whom it never met as well as those whom it learned from, as far as these prompts can say."
