"""What is a judge worth beside a few people? On pairs that both have judged, with most of people's verdicts put away.

    python benchmarks/judge_corrected.py runs/crowd/judged/verdicts.jsonl runs/crowd/votes.jsonl

The first argument is written by `palate judge`, the second holds people's verdicts on the same pairs. How far does a
judge agree with people? And so many pairs are drawn by lot, again and again; on those people's verdicts are known, on
the others the judge's alone. What all people said of all pairs is what is looked for: how often the first answer is
preferred, or with `--first` the first of each record of a file.

    same, mean   the model, by either rule of a verdict
    longer       whoever prefers the answer with more words
    reward       a reward model (`--reward`), whose higher score is preferred
    a person     one of the people, by lot for each pair, held against the others: what a judge can be at best
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from palate.feedback.statistics.prediction_powered import corrected_mean
from palate.randomness import permutation
from palate.records import Prompt, Ranking
from palate.rewards.learned import LearnedReward
from palate.stages.ai_feedback.beside_people import beside_people
from palate.stages.ai_feedback.both_orders import Judged
from palate.words import count_words

Pair = tuple[str, str, str]
"""The prompt's id, and the texts of the first answer and of the second."""


def rankings_in(path: Path) -> list[Ranking]:
    """One on each line."""
    return [Ranking.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pair_of(ranking: Ranking) -> Pair:
    """In its order."""
    first, second = (response.text for response in ranking.responses)
    return ranking.prompt.id, first, second


def share_for_first(rankings: Iterable[Ranking]) -> dict[Pair, float]:
    """How far they are for the first answer, ties half; for each pair in both orders, mean over its rankings."""
    votes: dict[Pair, list[float]] = defaultdict(list)
    for ranking in rankings:
        prompt, first, second = pair_of(ranking)
        one, other = ranking.ranks
        share = 0.5 + 0.5 * (int(one < other) - int(one > other))
        votes[prompt, first, second].append(share)
        votes[prompt, second, first].append(1 - share)
    return {pair: float(np.mean(each)) for pair, each in votes.items()}


def by_numbers(rankings: Iterable[Ranking], numbers: dict[tuple[str, str], float], name: str) -> list[Ranking]:
    """The same pairs judged by a number for each answer, by the prompt's id and the text."""
    found = []
    for ranking in rankings:
        one, other = (numbers[ranking.prompt.id, response.text] for response in ranking.responses)
        ranks = (1 + (one < other), 1 + (other < one))
        found.append(ranking.model_copy(update={"ranks": ranks, "labeler": f"ai:{name}"}))
    return found


def judges_of(judged: Sequence[Judged], reward: str) -> dict[str, list[Ranking]]:
    """Each under its name, on the same pairs."""
    found = {
        rule: [
            ranking
            for item in judged
            for ranking in item.model_copy(update={"rule": rule}).rankings(model=rule, constitution="")
        ]
        for rule in ("same", "mean")
    }
    answers: dict[tuple[str, str], Prompt] = {
        (ranking.prompt.id, response.text): ranking.prompt
        for ranking in found["same"]
        for response in ranking.responses
    }
    words = {answer: float(count_words(answer[1])) for answer in answers}
    found["longer"] = by_numbers(found["same"], words, "longer")
    if reward:
        scores = LearnedReward(reward)(list(answers.values()), [text for _, text in answers]).tolist()
        found["reward"] = by_numbers(found["same"], dict(zip(answers, scores, strict=True)), "reward")
    return found


def one_and_others(people: Iterable[Ranking]) -> tuple[list[Ranking], list[Ranking]]:
    """Of every pair that two people or more have judged one vote, by lot, and the others."""
    votes: dict[tuple[str, frozenset[str]], list[Ranking]] = defaultdict(list)
    for ranking in people:
        prompt, *texts = pair_of(ranking)
        votes[prompt, frozenset(texts)].append(ranking)
    one: list[Ranking] = []
    others: list[Ranking] = []
    for number, each in enumerate(votes.values()):
        if len(each) > 1:
            drawn = int(permutation(len(each), number, "one of them")[0])
            one.append(each[drawn])
            others += each[:drawn] + each[drawn + 1 :]
    return one, others


def agreements(judges: dict[str, list[Ranking]], people: Sequence[Ranking]) -> None:
    """A line for each judge, and one for people."""
    print("agreement with people, a lone tie counting one half; intervals by prompt")
    for name, rankings in judges.items():
        beside = beside_people(rankings, people, seed=0)
        print(f"  {name:8} {beside.with_people}   of {beside.num_with_people:,} verdicts")
    print(f"  ties     {beside.of_ties}\n  people   {beside.of_people}   with each other, {beside.num_of_people:,}")


def worth(name: str, rows: Sequence[tuple[float, float, str]], count: int, draws: int) -> None:
    """Coverage and width over all draws.

    Args:
        rows: of each pair: the judge's share for the first answer, people's, and the prompt.
        count: pairs of which people's verdict is known.
    """
    judge, people = (np.array(values) for values in list(zip(*rows, strict=True))[:2])
    prompts, truth = [row[2] for row in rows], float(people.mean())
    found = []
    for number in range(draws):
        known = permutation(len(rows), number, "people")[:count]
        some = np.full(len(rows), np.nan)
        some[known] = people[known]
        found.append(corrected_mean(judge, some, prompts))
    print(f'verdict = "{name}": {len(rows)} pairs, {len(set(prompts))} prompts; people {truth:.3f}')
    print(f"  the judge alone {found[0].judge}; counts {np.mean([each.trust for each in found]):.2f} on average")
    for which in ("people", "corrected"):
        each = [getattr(one, which) for one in found]
        covered = np.mean([one.low <= truth <= one.high for one in each])
        half = np.mean([one.high - one.low for one in each]) / 2
        off = np.std([one.value for one in each])
        print(f"  {which}: plus or minus {half:.3f}, covers {covered:.3f}, off by {off:.3f} (standard deviation)")


def main() -> None:
    """Agreement, and what each judge is worth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verdicts", type=Path)
    parser.add_argument("people", type=Path)
    parser.add_argument("--first", type=Path, help="rankings, the answer in question first; default: all pairs")
    parser.add_argument("--reward", default="", help="a reward model that judges as well")
    parser.add_argument("--people-judge", type=int, default=36, help="pairs; default: %(default)s")
    parser.add_argument("--draws", type=int, default=500)
    args = parser.parse_args()
    people = rankings_in(args.people)
    judged = [Judged.model_validate_json(line) for line in args.verdicts.read_text(encoding="utf-8").splitlines()]
    judges = judges_of(judged, args.reward)
    agreements(judges, people)
    asked = dict.fromkeys(pair_of(each) for each in (rankings_in(args.first) if args.first else judges["same"]))
    by_people = share_for_first(people)
    held = {name: (share_for_first(rankings), by_people) for name, rankings in judges.items()}
    one, others = one_and_others(people)
    held["a person"] = share_for_first(one), share_for_first(others)
    for name, (said, truth) in held.items():
        rows = [(said[pair], truth[pair], pair[0]) for pair in asked if pair in said and pair in truth]
        worth(name, rows, args.people_judge, args.draws)


if __name__ == "__main__":
    main()
