"""What a crowd's votes on pairs of arguments tell: agreement, reliability, and whether weights beat the majority.

    python benchmarks/crowd_votes.py data/convarg/crowd_votes.jsonl

The file (Habernal and Gurevych 2016, "Which argument is more convincing?", CC-BY 4.0) has four or five votes to a pair
of arguments for one side of a debate, each pair with a gold label. Two things limit what it can tell:

    Nobody's name is in it. A list of votes says what was said of a pair, not by whom, so that no voter can be followed
    from one pair to the next. The place in the list may be taken for a name; whether it is one is tested.

    The gold labels were made from these votes, by MACE (Hovy et al. 2013), which weighs voters by its own estimate of
    their competence. They are no independent truth: what uses all votes of a pair is held against itself.

So four questions are asked, all scored on pairs where one argument is better, an undecided verdict counting one half,
with intervals bootstrapped by topic (of which there are only 11):

    places    are votes in one place of the list more reliable than in another?
    left out  with 1 to 4 votes to a pair: majority, majority weighted by place, or a Bradley-Terry model that pools the
              pairs of a debate, held against the gold label and against a vote that was left out, which does not depend
              on MACE; weights are learned on the other half of the topics
    signed    the votes are given made-up names, a share of these people is made careless, and weights are learned on
              the other half of the topics: at which differences between people do weights pay?

Left out: text. No method here reads the arguments.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palate.corpus.containers.files import read_rows
from palate.feedback.statistics.aggregate import collect_comparisons
from palate.feedback.statistics.bradley_terry import bradley_terry, fit_labelers, fit_qualities, weights_of
from palate.feedback.statistics.marginal import Parameters, Priors
from palate.feedback.statistics.pairwise_agreement import agreement
from palate.intervals import Estimate, Floats, ratio_estimate
from palate.randomness import uniforms
from palate.records import Prompt, Ranking, Response

Names = NDArray[np.str_]
Flags = NDArray[np.bool_]

VERDICTS = {"a1": 1.0, "equal": 0.0, "a2": -1.0}
RANKS = {1.0: (1, 2), 0.0: (1, 1), -1.0: (2, 1)}
PLACES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """N pairs of arguments.

    Attributes:
        prompts, first, second: [N], the debate and side, and the two arguments.
        topic: [N], number of the debate.
        votes: [N, 5], 1 the first is better, 0 equal, -1 the second; NaN where there is no vote.
        gold: [N], the same.
    """

    prompts: tuple[Prompt, ...]
    first: tuple[Response, ...]
    second: tuple[Response, ...]
    topic: NDArray[np.int64]
    votes: Floats
    gold: Floats

    @property
    def given(self) -> Flags:
        """[N, 5] where there is a vote."""
        return np.asarray(~np.isnan(self.votes))

    @property
    def half(self) -> Flags:
        """[N] which half of the topics a pair is in."""
        return np.asarray(self.topic % 2 == 1)

    def rankings(self, names: Names, among: Flags) -> list[Ranking]:
        """The votes among [N, 5] by those named, [N, 5]; the argument called a1 is taken for the one shown first."""
        return [
            Ranking(
                prompt=self.prompts[row],
                responses=(self.first[row], self.second[row]),
                ranks=RANKS[self.votes[row, place]],
                labeler=str(names[row, place]),
                shown_order=(0, 1),
            )
            for row, place in np.argwhere(among & self.given).tolist()
        ]


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="crowd_votes.jsonl of `palate data get convarg`")
    data = read(parser.parse_args().path)
    print_file(data)
    print_agreement(data)
    weights = learned_weights(data, places(data))
    print_places(data)
    print_left_out(data, weights)
    print_signed(data)


def read(path: Path) -> Votes:
    """The file's rows."""
    rows = [row.fields for row in read_rows(path)]
    topics = {title: number for number, title in enumerate(sorted({row["title"] for row in rows}))}
    said = [[VERDICTS[vote] for vote in row["votes"]] for row in rows]
    return Votes(
        prompts=tuple(Prompt.from_text(f"{row['title']}\n{row['stance']}") for row in rows),
        first=tuple(Response(text=row["a1"]) for row in rows),
        second=tuple(Response(text=row["a2"]) for row in rows),
        topic=np.array([topics[row["title"]] for row in rows]),
        votes=np.array([votes + [np.nan] * (PLACES - len(votes)) for votes in said]),
        gold=np.array([VERDICTS.get(row["gold"], np.nan) for row in rows]),
    )


def places(data: Votes) -> Names:
    """[N, 5] the place in the list for a name."""
    return np.broadcast_to(np.array([f"place {place + 1}" for place in range(PLACES)]), data.votes.shape)


def learned_weights(data: Votes, names: Names) -> Floats:
    """[N, 5] the weight of every vote, learned on the other half of the topics; 1 for who had none there."""
    weights = np.ones(data.votes.shape)
    for half in (False, True):
        table = collect_comparisons(data.rankings(names, (data.half != half)[:, None]))
        skill = Parameters.unpack(fit_labelers(table, Priors()), table).skill
        known = dict(zip(table.labelers, weights_of(skill).tolist(), strict=True))
        rows = np.flatnonzero(data.half == half)
        weights[rows] = [[known.get(str(name), 1.0) for name in names[row]] for row in rows]
    return weights


def verdict(votes: Floats, weights: Floats | Flags | float = 1.0) -> Floats:
    """[N] the sign of the weighted sum of votes [N, 5]."""
    return np.asarray(np.sign(np.round(np.nansum(votes * weights, axis=1), 9)))


def score(verdicts: Floats, target: Floats) -> Floats:
    """[N] 1 right, one half undecided, 0 wrong; NaN where the target is neither argument."""
    return np.where(np.abs(target) == 1, (1 + verdicts * target) / 2, np.nan)


def by_topic(scores: Floats, topic: NDArray[np.int64]) -> Estimate:
    """The mean of the scores, or of differences of scores, bootstrapped by topic."""
    scored = ~np.isnan(scores)
    return ratio_estimate(np.bincount(topic[scored], weights=scores[scored]), np.bincount(topic[scored]), seed=0)


def difference(one: Floats, other: Floats, topic: NDArray[np.int64]) -> str:
    """In points."""
    estimate = by_topic(100 * (one - other), topic)
    return f"{estimate.value:+5.1f} ({estimate.low:+.1f} to {estimate.high:+.1f})"


def print_file(data: Votes) -> None:
    """What is in the file, and how the gold labels relate to the votes."""
    majority, given = verdict(data.votes), data.votes[data.given]
    has_gold, decided = ~np.isnan(data.gold), majority != 0
    print(f"{len(data.gold):,} pairs, {len(given):,} votes, {data.topic.max() + 1} topics; no voter is named")
    shares = ", ".join(f"{name} {np.mean(given == value):.3f}" for name, value in VERDICTS.items())
    print(f"votes: {shares}; pairs without a gold label: {np.sum(~has_gold):,}")
    clear = has_gold & decided & (np.abs(data.gold) == 1)
    print(
        f"gold is a1 or a2 and the majority of all votes is decided on {np.sum(clear):,} pairs; "
        f"they are the same on {np.mean(majority[clear] == data.gold[clear]):.3f}: gold was made from these votes"
    )


def print_agreement(data: Votes) -> None:
    """The coefficients that do not ask who is who."""
    found = agreement(data.rankings(places(data), data.given), resamples=400)
    print("\nAgreement of two votes on a pair; intervals by side of a debate, of which there are 22")
    print(f"  percent, a lone tie one half  {Estimate(found.percent, found.low, found.high)}")
    for name, estimate in (
        ("Krippendorff's alpha", found.alpha),
        ("Fleiss' kappa", found.fleiss),
        ("Gwet's AC1", found.ac1),
    ):
        print(f"  {name:<29} {estimate}")
    print(f"  {found.num_comparisons:,} verdicts compared; {found.num_superseded:,} votes replaced, as texts recur")


def print_places(data: Votes) -> None:
    """A Bradley-Terry model with the place for a name."""
    model = bradley_terry(data.rankings(places(data), data.given))
    print("\nPlaces: relative skill of votes in each place of the list, if it were a person")
    for labeler in model.labelers:
        print(f"  {labeler.name}  {labeler.skill}  weight {labeler.weight:.3f}")
    print(f"  log-odds for a1, taken for the one shown first: {model.bias}")
    print(f"  tie {model.tie:.2f}, spread of qualities {model.spread:.2f}")


def print_left_out(data: Votes, weights: Floats) -> None:
    """Aggregate some votes of every pair; hold them against gold and against one of the others."""
    print("\nLeft out: accuracy with m votes to a pair, and gains over the majority in points")
    print("  weighted by place; pooled: Bradley-Terry over all pairs of a debate's side")
    order = np.argsort(np.where(data.given, uniforms(data.votes.size, 0, "left out").reshape(data.votes.shape), 2.0))
    turn = np.argsort(order)  # [N, 5], when a vote is used
    for num_votes in range(1, PLACES):
        votes = np.where(turn < num_votes, data.votes, np.nan)
        other = np.take_along_axis(data.votes, order[:, [num_votes]], axis=1)[:, 0]
        majority, weighted = verdict(votes), verdict(votes, weights)
        pooled = pool(replace(data, votes=votes))
        for name, target in (("gold", data.gold), ("another vote", other)):
            base = score(majority, target)
            print(
                f"  m = {num_votes}, {name:<12}  majority {by_topic(base, data.topic)}"
                f"  weighted {difference(score(weighted, target), base, data.topic)}"
                f"  pooled {difference(score(pooled, target), base, data.topic)}"
            )


def pool(data: Votes) -> Floats:
    """[N] the better argument by qualities that every vote on it, against any other, has a part in."""
    table = collect_comparisons(data.rankings(places(data), data.given))
    theta = Parameters.unpack(fit_labelers(table, Priors()), table)
    quality = dict(zip(table.responses, fit_qualities(table, theta).tolist(), strict=True))
    return np.array(
        [
            np.sign(quality[prompt.id, one.text] - quality[prompt.id, other.text])
            for prompt, one, other in zip(data.prompts, data.first, data.second, strict=True)
        ]
    )


def print_signed(data: Votes) -> None:
    """Made-up people; some of them vote at random, as often a1, equal and a2 as everybody together."""
    print(
        "\nSigned: all votes with made-up names, some people careless; accuracy on gold, which is from the real votes"
    )
    drawn = data.votes[data.given][(uniforms(data.votes.size, 0, "careless") * data.given.sum()).astype(int)]
    for num_people in (113, 2309):  # prime, so that five steps of one length lead to five people
        start, step = (
            (uniforms(2 * len(data.gold), 0, "people", num_people) * (num_people - 1)).astype(int).reshape(2, -1)
        )
        person = (start[:, None] + (1 + step[:, None]) * np.arange(PLACES)) % num_people
        for share in (0.0, 0.2, 0.4):
            careless = person < round(share * num_people)
            signed = replace(data, votes=np.where(careless & data.given, drawn.reshape(data.votes.shape), data.votes))
            weights = learned_weights(signed, np.char.add("person ", person.astype(str)))
            base = score(verdict(signed.votes), data.gold)
            print(
                f"  {num_people} people with {data.given.sum() / num_people:.0f} votes each, {share:.0%} careless:"
                f"  majority {by_topic(base, data.topic)}"
                f"  weighted {difference(score(verdict(signed.votes, weights), data.gold), base, data.topic)}"
                f"  careless known {difference(score(verdict(signed.votes, ~careless), data.gold), base, data.topic)}"
            )


if __name__ == "__main__":
    main()
