"""The page on which people compare clips: it opens from the disk, and what it saves is a file of rankings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from palate.stages.agent.clip_answers import read_answers
from palate.stages.agent.clip_pages import ask_people, write_pairs
from palate.stages.agent.clips import Pairs


def test_clips_are_compared_on_a_page_of_their_own(browser: Any, tmp_path: Path) -> None:
    angles = torch.linspace(0, 3, 30).view(3, 2, 5)
    observations = torch.stack([angles.cos(), angles.sin(), angles], -1)
    pairs = Pairs(observations=observations, actions=torch.zeros(3, 2, 5, 1), rewards=torch.zeros(3, 2, 5))
    write_pairs(pairs, tmp_path, environment="Pendulum-v1", first=7)
    complaints: list[str] = []
    page = browser.new_context(accept_downloads=True).new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "clips" / "index.html").as_uri())
    assert page.eval_on_selector_all("img", "images => images.every((image) => image.naturalWidth > 0)")
    assert page.locator("output").inner_text() == "0 of 3 compared"
    assert page.locator("button").is_disabled()
    page.get_by_label("Your name").fill("ann")
    rows = page.locator("fieldset")
    for place, words in enumerate(("the second is better", "neither", "the first is better")):
        rows.nth(place).get_by_label(words, exact=True).check()
    assert page.locator("output").inner_text() == "3 of 3 compared"
    with page.expect_download() as saved:
        page.get_by_role("button").click()
    assert saved.value.suggested_filename == "rankings-000007.jsonl"
    path = tmp_path / saved.value.suggested_filename
    saved.value.save_as(path)
    assert not complaints
    assert read_answers(tmp_path, "", "Pendulum-v1", asked={}).ranks == {7: [(2, 1)], 8: [(1, 1)], 9: [(1, 2)]}
    assert '"labeler":"ann"' in path.read_text(encoding="utf-8")
    answers = ask_people(pairs, tmp_path, "", environment="Pendulum-v1", first=7)
    assert answers.ranks.tolist() == [[2, 1], [1, 1], [1, 2]]
