"""The two benchmarks of a judge beside a crowd, on small files of the shapes that the public sets have."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from palate.records import Candidates, Prompt, Ranking, Response
from palate.stages.ai_feedback.both_orders import Asked, Judged

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
SHORT, LONG = "Tea.", "Tea, and then some more of it."
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return lambda name: __import__(name)


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def llmfao(folder: Path, pairs: Sequence[tuple[str, str, str, str]], workers: int) -> Path:
    """Pairs are (slug, left model, right model, left text); everybody prefers the left answer."""
    texts, votes = [], []
    for number, (slug, left, right, text) in enumerate(pairs):
        texts.append({"id": number, "text": f"Say {slug}", "type": f"kind of {slug}", "slug": slug})
        texts[-1] |= {"result_x": text, "result_y": f"{right} says {slug}"}
        votes += [
            {"id": number, "prompt": 1, "worker": worker, "winner": "left", "left": left, "right": right}
            for worker in range(workers)
        ]
    (folder / "pairs-crowd.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    with (folder / "crowd-comparisons.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(votes[0]))
        writer.writeheader()
        writer.writerows(votes)
    return folder / "crowd-comparisons.csv"


def test_models_answers(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load("judge_beside_crowd")
    pairs = [
        *(("tea", "a", f"b{number}", f"a says tea {number}") for number in range(4)),
        *(("mills", f"b{number}", "a", f"b says mills {number}") for number in range(4)),
        ("mills", "b", "c", ""),
        ("mills", "b", "c", "c says mills"),
    ]
    path = llmfao(tmp_path, pairs, workers=12)
    run(module, monkeypatch, path, "--pairs", 3, "--out", tmp_path / "out")
    votes, others, first = (
        [Ranking.model_validate(row) for row in rows_of(tmp_path / "out" / f"{name}.jsonl")]
        for name in ("votes", "others", "first")
    )
    judges, learned = ({vote.labeler for vote in part} for part in (votes, others))
    assert judges.isdisjoint(learned)
    assert len(judges | learned) == 12
    said, known = ({tuple(sorted(each.text for each in vote.responses)) for vote in part} for part in (votes, others))
    assert said.isdisjoint(known)
    assert (len(said), len(known)) == (6, 2)
    assert len(votes) == 6 * len(judges)
    # the model in question comes first, and who preferred the left answer still does
    assert {vote.responses[0].text[0] for vote in first} == {"a"}
    assert len(first) == len(votes)
    assert {(vote.prompt.tags["name"], vote.ranks) for vote in first} == {("tea", (1, 2)), ("mills", (2, 1))}
    assert votes[0].prompt.tags["kind"] == "kind of tea"
    told = capsys.readouterr().out
    assert "left out: 1 pairs with an empty answer" in told
    assert "left out: 1 pairs of the same text" in told
    assert f"{len(votes)} votes on 6 pairs, of 2 groups" in told
    assert "Which answer is better?" in (tmp_path / "out/principles.toml").read_text(encoding="utf-8")


def test_arguments(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("judge_beside_crowd")
    row = {"file": "f", "title": "Tea?", "stance": "yes", "a1": SHORT, "votes": ["a1", "equal", "a2"]}
    rows = [row | {"id": str(number), "a2": f"{LONG} {number}"} for number in range(3)]
    path = tmp_path / "crowd_votes.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in [*rows, row | {"id": "9", "a2": SHORT}]))
    run(module, monkeypatch, path, "--pairs", 2, "--out", tmp_path / "out")
    votes = rows_of(tmp_path / "out/votes.jsonl")
    assert [vote["ranks"] for vote in votes] == [[1, 2], [1, 1], [2, 1]] * 2
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["principles.toml", "votes.jsonl"]


def a_pair(number: int) -> Candidates:
    prompt = Prompt.from_text(f"{number}?")
    return Candidates(prompt=prompt, responses=(Response(text=f"{SHORT} {number}"), Response(text=f"{LONG} {number}")))


def test_what_judges_are_worth(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """People prefer the longer one in three of four pairs; the model says A to everything, and leans to the longer."""
    module = load("judge_corrected")
    pairs = [a_pair(number) for number in range(40)]
    people = [
        Ranking(prompt=pair.prompt, responses=pair.responses, ranks=(1, 2) if number % 4 == 0 else (2, 1), labeler=name)
        for number, pair in enumerate(pairs)
        for name in ("ann", "bob")
    ]
    judged = [
        Judged(
            prompt=pair.prompt,
            responses=pair.responses,
            asked=(Asked(principle="p", pair=(0, 1), first=(0.8, 0.9), reasons=()),),
        )
        for pair in pairs
    ]
    turned = [vote.model_copy(update={"responses": vote.responses[::-1], "ranks": vote.ranks[::-1]}) for vote in people]
    files: dict[str, Sequence[Ranking | Judged]] = {"verdicts": judged, "votes": people, "first": turned}
    for name, records in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(each.to_json() + "\n" for each in records), encoding="utf-8")

    class Scores:
        def __init__(self, name: str) -> None:
            assert name == "a-reward"

        def __call__(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Any:
            import torch

            numbers = [int(prompt.text[:-1]) for prompt in prompts]
            right = [(number % 4 != 0) == (LONG in text) for number, text in zip(numbers, texts, strict=True)]
            return torch.tensor(right, dtype=torch.float32)

    monkeypatch.setattr(module, "LearnedReward", Scores)
    arguments = [tmp_path / "verdicts.jsonl", tmp_path / "votes.jsonl", "--draws", 20, "--people-judge", 20]
    run(module, monkeypatch, *arguments, "--first", tmp_path / "first.jsonl", "--reward", "a-reward")
    said = capsys.readouterr().out.splitlines()
    agreement = {line.split()[0]: line.split()[1] for line in said[1:7]}
    assert agreement == {
        "same": "0.500",
        "mean": "0.750",
        "longer": "0.750",
        "reward": "1.000",
        "ties": "0.500",
        "people": "1.000",
    }
    assert said[1].endswith("of 80 verdicts")
    worth = {line.split('"')[1]: said[place : place + 4] for place, line in enumerate(said) if "verdict =" in line}
    assert list(worth) == ["same", "mean", "longer", "reward", "a person"]
    assert all("40 pairs, 40 prompts; people 0.750" in lines[0] for lines in worth.values()), "the longer one is first"
    assert "the judge alone 0.500; counts 0.00" in worth["same"][1]
    assert "the judge alone 0.750" in worth["reward"][1]
    halves = {name: [float(line.split("minus ")[1][:5]) for line in lines[2:]] for name, lines in worth.items()}
    assert halves["same"][0] == halves["same"][1] == halves["reward"][0]
    assert halves["reward"][1] < 0.8 * halves["reward"][0], "a judge that is right narrows it"
    assert halves["a person"] == halves["reward"], "ann and bob say the same"
    run(module, monkeypatch, *arguments)
    assert "people 0.250" in capsys.readouterr().out, "without --first it is the pair's own first answer"


def test_one_vote_is_drawn_of_each_pair_and_held_against_the_others(load: Load) -> None:
    module = load("judge_corrected")
    votes = [
        Ranking(prompt=a_pair(number).prompt, responses=a_pair(number).responses[::order], ranks=(1, 2), labeler=name)
        for number in range(20)
        for name, order in (("ann", 1), ("bob", -1), ("cy", 1))[: 1 if number == 7 else 3]
    ]
    one, others = module.one_and_others(votes)
    assert (len(one), len(others)) == (19, 38), "one that is alone has no other to be held against"
    assert {vote.to_json() for vote in one}.isdisjoint(vote.to_json() for vote in others)
    assert {vote.labeler for vote in one} == {"ann", "bob", "cy"}
    assert len({vote.prompt.id for vote in one}) == 19
