"""Credit in a real browser: on the page of a run while it goes on, and in a report with scripts forbidden."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.browser.conftest import Served

from palate.evals.credit import credit_of_steps
from palate.evals.page import Report
from palate.evals.shades import contrast
from palate.studio.training import jobs
from palate.studio.training.recipebook import Plan

TOKENS = ["Rain", " is", "↵", "\n", " <script>x</script>", "", "🌧", " good", ".", "<|im_end|>"]
SERIOUS = ("serious", "critical")


def rows(*steps: int, value: bool = True) -> list[dict[str, Any]]:
    """Two responses of each step."""
    numbers = {
        "reward": [0.0, -0.15, 0.0, 0.05, -0.3, 0.0, 0.1, 0.0, 0.0, 1.0],
        "kl": [0.0, 1.5, 0.0, -0.5, 3.0, 0.0, -1.0, 0.0, 0.0, 0.5],
        "advantage": [0.1, -1.0, 0.0, 0.5, -2.0, 1.0, 1.0, 0.5, 0.5, 2.0],
        **({"value": [0.5, 0.5, 0.4, 0.4, 0.4, -0.2, 0.3, 0.5, 0.7, 0.9]} if value else {}),
    }
    return [
        {
            "step": step,
            "prompt": f"What of {topic}?",
            "response": "r",
            "score": 0.9,
            "credit": {"tokens": TOKENS, **numbers},
        }
        for step in steps
        for topic in ("rain", "snow")
    ]


@pytest.fixture
def run(served: Served) -> tuple[str, Path]:
    """A run that is going on; its page and its samples."""
    with served.store.write() as session:
        job = jobs.enqueue(session, served.workspace, Plan(name="ppo", command="ppo", recipe="", then={}), by=None)
        job.state = "running"
    directory = jobs.directory_of(served.workspace, job)
    directory.mkdir()
    (directory / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(0, 1)))
    return f"/runs/{job.id}", directory / "samples.jsonl"


@pytest.fixture
def report(tmp_path: Path) -> str:
    """Where a report lies; REINFORCE has no values."""
    made = Report("A run")
    made.credit("Credit, token by token", credit_of_steps(rows(0, 5, 9, value=False)))
    made.write(tmp_path / "run")
    return (tmp_path / "run" / "report.html").as_uri()


def backgrounds(page: Any) -> list[str]:
    found: list[str] = (
        page.locator(".credit details[open] ol")
        .first.locator("li")
        .evaluate_all("all => all.map(each => getComputedStyle(each).backgroundColor)")
    )
    return found


def hexadecimal(colour: str) -> str:
    """``rgb(1, 2, 3)`` as ``#010203``."""
    return "#" + "".join(f"{int(part):02x}" for part in colour[4:-1].split(", "))


def check_tokens(page: Any, palette: str, *, letters: str) -> None:
    """Every switch shows the colours of its own numbers, text on them can be read, and a token tells its numbers."""
    seen = {}
    for letter in letters:
        page.locator(f".credit input[value={letter}]").check()
        seen[letter] = backgrounds(page)
    clear = "rgba(0, 0, 0, 0)"
    ink = page.locator(".credit li").first.evaluate("each => getComputedStyle(each).color")
    for letter, colours in seen.items():
        assert clear in colours or letter in "av", f"{letter}: zero has the page's own colour"
        coloured = [colour for colour in colours if colour != clear]
        assert len(coloured) >= 4
        assert all(contrast(hexadecimal(colour), hexadecimal(ink)) >= 4.5 for colour in coloured), (palette, letter)
    assert len({tuple(colours) for colours in seen.values()}) == len(letters), "one switch shows what another does"
    token = page.locator(".credit li").nth(4)
    assert token.locator(".tip").bounding_box()["width"] <= 2
    token.focus()
    tip = token.locator(".tip")
    assert tip.bounding_box()["width"] > 100, "it is seen when the token has the focus"
    assert "token 5 of 10: advantage −2, reward −0.3, KL 3 nats" in tip.inner_text()
    page.keyboard.press("Tab")
    assert "token 6 of 10 (part of a character)" in page.evaluate("document.activeElement.innerText")


def accessible(page: Any) -> list[str]:
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="axe-core is not installed").Axe()
    found = axe.run(page)["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found if each["impact"] in SERIOUS]


@pytest.mark.parametrize("palette", ["light", "dark"])
def test_the_page_of_a_run(served: Served, run: tuple[str, Path], palette: str) -> None:
    page = served.page_of("Ada", "admin", color_scheme=palette, viewport={"width": 1280, "height": 900})
    page.goto(run[0])
    assert page.locator(".credit summary").all_inner_texts() == ["Step 1", "Step 0"]
    check_tokens(page, palette, letters="arkv")
    assert accessible(page) == []
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator(".credit li").nth(8).hover()
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0
    assert served.complaints == []


def test_what_somebody_chose_stays_while_the_run_goes_on(served: Served, run: tuple[str, Path]) -> None:
    path, samples = run
    page = served.page_of("Ada", "admin")
    page.goto(path)
    page.locator(".credit input[value=k]").check()
    with samples.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows(2)))
    page.locator(".credit summary", has_text="Step 2").wait_for()
    assert page.locator(".credit input[value=k]").is_checked()
    assert page.evaluate("document.activeElement.value") == "k", "the switch kept the focus"
    page.keyboard.press("ArrowDown")
    assert page.locator(".credit input[value=v]").is_checked()
    assert served.complaints == []


@pytest.mark.parametrize("palette", ["light", "dark"])
def test_a_report_without_scripts(browser: Any, report: str, palette: str) -> None:
    context = browser.new_context(color_scheme=palette, java_script_enabled=False)
    page = context.new_page()
    page.goto(report)
    check_tokens(page, palette, letters="ark")
    assert page.locator(".credit input[value=v]").count() == 0
    assert page.locator(".credit li").nth(4).inner_text().startswith(" <script>x</script>")
    page.locator(".past").first.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.locator(".past").nth(1).evaluate("each => each === document.activeElement")
    context.close()


def test_a_report_is_accessible(browser: Any, report: str) -> None:
    context = browser.new_context(bypass_csp=True)  # what looks for trouble is a script
    page = context.new_page()
    page.goto(report)
    assert accessible(page) == []
    context.close()
