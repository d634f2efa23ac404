"""Two models' answers to the same prompts, by several judges at once: means before and after, with intervals, drawn.

    palate sample recipes/sample.toml --out runs/before --set model=runs/mine/sft prompts.path=sums.jsonl ...
    palate sample recipes/sample.toml --out runs/after --set model=runs/mine/verified prompts.path=sums.jsonl ...
    python benchmarks/before_after.py runs/before/candidates.jsonl runs/after/candidates.jsonl --out runs/judged.svg \\
        --judge "right={ verifier = { kind = 'number' } }" \\
        --judge "well-formed={ verifier = { kind = 'pattern', must_match = ['(?m)^#### '] } }"

A judge is any term of a reward, as `palate eval` takes one; here the answers are drawn once for all of them. Prompts
come with their tags from the samples.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palate.arguments import pair
from palate.corpus import read_candidates
from palate.errors import DataError
from palate.evals import plots
from palate.evals.taste_parts import change, mean_score
from palate.intervals import Estimate
from palate.recipe import Data, Reward
from palate.records import Candidates
from palate.rewards.mix import Mix


def scores(judge: Mix, answers: Sequence[Candidates]) -> NDArray[np.float64]:
    """[P, M] of M answers to each of P prompts.

    Raises:
        DataError: not as many answers to each.
    """
    each = len(answers[0].responses)
    if any(len(item.responses) != each for item in answers):
        raise DataError("every prompt must have as many answers as the others")
    prompts = [item.prompt for item in answers for _ in item.responses]
    texts = [response.text for item in answers for response in item.responses]
    return np.asarray(judge(prompts, texts).double().numpy().reshape(-1, each))


def same_prompts(before: Sequence[Candidates], after: Sequence[Candidates]) -> list[Candidates]:
    """Those after in the order of those before.

    Raises:
        DataError: they are not the same.
    """
    by_prompt = {item.prompt.id: item for item in after}
    if by_prompt.keys() != {item.prompt.id for item in before} or len(by_prompt) != len(before):
        raise DataError("the two files do not have the same prompts")
    return [by_prompt[item.prompt.id] for item in before]


def main() -> None:
    """Print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="candidates.jsonl of the model before")
    parser.add_argument("after", type=Path, help="of the model after")
    parser.add_argument("--judge", type=pair, action="append", required=True, metavar="NAME=TERM", help="repeat")
    parser.add_argument("--out", type=Path, required=True, help="the picture, SVG")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals; default: %(default)s")
    args = parser.parse_args()
    before = read_candidates(Data(path=str(args.before))).records
    after = same_prompts(before, read_candidates(Data(path=str(args.after))).records)
    bars: dict[str, Estimate] = {}
    shares = True
    for name, term in args.judge:
        judge = Mix((Reward.model_validate(tomllib.loads(f"term = {term}")["term"]),), precision="auto")
        first, second = scores(judge, before), scores(judge, after)
        bars[f"{name}, before"], bars[f"{name}, after"] = (mean_score(each, seed=args.seed) for each in (first, second))
        shares = shares and all(each.min() >= 0 and each.max() <= 1 for each in (first, second))
        gained = change(first, second, seed=args.seed)
        print(f"{name}: {bars[f'{name}, before']} before, {bars[f'{name}, after']} after, {gained} {gained.direction}")
    args.out.write_text(plots.bars_with_intervals(list(bars), list(bars.values()), percent=shares), encoding="utf-8")


if __name__ == "__main__":
    main()
