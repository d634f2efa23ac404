"""The demonstration on real people's judgements, on made-up data of the same shape and the tiny model."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from palate.cli import main
from palate.demo.debates import DEBATES, HELD_OUT_DEBATES, sides
from palate.demo.real_people import chosen, demo_people, difference_of
from palate.demo.real_people_runs import TINY, Pair, People
from palate.lm.batch import Sequences
from palate.records import Prompt, Ranking
from palate.rollout.engine import Rollout
from palate.stages.evaluate import Answers

ARGUMENTS = ("Yes.", "It is so because of this.", "No one can say, and that is all there is to it.", "Well, why not?")
ANSWERS = ("One.", "One and two.", "One, two and three, I think.", "")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files as `palate data get convarg llmfao` leaves them: people like the longer one, most of them."""
    folder = tmp_path_factory.mktemp("data")
    choices = [
        {"id": "x", "topic": topic, "stance": stance, "label": "a2" if len(a) < len(b) else "a1", "a1": a, "a2": b}
        for topic in ("rain ", "snow", "tea", "bread")
        for stance in ("for", "against")
        for a, b in combinations(ARGUMENTS, 2)
    ]
    pairs, judged = [], []
    for prompt in range(4):
        for (x, first), (y, second) in combinations(enumerate(ANSWERS), 2):
            about = {"id": len(pairs), "prompt": prompt, "model_x": x, "model_y": y}
            pairs.append(about | {"text": f"Count to {prompt}.", "result_x": first, "result_y": second})
            for worker in range(6):
                winner = "tie" if worker == 5 else "left" if (len(first) > len(second)) == (worker < 4) else "right"
                judged.append(about | {"worker": 50 + worker, "winner": winner, "left": f"m{x}", "right": f"m{y}"})
    for name, rows in (("convarg/strict_pairs.jsonl", choices), ("llmfao/pairs-crowd.jsonl", pairs)):
        (folder / name).parent.mkdir()
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with (folder / "llmfao" / "crowd-comparisons.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(judged[0]))
        writer.writeheader()
        writer.writerows(judged)
    return folder


@pytest.fixture(scope="module")
def out(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration, run once."""
    directory = tmp_path_factory.mktemp("runs") / "people"
    demo_people(directory, scale=TINY, data=data)
    return directory


def rankings(path: Path) -> list[Ranking]:
    return [Ranking.model_validate_json(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def numbers(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    return found


def test_each_reward_model_is_shown_on_the_topics_that_the_other_learned_from(out: Path) -> None:
    found = numbers(out)
    half = {item.prompt.tags["topic"]: item.prompt.tags["half"] for item in rankings(out / "arguments.jsonl")}
    assert sorted(half) == ["bread", "rain", "snow", "tea"]
    assert sorted(half.values()) == ["judge", "judge", "reward", "reward"]
    assert sorted(topic["topic"] for topic in found["topics"]) == sorted(half)
    assert all(topic["model"] != half[topic["topic"]] for topic in found["topics"])
    assert sum(topic["choices"] for topic in found["topics"]) == 8 * 6
    for name in ("reward", "judge"):  # as the stage itself measured it on what it held out
        stage = numbers(out / name)
        assert found[f"{name}_accuracy"] == pytest.approx(stage["accuracy"])
        assert found[f"{name}_longer_wins"]["value"] == stage["longer_wins"] == 1.0
        assert stage["held_out_pairs"] == 24


def test_a_fold_has_seen_neither_its_labelers_nor_its_prompts(data: Path, out: Path) -> None:
    everything = rankings(out / "judgements.jsonl")
    assert len(everything) == 4 * 3 * 6  # an empty answer is no answer
    people = People(out, 0, TINY, data)
    held_out_in = people.folds(sorted({item.labeler for item in everything}), "labelers")
    assert sorted(held_out_in.values()) == ["0"] * 3 + ["1"] * 3
    assert {item.prompt.tags["fold"] for item in everything} == {"0", "1"}
    for fold in ("0", "1"):
        learned = rankings(out / f"labelers_{fold}.jsonl")
        assert {item.labeler for item in learned} == {name for name, place in held_out_in.items() if place != fold}
        recipe = (out / f"labelers_{fold}" / "recipe.toml").read_text(encoding="utf-8")
        assert f'tag = "fold"\nvalue = "{fold}"' in recipe
        pairs = json.loads((out / f"labelers_{fold}_pairs.json").read_text(encoding="utf-8"))
        assert {pair["prompt"] for pair in pairs} == {
            item.prompt.id for item in everything if item.prompt.tags["fold"] == fold
        }
        seen = [pair for pair in pairs if held_out_in[pair["labeler"]] != fold]
        stage = numbers(out / f"labelers_{fold}")
        assert len(seen) == stage["held_out_pairs"]
        assert np.mean([pair["margin"] > 0 for pair in seen]) == pytest.approx(stage["accuracy"])


def test_the_page_says_what_came_of_it(out: Path) -> None:
    found, page = numbers(out), (out / "report.html").read_text(encoding="utf-8")
    assert set(found["labelers"]) == {
        "people it learned from",
        "people it never met",
        "the longer answer",
        "another labeler",
    }
    # four of five who prefer anything like the longer one; of the ten pairs of them six and one agree... see below
    assert found["labelers"]["the longer answer"]["value"] == pytest.approx(4 / 5)
    assert found["labelers"]["another labeler"]["value"] == pytest.approx(6 / 10)
    assert found["labelers_agree_with_ties"] == pytest.approx((6 + 5 / 2) / 15)
    for name in ("best_of_2", "reinforce"):
        assert 0 <= found[name]["won"]["low"] <= found[name]["won"]["value"] <= found[name]["won"]["high"] <= 1
    assert found["win_rate"] == found["reinforce"]["won"]["value"]
    for text in (
        "Which argument convinces",
        "Does it argue better?",
        "Before and after, chosen at random",
        "empty result",
    ):
        assert text in page


def test_what_is_finished_is_not_run_again(data: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = numbers(out)
    capsys.readouterr()
    demo_people(out, scale=TINY, data=data)
    assert "==" not in capsys.readouterr().out
    assert {**numbers(out), "seconds": 0} == {**before, "seconds": 0}


def test_a_part_of_the_judgements_is_drawn_by_the_seed_and_counted(data: Path, tmp_path: Path) -> None:
    drawn = []
    for seed in (0, 1):
        people = People(tmp_path, seed, replace(TINY, choices=2), data)
        people.arguments()
        drawn.append([item.id for item in rankings(tmp_path / "arguments.jsonl")])
        assert people.notes == ["drawn: 16 of 48 judgements, at most 2 of each prompt"]
    assert len(drawn[0]) == 16
    assert set(drawn[0]) != set(drawn[1])


def test_the_difference_of_two_accuracies_is_that_of_the_same_prompts() -> None:
    def pairs(prompt: str, *margins: float) -> list[Pair]:
        return [Pair(prompt=prompt, topic="", labeler="", margin=margin, words=0) for margin in margins]

    seen = [*pairs("a", 1.0, 1.0), *pairs("b", 1.0, -1.0)]
    unseen = [*pairs("a", 1.0, 0.0), *pairs("b", -1.0, -1.0)]
    found = difference_of(seen, unseen, seed=0)
    assert found.value == pytest.approx(3 / 4 - 1.5 / 4)
    # without a: 1/2 - 0, without b: 1 - 3/4; Student's t of one degree of freedom times their spread
    assert found.high == pytest.approx(0.375 + 12.706 * 0.125, abs=1e-3)


def test_the_best_of_n_is_what_the_reward_model_prefers() -> None:
    prompts = tuple(Prompt.from_text(text) for text in ("p", "p", "q", "q"))
    rollout = Rollout(
        prompts=prompts,
        texts=("a", "bb", "cc", "d"),
        sequences=Sequences.pack([[1]] * 4, [[2], [3], [4], [5]]),
        logprobs=torch.arange(8.0).view(4, 2),
        ended=torch.tensor([True, False, True, False]),
        temperature=1.0,
    )
    pool = Answers(rollout=rollout, scores=np.array([[1.0, 2.0], [3.0, 4.0]]))

    def longest(prompts: Any, responses: Any, tokens: Any = None) -> torch.Tensor:
        return torch.tensor([float(len(text)) for text in responses])

    best = chosen(pool, longest)  # type: ignore[arg-type]
    assert (best.texts, best.scores.tolist()) == (("bb", "cc"), [[2.0], [3.0]])
    assert best.rollout.sequences.tokens[:, 1].tolist() == [3, 4]
    assert best.rollout.ended.tolist() == [False, True]
    assert [best.prompt(0), best.prompt(1)] == ["p", "q"]


def test_held_out_debates_are_held_out() -> None:
    assert not {topic for topic, *_ in DEBATES} & {topic for topic, *_ in HELD_OUT_DEBATES}
    assert (len(sides(held_out=False)), len(sides(held_out=True))) == (48, 48)
    assert len({prompt.id for held_out in (False, True) for prompt in sides(held_out=held_out)}) == 96


def test_the_command_runs_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(
        "palate.demo.real_people.demo_people", lambda out, **kwargs: called.append((str(out), kwargs["seed"]))
    )
    monkeypatch.setattr("palate.demo.loop.demo", lambda out, **kwargs: called.append((str(out), kwargs["seed"])))
    assert [main(["demo", "people", "--seed", "3"]), main(["demo"]), main(["demo", "--out", "x"])] == [0, 0, 0]
    assert called == [("runs/people", 3), ("runs/demo", 0), ("x", 0)]


def test_data_that_cannot_be_had_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PALATE_DATA_MIRROR", str(tmp_path / "nowhere"))
    assert main(["demo", "people"]) == 2
    assert "the mirror has no such file" in capsys.readouterr().err
