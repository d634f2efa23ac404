"""What people said of a round's candidates: which of it counts, and what is told of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.experiments.rounds.conftest import put

from palate.errors import DataError, RecipeError
from palate.experiments.rounds.judging import FROM_PEOPLE, Judged, People, Simulated, Waiting
from palate.recipe import Taste
from palate.records import Candidates, Prompt, Ranking, Response

CANDIDATES = [
    Candidates(
        prompt=Prompt.from_text(f"What of {number}?", tags={"subject": "rain"}),
        responses=tuple(Response(text=f"{answer} of {number}.") for answer in ("Much", "Little", "Nothing")),
    )
    for number in range(4)
]


def said(number: int, ranks: tuple[int, ...] = (2, 1), labeler: str = "ann") -> Ranking:
    """Of the first responses to a prompt, which has lost its tags on the way."""
    item = CANDIDATES[number]
    prompt = item.prompt.model_copy(update={"tags": {}})
    return Ranking(prompt=prompt, responses=item.responses[: len(ranks)], ranks=ranks, labeler=labeler)


def judged(directory: Path, rankings: list[Ranking], least: float = 1.0) -> Judged | Waiting:
    put(directory / FROM_PEOPLE, rankings)
    return People(least)(CANDIDATES, directory)


def test_people_are_waited_for(tmp_path: Path) -> None:
    found = People(1.0)(CANDIDATES, tmp_path / "round-3")
    assert isinstance(found, Waiting)
    for part in ("round-3 waits for people", "samples/candidates.jsonl (4 prompts)", f"round-3/{FROM_PEOPLE}"):
        assert part in found.advice
    assert "\n" not in found.advice


def test_all_that_is_about_the_candidates_counts(tmp_path: Path) -> None:
    rankings = [said(number, (1, 3, 2), labeler) for number in range(4) for labeler in ("ann", "bob")]
    other = Ranking(prompt=CANDIDATES[0].prompt, responses=(Response(text="x"), Response(text="y")), ranks=(1, 2))
    thumb = Ranking(prompt=CANDIDATES[0].prompt, responses=CANDIDATES[0].responses[:1], ranks=(1,), ratings=(7,))
    elsewhere = other.model_copy(update={"prompt": Prompt.from_text("Of another round")})
    found = judged(tmp_path, [other, *rankings, thumb, elsewhere])
    assert isinstance(found, Judged)
    assert [ranking.ranks for ranking in found.rankings] == [(1, 3, 2)] * 8
    assert found.rankings[0].prompt.tags == {"subject": "rain"}, "a taste may need them"
    assert found.notes == ("3 of 11 judgements compare none of this round's candidates",)


def test_too_few_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{FROM_PEOPLE}: judgements of 3 of 4 prompts, 1 are missing: add them, or"):
        judged(tmp_path, [said(number) for number in range(3)])
    found = judged(tmp_path, [said(number) for number in range(3)], least=0.75)
    assert isinstance(found, Judged)
    assert found.notes == ("1 of 4 prompts were not judged",)


def test_another_rounds_file_is_told(tmp_path: Path) -> None:
    other = said(0).model_copy(update={"prompt": Prompt.from_text("Of another round")})
    with pytest.raises(DataError, match=r"of 0 of 4 prompts, 4 are missing \(1 of 1 judgements compare none"):
        judged(tmp_path, [other], least=0.0)


def test_a_broken_file_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / FROM_PEOPLE
    path.write_text(said(0).to_json() + "\n" + said(1).to_json()[:-9] + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"{FROM_PEOPLE}:2"):
        People(1.0)(CANDIDATES, tmp_path)


def test_simulated_labelers_judge_at_once(tmp_path: Path) -> None:
    found = Simulated(Taste(function="palate.simulated.tastes:short", agreement=1, labels_per_prompt=2), 0)(
        CANDIDATES, tmp_path
    )
    assert len(found.rankings) == 8
    assert {ranking.source for ranking in found.rankings} == {"simulated"}
    with pytest.raises(RecipeError, match="no such judge"):
        Simulated(Taste(function="palate.simulated.tastes:shrt"), 0)
