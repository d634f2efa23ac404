"""Pictures of clips: the body is where the observations say, and anything can be drawn."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import numpy as np
import pytest

from palate.stages.agent.clip_pictures import DRAWINGS, SIZE, acrobot, cart_pole, pendulum, picture

SVG = "{http://www.w3.org/2000/svg}"


def pendulum_at(*angles: float) -> np.ndarray:
    return np.array([[math.cos(angle), math.sin(angle), 0.0] for angle in angles])


def test_a_pendulum_stands_where_its_angle_is() -> None:
    rod = pendulum(pendulum_at(0.0, math.pi / 2, math.pi))[-1][0]
    middle, length = SIZE / 2, 0.36 * SIZE
    assert rod[:, :2].tolist() == [[middle, middle]] * 3
    tips = [[middle, middle - length], [middle - length, middle], [middle, middle + length]]
    np.testing.assert_allclose(rod[:, 2:], tips)  # up, to the left, down


def test_an_acrobot_hangs_and_stands() -> None:
    def at(first: float, second: float) -> list[float]:
        return [math.cos(first), math.sin(first), math.cos(second), math.sin(second), 0.0, 0.0]

    _, upper, lower = acrobot(np.array([at(0, 0), at(math.pi, 0), at(math.pi / 2, math.pi)]))
    middle, length = SIZE / 2, 0.21 * SIZE
    np.testing.assert_allclose(
        lower[0][:, 2:], [[middle, middle + 2 * length], [middle, middle - 2 * length], [middle, middle]]
    )
    np.testing.assert_allclose(lower[0][:, :2], upper[0][:, 2:])


def test_a_pole_leans_to_its_side() -> None:
    _, cart, pole = cart_pole(np.array([[0.0, 0, 0.0, 0], [1.2, 0, 0.2, 0]]))
    assert pole[0][0, 2] == pole[0][0, 0] == SIZE / 2
    assert pole[0][1, 2] > pole[0][1, 0] > SIZE / 2
    assert cart[0][1, 1] == cart[0][1, 3]


@pytest.mark.parametrize("name", [*DRAWINGS, "Something-v3"])
def test_a_picture_moves_and_is_well_formed(name: str) -> None:
    observations = np.random.default_rng(0).normal(size=(7, 6))
    root = ElementTree.fromstring(picture(name, observations, 'clip <1> & "more"'))
    assert root.find(f"{SVG}title").text == 'clip <1> & "more"'  # type: ignore[union-attr]
    moves = root.findall(f".//{SVG}line/{SVG}animate")
    assert moves
    assert {len(str(move.get("values")).split(";")) for move in moves} == {7}
    assert {move.get("repeatCount") for move in root.iter(f"{SVG}animate")} == {"indefinite"}
    assert picture(name, observations, "a") == picture(name, observations.copy(), "a")


def test_a_clip_in_which_nothing_moves() -> None:
    root = ElementTree.fromstring(picture("Pendulum-v1", pendulum_at(1.0, 1.0), "still"))
    assert not root.findall(f".//{SVG}line/{SVG}animate")
