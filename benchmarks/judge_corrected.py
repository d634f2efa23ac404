"""What is a judge worth beside a few people? On pairs that both have judged, with most of people's verdicts put away.

    python benchmarks/judge_corrected.py runs/crowd/judged/verdicts.jsonl runs/crowd/votes.jsonl

The first argument is written by `palate judge`, the second holds people's verdicts on the same pairs. So many pairs are
drawn by lot, again and again; on those people's verdicts are known, on the others the judge's alone. What all people
said of all pairs is what is looked for: how often the first answer is preferred.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from palate.feedback.statistics.prediction_powered import corrected_mean
from palate.randomness import permutation
from palate.records import Ranking
from palate.stages.ai_feedback.both_orders import Judged


def main() -> None:
    """A line for each rule of a verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verdicts", type=Path)
    parser.add_argument("people", type=Path)
    parser.add_argument("--people-judge", type=int, default=36, help="pairs; default: %(default)s")
    parser.add_argument("--draws", type=int, default=500)
    args = parser.parse_args()
    votes: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for line in args.people.read_text(encoding="utf-8").splitlines():
        ranking = Ranking.model_validate_json(line)
        first, second = (response.text for response in ranking.responses)
        share = 0.5 + 0.5 * (int(ranking.ranks[0] < ranking.ranks[1]) - int(ranking.ranks[0] > ranking.ranks[1]))
        votes[ranking.prompt.id, first, second].append(share)
        votes[ranking.prompt.id, second, first].append(1 - share)
    judged = [Judged.model_validate_json(line) for line in args.verdicts.read_text(encoding="utf-8").splitlines()]
    for rule in ("same", "mean"):
        rows = []
        for item in judged:
            for pair, verdict in item.model_copy(update={"rule": rule}).verdicts():
                key = (item.prompt.id, *(item.responses[place].text for place in pair))
                if key in votes:
                    rows.append((0.5 + 0.5 * verdict, float(np.mean(votes[key])), item.prompt.id))
        report(rule, rows, args.people_judge, args.draws)


def report(rule: str, rows: list[tuple[float, float, str]], count: int, draws: int) -> None:
    """Coverage and width over all draws."""
    judge, people = (np.array(values) for values in list(zip(*rows, strict=True))[:2])
    prompts, truth = [row[2] for row in rows], float(people.mean())
    found = []
    for number in range(draws):
        known = permutation(len(rows), number, "people")[:count]
        some = np.full(len(rows), np.nan)
        some[known] = people[known]
        found.append(corrected_mean(judge, some, prompts))
    print(f'verdict = "{rule}": {len(rows)} pairs, {len(set(prompts))} prompts; people {truth:.3f}')
    print(f"  the judge alone {found[0].judge}; counts {np.mean([each.trust for each in found]):.2f} on average")
    for name in ("people", "corrected"):
        each = [getattr(one, name) for one in found]
        covered = np.mean([one.low <= truth <= one.high for one in each])
        print(f"  {name}: plus or minus {np.mean([one.high - one.low for one in each]) / 2:.3f}, covers {covered:.3f}")


if __name__ == "__main__":
    main()
