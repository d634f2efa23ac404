"""Clips as work: a batch of what a run waits for, pictures that nobody else sees, and the answers back to the run."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.studio.conftest import Client, ClientOf, Studio

from palate.feedback.export import datasets
from palate.feedback.labelers import gold
from palate.feedback.store.tables import Batch, Event, Item, Job, Judgement, PromptRow, User
from palate.feedback.tasks import clip_batches, judgements
from palate.records import Ranking
from palate.stages.agent.clip_answers import comparison_of, read_answers, waiting

RUN = "runs/people/learned/seed-0"


def names(number: int) -> tuple[str, str]:
    return f"clips/{number:06d}-a-{'a' * 12}.svg", f"clips/{number:06d}-b-{'b' * 12}.svg"


def a_run_waits(studio: Studio, count: int = 3, *, first: int = 0, run: str = RUN) -> Path:
    """A run's directory as it is when it waits for people."""
    directory = studio.workspace.directory / run
    (directory / "clips").mkdir(parents=True, exist_ok=True)
    with (directory / "pairs.jsonl").open("a", encoding="utf-8") as file:
        for number in range(first, first + count):
            for side, name in zip("ab", names(number), strict=True):
                moves = '<animate attributeName="x1" dur="1s" values="1;2"/>'
                drawn = (
                    f'<svg xmlns="http://www.w3.org/2000/svg"><title>{side}{number}</title><line>{moves}</line></svg>'
                )
                (directory / name).write_text(drawn, encoding="utf-8")
            file.write(comparison_of("Pendulum-v1", number, names(number)).to_json() + "\n")
    return directory


def make_batch(admin: Client, run: str = RUN, **more: Any) -> dict[str, Any]:
    answer = admin.post("/api/batches/clips", json={"name": "Clips", "run": run, **more})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def claim(client: Client) -> dict[str, Any]:
    task: dict[str, Any] | None = client.post("/api/tasks/claim", json={}).json()["task"]
    assert task is not None
    return task


def side_of(client: Client, task: dict[str, Any], place: int) -> str:
    """Which clip of its pair stands in a place, read off the picture."""
    answer = client.get(f"/label/{task['id']}/clips/{place}.svg")
    assert answer.status_code == 200, answer.text
    found = re.search(r"<title>([ab])\d+</title>", answer.text)
    assert found
    return found[1]


def prefer(client: Client, task: dict[str, Any], side: str) -> None:
    """Hand in that the clip of this side is better."""
    ranks = [1 if side_of(client, task, place) == side else 2 for place in (0, 1)]
    answer = client.post(f"/api/tasks/{task['id']}/submit", json={"ranks": ranks, "seconds": 9})
    assert answer.json()["stored"], answer.text


def go_on(admin: Client, batch_id: str) -> dict[str, Any]:
    answer = admin.post(f"/api/clips/{batch_id}/go-on")
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    return said


def test_what_a_run_waits_for_is_judged_in_both_orders_and_goes_back_as_said(
    studio: Studio, client_of: ClientOf
) -> None:
    """Whatever the order on the screen was, the run reads the ranks of its first and its second clip."""
    directory, admin, labeler = a_run_waits(studio, 12), client_of("admin"), client_of("labeler")
    assert admin.get("/api/clips").json() == [{"run": RUN, "comparisons": 12, "problem": ""}]
    batch = make_batch(admin)
    assert (batch["kind"], batch["items"], batch["wanted"]) == ("clips", 12, 12)
    orders = set()
    for number in range(12):
        task = claim(labeler)
        assert task["kind"] == "clips"
        orders.add(tuple(side_of(labeler, task, place) for place in (0, 1)))
        prefer(labeler, task, "b" if number % 3 else "a")
    assert orders == {("a", "b"), ("b", "a")}
    said = go_on(admin, batch["id"])
    assert said == {"run": RUN, "answers": 12, "skipped": 0, "left_out": 0, "open": 0, "job_id": None}
    found = read_answers(directory, "", "Pendulum-v1", asked={})
    assert found.ranks == {number: [(2, 1) if number % 3 else (1, 2)] for number in range(12)}
    assert waiting(directory) == []
    assert admin.get("/api/clips").json() == []
    with studio.store.read() as session:
        assert session.scalars(select(Event.detail).where(Event.action == "gave answers to a run")).one() == {
            "run": RUN,
            "answers": 12,
        }


def test_what_everybody_skips_goes_back_as_skipped(studio: Studio, client_of: ClientOf) -> None:
    directory, admin, labeler = a_run_waits(studio), client_of("admin"), client_of("labeler")
    batch = make_batch(admin)
    task = claim(labeler)
    assert labeler.post(f"/api/tasks/{task['id']}/skip", json={"reason": "unclear"}).status_code == 200
    prefer(labeler, claim(labeler), "a")
    said = go_on(admin, batch["id"])
    assert (said["answers"], said["skipped"], said["open"]) == (1, 1, 1)
    found = read_answers(directory, "", "Pendulum-v1", asked={})
    assert (len(found.ranks), len(found.skipped)) == (1, 1)
    assert len(waiting(directory)) == 1
    other = client_of("labeler")  # who skips leaves it to others
    for _ in range(2):
        prefer(other, claim(other), "b")
    said = go_on(admin, batch["id"])
    assert (said["answers"], said["skipped"], said["open"]) == (3, 0, 0)
    assert read_answers(directory, "", "Pendulum-v1", asked={}).skipped == set()


def test_taken_back_late_and_held_out_answers_do_not_go_back(studio: Studio, client_of: ClientOf) -> None:
    directory, admin = a_run_waits(studio), client_of("admin")
    labeler, held_out = client_of("labeler"), client_of("labeler")
    with studio.store.write() as session:
        session.get_one(User, held_out.user.id).is_held_out = True
    batch = make_batch(admin, overlap=2)
    assert admin.post(f"/api/clips/{batch['id']}/go-on").status_code == 409  # nobody has said anything
    for _ in range(3):
        prefer(labeler, last := claim(labeler), "a")
        prefer(held_out, claim(held_out), "b")
    assert labeler.post(f"/api/tasks/{last['id']}/undo").status_code == 200
    said = go_on(admin, batch["id"])
    assert (said["answers"], said["left_out"], said["open"]) == (2, 3, 1)
    assert list(read_answers(directory, "", "Pendulum-v1", asked={}).ranks.values()) == [[(1, 2)]] * 2


def test_nothing_is_asked_twice_and_the_next_round_is_a_batch_of_its_own(studio: Studio, client_of: ClientOf) -> None:
    directory, admin, labeler = a_run_waits(studio, 2), client_of("admin"), client_of("labeler")
    first = make_batch(admin)
    again = admin.post("/api/batches/clips", json={"name": "Again", "run": RUN})
    assert (again.status_code, "in a batch already" in again.json()["error"]) == (409, True)
    for _ in range(2):
        prefer(labeler, claim(labeler), "a")
    go_on(admin, first["id"])
    a_run_waits(studio, 3, first=2)
    second = make_batch(admin)
    assert second["items"] == 3
    for _ in range(3):
        prefer(labeler, claim(labeler), "b")
    said = go_on(admin, second["id"])
    assert said["answers"] == 5  # those of the first round stay where they are
    assert read_answers(directory, "", "Pendulum-v1", asked={}).ranks == {
        **{key: [(1, 2)] for key in range(2)},
        **{key: [(2, 1)] for key in range(2, 5)},
    }


def test_two_runs_do_not_share_their_comparisons(studio: Studio, client_of: ClientOf) -> None:
    """The same question about clips of the same names: each run hears what was said of its own."""
    other_run = "runs/other"
    here, there = a_run_waits(studio, 1), a_run_waits(studio, 1, run=other_run)
    admin, labeler = client_of("admin"), client_of("labeler")
    one, other = make_batch(admin), make_batch(admin, other_run)
    for wanted, side in ((one, "a"), (other, "b")):
        task = labeler.post("/api/tasks/claim", json={"batch_id": wanted["id"]}).json()["task"]
        prefer(labeler, task, side)
    assert [go_on(admin, batch["id"])["answers"] for batch in (one, other)] == [1, 1]
    found = [read_answers(directory, "", "Pendulum-v1", asked={}).ranks for directory in (here, there)]
    assert found == [{0: [(1, 2)]}, {0: [(2, 1)]}]


def test_a_job_of_the_app_goes_on_by_itself(studio: Studio, client_of: ClientOf) -> None:
    a_run_waits(studio, 1)
    admin, labeler = client_of("admin"), client_of("labeler")
    with studio.store.write() as session:
        job = Job(
            name="people", stage="agent", recipe="", directory="runs/people", state="failed", created_at=time.time()
        )
        session.add(job)
        session.flush()
        job_id = job.id
    batch = make_batch(admin)
    prefer(labeler, claim(labeler), "a")
    assert go_on(admin, batch["id"])["job_id"] == job_id
    with studio.store.read() as session:
        assert session.get_one(Job, job_id).state == "queued"
    assert go_on(admin, batch["id"])["job_id"] == job_id  # it is queued already, and stays so


def test_clips_teach_no_model_of_language(studio: Studio, client_of: ClientOf) -> None:
    """Not its reward model, not its prompts, not its tests; and they are counted where they are left out."""
    a_run_waits(studio)
    admin, labeler = client_of("admin"), client_of("labeler")
    make_batch(admin)
    for _ in range(3):
        prefer(labeler, claim(labeler), "a")
    with studio.store.read() as session:
        assert session.scalars(judgements.for_training()).all() == []
        assert len(session.scalars(judgements.for_training(of_clips=True)).all()) == 3
        rankings = datasets.collect(session, "rankings")
        assert (rankings.records, rankings.left_out) == (
            [],
            {"a comparison of clips, which teaches the agent that asked": 3},
        )
        assert datasets.rankings_to_test_on(session) == []
        assert datasets.collect(session, "prompts").records == []
        assert gold.candidates(session, everything=True) == []
        assert len(session.scalars(select(PromptRow)).all()) == 3
    assert admin.post("/api/batches/demonstrations", json={"name": "x", "num_prompts": 1}).status_code == 409


def test_what_was_exported_is_what_the_run_reads(studio: Studio, client_of: ClientOf) -> None:
    """The command line's way: a file of rankings from the export page, put beside `pairs.jsonl`."""
    directory, admin, labeler = a_run_waits(studio), client_of("admin"), client_of("labeler")
    batch = make_batch(admin)
    for _ in range(3):
        prefer(labeler, claim(labeler), "b")
    assert admin.get("/api/exports/rankings", params={"kind": "pair"}).status_code == 409
    for wanted in ({"kind": "clips"}, {"batch": batch["id"]}):
        answer = admin.get("/api/exports/palate", params=wanted)
        assert answer.status_code == 200, answer.text
        (directory / "rankings-exported.jsonl").write_text(answer.text, encoding="utf-8")
        assert read_answers(directory, "", "Pendulum-v1", asked={}).ranks == {key: [(2, 1)] for key in range(3)}


def test_people_who_disagree_about_clips_are_reviewed_with_the_pictures(studio: Studio, client_of: ClientOf) -> None:
    directory, admin = a_run_waits(studio, 1), client_of("admin")
    one, other, reviewer = client_of("labeler"), client_of("labeler"), client_of("reviewer")
    batch = make_batch(admin, overlap=2)
    prefer(one, claim(one), "a")
    prefer(other, claim(other), "b")
    case = reviewer.get("/api/review").json()["items"][0]
    page = reviewer.get(f"/review/{case['id']}").text
    addresses = re.findall(r'<img class="clip" src="([^"]+)"', page)
    sides = [re.search(r"<title>([ab])0", reviewer.get(address).text)[1] for address in addresses]  # type: ignore[index]
    assert sorted(sides) == ["a", "b"]
    ranks = [1 if side == "b" else 2 for side in sides]
    settled = reviewer.post(f"/api/review/{case['id']}", json={"decision": "settle", "ranks": ranks})
    assert settled.status_code == 201, settled.text
    said = go_on(admin, batch["id"])
    assert (said["answers"], said["left_out"]) == (1, 2)  # only the settlement counts
    assert read_answers(directory, "", "Pendulum-v1", asked={}).ranks == {0: [(2, 1)]}
    agreement = admin.get("/agreement").text
    assert "0%" in agreement


def test_pictures_are_images_of_one_s_own_tasks(studio: Studio, client_of: ClientOf) -> None:
    a_run_waits(studio, 1)
    admin, labeler, other = client_of("admin"), client_of("labeler"), client_of("labeler")
    make_batch(admin)
    task = claim(labeler)
    address = f"/label/{task['id']}/clips/0.svg"
    answer = labeler.get(address)
    assert answer.headers["content-type"] == "image/svg+xml"
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'; frame-ancestors 'none'"
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-store")
    assert "<animate" in answer.text
    assert "<animate" not in labeler.get(f"{address}?still=true").text
    assert other.get(address).status_code == 404
    assert labeler.get(f"/label/{task['id']}/clips/2.svg").status_code == 404
    assert labeler.get(f"/label/{task['id']}/clips/-1.svg").status_code == 404
    page = labeler.get(f"/label/{task['id']}").text
    assert "seed-0" not in page  # of the run nothing is told
    assert "-a-" not in page
    assert not re.search(r"<script(?![^>]*(src=|application/json))", page)
    assert " style=" not in page


@pytest.mark.parametrize(
    "name", ["../../secret", "clips/../../../../secret", "palate.db", "clips/000000-a.svg", "pairs.jsonl"]
)
def test_a_picture_is_nothing_but_a_clip(studio: Studio, client_of: ClientOf, name: str) -> None:
    """Even if the database named another file, it would not be served."""
    a_run_waits(studio, 1)
    labeler = client_of("labeler")
    make_batch(client_of("admin"))
    task = claim(labeler)
    with studio.store.write() as session:
        item = session.scalars(select(Item)).one()
        for response_id in item.response_ids:
            row = session.get_one(judgements.ResponseRow, response_id)
            row.record = {"text": name}
    for place in (0, 1):
        answer = labeler.get(f"/label/{task['id']}/clips/{place}.svg")
        assert answer.status_code == 404
        assert studio.workspace.secret not in answer.text


def test_no_run_outside_of_the_workspace_is_read(studio: Studio, client_of: ClientOf, tmp_path: Path) -> None:
    """Neither by its name, nor through a link, nor because a batch says so."""
    directory, admin = a_run_waits(studio, 1), client_of("admin")
    outside = tmp_path / "outside"
    directory.parent.parent.rename(outside)
    (studio.workspace.runs / "people").symlink_to(outside)
    for run in (RUN, "runs/../../outside/learned/seed-0", str(outside / "learned" / "seed-0")):
        assert admin.post("/api/batches/clips", json={"name": "x", "run": run}).status_code == 404
    assert admin.get("/api/clips").json() == []
    (studio.workspace.runs / "people").unlink()
    shutil.copytree(outside, studio.workspace.runs / "people")
    batch = make_batch(admin)
    labeler = client_of("labeler")
    task = claim(labeler)
    assert labeler.get(f"/label/{task['id']}/clips/0.svg").status_code == 200
    assert labeler.post(f"/api/tasks/{task['id']}/submit", json={"ranks": [1, 2], "seconds": 9}).json()["stored"]
    with studio.store.write() as session:
        row = session.get_one(Batch, batch["id"])
        row.settings = row.settings | {"clips": "../outside/learned/seed-0"}
    assert labeler.get(f"/label/{task['id']}/clips/0.svg").status_code == 404
    assert admin.post(f"/api/clips/{batch['id']}/go-on").status_code == 404
    assert sorted(path.name for path in (outside / "learned" / "seed-0").iterdir()) == ["clips", "pairs.jsonl"]


def test_a_run_that_cannot_be_read_says_so_and_stops_nobody_else(studio: Studio, client_of: ClientOf) -> None:
    a_run_waits(studio, 1)
    broken = a_run_waits(studio, 1, run="runs/broken")
    a_run_waits(studio, 1, run="runs/<i>hostile")
    (broken / "pairs.jsonl").write_text("{}\n", encoding="utf-8")
    admin = client_of("admin")
    said = {each["run"]: each for each in admin.get("/api/clips").json()}
    assert said[RUN]["comparisons"] == 1
    assert "not a pair of clips" in said["runs/broken"]["problem"]
    assert str(studio.workspace.directory) not in said["runs/broken"]["problem"]
    assert admin.post("/api/batches/clips", json={"name": "x", "run": "runs/broken"}).status_code == 409
    page = admin.get("/batches/new?source=clips").text
    assert "1 comparison</option>" in page
    assert "runs/&lt;i&gt;hostile" in page
    assert "disabled" in page


def test_a_batch_of_something_else_gives_no_run_anything(studio: Studio, client_of: ClientOf) -> None:
    from palate.feedback.tasks import batches
    from palate.feedback.tasks.batches import BatchPlan

    admin = client_of("admin")
    with studio.store.write() as session:
        other = batches.create_batch(session, BatchPlan(name="Texts", kind="pair"), by=None).id
    assert admin.post(f"/api/clips/{other}/go-on").status_code == 409
    a_run_waits(studio, 1)
    clips = make_batch(admin)["id"]
    assert admin.post(f"/api/batches/{clips}/order").status_code == 409
    assert admin.post(f"/api/batches/{clips}/order/made").status_code == 409
    assert [each["kind"] for each in admin.get("/api/batches").json()] == ["clips", "pair"]
    for page in ("/batches", f"/batches/{clips}", "/label"):
        assert "lips" in admin.get(page).text
    with studio.store.read() as session:
        assert clip_batches.of_run(session, RUN)[0].id == clips
        assert not session.scalars(select(Judgement)).all()


def test_each_judgement_is_a_whole_ranking_by_a_named_labeler(studio: Studio, client_of: ClientOf) -> None:
    a_run_waits(studio, 1)
    labeler = client_of("labeler", name="Ann")
    make_batch(client_of("admin"))
    prefer(labeler, claim(labeler), "a")
    with studio.store.read() as session:
        line = session.scalars(select(Judgement)).one()
    ranking = Ranking.model_validate(line.record)
    assert (ranking.labeler, ranking.source, line.seconds) == ("Ann", "human", 9)
    assert [response.text for response in ranking.responses] == list(names(0))
    assert ranking.ranks == (1, 2)
    assert sorted(ranking.shown_order or ()) == [0, 1]
    assert json.loads(ranking.to_json())["prompt"]["tags"] == {"comparison": "0", "environment": "Pendulum-v1"}
