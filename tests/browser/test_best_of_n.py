"""The chat in a real browser where answers are the best of several: a sign of progress, a whole answer, and why it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from tests.browser.conftest import Served
from tests.studio.fake import Fake

from palate.feedback.store import policies
from palate.recipe import ReaderJudge, Reward
from palate.studio.chat.generation import Done, Failed, Scored
from palate.studio.chat.streaming import Desk
from palate.studio.chat.talking import locator
from palate.studio.web.workspace import BestOf

TEXTS = ["It rains.", "Take an umbrella: rain is likely from noon on.", "No idea.", "Perhaps."]


class Slow(Fake):
    """Waits before the last response until the test has seen that the others are there."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = False

    async def scored(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Done | Scored | Failed]:
        async for event in super().scored(*args, **kwargs):
            while isinstance(event, Done) and event.index == 3 and not self.go_on:
                await asyncio.sleep(0.01)
            yield event


def at_the_chat(served: Served, *scores: Sequence[float], random_share: float) -> tuple[Any, Slow]:
    """A page on which somebody can talk."""
    home, fake = served.workspace, Slow()
    fake.scores = [tuple(each) for each in scores]
    best_of = BestOf(n=4, rewards=(Reward(model="runs/reward/model"),), random_share=random_share)
    served.app.state.generator = fake
    served.app.state.desk = Desk(fake, home.store, locator(home), per_person=2, best_of=best_of)
    home.settings = home.settings.model_copy(update={"best_of": best_of})
    with home.store.write() as session:
        policies.base_policy(session, "base")
    page = served.page_of("Ada", "admin", viewport={"width": 1100, "height": 720})
    page.goto("/chat")
    return page, fake


def say(page: Any, fake: Slow, text: str) -> Any:
    """The answer, once it is there."""
    before = page.locator("#turns .answer").count()
    fake.texts, fake.go_on = list(TEXTS), False
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")
    answer = page.locator("#turns .answer").nth(before)
    answer.get_by_text("3 of 4 answers are drawn").wait_for()
    assert answer.get_by_role("progressbar", name="Answers drawn").get_attribute("value") == "3"
    fake.go_on = True
    answer.get_by_role("button", name="Good answer").wait_for()
    return answer


def test_a_reader_who_wants_to_know(served: Served) -> None:
    page, fake = at_the_chat(served, (0.2, 1.7, -1.0, 0.6), random_share=0)
    assert "base, one of 4 answers" in page.locator("#mode").inner_text()
    answer = say(page, fake, "Will it rain?")
    assert answer.locator(".text .shown").inner_text() == TEXTS[1]
    assert not answer.locator(".drawn").count()
    why = answer.locator("details")
    assert not why.get_by_text("reward model").is_visible()
    why.locator("summary").click()
    told = why.inner_text()
    assert "4 answers were drawn, and a reward model likes this one best: it gives it 1.70, which is 1.10 more" in told
    assert "at most 0.64 nats" in told
    assert served.complaints == []


def test_a_reader_with_principles_of_their_own(served: Served) -> None:
    """They are asked for where there is a model that judges by them, and the page says which one decided."""
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="axe-core is not installed").Axe()
    page, fake = at_the_chat(served, (0.2, 1.7, 2.1, 0.6), random_share=0)
    page.get_by_role("button", name="Settings").click()
    assert not page.get_by_label("My principles for answers").count()
    best_of = served.workspace.settings.best_of
    assert best_of is not None
    best_of = best_of.model_copy(update={"principles": ReaderJudge(model="judge")})
    served.workspace.settings = served.workspace.settings.model_copy(update={"best_of": best_of})
    served.app.state.desk = Desk(fake, served.workspace.store, locator(served.workspace), per_person=2, best_of=best_of)

    page.goto("/chat")
    page.get_by_role("button", name="Settings").click()
    field = page.get_by_label("My principles for answers")
    field.fill("Be brief\n\n  No lists  \nBe brief")
    assert axe.run(page)["violations"] == []
    field.fill("x" * 201)
    page.get_by_role("button", name="Save").click()
    assert not field.evaluate("field => field.validity.valid")
    field.fill("Be brief\n\n  No lists  \nBe brief")
    page.get_by_role("button", name="Save").click()
    page.locator("#mode", has_text="base, one of 4 answers by my 2 principles").wait_for()  # once it is saved

    fake.fits = [(0.1, -0.4, 1.9, 0.2), (0.3, 0.2, 0.1, 0.4)]
    answer = say(page, fake, "Will it rain?")
    assert fake.principles == ("Be brief", "No lists")
    assert answer.locator(".text .shown").inner_text() == TEXTS[2]
    answer.locator("summary").click()
    assert "“Be brief” made the most of the difference" in answer.locator("details").inner_text()
    rows = [row.split("\t") for row in answer.locator("tbody").inner_text().splitlines()]
    assert rows == [
        ["the reward model", "+0.10", "−1.80"],
        ["Be brief", "+1.90", "+2.30"],
        ["No lists", "+0.10", "−0.10"],
    ]
    assert axe.run(page)["violations"] == []
    pictures = os.environ.get("PALATE_SCREENSHOTS")
    if pictures:
        page.screenshot(path=f"{pictures}/chat-principles.png")
    page.get_by_role("button", name="Settings").click()
    assert page.get_by_label("My principles for answers").input_value() == "Be brief\nNo lists"
    page.get_by_label("My principles for answers").focus()
    if pictures:
        page.screenshot(path=f"{pictures}/chat-principles-settings.png")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    assert served.complaints == []


def test_who_judges_does_not_know_which_is_random(served: Served) -> None:
    page, fake = at_the_chat(served, (0.2, 1.7, -1.0, 0.6), random_share=1)
    answer = say(page, fake, "Will it rain?")
    answer.locator("summary").click()
    assert (
        "Which of the two this is you can read here once you have given a thumb"
        in answer.locator("details").inner_text()
    )
    answer.get_by_role("button", name="Good answer").click()
    page.get_by_role("button", name="Yes, it may").click()
    page.get_by_role("button", name="Close").click()
    answer.locator("summary").click()
    assert "taken at random" in answer.locator("details").inner_text()
    page.goto("/dashboard")
    panel = page.locator("section", has_text="Does choosing the best of n please?").last.inner_text()
    assert "of 1 answers taken at random" in panel
    assert served.complaints == []
