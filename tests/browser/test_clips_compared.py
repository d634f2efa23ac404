"""Thirty pairs of clips compared in a real browser, from a run that waits to the run that has learned from them.

The person is a script that prefers the clip with the larger true return, which it knows from the run itself; the page
tells it nothing but two moving pictures. With PALATE_SCREENSHOTS=DIR the screens are kept as pictures.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import load_file
from sqlalchemy import select
from tests.browser.conftest import Served

from palate.corpus import read_rankings
from palate.errors import LabelsNeededError
from palate.evals.page import read_object
from palate.feedback.store.tables import Job, Judgement
from palate.recipe import Data
from palate.records import Ranking
from palate.stages.agent import clip_pages
from palate.stages.agent.actor_critic import Scale, policy_for
from palate.stages.agent.clips import Pairs, RecentClips
from palate.stages.agent.environments import Environments
from palate.stages.agent.reward_networks import RewardEnsemble, judged, stacked_inputs
from palate.stages.agent.trajectories import act
from palate.studio.training import jobs, launch
from palate.studio.training.processes import Process
from palate.studio.training.recipebook import AgentRuns, Plan

pytest.importorskip("gymnasium", reason="needs palate[gym]")

CLIPS = 30
RECIPE = {
    "stage": "agent",
    "num_environments": 8,
    "steps": 2,
    "steps_per_rollout": 100,
    "epochs": 1,
    "minibatches": 2,
    "evaluation_episodes": 1,
    "final_episodes": 2,
    "labels": {"teacher": "people", "budget": CLIPS, "clip_length": 25, "first_share": 1.0, "choose": "uniform"},
    "reward_model": {"updates": 300, "batch_size": 16},
}
SERIOUS = ("serious", "critical")


def look(page: Any, name: str) -> None:
    """No serious trouble for people with disabilities, nothing wider than a phone; a picture if one is wanted."""
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="axe-core is not installed").Axe()
    found = axe.run(page)["violations"]
    wrong = [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found if each["impact"] in SERIOUS]
    assert not wrong, f"{name}: {wrong}"
    if pictures := os.environ.get("PALATE_SCREENSHOTS"):
        page.screenshot(path=f"{pictures}/{name}.png")
    wide = page.viewport_size
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, name
    page.set_viewport_size(wide)


class Person:
    """Who compares: knows every clip by its picture, and what it was worth."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.returns: dict[str, float] = {}

    def learn(self, directory: Path, pairs: Pairs) -> None:
        asked = [json.loads(line) for line in (directory / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
        for record, rewards in zip(asked, pairs.rewards, strict=True):
            for response, worth in zip(record["responses"], rewards.sum(1).tolist(), strict=True):
                self.returns[(directory / response["text"]).read_text(encoding="utf-8")] = worth

    def worth(self, place: int) -> float:
        """Of the clip that stands there."""
        address = self.page.locator("img.clip").nth(place).get_attribute("src")
        return self.returns[self.page.request.get(address).text()]

    def compare(self) -> None:
        """Say which one is better, by the arrow on its side, and hand it in."""
        page = self.page
        page.wait_for_selector("html[data-keys=ready] img.clip")
        assert page.evaluate(
            "[...document.querySelectorAll('img.clip')].every((i) => i.complete && i.naturalWidth > 0)"
        )
        page.keyboard.press("ArrowLeft" if self.worth(0) > self.worth(1) else "ArrowRight")
        before = page.url
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#nudge[open]")  # nobody watches two clips so fast; the script stands by what it said
        page.click("#nudge [data-answer=submit]")
        page.wait_for_url(lambda url: url != before)


def test_thirty_clips_are_compared_and_the_run_learns_what_the_person_meant(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(served.workspace.directory)
    asked: list[Pairs] = []
    write = clip_pages.write_pairs

    def write_and_keep(pairs: Pairs, directory: Path, *, environment: str, first: int) -> None:
        asked.append(pairs)
        write(pairs, directory, environment=environment, first=first)

    monkeypatch.setattr(clip_pages, "write_pairs", write_and_keep)

    # a job of the app, as its runner has it: the agent acts, asks, and ends for want of answers
    plan = Plan(
        name="people",
        command="agent",
        recipe=tomli_w.dumps(AgentRuns(seeds=1, alone=True, agent=RECIPE).model_dump()),
        then={},
    )
    with served.store.write() as session:
        job = jobs.enqueue(session, served.workspace, plan, by=None)
    directory = jobs.directory_of(served.workspace, job)
    directory.mkdir()
    (directory / jobs.RECIPE).write_text(job.recipe, encoding="utf-8")
    command = jobs.Runner(served.workspace).command(job)
    command = command[command.index("agent") :]
    status = launch.run(command)
    assert status == LabelsNeededError.status
    launch.write_note(directory, launch.Note(Process(1, 0.0), status))
    with served.store.write() as session:
        session.get_one(Job, job.id).state = "failed"
    run = directory / "learned" / "seed-0"

    admin = served.page_of("Ada", "admin")
    admin.goto(f"/runs/{job.id}")
    assert admin.locator("[data-part=status] .badge").inner_text() == "waits for people"
    assert admin.get_by_role("button", name="Resume").is_visible()
    look(admin, "clips-wait")
    admin.goto("/batches/new")
    admin.get_by_role("link", name="Compare clips").click()
    assert admin.locator("#run option").all_inner_texts() == [f"runs/people/learned/seed-0: {CLIPS} comparisons"]
    look(admin, "clips-new")
    admin.get_by_label("Name").fill("Which pendulum does better?")
    admin.get_by_role("button", name="Make the batch").click()
    admin.wait_for_selector("[data-batch]")

    page = served.page_of("Lea")
    person = Person(page)
    person.learn(run, asked[-1])
    page.goto("/label")
    assert page.locator(".pile h2").inner_text() == "Compare two clips"
    page.get_by_role("button", name="Begin").click()
    page.wait_for_selector("html[data-keys=ready] img.clip")
    for key, said in (("ArrowRight", "Better in B"), ("=", "In neither"), ("a", "Better in A")):
        page.keyboard.press(key)
        assert page.locator(".scale label:has(input:checked) .full").inner_text() == said
    look(page, "clips-compared")
    page.reload()
    page.wait_for_selector("html[data-keys=ready] img.clip")

    # stopped for whoever cannot bear it, and moving again
    moving = page.locator("img.clip").first
    page.keyboard.press("p")
    assert "<animate" not in page.request.get(moving.get_attribute("src")).text()
    page.keyboard.press("p")
    assert "<animate" in page.request.get(moving.get_attribute("src")).text()

    # left to others, taken up again; handed in, taken back
    page.keyboard.press("s")
    page.locator("#skip input[value=unclear]").check()
    before = page.url
    page.get_by_role("button", name="Skip it").click()
    page.wait_for_url(lambda url: url != before and "/label/" in url)
    page.wait_for_selector("html[data-keys=ready] img.clip")
    page.keyboard.press("u")
    page.wait_for_url(before)
    person.compare()
    page.wait_for_selector("html[data-keys=ready] img.clip")
    assert page.locator(".tally").inner_text().startswith(f"1 of {CLIPS}")
    page.keyboard.press("u")
    page.wait_for_url(before)
    for _ in range(CLIPS):
        person.compare()
    page.wait_for_url("**/label/done")

    with served.store.read() as session:
        lines = session.scalars(select(Judgement).where(Judgement.kind == "ranking")).all()
    orders = [Ranking.model_validate(line.record).shown_order for line in lines]
    assert {tuple(order or ()) for order in orders} == {(0, 1), (1, 0)}

    admin.reload()
    admin.get_by_role("button", name="Go on with these answers").click()
    said = admin.locator(".result .alert")
    said.wait_for()
    assert said.inner_text().startswith(f"Given to runs/people/learned/seed-0: {CLIPS} answers.")
    look(admin, "clips-go-on")
    with served.store.read() as session:
        assert session.get_one(Job, job.id).state == "queued"
    assert not served.complaints

    # what the runner does next
    assert launch.run(command) == 0
    report = read_object(run / "report.json")
    assert (report["comparisons"], report["answers"], report["skipped"]) == (CLIPS, CLIPS, 0)
    said_of = read_rankings(Data(path=str(run / "comparisons.jsonl"))).records
    assert {ranking.source for ranking in said_of} == {"human"}
    assert share_as_the_person(run, asked[-1]) > 0.9
    assert share_as_the_person(run, unseen_clips()) > 0.75


def share_as_the_person(run: Path, pairs: Pairs) -> float:
    """How many pairs the run's reward networks order by the true return, as the person did."""
    ensemble = RewardEnsemble(4, members=3, width=64, layers=2, seed=0)
    ensemble.load_state_dict(load_file(run / "model" / "reward.safetensors"))
    scale = Scale(3)
    scale.load_state_dict(load_file(run / "model" / "reward_scale.safetensors"))
    with torch.no_grad():
        margins = judged(ensemble(stacked_inputs(scale(pairs.observations), pairs.actions)).sum(2))
    truth = pairs.rewards.sum(2)
    return float((margins.sign() == (truth[:, 0] - truth[:, 1]).sign()).float().mean())


def unseen_clips() -> Pairs:
    """Of a policy that has learned nothing, in episodes that no run has seen."""
    environments = Environments("Pendulum-v1", 20, seed=7, purpose="a test")
    policy = policy_for(3, 0, 1, width=8, layers=1, seed=7)
    done = act(environments, policy, Scale(3), steps=100, key=("a test",))
    clips = RecentClips(1, 25)
    clips.add(done, environments.spaces.seen(done.actions))
    return clips.draw(300, "a test")
