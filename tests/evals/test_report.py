"""Reports: what goes in comes out, nothing is loaded from anywhere, and what models wrote cannot act."""

from __future__ import annotations

import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from palate.errors import RunError
from palate.evals import plots
from palate.evals.calibration import calibration
from palate.evals.credit import credit_of_steps
from palate.evals.page import format_number
from palate.evals.report import Report, stage_report
from palate.evals.winrate import win_rate_by_length
from palate.intervals import Estimate

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)> & \"quotes\" 'and' $x_1$"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags nest, and keeps what is there."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@cache
def drawings(label: str = "PPO") -> dict[str, str]:
    rng = np.random.default_rng(0)
    rows = [{"step": i, "objective/score": i / 10, "objective/kl": float(i % 3)} for i in range(80)]
    return {
        "curves": plots.learning_curves(rows, {label: ["objective/score", "objective/kl"], "absent": ["no/metric"]}),
        "path": plots.reward_against_kl([0, 1, 2], [0, 1, 1.5], [label, "", "end"]),
        "paths": plots.paths(
            [plots.Line(label=label, runs=[[(0, 0.5), (1, 0.6)]], mean=[(0, 0.5), (1, 0.6)], colour=0)],
            x_label="KL",
            y_label="win rate",
            level=(0.5, "even"),
        ),
        "calibration": plots.calibration(calibration(rng.normal(1, 1, 100), [str(n) for n in range(100)], seed=0)),
        "matrix": plots.agreement_matrix(["a", label], [[None, 0.7], [0.7, None]]),
        "histogram": plots.before_after(rng.normal(size=50), rng.normal(size=40)),
        "lengths": plots.win_rate_by_length(
            win_rate_by_length(*rng.normal(size=(2, 60, 2)), *rng.integers(5, 40, (2, 60, 2)), seed=0)
        ),
        "bars": plots.bars_with_intervals(["x", label], [Estimate(0.7, 0.6, 0.8), Estimate(None)], unit="accuracy"),
    }


@cache
def full_page() -> str:
    report = Report(f"Title {EVIL}", f"subtitle {EVIL}")
    report.number("win_rate", 0.82, low=0.74, high=0.89, label=f"Win rate {EVIL}", note=EVIL)
    report.number("undefined", None)
    for name, svg in drawings(EVIL).items():
        report.figure(name, svg, EVIL)
    report.table(EVIL, ["name", "value"], [[EVIL, 0.5], ["b", None]], EVIL)
    report.side_by_side(EVIL, [{"prompt": EVIL, "before": EVIL, "after": "fine"}, {"prompt": "two", "score": 1.5}])
    report.text(EVIL, f"{EVIL}\n\nsecond")
    report.credit(EVIL, credit_of_steps([credited(3)]))
    return report.html()


def credited(step: int, response: str = EVIL, prompt: str = EVIL, **changes: object) -> dict[str, object]:
    """A row of samples with credit: a token for each word."""
    tokens = [*re.findall(r"\S*\s*", response)[:-1], "<|im_end|>"]
    rng = np.random.default_rng(step)
    numbers = {name: rng.normal(size=len(tokens)).tolist() for name in ("reward", "kl", "advantage", "value")}
    said = {"tokens": tokens, **numbers}
    return {"step": step, "prompt": prompt, "response": response, "score": 0.5, "credit": said} | changes


def test_numbers_come_back(tmp_path: Path) -> None:
    report = Report("Title")
    report.number("win_rate", 0.82, low=0.74, high=0.89, label="Win rate")
    report.number("kl", 6.0)
    report.number("nothing", float("nan"))
    report.data("points", [1, 2])
    report.write(tmp_path / "new")
    assert json.loads((tmp_path / "new" / "report.json").read_text()) == {
        "title": "Title",
        "win_rate": 0.82,
        "win_rate_low": 0.74,
        "win_rate_high": 0.89,
        "kl": 6.0,
        "nothing": None,
        "points": [1, 2],
    }
    page = Page((tmp_path / "new" / "report.html").read_text())
    for text in ("Win rate", "0.82", "0.74 to 0.89", "undefined"):
        assert text in page.text
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["report.html", "report.json"]


def test_what_the_run_wrote_stays(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"stage": "ppo", "score": 1}')
    report = Report("Title")
    report.number("score", 2.0)
    report.write(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == {"stage": "ppo", "score": 2.0, "title": "Title"}


def test_what_was_written_by_others_is_inert() -> None:
    page = Page(full_page())
    assert not {"script", "img", "iframe", "object", "link", "foreignobject"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") >= 15  # everywhere, as text


def test_nothing_is_loaded_from_anywhere() -> None:
    html = full_page()
    assert set(re.findall(r"https?://[^\s\"'<>]+", html)) == {"http://www.w3.org/2000/svg"}
    page = Page(html)
    links = [value for name, value in page.attributes if name in ("href", "src", "xlink:href")]
    assert links
    assert all(value.startswith("#") for value in links)
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))


def test_pictures_follow_the_palette_and_keep_text_as_text() -> None:
    for name, svg in drawings().items():
        Page(svg)
        bare = re.sub(r"var\(--\w+, #[0-9a-f]{6}\)", "", svg)
        assert not re.findall(r"#[0-9a-f]{6}\b(?!\d)", re.sub(r"(?:url\(#|href=\"#|id=\")[^\")]*", "", bare)), name
        assert "<text" in svg
        assert 'role="img"' in svg
    assert "PPO" in drawings()["paths"]


def test_equal_data_give_equal_bytes() -> None:
    once, again = (plots.reward_against_kl([0, 1, 2], [0, 1, 1.5]) for _ in range(2))
    assert once == again


def test_names_in_any_script_and_of_any_length_can_be_drawn() -> None:
    names = ["\u597d" * 5, "x" * 300]
    svg = plots.agreement_matrix(names, [[None, 0.5], [0.5, None]])
    assert names[0] in svg
    assert "x" * 23 + "\u2026" in svg


def test_numeric_columns_are_flush_right() -> None:
    report = Report("t")
    report.table("t", ["name", "value"], [["a", "0.50"], ["b", None]])
    assert '<td>a</td><td class="figure">0.50</td>' in report.html()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.8235, "0.824"), (12.345, "12.35"), (12345.6, "12,346"), (3, "3"), (None, "undefined"), (1e-5, "1e-05")],
)
def test_format_number(value: float | None, text: str) -> None:
    assert format_number(value) == text


def write_run(directory: Path, *, steps: int = 30) -> None:
    metrics = [
        {"step": i, "objective/score": i / 10, "objective/kl": i / 20, "policy/entropy": 2 - i / 40, "sft/loss": 1.0}
        for i in range(steps)
    ]
    samples = [
        {"step": i, "prompt": f"prompt {p}", "response": f"answer at\u2028{i} {EVIL}", "score": 0.5}
        for i in (0, 10, steps - 1)
        for p in range(2)
    ]
    for name, rows in (("metrics.jsonl", metrics), ("samples.jsonl", samples)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (directory / name).write_text(text + '{"step": 3', encoding="utf-8")
    (directory / "lineage.json").write_text(
        json.dumps({"stage": "ppo", "started": "today", "parents": [{"path": "runs/sft", "stage": "sft"}]})
    )


def test_stage_report_shows_what_is_there(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "report.json").write_text(json.dumps({"steps": 30, "notes": ["2 rows were too long"], "stage": "ppo"}))
    stage_report(
        tmp_path,
        title="A run",
        numbers={"accuracy": 0.7, "accuracy_low": 0.6, "accuracy_high": 0.8},
        notes=["and one note more"],
        extra=lambda report: report.text("More", "of the stage's own"),
    )
    page = Page((tmp_path / "report.html").read_text())
    for text in (
        "A run",
        "0.6 to 0.8",
        "Learning curves",
        "Reward against KL",
        "answer at\u20280",
        "answer at\u202829",
        "More",
        "2 rows were too long",
        "and one note more",
        "skipped: 2",
        "runs/sft",
        "Entropy of the next-token distribution",
    ):
        assert text in page.text
    assert "answer at\u202810" not in page.text
    known = json.loads((tmp_path / "report.json").read_text())
    assert (known["accuracy_high"], known["steps"]) == (0.8, 30)


def test_stage_report_takes_the_numbers_of_a_finished_run(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(
        json.dumps({"stage": "reward", "steps": 3, "seconds": 9.5, "metrics": {}, "notes": [], "accuracy": 0.7})
    )
    report = stage_report(tmp_path, title="t")
    assert report.numbers == {"accuracy": 0.7}
    again = stage_report(tmp_path, title="t")
    assert again.html() == report.html()


def test_samples_of_different_prompts_are_shown_one_after_the_other(tmp_path: Path) -> None:
    rows = [{"step": 0, "prompt": "p", "response": "first"}, {"step": 9, "prompt": "q", "response": "last"}]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = Page(stage_report(tmp_path, title="t").html()).text
    assert text.index("Responses at step 0") < text.index("first") < text.index("Responses at step 9")


def test_no_directory_no_report(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run directory"):
        stage_report(tmp_path / "absent", title="t")


def of_run(directory: Path, **rows: list[dict[str, object]]) -> Page:
    """The page of a run that logged some rows."""
    for name in ("metrics", "samples"):
        lines = (json.dumps(row) + "\n" for row in rows.get(name, []))
        (directory / f"{name}.jsonl").write_text("".join(lines))
    return Page(stage_report(directory, title="t").html())


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What was given to the pictures, which are not drawn."""
    given: list[tuple[object, ...]] = []
    for name in ("learning_curves", "reward_against_kl"):
        monkeypatch.setattr(plots, name, lambda *arguments, name=name: given.append((name, *arguments)) or "<svg/>")
    return given


def test_curves_are_those_of_what_was_logged(tmp_path: Path, curves: list[tuple[object, ...]]) -> None:
    metrics = [
        {"step": 4, "objective/score": 1.0, "objective/kl": 0.5},
        {"step": 5, "objective/score": 2.0},
        {"step": 6, "objective/score": 3.0, "objective/kl": 1.5, "dpo/margin": 1.0},
        {"step": 7, "objective/score": 4.0, "objective/kl": 2.5},
        {"step": 8, "objective/kl": 9.0},
    ]
    of_run(tmp_path, metrics=metrics)
    panels = {
        "Score": ("objective/score", "objective/reward"),
        "KL to the reference": ("objective/kl", "objective/kl_k3"),
        "Margin": ("reward/margin", "dpo/margin"),
    }
    path = ("reward_against_kl", [0.5, 1.5, 2.5], [1.0, 3.0, 4.0], ["step 4", "", "step 7"])
    assert curves == [("learning_curves", metrics, panels), path]


@pytest.mark.parametrize(
    ("metrics", "pictures"),
    [
        ([], []),
        ([{"no/curve": 1.0}], []),
        ([{"objective/score": 1.0, "objective/kl": 1.0}], ["learning_curves"]),
        ([{"objective/kl": 1.0}, {"objective/score": 1.0}], ["learning_curves"]),
    ],
)
def test_no_curves_of_what_was_not_logged(
    tmp_path: Path, curves: list[tuple[object, ...]], metrics: list[dict[str, object]], pictures: list[str]
) -> None:
    of_run(tmp_path, metrics=metrics)
    assert [name for name, *_ in curves] == pictures


def test_all_metrics_are_listed_with_first_and_last(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"step": 0, "b/x": 1.0},
        {"step": 1, "b/x": 2.0, "a/y": 5.0},
        {"step": 2, "b/x": 3},
    ]
    html = of_run(tmp_path, metrics=rows)
    page = (tmp_path / "report.html").read_text()
    assert '<td>a/y</td><td class="figure">5</td><td class="figure">5</td>' in page
    assert '<td>b/x</td><td class="figure">1</td><td class="figure">3</td>' in page
    assert page.index("a/y") < page.index("b/x")
    assert "<td>step</td>" not in page
    assert "All metrics" in html.text
    assert "All metrics" not in of_run(tmp_path).text


def test_first_and_last_samples_of_the_same_prompts_stand_side_by_side(tmp_path: Path) -> None:
    samples = [
        {"step": step, "prompt": f"p{number}", "response": f"r{number} at {step}"}
        for step in (2, 1, 9)
        for number in range(10)
    ]
    samples.append({"step": 9, "prompt": "new", "response": "alone"})
    text = of_run(tmp_path, samples=samples).text
    page = (tmp_path / "report.html").read_text()
    assert "Responses at step 1 and at step 9" in text
    assert "<th>prompt</th><th>first</th><th>last</th>" in page
    assert "<td>p0</td><td>r0 at 1</td><td>r0 at 9</td>" in page
    assert "at 2" not in text
    assert "p7" in text
    assert "p8" not in text, "eight are shown"
    assert "alone" not in text


def test_samples_of_one_step_are_shown_once(tmp_path: Path) -> None:
    text = of_run(tmp_path, samples=[{"step": 3, "prompt": "p", "response": "only", "score": 1.5}]).text
    assert text.count("only") == 1
    assert "Responses at step 3" in text
    assert "<th>prompt</th><th>response</th><th" in (tmp_path / "report.html").read_text(), "the step is in the title"


@pytest.mark.parametrize(("count", "said"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps")])
def test_the_subtitle_says_what_ran_and_how_long(tmp_path: Path, count: int, said: str) -> None:
    (tmp_path / "lineage.json").write_text('{"started": "today", "stage": "dpo", "ended": ""}')
    of_run(tmp_path, metrics=[{"x/y": 1.0}] * count)
    assert f'<p class="subtitle">dpo, today, {said}</p>' in (tmp_path / "report.html").read_text()


def test_origin_is_what_the_lineage_knows(tmp_path: Path) -> None:
    known = {
        "stage": "ppo",
        "recipe": "r.toml",
        "commit": "",
        "cpu": "fast",
        "parents": [{"path": "runs/sft", "stage": "sft"}],
        "versions": {"torch": "2", "palate": "1"},
    }
    (tmp_path / "lineage.json").write_text(json.dumps(known))
    of_run(tmp_path)
    page = (tmp_path / "report.html").read_text()
    rows = {
        "stage": "ppo",
        "recipe": "r.toml",
        "cpu": "fast",
        "parent": "runs/sft (sft)",
        "versions": "torch 2, palate 1",
    }
    body = "\n".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in rows.items())
    assert f"<tbody>{body}</tbody>" in page
    (tmp_path / "lineage.json").unlink()
    assert "Origin" not in of_run(tmp_path).text


def test_numbers_have_their_intervals_and_what_is_explained_its_note(tmp_path: Path) -> None:
    numbers = {"objective/kl": 0.5, "x_high": 3.0, "x": 2.0, "x_low": 1.0, "alone_low": 7.0}
    report = stage_report(tmp_path, title="t", numbers=numbers)
    assert report.numbers == numbers
    page = report.html()
    assert page.count('class="number"') == 3, "the bounds of x are on its card"
    assert '<dd class="value">2</dd><dd class="interval">1 to 3</dd></div>' in page
    assert page.count('class="note"') == 1


def test_what_a_run_reported_and_what_was_torn(tmp_path: Path) -> None:
    known = {"steps": 3, "seconds": 9.5, "done": True, "name": "n", "none": None, "metrics": {}, "notes": ["a", "b"]}
    (tmp_path / "report.json").write_text(json.dumps(known))
    assert stage_report(tmp_path, title="t").numbers == {"none": None}
    page = (tmp_path / "report.html").read_text()
    assert "<p>a</p><p>b</p></section>" in page
    assert "Torn" not in page
    for name, text in (("metrics", '{"step": 1}\n\n3\n{"st'), ("samples", "[]\nx\n")):
        (tmp_path / f"{name}.jsonl").write_text(text)
    stage_report(tmp_path, title="t")
    assert "skipped: 3" in (tmp_path / "report.html").read_text(), "3, a torn line and x; [] is an empty object"


def test_credit_is_shown_of_the_first_step_the_middle_one_and_the_last(tmp_path: Path) -> None:
    samples = [credited(step, f"said at {step}", f"p{number}") for step in range(9) for number in range(2)]
    text = of_run(tmp_path, samples=samples).text
    html = (tmp_path / "report.html").read_text()
    assert "Credit, token by token" in text
    assert html.count("<details open>") == html.count("<details") == 3
    assert [f"Step {step}said" in text.replace("p0Past the tokens", "") for step in range(9)] == [
        step in (0, 4, 8) for step in range(9)
    ]
    assert html.count('<li tabindex="0"') == 3 * 2 * 4
    assert "<th>prompt</th><th>first</th><th>last</th>" in html, "the table has no numbers of tokens in it"


def test_credit_of_one_step_is_no_column_of_the_table(tmp_path: Path) -> None:
    of_run(tmp_path, samples=[credited(3, "only")])
    html = (tmp_path / "report.html").read_text()
    assert "<th>credit</th>" not in html
    assert '<th>prompt</th><th>response</th><th class="figure">score</th>' in html


def test_a_run_without_credit_has_no_part_for_it(tmp_path: Path) -> None:
    samples = [{"step": 0, "prompt": "p", "response": "r", "score": 1.0}]
    assert "Credit" not in of_run(tmp_path, samples=samples).text
    assert ".credit" not in (tmp_path / "report.html").read_text()
    assert "Credit" in of_run(tmp_path, samples=[*samples, credited(1)]).text


def test_long_responses_leave_a_report_that_can_be_mailed(tmp_path: Path) -> None:
    rows = [credited(step, "word " * 256, f"p{number}") for step in range(3) for number in range(4)]
    of_run(tmp_path, samples=rows)
    assert (tmp_path / "report.html").stat().st_size < 1_000_000
