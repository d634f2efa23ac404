"""Credit, token by token: every number where it belongs, words true of them, colours that everybody can read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from palate.evals.credit import CREDIT_CSS, Credit, credit_html, credit_of_steps, sentence
from palate.evals.shades import LEVELS, contrast, level, shade_class, shades
from palate.evals.theme import DARK, LIGHT

EVIL = "</li><script>alert(1)</script>"
ROW: dict[str, Any] = {
    "step": 4,
    "prompt": "What <b>now</b>?",
    "response": "Well, no",
    "score": 0.5,
    "credit": {
        "tokens": ["Well", ",", EVIL, "<|im_end|>"],
        "reward": [-0.25, 0.0, 0.125, 0.375],
        "kl": [2.0, 0.0, -1.0, 1.0],
        "value": [0.5, 0.25, 0.25, 1.0],
        "advantage": [-1.5, 0.25, 1.0, 0.25],
        "return": [0.0, 0.5, 1.25, 1.25],
    },
}


def row(step: int = 0, score: float | None = 0.5, **credit: Sequence[Any]) -> dict[str, Any]:
    """One row of the samples; what is not given is zero."""
    length = len(next(iter(credit.values())))
    zeros = {name: [0.0] * length for name in ("reward", "kl", "advantage")}
    said = {"tokens": [f"t{place}" for place in range(length)], **zeros, **credit}
    return {"step": step, "prompt": "p", "response": "r", "score": score, "credit": said}


def told(**credit: Sequence[Any]) -> str:
    """What is said of a response."""
    found = Credit.of(row(**credit))
    assert found is not None
    return sentence(found)


class Tokens(HTMLParser):
    """The tokens of a page: their texts, what they say when pointed at, their classes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tips: list[str] = []
        self.classes: list[set[str]] = []
        self.inputs: list[dict[str, str | None]] = []
        self._in: list[str] = []
        self.feed(html)
        assert self._in == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "input":
            self.inputs.append(given)
            return
        self._in.append(tag)
        if tag == "li":
            assert given["tabindex"] == "0"
            self.classes.append(set((given.get("class") or "").split()))
            self.texts.append("")
            self.tips.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._in.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._in[-1:] == ["li"]:
            self.texts[-1] += data
        elif self._in[-2:] == ["li", "span"]:
            self.tips[-1] += data


def page(*rows: dict[str, Any]) -> str:
    return credit_html(credit_of_steps(rows), opened=[0])


def test_every_token_has_its_own_text_numbers_and_shades() -> None:
    found = Tokens(page(ROW))
    assert found.texts == ["Well", ",", EVIL, "<|im_end|>"]
    assert [tip.strip() for tip in found.tips] == [
        "token 1 of 4: advantage −1.5, reward −0.25, KL 2 nats, value 0.5",
        "token 2 of 4: advantage 0.25, reward 0, KL 0 nats, value 0.25",
        "token 3 of 4: advantage 1, reward 0.125, KL −1 nats, value 0.25",
        "token 4 of 4: advantage 0.25, reward 0.375, KL 1 nats, value 1",
    ]
    assert found.classes == [
        {"an8", "rn5", "kp8", "vp4"},
        {"ap1", "vp2"},
        {"ap5", "rp3", "kn4", "vp2"},
        {"ap1", "rp8", "kp4", "vp8"},
    ]


def test_what_was_written_by_others_is_text() -> None:
    html = page(ROW)
    assert "<script" not in html
    assert "<b>now" not in html
    assert "style=" not in html
    assert " on" not in "".join(re.findall(r"<[^>]*>", html))


def test_a_response_has_its_sums_in_words() -> None:
    assert "Score 0.5; in all KL 2 nats and reward 0.25." in page(ROW)


def test_one_switch_for_the_numbers_that_there_are() -> None:
    found = Tokens(page(ROW))
    assert [(each["value"], "checked" in each) for each in found.inputs] == [
        ("a", True),
        ("r", False),
        ("k", False),
        ("v", False),
    ]
    assert {each["name"] for each in found.inputs} == {"credit-by"}
    without = Tokens(page(row(reward=[0.5])))
    assert [each["value"] for each in without.inputs] == ["a", "r", "k"]
    assert "value" not in without.tips[0]


def test_a_scale_is_that_of_all_responses_shown() -> None:
    rows = [row(step, advantage=[size / 2, -size], kl=[0.01, 0.0]) for step, size in ((0, 1.0), (7, 4.0))]
    found = Tokens(page(*rows))
    assert found.classes == [{"ap1", "kp2"}, {"an2"}, {"ap4", "kp2"}, {"an8"}]
    html = page(*rows)
    assert '>−4</span><span class="ramp"></span><span>4<' in html
    assert '>−0.05</span><span class="ramp"></span><span>0.05 nats<' in html, "rounding has no full colour"
    assert "0 throughout" in html, "no reward at all"


def test_the_first_step_the_middle_one_and_the_last_are_shown() -> None:
    def steps(*given: int) -> list[int]:
        return [step for step, _ in credit_of_steps([row(step, kl=[0.0]) for step in given])]

    assert steps(*range(0, 20, 2)) == [0, 10, 18]
    assert steps(3, 1) == [1, 3]
    assert steps(5, 5) == [5]
    assert len(credit_of_steps([row(5, kl=[0.0])] * 4)[0][1]) == 4
    assert "<details open><summary>Step 0<" in page(row(0, kl=[0.0]), row(1, kl=[0.0]))
    assert "<details><summary>Step 1<" in page(row(0, kl=[0.0]), row(1, kl=[0.0]))


@pytest.mark.parametrize(
    "credit",
    [None, {}, [1], {"tokens": []}, {"tokens": ["a"], "reward": [1.0], "kl": [1.0]}, ROW["credit"] | {"kl": [1.0]}],
)
def test_rows_without_credit_are_passed_over(credit: object) -> None:
    assert credit_of_steps([{"step": 0, "prompt": "p", "response": "r"}, ROW | {"step": 1, "credit": credit}]) == []
    assert [step for step, _ in credit_of_steps([ROW | {"credit": credit}, ROW])] == [4]


@pytest.mark.parametrize(
    ("token", "text"),
    [
        (" the", " the"),
        ("\n\n", "↵\n↵\n"),
        ("a\tb", "a⇥\tb"),
        ("", "◦"),
        ("\x00\x1b", "␀␛"),
        ("\u200b", "U+200B"),
        ("\u202e", "U+202E"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("\ufffd", "\ufffd"),
        ("\u3000", "\u3000"),
    ],
)
def test_nothing_in_a_token_is_invisible(token: str, text: str) -> None:
    found = Tokens(page(row(tokens=[token])))
    assert found.texts == [text]
    assert ("part of a character" in found.tips[0]) == (not token)


def test_undefined_numbers_are_said_to_be_so() -> None:
    found = Tokens(page(row(reward=[None, 0.5], kl=[1.0, 0.1], score=None)))
    assert "reward undefined" in found.tips[0]
    assert found.classes[0] == {"kp8"}


@pytest.mark.parametrize(
    ("credit", "said"),
    [
        (
            {"reward": [-0.1, -0.3, 0.5], "kl": [1.0, 3.0, 0.0], "advantage": [0.1, 0.2, -0.3]},
            "“t1” (token 2 of 3) cost most, 0.3: it was 3 nats more likely than under the reference; the most blame, "
            "an advantage of −0.3, fell on “t2” (the last token).",
        ),
        (
            {"reward": [-0.1, -0.9], "kl": [1.0, 4.0], "score": -0.5, "advantage": [-2.0, 2.0], "value": [0.5, -1.0]},
            "“t1” (the last token) cost most, 0.9: the score, −0.5, arrives there, and it was 4 nats more likely than "
            "under the reference; the most blame, an advantage of −2, fell on “t0” (token 1 of 2), over which the "
            "value fell from 0.5 to −1.",
        ),
        (
            {"reward": [0.0, -0.5], "kl": [0.0, -1.0], "score": -0.6, "advantage": [-2.0, 2.0], "value": [0.5, 0.75]},
            "“t1” (the last token) cost most, 0.5: the score, −0.6, arrives there, and it was 1 nats less likely than "
            "under the reference; the most blame, an advantage of −2, fell on “t0” (token 1 of 2), over which the "
            "value rose from 0.5 to 0.75.",
        ),
        (
            {"reward": [-0.5, 0.5], "kl": [1.0, 0.0], "advantage": [-1.0, 1.0], "value": [0.5, 0.5]},
            "“t0” (token 1 of 2) cost most, 0.5: it was 1 nats more likely than under the reference; the most blame, "
            "an advantage of −1, fell on it too, over which the value stayed at 0.5.",
        ),
        (
            {"reward": [0.1, 0.5], "kl": [-1.0, 0.0], "advantage": [0.4, 0.4]},
            "No token cost anything, and the score, 0.5, arrives on the last one; every token has the same advantage, "
            "0.4.",
        ),
        (
            {"reward": [-1e-9, 0.5], "kl": [1e-7, -0.009], "advantage": [0.1, 0.4]},
            "Policy and reference agree on every token to within 0.01 nats, and the score, 0.5, arrives on the last "
            "one; none was blamed, as no advantage is below zero.",
        ),
    ],
)
def test_what_is_said_of_a_response(credit: dict[str, Any], said: str) -> None:
    assert told(**credit) == said


NUMBERS = st.floats(-9, 9, width=16)


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=6))
def test_what_is_said_is_true_of_the_numbers(tokens: list[tuple[float, ...]]) -> None:
    reward, kl, advantage, value = ([each[place] for each in tokens] for place in range(4))
    said = told(reward=reward, kl=kl, advantage=advantage, value=value)
    cost, blame = said.split("; ")
    last = len(tokens) - 1
    if found := re.match(r"“t(\d+)” \(.*\) cost most, ([^:]+): ", cost):
        assert reward[int(found[1])] == min(reward) < 0
        assert float(found[2].replace("−", "-")) == pytest.approx(-min(reward), rel=1e-3)
        assert ("more likely" in cost) == (kl[int(found[1])] > 0)
        assert ("the score" in cost) == (int(found[1]) == last)
    else:
        assert min(reward) >= 0 or max(map(abs, kl)) < 0.01
    if found := re.match(r"the most blame, an advantage of (.*), fell on (“t(\d+)”|it too)", blame):
        place = int(found[3] or re.findall(r"“t(\d+)”", cost)[0])
        assert advantage[place] == min(advantage) < max(advantage)
        assert float(found[1].replace("−", "-")) == pytest.approx(min(advantage), rel=1e-3)
        assert min(advantage) < 0
        for word, is_so in (("fell", 1), ("rose", -1), ("stayed", 0)):
            if f"the value {word}" in blame:
                assert np.sign(value[place] - value[place + 1]) == is_so
        assert ("the value" in blame) == (place < last)
    elif "the same advantage" in blame:
        assert min(advantage) == max(advantage)
    else:
        assert min(advantage) >= 0


@given(st.floats(-100, 100), st.floats(0, 100))
def test_shades_go_evenly_from_zero_to_the_ends(value: float, limit: float) -> None:
    value = max(-limit, min(limit, value))
    assert level(value, limit) == -level(-value, limit)
    assert abs(level(value, limit) / LEVELS * limit - value) <= limit / LEVELS / 2 + 1e-9
    assert shade_class("k", value, limit)[1:2] == {0: "", 1: "p", -1: "n"}[int(np.sign(level(value, limit)))]


@pytest.mark.parametrize(("theme", "palette"), [("light", LIGHT), ("dark", DARK)])
def test_text_can_be_read_on_every_shade(theme: str, palette: dict[str, str]) -> None:
    for name, colour in shades(theme).items():
        assert contrast(colour, palette["ink"]) >= 4.5, f"{name}: {contrast(colour, palette['ink']):.2f}"
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)


COLOUR_BLIND = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""On linear RGB: Machado, Oliveira and Fernandes 2009."""


def lab(colour: str, seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """A colour, seen through a matrix, in CIELAB: a distance of 2 can just be told."""
    channels = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.clip(seen @ np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4), 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    x, y, z = np.cbrt(xyz / np.array([0.9505, 1.0, 1.089]))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", ["usual", *COLOUR_BLIND])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everybody_can_tell_blame_from_credit(theme: str, sight: str) -> None:
    seen = np.array(COLOUR_BLIND.get(sight, np.eye(3)))
    found = shades(theme)
    for number in range(2, LEVELS + 1):
        distance = np.linalg.norm(lab(found[f"n{number}"], seen) - lab(found[f"p{number}"], seen))
        assert distance > 4 * number, f"level {number}: {distance:.1f}"


def test_the_sheet_has_every_class_that_a_page_may_have() -> None:
    for letter in "arkv":
        for side in "np":
            for number in range(1, LEVELS + 1):
                assert f".credit .{letter}{side}{number}{{--{letter}:var(--{side}{number})" in CREDIT_CSS
        assert f":has([value={letter}]:checked) li{{background:var(--{letter})" in CREDIT_CSS
    assert CREDIT_CSS.count("{") == CREDIT_CSS.count("}")
    assert "url(" not in CREDIT_CSS
