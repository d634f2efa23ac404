"""Where the ink goes: geometry by hand, properties of axes, and a policy that forbids inline styles."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.evals import theme
from palate.studio.web import charts, rendering
from palate.studio.web.charts import Bar, Series
from palate.studio.web.figures import day_label

FINITE = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 4))


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, (0, 0.25, 0.5, 0.75, 1)),
        (0.1, 0.9, (0, 0.2, 0.4, 0.6, 0.8, 1)),
        (-3.0, 17.0, (-5, 0, 5, 10, 15, 20)),
        (0.0, 400.0, (0, 100, 200, 300, 400)),
        (0.0012, 0.0019, (0.0012, 0.0014, 0.0016, 0.0018, 0.002)),
    ],
)
def test_ticks_are_round_numbers_around_the_data(low: float, high: float, ticks: tuple[float, ...]) -> None:
    assert charts.nice_axis(low, high).ticks == pytest.approx(ticks)


def test_whole_ticks() -> None:
    assert charts.nice_axis(0, 2, whole=True).ticks == (0, 1, 2)


@given(FINITE, FINITE, st.booleans())
def test_an_axis_holds_its_data_with_few_even_ticks(a: float, b: float, whole: bool) -> None:
    low, high = min(a, b), max(a, b)
    axis = charts.nice_axis(low, high, whole=whole)
    slack = 1e-6 * max(abs(low), abs(high), axis.high - axis.low)
    assert axis.low <= low + slack
    assert axis.high >= high - slack
    assert 2 <= len(axis.ticks) <= 8
    steps = [y - x for x, y in zip(axis.ticks, axis.ticks[1:], strict=False)]
    assert steps == pytest.approx([axis.step] * len(steps))
    assert math.isclose(axis.share(axis.low), 0)
    assert math.isclose(axis.share(axis.high), 1)
    if whole:
        assert all(tick == int(tick) for tick in axis.ticks)


@given(st.floats(-0.5, 1.5), st.floats(-0.5, 1.5))
def test_an_axis_of_shares_shows_no_more_than_there_can_be(a: float, b: float) -> None:
    axis = charts.nice_axis(min(a, b), max(a, b), within=charts.SHARE)
    assert 0 <= axis.low < axis.high <= 1
    assert axis.low <= min(max(min(a, b), 0), 1) + 1e-9
    assert axis.high >= max(min(max(a, b), 1), 0) - 1e-9
    assert len(axis.ticks) >= 2


@pytest.mark.parametrize(("value", "low", "high"), [(0.0, 0.0, 0.6), (1.0, 0.9, 1.0), (0.5, 0.45, 0.55)])
def test_one_share_has_an_axis_that_fits(value: float, low: float, high: float) -> None:
    axis = charts.nice_axis(value, value, within=charts.SHARE)
    assert (axis.low, axis.high) == pytest.approx((low, high))


def test_an_interval_that_leaves_the_unit_is_cut_off() -> None:
    tree = parse(charts.bars("T", [Bar(label="a", value=0.9, low=0.7, high=1.1)], high=1, within=charts.SHARE))
    ticks = [float(text.text or "") for text in tree.findall(".//text[@text-anchor='middle']")]
    assert (min(ticks), max(ticks)) == (0, 1)
    # 480 wide, 60 for figures: the axis ends at 420
    assert tree.find(".//path[@class='whisker']").attrib["d"].split("H")[1].startswith("420M")  # type: ignore[union-attr]


def test_counts_stand_on_whole_numbers_from_zero() -> None:
    line = Series(name="a", x=[0, 1, 2], y=[0.0, 0.0, 0.0])
    drawing = charts.lines("T", [line], y_low=0, y_within=charts.COUNT)
    assert "-" not in "".join(text.text or "" for text in parse(drawing).findall(".//text"))


def test_a_single_place_is_told_in_words() -> None:
    line = Series(name="agreement", x=[20_000], y=[0.75], low=[0.5], high=[1.0])
    told = charts.lines("T", [line], x_label="day", x_format=day_label, y_format=charts.percent)
    assert "<svg" not in told
    assert "".join(parse(told).find(".//p").itertext()) == "day 4 Oct: 75% (50% to 100%)."  # type: ignore[union-attr]
    both = [Series(name="a", x=[3], y=[1.0]), Series(name="b", x=[3, 4], y=[2.0, None])]
    told = charts.lines("T", both, x_label="step", y_format=charts.plain)
    assert "".join(parse(told).find(".//p").itertext()) == "a, step 3.00: 1.00; b, step 3.00: 2.00."  # type: ignore[union-attr]


def test_a_line_runs_from_corner_to_corner() -> None:
    # 480 x 240 with 54 left, 14 right, 10 above, 40 below: data in 54..466 and 200..10
    tree = parse(charts.lines("T", [Series(name="a", x=[0, 1, 2], y=[0.0, 0.5, 1.0])]))
    assert path(tree, "line c1") == [(54, 200), (260, 105), (466, 10)]


def test_gaps_stay_gaps_and_a_lone_value_is_a_dot() -> None:
    tree = parse(charts.lines("T", [Series(name="a", x=[0, 1, 2, 3, 4], y=[0.0, 1.0, None, 1.0, None])]))
    assert len(tree.findall(".//path[@class='line c1']")) == 1
    lone = [dot for dot in tree.findall(".//circle") if dot.get("cx") == "466"]
    assert [(dot.get("cy"), dot.get("class")) for dot in lone] == [("10", "dot c1")]


def test_a_band_goes_along_the_top_and_back_along_the_bottom() -> None:
    tree = parse(charts.lines("T", [Series(name="a", x=[0, 1], y=[0.5, 0.5], low=[0.0, 0.25], high=[1.0, 0.75])]))
    assert path(tree, "band c1") == [(54, 10), (466, 57.5), (466, 152.5), (54, 200)]


def test_a_reference_lies_on_its_value() -> None:
    tree = parse(charts.lines("T", [Series(name="a", x=[0, 1], y=[0.0, 1.0])], reference=0.5))
    assert tree.find(".//line[@class='level']").attrib["y1"] == "105"  # type: ignore[union-attr]


def test_smoothing_leaves_straight_lines_alone_and_flattens_noise() -> None:
    assert charts.running_mean([0, 1, 2, 3, 4, 5], 2) == [0, 1, 2, 3, 4, 5]
    assert charts.running_mean([0, 3, 0], 1) == [0, 1, 0]
    noisy = [float(index % 2) for index in range(100)]
    tree = parse(charts.lines("T", [Series(name="a", x=list(range(100)), y=noisy)], smooth=True))
    raw, strong = path(tree, "raw c1"), path(tree, "line c1")
    heights = [y for _, y in strong[10:-10]]
    assert {y for _, y in raw} == {10, 200}
    assert max(heights) - min(heights) < 20


def test_bars_are_as_long_as_their_values_and_whiskers_span_the_interval() -> None:
    tree = parse(
        charts.bars("T", [Bar(label="ann", value=0.5, low=0.25, high=0.75), Bar(label="bob", value=None)], high=1)
    )
    # 480 wide, 132 for labels, 60 for figures: 288 for 0..1
    rect = tree.find(".//rect")
    assert rect is not None
    assert (rect.get("x"), rect.get("width")) == ("132", "144")
    whisker = tree.find(".//path[@class='whisker']")
    assert whisker is not None
    assert whisker.attrib["d"].startswith("M204 17H348")
    assert "not known yet" in "".join(tree.itertext())


def test_a_matrix_tints_by_value_and_prints_every_number() -> None:
    html = charts.matrix("T", ["ann", "bob"], ["ann", "bob"], [[None, 1.0], [0.5, None]], low=0.5)
    cells = re.findall(r'<td class="figure (\w+)">([^<]+)</td>', html)
    assert cells == [("none", "–"), ("h9", "100%"), ("h0", "50%"), ("none", "–")]


def test_thousands_of_steps_stay_a_small_drawing_with_both_ends() -> None:
    count = 20_000
    html = charts.lines("T", [Series(name="a", x=list(range(count)), y=[float(i) for i in range(count)])])
    tree = parse(html)
    points = path(tree, "line c1")
    assert len(points) == charts.MOST_POINTS
    assert points[0] == (54, 200)
    assert points[-1][0] == 466
    rows = tree.findall(".//tbody/tr")
    assert len(rows) == charts.MOST_ROWS
    assert rows[-1].find("th").text == "19,999"  # type: ignore[union-attr]


def test_the_table_tells_what_the_picture_does() -> None:
    both = [Series(name="a", x=[0, 1], y=[1.0, None]), Series(name="b", x=[1, 2], y=[0.25, 3.0])]
    tree = parse(charts.lines("T", both, x_label="step"))
    assert [cell.text for cell in tree.findall(".//thead/tr/th")] == ["step", "a", "b"]
    rows = [[cell.text for cell in row] for row in tree.findall(".//tbody/tr")]
    assert rows == [["0", "1.00", "–"], ["1", "–", "0.250"], ["2", "–", "3.00"]]
    assert ["".join(entry.itertext()) for entry in tree.findall(".//li")] == ["a", "b"]


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '" onload="alert(1)', "{0.__class__} %s"])
def test_names_are_text_and_nothing_is_styled_inline(name: str) -> None:
    drawings = [
        charts.lines(
            name, [Series(name=name, x=[0, 1], y=[0.0, 1.0]), Series(name=name, x=[0], y=[1.0])], x_label=name
        ),
        charts.bars(name, [Bar(label=name, value=1.0, note=name)]),
        charts.matrix(name, [name], [name], [[0.5]]),
    ]
    for html in drawings:
        tree = parse(html)
        assert {element.tag for element in tree.iter()} <= {
            "figure", "figcaption", "svg", "title", "desc", "line", "path", "rect", "circle", "text", "ul", "li",
            "details", "summary", "div", "table", "caption", "thead", "tbody", "tr", "th", "td",
        }  # fmt: skip
        attributes = {attribute for element in tree.iter() for attribute in element.attrib}
        assert not attributes & {"style", "id", "onload"}
        assert name[:15] in "".join(tree.itertext())


def test_without_numbers_it_says_so() -> None:
    assert "Nothing to show yet" in charts.lines("T", [Series(name="a", x=[0], y=[None])])
    assert "Nothing to show yet" in charts.bars("T", [])


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.12345, "0.123"), (12.345, "12.3"), (1234.5, "1,234"), (1.5e7, "1.50e+07"), (-0.5, "-0.500")],
)
def test_numbers(value: float, shown: str) -> None:
    assert charts.plain(value) == shown


def parse(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html)


def path(tree: ElementTree.Element, kind: str) -> list[tuple[float, float]]:
    found = tree.find(f".//path[@class='{kind}']")
    assert found is not None
    points = re.findall(r"(-?[\d.]+) (-?[\d.]+)", found.attrib["d"])
    return [(float(x), float(y)) for x, y in points]


def test_pages_and_reports_have_one_palette() -> None:
    """The app's charts and matplotlib's draw with the same colours, light and dark."""
    css = (rendering.STATIC / "web" / "palate.css").read_text(encoding="utf-8")
    light, dark = css.split("@media (prefers-color-scheme: dark)", 1)
    for palette, text in ((theme.LIGHT, light), (theme.DARK, dark)):
        stated = dict(re.findall(r"--([\w-]+): (#\w+);", text.split("button", 1)[0]))
        assert palette.items() <= stated.items()
