"""A stage that could not learn anything says so before its first step, and writes no model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from palate.cli import main
from palate.records import Prompt, Ranking, Response

Toml = Callable[[dict[str, Any]], Path]
LONG = "far too many words for that " * 60


def ranking(number: int, texts: Sequence[str], ranks: Sequence[int], labeler: str = "ann") -> Ranking:
    responses = tuple(Response(text=text) for text in texts)
    return Ranking(prompt=Prompt.from_text(f"Which one, {number}?"), responses=responses, ranks=ranks, labeler=labeler)


THUMBS = [ranking(n, [f"Good {n}."], [1]).model_copy(update={"ratings": (7.0,)}) for n in range(12)]
UNDECIDED = [thumb.model_copy(update={"ratings": (4.0,)}) for thumb in THUMBS]
ONE_PROMPT = [each.model_copy(update={"prompt": THUMBS[0 if n else 1].prompt}) for n, each in enumerate(THUMBS)]
COPIES = [ranking(n, ["Same.", "Same.", "Same."], [1, 2, 3]) for n in range(12)]
TIES = [ranking(n, ["One.", "Two.", "Three."], [1, 1, 1]) for n in range(12)]
TIED_COPIES = [ranking(n, ["One.", "Two.", "One."], [1, 1, 2]) for n in range(12)]
LENGTHY = [ranking(n, ["One.", LONG], [1, 2]) for n in range(12)]
GOOD = [ranking(n, ["Yes.", "No, not at all."], [1, 2]) for n in range(12)]


@pytest.fixture
def train(tmp_path: Path, toml: Toml, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a stage on rankings; its status and what it said."""

    def _train(stage: str, rankings: Sequence[Ranking], **changes: Any) -> tuple[int, str]:
        path = tmp_path / "rankings.jsonl"
        path.write_text("".join(item.to_json() + "\n" for item in rankings), encoding="utf-8")
        tree = {"model": "tiny", "precision": "fp32", "data": {"path": str(path)}, "holdout": {"fraction": 0.3}}
        status = main([stage, str(toml(tree | changes)), "--out", str(tmp_path / "run")])
        return status, capsys.readouterr().err

    return _train


@pytest.mark.parametrize(
    ("stage", "rankings", "changes", "why"),
    [
        ("reward", THUMBS, {}, "12: a thumb"),
        ("dpo", THUMBS, {}, "12: a thumb"),
        ("reward", COPIES, {}, "12: identical responses"),
        ("dpo", COPIES, {}, "12: identical responses"),
        ("kto", GOOD, {}, "12: a comparison of several responses"),
        ("kto", UNDECIDED, {}, "12: neither good nor bad"),
        ("kto", ONE_PROMPT, {"max_left_out": 1.0}, "no response to another prompt fits behind its prompt"),
        ("dpo", TIES, {}, "12: nothing but ties"),
        ("dpo", TIED_COPIES, {}, "12: nothing but ties"),
        ("reward", TIES, {"tie": "skip"}, "nothing but ties"),
        ("reward", TIES, {"tie": "half"}, "nothing but ties"),
        ("reward", GOOD, {"labeler_weights": {"ann": 0}}, "12: by a labeler of weight 0"),
        ("reward", LENGTHY, {}, "12 of 12 rows cannot be used, none is left to learn from; most often: longer than"),
        ("dpo", LENGTHY, {}, "12 of 12 rows cannot be used, none is left to learn from; most often: longer than"),
        (
            "reward",
            THUMBS + COPIES,
            {},
            "alone, compares nothing",
        ),
    ],
)
def test_nothing_to_learn_is_an_error_before_the_first_step(
    stage: str,
    rankings: Sequence[Ranking],
    changes: dict[str, Any],
    why: str,
    train: Callable[..., tuple[int, str]],
    tmp_path: Path,
) -> None:
    status, said = train(stage, rankings, **changes)
    assert status == 2
    assert why in said
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_a_ranking_that_fits_no_batch_is_known_before_the_first_step(
    stage: str, train: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    status, said = train(
        stage, [ranking(n, ["One.", "Two.", "Three."], [1, 2, 3]) for n in range(12)], batch_responses=2
    )
    assert status == 2
    assert "a ranking of 3 responses does not fit in a batch of 2: raise batch_responses" in said
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_thumbs_are_told_what_they_are_good_for(train: Callable[..., tuple[int, str]]) -> None:
    _, said = train("reward", THUMBS)
    assert "palate sft" in said
    assert "palate kto" in said


@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_what_compares_nothing_is_counted_beside_what_does(
    stage: str, train: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    thumbs = [ranking(100 + n, ["Alone."], [1]) for n in range(2)]
    copies = [ranking(200 + n, ["Same.", "Same.", "Same."], [1, 2, 2]) for n in range(3)]
    some = [ranking(300 + n, ["Better.", "Better.", "Worse."], [1, 3, 2]) for n in range(6)]
    status, said = train(stage, GOOD + thumbs + copies + some)
    assert status == 0
    line = f"a thumb, or another judgement of one response alone, compares nothing ({tmp_path}/rankings.jsonl:13"
    assert said.count(line) == 2  # before the first step and at the end
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["left_out"] == 5
    assert any("identical responses" in note for note in report["notes"])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {row["data/left_out"] for row in rows} == {5}
    if stage == "dpo":  # of copies the better rank counts: one pair in each ranking
        assert 0 < report["pairs"] < len(GOOD) + len(some)


def test_rankings_of_skipped_ties_make_no_step(train: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    tied = [ranking(100 + n, ["One.", "Two."], [1, 1]) for n in range(12)]
    status, said = train("reward", GOOD + tied, tie="skip", batch_responses=2)
    assert status == 0
    assert "nothing but ties" in said
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["reward/loss"] > 0.1 for row in rows)
