"""Votes to pairs: each caution by hand, nothing lost without a count, planted preferences found, planted traps not."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.corpus import read_rankings
from palate.corpus.mined.forum_scores import Answer, Pair, all_pairs, pairs_of, score_of, seconds_of, with_longer_share
from palate.corpus.mined.miners import mine
from palate.corpus.mined.mining_report import Mining
from palate.errors import DataError
from palate.recipe import Data, ForumMining
from palate.records import Prompt

HOUR = 3600.0
WHY = Prompt.from_text("Why?")


def answer(votes: float, *, hours: float | None = 0.0, text: str = "", accepted: bool = False) -> Answer:
    seconds = None if hours is None else hours * HOUR
    return Answer(place="f:1", text=text or f"{votes:g} at {hours}", votes=votes, seconds=seconds, accepted=accepted)


def report(tmp_path: Path = Path()) -> Mining:
    return Mining(title="", out=tmp_path / "out.jsonl", directory=tmp_path)


def made(answers: list[Answer], **settings: Any) -> tuple[list[tuple[float, float]], dict[str, int]]:
    """The votes of each pair, and what was left out."""
    told = report()
    pairs = pairs_of(WHY, answers, ForumMining(**settings), told)
    assert len(pairs) + sum(told.left_out.values()) == told.read["pairs of answers"]
    return [(pair.better.votes, pair.worse.votes) for pair in pairs], {
        reason: n for (_, reason), n in told.left_out.items()
    }


@pytest.mark.parametrize(
    ("answers", "settings", "reason"),
    [
        ([answer(5), answer(5, hours=1)], {}, "equal scores"),
        ([answer(5), answer(4, hours=-1)], {}, "scores closer than min_gap"),
        ([answer(0), answer(-9)], {}, "the better one has less than min_score"),
        ([answer(9), answer(5)], {"min_ratio": 2}, "ratio of scores below min_ratio"),
        ([answer(9), answer(1, hours=0.5)], {}, "the better one is older by more than max_head_start_hours"),
        ([answer(9, hours=None), answer(1)], {}, "no time of writing (require_times=false keeps such pairs)"),
        ([answer(9, text="one"), answer(1, text="one")], {}, "the same text twice"),
    ],
)
def test_each_caution_leaves_a_pair_out(answers: list[Answer], settings: dict[str, Any], reason: str) -> None:
    for order in (answers, answers[::-1]):
        assert made(order, **settings) == ([], {reason: 1})


@pytest.mark.parametrize(
    ("answers", "settings"),
    [
        ([answer(5), answer(4)], {"min_gap": 1}),
        ([answer(0), answer(-9)], {"min_score": 0}),
        ([answer(10), answer(5)], {"min_ratio": 2}),
        ([answer(3), answer(-1)], {"min_ratio": 50}),
        ([answer(9), answer(1, hours=0.5)], {"max_head_start_hours": 0.5}),
        ([answer(9, hours=7), answer(1)], {}),
        ([answer(9, hours=None), answer(1)], {"require_times": False}),
    ],
)
def test_each_caution_lets_a_pair_pass(answers: list[Answer], settings: dict[str, Any]) -> None:
    higher, lower = (each.votes for each in answers)
    for order in (answers, answers[::-1]):
        assert made(order, **settings) == ([(higher, lower)], {})


@pytest.mark.parametrize(
    ("votes", "accepted", "score"), [(0, False, 0), (1, False, 1), (6, False, 3), (10, True, 4), (-3, True, -1)]
)
def test_the_logarithmic_scale_by_hand(votes: float, accepted: bool, score: float) -> None:
    """round(log2(1 + votes)) + accepted: log2 7 is 2.8, log2 11 is 3.5 and rounds to 3."""
    assert score_of(answer(votes, accepted=accepted), "log2") == score
    assert score_of(answer(votes, accepted=accepted), "votes") == votes


def test_the_largest_gaps_of_a_question_stay() -> None:
    pairs, left = made([answer(1), answer(20), answer(50), answer(9)], max_pairs=2)
    assert pairs == [(50, 1), (50, 9)]
    assert left == {"the question has max_pairs others with a gap as large": 4}


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=30),
    st.integers(0, 100).map(lambda percent: percent / 100),
)
def test_the_longer_ones_share_is_at_most_the_largest_allowed_and_no_pair_more_is_lost(
    lengths: list[tuple[int, int]], most: float
) -> None:
    pairs = [
        Pair(prompt=WHY, better=answer(9, text="w " * a + f"{n}"), worse=answer(1, text="w " * b + f"{n}"), gap=8)
        for n, (a, b) in enumerate(lengths)
    ]
    told = report()
    kept = with_longer_share(pairs, most, told)
    longer, everything = sum(pair.longer_wins for pair in kept), len(kept)
    assert longer <= most * everything + 1e-9
    assert len(pairs) - everything == sum(told.left_out.values())
    assert [pair for pair in pairs if not pair.longer_wins] == [pair for pair in kept if not pair.longer_wins]
    if told.left_out:
        assert longer + 1 > most * (everything + 1) - 1e-9  # one more would have been too many


@given(st.lists(st.tuples(st.integers(-5, 40), st.integers(0, 9)), min_size=2, max_size=7))
def test_the_order_of_the_answers_changes_nothing(rows: list[tuple[int, int]]) -> None:
    answers = [answer(votes, hours=hours, text=f"answer {n}") for n, (votes, hours) in enumerate(rows)]
    assert made(answers, max_pairs=3) == made(answers[::-1], max_pairs=3)
    for pair in all_pairs(WHY, answers, "log2"):
        assert score_of(pair.better, "log2") - score_of(pair.worse, "log2") == pair.gap >= 0


def test_times_in_every_writing_are_one() -> None:
    moment = 1714564800.0  # noon of 1 May 2024, UTC
    for written in (
        moment,
        str(moment),
        moment * 1000,
        "2024-05-01T12:00",
        "2024-05-01T14:00+02:00",
        "2024-05-01T12:00Z",
    ):
        assert seconds_of(written, "time") == moment
    assert seconds_of("", "time") is seconds_of(None, "time") is None


def forum(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    path = tmp_path / "forum.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_questions_with_answers_and_answers_with_their_question_give_the_same(tmp_path: Path) -> None:
    answers = [{"text": "Yes.", "score": 9, "time": 20}, {"text": "No.", "score": 1, "time": 10}]
    nested = forum(tmp_path, [{"question": "Why?", "answers": answers}])
    flat = tmp_path / "flat.csv"
    flat.write_text("id,q,what,ups,when\n1,Why?,Yes.,9,20\n2,Why?,No.,1,10\n")
    mine("forum", [nested], out=tmp_path / "a.jsonl", settings=ForumMining())
    fields = {"question": "q", "text": "what", "score": "ups", "time": "when"}
    told = mine("forum", [flat], out=tmp_path / "b.jsonl", settings=ForumMining(), fields=fields)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert told.unused == {"id": 2}
    (ranking,) = read_rankings(Data(path=str(tmp_path / "b.jsonl"))).records
    assert (ranking.source, ranking.strength, ranking.ranks) == ("forum", 8, (1, 2))
    assert [response.text for response in ranking.responses] == ["Yes.", "No."]


def test_planted_preferences_are_found_and_planted_traps_are_not(tmp_path: Path) -> None:
    """Truth: the better answer says so. Votes add what being early and being long bring; precision and recall given."""
    chance = random.Random(3)
    rows, planted = [], set()
    for number in range(300):
        good, early = chance.random() < 0.5, chance.random() < 0.5
        votes = [20 if good else 2, 2]
        votes[0] += 30 * early  # the first of the thread is seen by all, good or bad
        planted |= {f"q{number}"} if good and not early else set()
        rows.append(
            {
                "question": f"q{number}",
                "answers": [
                    {"text": "good" if good else "bad one", "score": votes[0], "time": 0 if early else 100},
                    {"text": "bad", "score": votes[1], "time": 50},
                ],
            }
        )
    path = forum(tmp_path, rows)

    def precision_and_recall(**settings: Any) -> tuple[float, float]:
        mine("forum", [path], out=tmp_path / "out.jsonl", settings=ForumMining(**settings))
        rankings = read_rankings(Data(path=str(tmp_path / "out.jsonl"))).records
        right = [ranking for ranking in rankings if ranking.responses[0].text == "good"]
        return len(right) / len(rankings), len({r.prompt.text for r in right} & planted) / len(planted)

    assert precision_and_recall() == (1.0, 1.0)
    careless, _ = precision_and_recall(max_head_start_hours=1)
    assert careless < 0.75  # the early ones win whatever they say


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [{"question": "Why?", "answers": [{"text": "a", "score": "many"}]}],
            "forum.jsonl:1: field 'score' is not a num",
        ),
        (
            [{"question": "Why?", "answers": [{"text": "a", "score": 1, "time": "soon"}]}],
            "forum.jsonl:1: field 'time' is",
        ),
        ([{"question": "Why?", "answers": "a"}], "forum.jsonl:1: field 'answers' is a text, not a list"),
        ([{"post": "Why?"}], "no column for question"),
        ([{"question": "Why?", "answer": "Yes."}], "name it with --field score=COLUMN"),
        ([{"question": "Why?", "answers": [{"text": "a", "score": 1}]}], "nothing could be made of it"),
    ],
)
def test_a_bad_row_says_where_it_is_and_nothing_is_written(
    rows: list[dict[str, Any]], said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as error:
        mine("forum", [forum(tmp_path, rows)], out=tmp_path / "out.jsonl", settings=ForumMining())
    assert said in str(error.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_field_that_a_forum_has_not_is_named(tmp_path: Path) -> None:
    path = forum(tmp_path, [{"question": "Why?", "answers": []}])
    with pytest.raises(DataError, match="--field b: forum has question, answers"):
        mine("forum", [path], out=tmp_path / "out.jsonl", settings=ForumMining(), fields={"b": "x"})
    with pytest.raises(DataError, match="have no meaning here"):
        mine("forum", [path], out=tmp_path / "out.jsonl", settings=ForumMining(), format="shp")
