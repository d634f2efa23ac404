"""Who judges a round's candidates: simulated labelers, a model by a constitution, or people, who are waited for.

Whoever else may judge is one more `Judge`, under a name of its own in `judge_of`: given the candidates and the round's
directory, to keep things in, it gives rankings of them, or says what it waits for. What it gives says in its `source`
where it comes from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from palate.corpus import read_rankings
from palate.corpus.pairs import is_comparison
from palate.errors import DataError
from palate.recipe import Data, RoundsRecipe, Taste
from palate.records import Candidates, Ranking
from palate.simulated.labelers import rank_candidates
from palate.simulated.tastes import load_judge

FROM_PEOPLE = "from_people.jsonl"
"""What people said of a round's candidates, put into its directory by hand, in any format that holds rankings."""
JUDGED = "judged"
"""The run of `palate judge` in a round's directory, where a model judges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Rankings of a round's candidates, and what of what was said is not among them."""

    rankings: Sequence[Ranking]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """There are none yet; ``advice`` is what is to be done, in a line."""

    advice: str


class Judge(Protocol):
    """Whoever says which response is better."""

    def __call__(self, candidates: Sequence[Candidates], directory: Path, /) -> Judged | Waiting:
        """Of the candidates of one round, whose directory that is."""
        ...


def judge_of(recipe: RoundsRecipe) -> Judge:
    """The one that the recipe names."""
    judges: dict[str, Callable[[], Judge]] = {
        "simulated": lambda: Simulated(recipe.taste, recipe.seed),
        "people": lambda: People(recipe.least_ranked),
        "ai": ByConstitution,
    }
    return judges[recipe.labelers]()


class Simulated:
    """Labelers who share a hidden taste; they agree as often in every round, however alike its candidates are.

    Raises:
        RecipeError: there is no such taste.
    """

    def __init__(self, taste: Taste, seed: int) -> None:
        load_judge(taste.function)
        self.taste, self.seed = taste, seed

    def __call__(self, candidates: Sequence[Candidates], directory: Path) -> Judged:
        """At once."""
        return Judged(rankings=rank_candidates(candidates, self.taste, seed=self.seed))


class People:
    """People, in the web app or elsewhere.

    Args:
        least_ranked: share of the prompts that must have been judged.
    """

    def __init__(self, least_ranked: float) -> None:
        self.least_ranked = least_ranked

    def __call__(self, candidates: Sequence[Candidates], directory: Path) -> Judged | Waiting:
        """As soon as their file is there.

        Raises:
            DataError: it cannot be read, or too few of the prompts were judged.
        """
        path = directory / FROM_PEOPLE
        if not path.exists():
            return Waiting(
                advice=f"{directory.name} waits for people: bring {directory / 'samples' / 'candidates.jsonl'} "
                f"({len(candidates)} prompts) into the web app as a batch, save the export of that batch as {path}, "
                "and give the same command again"
            )
        read = read_rankings(Data(path=str(path)))
        found = about(candidates, read.records, least=self.least_ranked, path=path)
        said = (*read.remarks, *str(read.rejected).splitlines())
        return Judged(rankings=found.rankings, notes=(*said, *found.notes))


class ByConstitution:
    """A model, by the principles of a constitution; what it said is in a run of its own."""

    def __call__(self, candidates: Sequence[Candidates], directory: Path) -> Judged:
        """What that run ended with.

        Raises:
            DataError: it prefers no answer to another.
        """
        run = directory / JUDGED
        lines = (run / "rankings.jsonl").read_text(encoding="utf-8").splitlines()
        rankings = [Ranking.model_validate_json(line) for line in lines]
        told = json.loads((run / "report.json").read_text(encoding="utf-8"))
        if told["ties"] == told["pairs"]:
            raise DataError(
                f"the model that judges prefers no answer: of {told['pairs']} pairs all are ties, "
                f"{told['flips'] or 0:.0%} because it chose another answer in each order; nothing can be learned: name "
                'another model, or judge.verdict = "mean", and another --out',
                path=run,
            )
        judged, left_out = len({ranking.prompt.id for ranking in rankings}), told["pairs_left_out"]
        notes = [
            f"{told['pairs']} pairs were judged by a model, {told['ties']} of them as ties; {told['flips']:.0%} were "
            f"decided otherwise in the other order, and {told['first_place']:.0%} of its choices were the first place"
        ]
        notes += [f"{left_out} pairs could not be asked about"] if left_out else []
        notes += [f"{told['no_choice']:.1%} of its questions were not answered"] if told["no_choice"] else []
        missing = len(candidates) - judged
        notes += [f"{missing} of {len(candidates)} prompts were not judged"] if missing else []
        return Judged(rankings=rankings, notes=tuple(notes))


def about(candidates: Sequence[Candidates], rankings: Sequence[Ranking], *, least: float, path: Path) -> Judged:
    """Those of the rankings that compare some of these candidates, each with the candidates' prompt, tags included.

    Raises:
        DataError: the prompts of which there is none are more than may be missing.
    """
    asked = {item.prompt.id: item for item in candidates}
    texts = {key: {response.text for response in item.responses} for key, item in asked.items()}
    kept = [
        ranking.model_copy(update={"prompt": asked[ranking.prompt.id].prompt})
        for ranking in rankings
        if is_comparison(ranking) and {each.text for each in ranking.responses} <= texts.get(ranking.prompt.id, set())
    ]
    judged, others = len({ranking.prompt.id for ranking in kept}), len(rankings) - len(kept)
    missing = len(candidates) - judged
    notes = [f"{others} of {len(rankings)} judgements compare none of this round's candidates"] if others else []
    if not kept or judged < least * len(candidates):
        why = f" ({notes[0]})" if notes else ""
        raise DataError(
            f"judgements of {judged} of {len(candidates)} prompts, {missing} are missing{why}: add them, or lower "
            "least_ranked",
            path=path,
        )
    notes += [f"{missing} of {len(candidates)} prompts were not judged"] if missing else []
    return Judged(rankings=kept, notes=tuple(notes))
