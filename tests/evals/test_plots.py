"""What is drawn is what was given: the figures are looked into before they become text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from palate.evals import plots
from palate.evals.calibration import Bin, Calibration
from palate.evals.plots import Line
from palate.evals.theme import SERIES
from palate.intervals import Estimate

Drawn = Callable[..., Figure]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """The figure of a picture, before it is text; its title and size are attributes of it."""

    def render(draw: Callable[[Figure], None], size: tuple[float, float], title: str) -> Figure:
        figure = Figure(figsize=size)
        draw(figure)
        figure.set_label(title)
        return figure

    monkeypatch.setattr(plots, "render", render)
    return lambda picture, *arguments, **keywords: picture(*arguments, **keywords)


def lines(axes: Axes) -> list[list[list[float]]]:
    """Of every line its x and its y."""
    return [np.asarray(line.get_xydata()).T.tolist() for line in axes.lines]


def dots(axes: Axes) -> list[list[list[float]]]:
    return [np.asarray(each.get_offsets()).tolist() for each in axes.collections if isinstance(each, PathCollection)]


def whiskers(axes: Axes) -> list[list[list[float]]]:
    """Of every interval that is drawn its two ends."""
    return [
        np.asarray(part).tolist()
        for each in axes.collections
        if isinstance(each, LineCollection)
        for part in each.get_segments()
    ]


def said(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def legend(place: Figure | Axes) -> list[str]:
    found = place.legends[0] if isinstance(place, Figure) else place.get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


class TestCurves:
    ROWS = ({"step": 3, "a": 1.0, "b": 5.0}, {"step": 7, "a": 2.0}, {"step": 8, "a": 4.0, "b": 6.0, "c": 0.0})

    def test_a_panel_for_each_group_that_has_any_and_a_line_for_each_metric(self, drawn: Drawn) -> None:
        figure = drawn(plots.learning_curves, self.ROWS, {"Both": ["a", "b"], "None": ["x"], "Third": ["c"]})
        both, third = figure.axes
        assert (both.get_title(), third.get_title()) == ("Both", "Third")
        assert lines(both) == [[[3, 7, 8], [1, 2, 4]], [[3, 8], [5, 6]]]
        assert lines(third) == [[[8], [0]]]
        assert third.lines[0].get_marker() == "o", "a single point is no line"
        assert both.lines[0].get_marker() == "None"
        assert legend(both) == ["a", "b"]
        assert third.get_legend() is None
        assert [line.get_color() for line in both.lines] == list(SERIES[:2])
        assert figure.get_label() == "Learning curves"

    @pytest.mark.parametrize(("count", "grid"), [(1, (1, 1)), (2, (1, 2)), (3, (1, 3)), (4, (2, 3)), (7, (3, 3))])
    def test_three_beside_each_other_and_the_step_under_the_lowest(
        self, drawn: Drawn, count: int, grid: tuple[int, int]
    ) -> None:
        figure = drawn(plots.learning_curves, self.ROWS, {str(number): ["a"] for number in range(count)})
        specs = [axes.get_subplotspec() for axes in figure.axes]
        assert {spec.get_gridspec().get_geometry() for spec in specs if spec} == {grid}
        assert [spec.num1 for spec in specs if spec] == list(range(count))
        labelled = [axes.get_xlabel() == "step" for axes in figure.axes]
        assert labelled == [number >= count - grid[1] for number in range(count)], "the lowest of each column"
        width, height = figure.get_size_inches()
        assert width > 6
        assert height == pytest.approx(2.7 * grid[0])

    def test_of_many_steps_the_running_mean_too(self, drawn: Drawn) -> None:
        rows = [{"step": step, "a": float(step % 2)} for step in range(60)]
        (axes,) = drawn(plots.learning_curves, rows, {"A": ["a"]}).axes
        raw, mean = axes.lines
        assert raw.get_ydata() == pytest.approx([row["a"] for row in rows])
        assert mean.get_label() == "a"
        smooth = np.asarray(mean.get_ydata())
        assert smooth[1:-1].tolist() == pytest.approx([2 / 3 if step % 2 == 0 else 1 / 3 for step in range(1, 59)])
        assert smooth[0] == pytest.approx(0.5), "of the two that there are"

    def test_rows_without_a_step_are_counted(self, drawn: Drawn) -> None:
        (axes,) = drawn(plots.learning_curves, [{"a": 1.0}, {"b": 0.0}, {"a": 3.0}], {"A": ["a"]}).axes
        assert lines(axes) == [[[0, 2], [1, 3]]]

    def test_more_metrics_than_colours(self, drawn: Drawn) -> None:
        names = [f"m{number}" for number in range(len(SERIES) + 1)]
        (axes,) = drawn(plots.learning_curves, [dict.fromkeys(names, 1.0)], {"A": names}).axes
        assert [line.get_color() for line in axes.lines] == [*SERIES, SERIES[0]]


def test_running_mean_by_hand() -> None:
    mean: NDArray[np.float64] = plots._running_mean(np.array([1.0, 2.0, 6.0, 0.0]), 3)
    assert mean.tolist() == [1.5, 3.0, pytest.approx(8 / 3), 3.0]


class TestPath:
    def test_few_steps_are_joined_and_named(self, drawn: Drawn) -> None:
        (axes,) = drawn(plots.reward_against_kl, [0, 1, 3], [0.5, 1, 0], ["start", "", "end"]).axes
        assert lines(axes) == [[[0, 1, 3], [0.5, 1, 0]]]
        assert dots(axes) == [[[0, 0.5], [1, 1], [3, 0]]]
        assert said(axes) == ["start", "end"]
        assert [text.xy for text in axes.texts] == [(0, 0.5), (3, 0)]  # type: ignore[attr-defined]
        assert "KL to the reference" in axes.get_xlabel()
        assert axes.get_ylabel() == "reward"

    @pytest.mark.parametrize(("steps", "joined"), [(59, True), (60, False)])
    def test_many_steps_are_dots_with_their_running_mean(self, drawn: Drawn, steps: int, joined: bool) -> None:
        x, y = np.arange(steps) / 10, np.arange(steps) % 2
        (axes,) = drawn(plots.reward_against_kl, x, y).axes
        assert dots(axes) == [np.stack([x, y], 1).tolist()]
        (line,) = axes.lines
        assert (np.asarray(line.get_ydata()).tolist() == y.tolist()) is joined
        if not joined:
            assert line.get_xdata() == pytest.approx(plots._running_mean(x, 3))
            assert line.get_ydata() == pytest.approx(plots._running_mean(y, 3))


def test_paths_have_every_run_their_mean_and_the_peak(drawn: Drawn) -> None:
    runs = [[(0.0, 0.5), (1.0, 0.7)], [(0.0, 0.5), (3.0, 0.8)]]
    lines_drawn = [
        Line(label="ppo", runs=runs, mean=[(0.0, 0.5), (2.0, 0.75)], colour=0, peak=(1.5, 0.76)),
        Line(label="x" * 50, runs=runs[:1], mean=runs[0], colour=1, dashed=True),
    ]
    figure = drawn(
        plots.paths, lines_drawn, x_label="KL", y_label="win rate", level=(0.5, "even"), at=1.0, percent=True
    )
    (axes,) = figure.axes
    even, place, first, second, mean, other = axes.lines
    assert np.asarray(even.get_ydata()).tolist() == [0.5, 0.5]
    assert np.asarray(place.get_xdata()).tolist() == [1.0, 1.0]
    assert [np.asarray(line.get_xydata()).tolist() for line in (first, second)] == [
        [list(p) for p in run] for run in runs
    ]
    assert np.asarray(mean.get_xydata()).tolist() == [[0.0, 0.5], [2.0, 0.75]]
    assert first.get_linewidth() < mean.get_linewidth(), "a run is thin, the mean is strong"
    assert mean.get_color() == first.get_color() != other.get_color()
    assert (mean.get_linestyle(), other.get_linestyle()) == ("-", "--")
    assert dots(axes) == [[[1.5, 0.76]]]
    assert legend(figure) == ["even", "ppo", "x" * 39 + "…"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("KL", "win rate")
    assert axes.yaxis.get_major_formatter()(0.5) == "50.0%"


def test_paths_of_nothing(drawn: Drawn) -> None:
    (axes,) = drawn(plots.paths, [], x_label="KL", y_label="reward").axes
    assert not axes.lines


def test_calibration_has_every_bin_with_its_count_and_interval(drawn: Drawn) -> None:
    bins = (
        Bin(low=0.5, high=0.6, predicted=0.55, observed=Estimate(0.5, 0.4, 0.7), count=30),
        Bin(low=0.6, high=0.7, predicted=0.66, observed=Estimate(0.8), count=10),
    )
    found = Calibration(bins=bins, error=0.1, log_loss=0.6, num_pairs=40)
    (axes,) = drawn(plots.calibration, found).axes
    assert lines(axes) == [[[0.5, 1], [0.5, 1]]], "where it would be honest"
    assert dots(axes) == [[[0.55, 0.5], [0.66, 0.8]]]
    (scatter,) = (each for each in axes.collections if isinstance(each, PathCollection))
    assert np.asarray(scatter.get_sizes()).tolist() == pytest.approx([220, 20 + 200 / 3])
    assert whiskers(axes)[0] == pytest.approx(np.array([[0.55, 0.4], [0.55, 0.7]]))
    assert said(axes) == ["30", "10"]
    assert [text.xy for text in axes.texts] == [(0.55, 0.5), (0.66, 0.8)]  # type: ignore[attr-defined]
    assert "confidence" in axes.get_xlabel()
    assert "right" in axes.get_ylabel()
    assert [axis.get_major_formatter()(0.75) for axis in (axes.xaxis, axes.yaxis)] == ["75%", "75%"]
    assert axes.get_xlim() == (0.49, 1.02)


def test_calibration_of_nothing(drawn: Drawn) -> None:
    (axes,) = drawn(plots.calibration, Calibration(bins=(), error=None, log_loss=None, num_pairs=0)).axes
    assert dots(axes) == [[]]


def test_agreement_is_deeper_the_more_there_is(drawn: Drawn) -> None:
    agreement = [[None, 0.7, 0.2], [0.7, None, 1], [0.2, 1, None]]
    (axes,) = drawn(plots.agreement_matrix, ["ann", "bob", "cy"], agreement).axes
    assert said(axes) == ["70%", "20%", "70%", "100%", "20%", "100%"]
    assert [text.get_position() for text in axes.texts][:2] == [(1, 0), (2, 0)], "column, row"
    boxes = {box.get_xy(): box.get_alpha() for box in axes.patches if isinstance(box, Rectangle)}
    assert len(boxes) == 9
    alpha = {(row, column): boxes[column - 0.47, row - 0.47] for row in range(3) for column in range(3)}
    assert alpha[0, 1] == pytest.approx(0.6 * 0.5), "from 0.4 to 1"
    assert alpha[0, 2] == pytest.approx(0.6 * 0.05)
    assert alpha[1, 2] == pytest.approx(0.6)
    for axis in (axes.xaxis, axes.yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == ["ann", "bob", "cy"]
    assert axes.get_ylim() == (2.5, -0.5), "the first row is on top"
    assert axes.get_xlim() == (-0.5, 2.5)


def test_before_and_after_on_one_axis_with_their_means(drawn: Drawn) -> None:
    figure = drawn(plots.before_after, [[0.0, 1.0], [1.0, 2.0]], [2.0, 4.0])
    (axes,) = figure.axes
    assert legend(figure) == ["before, mean 1.00", "after, mean 3.00"]
    assert [np.asarray(line.get_xdata()).tolist() for line in axes.lines] == [[1, 1], [3, 3]]
    before, after = axes.containers
    for bars, mean in ((before, 1.0), (after, 3.0)):
        assert sum(bar.get_height() for bar in bars) == pytest.approx(1), "shares"
        centre = sum(bar.get_height() * (bar.get_x() + bar.get_width() / 2) for bar in bars)
        assert centre == pytest.approx(mean, abs=0.1)
    assert [bar.get_x() for bar in before] == [bar.get_x() for bar in after], "the same bins"
    assert axes.get_xlabel() == "score"
    assert axes.get_ylabel() == "share of responses"
    assert axes.yaxis.get_major_formatter()(0.5) == "50%"


def test_rounds_have_a_panel_for_each_title_and_an_interval_at_each_round(drawn: Drawn) -> None:
    won = {"rounds": {1: Estimate(0.6, 0.5, 0.8), 2: Estimate(0.7, 0.6, 0.9)}, "without": {1: Estimate(0.6, 0.5, 0.8)}}
    undefined = {"": {1: Estimate(None), 2: Estimate(2.0)}}
    figure = drawn(plots.over_rounds, {"Win rate": won, "KL": undefined, "Third": undefined}, levels={"Win rate": 0.5})
    first, second, _ = figure.axes
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes] == ["Win rate", "KL", "Third"]
    assert [0.5, 0.5] in [y for _, y in lines(first)]
    assert [[1.0, 2.0], [0.6, 0.7]] in lines(first)
    assert whiskers(first) == [[[1.0, 0.5], [1.0, 0.8]], [[2.0, 0.6], [2.0, 0.9]], [[1.05, 0.5], [1.05, 0.8]]]
    legend = first.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["rounds", "without"]
    assert second.get_legend() is None
    x, y = lines(second)[0]
    assert x == [1.0, 2.0]
    assert np.isnan(y[0])
    assert y[1] == 2.0


@pytest.mark.parametrize(("percent", "texts"), [(True, ["70.0%", "undefined"]), (False, ["0.7", "undefined"])])
def test_bars_have_length_interval_and_value(drawn: Drawn, percent: bool, texts: list[str]) -> None:
    estimates = [Estimate(0.7, 0.6, 0.9), Estimate(None)]
    figure = drawn(plots.bars_with_intervals, ["x" * 50, "y"], estimates, unit="accuracy", percent=percent)
    (axes,) = figure.axes
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    assert bars[0].get_width() == 0.7
    assert np.isnan(bars[1].get_width())
    assert whiskers(axes)[0] == pytest.approx(np.array([[0.6, 0], [0.9, 0]]))
    assert said(axes) == texts
    assert [text.xy for text in axes.texts] == [(0.9, 0), (0.0, 1)]  # type: ignore[attr-defined]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x" * 39 + "…", "y"]
    assert axes.get_ylim() == (1.5, -0.5), "the first on top"
    assert axes.get_xlabel() == figure.get_label() == "accuracy"
    assert (axes.xaxis.get_major_formatter()(0.5) == "50%") is percent


def test_a_label_is_cut_where_it_is_longer_than_there_is_room() -> None:
    assert plots._shorten("x" * 24) == "x" * 24
    assert plots._shorten("x" * 25) == "x" * 23 + "…"


def test_a_picture_says_what_it_is_and_keeps_its_width() -> None:
    svg = plots.reward_against_kl([0, 1], [0, 1])
    assert svg.startswith('<svg role="img" aria-label="Reward against KL" style="max-width: ')
    width = float(svg.split('width="', 1)[1].split("pt", 1)[0])
    assert f"max-width: {1.5 * width:.0f}px" in svg
    assert "<metadata" not in svg
    assert "<style" not in svg
    assert "system-ui, sans-serif" in svg
    assert "DejaVu" not in svg
    assert svg == svg.strip()
