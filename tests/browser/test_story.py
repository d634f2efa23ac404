"""The whole story in a real browser, as three people: Ada sets up, Lea and Max are screened and label, they disagree
and are reviewed, a reward model and PPO are trained from the dashboard, and a thumb in the chat is in the export.

With PALATE_SCREENSHOTS=DIR every screen is kept as a picture, wide and at the width of a phone.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.studio.live import serving

from palate.corpus import read_rankings
from palate.feedback.store import people
from palate.recipe import Data
from palate.records import Prompt, Ranking, Response
from palate.studio.app import create_app
from palate.studio.serve import create
from palate.studio.web.workspace import Settings

PROMPTS = [f"What is good about {thing}?" for thing in (
    "rain", "queues", "chess", "moths", "soup", "trains", "fog", "maps", "bread", "ferries", "cats", "socks"
)]  # fmt: skip
RECIPES = {
    "sample": "[sampling]\nmax_new_tokens = 12\n",
    "reward": "frozen_layers = 1\nbatch_responses = 16\n",
    "ppo": "frozen_layers = 1\nsteps = 2\nprompts_per_step = 2\nresponses_per_prompt = 2\n"
    "[sampling]\nmax_new_tokens = 8\n",
}
SERIOUS = ("serious", "critical")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A running app, a browser, and what it complained about."""

    url: str
    browser: Any
    axe: Any
    first_link: str
    complaints: list[str] = field(default_factory=list)

    def newcomer(self, link: str, name: str) -> Any:
        """Somebody opens an invitation in a browser of their own and makes an account."""
        page = self.browser.new_context(base_url=self.url, viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: self.complaints.append(f"{page.url}: {error}"))
        page.on("console", lambda line: line.type == "error" and self.complaints.append(f"{page.url}: {line.text}"))
        page.goto(link)
        page.get_by_label("Your name here").fill(name)
        page.get_by_label("Password").fill("a long password")
        page.get_by_role("button", name="Make my account").click()
        page.wait_for_url(re.compile("/(start|label|chat)$"))
        return page

    def look(self, page: Any, name: str) -> None:
        """No serious trouble for people with disabilities, nothing wider than a phone; a picture if one is wanted."""
        found = self.axe.run(page)["violations"]
        wrong = [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found if each["impact"] in SERIOUS]
        assert not wrong, f"{name}: {wrong}"
        pictures = os.environ.get("PALATE_SCREENSHOTS")
        if pictures:
            page.screenshot(path=f"{pictures}/{name}.png", full_page=True)
        wide = page.viewport_size
        page.set_viewport_size({"width": 390, "height": 844})
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0, f"{name}: {overflow} pixels wider than a phone"
        if pictures:
            page.screenshot(path=f"{pictures}/{name}-phone.png", full_page=True)
        page.set_viewport_size(wide)


@pytest.fixture
def stage(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """The app of a new workspace with its jobs and its models, served."""
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="axe-core is not installed").Axe()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    workspace = create(tmp_path / "workspace", Settings(name="Small talk", model="tiny"))
    for name, text in RECIPES.items():
        (workspace.recipes / f"{name}.toml").write_text(f'# {name}, short.\nstage = "{name}"\n{text}', encoding="utf-8")
    with workspace.store.write() as session:
        secret = people.first_link(session)

    @dataclass(frozen=True)
    class Studio:
        app: Any

    with serving(Studio(create_app(workspace))) as url:  # type: ignore[arg-type]
        yield Stage(url=url, browser=browser, axe=axe, first_link=f"/join/{secret}")
        for context in list(browser.contexts):
            context.close()


def test_from_prompts_to_a_better_model(stage: Stage, tmp_path: Path) -> None:
    ada = stage.newcomer(stage.first_link, "Ada")
    set_up(stage, ada, tmp_path)
    lea, max_ = (stage.newcomer(invite(ada, name), name) for name in ("Lea", "Max"))
    stage.look(ada, "people")
    for page in (lea, max_):
        be_screened(stage, page)
    # Lea likes the shorter answer, Max the longer one
    label(stage, lea, lambda text: len(text))
    label(stage, max_, lambda text: -len(text))
    review(stage, ada)
    train(stage, ada)
    chat(stage, lea)
    export(stage, ada, tmp_path)
    bring(stage, ada, tmp_path)
    for name in ("agreement", "agreement/weights", "rounds", "batches", "dashboard", "exports", "tokens", "account"):
        ada.goto(f"/{name}")
        stage.look(ada, name.replace("/", "-"))
    assert stage.complaints == []


def set_up(stage: Stage, ada: Any, tmp_path: Path) -> None:
    """Prompts, model, four answers to each; guidelines; a screening test."""
    stage.look(ada, "start-empty")
    ada.get_by_label("Or paste them, one on each line").fill("\n".join(PROMPTS))
    ada.get_by_role("button", name="Add these lines").click()
    ada.locator("[data-count=prompts]", has_text="12").wait_for()
    ada.goto("/start")
    ada.locator("input[name=model][value=tiny]").check()
    ada.get_by_role("button", name="Use this model").click()
    ada.wait_for_selector("text=This round starts from tiny")
    ada.get_by_label("People who judge each").fill("2")
    ada.get_by_role("button", name="Let it answer").click()
    ada.wait_for_selector("#sampling")
    stage.look(ada, "start-sampling")
    ada.wait_for_selector("#sampling[data-state=done], #sampling >> text=done")
    ada.goto("/guidelines/new")
    ada.locator("textarea").first.fill("# Small talk\n\nPrefer *brief* and friendly answers.")
    ada.locator("main form button.primary").click()
    ada.wait_for_url("**/guidelines*")
    stage.look(ada, "guidelines")

    known = tmp_path / "known.jsonl"
    texts = ("This answer is good.", "This answer is bad.", "This answer is so-so.", "This answer is awful.")
    known.write_text(
        "".join(
            Ranking(
                prompt=Prompt.from_text(f"A question with a known answer, number {number}"),
                responses=tuple(Response(text=text) for text in texts),
                ranks=(1, 3, 2, 4),
            ).to_json()
            + "\n"
            for number in range(2)
        ),
        encoding="utf-8",
    )
    ada.goto("/screening")
    ada.locator("input[type=file]").set_input_files(str(known))
    ada.get_by_label("Name of the test").fill("Can you tell good from bad?")
    ada.get_by_role("button", name="Make the test").click()
    ada.wait_for_url(re.compile("/screening/.+"))
    stage.look(ada, "screening")


def invite(ada: Any, name: str) -> str:
    ada.goto("/people")
    ada.get_by_label("Who is it for?").fill(name)
    ada.get_by_role("button", name="Make an invitation").click()
    ada.wait_for_selector("#made:not([hidden])")
    link: str = ada.locator("#link").input_value()
    return link


def be_screened(stage: Stage, page: Any) -> None:
    """Both know what is good."""
    order = {"good": 1, "so-so": 2, "bad": 3, "awful": 4}
    page.goto("/label")
    stage.look(page, "label-screening")
    page.get_by_role("button", name=re.compile("Begin|Go on|Take")).first.click()
    for _ in range(2):
        rank(page, lambda text: next(rank for word, rank in order.items() if word in text))
    page.wait_for_url(re.compile("/label(/done)?"))


def label(stage: Stage, page: Any, taste: Any) -> None:
    """All twelve prompts, by keyboard."""
    page.goto("/label")
    stage.look(page, "label")
    page.get_by_role("button", name=re.compile("Begin|Go on")).first.click()
    for number in range(len(PROMPTS)):
        page.wait_for_selector(".response.current")
        if number == 0:
            stage.look(page, "label-ranking")
            assert "tiny" not in page.content()
        rank(page, taste)
    page.wait_for_url("**/label/done")
    stage.look(page, "label-done")


def rank(page: Any, taste: Any) -> None:
    """Rank the four responses on the screen by keyboard, rate them alike, and hand in."""
    page.wait_for_selector(".response.current")
    here = page.url
    scores = [taste(text) for text in page.locator(".response .text").all_inner_texts()]
    assert len(scores) == 4
    for place, score in enumerate(scores):
        better = sum(other < score for other in scores)
        page.keyboard.press(str(better + 1))
        page.keyboard.press(f"Shift+Digit{7 - 2 * better}")
        if place < 3:
            page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "here => location.href !== here || document.querySelector('#nudge')?.open", arg=here, timeout=60_000
    )
    if page.url == here:
        page.locator("#nudge button.primary").press("Enter")
        page.wait_for_function("here => location.href !== here", arg=here)


def review(stage: Stage, ada: Any) -> None:
    """The most disputed item is kept as it is, the next one settled by Ada's own ranking."""
    ada.goto("/review")
    stage.look(ada, "review")
    ada.get_by_role("link", name="Begin with the most disputed").click()
    ada.wait_for_selector("#decision")
    stage.look(ada, "review-item")
    here = ada.url
    ada.locator("input[value=keep]").check()
    ada.get_by_role("button", name="Decide and go on").click()
    ada.wait_for_function("here => location.href !== here", arg=here)
    ada.wait_for_selector("#decision")
    here = ada.url
    ada.locator("input[value=settle]").check()
    for place in range(4):
        ada.locator(".own").nth(place).locator("label").nth(place).click()
    ada.get_by_role("button", name="Decide and go on").click()
    ada.wait_for_function("here => location.href !== here", arg=here)


def train(stage: Stage, ada: Any) -> None:
    """A reward model, then PPO against it, each a process of its own."""
    for recipe in ("reward", "ppo"):
        ada.goto("/runs/new")
        ada.goto(f"/runs/new?recipe={recipe}")
        stage.look(ada, f"runs-new-{recipe}")
        ada.get_by_role("button", name="Start", exact=True).click()
        ada.wait_for_url(re.compile("/runs/(?!new)"))
        ada.wait_for_selector(".badge:text('done'), .badge:text('failed')", timeout=240_000)
        assert ada.locator(".badge", has_text="failed").count() == 0, ada.locator("main").inner_text()
        assert (ada.locator(".credit li").count() > 0) == (recipe == "ppo"), "what was sampled, token by token"
        stage.look(ada, f"run-{recipe}")
    ada.goto("/runs")
    stage.look(ada, "runs")


def chat(stage: Stage, lea: Any) -> None:
    """A thumb, with consent."""
    lea.goto("/chat")
    lea.get_by_placeholder("Write a message").fill("What is good about rain?")
    lea.keyboard.press("Enter")
    thumb = lea.get_by_role("button", name=re.compile("Good|Thumb up|Like", re.I)).first
    thumb.wait_for(timeout=120_000)
    stage.look(lea, "chat")
    thumb.click()
    lea.get_by_role("button", name="Yes, it may").click()
    lea.wait_for_selector("#reasons[open]")
    stage.look(lea, "chat-thumb")
    lea.get_by_role("button", name="Save").click()


def bring(stage: Stage, ada: Any, tmp_path: Path) -> None:
    """A file in somebody's own columns, told what they are."""
    path = tmp_path / "survey.csv"
    path.write_text("topic,first,second,better\nWhat is good about fog?,Quiet.,Nothing.,first\n", encoding="utf-8")
    ada.goto("/batches/new?source=file")
    ada.locator("#file").set_input_files(str(path))
    ada.wait_for_selector(".file .alert")
    for name, column in (("prompt", "topic"), ("a", "first"), ("b", "second"), ("preferred", "better")):
        ada.locator(f"#how-field-{name}").select_option(column)
    ada.get_by_role("button", name="Read it this way").click()
    ada.wait_for_selector(".file .alert.good")
    ada.evaluate("scrollTo(0, 0)")
    stage.look(ada, "batches-file")


def export(stage: Stage, ada: Any, tmp_path: Path) -> None:
    """Everything said is in the file: 24 rankings by two people, two tests each, and the thumb.

    The answer to a thumb may have been drawn empty, which among the formats only our own can say.
    """
    answer = ada.request.get("/api/exports/palate?view=all")
    assert answer.ok, answer.text()
    path = tmp_path / "export.jsonl"
    path.write_bytes(answer.body())
    rankings = read_rankings(Data(path=str(path))).records
    assert sum(len(ranking.responses) == 4 for ranking in rankings) == 24 + 4 + 1, "labels, tests, one settlement"
    (thumb,) = [ranking for ranking in rankings if len(ranking.responses) == 1]
    assert thumb.ratings == (7,)
    assert not {"Lea", "Max"} & {ranking.labeler for ranking in rankings}
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[0])
