"""Pairs of arguments with a crowd's single votes, for `palate judge` to be measured against.

    palate data get convarg
    python benchmarks/judge_beside_crowd.py data/convarg/crowd_votes.jsonl --out runs/crowd
    palate judge recipes/judge.toml --out runs/crowd/judged --set constitution=runs/crowd/convincing.toml \\
        candidates.path=runs/crowd/votes.jsonl people.path=runs/crowd/votes.jsonl

Habernal and Gurevych 2016 ("Which argument is more convincing?", CC-BY 4.0): four or five votes to a pair of arguments
for one side of a debate. Nobody signed them, so the n-th vote on a pair is the n-th voter's. Of every side of a debate
some pairs are taken, by hash.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

from palate.corpus.containers.files import read_rows
from palate.disk import write_text
from palate.records import Prompt, Ranking, Response, content_id

RANKS = {"a1": (1, 2), "equal": (1, 1), "a2": (2, 1)}
CONSTITUTION = """\
[[principles]]
name = "convincing"
compare = "Which argument is more convincing?"

[[principles]]
name = "to the point"
compare = "Which argument is more to the point of the debate?"

[[principles]]
name = "clear"
compare = "Which argument is easier to understand?"
"""


def votes(row: Any) -> list[Ranking]:
    """One for each vote on a pair."""
    prompt = Prompt.from_text(f'Argue for this side of the debate "{row["title"]}": {row["stance"]}.')
    pair = (Response(text=row["a1"]), Response(text=row["a2"]))
    return [Ranking(prompt=prompt, responses=pair, ranks=RANKS[vote]) for vote in row["votes"]]


def main() -> None:
    """Write the votes and the principles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="crowd_votes.jsonl of `palate data get convarg`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=20, help="of every side of a debate; default: %(default)s")
    args = parser.parse_args()
    sides: dict[str, list[Any]] = defaultdict(list)
    for row in read_rows(args.path):
        if row.fields["a1"] != row.fields["a2"]:
            sides[row.fields["file"]].append(row.fields)
    args.out.mkdir(parents=True, exist_ok=True)
    by_hash = [sorted(rows, key=lambda row: content_id(row["id"])) for rows in sides.values()]
    chosen = [row for rows in by_hash for row in rows[: args.pairs]]
    lines = [vote.to_json() + "\n" for row in chosen for vote in votes(row)]
    write_text(args.out / "votes.jsonl", "".join(lines))
    write_text(args.out / "convincing.toml", CONSTITUTION)
    print(f"{len(lines)} votes on {len(chosen)} pairs from {len(sides)} sides of debates")


if __name__ == "__main__":
    main()
