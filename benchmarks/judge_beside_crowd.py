"""Pairs of answers with a crowd's single votes, for `palate judge` to be measured against.

    palate data get convarg
    python benchmarks/judge_beside_crowd.py data/convarg/crowd_votes.jsonl --out runs/crowd
    palate judge recipes/judge.toml --out runs/crowd/judged --set constitution=runs/crowd/principles.toml \\
        candidates.path=runs/crowd/votes.jsonl people.path=runs/crowd/votes.jsonl

Habernal and Gurevych 2016 ("Which argument is more convincing?", CC-BY 4.0): four or five votes to a pair of arguments
for one side of a debate. Nobody signed them, so the n-th vote on a pair is the n-th voter's.

    palate data get llmfao
    python benchmarks/judge_beside_crowd.py data/llmfao/crowd-comparisons.csv --pairs 70 --out runs/crowd

Ustalov 2023 (CC-BY 4.0): people's votes, with their names, on pairs of answers by language models to thirteen prompts.
Half of the people, by hash, are kept for a reward model to learn from (``others.jsonl``), on the pairs that are not
taken, so that it knows neither who judged nor what was judged; ``first.jsonl`` has the taken pairs of one model, its
answer first, of which a win rate is asked.

Of every side of a debate, or prompt, some pairs are taken, by hash.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palate.corpus.containers.files import read_rows
from palate.disk import write_text
from palate.records import Prompt, Ranking, Response, content_id

RANKS = {"a1": (1, 2), "equal": (1, 1), "a2": (2, 1), "left": (1, 2), "tie": (1, 1), "right": (2, 1)}
CONVINCING = """\
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
BETTER = """\
[[principles]]
name = "better"
compare = "Which answer is better?"
"""


@dataclass(slots=True)
class Pair:
    """Two answers and what people say of them.

    Attributes:
        group: the side of a debate, or the prompt.
        models: whose answers they are; empty where people wrote them.
    """

    id: str
    group: str
    models: tuple[str, ...] = ()
    votes: list[Ranking] = field(default_factory=list)

    def turned(self, model: str) -> Pair:
        """With this model's answer first, if it is one of the two."""
        if self.models[1:] != (model,):
            return self
        votes = [
            vote.model_copy(update={"responses": vote.responses[::-1], "ranks": vote.ranks[::-1]})
            for vote in self.votes
        ]
        return Pair(self.id, self.group, self.models[::-1], votes)


def arguments(path: Path) -> tuple[list[Pair], Counter[str]]:
    """Of convarg, and how many are left out for what reason."""
    pairs, left_out = [], Counter[str]()
    for row in read_rows(path):
        said: Any = row.fields
        if said["a1"] == said["a2"]:
            left_out["pairs of the same text"] += 1
            continue
        prompt = Prompt.from_text(f'Argue for this side of the debate "{said["title"]}": {said["stance"]}.')
        both = (Response(text=said["a1"]), Response(text=said["a2"]))
        votes = [Ranking(prompt=prompt, responses=both, ranks=RANKS[vote]) for vote in said["votes"]]
        pairs.append(Pair(said["id"], said["file"], votes=votes))
    return pairs, left_out


def models_answers(path: Path) -> tuple[list[Pair], Counter[str]]:
    """Of llmfao, the texts being in a file beside the votes; likewise."""
    suffix = "".join(path.name.partition(".csv")[2:])
    texts: dict[str, Any] = {
        str(row.fields["id"]): row.fields for row in read_rows(path.with_name(f"pairs-crowd.jsonl{suffix}"))
    }
    pairs: dict[str, Pair] = {}
    left_out: dict[str, str] = {}
    for row in read_rows(path):
        vote: Any = row.fields
        said, name = texts[str(vote["id"])], str(vote["id"])
        both = (said["result_x"] or "", said["result_y"] or "")
        if not all(text.strip() for text in both):
            left_out[name] = "pairs with an empty answer"
        elif both[0] == both[1]:
            left_out[name] = "pairs of the same text"
        else:
            pair = pairs.setdefault(name, Pair(name, said["slug"], (vote["left"], vote["right"])))
            prompt = Prompt.from_text(said["text"], tags={"kind": said["type"], "name": said["slug"]})
            responses = tuple(Response(text=text) for text in both)
            ranks, labeler = RANKS[vote["winner"]], f"worker {vote['worker']}"
            pair.votes.append(Ranking(prompt=prompt, responses=responses, ranks=ranks, labeler=labeler))
    return list(pairs.values()), Counter(left_out.values())


def taken(pairs: Iterable[Pair], number: int) -> list[Pair]:
    """So many of every group, by hash."""
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.group].append(pair)
    by_hash = [sorted(group, key=lambda pair: content_id(pair.id)) for group in groups.values()]
    return [pair for group in by_hash for pair in group[:number]]


def is_kept(vote: Ranking) -> bool:
    """Whether its labeler is one of those for a reward model to learn from."""
    return bool(vote.labeler) and int(content_id("kept", vote.labeler), 16) % 2 == 0


def lines(pairs: Iterable[Pair], which: Callable[[Ranking], bool]) -> str:
    """Votes on pairs, one a line."""
    return "".join(vote.to_json() + "\n" for pair in pairs for vote in pair.votes if which(vote))


def main() -> None:
    """Write votes and principles, and say how many there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="crowd_votes.jsonl of convarg, or crowd-comparisons.csv of llmfao")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=20, help="of every side or prompt; default: %(default)s")
    parser.add_argument("--model", default="", help="whose win rate is asked; default: the most frequent one")
    args = parser.parse_args()
    by_models = ".csv" in args.path.name
    every, left_out = (models_answers if by_models else arguments)(args.path)
    for reason, count in left_out.items():
        print(f"left out: {count} {reason}")
    chosen = taken(every, args.pairs)
    args.out.mkdir(parents=True, exist_ok=True)
    write_text(args.out / "principles.toml", BETTER if by_models else CONVINCING)
    if by_models:
        model = args.model or Counter(name for pair in every for name in pair.models).most_common(1)[0][0]
        ids = {pair.id for pair in chosen}
        others = lines((pair for pair in every if pair.id not in ids), is_kept)
        write_text(args.out / "others.jsonl", others)
        chosen = [pair.turned(model) for pair in chosen]
        of_model = lines((pair for pair in chosen if pair.models[0] == model), lambda vote: not is_kept(vote))
        write_text(args.out / "first.jsonl", of_model)
        print(f"{others.count(chr(10))} votes on other pairs by other people; {of_model.count(chr(10))} about {model}")
    votes = lines(chosen, lambda vote: not is_kept(vote))
    write_text(args.out / "votes.jsonl", votes)
    judged = sum(any(not is_kept(vote) for vote in pair.votes) for pair in chosen)
    print(f"{votes.count(chr(10))} votes on {judged} pairs, of {len({pair.group for pair in chosen})} groups")


if __name__ == "__main__":
    main()
