"""Labelling in a real browser: four responses ranked with the keyboard alone, and what survives a bad network."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from tests.browser.conftest import Served

from palate.feedback.store.tables import Judgement, Task
from palate.feedback.tasks import batches, judgements
from palate.feedback.tasks.batches import BatchPlan
from palate.records import Candidates, Prompt, Response


def add_rankings(served: Served, count: int, k: int = 4, kind: str = "ranking", **settings: Any) -> None:
    """A batch to rank; the text of each response says nothing of its place."""
    with served.store.write() as session:
        batch = batches.create_batch(session, BatchPlan(name="Balcony", kind=kind, settings=settings), by=None)
        batches.add_candidates(
            session,
            batch,
            [
                Candidates(
                    prompt=Prompt.from_text(f"Question {number}?"),
                    responses=tuple(Response(text=f"Text number {index}.") for index in range(k)),
                )
                for number in range(count)
            ],
        )


def board(page: Any) -> dict[str, str]:
    """Letters by rank, as the board shows them; 0 is where nothing is ranked yet."""
    columns = page.locator(".column").all()
    return {each.get_attribute("data-rank"): "".join(each.locator(".chip").all_inner_texts()) for each in columns}


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def tab_to(page: Any, text: str) -> None:
    """Press Tab until the focus is on something with this text."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if text in page.evaluate("document.activeElement.textContent"):
            return
    raise AssertionError(f"Tab never reaches {text!r}")


def lines(served: Served) -> list[Judgement]:
    with served.store.read() as session:
        return list(session.scalars(select(Judgement).order_by(Judgement.number)))


def test_four_responses_are_ranked_with_the_keyboard_alone(served: Served) -> None:
    add_rankings(served, count=2, ratings=True)
    page = served.page_of("Lea")
    page.goto("/label")
    tab_to(page, "Begin")
    press(page, "Enter")
    page.wait_for_selector(".response.current")
    first = page.url

    # A second, B and C share the first rank, D last; A is rated best all the same
    press(page, "2", "j", "1", "ArrowRight", "1", "j", "4")
    assert board(page) == {"0": "", "1": "BC", "2": "A", "3": "", "4": "D"}
    assert page.locator("[data-standing='1']").inner_text() == "rank 1, tied with C"
    press(page, "Shift+Digit1", "k", "Shift+Digit5", "k", "Shift+Digit2", "k")
    press(page, "Enter")
    assert page.locator("#problem").inner_text() == "Say how good A is first."
    page.locator(".response.current").press("Escape")
    press(page, "Shift+Digit7", "n")
    page.keyboard.type("B and C say the same 1234")
    page.wait_for_selector("#saved.saved:text('Saved')")

    page.reload()
    page.wait_for_selector("#saved.saved:text('Restored')")
    assert board(page) == {"0": "", "1": "BC", "2": "A", "3": "", "4": "D"}
    assert page.locator("#comment").input_value() == "B and C say the same 1234"
    assert page.locator("input[name=rating-0]:checked").input_value() == "7"

    press(page, "Enter")
    page.wait_for_selector("#nudge[open]")
    assert "You rated A higher than B but ranked it lower." in page.locator("#questions").inner_text()
    press(page, "Escape")
    assert lines(served) == []
    press(page, "Control+Enter")
    page.wait_for_selector("#nudge[open]")
    tab_to(page, "Yes, submit")
    press(page, "Enter")
    page.wait_for_url(lambda url: "/label/" in url and url != first)
    page.wait_for_selector(".response.current")
    second = page.url

    press(page, "u")
    page.wait_for_url(first)
    page.wait_for_selector(".response.current")
    assert board(page) == {"0": "", "1": "BC", "2": "A", "3": "D", "4": ""}, "the empty rank between them is gone"
    press(page, "4", "Enter")
    page.wait_for_selector("#nudge[open]")
    page.locator("#nudge button.primary").press("Enter")
    page.wait_for_url(second)
    page.wait_for_selector(".response.current")

    press(page, "s")
    page.wait_for_selector("#skip[open]")
    press(page, "ArrowDown", "Enter")
    page.wait_for_url("**/label/done")
    assert page.locator("h1").inner_text() == "All done"

    assert [line.kind for line in lines(served)] == ["ranking", "withdrawal", "ranking"]
    with served.store.read() as session:
        (line,) = session.scalars(judgements.current())
        (ranking,) = judgements.rankings(session, judgements.current())
        task = session.get_one(Task, line.task_id)
        skipped = session.scalars(select(Task).where(Task.state == "skipped")).one()
    assert judgements.by_place(task.shown_order, ranking.ranks) == (3, 1, 1, 2)
    assert judgements.by_place(task.shown_order, ranking.ratings or ()) == (7, 2, 5, 1)
    assert line.comment == "B and C say the same 1234"
    assert "contradiction" in line.quality["nudges"]
    assert 0 < (line.seconds or 0) < 120
    assert skipped.skip_reason == "I do not read this language well enough"
    assert served.complaints == []


def test_pointer_and_bad_network(served: Served) -> None:
    """Dragging ranks as keys do; what the server did not get is kept in the browser, and handed in once it can be."""
    add_rankings(served, count=1, k=3, ratings=True)
    page = served.page_of("Max", viewport={"width": 390, "height": 800}, has_touch=True)
    page.goto("/label")
    page.get_by_role("button", name="Begin with Balcony").tap()
    page.wait_for_selector(".chip")
    page.route("**/draft", lambda route: route.abort())

    page.locator(".column[data-rank='2'] button.head").tap()
    assert board(page) == {"0": "BC", "1": "", "2": "A", "3": ""}
    drag(page, ".chip[data-drag='2']", ".column[data-rank='1']")
    page.get_by_role("button", name="Previous response").tap()
    page.locator(".column[data-rank='2'] button.head").tap()
    assert board(page) == {"0": "", "1": "C", "2": "AB", "3": ""}
    page.wait_for_selector("#saved.bad")
    assert "Not saved yet, but kept in this browser" in page.locator("#saved").inner_text()
    page.reload()
    page.wait_for_selector("#saved:text('Restored')")
    assert board(page) == {"0": "", "1": "C", "2": "AB", "3": ""}

    page.unroute("**/draft")
    for place in range(3):
        page.locator(".response").nth(place).get_by_role("radio", name="acceptable").tap()
    losing = iter([True, True])

    def lose_reply(route: Any) -> None:
        """The server gets the form, the browser never hears of it: twice."""
        if next(losing, False):
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.route("**/submit", lose_reply)
    page.locator("#submit").tap()
    page.wait_for_selector("#nudge[open], h1:text('All done')")
    if page.locator("#nudge[open]").count():
        page.get_by_role("button", name="Yes, submit").tap()
    page.wait_for_url("**/label/done")
    with served.store.read() as session:
        (ranking,) = judgements.rankings(session, judgements.current())
        task = session.scalars(select(Task)).one()
    assert judgements.by_place(task.shown_order, ranking.ranks) == (2, 2, 1)
    assert len(lines(served)) == 1
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('palate-draft'))") == []


def drag(page: Any, source: str, target: str) -> None:
    """From the middle of one thing to the middle of another, as a hand does."""
    ends = [page.locator(each).bounding_box() for each in (source, target)]
    points = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in ends]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=4)
    page.mouse.up()


def hand_in(page: Any) -> None:
    """Whatever is asked about it: who tests is quick."""
    press(page, "Control+Enter")
    page.wait_for_selector("#nudge[open], h1:text('All done')")
    if page.locator("#nudge[open]").count():
        page.get_by_role("button", name="Yes, submit").click()
    page.wait_for_url("**/label/done")


def test_the_letter_of_a_response_picks_it(served: Served) -> None:
    """Four to rank, and nothing else is asked. C is a response; the comment is N, and W shows texts as written."""
    add_rankings(served, count=1)
    page = served.page_of("Ida")
    page.goto("/label")
    page.get_by_role("button", name="Begin with Balcony").click()
    page.wait_for_selector("html[data-keys=ready] .response.current")
    press(page, "c", "1", "a", "2", "D", "3", "b", "4")
    assert board(page) == {"0": "", "1": "C", "2": "A", "3": "D", "4": "B"}
    assert page.locator(".response.current h3").inner_text().split()[-1] == "B"
    press(page, "e", "f", "g")  # there is no such response, and these letters mean nothing else
    assert page.locator("dialog[open]").count() == 0
    press(page, "n")
    page.keyboard.type("c is best")
    press(page, "Escape", "w")
    assert page.locator("html.as-written").count() == 1
    assert page.locator(".response .written").first.is_visible()
    press(page, "w")
    assert not page.locator(".response .written").first.is_visible()
    press(page, "r")
    page.wait_for_selector("#guidelines[open]")
    press(page, "Escape")
    hand_in(page)
    with served.store.read() as session:
        (ranking,) = judgements.rankings(session, judgements.current())
        task = session.scalars(select(Task)).one()
    assert judgements.by_place(task.shown_order, ranking.ranks) == (2, 4, 1, 3)
    assert (ranking.ratings, ranking.flags) == (None, None)
    assert lines(served)[0].comment == "c is best"
    assert served.complaints == []


def test_the_letter_of_a_pair_says_which_is_better(served: Served) -> None:
    add_rankings(served, count=1, k=2, kind="pair")
    page = served.page_of("Eva")
    page.goto("/label")
    page.get_by_role("button", name="Begin with Balcony").click()
    page.wait_for_selector("html[data-keys=ready] .verdict")
    verdict = page.locator("input[name=verdict]:checked")
    for keys, value in (("a", "-2"), ("b", "2"), ("b", "2"), ("ArrowRight", "3"), ("b", "3"), ("c", "3"), ("a", "-2")):
        press(page, keys)
        assert verdict.input_value() == value, keys
    assert page.evaluate("document.activeElement.id") != "comment"
    hand_in(page)
    assert lines(served)[0].record["strength"] == 2
