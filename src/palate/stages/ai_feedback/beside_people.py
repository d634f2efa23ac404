"""A model's verdicts beside people's on the same prompts, and people's beside each other's.

How far people agree is the measure of how far a model can agree with them (about 0.73: Stiennon et al. 2020; Ouyang et
al. 2022). Both are the percent agreement of `feedback/statistics`. Where people often call two answers equal, whoever
calls all of them equal agrees with people a good deal; so that, and preferring the longer one, stand beside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from palate.feedback.statistics.pairwise_agreement import LabelerAgreement, agreement
from palate.intervals import Estimate
from palate.records import Ranking
from palate.words import count_words

UNSIGNED = "unsigned"
"""A judgement that nobody signed is a vote; the n-th on the same responses is the n-th voter's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BesidePeople:
    """How far a model agrees with people.

    Attributes:
        with_people: equal verdicts of the model and a person, a lone tie counting one half.
        of_people: the same of two persons.
        of_ties, of_longer: of a person, and whoever calls every pair a tie, or prefers the one with more words.
        num_with_people, num_of_people: verdicts compared.
        num_prompts: that both have judged.
        labelers: by name: with the model, and with other people; None where they did not meet.
    """

    with_people: Estimate
    of_people: Estimate
    of_ties: Estimate
    of_longer: Estimate
    num_with_people: int
    num_of_people: int
    num_prompts: int
    labelers: Sequence[tuple[str, float | None, float | None]]


def beside_people(model: Sequence[Ranking], people: Iterable[Ranking], *, seed: int) -> BesidePeople:
    """From the model's rankings, all by one labeler, and people's, of which those of other prompts do not count."""
    judged = {ranking.prompt.id for ranking in model}
    theirs = voters([ranking for ranking in people if ranking.prompt.id in judged])
    alone = agreement(theirs, seed=seed)
    own, met = _against(theirs, model, seed)
    ties = [ranking.model_copy(update={"ranks": (1, 1)}) for ranking in model]
    longer = [ranking.model_copy(update={"ranks": _by_length(ranking)}) for ranking in model]
    among = {each.name: each.agreement.value for each in alone.labelers}
    return BesidePeople(
        with_people=_estimate(own),
        of_people=Estimate(alone.percent, alone.low, alone.high),
        of_ties=_estimate(_against(theirs, ties, seed)[0]),
        of_longer=_estimate(_against(theirs, longer, seed)[0]),
        num_with_people=own.num_comparisons if own else 0,
        num_of_people=alone.num_comparisons,
        num_prompts=len({ranking.prompt.id for ranking in theirs}),
        labelers=[(each, met.get(each), share) for each, share in among.items()],
    )


def _against(
    people: Sequence[Ranking], model: Sequence[Ranking], seed: int
) -> tuple[LabelerAgreement | None, dict[str, float]]:
    """How far one labeler's rankings agree with people's, together and person by person."""
    together, name = agreement([*people, *model], seed=seed), model[0].labeler if model else ""
    own = next((each for each in together.labelers if each.name == name), None)
    pairs = together.between.items()
    return own, {one if other == name else other: share for (one, other), share in pairs if name in (one, other)}


def _estimate(labeler: LabelerAgreement | None) -> Estimate:
    return labeler.agreement if labeler else Estimate(None)


def _by_length(ranking: Ranking) -> tuple[int, int]:
    one, other = (count_words(response.text) for response in ranking.responses)
    return (1 + (one < other), 1 + (other < one))


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
