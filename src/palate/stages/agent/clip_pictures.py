"""A clip as a moving picture: SVG that plays by itself, a function of what was observed, and of nothing else.

Of the environments that are known here the body is drawn from its angles and places. Of any other the numbers of its
observations are drawn over time, with a line that moves along. Nothing is asked of the environment, so that a clip can
be drawn long after it happened, on a machine without a screen; and a picture is some kilobytes of text.

Left out: what is not observed, colours that mean something, and three dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from palate.evals.theme import LIGHT, SERIES

Floats = NDArray[np.float64]
Frames = Sequence[tuple[Floats, str, float]]
"""Lines that move: the ends [L, 4] (x1, y1, x2, y2) in each frame, a colour and a width."""

SIZE = 240
SECONDS = 0.08
"""Of a frame; a little slower than the environments are, so that a person can follow."""


def picture(environment: str, observations: Floats, title: str) -> str:
    """One clip as SVG that repeats for ever.

    Args:
        environment: its name in Gymnasium.
        observations: [L, O], not scaled.
        title: what a screen reader says of it.
    """
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}" width="{SIZE}" height="{SIZE}" '
        f'role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f"{moving_parts(environment, observations)}</svg>\n"
    )


def moving_parts(environment: str, observations: Floats) -> str:
    """What is inside such a picture, to be part of a larger one."""
    draw = DRAWINGS.get(environment)
    frames = over_time(observations) if draw is None else draw(observations)
    seconds = SECONDS * len(observations)
    lines = "".join(_line(ends, colour, width, seconds) for ends, colour, width in frames)
    paper = f'<rect width="{SIZE}" height="{SIZE}" fill="{LIGHT["paper"]}" stroke="{LIGHT["grid"]}"/>'
    return f'{paper}<g stroke-linecap="round">{lines}</g>{_progress(seconds)}'


def pendulum(observations: Floats) -> Frames:
    """Observed are cos and sin of the angle, 0 being upright, and its speed."""
    cosine, sine = observations[:, 0], observations[:, 1]
    middle, length = SIZE / 2, 0.36 * SIZE
    pivot = np.full(len(observations), middle)
    tip = (middle - length * sine, middle - length * cosine)
    return [
        (_still(len(observations), middle, middle, middle, 0.1 * SIZE), LIGHT["grid"], 2.0),
        (np.stack([pivot, pivot, *tip], 1), SERIES[0], 12.0),
    ]


def acrobot(observations: Floats) -> Frames:
    """Observed are cos and sin of both angles; hanging down both are 0, and the second is from the first link on."""
    cosine_1, sine_1, cosine_2, sine_2 = observations[:, :4].T
    middle, length = SIZE / 2, 0.21 * SIZE
    pivot = np.full(len(observations), middle)
    elbow = (middle + length * sine_1, middle + length * cosine_1)
    sine, cosine = sine_1 * cosine_2 + cosine_1 * sine_2, cosine_1 * cosine_2 - sine_1 * sine_2
    tip = (elbow[0] + length * sine, elbow[1] + length * cosine)
    height = middle - length
    return [
        (_still(len(observations), 0, height, SIZE, height), LIGHT["grid"], 2.0),
        (np.stack([pivot, pivot, *elbow], 1), SERIES[0], 9.0),
        (np.stack([*elbow, *tip], 1), SERIES[1], 9.0),
    ]


def cart_pole(observations: Floats) -> Frames:
    """Observed are the cart's place, -2.4 to 2.4, and third the pole's angle, 0 being upright."""
    place = SIZE / 2 + observations[:, 0] / 2.4 * 0.45 * SIZE
    ground, length = np.full(len(observations), 0.75 * SIZE), 0.4 * SIZE
    tip = (place + length * np.sin(observations[:, 2]), ground - length * np.cos(observations[:, 2]))
    return [
        (_still(len(observations), 0, 0.75 * SIZE, SIZE, 0.75 * SIZE), LIGHT["grid"], 2.0),
        (np.stack([place - 16, ground, place + 16, ground], 1), LIGHT["ink"], 16.0),
        (np.stack([place, ground, *tip], 1), SERIES[1], 7.0),
    ]


def over_time(observations: Floats) -> Frames:
    """Of any environment: each number over the steps of the clip, between its least and its largest, and a cursor."""
    steps, numbers = observations.shape
    x = np.linspace(0.06, 0.94, steps) * SIZE
    least, most = observations.min(0), observations.max(0)
    share = (observations - least) / np.where(most > least, most - least, 1.0)
    found: list[tuple[Floats, str, float]] = []
    for number in range(numbers):
        row = SIZE * 0.9 / numbers
        y = 0.05 * SIZE + row * (number + 0.85 - 0.7 * share[:, number])
        colour = SERIES[number % len(SERIES)]
        found += [(_still(steps, x[step], y[step], x[step + 1], y[step + 1]), colour, 2.0) for step in range(steps - 1)]
    top, bottom = np.full(steps, 0.05 * SIZE), np.full(steps, 0.95 * SIZE)
    return [*found, (np.stack([x, top, x, bottom], 1), LIGHT["muted"], 1.5)]


DRAWINGS: dict[str, Callable[[Floats], Frames]] = {
    "Pendulum-v1": pendulum,
    "Acrobot-v1": acrobot,
    "CartPole-v1": cart_pole,
}


def _still(steps: int, *ends: float) -> Floats:
    """[L, 4] a line that does not move."""
    return np.tile(np.array(ends, dtype=np.float64), (steps, 1))


def _line(ends: Floats, colour: str, width: float, seconds: float) -> str:
    """One line, with an animation of each end that moves."""
    names = ("x1", "y1", "x2", "y2")
    first = " ".join(f'{name}="{value:.1f}"' for name, value in zip(names, ends[0], strict=True))
    moves = "".join(
        f'<animate attributeName="{name}" dur="{seconds:.2f}s" repeatCount="indefinite" values="{_values(column)}"/>'
        for name, column in zip(names, ends.T, strict=True)
        if np.ptp(column) > 0
    )
    return f'<line {first} stroke="{colour}" stroke-width="{width:g}">{moves}</line>'


def _values(column: Floats) -> str:
    return ";".join(f"{value:.1f}" for value in column)


def _progress(seconds: float) -> str:
    """How far the clip is, so that its end is not taken for a fall."""
    return (
        f'<rect x="0" y="{SIZE - 4}" height="4" fill="{LIGHT["muted"]}" width="0">'
        f'<animate attributeName="width" dur="{seconds:.2f}s" repeatCount="indefinite" values="0;{SIZE}"/></rect>'
    )
