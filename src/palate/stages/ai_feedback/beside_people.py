"""A model's verdicts beside people's on the same prompts, and people's beside each other's.

How far people agree is the measure of how far a model can agree with them (about 0.73: Stiennon et al. 2020; Ouyang et
al. 2022). Both are the percent agreement of `feedback/statistics`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from palate.feedback.statistics.pairwise_agreement import agreement
from palate.intervals import Estimate
from palate.records import Ranking

UNSIGNED = "unsigned"
"""A judgement that nobody signed is a vote; the n-th on the same responses is the n-th voter's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BesidePeople:
    """How far a model agrees with people.

    Attributes:
        with_people: equal verdicts of the model and a person, a lone tie counting one half.
        of_people: the same of two persons.
        num_with_people, num_of_people: verdicts compared.
        num_prompts: that both have judged.
        labelers: by name: with the model, and with other people; None where they did not meet.
    """

    with_people: Estimate
    of_people: Estimate
    num_with_people: int
    num_of_people: int
    num_prompts: int
    labelers: Sequence[tuple[str, float | None, float | None]]


def beside_people(model: Sequence[Ranking], people: Iterable[Ranking], *, seed: int) -> BesidePeople:
    """From the model's rankings, all by one labeler, and people's, of which those of other prompts do not count."""
    judged = {ranking.prompt.id for ranking in model}
    theirs = voters([ranking for ranking in people if ranking.prompt.id in judged])
    alone, together = agreement(theirs, seed=seed), agreement([*theirs, *model], seed=seed)
    name = model[0].labeler if model else ""
    own = next((each for each in together.labelers if each.name == name), None)
    among = {each.name: each.agreement.value for each in alone.labelers}
    met = {
        one if other == name else other: share
        for (one, other), share in together.between.items()
        if name in (one, other)
    }
    return BesidePeople(
        with_people=own.agreement if own else Estimate(None),
        of_people=Estimate(alone.percent, alone.low, alone.high),
        num_with_people=own.num_comparisons if own else 0,
        num_of_people=alone.num_comparisons,
        num_prompts=len({ranking.prompt.id for ranking in theirs}),
        labelers=[(each, met.get(each), share) for each, share in among.items()],
    )


def voters(rankings: Sequence[Ranking]) -> list[Ranking]:
    """The same, every one with a labeler."""
    votes: Counter[tuple[str, ...]] = Counter()
    found = []
    for ranking in rankings:
        if not ranking.labeler:
            subject = (ranking.prompt.id, *sorted(response.text for response in ranking.responses))
            votes[subject] += 1
            ranking = ranking.model_copy(update={"labeler": f"{UNSIGNED} {votes[subject]}"})
        found.append(ranking)
    return found
