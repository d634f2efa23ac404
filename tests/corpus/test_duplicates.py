"""What repeats: votes are kept, one person's word counts once, and every export keeps the counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.corpus import read_rankings
from palate.corpus.accounting import duplicates
from palate.corpus.check import check_data
from palate.corpus.export import EXPORTERS, export_records
from palate.corpus.pairs import comparison_sets
from palate.recipe import Data
from palate.records import Ranking

Write = Callable[..., Path]
KIND = {"prompt": "Which is kinder?", "chosen": "Please.", "rejected": "Now!"}
RUDE = {"prompt": "Which is kinder?", "chosen": "Now!", "rejected": "Please."}


def counts(rankings: tuple[Ranking, ...]) -> Counter[str]:
    """How often each response was preferred."""
    return Counter(ranking.responses[ranking.ranks.index(1)].text for ranking in rankings)


def test_judgements_that_nobody_signed_are_votes(write: Write) -> None:
    path = write("rows.jsonl", [KIND, KIND, KIND, RUDE])
    read = read_rankings(Data(path=str(path)))
    assert counts(read.records) == {"Please.": 3, "Now!": 1}
    assert read.rejected.repeated.total() == 2
    assert "each is kept as a vote: name the labelers" in str(check_data([path]))
    (asked,) = comparison_sets(read.records)
    assert len(asked.judgements) == 4


@pytest.mark.parametrize(
    "name", [name for name in EXPORTERS if "completion" not in name and name not in ("messages", "sharegpt", "alpaca")]
)
def test_every_export_keeps_the_votes(write: Write, tmp_path: Path, name: str) -> None:
    votes = read_rankings(Data(path=str(write("rows.jsonl", [KIND, KIND, KIND, RUDE])))).records
    rated = [vote.model_copy(update={"ratings": (7.0, 1.0)}) for vote in votes]
    out = tmp_path / ("out.csv" if name == "csv" else "out.jsonl")
    export_records(rated, format=name, out=out)
    back = read_rankings(Data(path=str(out))).records
    if name.startswith("trl-kto"):
        thumbs = Counter((ranking.responses[0].text, ranking.ratings == (7.0,)) for ranking in back)
        assert thumbs == {("Please.", True): 3, ("Now!", False): 3, ("Now!", True): 1, ("Please.", False): 1}
    else:
        assert counts(back) == {"Please.": 3, "Now!": 1}


def test_one_labeler_has_one_vote_and_may_change_their_mind(write: Write) -> None:
    def judged(labeler: str, *ranks: int) -> dict[str, object]:
        return {"prompt": "p", "responses": ["a", "b"], "ranks": ranks, "labeler": labeler}

    turned = {"prompt": "p", "responses": ["b", "a"], "ranks": [2, 1], "labeler": "ann"}
    rows = [judged("ann", 1, 2), judged("ann", 1, 2), turned, judged("ann", 2, 1), judged("bo", 1, 2)]
    read = read_rankings(Data(path=str(write("rows.jsonl", rows))))
    assert [(ranking.labeler, ranking.ranks) for ranking in read.records] == [
        ("ann", (1, 2)),
        ("ann", (2, 1)),
        ("bo", (1, 2)),
    ]
    assert dict(read.rejected.repeated) == {
        "the labeler said the same of these responses before; left out": 2,
        "the labeler had judged these responses otherwise; kept": 1,
    }


def test_identical_responses_are_unusable_and_end_nothing(write: Write) -> None:
    same = {"prompt": "p", "responses": ["a", "a", "a"], "ranks": [1, 2, 3]}
    read = read_rankings(Data(path=str(write("rows.jsonl", [same, {**same, "responses": ["a", "b", "a"]}]))))
    assert len(read.records) == 1
    assert [reason[:19] for reason in read.rejected.unusable] == ["identical responses"]


@given(st.lists(st.integers(0, 60), max_size=200), st.integers(1, 8))
def test_fingerprints_are_a_set(numbers: list[int], fewest: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_FEWEST", fewest)
        seen, known = duplicates.Fingerprints(), set[int]()
        for number in numbers:
            assert seen.add((1 + number % 7).to_bytes(8) + number.to_bytes(8)) == (number in known)
            known.add(number)
