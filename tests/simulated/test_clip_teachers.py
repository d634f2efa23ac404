"""Teachers of clips are their formulas, exactly; what they say is drawn from these."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from palate.simulated.clip_teachers import (
    FIRST,
    SECOND,
    SKIP,
    TIE,
    adapted_threshold,
    answers,
    at_random,
    equal,
    mistaken,
    myopic,
    noisy,
    perfect,
    skipping,
)

Teacher = Callable[[Tensor, Tensor], Tensor]
TEACHERS: dict[str, Teacher] = {
    "perfect": perfect,
    "mistaken": partial(mistaken, mistake_rate=0.1),
    "noisy": partial(noisy, rationality=0.7),
    "skipping": partial(skipping, least=1.0),
    "equal": partial(equal, within=0.5),
    "myopic": partial(myopic, discount=0.8),
    "at_random": at_random,
}


def rewards(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


A = rewards((1.0, 2.0), (0.0, 0.0), (3.0, -1.0))
B = rewards((2.0, 0.5), (1.0, 1.0), (1.0, 1.0))
"""Returns 3, 0, 2 against 2.5, 2, 2."""


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        (perfect, [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]),
        (partial(mistaken, mistake_rate=0.1), [[0.9, 0, 0.1, 0], [0.1, 0, 0.9, 0], [0, 1, 0, 0]]),
        (partial(skipping, least=2.5), [[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]]),
        (partial(equal, within=1.0), [[0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]),
        (partial(equal, within=0.5), [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]),  # as near as that is not nearer
        # 0.5 + 2 against 1 + 0.5; 0 against 1.5; 1.5 - 1 against 0.5 + 1
        (partial(myopic, discount=0.5), [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]),
        (at_random, [[0.5, 0, 0.5, 0]] * 3),
    ],
)
def test_a_teacher_by_hand(teacher: Teacher, expected: list[list[float]]) -> None:
    torch.testing.assert_close(teacher(A, B), torch.tensor(expected, dtype=torch.float64))


def test_the_noisy_one_is_boltzmann() -> None:
    """B-Pref's equation 4: exp(beta * return of one) over the sum of both."""
    told = noisy(A, B, rationality=0.7)
    expected = [math.exp(0.7 * a) / (math.exp(0.7 * a) + math.exp(0.7 * b)) for a, b in ((3, 2.5), (0, 2), (2, 2))]
    assert told[:, FIRST].tolist() == pytest.approx(expected)
    assert told[:, SECOND].tolist() == pytest.approx([1 - each for each in expected])
    assert not told[:, [TIE, SKIP]].any()


def test_the_short_sighted_one_sees_the_end_of_a_clip() -> None:
    early, late = rewards((5.0, 0.0, 0.0)), rewards((0.0, 0.0, 3.0))
    assert perfect(early, late)[0, FIRST] == 1
    assert myopic(early, late, discount=0.7)[0, SECOND] == 1  # 5 * 0.49 against 3
    assert myopic(early, late, discount=0.8)[0, FIRST] == 1  # 5 * 0.64
    torch.testing.assert_close(myopic(A, B, discount=1.0), perfect(A, B))


numbers = st.lists(st.tuples(*[st.floats(-5, 5, width=16)] * 6), min_size=1, max_size=6)


@pytest.mark.parametrize("name", TEACHERS)
@given(rows=numbers)
def test_shown_the_other_way_round_they_say_the_same(name: str, rows: list[tuple[float, ...]]) -> None:
    both = torch.tensor(rows, dtype=torch.float64)
    first, second = both[:, :3], both[:, 3:]
    told = TEACHERS[name](first, second)
    torch.testing.assert_close(told.sum(1), torch.ones(len(rows), dtype=torch.float64))
    assert (told >= 0).all()
    torch.testing.assert_close(TEACHERS[name](second, first), told[:, [SECOND, TIE, FIRST, SKIP]])


def test_answers_are_drawn_from_the_probabilities() -> None:
    told = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64).expand(8, 4)
    lots = torch.arange(8, dtype=torch.float64) / 8
    assert answers(told, lots).tolist() == [FIRST] * 4 + [TIE] * 2 + [SECOND, SKIP]
    sure = torch.eye(4, dtype=torch.float64)
    for lot in (0.0, 0.5, 1 - 1e-16):
        assert answers(sure, torch.full((4,), lot, dtype=torch.float64)).tolist() == [FIRST, TIE, SECOND, SKIP]


def test_thresholds_are_those_of_the_paper_where_rewards_are_above_zero() -> None:
    returns = torch.tensor([0.0, 4.0, 8.0], dtype=torch.float64)
    assert adapted_threshold(returns, 0.1) == pytest.approx(0.4)  # a tenth of the mean return
    assert adapted_threshold(returns - 100, 0.1) == pytest.approx(0.4)  # and wherever zero is
