"""Does a model that judges by a reader's principles follow them? Where it can be counted: principles about length.

    palate demo --out runs/demo
    python benchmarks/principles_beside_length.py runs/demo/rankings.jsonl --model smollm2-135m

Of every two answers to a prompt with different numbers of words: how often has the shorter one the higher log-odds of
Yes? By "be brief" it should be always, and by "be long" never. With intervals by prompt. Beside it how often a verdict
of `palate judge` would change with the order.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

from palate.corpus import read_candidates
from palate.intervals import ratio_estimate
from palate.lm.sources.zoo import load_language_model
from palate.recipe import Data, Principle, Sampling
from palate.rewards.judges.local_judge import LocalJudge
from palate.rewards.judges.questions import question
from palate.rewards.judges.reader_principles import PrinciplesReward
from palate.words import count_words

PRINCIPLES = {
    "Be brief.": "Which answer is briefer?",
    "Be long and detailed.": "Which answer is longer and more detailed?",
}


def main() -> None:
    """A line for each principle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="candidates, or rankings")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompts", type=int, default=40)
    args = parser.parse_args()
    judge = LocalJudge(load_language_model(args.model), Sampling(), seed=0)
    items = {item.prompt.id: item for item in read_candidates(Data(path=str(args.path))).records}
    items = dict(sorted(items.items())[: args.prompts])
    for principle, compare in PRINCIPLES.items():
        shorter: list[list[float]] = []
        flips: list[list[float]] = []
        for item in items.values():
            texts = list(dict.fromkeys(response.text for response in item.responses))
            if len(texts) < 2:
                continue
            odds = PrinciplesReward(judge, (principle,)).by_principle([item.prompt] * len(texts), texts)[0].tolist()
            pairs = [(a, b) for a, b in combinations(range(len(texts)), 2)]
            words = [count_words(text) for text in texts]
            told = [(a, b) for a, b in pairs if words[a] != words[b]]
            shorter.append([float((odds[a] > odds[b]) == (words[a] < words[b])) for a, b in told])
            asked = Principle(name="p", compare=compare)
            both = [
                [question(item.prompt, (texts[a], texts[b]), asked), question(item.prompt, (texts[b], texts[a]), asked)]
                for a, b in pairs
            ]
            shares = [choice.first for choice in judge.choose([each for pair in both for each in pair])]
            flips.append(
                [float((one > 0.5) == (two > 0.5)) for one, two in zip(shares[::2], shares[1::2], strict=True)]
            )
        for name, found in (("the shorter one has more", shorter), ("pairs that flip", flips)):
            estimate = ratio_estimate([sum(row) for row in found], [len(row) for row in found], seed=0, share=True)
            print(f"{principle:24} {name:26} {estimate}   of {sum(map(len, found))} pairs, {len(found)} prompts")


if __name__ == "__main__":
    main()
