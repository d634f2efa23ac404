"""Do ratings or ranks of responses foretell better what another labeler says?

    python benchmarks/ranks_or_ratings.py data/squality/all-responses.jsonl

The file (SQuALITY, Wang et al. 2022, CC-BY 4.0): three answers to each of 100 questions, each rated from 0 to 100 and
ranked by the same three labelers, on correctness, coverage and overall. One labeler of a question is held out; the
order of every two answers that they told apart is foretold by the others:

    ranks       mean rank of the two others
    ratings     mean rating of the two others
    in units    mean of ratings, each minus its labeler's mean and divided by their spread, over all they rated
    one's ...   the same of a single other labeler, mean over both
    shuffled    the others' ranks, dealt out to other answers of the question: a control, one half

Equal means are half right. Intervals are by passage: its questions share labelers and subject. All of it is about what
people said once; nobody ranked on one day and rated on another, so the two are less independent than they look.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from palate.corpus.containers.files import read_rows
from palate.intervals import Estimate, Floats, ratio_estimate
from palate.randomness import permutation

ASPECTS = {"overall": "overall", "correctness": "correctness", "coverage": "selection"}
ONE = "one's "


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What L labelers said of K answers.

    Attributes:
        ranks: [L, K], 1 is best.
        ratings: [L, K], 0 to 100.
    """

    passage: str
    labelers: tuple[str, ...]
    ranks: Floats
    ratings: Floats


def read(path: Path, aspect: str) -> list[Question]:
    """Every question of which three or more people judged all answers; the others are left out."""
    found = []
    for row in read_rows(path):
        for systems in row.fields["questions"].values():
            said: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
            for system, answer in sorted(systems.items()):
                for review in answer["reviews"]:
                    numbers = review[f"{aspect}-rank"], review[f"{aspect}-rating"]
                    said[str(review["worker_id"])][system] = (float(numbers[0]), float(numbers[1]))
            whole = {name: by for name, by in said.items() if len(by) == len(systems)}
            if len(whole) < 3:
                continue
            table = np.array([[by[system] for system in sorted(systems)] for by in whole.values()])
            found.append(
                Question(
                    passage=str(row.fields["passage-id"]),
                    labelers=tuple(whole),
                    ranks=table[:, :, 0],
                    ratings=table[:, :, 1],
                )
            )
    return found


def in_units(questions: Sequence[Question]) -> list[Floats]:
    """[L, K] ratings of each question, in units of each labeler's own."""
    given: dict[str, list[float]] = defaultdict(list)
    for question in questions:
        for name, ratings in zip(question.labelers, question.ratings, strict=True):
            given[name] += ratings.tolist()
    units = {name: (float(np.mean(all_)), float(np.std(all_)) or 1.0) for name, all_ in given.items()}
    return [
        np.array([(r - units[n][0]) / units[n][1] for n, r in zip(q.labelers, q.ratings, strict=True)])
        for q in questions
    ]


def predictors(questions: Sequence[Question]) -> dict[str, list[Floats]]:
    """By name, of each question [L, K] numbers of which the greater is the better."""
    ranks = [-question.ranks for question in questions]
    return {
        "ranks": ranks,
        "ratings": [question.ratings for question in questions],
        "in units": in_units(questions),
        "shuffled": [said[:, permutation(said.shape[1], 0, "shuffled", number)] for number, said in enumerate(ranks)],
    }


def foretold(questions: Sequence[Question], target: str) -> dict[str, Mapping[str, tuple[float, int]]]:
    """By predictor and passage: how many of how many orders were told rightly."""
    found: dict[str, dict[str, tuple[float, int]]] = {}
    for name, values in predictors(questions).items():
        for prefix, alone in (("", False), (ONE, True)):
            by_passage: dict[str, tuple[float, int]] = {}
            for question, numbers in zip(questions, values, strict=True):
                truth = -question.ranks if target == "ranks" else question.ratings
                for held_out in range(len(truth)):
                    others = np.delete(numbers, held_out, axis=0)
                    telling = others if alone else others.mean(0, keepdims=True)
                    for a, b in combinations(range(truth.shape[1]), 2):
                        order = np.sign(truth[held_out, a] - truth[held_out, b])
                        if order:
                            right = 0.5 + 0.5 * float(np.mean(order * np.sign(telling[:, a] - telling[:, b])))
                            before = by_passage.get(question.passage, (0.0, 0))
                            by_passage[question.passage] = (before[0] + right, before[1] + 1)
            found[prefix + name] = by_passage
    return found


def share(found: Mapping[str, tuple[float, int]]) -> Estimate:
    """Of orders told rightly, its interval by passage."""
    right, number = zip(*found.values(), strict=True)
    return ratio_estimate(right, number, seed=0, share=True)


def gained(found: Mapping[str, tuple[float, int]], than: Mapping[str, tuple[float, int]]) -> Estimate:
    """Difference of two shares of the same orders, by passage."""
    right = [found[passage][0] - than[passage][0] for passage in found]
    return ratio_estimate(right, [number for _, number in found.values()], seed=0)


def main() -> None:
    """Print a table for each aspect, and for what is foretold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="all-responses.jsonl of `palate data get squality`")
    path = parser.parse_args().path
    for title, aspect in ASPECTS.items():
        questions = read(path, aspect)
        passages = len({question.passage for question in questions})
        print(f"\n{title}: {len(questions)} questions on {passages} passages")
        for target in ("ranks", "ratings"):
            found = foretold(questions, target)
            orders = sum(number for _, number in found["ranks"].values())
            print(f"  {orders} orders by the {target} of who is held out")
            for name, by in found.items():
                than = found[ONE + "ranks" if name.startswith(ONE) else "ranks"]
                difference = "" if by is than else f"   than ranks {_points(gained(by, than))}"
                print(f"    {name:16s} {share(by)}{difference}")


def _points(estimate: Estimate) -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return str(estimate)
    return f"{100 * estimate.value:+.1f} ({100 * estimate.low:+.1f} to {100 * estimate.high:+.1f})"


if __name__ == "__main__":
    main()
