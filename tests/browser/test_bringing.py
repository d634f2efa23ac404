"""Bringing a file in a real browser: not recognised, told what its columns are, and sent over the wire once."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select
from tests.browser.conftest import Served

from palate.feedback.store.tables import Batch, Item

CROWD = "frage,links,rechts,urteil\nWarum?,Darum.,Deshalb.,linke Seite\nWozu?,Dazu.,Egal.,rechte Seite\n"


def test_a_file_that_is_not_recognised_is_told_how_to_be_read(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "urteile.csv"
    path.write_text(CROWD, encoding="utf-8")
    page = served.page_of("Rae", "researcher")
    bodies: dict[str, bytes] = {}
    page.on("request", lambda request: bodies.update({request.url: request.post_data_buffer or b""}))
    page.goto("/batches/new?source=file")
    page.locator("#file").set_input_files(path)
    page.wait_for_selector(".file .alert:has-text('no known format has the fields')")
    for field, column in (("prompt", "frage"), ("a", "links"), ("b", "rechts"), ("preferred", "urteil")):
        page.locator(f"#how-field-{field}").select_option(column)
    page.locator("#how-verdicts").fill("linke Seite = a\nrechte Seite = b")
    page.get_by_role("button", name="Read it this way").press("Enter")
    page.wait_for_selector(".file .alert.good:has-text('pairs')")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY", "the keyboard stays where it was"
    rows = page.locator(".file tbody").first.locator("tr").all_inner_texts()
    assert "Wozu?" in rows[1]
    page.locator("#name").fill("Urteile")
    page.locator("#kind").select_option("pair")
    page.get_by_role("button", name="Make the batch").click()
    page.wait_for_url(lambda url: "/batches/" in url and "/new" not in url)
    with served.store.read() as session:
        batch = session.scalars(select(Batch)).one()
        assert (batch.name, batch.settings) == ("Urteile", {"ratings": False, "flags": []})
        assert len(session.scalars(select(Item)).all()) == 2
    sent = bodies[f"{served.address}/api/batches/file"]
    assert b'name="upload"' in sent
    assert b"filename" not in sent, "the file was sent before"
    assert served.complaints == []


def test_what_else_is_asked_is_one_click_away(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "Why?", "chosen": "Because.", "rejected": "No."}\n', encoding="utf-8")
    page = served.page_of("Rae", "researcher")
    page.goto("/batches/new?source=file")
    page.locator("#file").set_input_files(path)
    page.wait_for_selector(".file .alert.good")
    page.locator("#name").fill("All of it")
    page.get_by_text("A rating from 1").click()
    assert not page.locator("#flags").is_visible()
    page.get_by_text("Flags: what is true of it").click()
    assert page.locator("#flags").is_visible()
    page.get_by_role("button", name="Make the batch").click()
    page.wait_for_url(lambda url: "/batches/" in url and "/new" not in url)
    with served.store.read() as session:
        settings = session.scalars(select(Batch)).one().settings
    assert settings["ratings"] is True
    assert len(settings["flags"]) > 3
    assert served.complaints == []
