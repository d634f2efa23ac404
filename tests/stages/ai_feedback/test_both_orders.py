"""Verdicts of two orders, and rankings of verdicts, worked out by hand; planted biases are measured as planted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.randomness import uniforms
from palate.recipe import Principle
from palate.records import Prompt, Ranking, Response
from palate.rewards.judges.judge_model import Choice
from palate.stages.ai_feedback.asking import Matter
from palate.stages.ai_feedback.beside_people import beside_people, voters
from palate.stages.ai_feedback.both_orders import Asked, Judged
from palate.stages.ai_feedback.judge_report import figures, metrics

CALM = Principle(name="calm", compare="Which is calmer?")
SHORT = Principle(name="short", compare="Which is shorter?")
P = Prompt.from_text("p")


def asked(one: float | None, other: float | None, principle: str = "calm", pair: tuple[int, int] = (0, 1)) -> Asked:
    return Asked(principle=principle, pair=pair, first=(one, other))


def judged(*each: Asked, prompt: Prompt = P, texts: str = "ab") -> Judged:
    return Judged(prompt=prompt, responses=tuple(Response(text=text) for text in texts), asked=each)


@pytest.mark.parametrize(
    ("first", "verdict", "flips"),
    [
        ((0.9, 0.2), 1, False),
        ((0.4, 0.6), -1, False),
        ((0.9, 0.6), 0, True),
        ((0.1, 0.4), 0, True),
        ((0.5, 0.1), 0, False),
        ((0.5, 0.5), 0, False),
    ],
)
def test_a_verdict_is_the_same_answer_in_both_orders(first: tuple[float, float], verdict: int, flips: bool) -> None:
    each = asked(*first)
    assert (each.verdict, each.flips) == (verdict, flips)


def test_half_an_answer_is_no_verdict() -> None:
    each = asked(0.9, None)
    assert not each.has_verdict
    assert not each.flips
    assert each.places == (1.0,)
    assert list(judged(each).verdicts()) == []
    assert judged(each).rankings(model="m", constitution="c") == []


@pytest.mark.parametrize(
    ("votes", "ranks"),
    [
        ([(0.9, 0.1)], (1, 2)),
        ([(0.1, 0.9)], (2, 1)),
        ([(0.9, 0.9)], (1, 1)),
        ([(0.9, 0.1), (0.9, 0.9)], (1, 2)),
        ([(0.9, 0.1), (0.1, 0.9)], (1, 1)),
        ([(0.9, 0.1), (0.1, 0.9), (0.2, 0.8)], (2, 1)),
        ([(0.9, 0.1), (None, 0.9)], (1, 2)),
    ],
)
def test_the_principles_of_a_pair_vote(votes: list[tuple[float | None, float]], ranks: tuple[int, int]) -> None:
    item = judged(*(asked(*vote, principle=str(number)) for number, vote in enumerate(votes)))
    (ranking,) = item.rankings(model="big", constitution="v1")
    assert ranking.ranks == ranks
    assert [response.text for response in ranking.responses] == ["a", "b"]
    assert (ranking.source, ranking.labeler, ranking.guideline_version) == ("ai", "ai:big", "v1")


@given(st.lists(st.tuples(st.none() | st.floats(0, 1), st.none() | st.floats(0, 1)), max_size=4))
def test_what_was_judged_survives_a_round_trip(shares: list[tuple[float | None, float | None]]) -> None:
    item = judged(*(asked(*share) for share in shares))
    assert Judged.model_validate_json(item.to_json()) == item


@pytest.mark.parametrize(
    ("first", "verdict"), [((0.9, 0.2), 1), ((0.96, 0.94), 1), ((0.94, 0.96), -1), ((0.1, 0.3), -1), ((0.9, 0.9), 0)]
)
def test_the_mean_of_both_orders_decides_where_it_is_to(first: tuple[float, float], verdict: int) -> None:
    item = judged(asked(*first)).model_copy(update={"rule": "mean"})
    assert list(item.verdicts()) == [((0, 1), verdict)]
    assert Judged.model_validate_json(item.to_json()) == item


def test_the_mean_takes_out_a_steady_preference_for_a_place() -> None:
    """A judge that goes by length, and adds so much for the first place that it always wins."""
    asks = matters(20, [CALM])
    same = scripted(asks, lambda first, second, *_: 0.9 + 0.05 * (longer(first, second) > 0.5))
    mean = [item.model_copy(update={"rule": "mean"}) for item in same]
    assert figures(same, (), model="m", seed=0).numbers["ties"] == 60
    numbers = figures(mean, (), model="m", seed=0).numbers
    assert (numbers["ties"], numbers["first_place"], numbers["flips"]) == (0, 1.0, 1.0)
    for item in mean:
        assert all(
            len(item.responses[one].text) < len(item.responses[other].text) for (one, other), _ in item.verdicts()
        )
        assert {verdict for _, verdict in item.verdicts()} == {-1}


# Planted.


def scripted(matters: Sequence[Matter], judge: Callable[[str, str, str, int], float]) -> list[Judged]:
    """What comes of a judge of (first answer, second answer, the question, its number)."""

    def choices() -> Iterator[Choice]:
        for matter in matters:
            for (one, other), principle in matter.asked:
                texts = (matter.responses[one].text, matter.responses[other].text)
                for shown in (texts, texts[::-1]):
                    yield Choice(first=judge(*shown, principle.name, next(numbers)))

    numbers = iter(range(10**6))
    answers = choices()
    return [matter.judged(answers) for matter in matters]


def matters(count: int, principles: Sequence[Principle], texts: Sequence[str] = ("a", "bb", "ccc")) -> list[Matter]:
    return [
        Matter(
            prompt=Prompt.from_text(f"What of {number}?"),
            responses=tuple(Response(text=text) for text in texts),
            asked=tuple((pair, each) for pair in combinations(range(len(texts)), 2) for each in principles),
        )
        for number in range(count)
    ]


def longer(first: str, second: str, *_: object) -> float:
    return 0.8 if len(first) > len(second) else 0.2


def test_a_judge_that_goes_by_the_answers_has_no_bias_and_no_flips() -> None:
    found = figures(scripted(matters(40, [CALM]), longer), (), model="m", seed=0)
    (calm,) = found.principles
    assert (calm.first_place.value, calm.flips.value) == (0.5, 0.0)
    assert (found.numbers["pairs"], found.numbers["ties"], found.numbers["questions"]) == (120, 0, 240)


def test_a_planted_share_of_the_first_place_is_found_by_principle_within_its_interval() -> None:
    """Asked by `calm` the judge takes the first place in 40% of the questions, whatever stands there; else never."""
    lots = uniforms(10**5, 0, "lots")

    def judge(first: str, second: str, principle: str, number: int) -> float:
        return 0.9 if principle == "calm" and lots[number] < 0.4 else longer(first, second)

    found = figures(scripted(matters(400, [CALM, SHORT]), judge), (), model="m", seed=0)
    calm, short = found.principles
    assert (calm.name, short.name) == ("calm", "short")
    assert short.first_place.value == 0.5
    assert short.flips.value == 0.0
    # half of those that were overruled would have taken the first place anyway
    for estimate, truth in ((calm.first_place, 0.7), (calm.flips, 0.4)):
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low < truth < estimate.high
        assert estimate.high - estimate.low < 0.08


def test_a_judge_of_the_second_place_has_flips_alone_and_all_are_ties() -> None:
    done = scripted(matters(12, [CALM]), lambda *_: 0.3)
    found = figures(done, (), model="m", seed=0)
    assert found.numbers["first_place"] == 0.0
    assert found.numbers["flips"] == 1.0
    assert found.numbers["ties"] == found.numbers["pairs"] == 36
    ranks = {ranking.ranks for item in done for ranking in item.rankings(model="m", constitution="")}
    assert ranks == {(1, 1)}
    assert found.numbers["longer_preferred"] is None
    assert metrics(done) == {
        "judge/first_place": 0.0,
        "judge/flips": 1.0,
        "judge/preferred": 0.0,
        "judge/no_choice": 0.0,
    }


def test_a_judge_of_length_is_seen_to_be_one() -> None:
    numbers = figures(scripted(matters(40, [CALM]), longer), (), model="m", seed=0).numbers
    assert numbers["longer_preferred"] == 0.5  # in words all are alike
    done = scripted(matters(40, [CALM], texts=("a", "b b", "c c c")), longer)
    assert figures(done, (), model="m", seed=0).numbers["longer_preferred"] == 1.0


def test_questions_without_a_choice_are_counted() -> None:
    done = scripted(matters(4, [CALM]), longer)
    silent = [item.model_copy(update={"asked": (asked(None, 0.2), *item.asked[1:])}) for item in done]
    numbers = figures(silent, (), model="m", seed=0).numbers
    assert numbers["no_choice"] == pytest.approx(1 / 6)
    assert numbers["pairs"] == 8


# Beside people.


def by(labeler: str, ranks: tuple[int, int], prompt: Prompt = P) -> Ranking:
    return Ranking(
        prompt=prompt, responses=(Response(text="a"), Response(text="b")), ranks=ranks, labeler=labeler, source="human"
    )


def test_agreement_with_people_and_of_people_is_as_by_hand() -> None:
    """Three prompts: ann and bob agree on two of them; the model agrees with ann twice and ties once."""
    prompts = [Prompt.from_text(text) for text in "pqr"]
    people = [by("ann", (1, 2), prompts[0]), by("ann", (2, 1), prompts[1]), by("ann", (1, 2), prompts[2])]
    people += [by("bob", (1, 2), prompts[0]), by("bob", (1, 2), prompts[1]), by("bob", (1, 2), prompts[2])]
    people += [by("cat", (1, 2), Prompt.from_text("of something else"))]
    shares = ((0.9, 0.1), (0.1, 0.9), (0.9, 0.9))
    done = [judged(asked(*share), prompt=prompt) for prompt, share in zip(prompts, shares, strict=True)]
    found = figures(done, people, model="m", seed=0)
    beside = found.beside
    assert beside is not None
    assert beside.of_people.value == pytest.approx(2 / 3)
    assert beside.with_people.value == pytest.approx((1 + 1 + 0.5 + 1 + 0 + 0.5) / 6)
    assert beside.of_ties.value == beside.of_longer.value == 0.5
    assert (beside.num_with_people, beside.num_of_people, beside.num_prompts) == (6, 3, 3)
    assert beside.labelers == [
        ("ann", pytest.approx(2.5 / 3), pytest.approx(2 / 3)),
        ("bob", pytest.approx(1.5 / 3), pytest.approx(2 / 3)),
    ]
    assert found.numbers["agreement_with_people"] == beside.with_people.value
    assert found.numbers["agreement_of_people"] == beside.of_people.value


def test_votes_that_nobody_signed_are_voters() -> None:
    votes = [by("", (1, 2)), by("", (1, 2)), by("", (2, 1)), by("ann", (1, 2)), by("", (1, 2), Prompt.from_text("q"))]
    assert [each.labeler for each in voters(votes)] == ["unsigned 1", "unsigned 2", "unsigned 3", "ann", "unsigned 1"]
    found = beside_people(judged(asked(0.9, 0.1)).rankings(model="m", constitution=""), votes[:3], seed=0)
    assert found.of_people.value == pytest.approx(1 / 3)
    assert found.with_people.value == pytest.approx(2 / 3)


def test_a_tie_every_time_and_the_longer_answer_stand_beside() -> None:
    """Of four votes two are ties: whoever calls everything a tie agrees in three quarters."""
    responses = (Response(text="one"), Response(text="one two"))
    votes = [Ranking(prompt=P, responses=responses, ranks=ranks) for ranks in ((1, 1), (1, 1), (2, 1), (1, 2))]
    item = judged(asked(0.9, 0.1)).model_copy(update={"responses": responses})
    beside = beside_people(item.rankings(model="m", constitution=""), votes, seed=0)
    assert beside.of_ties.value == (1 + 1 + 0.5 + 0.5) / 4
    assert beside.of_longer.value == (0.5 + 0.5 + 1 + 0) / 4
    assert beside.with_people.value == (0.5 + 0.5 + 0 + 1) / 4


def test_people_who_judged_something_else_agree_with_nobody() -> None:
    found = beside_people(
        judged(asked(0.9, 0.1)).rankings(model="m", constitution=""), [by("ann", (1, 2), Prompt.from_text("q"))], seed=0
    )
    assert (found.with_people.value, found.of_people.value, found.num_prompts) == (None, None, 0)
